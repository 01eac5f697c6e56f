"""Draws that are a function of the example: repeatable, whatever the batch, and as good as drawn."""

import pytest
import torch
from scipy import stats

from zoo.blocks.noise import normal_of, uniform_of


@pytest.mark.parametrize("draw", [normal_of, uniform_of])
def test_a_draw_is_the_examples_own(draw: object) -> None:
    x, state = torch.rand(6, 1, 4, 4), torch.get_rng_state()
    whole = draw(x, 5)
    assert whole.shape == (6, 5)
    assert torch.equal(torch.cat([draw(x[:2], 5), draw(x[2:], 5)]), whole)
    assert torch.equal(draw(x.flip(0), 5).flip(0), whole)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(draw(x, 5, seed=1), whole)
    assert len(whole.unique()) == 30
    assert draw(x.double(), 5).dtype == torch.float64


def test_a_pixel_more_or_less_is_another_example() -> None:
    x = torch.zeros(65, 64)
    x[torch.arange(64), torch.arange(64)] = 1.0  # the same values in all, at other places; the last one has none
    assert len(uniform_of(x, 1).unique()) == 65


def test_the_distributions() -> None:
    x = torch.arange(4000.0)[:, None]  # hashes of neighbors must not be neighbors
    u, z = uniform_of(x, 8), normal_of(x, 8)
    assert stats.kstest(u.flatten(), "uniform").pvalue > 0.01
    assert stats.kstest(z.flatten(), "norm").pvalue > 0.01
    assert 0 < u.min() < u.max() < 1
    for draws in (u, z):
        columns = torch.corrcoef(draws.T)
        rows = torch.corrcoef(torch.cat([draws[:-1], draws[1:]], dim=1).T)
        assert (columns - torch.eye(8)).abs().max() < 0.06
        assert (rows - torch.eye(16)).abs().max() < 0.06


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loses_nothing_but_digits(dtype: torch.dtype) -> None:
    """The trainer's "16-true" and "bf16-true" make it the default type, in which 2^23 is infinite or has 8 bits."""
    x = torch.arange(500.0)[:, None]
    wanted = normal_of(x, 8)
    torch.set_default_dtype(dtype)
    try:
        got = normal_of(x.to(dtype), 8)
    finally:
        torch.set_default_dtype(torch.float32)
    same = (x.to(dtype).float() == x).flatten()  # the others are other examples
    torch.testing.assert_close(got[same], wanted[same].to(dtype))
