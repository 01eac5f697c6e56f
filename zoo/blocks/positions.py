"""Positions of tokens: added to them, or turning the queries and keys of an attention.

Sinusoidal: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.5; of the cells of a map: Parmar et al.
2018, "Image Transformer", arXiv:1802.05751. Learned: Gehring et al. 2017, "Convolutional Sequence to Sequence Learning",
arXiv:1705.03122. Rotary: Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv:2104.09864.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

Positions = Literal["sinusoidal", "learned", "rotary"]
Angles = tuple[Tensor, Tensor]  # cos and sin of the angle of each position and pair: (T, D / 2) each


class SinusoidalPositions(nn.Module):
    """Add sin(p / base^(2 i / D)) to the feature 2 i of the token at position p, and the cos to the feature 2 i + 1.

    Positions of any number are known, but those beyond the texts of the training mean nothing to a net.

    Args:
        max_length: Largest number of tokens; None: any.
        base: Ratio of the longest wavelength to the shortest, 2 pi.

    Shape:
        ``(B, T, D)`` -> the same, and None.
    """

    def __init__(self, max_length: int | None = None, base: float = 10000.0) -> None:
        super().__init__()
        self.max_length, self.base = _checked(max_length), base

    def forward(self, x: Tensor, start: int = 0) -> tuple[Tensor, None]:
        """Return tokens with their positions added, from ``start`` on.

        Raises:
            ValueError: A text longer than ``max_length``.
        """
        _check_length(start + x.shape[1], self.max_length)
        angles = _angles(x, start, x.shape[2], self.base)
        added = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)  # (T, D / 2, 2) -> (T, D)
        return x + added[:, : x.shape[2]].to(x.dtype), None

    def extra_repr(self) -> str:
        return f"max_length={self.max_length}"


class SinusoidalPositions2D(nn.Module):
    """Add to the token of each cell of a map the position of its row to the first D / 2 features, that of its column to the rest,
    each as :class:`SinusoidalPositions` of D / 2 features.

    Rows and columns count from 0, as in the Image Transformer. DETR (Carion et al. 2020, arXiv:2005.12872), whose features stand in
    the same order, counts from 1 and stretches each axis to 2 pi.

    Args:
        width: Width D of a token, even.
        base: Ratio of the longest wavelength to the shortest, 2 pi.

    Shape:
        tokens of the cells of a map, row by row, ``(B, H W, D)`` -> the same.

    Raises:
        ValueError: An odd width.

    Example:
        >>> SinusoidalPositions2D(8)(torch.zeros(1, 6, 8), rows=2, columns=3).shape
        torch.Size([1, 6, 8])
    """

    def __init__(self, width: int, base: float = 10000.0) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(
                f"positions of rows and columns take half of a token's features each, so its width must be even, got {width}"
            )
        self.width, self.base = width, base

    def forward(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """Return tokens with the positions of their cells added.

        Raises:
            ValueError: Another number of tokens than cells.
        """
        if not torch.compiler.is_exporting() and x.shape[1] != rows * columns:
            raise ValueError(f"{x.shape[1]} tokens are not the cells of {rows} rows of {columns}")
        row, column = (self._axis(x, count) for count in (rows, columns))  # (H, D / 2), (W, D / 2)
        row, column = row[:, None].expand(-1, columns, -1), column.expand(rows, -1, -1)  # (H, W, D / 2) each
        return x + torch.cat([row, column], dim=2).flatten(0, 1).to(x.dtype)  # (H, W, D) -> (H W, D)

    def _axis(self, x: Tensor, count: int) -> Tensor:
        half = self.width // 2
        angles = _angles(x, 0, half, self.base, count)
        return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :half]

    def extra_repr(self) -> str:
        return f"{self.width}, base={self.base:g}"


class LearnedPositions(nn.Module):
    """Add a learned vector for each position; as embeddings, they get no weight decay.

    Args:
        max_length: Number of positions, >= 1.
        width: Width D of a token.

    Shape:
        ``(B, T, D)`` -> the same, and None.
    """

    def __init__(self, max_length: int, width: int) -> None:
        super().__init__()
        self.max_length = _checked(max_length)
        self.weight = nn.Parameter(torch.empty(max_length, width).normal_(std=0.02))  # as in GPT-2

    def forward(self, x: Tensor, start: int = 0) -> tuple[Tensor, None]:
        """Return tokens with their positions added, from ``start`` on.

        Raises:
            ValueError: A text longer than ``max_length``.
        """
        _check_length(start + x.shape[1], self.max_length)
        return x + self.weight[start : start + x.shape[1]], None

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that get no weight decay."""
        return {"weight"}

    def extra_repr(self) -> str:
        return f"max_length={self.max_length}"


