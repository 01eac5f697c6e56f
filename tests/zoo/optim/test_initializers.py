"""Initialization by name: the variance that each formula gives, and what must not change."""

import pytest
import torch
from torch import nn

import zoo
from zoo.blocks import kernel
from zoo.tasks import initialize


@pytest.mark.parametrize(
    ("name", "arguments", "variance"),
    [
        ("xavier_normal", {}, 2 / (300 + 200)),
        ("xavier_uniform", {}, 2 / (300 + 200)),
        ("lecun_normal", {}, 1 / 300),
        ("lecun_uniform", {}, 1 / 300),
        ("kaiming_normal", {}, 2 / 300),
        ("kaiming_uniform", {}, 2 / 300),
        ("kaiming_normal", {"mode": "fan_out"}, 2 / 200),
        ("gaussian", {}, 1e-4),
        ("gaussian", {"std": 0.5}, 0.25),
        ("orthogonal", {}, 1 / 300),
    ],
)
def test_variance(name: str, arguments: dict, variance: float) -> None:
    layer = nn.Linear(300, 200)
    initialize(layer, name, arguments)
    layer.requires_grad_(False)
    assert layer.weight.mean().abs() < 5 * (variance / 60_000) ** 0.5
    assert float(layer.weight.var()) == pytest.approx(variance, rel=0.03)
    assert not layer.bias.any()
    assert (layer.weight.abs().max() < (3.001 * variance) ** 0.5) == ("uniform" in name)


def test_orthogonal_rows() -> None:
    layer = nn.Conv2d(4, 8, 3)
    initialize(layer, "orthogonal")
    rows = layer.weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(8), atol=1e-5, rtol=0)


def test_units_that_start_equal_stay_equal() -> None:
    task = zoo.create_model("mlp", in_features=4, num_classes=3, widths=[5], init="constant", init_args={"value": 0.1})
    optimizer = torch.optim.SGD(task.net.parameters(), lr=0.1)
    x, y = torch.randn(20, 4), torch.arange(20) % 3
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(task.net(x), y).backward()
        optimizer.step()
    weight = task.net.layers[0].linear.weight
    assert torch.equal(weight, weight[:1].expand_as(weight))


def test_kernels_stand_in_the_first_convolution_only() -> None:
    torch.manual_seed(0)
    plain = zoo.create_model("lenet5_relu").net
    torch.manual_seed(0)
    task = zoo.create_model("lenet5_relu", init="kernels", init_args={"names": ["sobel_x", "gaussian5"]})
    weight = task.net.conv1.weight
    for i in range(6):
        expected = kernel(("sobel_x", "gaussian5")[i % 2], 5) / 3
        assert all(torch.equal(weight[i, c], expected) for c in range(3))
    assert torch.equal(task.net.conv2.weight, plain.conv2.weight)
    image = torch.zeros(1, 3, 32, 32)
    image[..., 16:] = 1.0  # a vertical edge
    assert nn.functional.conv2d(image, weight)[0, 0].max() == 4.0


def test_kernels_sum_to_what_they_must() -> None:
    sums = {name: round(float(kernel(name).sum()), 6) for name in ("laplacian", "edge", "sobel_x", "sobel_y")}
    assert set(sums.values()) == {0.0}
    assert {round(float(kernel(n, 7).sum()), 6) for n in ("identity", "box", "gaussian", "gaussian5", "sharpen")} == {
        1.0
    }
    assert torch.equal(kernel("sobel_x"), kernel("sobel_y").T)


def test_it_is_a_hyperparameter_of_every_task() -> None:
    task = zoo.create_model("resnet20", width=2, init="gaussian", init_args={"std": 0.5})
    assert task.hparams["init"] == "gaussian"
    assert float(task.net.conv1.weight.detach().std()) == pytest.approx(0.5, rel=0.3)
    assert torch.equal(task.net.bn1.weight, torch.ones(2))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"init": "xavier"}, ValueError, "unknown init 'xavier', did you mean"),
        ({"init": "gaussian", "init_args": {"sdt": 1}}, TypeError, "no argument 'sdt', did you mean 'std'"),
        ({"init_args": {"std": 1}}, ValueError, "belong to an init, and none is given"),
        ({"init": "kernels", "init_args": {"names": ["sobel"]}}, ValueError, "unknown kernel 'sobel'"),
        ({"init": "kernels", "init_args": {"names": []}}, ValueError, "at least one name"),
    ],
)
def test_bad_arguments(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        zoo.create_model("lenet5", **arguments)


def test_kernels_need_a_convolution_that_they_fit() -> None:
    with pytest.raises(ValueError, match="begins with a square convolution"):
        zoo.create_model("mlp", init="kernels")
    with pytest.raises(ValueError, match="does not fit the middle of 4x4"):
        kernel("box", 4)
