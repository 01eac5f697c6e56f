"""Dataloader of all datamodules."""

from typing import Any

from datamodules.internals import SteadyLoader


class ResumableLoader(SteadyLoader):
    """A loader that Lightning may resume in mid-epoch. It has no state: its sampler knows where to start."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: see :class:`~datamodules.TrainSampler`."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: see :class:`~datamodules.TrainSampler`."""
