"""Samplers that are pure functions, so that any run can be resumed or split over processes."""

import math
import random
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DistributedSampler, Sampler
from typing_extensions import override

_POOL = 50  # global batches that are sorted by length together


def generator_for(*key: int) -> torch.Generator:
    """Return a generator that is a pure function of integers >= 0, the last of them > 0."""
    (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(seed))


def seed_all(*key: int) -> None:
    """Seed the global generators of torch (CPU), NumPy and Python by integers, as in :func:`generator_for`.

    Call it inside Lightning's ``isolate_rng``, which restores them.
    """
    generator = generator_for(*key)
    torch.set_rng_state(generator.get_state())
    seed = generator.initial_seed() % 2**32
    np.random.seed(seed)  # noqa: NPY002 (transforms of others draw from it)
    random.seed(seed)


@dataclass
class TrainingEpoch:
    """Run seed and epoch. The random transforms of an example are a function of them and of its index."""

    seed: int
    epoch: int


class TrainSampler(DistributedSampler[int]):
    """Training examples in random order, a pure function of (seed, epoch, start).

    Rank r takes ``order[r::num_replicas]`` of the epoch's permutation, so the union of the ranks' k-th batches is the k-th
    batch of one process with the global batch ``batch_size * num_replicas``. The length is that of the whole epoch, also when it
    starts in the middle: the Trainer counts the batches that are done.

    With ``drop_last``, the last, incomplete global batch of an epoch is dropped (another one in each epoch, as the order changes).
    A dataset smaller than one global batch gives one smaller batch, of equal size on all ranks. Without it, the last global batch
    is short: its examples are spread over the ranks, which may have one more or less. A rank without any gets the index -1, which
    stands for an example that does not count (see :class:`~datamodules.Examples`).

    Args:
        dataset: Dataset to sample; only its length is used.
        batch_size: Number of examples in a batch of each process.
        seed: Seed of the run, >= 0.
        epoch: Epoch to start with; the Trainer sets later ones (``set_epoch``).
        start: Number of batches done in that epoch.
        num_replicas: Number of processes.
        rank: Rank of this process.
        drop_last: Whether to drop the last, incomplete global batch.

    Raises:
        ValueError: There are fewer examples than processes, with ``drop_last``.

    Example:
        >>> list(TrainSampler(range(8), batch_size=2)) == list(TrainSampler(range(8), batch_size=4))
        True
        >>> list(TrainSampler(range(8), batch_size=2, start=3)) == list(TrainSampler(range(8), batch_size=2))[6:]
        True
        >>> len(TrainSampler(range(8), batch_size=3)), len(TrainSampler(range(8), batch_size=3, drop_last=False))
        (6, 8)
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
        drop_last: bool = True,
    ) -> None:
        count = len(dataset)
        if drop_last and count < num_replicas:
            raise ValueError(
                f"{count} training examples are too few for {num_replicas} processes: give each at least one, "
                f"with --trainer.devices {max(count, 1)} or fewer"
            )
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, seed=seed)  # type: ignore[arg-type]
        batches = count // (batch_size * num_replicas)
        if drop_last:
            self.num_samples = batches * batch_size or count // num_replicas
        else:
            self.num_samples = _share(count, batch_size, num_replicas, rank)
        self.batch_size = batch_size
        self.epoch = epoch
        self.start = start

    @override
    def __iter__(self) -> Iterator[int]:
        mine = self.order()[self.rank :: self.num_replicas]
        return _numbers(torch.cat([mine, mine.new_tensor([-1])])[self.start * self.batch_size : self.num_samples])

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


class SimilarLengthSampler(TrainSampler):
    """Training examples in batches of similar length, whose padding is short; a pure function of (seed, epoch, start).

    The epoch's permutation is cut into pools of 50 global batches. Each pool is sorted by length and cut into batches, and the
    batches of all pools come in random order. So an epoch holds the very examples that it holds without this order, neighbors
    change from epoch to epoch, and the ranks of a batch have equally long examples. Without ``drop_last``, the examples that do not
    fill a last global batch stay as they are drawn, in a batch of mixed lengths.

    Args:
        lengths: Length of each example, ``(N,)``.
        batch_size: Number of examples in a batch of each process.
        **place: The other arguments of :class:`TrainSampler`.

    Example:
        >>> lengths = torch.tensor([9, 1, 8, 2, 7, 3])
        >>> sorted(lengths[batch].tolist() for batch in torch.tensor(list(SimilarLengthSampler(lengths, batch_size=2))).split(2))
        [[1, 2], [3, 7], [8, 9]]
    """

    def __init__(self, lengths: Tensor, batch_size: int, **place: Any) -> None:
        super().__init__(lengths, batch_size, **place)
        self.lengths = lengths

    @override
    def order(self) -> Tensor:
        drawn = super().order()
        size = self.batch_size * self.num_replicas
        whole = len(drawn) // size * size
        batches = [
            batch
            for pool in drawn[:whole].split(_POOL * size)
            for batch in pool[self.lengths[pool].argsort(stable=True)].split(size)
        ]
        places = torch.randperm(len(batches), generator=generator_for(self.seed, self.epoch, 5)).tolist()
        return torch.cat([*(batches[place] for place in places), drawn[whole:]])


class EpochSampler(DistributedSampler[Any]):
    """Another sampler for each epoch.

    It is a ``DistributedSampler``, so that Lightning does not wrap or replace a sampler that is not.

    Args:
        make: Returns the sampler of an epoch: ``make(epoch=..., start=...)``.
        dataset: Dataset to sample; only its length is used.
        epoch: Run seed and epoch to start with; it is updated with each epoch.
        start: Number of batches done in that epoch.
        num_replicas: Number of processes.
        rank: Rank of this process.

    Raises:
        ValueError: The sampler of a later epoch has another length.
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
        """Whether the sampler yields whole batches, lists of indices."""
        return isinstance(self.sampler, BatchSampler)

    @override
    def __iter__(self) -> Iterator[Any]:
        return iter(self.sampler)

    @override
    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]  # TypeError for a stream

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

    PyTorch's ``DistributedSampler`` repeats examples until all ranks have the same number, so metrics are wrong. Here ranks
    differ by up to one example. They have the same number of batches, though: Lightning refuses a loader without any, and
    ranks that communicate in each step must take equally many. A rank that would lack its last batch gets the index -1,
    which stands for an example that does not count (see :class:`~datamodules.Examples`).

    Args:
        dataset: Dataset to sample; only its length is used.
        batch_size: Number of examples in a batch of each process.
        num_replicas: Number of processes.
        rank: Rank of this process.

    Example:
        >>> list(EvaluationSampler(range(5), batch_size=2, num_replicas=2, rank=0))
        [0, 2, 4]
        >>> list(EvaluationSampler(range(5), batch_size=2, num_replicas=2, rank=1))
        [1, 3, -1]
    """

    def __init__(self, dataset: Sized, batch_size: int, *, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)  # type: ignore[arg-type]
        count = len(dataset)
        self._indices = range(rank, count, num_replicas)
        self._length = _share(count, batch_size, num_replicas, rank)

    @override
    def __iter__(self) -> Iterator[int]:
        return chain(self._indices, [-1] * (self._length - len(self._indices)))

    @override
    def __len__(self) -> int:
        return self._length


def _numbers(indices: Tensor) -> Iterator[int]:
    """Yield indices ``(N,)`` as Python's integers, of which all of a large epoch would fill the memory."""
    for part in indices.split(2**14):
        yield from part.tolist()


def _share(count: int, batch_size: int, num_replicas: int, rank: int) -> int:
    """Return how many of ``count`` indices a rank takes, with the one (-1) of a rank that would lack its last batch."""
    most, mine = math.ceil(count / num_replicas), len(range(rank, count, num_replicas))  # the most are those of rank 0
    return mine + (math.ceil(mine / batch_size) < math.ceil(most / batch_size))
