"""The first steps of a run, as ``zoo fit`` would make them, with nothing written: what all checks look at."""

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks import LRSchedule, MagnitudePruning
from callbacks.run_length import run_length
from datamodules.decode import BadImageError
from recipes.cli.errors import UserError, causes, message, one_line
from recipes.cli.run.building import RecipeCLI
from recipes.cli.run.trying import STEP_CALLBACKS, callbacks_of, check_has_data, quiet_trainer
from zoo.testing.parts import map_tensors

_STEPS, _SECONDS = 30, 5.0  # of training, whichever is reached first
_KEPT = 8  # batches that are looked at


@dataclass
class Start:
    """A run that has begun.

    Attributes:
        module: The module as it was before the first step, on the CPU, without a trainer.
        batches: The first training batches, on the CPU.
        data: The datamodule, or the module where it has the data itself.
        train, val: Training and first validation loader; None where there is none.
        device: Where it trains.
        schedules: The callbacks that set the learning rate, started; ``schedule_error`` is what one of them refuses.
        schedulers: Those of the module itself: the trainer's configurations of them.
        decay: The penalty of weight decay at the first step, ``sum of decay / 2 * |w|^2``; None where no parameter decays.
        decay_is_in_the_loss: Whether it acts by way of the gradient (SGD, Adam), not decoupled from it (AdamW).
        steps, epochs: Length of the run, infinite without an end; ``epoch_batches`` is the number of batches of an epoch.
        seconds: Of each training batch, loading included; ``val_seconds`` of each validation batch that was tried.
        losses: The training loss of each batch that was trained.
        error: What training failed with; None if it did not.
        state_bytes: Size of a checkpoint: weights, and states of the optimizers.
        peak_bytes: Most memory of the accelerator in use; None without one.
        loaded: Whether the weights were loaded, so that the net is not a fresh one.
        devices: Number of processes that the recipe asks for, as it says it.
    """

    data: Any
    loaded: bool
    devices: Any
    module: Any = None
    batches: list[Any] = field(default_factory=list)
    train: Any = None
    val: Any = None
    device: Any = "cpu"
    schedules: list[LRSchedule] = field(default_factory=list)
    schedule_error: str = ""
    schedulers: list[Any] = field(default_factory=list)
    decay: float | None = None
    decay_is_in_the_loss: bool = True
    steps: float = math.inf
    epochs: float = math.inf
    epoch_batches: float = math.inf
    val_batches: float = 0
    validations: float = 0
    seconds: list[float] = field(default_factory=list)
    val_seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    error: str = ""
    state_bytes: int = 0
    peak_bytes: int | None = None

    def twin(self) -> Any:
        """Return a copy of the fresh module, in training mode, where it trains."""
        return copy.deepcopy(self.module).to(self.device)

    def batch(self, index: int = 0) -> Any:
        """Return a training batch, where it trains."""
        return map_tensors(lambda x: x.to(self.device), self.batches[index])


class _Enough(Exception):
    """Ends the first steps."""


def begin(cli: RecipeCLI) -> Start:
    """Set up a recipe as ``zoo fit`` does, and train a few batches.

    Raises:
        UserError: There are no data, or the model cannot take them.
        Exception: What setting up raises.
    """
    module: LightningModule = cli.model
    data = cli.datamodule
    check_has_data(cli)
    sources = getattr(type(module), "weight_sources", ())
    arguments = dict(cli.config.model.get("init_args") or {})
    start = Start(data or module, any(arguments.get(name) for name in sources), cli.config_init.trainer.get("devices"))
    look = _Look(start, [callback for callback in callbacks_of(cli) if isinstance(callback, LRSchedule)])
    trainer = quiet_trainer(cli, look, keep=(*STEP_CALLBACKS, MagnitudePruning), num_sanity_val_steps=2)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        trainer.fit(module, datamodule=data)
    except _Enough:
        pass
    except Exception as error:
        _explain(error, look)
    if not start.batches:
        raise UserError(
            f"{type(start.data).__name__} gives no training batch: give it more examples than the batch size, or a smaller "
            f"data.batch_size"
        )
    return start


