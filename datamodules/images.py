"""The base of all image datasets that fit into memory."""

import os
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from datamodules.augment import Augmentation
from datamodules.loading import ImageDataset, batch_loader
from datamodules.samplers import EvaluationSampler, TrainSampler, generator_for


class ImageDataModule(LightningDataModule):
    """Images in memory, as one uint8 tensor a split; a subclass gives its arrays and three constants.

    The loaders hand over whole uint8 batches. On the device (``on_after_batch_transfer``) they become ``(x, y)``: x float32 in
    [0, 1], y int64; training batches are augmented there, each image by its own draw. Evaluation may give ``(x, y, weight)``
    where a process has run out of examples: rows of weight 0 must not count.

    Order and augmentation are pure functions of (run seed, epoch, batch, position in the global batch). So a run that was
    stopped anywhere continues exactly, with any number of workers, and several processes see what one with the same global
    batch would. The run seed is the one of ``seed_everything`` (else drawn); a checkpoint remembers it.

    A subclass sets ``class_names`` and ``native_shape``, defines :meth:`read`, and ``prepare_data`` if there is something to
    download.

    Args:
        size: height and width the images are resized to, once (bilinear, antialiased); None keeps their own.
        batch_size: examples a batch, of each process: the global batch is ``batch_size * devices * nodes``.
        num_workers: processes that load; 0 is the fastest for images in memory.
        val_fraction: share of the TRAINING part that is held out for validation, stratified by class, in [0, 1).
        split_seed: chooses the held-out examples; it is apart from the run's seed so that runs can be compared.
        shift: training images move by up to so many pixels, zeros come in (see :class:`~datamodules.Augmentation`).
        crop: the same, under its other name: pad by so many zeros, crop back at random.
        flip: mirror training images left and right with probability 1/2.
        cutout: side of a square set to zero in each training image.

    Attributes:
        mean, std: of the training split, a channel each, in units of x: ``(C,)``, after ``setup("fit")``.
        class_counts: examples of each class in the training split, after ``setup("fit")``.

    Raises:
        ValueError, TypeError: an argument out of its range, or of another type.
    """

    class_names: list[str] = []
    native_shape: ClassVar[tuple[int, int, int]]  # (C, H, W) of the images as they are read

    def __init__(
        self,
        size: int | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        shift: int = 0,
        crop: int = 0,
        flip: bool = False,
        cutout: int = 0,
    ) -> None:
        super().__init__()
        if size is not None:
            _check_integer("size", size, 1)
        for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            _check_integer(name, value, least)
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction is a share of the training part in [0, 1), got {val_fraction}")
        _check_integer("split_seed", split_seed, 0, 2**32 - 1)
        self.size = size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        side = min(self.input_shape[1:])
        for name, value, most in (("shift", shift, side - 1), ("crop", crop, side - 1), ("cutout", cutout, side)):
            _check_integer(name, value, 0, most)
        self.augmentation = Augmentation(shift, crop, flip, cutout)
        self.mean: Tensor | None = None
        self.std: Tensor | None = None
        self.class_counts: list[int] | None = None
        self._parts: dict[str, ImageDataset] = {}
        self._seed = 0
        self._resume: tuple[int, int] | None = None  # (epoch, batches done in it) of the checkpoint

    # What a subclass gives ------------------------------------------------------------------------------------------

    def read(self, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        """The whole official training or test part: uint8 images ``(N, C, H, W)`` and int64 labels ``(N,)``."""
        raise TypeError(f"{type(self).__name__} does not say where its images come from: define read(part)")

    # What can be asked before fit -----------------------------------------------------------------------------------

    @property
    def num_classes(self) -> int:
        """Number of classes K; labels are 0..K-1."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) as the net will see it."""
        channels, height, width = self.native_shape
        return (channels, height, width) if self.size is None else (channels, self.size, self.size)

    # Splits ---------------------------------------------------------------------------------------------------------

    @override
    def setup(self, stage: str | None = None) -> None:
        if stage in ("fit", None):
            self._resume = None  # a checkpoint to resume from is loaded after this
            self._seed = self._run_seed()
        if stage in ("fit", "validate", None) and "train" not in self._parts:
            images, labels = self._checked("train")
            held_out = self._held_out(labels)
            self._parts["train"] = ImageDataset(images[~held_out], labels[~held_out])
            self._parts["val"] = ImageDataset(images[held_out], labels[held_out])
            self.mean, self.std = _statistics(self._parts["train"].images)
            self.class_counts = torch.bincount(self._parts["train"].labels, minlength=self.num_classes).tolist()
        if stage in ("fit", None) and self.trainer is not None and not len(self._parts["val"]):
            self.trainer.limit_val_batches = 0  # it would warn of an empty loader, which was asked for
        if stage in ("test", None) and "test" not in self._parts:
            self._parts["test"] = ImageDataset(*self._checked("test"))

    def _checked(self, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        images, labels = self.read(part)
        name = f"the {part} part of {type(self).__name__}"
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != self.native_shape[0]:
            raise ValueError(
                f"{name} must be uint8 of shape (N, {self.native_shape[0]}, H, W), got {images.dtype} {tuple(images.shape)}"
            )
        if len(images) == 0 or labels.shape != images.shape[:1] or labels.dtype != torch.int64:
            raise ValueError(
                f"{name} must have one int64 label an image, got {labels.dtype} {tuple(labels.shape)} for {len(images)} images"
            )
        wrong = ((labels < 0) | (labels >= self.num_classes)).nonzero()
        if len(wrong):
            at = int(wrong[0])
            raise ValueError(
                f"labels must lie in 0..{self.num_classes - 1} for the {self.num_classes} classes, but {name} has "
                f"{int(labels[at])} at example {at}: number the classes from 0, or add the missing class names"
            )
        return _resized(images, self.input_shape[1:]).contiguous(), labels

    def _held_out(self, labels: Tensor) -> Tensor:
        """True for the examples of the training part that validate: ``(N,)``."""
        held_out = torch.zeros(len(labels), dtype=torch.bool)
        if self.val_fraction > 0:
            try:
                _, chosen = train_test_split(
                    range(len(labels)),
                    test_size=self.val_fraction,
                    random_state=self.split_seed,
                    stratify=labels.numpy(),
                )
            except ValueError as error:
                raise ValueError(
                    f"val_fraction={self.val_fraction} of {len(labels)} examples cannot hold every class in both parts "
                    f"({error}): give a larger one, or 0 for no validation"
                ) from error
            held_out[chosen] = True
        return held_out

    # Loaders --------------------------------------------------------------------------------------------------------

    @override
    def train_dataloader(self) -> DataLoader:
        epoch, start = self._position()
        dataset = self._parts["train"]
        sampler = TrainSampler(
            dataset, self.batch_size, seed=self._seed, epoch=epoch, start=start, **self._replica_kwargs()
        )
        return batch_loader(dataset, sampler, self.batch_size, self.num_workers)

    @override
    def val_dataloader(self) -> Any:
        return self._evaluation_loader("val") if len(self._parts["val"]) else []

    @override
    def test_dataloader(self) -> DataLoader:
        return self._evaluation_loader("test")

    def _evaluation_loader(self, part: str) -> DataLoader:
        dataset = self._parts[part]
        sampler = EvaluationSampler(dataset, self.batch_size, **self._replica_kwargs())
        return batch_loader(dataset, sampler, self.batch_size, self.num_workers)

    def _replica_kwargs(self) -> dict[str, int]:
        """``num_replicas`` and ``rank`` of this process among those that see different data."""
        several = self.trainer.distributed_sampler_kwargs if self.trainer is not None else None
        return several or {"num_replicas": 1, "rank": 0}

    # Batches --------------------------------------------------------------------------------------------------------

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, *rest = batch
        assert self.trainer is not None
        if self.trainer.training:
            images = self._augmented(images)
        x = images.float().div_(255)
        return (self.trainer.precision_plugin.convert_input(x), *rest)

    def _augmented(self, images: Tensor) -> Tensor:
        """Augment this process's share of the global batch: its draws are every ``num_replicas``-th of the global ones."""
        assert self.trainer is not None
        loop: Any = self.trainer.fit_loop
        # the batch is fetched before the trainer counts it: ``ready`` is its index in the epoch
        key = (self._seed, loop.epoch_progress.current.processed, loop.epoch_loop.batch_progress.current.ready, 2)
        replicas = self._replica_kwargs()
        count = len(images) * replicas["num_replicas"]
        height, width = images.shape[2:]
        draws = self.augmentation.draw(count, (height, width), generator_for(*key))
        mine = {k: v[replicas["rank"] :: replicas["num_replicas"]].to(images.device) for k, v in draws.items()}
        return self.augmentation.apply(images, mine)

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
        loop: Any = None if self.trainer is None else self.trainer.fit_loop
        done = 0 if loop is None else loop.epoch_progress.current.processed
        return self._resume if self._resume is not None and done <= self._resume[0] else (done, 0)

    @override
    def state_dict(self) -> dict[str, Any]:
        if self.trainer is None:
            return {}
        loop: Any = self.trainer.fit_loop
        epoch = loop.epoch_progress.current
        unfinished = epoch.started > epoch.processed
        return {
            "seed": self._seed,
            "epoch": epoch.processed,
            "batch": loop.epoch_loop.batch_progress.current.processed if unfinished else 0,
            "global_batch": self.batch_size * self._replica_kwargs()["num_replicas"],
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        now = self.batch_size * self._replica_kwargs()["num_replicas"]
        if state_dict["batch"] and state_dict["global_batch"] != now:
            raise ValueError(
                f"the checkpoint was saved in the middle of an epoch with a global batch (batch_size x processes) of "
                f"{state_dict['global_batch']}, now it is {now}: resume with the same one"
            )
        self._seed = state_dict["seed"]
        self._resume = (state_dict["epoch"], state_dict["batch"])


def _check_integer(name: str, value: Any, least: int, most: int | None = None) -> None:
    wanted = f"an integer >= {least}" if most is None else f"an integer in {least}..{most}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be {wanted}, got {value!r}")
    if value < least or (most is not None and value > most):
        raise ValueError(f"{name} must be {wanted}, got {value}")


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, antialiased, in chunks that bound the memory: uint8 ``(N, C, H, W)`` -> ``(N, C, *size)``."""
    if images.shape[2:] == size:
        return images
    chunks = [
        F.interpolate(chunk.float(), size, mode="bilinear", antialias=True).round_().clamp_(0, 255).byte()
        for chunk in images.split(4096)
    ]
    return torch.cat(chunks)


def _statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel in units of [0, 1]; exact, from counts of the 256 values."""
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean.append(share @ values)
        std.append((share @ (values - mean[-1]) ** 2).sqrt())
    deviation = torch.stack(std).float()
    deviation[deviation == 0] = 1  # a constant channel is not scaled
    return torch.stack(mean).float(), deviation
