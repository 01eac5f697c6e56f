"""Decoding: make sequences with any net that goes through them step by step and gives logits of the next token.

- :func:`greedy`: the most probable token at each step.
- :func:`beam_search`: the best of several hypotheses, batched over examples and hypotheses.
- :func:`sample`: draws, with temperature, top-k, top-p and min-p; :func:`stream` yields them as they come.

A net needs ``step(tokens, state)``, and ``reorder_state(state, index)`` for beam search: see :class:`zoo.Decodable`. What ends a
sequence, how long it is, what it must begin with and must not hold is the same for all: see :class:`Rules`.

Where a net's step takes more than tokens, an object with a step that adds it will do, for greedy search and sampling:
``types.SimpleNamespace(step=lambda tokens, state: net.step((tokens, image), state))``. In a beam the rows are others at each
step, so there it must be part of the state.

Example:
    >>> import torch
    >>> from torch import nn
    >>> from zoo.blocks import reorder_rows
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.cell, self.fc = nn.GRUCell(5, 8), nn.Linear(8, 5)
    ...     def step(self, x_t, state):
    ...         state = self.cell(nn.functional.one_hot(x_t, 5).float(), state)
    ...         return self.fc(state), state
    ...     def reorder_state(self, state, index):
    ...         return reorder_rows(state, index)
    >>> found = beam_search(Net(), torch.zeros(2, 8), torch.tensor([0, 1]), 10, beam=3, best=2, end=4)
    >>> found.scores.shape
    torch.Size([2, 2])
"""

from zoo.decoding.beam import beam_search
from zoo.decoding.rules import Decoded, RuleArguments, Rules
from zoo.decoding.sampling import greedy, sample, stream

__all__ = ["Decoded", "RuleArguments", "Rules", "beam_search", "greedy", "sample", "stream"]
