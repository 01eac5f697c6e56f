"""Exact means over the examples of an epoch, for one small tensor operation a step."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class RunningMeans:
    """Means of named quantities over examples, from sums that are kept on the device and read only when they are logged.

    A window reaches from one row of the log to the next (``train/loss_step``), an epoch over all windows (``train/loss``). A
    window is summed in float32 on the device, the epoch in float64 on the host.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.reset()

    def reset(self) -> None:
        """Start a new epoch."""
        self._window: Tensor | None = None  # a sum for each name
        self._count: float | Tensor = 0.0  # number of examples in the window
        self._epoch: list[float] = []  # a sum for each name, then the number of examples

    def update(self, means: dict[str, Tensor], count: int | Tensor) -> None:
        """Add a batch.

        Args:
            means: Means over the batch by name, scalars.
            count: Number of examples that they are means over, a tensor if it is known on the device only.
        """
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
        """Close the window, and return its means over all processes; empty if there was no example.

        Args:
            reduce: Sums a tensor over the processes.
        """
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
        """Close the window, and return the means over the epoch so far, over all processes."""
        self.window(reduce)
        return self._means(self._epoch) if self._epoch else {}

    def _means(self, sums: list[float]) -> dict[str, float]:
        """Divide sums by the last of them, the number of examples; there may be none (all pixels ignored)."""
        return {name: s / sums[-1] for name, s in zip(self.names, sums, strict=False)} if sums[-1] else {}

    def state_dict(self, reduce: Callable[[Tensor], Tensor], looked_at: bool = False) -> dict[str, Any]:
        """Return the state as plain data, summed over the processes.

        Args:
            reduce: Sums a tensor over the processes.
            looked_at: Whether the window is about to be closed, so that its sums belong to the epoch.
        """
        window = self._window_sums(reduce)
        if looked_at and window is not None:
            return {"names": self.names, "window": None, "epoch": _added(self._epoch, window)}
        return {"names": self.names, "window": window, "epoch": list(self._epoch)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device, first_rank: bool) -> None:
        """Continue from a state.

        Args:
            state: What :meth:`state_dict` returned.
            device: Device of the sums.
            first_rank: Whether this is the first process: it alone continues the window, which is a sum over all.
        """
        self.names, self._epoch = list(state["names"]), list(state["epoch"])
        window = state["window"]
        self._window, self._count = None, 0.0
        if window is not None:  # on all processes, since all take part in the next sum
            self._window, self._count = torch.tensor(window[:-1], device=device) * first_rank, window[-1] * first_rank


def _added(epoch: list[float], window: list[float]) -> list[float]:
    return [a + b for a, b in zip(epoch or [0.0] * len(window), window, strict=True)]
