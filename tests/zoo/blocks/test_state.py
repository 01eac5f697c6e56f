"""Rows of a state in another order."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.blocks import reorder_rows


class Cache(NamedTuple):
    keys: Tensor
    length: int


def test_all_tensors_of_a_state_are_reordered() -> None:
    x, index = torch.arange(24.0).reshape(2, 3, 4), torch.tensor([2, 0, 0, 2])
    state: dict[str, Any] = {"layers": [(x, x + 100)], "cache": Cache(-x, 7), "nothing": None}
    got = reorder_rows(state, index, batch_axis=1)
    assert torch.equal(got["layers"][0][0], x[:, index])
    assert torch.equal(got["layers"][0][1], x[:, index] + 100)
    assert isinstance(got["cache"], Cache)
    assert torch.equal(got["cache"].keys, -x[:, index])
    assert (got["cache"].length, got["nothing"]) == (7, None)
    assert torch.equal(reorder_rows(x, torch.tensor([1])), x[1:])
