"""Masks over images: a color for each class, a legend of their names, stripes over ignored pixels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.drawing.colors import palette
from zoo.drawing.figures import new_figure, to_image
from zoo.drawing.fonts import drawable, family, length
from zoo.drawing.tiles import GAP, HEADER, LINE, enlarge, fit, to_uint8

_STRENGTH = 0.6  # share of a class's color in its pixels
_LETTER = 7  # width of a letter of the legend, in pixels
_STRIPE = 4  # width of a stripe over ignored pixels


def blend(image: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    """Draw an image in gray with its classes in color: uint8 ``(3, H, W)``.

    Args:
        image: Image ``(C, H, W)`` of any number of channels, float in [0, 1].
        mask: Classes 0..num_classes-1, ``(H, W)``; all other values (ignored pixels) get stripes.
        num_classes: Number of classes K.
    """
    gray = image.detach().float().cpu().clamp(0, 1).mean(dim=0, keepdim=True) * 255
    mask = mask.detach().long().cpu()
    counts = (mask >= 0) & (mask < num_classes)
    colors = palette(num_classes, background=True).float()
    color = colors[mask.where(counts, 0)].permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    height, width = mask.shape
    striped = (torch.arange(height)[:, None] + torch.arange(width)) // _STRIPE % 2  # (H, W)
    shown = torch.where(counts, torch.lerp(gray, color, _STRENGTH), torch.lerp(gray, striped * 255.0, 0.8))
    return shown.round().byte()


def overlay(image: Tensor, mask: Tensor, names: Sequence[str]) -> Tensor:
    """Draw an image with its classes in color and, below, a legend of those that occur: uint8 ``(3, H', W')``.

    The image is at the top left in its own size; small ones are enlarged, see :func:`zoo.drawing.tiles.enlarge`.

    Args:
        image: Image ``(C, H, W)``, float in [0, 1].
        mask: Classes 0..K-1, ``(H, W)``; all other values (ignored pixels) get stripes.
        names: Names of the K classes.
    """
    image, mask = enlarge(image), enlarge(mask)
    return _with_legend(blend(image, mask, len(names)), [mask], names)


IGNORED_BYTE = 255  # in the masks of :func:`mask_layers`


def mask_layers(x: Tensor, true: Tensor, predicted: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Return images and masks for a program that lays the masks over the images by itself.

    Args:
        x: Images ``(B, C, H, W)``, float in [0, 1]; unless they have one or three channels, the mean of all is shown.
        true, predicted: Classes ``(B, H, W)``; other values are ignored pixels.
        names: Names of the K classes, K < 256.

    Returns:
        ``images``, uint8 ``(B, 3, H, W)``; ``masks``, uint8 ``(B, H, W)`` each, ``true`` (255 where it is ignored) and
        ``predicted``; ``class_names``.
    """
    x = x if x.shape[1] in (1, 3) else x.mean(dim=1, keepdim=True)
    bytes_of = {
        name: torch.where((mask >= 0) & (mask < len(names)), mask, IGNORED_BYTE).byte().cpu()
        for name, mask in (("true", true.detach()), ("predicted", predicted.detach()))
    }
    return {"images": to_uint8(x), "masks": bytes_of, "class_names": [*names]}


def mask_rows(x: Tensor, true: Tensor, predicted: Tensor, names: Sequence[str]) -> Tensor:
    """Draw examples in rows: the image, the true and the predicted mask over it. Five or more stand two in a row.

    A legend is below. Predictions are also shown where the target is ignored. Small images are enlarged, large ones scaled
    down, see :func:`zoo.drawing.tiles.fit`.

    Args:
        x: Images ``(B, C, H, W)``, float in [0, 1]; unless they have one or three channels, the mean of all is shown.
        true, predicted: Classes ``(B, H, W)``; other values are ignored pixels.
        names: Names of the K classes.
    """
    x = x.detach().float().cpu().clamp(0, 1)
    x = x if x.shape[1] in (1, 3) else x.mean(dim=1, keepdim=True)
    masks = torch.stack([true.detach().cpu(), predicted.detach().cpu()], dim=1)  # (B, 2, H, W)
    x, masks = fit(x), fit(masks, labels=True)
    height, width = x.shape[2:]
    rows = len(x) if len(x) < 5 else -(-len(x) // 2)
    abreast = -(-len(x) // rows)
    pitch = 3 * (width + GAP) + GAP
    canvas = torch.full((3, HEADER + rows * (height + GAP), abreast * pitch), 255, dtype=torch.uint8)
    for i, (image, pair) in enumerate(zip(x, masks, strict=True)):
        tiles = [to_uint8(image), *(blend(image, mask, len(names)) for mask in pair)]
        top = HEADER + i % rows * (height + GAP)
        for j, tile in enumerate(tiles):
            left = GAP + i // rows * pitch + j * (width + GAP)
            canvas[:, top : top + height, left : left + width] = tile
    named = list(enumerate(("image", "true", "predicted")))
    titles = {GAP + i * pitch + j * (width + GAP): title for i in range(abreast) for j, title in named}
    return _with_legend(canvas, list(masks), names, titles)


def _with_legend(
    picture: Tensor, masks: Sequence[Tensor], names: Sequence[str], titles: dict[int, str] | None = None
) -> Tensor:
    """Draw the classes of the masks below a picture, and titles, by their left edge, above it."""
    classes = torch.cat([mask.flatten().cpu().unique() for mask in masks]).unique().long()
    inside = (classes >= 0) & (classes < len(names))
    colors = palette(len(names), background=True).tolist()
    entries: list[tuple[str, Any]] = [(drawable(names[k]), colors[k]) for k in classes[inside].tolist()]
    if not inside.all():
        entries.append(("ignored", None))
    _, height, width = picture.shape
    unit = max(1, round(min(height, width) / 600)) if titles is None else 1  # large letters below a large photograph
    line, letter = LINE * unit, _LETTER * unit
    spans = [line + length(name) * letter + line // 2 for name, _ in entries]
    wide = max([width, *(GAP + span for span in spans)])
    places, left, row = [], GAP, 0
    for span in spans:
        if left + span > wide and left > GAP:
            left, row = GAP, row + 1
        places.append((left, row))
        left += span
    size = (height + (row + 1) * (line + line // 4) + GAP, wide)
    canvas = np.full((*size, 3), 255, np.uint8)
    canvas[:height, :width] = picture.permute(1, 2, 0).numpy()  # (3, H, W) -> (H, W, 3)
    figure = new_figure(size[1] / 64, size[0] / 64, dpi=64, layout=None)  # a power of two: sizes are exact
    style: dict[str, Any] = {"va": "center", "parse_math": False, "color": "#222222"}
    style["family"] = family(name for name, _ in entries)
    for (name, color), (left, row) in zip(entries, places, strict=True):
        top, side = height + GAP // 2 + row * (line + line // 4), line - 4 * unit
        patch = canvas[top + 2 * unit : top + 2 * unit + side, left : left + side]
        stripes = np.add.outer(np.arange(side), np.arange(side)) // _STRIPE % 2 * 255
        patch[:] = stripes[..., None] if color is None else color
        x, y = (left + line) / size[1], 1 - (top + line / 2) / size[0]
        figure.text(x, y, name, size=11 * unit, **style)
    for left, title in (titles or {}).items():
        figure.text(left / size[1], 1 - HEADER / 2 / size[0], title, size=12, **style)
    figure.figimage(canvas, origin="upper", zorder=-1)
    return to_image(figure)
