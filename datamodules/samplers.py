"""Which examples a process sees, and when: pure functions, so that any run can be continued or split over processes."""

import math
import random
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DistributedSampler, Sampler
from typing_extensions import override


def generator_for(*key: int) -> torch.Generator:
    """A generator that is a pure function of some integers >= 0, the last of them > 0; it touches no global state."""
    (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(seed))


def seed_all(*key: int) -> None:
    """Make the global generators of torch (CPU), NumPy and Python a pure function of ``key``: call it in ``isolate_rng``."""
    generator = generator_for(*key)
    torch.set_rng_state(generator.get_state())
    seed = generator.initial_seed() % 2**32
    np.random.seed(seed)  # noqa: NPY002 (others' transforms draw from it)
    random.seed(seed)


@dataclass
class TrainingEpoch:
    """The run seed and the epoch: with an example's index, what its random transforms are a function of."""

    seed: int
    epoch: int


class TrainSampler(DistributedSampler[int]):
    """The order of training: a pure function of (seed, epoch, start).

    Rank r takes ``order[r::num_replicas]`` of the epoch's permutation, so the union of the ranks' k-th batches is the k-th
    batch of one process with the global batch ``batch_size * num_replicas``. The last, incomplete global batch of an epoch
    is left out (another one in each epoch, as the order changes); a dataset smaller than one global batch gives one smaller
    batch, of equal size on all ranks. ``len`` is that of the whole epoch also when it starts in the middle: the Trainer
    adds the batches that are done by itself.

    Args:
        dataset: what is sampled; only its length is used.
        batch_size: examples a batch and process.
        seed: of the run, >= 0.
        epoch: the epoch to begin with; the Trainer sets the later ones (``set_epoch``).
        start: batches of that epoch that are done already.
        num_replicas: number of processes.
        rank: of this process.

    Raises:
        ValueError: fewer examples than processes.

    Example:
        >>> list(TrainSampler(range(8), batch_size=2)) == list(TrainSampler(range(8), batch_size=4))
        True
        >>> list(TrainSampler(range(8), batch_size=2, start=3)) == list(TrainSampler(range(8), batch_size=2))[6:]
        True
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        start: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        count = len(dataset)
        if count < num_replicas:
            raise ValueError(
                f"{count} training examples are too few for {num_replicas} processes: give each at least one, "
                f"with --trainer.devices {max(count, 1)} or fewer"
            )
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, seed=seed)  # type: ignore[arg-type]
        batches = count // (batch_size * num_replicas)
        self.num_samples = batches * batch_size or count // num_replicas
        self.batch_size = batch_size
        self.epoch = epoch
        self.start = start

    @override
    def __iter__(self) -> Iterator[int]:
        mine = self.order()[self.rank :: self.num_replicas][self.start * self.batch_size : self.num_samples]
        return iter(mine.tolist())

    def order(self) -> Tensor:
        """Return the indices of the epoch for all processes together, a function of ``seed`` and ``epoch``: ``(N,)``.

        A subclass that overrides it draws from ``generator_for(self.seed, self.epoch, 1)``.
        """
        return torch.randperm(len(self.dataset), generator=generator_for(self.seed, self.epoch, 1))  # type: ignore[arg-type]

    @override
    def __len__(self) -> int:
        return self.num_samples

    @override
    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.start = 0
        self.epoch = epoch


class EpochSampler(DistributedSampler[Any]):
    """Ask for the sampler of each epoch when it begins.

    It is a ``DistributedSampler`` so that Lightning does not replace the order of a sampler that is none.

    Args:
        make: Returns the sampler of an epoch, from its batch ``start`` on: ``make(epoch=..., start=...)``.
        dataset: What is sampled; only its length is used.
        epoch: Run seed and epoch to begin with; the epoch is kept up to date.
        start: Batches of that epoch that are done already.
        num_replicas: Number of processes.
        rank: Of this process.

    Raises:
        ValueError: The length of the sampler is another one in a later epoch.
    """

    def __init__(
        self,
        make: Callable[..., Sampler[Any]],
        dataset: Sized,
        epoch: TrainingEpoch,
        *,
        start: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, seed=epoch.seed)  # type: ignore[arg-type]
        self.make = make
        self.training = epoch
        self.epoch = epoch.epoch
        self.start = start
        self.sampler = make(epoch=self.epoch, start=start)

    @property
    def yields_batches(self) -> bool:
        """Whether the sampler gives lists of indices, whole batches."""
        return isinstance(self.sampler, BatchSampler)

    @override
    def __iter__(self) -> Iterator[Any]:
        return iter(self.sampler)

    @override
    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]  # a stream has none: TypeError

    @override
    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch = self.training.epoch = epoch
            self.start = 0
            before, self.sampler = _length(self.sampler), self.make(epoch=epoch, start=0)
            if (now := _length(self.sampler)) != before:
                raise ValueError(
                    f"make_sampler() gives a sampler of length {now} in epoch {epoch}, of {before} before: the Trainer counts the "
                    "batches of an epoch once, so keep their number, or give Trainer(reload_dataloaders_every_n_epochs=1)"
                )


def _length(sampler: Sampler[Any]) -> int | None:
    return len(sampler) if isinstance(sampler, Sized) else None


class EvaluationSampler(DistributedSampler[int]):
    """Every example exactly once, in order, over all processes: rank r takes ``r, r + num_replicas, ...``

    The stock sampler repeats examples until the ranks have equally many, so metrics are wrong. Here ranks differ by up to one
    example. All have the same number of BATCHES, though: Lightning refuses a loader without any, and ranks that share one
    model's parts meet at each. So a rank that would lack its last batch gets the index -1 instead, an example that does not
    count (see :class:`~datamodules.Examples`).

    Args:
        dataset: what is sampled; only its length is used.
        batch_size: examples a batch and process.
        num_replicas: number of processes.
        rank: of this process.

    Example:
        >>> list(EvaluationSampler(range(5), batch_size=2, num_replicas=2, rank=0))
        [0, 2, 4]
        >>> list(EvaluationSampler(range(5), batch_size=2, num_replicas=2, rank=1))
        [1, 3, -1]
    """

    def __init__(self, dataset: Sized, batch_size: int, *, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)  # type: ignore[arg-type]
        count = len(dataset)
        most = math.ceil(count / num_replicas)  # on rank 0
        self._indices = list(range(rank, count, num_replicas))
        if math.ceil(most / batch_size) > math.ceil(len(self._indices) / batch_size):
            self._indices.append(-1)

    @override
    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    @override
    def __len__(self) -> int:
        return len(self._indices)
