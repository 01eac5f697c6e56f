"""The base of all datamodules: splits, order of training, evaluation without repeated examples, resuming."""

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal, Self

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Sampler
from typing_extensions import override

from datamodules.checks import check_integer, check_share
from datamodules.examples import Examples
from datamodules.internals import finished_epochs, is_fitting, trained_batches_of_epoch
from datamodules.loader import ResumableLoader
from datamodules.samplers import EpochSampler, EvaluationSampler, TrainingEpoch, TrainSampler
from datamodules.splits import fold, held_out

_FOLD: ContextVar[tuple[int, int] | None] = ContextVar("fold", default=None)


@contextmanager
def use_fold(number: int, of: int) -> Iterator[None]:
    """Let datamodules that are built in the block validate on one of k folds of their training part, in place of ``val_fraction``.

    The other k - 1 folds train. The test part stays what it is. Folds are stratified by class where there are classes, chosen by
    ``split_seed``, disjoint, and together the whole training part. Statistics, encodings and vocabularies are those of the training
    part that a fold leaves. ``zoo fit RECIPE --folds 5`` trains on each fold in turn.

    Args:
        number: Which fold validates, in 1..of.
        of: Number of folds k, at least 2.

    Raises:
        ValueError: An argument is out of its range. When the data are set up: a class has fewer than k examples; or the validation
            part is given by itself, or comes later in time, as that of a series.

    Example:
        >>> from datamodules import DigitsDataModule
        >>> with use_fold(2, 5):
        ...     data = DigitsDataModule()
        >>> data.setup("fit")
        >>> data.data_identity
        'fingerprint ee3addc8b216752c (1149 train / 288 val)'
    """
    check_integer("of", of, 2)
    check_integer("number", number, 1, of)
    token = _FOLD.set((number, of))
    try:
        yield
    finally:
        _FOLD.reset(token)


