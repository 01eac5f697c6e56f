"""What all datamodules share: splits, the order of training, evaluation that never repeats an example, resuming."""

import copy
import os
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from datamodules.internals import finished_epochs, is_fitting, trained_batches_of_epoch
from datamodules.loader import ResumableLoader
from datamodules.samplers import EvaluationSampler, TrainSampler, seed_all
from datamodules.splits import digest, held_out


class DataModule(LightningDataModule):
    """Examples that are numbered: a subclass gives them, this class splits, orders and loads them.

    The order of training is a pure function of (run seed, epoch, position in the global batch). So a run that was stopped
    anywhere continues exactly, with any number of workers, and several processes see what one with the same global batch
    would. The run seed is the one of ``seed_everything`` (else drawn); a checkpoint remembers it. Evaluation may give
    ``(x, y, weight)`` where a process has run out of examples: rows of weight 0 must not count.

    A subclass defines :meth:`examples` and ``input_shape``, sets ``class_names`` where there are classes, and may define
    :meth:`ready` and :meth:`describe`.

    Args:
        batch_size: examples a batch, of each process: the global batch is ``batch_size * devices * nodes``.
        num_workers: processes that load; 0 is the fastest for data in memory.
        val_fraction: share of the TRAINING part that is held out for validation, stratified by class, in [0, 1).
        split_seed: chooses the held-out examples; it is apart from the run's seed so that runs can be compared.

    Attributes:
        mean, std: of the training split, one number a channel or column, after ``setup("fit")``.
        class_counts: examples of each class in the training split, after ``setup("fit")``; None without classes.
        fingerprint: 16 hexadecimal digits that tell training data and their split from any others, after ``setup("fit")``.

    Raises:
        ValueError, TypeError: an argument out of its range, or of another type.
    """

    class_names: list[str] | None = None

    def __init__(
        self, batch_size: int = 64, num_workers: int = 0, val_fraction: float = 0.1, split_seed: int = 0
    ) -> None:
        super().__init__()
        check_integer("batch_size", batch_size, 1)
        check_integer("num_workers", num_workers, 0)
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction is a share of the training part in [0, 1), got {val_fraction}")
        check_integer("split_seed", split_seed, 0, 2**32 - 1)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.mean: Tensor | None = None
        self.std: Tensor | None = None
        self.class_counts: list[int] | None = None
        self.fingerprint: str | None = None
        self._parts: dict[str, Examples] = {}
        self._seed = 0
        self._resume: tuple[int, int] | None = None  # (epoch, batches done in it) of the checkpoint

    # What a subclass gives ------------------------------------------------------------------------------------------

    def examples(self, part: Literal["train", "test"]) -> "Examples":
        """The whole training or test part, as it was read."""
        raise TypeError(f"{type(self).__name__} does not say where its examples come from: define examples(part)")

    def ready(self, examples: "Examples") -> "Examples":
        """The examples of a split as training shall have them; what takes long is done here, once."""
        return examples

    def describe(self, train: "Examples") -> None:
        """Set what the training split alone may tell: ``mean``, ``std``; ``class_counts`` if ``train.y`` are no labels."""

    @property
    def num_classes(self) -> int | None:
        """Number of classes K, labels are 0..K-1; None where the target is no class."""
        return None if self.class_names is None else len(self.class_names)

    @property
    def has_test(self) -> bool:
        """Whether there is a test part; where there is none, ``zoo fit`` ends with the validation of the best checkpoint."""
        return True

    @property
    def data_identity(self) -> str | None:
        """What a run's config and checkpoints say of the data, "fingerprint 0123456789abcdef (1293 train / 144 val)"."""
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
            self.fingerprint = examples.fingerprint(validates)
            self._parts["train"] = self.ready(examples.subset(~validates))
            self._parts["val"] = self.ready(examples.subset(validates))
            self.describe(self._parts["train"])
            if self.num_classes is not None and self.class_counts is None:
                y = self._parts["train"].y  # (N,), multi-label (N, K)
                counts = torch.bincount(y, minlength=self.num_classes) if y.ndim == 1 else y.sum(0)
                self.class_counts = counts.tolist()
        if stage in ("fit", None) and self.trainer is not None and not len(self._parts["val"]):
            self.trainer.limit_val_batches = 0  # it would warn of an empty loader, which was asked for
        if (stage == "test" or (stage is None and self.has_test)) and "test" not in self._parts:
            self._parts["test"] = self.ready(self.examples("test"))

    def validation_mask(self, examples: "Examples") -> Tensor:
        """Return the mask ``(N,)`` of the examples of the training part that validate."""
        labels = examples.y if self.num_classes is not None and examples.y.ndim == 1 else None
        return held_out("val_fraction", self.val_fraction, len(examples), self.split_seed, labels)

    # Loaders --------------------------------------------------------------------------------------------------------

    @override
    def train_dataloader(self) -> DataLoader:
        epoch, start = self._position()
        dataset = copy.copy(self._parts["train"])
        dataset.order = TrainSampler(
            dataset, self.batch_size, seed=self._seed, epoch=epoch, start=start, **self._replica_kwargs()
        )
        return self._loader(dataset, dataset.order)

    @override
    def val_dataloader(self) -> Any:
        return self._evaluation_loader("val") if len(self._parts["val"]) else []

    @override
    def test_dataloader(self) -> DataLoader:
        return self._evaluation_loader("test")

    def _evaluation_loader(self, part: str) -> DataLoader:
        dataset = self._parts[part]
        return self._loader(dataset, EvaluationSampler(dataset, self.batch_size, **self._replica_kwargs()))

    def _loader(self, dataset: "Examples", sampler: TrainSampler | EvaluationSampler) -> DataLoader:
        return ResumableLoader(
            dataset,
            self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=_identity,
            # Only seeds workers, which draw nothing: that starting an epoch leaves the global generator alone is the point.
            generator=torch.Generator(),
        )

    def _replica_kwargs(self) -> dict[str, int]:
        """``num_replicas`` and ``rank`` of this process among those that see different data."""
        several = self.trainer.distributed_sampler_kwargs if self.trainer is not None else None
        return several or {"num_replicas": 1, "rank": 0}

    # Resuming -------------------------------------------------------------------------------------------------------

    def _run_seed(self) -> int:
        """The seed of ``seed_everything``; without it one that follows ``torch.manual_seed``, the same on all processes."""
        given = os.environ.get("PL_GLOBAL_SEED")
        seed = int(given) if given else int(torch.randint(2**31, ()))
        return seed if self.trainer is None else int(self.trainer.strategy.broadcast(seed))

    def _position(self) -> tuple[int, int]:
        """(epoch, batches done in it) that training stands at, or shall continue from.

        It comes with our own state, which is loaded before anything else: callbacks may ask for the number of training steps,
        and so for this loader, before the trainer has restored its own progress.
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
            "global_batch": self.batch_size * self._replica_kwargs()["num_replicas"],
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
                f"val_fraction and split_seed, or begin a new run"
            )
        now = self.batch_size * self._replica_kwargs()["num_replicas"]
        if state_dict["batch"] and state_dict["global_batch"] != now:
            raise ValueError(
                f"the checkpoint was saved in the middle of an epoch with a global batch (batch_size x processes) of "
                f"{state_dict['global_batch']}, now it is {now}: resume with the same one"
            )
        self._seed = state_dict["seed"]
        self._resume = (state_dict["epoch"], state_dict["batch"])


class Examples(Dataset):
    """Inputs and targets in memory, read a whole batch at once (``__getitems__``).

    An index -1 means: an example that does not count. A batch with one of them carries a third part, the weights 0 and 1.
    Examples that draw do it after :meth:`seed`; ``order`` is that of training, None in evaluation.

    Args:
        x: inputs.
        y: targets: int64 labels, or float.

    Shape:
        x ``(N, ...)``, y ``(N,)`` or ``(N, K)``; a batch: ``(B, ...)``, ``(B,)`` or ``(B, K)`` and, rarely, ``(B,)``.
    """

    order: TrainSampler | None = None

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x = x
        self.y = y

    def seed(self, index: int) -> None:
        """Make the global generators those of one example: a function of the run seed, the epoch and ``index``."""
        seed, epoch = (0, 0) if self.order is None else (self.order.seed, self.order.epoch)
        seed_all(seed, epoch, index, 4)

    def __len__(self) -> int:
        return len(self.y)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.batch(torch.tensor([index]))
        return x[0], y[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        index = torch.tensor(indices)
        counts = index >= 0
        batch = self.batch(index.clamp(min=0))
        return batch if counts.all() else (*batch, counts.float())

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs and the targets at some places, ``(B,)``."""
        return self.inputs(index), self.y.index_select(0, index)

    def inputs(self, index: Tensor) -> Tensor:
        """The inputs at some places: ``(B,)`` -> ``(B, ...)``."""
        return self.x.index_select(0, index)

    def called(self, place: int) -> str:
        """What to call an example to a person: its file, or its number."""
        return str(place)

    def subset(self, chosen: Tensor) -> "Examples":
        """Those where ``chosen``, a mask ``(N,)``, is True."""
        return type(self)(self.x[chosen], self.y[chosen])

    def fingerprint(self, validates: Tensor) -> str:
        """16 hexadecimal digits that tell these examples, with those of them held out, from others."""
        return digest(self.x, self.y, validates)


def _identity(batch: Any) -> Any:
    return batch


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Refuse what is not an integer in ``least..most``."""
    wanted = f"an integer >= {least}" if most is None else f"an integer in {least}..{most}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be {wanted}, got {value!r}")
    if value < least or (most is not None and value > most):
        raise ValueError(f"{name} must be {wanted}, got {value}")
