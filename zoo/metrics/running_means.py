"""Exact means over the examples of an epoch, at the price of one small tensor operation a step."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class RunningMeans:
    """Sums of named quantities over examples, kept on the device and read only when somebody looks.

    A window reaches from one look to the next (``train/loss_step``), the epoch over all windows (``train/loss``). A window
    is summed in float32 on the device, the epoch in float64 on the host.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new epoch."""
        self._window: Tensor | None = None  # sums of the names
        self._count: float | Tensor = 0.0  # examples in the window
        self._epoch: list[float] = []  # sums of the names, then the number of examples

    def update(self, means: dict[str, Tensor], count: int | Tensor) -> None:
        """Add a batch of ``count`` examples (a tensor where only the device knows); ``means`` are scalars, means over the batch."""
        self.names = list(means)
        batch = torch.stack([mean.detach() for mean in means.values()])
        if self._window is None:
            self._window = torch.zeros_like(batch, dtype=torch.float32)
        if isinstance(count, Tensor):
            self._window.add_(batch * count)
        else:
            self._window.add_(batch, alpha=count)
        self._count = self._count + count

    def window(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means since the last look, over all ranks (``reduce`` sums over them); empty if there was no example."""
        sums = self._window_sums(reduce)
        if sums is None:
            return {}
        self._window, self._count = None, 0.0
        self._epoch = _added(self._epoch, sums)
        return self._means(sums)

    def _window_sums(self, reduce: Callable[[Tensor], Tensor]) -> list[float] | None:
        if self._window is None:
            return None
        count = torch.as_tensor(self._count, dtype=self._window.dtype, device=self._window.device)
        return reduce(torch.cat([self._window, count.view(1)])).tolist()

    def epoch(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means over the epoch so far, over all ranks."""
        self.window(reduce)
        return self._means(self._epoch) if self._epoch else {}

    def _means(self, sums: list[float]) -> dict[str, float]:
        """Sums, the last one of examples -> means; none of no examples (all pixels ignored)."""
        return {name: s / sums[-1] for name, s in zip(self.names, sums, strict=False)} if sums[-1] else {}

    def state_dict(self, reduce: Callable[[Tensor], Tensor], looked_at: bool = False) -> dict[str, Any]:
        """Plain data, summed over the ranks; ``looked_at``: as it will be after the look at the window that is due."""
        window = self._window_sums(reduce)
        if looked_at and window is not None:
            return {"names": self.names, "window": None, "epoch": _added(self._epoch, window)}
        return {"names": self.names, "window": window, "epoch": list(self._epoch)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device, first_rank: bool) -> None:
        """Continue from a state; the unfinished window is a sum over ranks, so only the first one takes it up."""
        self.names, self._epoch = list(state["names"]), list(state["epoch"])
        window = state["window"]
        self._window, self._count = None, 0.0
        if window is not None:  # on every rank, or the ranks would not meet at the next sum
            self._window, self._count = torch.tensor(window[:-1], device=device) * first_rank, window[-1] * first_rank


def _added(epoch: list[float], window: list[float]) -> list[float]:
    return [a + b for a, b in zip(epoch or [0.0] * len(window), window, strict=True)]