class DataModule(LightningDataModule):
    """Split, order and load the examples that a subclass gives.

    A batch is ``(x, y)`` or ``(x, y, weight)``. The weight has shape ``(B,)``, or that of the targets where some targets of an
    example count and others do not; 0 means that it does not count. Inputs or targets of several tensors are a NamedTuple with
    named fields. By default, a batch has a weight only where a process has run out of examples, in evaluation or in the last batch
    of an epoch without ``drop_last``; :meth:`collate` may add one.

    The order of training is a pure function of (run seed, epoch, position in the global batch). So a stopped run continues
    exactly, with any number of workers, and several processes see what one process with the same global batch would. The run seed
    is that of ``seed_everything`` (otherwise it is drawn) and is saved in checkpoints.

    A subclass defines :meth:`examples` and ``input_shape``, sets ``class_names`` where there are classes, and may define
    :meth:`ready`, :meth:`describe`, :meth:`labels`, :meth:`make_sampler` and :meth:`collate`.

    Args:
        batch_size: Number of examples in a batch of each process: the global batch is ``batch_size * devices * nodes``.
        num_workers: Number of loading processes of each process; 0 is the fastest for data in memory.
        val_fraction: Share of the training part that is held out for validation, stratified by class, in [0, 1).
        split_seed: Seed of the choice of held-out examples, apart from the run's seed so that runs can be compared.
        drop_last: Whether an epoch leaves out the training examples that do not fill a last global batch (other ones in each
            epoch), so that all batches have the same size. False: the last batch is smaller, and each example is seen in each
            epoch. Evaluation always sees all.

    Attributes:
        mean, std: Statistics of the training split, one number for each channel or column, after ``setup("fit")``.
        class_counts: Number of examples of each class in the training split, after ``setup("fit")``: by :meth:`labels`, or by
            targets ``(N, K)`` of zeros and ones, one for each of K classes; None where there are neither.
        seen: Smallest and largest values in the training split, of columns or of single images' mean and deviation, after
            ``setup("fit")``; None where :meth:`describe` does not set it. A model keeps them (in its ``preparation``), and
            ``zoo predict`` warns of an input that is far from them.
        fingerprint: 16 hexadecimal digits that identify the training data and their split, after ``setup("fit")``.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument has another type.
    """

    class_names: list[str] | None = None

    def __init__(
        self,
        batch_size: int = 64,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        drop_last: bool = True,
    ) -> None:
        super().__init__()
        check_integer("batch_size", batch_size, 1)
        check_integer("num_workers", num_workers, 0)
        check_share("val_fraction", val_fraction, "the training part")
        check_integer("split_seed", split_seed, 0, 2**32 - 1)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.drop_last = drop_last
        self.mean: Tensor | None = None
        self.std: Tensor | None = None
        self.class_counts: list[int] | None = None
        self.fingerprint: str | None = None
        self.seen: tuple[Tensor, Tensor] | None = None
        self._parts: dict[str, Examples] = {}  # by "train", "val", "test"
        self._seed = 0
        self._resume: tuple[int, int] | None = None  # (epoch, batches done in it) of a checkpoint
        self._batch_sizes: Callable[[int], int] | None = None  # of each epoch, see use_batch_sizes
        self._fold = _FOLD.get()
        self._has_folds = False  # whether the validation part was chosen by hold_out

    # What a subclass defines ----------------------------------------------------------------------------------------

    def examples(self, part: Literal["train", "test"]) -> Examples:
        """Return the whole training or test part."""
        raise TypeError(f"{type(self).__name__} must define examples(part), which returns its training or test part")

    def ready(self, examples: Examples) -> Examples:
        """Return the examples of a split as they are trained on or evaluated; what takes long is done here, once."""
        return examples

    def describe(self, train: Examples) -> None:
        """Set what is computed from the training split alone: ``mean``, ``std``; ``class_counts`` if :meth:`labels` has none."""

    def labels(self, examples: Examples) -> Tensor | None:
        """Return the int64 classes ``(N,)`` by which examples are stratified and counted; None if they have no single class.

        By default, these are the targets, if ``class_names`` is set and the targets are integers ``(N,)``. A subclass whose targets
        are integers of another kind, such as lengths, overrides it to return the classes or None.
        """
        y = examples.y
        single = isinstance(y, Tensor) and y.ndim == 1 and not y.is_floating_point() and y.dtype != torch.bool
        return y.long() if single and self.class_names is not None else None

    def make_sampler(
        self, dataset: Examples, *, seed: int, epoch: int, start: int, num_replicas: int, rank: int
    ) -> Sampler[Any]:
        """Return the sampler of a training epoch. It is called once for each epoch.

        What the sampler yields must be a pure function of the arguments, so that a run resumes exactly:

        - The order is decided over the global batch, that of all processes, and cut by rank afterwards: ``rank`` takes the
          places ``rank::num_replicas`` of each global batch, whose size ``num_replicas`` divides. So several processes train
          like one.
        - ``start`` batches of the epoch are done: the sampler starts with the next one. Its length, if it has one, is still that
          of the whole epoch, and the same in all epochs.
        - Random numbers come from a generator of its own, such as ``datamodules.samplers.generator_for(seed, epoch, 1)``.

        A ``torch.utils.data.BatchSampler`` yields whole batches, lists of indices, of any size; any other sampler yields
        indices, ``batch_size`` of which make a batch. A sampler without a length is a stream: if it never ends, the Trainer
        needs ``max_steps``. To change only the order of the examples, return a :class:`~datamodules.TrainSampler` that overrides
        :meth:`~datamodules.TrainSampler.order`. ``Trainer(overfit_batches=...)`` takes the first batches of the data in their
        order and does not use this sampler.

        Args:
            dataset: Training examples.
            seed: Seed of the run.
            epoch: Number of epochs done.
            start: Number of batches done in this epoch.
            num_replicas: Number of processes that see different data.
            rank: Rank of this process among them.
        """
        return TrainSampler(
            dataset,
            self.batch_size,
            seed=seed,
            epoch=epoch,
            start=start,
            num_replicas=num_replicas,
            rank=rank,
            drop_last=self.drop_last,
        )

    def collate(self, batch: Any) -> Any:
        """Return the batch for a step, for example with padding cut to the longest example.

        It is called in training and evaluation, in the worker processes if there are any, on a copy of the datamodule without
        trainer and examples. ``batch`` is ``(x, y)`` or, rarely, ``(x, y, weight)``: keep what follows y.
        """
        return batch

    @property
    def num_classes(self) -> int | None:
        """Number of classes K, labels are 0..K-1; None where the target is no class."""
        return None if self.class_names is None else len(self.class_names)

    @property
    def input_file(self) -> str | None:
        """An input file of the user's, which shows what ``zoo predict`` takes; None where the data are no such files."""
        return None

    @property
    def seen_in_training(self) -> dict[str, Any]:
        """The attribute ``seen`` as plain data, a part of ``preparation``; empty before ``setup("fit")``."""
        return {} if self.seen is None else {"seen": [values.tolist() for values in self.seen]}

    @property
    def has_test(self) -> bool:
        """Whether there is a test part; without one, ``zoo fit`` ends with the validation of the best checkpoint."""
        return True

    @property
    def data_identity(self) -> str | None:
        """Identity of the data in a run's config and checkpoints: "fingerprint 0123456789abcdef (1293 train / 144 val)"."""
        if self.fingerprint is None:
            return None
        return f"fingerprint {self.fingerprint} ({len(self._parts['train'])} train / {len(self._parts['val'])} val)"

    # Splits ---------------------------------------------------------------------------------------------------------

    @override
    def setup(self, stage: str | None = None) -> None:
        if stage in ("fit", None):
            self._resume = None  # a checkpoint to resume from is loaded after this
            self._seed = self._run_seed()
        if stage in ("fit", "validate", None) and "train" not in self._parts:
            examples = self.examples("train")
            validates = self.validation_mask(examples)
            if self._fold is not None and not self._has_folds:
                raise ValueError(
                    f"{type(self).__name__} has no folds, because its validation part is given by itself or comes later in time: "
                    "train without folds, or give it one training part of examples in any order"
                )
            self.fingerprint = examples.fingerprint(validates)
            self._parts["train"] = self.ready(examples.subset(~validates))
            self._parts["val"] = self.ready(examples.subset(validates))
            self.describe(self._parts["train"])
            if self.class_counts is None:
                self.class_counts = self._count_classes(self._parts["train"])
        if stage in ("fit", None) and self.trainer is not None and not len(self._parts["val"]):
            self.trainer.limit_val_batches = 0  # or it would warn of an empty loader
        if (stage in ("test", "predict") or (stage is None and self.has_test)) and "test" not in self._parts:
            self._parts["test"] = self.ready(self.examples("test"))

    def validation_mask(self, examples: Examples) -> Tensor:
        """Return the mask ``(N,)`` of the examples of the training part that validate."""
        return self.hold_out(len(examples), self._checked_labels(examples))

    def hold_out(self, count: int, labels: Tensor | None = None, things: str = "examples") -> Tensor:
        """Return a mask ``(count,)`` that is True for the things that validate: ``val_fraction`` of them, or a fold.

        Args:
            count: Number of examples, or of other things that stay together, such as images with several captions.
            labels: Classes to stratify by, int64 ``(count,)``; None does not stratify.
            things: What they are, for the error.

        Raises:
            ValueError: There are too few (of a class) for both parts.
        """
        if self._fold is None:
            return held_out("val_fraction", self.val_fraction, count, self.split_seed, labels, things)
        self._has_folds = True
        return fold(*self._fold, count, self.split_seed, labels, self.class_names)

    def holds_out(self, part: Literal["val", "test"]) -> bool:
        """Return whether a part is split off the training part; for subclasses that have a ``test_fraction``."""
        if part == "val":
            return self._fold is not None or self.val_fraction > 0
        return getattr(self, "test_fraction", 0) > 0

    def _checked_labels(self, examples: Examples) -> Tensor | None:
        """Return the :meth:`labels`.

        Raises:
            ValueError: they are not one int64 class >= 0 for each example.
        """
        labels = self.labels(examples)
        if labels is not None and (
            labels.shape != (len(examples),) or labels.dtype != torch.int64 or (len(labels) and int(labels.min()) < 0)
        ):
            raise ValueError(
                f"labels() of {type(self).__name__} must be int64 classes >= 0 of shape ({len(examples)},), or None, got "
                f"{labels.dtype} {tuple(labels.shape)}"
            )
        return labels

    def _count_classes(self, train: Examples) -> list[int] | None:
        """Return the number of examples of each class; None where the targets are no classes."""
        if self.num_classes is None:
            return None
        labels, y = self._checked_labels(train), train.y
        if labels is not None:
            return torch.bincount(labels, minlength=self.num_classes).tolist()
        if isinstance(y, Tensor) and y.shape[1:] == (self.num_classes,) and bool(((y == 0) | (y == 1)).all()):
            return y.sum(0).long().tolist()
        return None

    # Loaders --------------------------------------------------------------------------------------------------------

    @override
    def train_dataloader(self) -> DataLoader:
        epoch, start = self._position()
        replica = self._replica_kwargs()
        training = TrainingEpoch(self._seed, epoch)
        dataset = self._part("train").for_training(training)
        overfits = getattr(self.trainer, "overfit_batches", 0) > 0  # Lightning will replace our sampler
        hook = DataModule.make_sampler if overfits else type(self).make_sampler
        sized = self._sized(self._size_in(epoch))
        make = partial(hook, sized, dataset, seed=self._seed, **replica)
        sampler = EpochSampler(make, dataset, training, start=start, **replica)
        return self._loader(dataset, sampler, None if sampler.yields_batches else sized.batch_size)

    def use_batch_sizes(self, of_epoch: Callable[[int], int] | None) -> None:
        """Let training batches have another size in some epochs (:class:`callbacks.BatchSizeSchedule`).

        It holds for loaders that are asked for afterwards. Evaluation keeps ``batch_size``.

        Args:
            of_epoch: The number of examples in a batch of each process in an epoch, from 0; None: ``batch_size`` in all.
        """
        self._batch_sizes = of_epoch

    def count_batches(self, batch_size: int) -> int:
        """Return the number of batches of a training epoch with that many examples in a batch of each process.

        Raises:
            TypeError: The sampler is a stream, without a length.
        """
        sized, dataset = self._sized(batch_size), self._part("train")
        sampler: Any = type(self).make_sampler(
            sized, dataset, seed=self._seed, epoch=0, start=0, **self._replica_kwargs()
        )
        return len(sampler) if isinstance(sampler, BatchSampler) else -(-len(sampler) // batch_size)

    def _size_in(self, epoch: int) -> int:
        return self.batch_size if self._batch_sizes is None else self._batch_sizes(epoch)

    def _sized(self, batch_size: int) -> Self:
        """Return itself, or a copy with another batch size."""
        if batch_size == self.batch_size:
            return self
        other = copy.copy(self)
        other.batch_size = batch_size
        return other

    @override
    def val_dataloader(self) -> Any:
        return self._evaluation_loader("val") if len(self._part("val")) else []

    @override
    def test_dataloader(self) -> DataLoader:
        return self._evaluation_loader("test")

    @override
    def predict_dataloader(self) -> DataLoader:
        """Return the batches of the test part, in order, for ``Trainer.predict``: ``(x, y)``, as of the other loaders.

        Of several processes, one that lacks an example for the last batch gets one of weight 0, as in evaluation.
        """
        return self._evaluation_loader("test")

    def _part(self, part: str) -> Examples:
        if part not in self._parts:
            stage = "test" if part == "test" else "fit"
            raise RuntimeError(
                f'{type(self).__name__} has not set up its {part} part: call setup("{stage}") before you ask for a loader (the '
                "Trainer does so by itself)"
            )
        return self._parts[part]

    def _evaluation_loader(self, part: str) -> DataLoader:
        dataset = self._part(part)
        sampler = EvaluationSampler(dataset, self.batch_size, **self._replica_kwargs())
        return self._loader(dataset, sampler, self.batch_size)

    def _loader(self, dataset: Examples, sampler: Sampler[Any], batch_size: int | None) -> DataLoader:
        collates = type(self).collate is not DataModule.collate
        return ResumableLoader(
            dataset,
            batch_size=batch_size,  # None: the sampler yields whole batches
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=self._without_data().collate if collates else _identity,
            # It seeds workers only, which draw nothing from it; without it, starting an epoch would draw from the global one.
            generator=torch.Generator(),
        )

    def _replica_kwargs(self) -> dict[str, int]:
        """Return ``num_replicas`` and ``rank`` of this process among those that see different data."""
        several = self.trainer.distributed_sampler_kwargs if self.trainer is not None else None
        return several or {"num_replicas": 1, "rank": 0}

    def _without_data(self) -> "DataModule":
        """Return a copy that is light to send to workers."""
        light = copy.copy(self)
        vars(light).update(trainer=None, _parts={})
        return light

    # Resuming -------------------------------------------------------------------------------------------------------

    def _run_seed(self) -> int:
        """Return the seed of ``seed_everything``; without it, one that depends on ``torch.manual_seed``, the same on all ranks."""
        given = os.environ.get("PL_GLOBAL_SEED")
        seed = int(given) if given else int(torch.randint(2**31, ()))
        return seed if self.trainer is None else int(self.trainer.strategy.broadcast(seed))

    def _position(self) -> tuple[int, int]:
        """Return the epoch and the number of batches done in it where training is or resumes.

        Where it resumes is part of our own state, which is loaded first: callbacks may ask for the number of training steps, and
        so for the loader, before the trainer has restored its progress.
        """
        done = 0 if self.trainer is None else finished_epochs(self.trainer)
        return self._resume if self._resume is not None and done <= self._resume[0] else (done, 0)

    @override
    def state_dict(self) -> dict[str, Any]:
        if self.trainer is None:
            return {}
        return {
            "seed": self._seed,
            "epoch": finished_epochs(self.trainer),
            "batch": trained_batches_of_epoch(self.trainer),
            "global_batch": self._size_in(finished_epochs(self.trainer)) * self._replica_kwargs()["num_replicas"],
            "data": self.data_identity,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.trainer is None or not is_fitting(self.trainer):
            return
        saved = state_dict.get("data")
        if saved is not None and saved != self.data_identity:
            raise ValueError(
                f"the checkpoint was saved on other data: {saved}, now it is {self.data_identity}: resume with the same files, "
                f"val_fraction and split_seed, or start a new run"
            )
        now = self._size_in(state_dict["epoch"]) * self._replica_kwargs()["num_replicas"]
        if state_dict["batch"] and state_dict["global_batch"] != now:
            raise ValueError(
                f"the checkpoint was saved in the middle of an epoch with a global batch (batch_size x processes) of "
                f"{state_dict['global_batch']}, now it is {now}: resume with the same one"
            )
        self._seed = state_dict["seed"]
        self._resume = (state_dict["epoch"], state_dict["batch"])


def _identity(batch: Any) -> Any:
    return batch
