"""A transformer over the cells of a feature map: against torch's encoder, by hand, and what permutations change."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import zoo
from zoo.blocks import SinusoidalPositions2D
from zoo.cnn import CIFARResNet, LeNet
from zoo.transformer import HybridTransformer, MapTransformer

SLIM = {"encoder": "resnet20", "encoder_args": {"depth": 8, "width": 4}}
TINY_VIT = {"image_size": 32, "patch_size": 8, "num_layers": 1, "num_heads": 1, "hidden_dim": 8, "mlp_dim": 8}
TIMM_VIT = {"img_size": 32, "embed_dim": 8, "depth": 1, "num_heads": 1}
SMALL = {**SLIM, "width": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 40, "dropout": 0.0, "num_classes": 7}


class Cells(nn.Module):
    """A net with two maps: the image itself, and the mean of each square of four pixels, with the place where it was taken."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.scale = nn.Parameter(torch.ones(1))

    def features(self, x: Tensor) -> list[Tensor]:
        return [x * self.scale, F.avg_pool2d(x, 4) * self.scale]


def small(**options: Any) -> zoo.HybridClassifier:
    return zoo.HybridClassifier(**{**SMALL, **options})


def drawn(net: nn.Module, std: float = 0.3) -> Any:
    """The net in float64 and evaluation mode, with parameters that are all drawn, so that none hides another."""
    for p in net.parameters():
        nn.init.normal_(p, std=std)
    return net.double().eval()


def torch_encoder(net: HybridTransformer, width: int, heads: int, hidden: int) -> nn.TransformerEncoder:
    """Torch's encoder with the weights of the net's layers."""
    layer = nn.TransformerEncoderLayer(
        width, heads, hidden, 0.0, F.gelu, layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    theirs = nn.TransformerEncoder(
        layer, len(net.tokens.layers), nn.LayerNorm(width, 1e-6), enable_nested_tensor=False
    ).double()
    state = {k: v for k, v in net.tokens.state_dict().items() if k.startswith(("layers.", "norm."))}
    theirs.load_state_dict(state, strict=True)
    return theirs.eval()


def positions_by_hand(rows: int, columns: int, width: int) -> Tensor:
    """The sinusoids of row and column, a row of them for each cell, in float64."""
    half = width // 2
    powers = [10000.0 ** (-2 * (j // 2) / half) for j in range(half)]
    places = [
        [(math.cos if j % 2 else math.sin)(place * powers[j]) for place in (row, column) for j in range(half)]
        for row in range(rows)
        for column in range(columns)
    ]
    return torch.tensor(places, dtype=torch.float64)


@pytest.mark.parametrize("pooling", ["class_token", "mean"])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_equals_torch_over_the_same_map(pooling: Any, positions: Any) -> None:
    net = drawn(small(pooling=pooling, positions=positions, image_size=20, stage=1).net)
    x = torch.rand(3, 3, 20, 20 if positions == "learned" else 13, dtype=torch.float64)
    y = net.encoder.net.features(x)[1]
    tokens = torch.stack([y[:, :, i, j] for i in range(y.shape[2]) for j in range(y.shape[3])], dim=1)
    tokens = tokens @ net.tokens.projection.weight.T + net.tokens.projection.bias
    added = positions_by_hand(*y.shape[2:], 16) if positions == "sinusoidal" else net.tokens.positions.weight
    tokens = tokens + added
    if pooling == "class_token":
        tokens = torch.cat([net.tokens.class_token.expand(3, 1, -1), tokens], dim=1)
    states = torch_encoder(net, 16, 2, 40)(tokens)
    pooled = states[:, 0] if pooling == "class_token" else states.sum(dim=1) / tokens.shape[1]
    torch.testing.assert_close(net(x), pooled @ net.fc.weight.T + net.fc.bias, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norm_first", [True, False])
def test_layers_over_a_map_equal_torch(norm_first: bool) -> None:
    ours = drawn(MapTransformer(5, 8, 2, 2, 12, norm_first=norm_first, feed_forward="relu"))
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, layer_norm_eps=1e-6, batch_first=True, norm_first=norm_first)
    norm = nn.LayerNorm(8, 1e-6) if norm_first else None
    theirs = nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False).double().eval()
    theirs.load_state_dict({k: v for k, v in ours.state_dict().items() if not k.startswith("projection")}, strict=True)
    x = torch.randn(2, 5, 2, 3, dtype=torch.float64)
    tokens = torch.stack([x[:, :, i, j] for i in range(2) for j in range(3)], dim=1)
    tokens = tokens @ ours.projection.weight.T + ours.projection.bias + positions_by_hand(2, 3, 8)
    torch.testing.assert_close(ours(x), theirs(tokens), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 2), (1, 0), (2, 1), (2, 3)])
def test_a_bright_cell_is_one_token_in_the_order_of_rows(row: int, column: int) -> None:
    net = HybridTransformer(Cells(1), width=4, num_heads=1).double().eval()
    x = torch.zeros(2, 1, 12, 16, dtype=torch.float64)
    x[1, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1
    before: list[Tensor] = []
    net.tokens.dropout.register_forward_hook(lambda module, inputs, y: before.append(y))
    net(x)
    dark, bright = before[0][:, 1:]  # without the class token
    moved = (dark != bright).any(dim=1).nonzero().flatten().tolist()
    assert moved == [4 * row + column]
    torch.testing.assert_close((bright - dark)[moved[0]], net.tokens.projection.weight[:, 0])


def shuffled(x: Tensor) -> Tensor:
    """The cells of 4x4 pixels of images of 12x16 in another order."""
    cells = x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3)  # (B, C, 12, 4, 4)
    cells = cells[:, :, [7, 2, 11, 0, 5, 9, 1, 10, 3, 8, 6, 4]].unflatten(2, (3, 4))
    return cells.permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)


