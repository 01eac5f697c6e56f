"""Conditions beside an input, and codes of a size."""

import pytest
import torch

from zoo.blocks.generative import check_latent_dim, concat_conditions, one_hot


def test_one_hot() -> None:
    codes = one_hot(torch.tensor([2, 0]), 3, torch.float64)
    assert codes.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert codes.dtype == torch.float64
    with pytest.raises(ValueError, match=r"needs the class y of each example, in 0\.\.2, got none"):
        one_hot(None, 3, torch.float32)
    with pytest.raises(RuntimeError, match="Class values must be smaller than num_classes"):
        one_hot(torch.tensor([3]), 3, torch.float32)


def test_conditions_are_columns_or_constant_maps() -> None:
    conditions = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    rows = concat_conditions(torch.full((2, 1), 7.0), conditions)
    assert rows.tolist() == [[7, 0, 1], [7, 1, 0]]
    maps = concat_conditions(torch.full((2, 1, 2, 3), 7.0), conditions)
    assert maps[0].flatten(1).tolist() == [[7] * 6, [0] * 6, [1] * 6]
    assert maps[1].flatten(1).tolist() == [[7] * 6, [1] * 6, [0] * 6]
    x = torch.rand(2, 3)
    assert concat_conditions(x, None) is x


@pytest.mark.parametrize("latent_dim", [0, -1])
def test_a_code_needs_a_number(latent_dim: int) -> None:
    with pytest.raises(ValueError, match=f"latent_dim must be 1 or more, got {latent_dim}"):
        check_latent_dim(latent_dim)
