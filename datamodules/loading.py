"""From images in memory to batches: whole batches at once, in loaders that can start in mid-epoch."""

import signal
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from typing_extensions import override


class ImageDataset(Dataset):
    """Images and labels in memory, read a whole batch at once (``__getitems__``).

    An index -1 means: an example that does not count. A batch with one of them carries a third part, the weights 0 and 1.

    Args:
        images: uint8.
        labels: int64.

    Shape:
        images ``(N, C, H, W)``, labels ``(N,)``; a batch: ``(B, C, H, W)``, ``(B,)`` and, rarely, ``(B,)``.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        index = torch.tensor(indices)
        counts = index >= 0
        index = index.clamp(min=0)
        batch = self.images.index_select(0, index), self.labels.index_select(0, index)
        return batch if counts.all() else (*batch, counts.float())


class ResumableLoader(DataLoader):
    """A loader that tells Lightning that it can continue in mid-epoch. It has no state: its sampler knows where to start."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see :class:`~datamodules.TrainSampler`."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: see :class:`~datamodules.TrainSampler`."""


def batch_loader(dataset: ImageDataset, sampler: Sampler[int], batch_size: int, num_workers: int) -> ResumableLoader:
    """A loader of whole batches in the order of a sampler."""
    return ResumableLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=_identity,
        worker_init_fn=_leave_signals_to_the_main_process,
        # Only seeds workers, which draw nothing: that starting an epoch leaves the global generator alone is the point.
        generator=torch.Generator(),
    )


def _identity(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_main_process(worker: int) -> None:
    """A signal often goes to the whole process group; workers must live until the main process has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