@pytest.mark.parametrize("pooling", ["class_token", "mean"])
def test_without_positions_cells_are_a_set(pooling: Any) -> None:
    net = drawn(HybridTransformer(Cells(), width=8, num_heads=2, pooling=pooling), 1.0)
    x = torch.rand(2, 3, 12, 16, dtype=torch.float64)
    assert (net(x) - net(shuffled(x))).abs().max() > 1e-3
    net.tokens.positions.forward = lambda x, rows, columns: x
    torch.testing.assert_close(net(x), net(shuffled(x)), rtol=0, atol=1e-12)


def test_rows_and_columns_differ() -> None:
    net = drawn(HybridTransformer(Cells(), width=8, num_heads=2), 1.0)
    x = torch.rand(2, 3, 12, 16, dtype=torch.float64)
    assert (net(x) - net(x.mT)).abs().max() > 1e-3


def test_number_of_parameters_by_hand() -> None:
    """R50+ViT-B/32 at 224 pixels: 7x7 cells of 2048 channels."""
    with torch.device("meta"):
        net = zoo.create_model("hybrid_vit_b_32_resnet50").net
    resnet = 25_557_032 - 2048 * 1000 - 1000  # torchvision's, without its head
    width, hidden = 768, 3072
    layer = 4 * width * width + 4 * width + 2 * width * hidden + hidden + width + 4 * width
    own = (2048 + 1) * width + width + 49 * width + 2 * width + (width + 1) * 1000  # projection, token, positions, norm
    assert sum(p.numel() for p in net.parameters()) == resnet + 12 * layer + own == 110_945_064


def test_a_fresh_net_has_the_expected_initial_loss_and_all_of_it_learns() -> None:
    task = small()
    x, y = torch.rand(4, 3, 16, 16), torch.arange(4)
    assert task.training_losses((x, y))[0].item() == pytest.approx(math.log(7), abs=1e-6)
    assert task.expected_initial_loss() == math.log(7)
    nn.init.normal_(task.net.fc.weight)  # a head of zeros would hide all other layers
    task.training_losses((x, y))[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in task.net.parameters())


def test_fresh_values() -> None:
    torch.manual_seed(0)
    tokens = MapTransformer(400, 64, 1, 2, cells=9, class_token=True)
    assert float(tokens.projection.weight.detach().std()) == pytest.approx(0.05, rel=0.05)  # 400^-0.5
    assert not tokens.projection.bias.any()
    assert tokens.class_token is not None
    assert not tokens.class_token.any()
    assert float(tokens.layers[0].linear1.weight.detach().abs().max()) == pytest.approx((6 / 320) ** 0.5, rel=0.01)


def test_images_of_any_size_with_sinusoidal_positions() -> None:
    net = small().net.eval()
    nn.init.normal_(net.fc.weight)
    for height, width in ((8, 8), (9, 23), (40, 17)):
        assert net(torch.rand(2, 3, height, width)).shape == (2, 7)
    assert isinstance(net.tokens.positions, SinusoidalPositions2D)


def test_learned_positions_are_for_one_size() -> None:
    net = small(positions="learned", image_size=20).net
    assert net.tokens.positions.weight.shape == (25, 16)
    with pytest.raises(
        ValueError, match=r"takes images of shape \(B, 3, 20, 20\), got \(1, 3, 20, 28\): set the datamodule's size=20"
    ):
        net(torch.rand(1, 3, 20, 28))
    with pytest.raises(ValueError, match="learned for a map of 25 cells, got one of 5x6: take images of the size"):
        net.tokens(torch.rand(1, 16, 5, 6))


