"""Whether the inputs of validation are like those of training, and not the same: sums that stay on the device."""

import math
from typing import Any

import torch
from torch import Tensor

from callbacks.internals import leaves

_MASK = (1 << 64) - 1


class InputStatistics:
    """Collect the inputs of training and validation: a digest of each example, and sums of each value.

    A batch is ``(x, y, ...)`` or x; of x, all tensors make the digest, and the first one of floats or bytes the sums.
    """

    def __init__(self) -> None:
        self._digests: tuple[list[Tensor], list[Tensor]] = ([], [])  # of training and validation
        self._sums: tuple[list[Any], list[Any]] = ([0, None, None], [0, None, None])  # number, sum, sum of squares
        self._can_compare = True

    def add_training(self, batch: Any) -> None:
        """Add a batch of training."""
        self._add(batch, 0)

    def add_validation(self, batch: Any) -> None:
        """Add a batch of validation."""
        self._add(batch, 1)

    @torch.no_grad()
    def _add(self, batch: Any, which: int) -> None:
        x = batch[0] if type(batch) in (tuple, list) else batch
        tensors = [leaf for leaf in leaves(x) if isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.numel()]
        if not tensors or any(len(t) != len(tensors[0]) for t in tensors):
            return
        total = torch.zeros(len(tensors[0]), dtype=torch.int64, device=tensors[0].device)
        for number, tensor in enumerate(tensors):
            total += _digest(tensor) * (2 * number + 1)
        self._digests[which].append(total)
        values = next((t for t in tensors if t.is_floating_point() or t.dtype == torch.uint8), None)
        if values is not None:
            self._add_values(values, which)

    def _add_values(self, x: Tensor, which: int) -> None:
        x = x.flatten(1) if x.ndim > 1 else x[:, None]
        x = x.float() if x.device.type == "mps" else x.double()
        held = self._sums[which]
        if held[1] is not None and held[1].shape != x.shape[1:]:
            self._can_compare = False  # texts and series of several lengths
            return
        held[0] += len(x)
        for place, value in ((1, x.sum(0)), (2, x.square().sum(0))):
            held[place] = value if held[place] is None else held[place] + value

    def compare(self) -> dict[str, float]:
        """Return what is known of ``overlap``, ``repeats``, ``shift`` and ``spread``, see :class:`callbacks.diagnoses.Record`."""
        found: dict[str, float] = {}
        train, val = (torch.cat(parts).cpu() if parts else torch.empty(0, dtype=torch.int64) for parts in self._digests)
        if len(train) and len(val):
            found["overlap"] = float(torch.isin(val, train).double().mean())
            found["repeats"] = 1 - len(train.unique()) / len(train)
        (n, total, squares), (m, other, other_squares) = self._sums
        if not self._can_compare or min(n, m) < 2 or total.shape != other.shape:
            return found
        means = total / n, other / m
        variances = (squares / n - means[0].square()).clamp(min=0), (other_squares / m - means[1].square()).clamp(min=0)
        whole = float(variances[0].sum())
        if whole > 0:
            distance = float((means[1] - means[0]).square().sum()) / whole
            found["shift"] = math.sqrt(max(0.0, distance - 1 / n - 1 / m))  # without what chance makes of it
            found["spread"] = float(variances[1].sum()) / whole
        return found


def _digest(x: Tensor) -> Tensor:
    """Return a number of each example that tells different ones apart: ``(B, ...)`` -> int64 ``(B,)``."""
    x = x.detach().contiguous().flatten(1) if x.ndim > 1 else x.detach().contiguous()[:, None]
    if x.is_floating_point():
        x = x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])
    place = torch.arange(1, x.shape[1] + 1, dtype=torch.int64, device=x.device)
    factor = _signed(
        0x9E3779B97F4A7C15
    )  # splitmix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators")
    mixed = place * factor
    for shift, more in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> shift)) * _signed(more)
    return (x.to(torch.int64) * mixed).sum(dim=1)


def _signed(number: int) -> int:
    return number - (_MASK + 1) if number > _MASK >> 1 else number
