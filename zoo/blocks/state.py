"""States of nets that go through a series step by step."""

from typing import Any

from torch import Tensor

from zoo.internals import tree_map


def reorder_rows(state: Any, index: Tensor, batch_axis: int = 0) -> Any:
    """Return a state whose row n is row ``index[n]`` of the given one: what ``reorder_state`` does in most nets.

    Args:
        state: Tensors in tuples, lists, dicts and NamedTuples, nested as you like; what is no tensor, such as a number of steps,
            stays.
        index: int64 ``(N,)``; rows may be repeated and left out.
        batch_axis: The axis of all tensors that holds the rows: 1 in the states of ``nn.GRU`` and ``nn.LSTM``.

    Example:
        >>> import torch
        >>> h, c = reorder_rows((torch.zeros(2, 3, 4), torch.ones(2, 3, 4)), torch.tensor([2, 2, 0, 1]), batch_axis=1)
        >>> h.shape
        torch.Size([2, 4, 4])
    """
    return tree_map(lambda x: x.index_select(batch_axis, index) if isinstance(x, Tensor) else x, state)