def test_layer_groups_and_freezing() -> None:
    task = small(dropout=0.5)
    assert task.layer_groups() == [
        ["encoder.net.conv1", "encoder.net.bn1", "encoder.net.activation"],
        ["encoder.net.layer1"],
        ["encoder.net.layer2"],
        ["encoder.net.layer3", "encoder.net.fc"],
        ["tokens.projection", "tokens.class_token", "tokens.positions", "tokens.dropout"],
        ["tokens.layers.0"],
        ["tokens.layers.1", "tokens.norm"],
        ["fc"],
    ]
    task.freeze("tokens.projection").train()
    free = {name for name, p in task.net.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in free} == {"tokens", "fc"}
    assert task.net.tokens.class_token.requires_grad
    before = task.net.encoder.net.bn1.running_mean.clone()
    task.net(torch.rand(4, 3, 16, 16))
    assert torch.equal(task.net.encoder.net.bn1.running_mean, before)  # frozen norms keep their statistics
    assert task.net.tokens.dropout.training


def test_an_earlier_stage_leaves_the_later_layers_out() -> None:
    net = small(stage=0).net
    assert net.encoder.stride == 1
    assert not [name for name, _ in net.named_parameters() if "layer2" in name or "layer3" in name]
    last = net.layer_groups()[-5]  # before the projection, two layers and the head
    assert last[0] == "encoder.net.layer1"
    assert not [*net.get_submodule(last[1]).parameters()]


def test_the_head_is_replaced() -> None:
    net, x = small().net.eval(), torch.rand(2, 3, 16, 16)
    net.reset_head(0)
    assert net(x).shape == (2, 16)
    net.reset_head(5)
    assert net(x).shape == (2, 5)


@pytest.mark.parametrize("encoder", ["timm/test_resnet", "lenet5"])
def test_over_a_map_of_any_library(encoder: str) -> None:
    task = zoo.HybridClassifier(encoder=encoder, in_channels=1, width=16, num_heads=2)
    assert task(torch.rand(2, 1, 40, 33)).shape == (2, 10)
    again = type(task)(**task.hparams)
    again.load_state_dict(task.state_dict(), strict=True)


def test_weights_of_the_encoder_and_its_standardization_are_taken(tmp_path: Path) -> None:
    source = zoo.create_model("resnet20", depth=8, width=4, num_classes=3)
    source.set_standardization(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 3.0]))
    source.save_pretrained(tmp_path)
    task = small(encoder_weights=str(tmp_path))
    state = load_file(tmp_path / "model.safetensors")
    own = task.net.encoder.net.state_dict()
    assert own.keys() == {k.removeprefix("net.") for k in state if k.startswith("net.") and "fc" not in k}
    assert all(torch.equal(v, state[f"net.{k}"]) for k, v in own.items())
    assert task.std.flatten().tolist() == [1.0, 2.0, 3.0]
    assert "encoder_weights" not in task.hparams


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"stage": 3},
            "stage is the index of a map of CIFARResNet, which has 3, finest first: choose one of -3..2, got 3",
        ),
        ({"pooling": "max"}, "pooling must be one of mean, class_token, got 'max'"),
        ({"positions": "rotary"}, "positions must be one of sinusoidal, learned, got 'rotary'"),
        ({"num_layers": 0}, "the number of layers must be 1 or more, got 0"),
        ({"num_heads": 3}, "3 heads do not divide a width of 16"),
        ({"width": 9, "num_heads": 3}, "so its width must be even, got 9"),
        ({"hidden_dim": 0}, "hidden_dim must be 1 or more, got 0"),
        ({"dropout": 1.0}, r"dropout is a probability in \[0, 1\), got 1.0"),
        ({"encoder": "vit_b_16", "encoder_args": TINY_VIT}, "vit_b_16 is none: it has no maps"),
        ({"encoder": "timm/vit_tiny_patch16_224", "encoder_args": TIMM_VIT, "image_size": 64}, "set image_size=32"),
        (
            {"encoder": "lenet5", "encoder_args": {}, "positions": "learned", "image_size": 8},
            "LeNet takes images of 1?[0-9]x1?[0-9] pixels or more, got 8x8",
        ),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_small_images_and_other_channels_are_refused() -> None:
    net = HybridTransformer(LeNet(), width=8, num_heads=2)
    with pytest.raises(
        ValueError, match=r"takes images of shape \(B, 1, H, W\), got \(1, 3, 32, 32\): set in_channels=3"
    ):
        net(torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match="pixels or more, got 9x32"):
        net(torch.rand(1, 1, 9, 32))
    assert isinstance(HybridTransformer(CIFARResNet(depth=8, width=4)).encoder.net, CIFARResNet)
