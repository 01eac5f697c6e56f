"""The linear regions of a rectifier net: Montufar et al. 2014, "On the Number of Linear Regions of Deep Neural Networks".

arXiv:1402.1869. Exact in one and two dimensions: layer by layer, the window is cut along the line where each unit changes its
side. A region is a set of inputs for which every unit is on one side; within it the net is linear. (Two neighbors can have the same
linear map, if later layers ignore the unit between them.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zoo.blocks import VanillaDropout
from zoo.drawing.figures import new_figure, to_image
from zoo.linear.mlp import MLP, MLPLayer

_TINY = 1e-12  # relative to the size of the window: a cut closer to a corner is none


@dataclass(frozen=True)
class Region:
    """A convex piece of the window on which the net is ``weight @ x + bias``.

    Attributes:
        corners: Corners ``(V, D)``: the two ends of an interval, or those of a polygon, around it.
        weight: Matrix of the linear map, ``(K, D)``.
        bias: Offset of the linear map, ``(K,)``.
    """

    corners: Tensor
    weight: Tensor
    bias: Tensor


def linear_regions(net: MLP, window: Sequence[tuple[float, float]] = ((-1.0, 1.0),)) -> list[Region]:
    """Return all linear regions of a net within a window, in float64 and in evaluation mode.

    Args:
        net: An :class:`zoo.linear.MLP` of one or two inputs with activation "relu", "leaky_relu", "prelu" or "identity", norm
            "none" or "batch", and any skip connections.
        window: (low, high) of each input, in units of the net's input (that is, standardized).

    Returns:
        The regions; together they fill the window.

    Raises:
        ValueError: Another number of inputs than the window has, more than two, or an empty window.
        TypeError: A net that is not piecewise linear, or whose pieces do not depend on the signs of its units alone.

    Example:
        >>> len(linear_regions(MLP(1, 1, [3]), [(-100.0, 100.0)])) <= 4
        True
    """
    if net.in_features != len(window) or len(window) not in (1, 2):
        raise ValueError(
            f"window must have a (low, high) for each of one or two inputs, got {len(window)} for {net.in_features} inputs"
        )
    if any(not low < high for low, high in window):
        raise ValueError(f"window must have low < high, got {list(window)}")
    layers = [layer for layer in net.layers if isinstance(layer, MLPLayer)]
    size = max(high - low for low, high in window)
    pieces = [
        (_corners(window), torch.eye(len(window), dtype=torch.float64), torch.zeros(len(window), dtype=torch.float64))
    ]
    for index, layer in enumerate(layers):
        slope, (matrix, offset) = _slope(layer), _affine(layer)
        next_pieces = []
        for corners, weight, bias in pieces:
            # the units before the activation, on this piece: (W, D) and (W,)
            w, b = matrix @ weight, matrix @ bias + offset
            parts = [corners]
            if slope != 1.0:
                for unit in range(len(b)):
                    parts = [part for whole in parts for part in _cut(whole, w[unit], b[unit], size)]
            for part in parts:
                center = part.mean(dim=0)
                side = torch.where(w @ center + b > 0, torch.ones_like(b), torch.full_like(b, slope))
                side = side * _evaluation_scale(layer)
                hidden, shift = side.unsqueeze(1) * w, side * b
                if net.skip == "dense":
                    hidden, shift = torch.cat([weight, hidden]), torch.cat([bias, shift])
                elif net.skip == "residual" and index:
                    hidden, shift = weight + hidden, bias + shift
                next_pieces.append((part, hidden, shift))
        pieces = next_pieces
    if isinstance(net.fc, nn.Linear):
        if not isinstance(net.output_activation, nn.Identity):
            raise TypeError(f"linear regions exist for linear outputs, got {type(net.output_activation).__name__}")
        matrix, offset = _tensors(net.fc)
        pieces = [(part, matrix @ weight, matrix @ bias + offset) for part, weight, bias in pieces]
    return [Region(*piece) for piece in pieces]


def draw_regions(
    net: MLP, window: Sequence[tuple[float, float]], path: str | Path | None = None, output: int = 0
) -> np.ndarray:
    """Draw the regions: in two dimensions polygons in the color of the output at their center, in one the graph of the net.

    Args:
        net, window: See :func:`linear_regions`.
        path: File to write the picture to (png, pdf, svg); None: no file.
        output: Index of the output that is drawn.

    Returns:
        The picture, uint8 ``(H, W, 3)``.
    """
    from matplotlib.collections import PolyCollection

    regions = linear_regions(net, window)
    figure = new_figure(5, 5)
    axes = figure.add_subplot()
    axes.set_title(f"{len(regions)} linear regions")
    axes.set_xlim(*window[0])
    if len(window) == 2:
        value = [float((r.weight @ r.corners.mean(dim=0) + r.bias)[output]) for r in regions]
        polygons = PolyCollection(
            [r.corners.numpy() for r in regions], edgecolors="black", linewidths=0.4, cmap="viridis"
        )
        polygons.set_array(np.asarray(value))
        axes.add_collection(polygons)
        axes.set_ylim(*window[1])
    else:
        for r in regions:
            x = r.corners.sort(dim=0).values
            axes.plot(x[:, 0].numpy(), (x @ r.weight[output] + r.bias[output]).numpy(), marker=".")
    if path is not None:
        figure.savefig(path)
    return to_image(figure).permute(1, 2, 0).numpy()  # (3, H, W) -> (H, W, 3)


def _corners(window: Sequence[tuple[float, float]]) -> Tensor:
    """Corners of the window: ``(2, 1)`` or, counterclockwise, ``(4, 2)``."""
    (left, right), *rest = window
    corners = [[left], [right]]
    if rest:
        low, high = rest[0]
        corners = [[left, low], [right, low], [right, high], [left, high]]
    return torch.tensor(corners, dtype=torch.float64)


def _slope(layer: MLPLayer) -> float:
    """Slope of the activation below 0; above it is 1."""
    activation = layer.activation
    if isinstance(activation, nn.Identity):
        return 1.0
    if isinstance(activation, nn.ReLU):
        return 0.0
    if isinstance(activation, nn.LeakyReLU):
        return activation.negative_slope
    if isinstance(activation, nn.PReLU):
        return activation.weight.item()
    raise TypeError(
        f"linear regions exist for activation relu, leaky_relu, prelu or identity, got {type(activation).__name__}"
    )


def _evaluation_scale(layer: MLPLayer) -> float:
    """Factor that dropout applies to the units in evaluation."""
    return 1 - layer.dropout.p if isinstance(layer.dropout, VanillaDropout) else 1.0


def _tensors(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias in float64; where there is no bias, zeros."""
    weight = linear.weight.detach().double().cpu()
    return weight, weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.detach().double().cpu()


