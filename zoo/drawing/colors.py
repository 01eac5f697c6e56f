"""Colors of classes, the same in every picture."""

import colorsys

import torch
from torch import Tensor

_BACKGROUND = "3c3c3c"
# matplotlib's "tab10", without its gray: these are easy to tell apart as points on white and over a gray image
_FIRST = ("1f77b4", "ff7f0e", "2ca02c", "d62728", "9467bd", "8c564b", "e377c2", "bcbd22", "17becf")
_GOLDEN = 0.618034  # share of the circle of hues from one further class to the next
_TONES = ((0.9, 0.8), (0.7, 0.55), (0.5, 0.9))  # value and saturation of 12 further classes, of the next 12, ...


def palette(count: int, background: bool = False) -> Tensor:
    """Return the colors of the classes 0, 1, ...; a class has the same color however many there are.

    Args:
        count: Number of classes K.
        background: Whether class 0 is the background, as in most masks: it is dark gray, and class 1 has the first color.

    Shape:
        ``(K, 3)``, uint8.

    Example:
        >>> palette(3, background=True).tolist()
        [[60, 60, 60], [31, 119, 180], [255, 127, 14]]
    """
    named = [_BACKGROUND, *_FIRST] if background else _FIRST
    colors = [[int(color[i : i + 2], 16) for i in (0, 2, 4)] for color in named]
    for k in range(count - len(named)):
        value, saturation = _TONES[k // 12 % 3]
        rgb = colorsys.hsv_to_rgb((0.10 + k * _GOLDEN) % 1, saturation, value)
        colors.append([round(255 * part) for part in rgb])
    return torch.tensor(colors[:count], dtype=torch.uint8).view(-1, 3)
