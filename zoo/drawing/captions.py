"""Images and what was written of them: captions below images, and where a net looks as it writes each word."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.drawing.figures import RIGHT, WRONG, new_figure, rgb, shortened, to_image
from zoo.drawing.fonts import drawable, family, length
from zoo.drawing.tiles import GAP, HEADER, LINE, TILE, fit, to_uint8

LEAST, MOST = 2 * TILE, 3 * TILE  # pixels: smaller images are enlarged, larger ones scaled down
WIDE = 22 * TILE  # pixels: a picture is not wider, unless it has one column; nine words and their image
CELL = 3 * TILE  # pixels: least width of an image with its captions
LINES = 4  # lines of a caption, those beyond are cut off
STRENGTH = 0.65  # share of the color of a weight in its pixels
BAR = 2 * TILE  # pixels: width of the scale of colors
_LETTER = 7  # pixels: width of a letter


def captioned_images(x: Tensor, written: Sequence[str], true: Sequence[str | Sequence[str]]) -> Tensor:
    """Draw images, each with the caption that was written for it and, below it in gray, the true ones; wrong ones are red.

    A caption is wrong if it equals none of the true ones. The pixels of the first image are in the picture as they are, at row
    ``HEADER`` and column ``GAP + (cell - width) / 2``, with ``cell`` the larger one of ``CELL`` and the width; small images are
    enlarged by a whole number, large ones scaled down, see :func:`zoo.drawing.tiles.fit`.

    Args:
        x: Images.
        written: Caption of each that was written.
        true: True caption of each, or several; of one without any none is drawn, and what is written is not wrong.

    Shape:
        x: ``(B, C, H, W)``, float in [0, 1]; unless C is 1 or 3, the mean of all channels is shown.

    Raises:
        ValueError: No image, or numbers of images and captions that differ.
    """
    known = [[given] if isinstance(given, str) else list(given) for given in true]
    if not len(x) == len(written) == len(known) or not written:
        raise ValueError(
            f"each image needs its captions, got {len(x)} images, {len(written)} that were written and {len(known)} true ones"
        )
    tiles = _tiles(x)
    height, width = tiles.shape[1:3]
    cell = max(width, CELL)
    wrong = [bool(refs) and text not in refs for text, refs in zip(written, known, strict=True)]
    lines = [_lines(text, refs, bad, cell) for text, refs, bad in zip(written, known, wrong, strict=True)]
    columns = min(len(tiles), max(1, (WIDE - GAP) // (cell + GAP)))
    rows = [range(start, min(start + columns, len(tiles))) for start in range(0, len(tiles), columns)]
    heights = [height + int(max(lines[i][-1][0] for i in row)) + LINE + GAP for row in rows]
    canvas = _Canvas(HEADER + sum(heights), max(GAP + columns * (cell + GAP), 5 * TILE))
    canvas.write(GAP, HEADER / 2, f"written, below it true  ·  {sum(wrong)} of {len(tiles)} wrong", size=12)
    top = HEADER
    for row, high in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            left = GAP + column * (cell + GAP) + (cell - width) // 2
            if wrong[i]:
                canvas.pixels[top - 3 : top + height + 3, left - 3 : left + width + 3] = rgb(WRONG)
            canvas.pixels[top : top + height, left : left + width] = tiles[i]
            for y, line, color in lines[i]:
                canvas.write(left + width / 2, top + height + y, line, color, ha="center")
        top += high
    return canvas.drawn()


def word_maps(x: Tensor, words: Sequence[Sequence[str]], maps: Sequence[Tensor]) -> Tensor:
    """Draw where a net looks in images as it writes their captions: each image, and beside it one heat map a word.

    A map lies over the image in gray, enlarged to its size with linear interpolation; its cells divide the image evenly. Colors
    reach from 0 to the largest weight of all. After Xu et al. 2015, "Show, Attend and Tell", arXiv:1502.03044, fig. 2 and 3.

    Args:
        x: Images.
        words: The words of each image, the title of each map.
        maps: The weights of each image.

    Shape:
        x: ``(B, C, H, W)``, float in [0, 1]; unless C is 1 or 3, the mean of all channels is shown.
        maps: ``(T, h, w)`` of each image, T its number of words.

    Raises:
        ValueError: No image, or numbers of images, words and maps that differ.
    """
    if not len(x) == len(words) == len(maps) or not words:
        raise ValueError(
            f"each image needs words and maps, got {len(x)} images, {len(words)} texts and {len(maps)} maps"
        )
    for i, (text, part) in enumerate(zip(words, maps, strict=True)):
        if part.ndim != 3 or len(part) != len(text) or not part.numel():
            raise ValueError(
                f"the maps of image {i + 1} must have a row and a column for each cell, of each of its {len(text)} words, "
                f"({len(text)}, h, w), got {tuple(part.shape)}"
            )
    tiles = _tiles(x)
    height, width = tiles.shape[1:3]
    gray = fit(x.detach().float().cpu().clamp(0, 1).mean(dim=1, keepdim=True), least=LEAST, most=MOST)[:, 0]
    names = [[drawable(word) for word in text] for text in words]
    cell = max(width, min(2 * TILE, _LETTER * max(length(name) for text in names for name in text)))
    abreast = min(max(map(len, names)), max(1, (WIDE - GAP) // (cell + GAP) - 1))  # maps in a row, beside the image
    blocks = [-(-len(text) // abreast) for text in names]  # rows of each image
    pitch = LINE + height + GAP
    canvas = _Canvas(
        HEADER + sum(blocks) * pitch + len(blocks) * GAP, max(GAP + (abreast + 1) * (cell + GAP), 6 * TILE)
    )
    largest = max(1e-9, *(part.max().item() for part in maps))
    _draw_scale(canvas, largest)
    top = HEADER
    for image, shade, text, part, rows in zip(tiles, gray, names, maps, blocks, strict=True):
        left = GAP + (cell - width) // 2
        canvas.pixels[top + LINE : top + LINE + height, left : left + width] = image
        heat = F.interpolate(part[:, None].detach().float().cpu(), (height, width), mode="bilinear")[:, 0] / largest
        for i, word in enumerate(text):
            y, x_ = top + LINE + i // abreast * pitch, left + (1 + i % abreast) * (cell + GAP)
            canvas.pixels[y : y + height, x_ : x_ + width] = blended(shade, heat[i])
            canvas.write(x_ + width / 2, y - LINE / 2, shortened(word, cell // _LETTER), ha="center")
        top += rows * pitch + GAP
    return canvas.drawn()


def blended(gray: Tensor, heat: Tensor) -> Any:
    """Return the colors of weights over an image in gray, both ``(H, W)`` in [0, 1], as uint8 ``(H, W, 3)``."""
    from matplotlib import colormaps

    color = torch.from_numpy(colormaps["inferno"](heat.clamp(0, 1).numpy())[..., :3]).float()
    return (255 * torch.lerp(gray[..., None].expand_as(color), color, STRENGTH)).round().byte().numpy()


def wrapped(text: str, most: int) -> list[str]:
    """Return a text in lines of at most ``most`` letters in width, ``LINES`` at most; the last one tells if more was cut off."""
    lines = [""]
    for word in drawable(text).split():
        if not lines[-1] or length(lines[-1]) + 1 + length(word) <= most:
            lines[-1] = f"{lines[-1]} {word}".strip()
        else:
            lines.append(word)
        while length(lines[-1]) > most:  # a word that is wider than a line, or a text without spaces
            fits = next(n for n in range(len(lines[-1]), 0, -1) if length(lines[-1][:n]) <= most or n == 1)
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
    if len(lines) > LINES:
        lines[LINES - 1 :] = [shortened(" ".join(lines[LINES - 1 :]), most)]
    return lines


def _lines(written: str, true: Sequence[str], wrong: bool, width: int) -> list[tuple[float, str, str]]:
    """Lines of the captions of an image: the distance of their middle from it, text and color."""
    lines, y = list[tuple[float, str, str]](), GAP / 2
    for color, text in [(WRONG if wrong else RIGHT, written or "(nothing)"), *(("#888888", text) for text in true)]:
        for line in wrapped(text, width // _LETTER):
            lines.append((y + LINE / 2, line, color))
            y += LINE
        y += GAP / 2  # between captions
    return lines


def _tiles(x: Tensor) -> Any:
    """Images as pixels of a picture, ``(B, h, w, 3)``."""
    x = x.detach().float().cpu().clamp(0, 1)
    x = x if x.shape[1] in (1, 3) else x.mean(dim=1, keepdim=True)
    return to_uint8(fit(x, least=LEAST, most=MOST)).permute(0, 2, 3, 1).numpy()  # (B, 3, h, w) -> (B, h, w, 3)


def _draw_scale(canvas: "_Canvas", largest: float) -> None:
    """Draw the colors of the weights from 0 to the largest, over white, into the header."""
    bar, text = HEADER - LINE, "weight 0"
    left = GAP + _LETTER * len(text)
    ramp = torch.linspace(0, 1, BAR).expand(bar, BAR)
    canvas.pixels[(HEADER - bar) // 2 : (HEADER + bar) // 2, left : left + BAR] = blended(
        torch.full_like(ramp, 0.5), ramp
    )
    canvas.write(GAP, HEADER / 2, text)
    canvas.write(left + BAR + _LETTER, HEADER / 2, f"{largest:.2g}")


class _Canvas:
    """Pixels ``(H, W, 3)`` on white, and text over them."""

    def __init__(self, height: int, width: int) -> None:
        self.pixels = np.full((height, width, 3), 255, np.uint8)
        self.figure = new_figure(width / 64, height / 64, dpi=64, layout=None)  # a power of two: sizes are exact

    def write(self, x: float, y: float, text: str, color: str = RIGHT, size: float = 11, **style: Any) -> None:
        height, width = self.pixels.shape[:2]
        style |= {"va": "center", "parse_math": False, "family": family([text]), "color": color, "size": size}
        self.figure.text(x / width, 1 - y / height, text, **style)

    def drawn(self) -> Tensor:
        self.figure.figimage(self.pixels, origin="upper", zorder=-1)
        return to_image(self.figure)