def _affine(layer: MLPLayer) -> tuple[Tensor, Tensor]:
    """Linear map and normalization as one linear map: ``(W, D)`` and ``(W,)``."""
    weight, bias = _tensors(layer.linear)
    norm = layer.norm
    if isinstance(norm, nn.BatchNorm1d):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().double().cpu()
        shift = norm.bias.detach().double().cpu() - scale * norm.running_mean.double().cpu()
        return scale.unsqueeze(1) * weight, scale * bias + shift
    if not isinstance(norm, nn.Identity):
        raise TypeError(f"linear regions exist for norm 'none' or 'batch', got {type(norm).__name__}: it is not linear")
    return weight, bias


def _cut(corners: Tensor, weight: Tensor, bias: Tensor, size: float) -> list[Tensor]:
    """Cut a convex piece along ``weight @ x + bias = 0``: one piece or two."""
    height = corners @ weight + bias  # (V,)
    near = _TINY * (size * float(weight.norm()) + abs(float(bias)))
    if not (bool((height > near).any()) and bool((height < -near).any())):
        return [corners]
    if len(corners) == 2:  # an interval
        middle = corners[0] - height[0] / (height[1] - height[0]) * (corners[1] - corners[0])
        return [torch.stack([corners[0], middle]), torch.stack([middle, corners[1]])]
    above: list[Tensor] = []
    below: list[Tensor] = []
    for i in range(len(corners)):  # around the polygon: a corner belongs to its side, a crossing to both
        here, there = height[i], height[(i + 1) % len(corners)]
        if here >= -near:
            above.append(corners[i])
        if here <= near:
            below.append(corners[i])
        if (here > near and there < -near) or (here < -near and there > near):
            crossing = corners[i] - here / (there - here) * (corners[(i + 1) % len(corners)] - corners[i])
            above.append(crossing)
            below.append(crossing)
    return [torch.stack(above), torch.stack(below)]
