"""Linear regions against known counts, the net itself, and the patterns of a fine grid."""

from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.linear import MLP
from zoo.linear.regions import Region, draw_regions, linear_regions

SQUARE = [(-1.0, 1.0), (-1.0, 1.0)]


def random_net(inputs: int, widths: list[int], **kwargs: Any) -> MLP:
    net = MLP(inputs, 3, widths, **kwargs).double().eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.8)
    for layer in net.layers:
        if isinstance(layer.norm, torch.nn.BatchNorm1d):
            layer.norm.running_mean.normal_()
            layer.norm.running_var.uniform_(0.5, 2.0)
    return net


def area(region: Region) -> float:
    if region.corners.shape[1] == 1:
        return (region.corners[1] - region.corners[0]).abs().item()
    x, y = region.corners.T
    return 0.5 * (x * y.roll(-1) - y * x.roll(-1)).sum().abs().item()


def patterns(net: MLP, x: Tensor) -> Tensor:
    """Which units are on, for every input: recorded by hooks on the activations, not by our arithmetic."""
    on: list[Tensor] = []
    hooks = [layer.activation.register_forward_pre_hook(lambda _, x: on.append(x[0] > 0)) for layer in net.layers]
    net(x)
    for hook in hooks:
        hook.remove()
    return torch.cat(on, dim=1)


@pytest.mark.parametrize("units", [1, 2, 5, 9])
def test_one_hidden_layer_in_general_position(units: int) -> None:
    """n points cut a line into n + 1 pieces, n lines the plane into 1 + n + n (n - 1) / 2 (Zaslavsky)."""
    line = random_net(1, [units])
    assert len(linear_regions(line, [(-1e6, 1e6)])) == units + 1
    plane = random_net(2, [units])
    assert len(linear_regions(plane, [(-1e6, 1e6), (-1e6, 1e6)])) == 1 + units + units * (units - 1) // 2


def test_a_deep_sawtooth_has_two_to_the_depth() -> None:
    """Each layer folds [0, 1] once: 2 relu(x) - 4 relu(x - 1/2). Depth 6 makes 64 pieces with 12 units."""
    net = MLP(1, 1, [2] * 6).double()
    for i, layer in enumerate(net.layers):
        layer.linear.weight.data = torch.tensor([[1.0], [1.0]] if i == 0 else [[2.0, -4.0], [2.0, -4.0]]).double()
        layer.linear.bias.data = torch.tensor([0.0, -0.5]).double()
    net.fc.weight.data, net.fc.bias.data = torch.tensor([[2.0, -4.0]]).double(), torch.zeros(1).double()
    regions = linear_regions(net, [(0.0, 1.0)])
    assert len(regions) == 64
    assert {round(r.weight.item(), 6) for r in regions} == {64.0, -64.0}
    assert [area(r) for r in regions] == pytest.approx([1 / 64] * 64)


OPTIONS = [
    {},
    {"activation": "leaky_relu"},
    {"activation": "prelu"},
    {"norm": "batch"},
    {"skip": "dense"},
    {"skip": "residual"},
    {"skip": "residual", "dropout": 0.3, "dropout_kind": "vanilla"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("inputs", [1, 2])
def test_regions_fill_the_window_and_are_the_net(inputs: int, options: dict[str, Any]) -> None:
    net = random_net(inputs, [6, 6], **options)
    regions = linear_regions(net, SQUARE[:inputs])
    assert sum(area(r) for r in regions) == pytest.approx(2.0**inputs, rel=1e-9)
    assert min(area(r) for r in regions) > 0
    for region in regions:
        share = torch.rand(5, len(region.corners), dtype=torch.float64)
        x = share / share.sum(1, keepdim=True) @ region.corners  # inside: it is convex
        torch.testing.assert_close(net(x), x @ region.weight.T + region.bias, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_counts_are_the_patterns_of_a_fine_grid(options: dict[str, Any]) -> None:
    """Each region has its own pattern of units, and a grid of points hits every region that is not smaller than a cell."""
    net = random_net(2, [5, 5], **options)
    side = torch.linspace(-1, 1, 801, dtype=torch.float64)
    of_grid = patterns(net, torch.cartesian_prod(side, side)).unique(dim=0)
    regions = linear_regions(net, SQUARE)
    of_regions = patterns(net, torch.stack([r.corners.mean(0) for r in regions]))
    assert len(of_regions.unique(dim=0)) == len(regions)
    assert {tuple(p) for p in of_grid.tolist()} <= {tuple(p) for p in of_regions.tolist()}
    large = sum(area(r) > 2e-4 for r in regions)
    assert large <= len(of_grid) <= len(regions)


def test_a_linear_net_has_one_region() -> None:
    assert len(linear_regions(random_net(2, [5], activation="identity"), SQUARE)) == 1
    assert len(linear_regions(random_net(2, []), SQUARE)) == 1


@pytest.mark.parametrize("inputs", [1, 2])
def test_picture(inputs: int, tmp_path: Any) -> None:
    net = random_net(inputs, [4])
    picture = draw_regions(net, SQUARE[:inputs], tmp_path / "regions.png")
    assert picture.shape == (500, 500, 3)
    assert picture.dtype.name == "uint8"
    flat = random_net(inputs, [4])
    flat.fc.weight.data.zero_()
    assert (picture != draw_regions(flat, SQUARE[:inputs])).any()
    assert (tmp_path / "regions.png").read_bytes().startswith(b"\x89PNG")


def test_the_colors_of_the_picture_are_values_of_the_net() -> None:
    """relu(x): dark (the low end of the color scale) on the left, bright on the right."""
    net = MLP(2, 1, [1]).double()
    net.layers[0].linear.weight.data, net.layers[0].linear.bias.data = torch.tensor([[1.0, 0.0]]), torch.zeros(1)
    net.fc.weight.data.fill_(1.0)
    picture = draw_regions(net, SQUARE).astype(int)
    left, right = picture[250, 150], picture[250, 400]
    assert left.tolist() == [68, 1, 84]
    assert right.tolist() == [253, 231, 36] or right.tolist() == [253, 231, 37]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="got 2 for 1 inputs"):
        linear_regions(MLP(1, 1, [3]), SQUARE)
    with pytest.raises(ValueError, match="one or two inputs, got 3 for 3 inputs"):
        linear_regions(MLP(3, 1, [3]), [*SQUARE, (0.0, 1.0)])
    with pytest.raises(ValueError, match="window must have low < high"):
        linear_regions(MLP(1, 1, [3]), [(1.0, 1.0)])
    with pytest.raises(TypeError, match="got Tanh"):
        linear_regions(MLP(1, 1, [3], "tanh"), [(0.0, 1.0)])
    with pytest.raises(TypeError, match="got LayerNorm: it is not linear"):
        linear_regions(MLP(1, 1, [3], norm="layer"), [(0.0, 1.0)])