class RotaryPositions(nn.Module):
    """Angles p / base^(2 i / D) by which pair i of a query or key at position p is turned, so that their product depends on the
    distance of two tokens alone.

    Pair i is the features i and i + D / 2 (rotate-half), as in the Llama files of the Hugging Face hub. The paper, and Meta's own
    files, take 2 i and 2 i + 1: the same up to the order of the rows that give queries and keys.

    No position is too large, but a distance beyond those of the training gives angles that a net has never seen: it reads on, and
    what it predicts gets worse.

    Args:
        size: Size D of one head, even.
        max_length: Largest number of tokens; None: any.
        base: Ratio of the longest wavelength to the shortest, 2 pi.

    Shape:
        ``(B, T, ...)`` -> the same, and two tensors ``(T, D / 2)``.

    Raises:
        ValueError: An odd size.
    """

    def __init__(self, size: int, max_length: int | None = None, base: float = 10000.0) -> None:
        super().__init__()
        if size < 2 or size % 2:
            raise ValueError(
                f"rotary positions turn pairs of features, so the size of a head (width / num_heads) must be even, got {size}: "
                "set another width or num_heads, or take other positions"
            )
        self.size, self.max_length, self.base = size, _checked(max_length), base

    def forward(self, x: Tensor, start: int = 0) -> tuple[Tensor, Angles]:
        """Return tokens as they are, and the angles of their positions, from ``start`` on, for :func:`rotate`.

        Raises:
            ValueError: A text longer than ``max_length``.
        """
        _check_length(start + x.shape[1], self.max_length)
        angles = _angles(x, start, self.size, self.base)
        return x, (angles.cos(), angles.sin())

    def extra_repr(self) -> str:
        return f"{self.size}, max_length={self.max_length}, base={self.base:g}"


def rotate(x: Tensor, rotary: Angles) -> Tensor:
    """Turn each pair of features, i and i + D / 2, by the angle of its position.

    Shape:
        ``(B, heads, T, D)``, cos and sin ``(T, D / 2)`` -> ``(B, heads, T, D)``.
    """
    cos, sin = rotary
    one, other = x.chunk(2, dim=-1)
    return torch.cat([one * cos - other * sin, other * cos + one * sin], dim=-1).to(x.dtype)


def build_positions(
    kind: Positions, width: int, num_heads: int, max_length: int | None = None, base: float = 10000.0
) -> nn.Module:
    """Build positions by name: ``positions(x, start)`` returns the tokens to go on with, and angles or None.

    Args:
        kind: "sinusoidal", "learned" or "rotary".
        width: Width of a token.
        num_heads: Number of heads that a token is divided among.
        max_length: Largest number of tokens; None, but for learned ones: any.
        base: Of sinusoidal and rotary ones, see there.

    Raises:
        ValueError: An unknown kind, learned positions without a number of them, or heads of an odd size for rotary ones.
    """
    if kind == "sinusoidal":
        return SinusoidalPositions(max_length, base)
    if kind == "rotary":
        return RotaryPositions(width // num_heads, max_length, base)
    if kind != "learned":
        raise ValueError(f"positions must be one of {', '.join(get_args(Positions))}, got {kind!r}")
    if max_length is None:
        raise ValueError("learned positions are a vector for each, so their number must be given: set max_length")
    return LearnedPositions(max_length, width)


def _angles(x: Tensor, start: int, size: int, base: float, count: int | None = None) -> Tensor:
    """p / base^(2 i / D) for ``count`` positions, or those of ``x``, and all i: ``(T, ceil(D / 2))``."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    powers = torch.arange(0, size, 2, device=x.device, dtype=dtype) / size
    places = torch.arange(start, start + (x.shape[1] if count is None else count), device=x.device, dtype=dtype)
    return places[:, None] / base**powers


def _checked(max_length: int | None) -> int | None:
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length must be 1 or more, got {max_length}")
    return max_length


def _check_length(length: int, most: int | None) -> None:
    if most is not None and length > most:
        raise ValueError(
            f"a text of {length} tokens is longer than the {most} positions of the net: cut it, or build the net with "
            f"max_length={length}"
        )