def _explain(error: Exception, look: "_Look") -> None:
    """Keep what ended the first steps as a result where training had begun.

    Raises:
        UserError: The data do not fit the model.
        Exception: The error itself, if the user can mend what it names.
    """
    if any(isinstance(e, BadImageError) for e in causes(error)):
        raise error
    text = one_line(message(error))
    if look.trained or isinstance(error, FloatingPointError):
        look.start.error = f"{type(error).__name__}: {text}"
        return
    if look.phase and not isinstance(error, OSError | MemoryError):
        shapes = ", ".join(str(tuple(x.shape)) for x in look.tensors) or "none"
        raise UserError(
            f"the model cannot take a {look.phase} batch, whose tensors have the shapes {shapes}: {text}: give the model the "
            "size of the data (or leave it out: what the data know is filled in), or take other data"
        ) from error
    raise error


class _Look(Callback):
    """Looks at the first steps and ends them."""

    def __init__(self, start: Start, schedules: list[LRSchedule]) -> None:
        self.start, self.schedules = start, schedules
        self.phase, self.trained = "", False
        self.tensors: list[Tensor] = []
        self._then = 0.0
        self._began = 0.0

    def _see(self, phase: str, batch: Any) -> None:
        self.phase, self.tensors = phase, []
        map_tensors(self.tensors.append, batch)

    @override
    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        self._see("validation", batch)
        self._then = time.monotonic()

    @override
    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.start.val_seconds.append(time.monotonic() - self._then)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        start = self.start
        pl_module.trainer = None  # or it is copied, with the data
        start.module = copy.deepcopy(pl_module).cpu()
        pl_module.trainer = trainer
        start.device = trainer.strategy.root_device
        start.train, loaders = trainer.train_dataloader, trainer.val_dataloaders
        start.val = loaders[0] if isinstance(loaders, list) and loaders else loaders or None
        start.schedulers = trainer.lr_scheduler_configs
        self._measure_length(trainer)
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        decays = [(group.get("weight_decay") or 0.0, p) for group in groups for p in group["params"]]
        start.decay_is_in_the_loss = not any(
            isinstance(optimizer, torch.optim.AdamW) or group.get("decoupled_weight_decay")
            for optimizer in trainer.optimizers
            for group in optimizer.param_groups
        )
        if any(decay for decay, _ in decays):
            start.decay = sum(decay / 2 * p.detach().double().square().sum().item() for decay, p in decays)
        for schedule in self.schedules:
            try:
                schedule.setup(trainer, pl_module, "fit")
                schedule.on_train_start(trainer, pl_module)
                start.schedules.append(schedule)
            except ValueError as error:
                start.schedule_error = str(error)

    def _measure_length(self, trainer: Any) -> None:
        start = self.start
        start.epoch_batches = trainer.num_training_batches
        start.steps = run_length(trainer, "step")
        start.epochs = math.inf if math.isinf(start.epoch_batches) else run_length(trainer, "epoch")
        start.val_batches = sum(trainer.num_val_batches)
        if start.val_batches and start.epochs < math.inf:
            start.validations = start.epochs / (trainer.check_val_every_n_epoch or 1)

    @override
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._see("training", batch)
        if not self.start.batches:
            self._then = self._began = time.monotonic()
        if len(self.start.batches) < _KEPT:
            self.start.batches.append(map_tensors(lambda x: x.detach().cpu().clone(), batch))

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        start, self.trained = self.start, True
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            start.losses.append(loss.item())  # waits for the accelerator
        now = time.monotonic()
        start.seconds.append(now - self._then)
        self._then = now
        if len(start.seconds) < _STEPS and now - self._began < _SECONDS and not trainer.is_last_batch:
            return
        tensors = [*pl_module.state_dict().values()]
        for optimizer in trainer.optimizers:
            map_tensors(tensors.append, [*optimizer.state.values()])
        start.state_bytes = sum(x.numel() * x.element_size() for x in tensors)
        if torch.device(start.device).type == "cuda":
            start.peak_bytes = torch.cuda.max_memory_allocated(start.device)
        raise _Enough
