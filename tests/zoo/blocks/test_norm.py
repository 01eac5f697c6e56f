"""Norms, activations and dropout of maps by name."""

import pytest
import torch
from torch import nn

import zoo
from zoo.blocks import build_dropout, build_norm, map_activation


@pytest.mark.parametrize(("name", "dims"), [("batch", (0, 2, 3)), ("layer", (1, 2, 3)), ("instance", (2, 3))])
def test_norms_normalize_over_their_dimensions(name: str, dims: tuple[int, ...]) -> None:
    x = 3 + 5 * torch.randn(6, 8, 7, 7, dtype=torch.float64)
    expected = (x - x.mean(dims, keepdim=True)) / (x.var(dims, correction=0, keepdim=True) + 0.5).sqrt()
    norm = build_norm(name, 8, eps=0.5).double()
    torch.testing.assert_close(norm(x), expected)
    scale, shift = torch.randn(2, 8, 1, 1, dtype=torch.float64)  # learned, one for each channel
    norm.weight.data, norm.bias.data = scale.flatten(), shift.flatten()
    torch.testing.assert_close(norm(x), expected * scale + shift)


def test_group_norm_has_32_groups_or_the_largest_common_divisor() -> None:
    assert [build_norm("group", c).num_groups for c in (64, 48, 6, 7)] == [32, 16, 2, 1]
    assert build_norm("group", 6, eps=0.5).eps == 0.5


def test_spatial_dropout_drops_whole_maps() -> None:
    x = torch.ones(4, 64, 5, 5)
    maps = build_dropout(0.5, "spatial")(x).flatten(2)
    assert ((maps == 0).all(2) | (maps == 2).all(2)).all()
    assert 0.2 < (maps[:, :, 0] == 0).float().mean() < 0.8
    values = build_dropout(0.5)(x).flatten(2)
    assert ((values == 0).any(2) & (values == 2).any(2)).any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: build_norm("bacth", 4), "unknown norm 'bacth', did you mean 'batch'"),
        (lambda: build_dropout(1.0), r"probability in \[0, 1\), got 1.0"),
        (lambda: build_dropout(0.5, "channel"), "dropout_kind must be 'element' or 'spatial'"),
        (lambda: map_activation("maxout"), "takes several channels for one"),
        (lambda: zoo.create_model("resnet20", norm="btach"), "unknown norm"),
        (lambda: build_norm(None, 4), "unknown norm None, did you mean 'none'"),  # type: ignore[arg-type]
        (lambda: zoo.create_model("resnet18", activation="Gelu"), "unknown activation 'Gelu', did you mean 'gelu'"),
        (lambda: zoo.create_model("resnet18", activation="rleu"), "unknown activation 'rleu', did you mean 'relu'"),
    ],
)
def test_bad_names(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("model", ["resnet18", "resnet50", "resnet20"])
@pytest.mark.parametrize("norm", ["batch", "layer", "group", "instance", "none"])
def test_nets_take_every_norm(model: str, norm: str) -> None:
    net = zoo.create_model(model, width=4, norm=norm, activation="gelu", dropout=0.3, dropout_kind="spatial").net
    kinds = {type(m) for m in net.modules() if "Norm" in type(m).__name__}
    assert kinds == ({type(build_norm(norm, 4))} - {nn.Identity})
    x = torch.rand(2, 3, 64, 64)
    torch.manual_seed(0)
    first = net(x)
    assert not torch.equal(first, net(x))  # dropout
    assert torch.isfinite(first).all()
    assert not any(isinstance(m, nn.ReLU) for m in net.modules())
