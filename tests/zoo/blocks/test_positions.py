"""Positions against formulas in float64."""

import math
from typing import Any

import pytest
import torch

from zoo.blocks import (
    LearnedPositions,
    RotaryPositions,
    SinusoidalPositions,
    SinusoidalPositions2D,
    build_positions,
    rotate,
)


@pytest.mark.parametrize(("width", "start"), [(6, 0), (6, 11), (5, 0)])
def test_sinusoidal_positions_equal_the_formula(width: int, start: int) -> None:
    x = torch.randn(2, 7, width, dtype=torch.float64)
    added, angles = SinusoidalPositions()(x, start)
    assert angles is None
    for t in range(7):
        for i in range(width):
            angle = (start + t) / 10000 ** (2 * (i // 2) / width)
            wanted = x[:, t, i] + (math.cos(angle) if i % 2 else math.sin(angle))
            torch.testing.assert_close(added[:, t, i], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("width", "base"), [(8, 10000.0), (8, 500.0), (6, 10000.0)])
def test_positions_of_cells_equal_the_formula(width: int, base: float) -> None:
    rows, columns, half = 3, 5, width // 2
    x = torch.randn(2, rows * columns, width, dtype=torch.float64)
    added = SinusoidalPositions2D(width, base)(x, rows, columns)
    for row in range(rows):
        for column in range(columns):
            for i in range(width):
                place, j = (row, i) if i < half else (column, i - half)
                angle = place / base ** (2 * (j // 2) / half)
                wanted = x[:, row * columns + column, i] + (math.cos(angle) if j % 2 else math.sin(angle))
                torch.testing.assert_close(added[:, row * columns + column, i], wanted, rtol=0, atol=1e-12)


def test_positions_of_cells_need_an_even_width_and_as_many_tokens_as_cells() -> None:
    with pytest.raises(ValueError, match="half of a token's features each, so its width must be even, got 5"):
        SinusoidalPositions2D(5)
    with pytest.raises(ValueError, match="15 tokens are not the cells of 4 rows of 4"):
        SinusoidalPositions2D(4)(torch.zeros(1, 15, 4), 4, 4)
    half = SinusoidalPositions2D(4)(torch.zeros(1, 15, 4, dtype=torch.bfloat16), 3, 5)
    assert half.dtype == torch.bfloat16


def test_learned_positions_are_rows_of_a_matrix() -> None:
    positions, x = LearnedPositions(9, 4), torch.randn(2, 3, 4)
    assert dict(positions.named_parameters()).keys() == {"weight"}
    assert float(positions.weight.detach().std()) == pytest.approx(0.02, rel=0.5)
    assert torch.equal(positions(x, 5)[0], x + positions.weight[5:8])


@pytest.mark.parametrize("base", [10000.0, 500.0])
def test_rotary_positions_equal_a_product_of_complex_numbers(base: float) -> None:
    x, start = torch.randn(2, 3, 7, 8, dtype=torch.float64), 4
    same, angles = RotaryPositions(8, base=base)(x[:, 0], start)
    assert same is not None
    assert torch.equal(same, x[:, 0])
    turned = rotate(x, angles)
    pairs = torch.complex(x[..., :4], x[..., 4:])  # features i and i + 4
    for t in range(7):
        for i in range(4):
            angle = torch.tensor((start + t) * base ** (-2 * i / 8), dtype=torch.float64)
            wanted = pairs[:, :, t, i] * torch.polar(torch.ones_like(angle), angle)
            found = torch.complex(turned[:, :, t, i], turned[:, :, t, i + 4])
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_products_of_rotated_vectors_depend_on_the_distance_alone() -> None:
    q, k = (torch.randn(1, 1, 1, 8, dtype=torch.float64).expand(-1, -1, 10, -1) for _ in range(2))
    near, far = (RotaryPositions(8)(q[:, 0], start)[1] for start in (0, 3000))
    scores = [rotate(q, angles) @ rotate(k, angles).mT for angles in (near, far)]
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-10)
    assert scores[0][0, 0].diagonal().std() < 1e-12
    assert scores[0][0, 0, 0].std() > 1e-3
    torch.testing.assert_close(rotate(q, far).norm(dim=3), q.norm(dim=3), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_angles_of_half_precision_are_exact_and_its_results_stay_half(dtype: torch.dtype) -> None:
    x = torch.randn(1, 1, 3, 8)
    for start in (0, 1000):
        wanted = rotate(x.to(dtype).double(), RotaryPositions(8)(x[:, 0].double(), start)[1])
        found = rotate(x.to(dtype), RotaryPositions(8)(x[:, 0].to(dtype), start)[1])
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), wanted, rtol=1e-2, atol=1e-3)
    added = SinusoidalPositions()(torch.zeros(1, 3, 8, dtype=dtype), 1000)[0]
    assert added.dtype == dtype
    wanted = SinusoidalPositions()(torch.zeros(1, 3, 8, dtype=torch.float64), 1000)[0]
    torch.testing.assert_close(added.double(), wanted, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("kind", ["sinusoidal", "learned", "rotary"])
def test_positions_by_name_know_where_a_text_goes_on(kind: Any) -> None:
    positions, x = build_positions(kind, 8, 2, max_length=6), torch.randn(2, 6, 8)
    whole, parts = positions(x), [positions(x[:, :4], 0), positions(x[:, 4:], 4)]
    assert torch.equal(whole[0], torch.cat([part[0] for part in parts], dim=1))
    for i in range(2 if kind == "rotary" else 0):
        assert torch.equal(whole[1][i], torch.cat([part[1][i] for part in parts]))
    for start, length in ((0, 7), (4, 3), (6, 1)):
        with pytest.raises(ValueError, match=r"a text of 7 tokens is longer than the 6 positions .* max_length=7"):
            positions(torch.randn(2, length, 8), start)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rotary", 6, 2), r"the size of a head \(width / num_heads\) must be even, got 3"),
        (("learned", 8, 2), "set max_length"),
        (("learned", 8, 2, 0), "max_length must be 1 or more, got 0"),
        (("rotary", 8, 2, 0), "max_length must be 1 or more, got 0"),
        (("sinusoidal", 8, 2, 0), "max_length must be 1 or more, got 0"),
        (("absolute", 8, 2), "positions must be one of sinusoidal, learned, rotary, got 'absolute'"),
    ],
)
def test_bad_arguments(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_positions(*arguments)
