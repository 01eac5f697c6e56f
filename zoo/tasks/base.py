"""What every task shares: exact steps and logging, the optimizer by name, evaluation, and what a checkpoint holds."""

import inspect
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypedDict, cast
from unittest.mock import patch

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from zoo.create import use_weights
from zoo.internals import grad_scaler, has_trainer, is_fitting, is_last_of_window, row_is_due, unscale_before_step
from zoo.metrics.pixels import exact_dtype
from zoo.metrics.running_means import RunningMeans
from zoo.model import Model, comes_from_file, real_device
from zoo.optim.initializers import initialize
from zoo.optim.optimizers import (
    CLOSURE_OPTIMIZERS,
    build_optimizer,
    check_optimizer,
    optimizer_class,
    try_optimizer,
)
from zoo.optim.sam import SAM
from zoo.optim.schedule_free import averaged_weights, is_schedule_free
from zoo.registry import OF_NAMED_NET, arguments_of, name_of, sources_of
from zoo.tasks.batch_norm import check_batch_norm, explained
from zoo.tasks.penalties import Penalties
from zoo.tasks.shared_random import generator_states, set_generators, share_generators, shared_random


class TaskArguments(TypedDict, total=False):
    """Arguments of :class:`Task` but the net, for ``**task: Unpack[TaskArguments]``."""

    optimizer: str
    lr: float
    weight_decay: float
    optimizer_args: dict[str, Any] | None
    decay_norm_and_bias: bool
    layer_decay: float
    init: str | None
    init_args: dict[str, Any] | None
    penalties: dict[str, Any] | None
    weights: str | None


class Task(Model):
    """A net and how it is trained. Subclasses give the loss, the metrics and the prediction.

    Input comes in units of the data (images: floats in [0, 1]); the task standardizes it with its own ``mean`` and ``std``
    (one number a channel or column), which it copies from the datamodule at the first fit and keeps from then on.

    A batch is ``(x, y)`` or ``(x, y, weight)``; a part of several tensors is a NamedTuple with named fields. Examples, or targets,
    of weight 0 do not count.

    A fit trains in training mode, whatever mode the task was in before (:func:`zoo.load` gives evaluation mode). What shall not
    be trained is declared: :meth:`freeze`, or a part that is only kept, which stays in the mode of its constructor.

    Training logs ``train/<name>_step`` every ``trainer.log_every_n_steps`` optimizer steps (the mean over the examples since
    the last time) and ``train/<name>`` at the end of the epoch (the exact mean over its examples, all ranks together).

    The gradient is that of the loss over all examples (tokens, pixels) of an optimizer step, however they are cut into
    accumulated batches and processes: batches are weighted by the count that :meth:`training_losses` returns. Random numbers
    drawn in a step are those that one process with the global batch would draw, see :class:`zoo.tasks.shared_random.SharedRandom`.
    What depends on the batch itself stays different: batch norm without ``sync_batchnorm``, losses that are no mean (Dice).

    A schedule-free optimizer ("AdamWScheduleFree", the extra ``schedulefree``; Defazio et al. 2024, arXiv:2405.15682) trains one
    set of weights and averages another, in place of a schedule. Validation sees the averages, the task holds them after the fit,
    and a checkpoint holds both sets, as with ``callbacks.EMA``: whatever loads it gets the averages (``zoo.load(path,
    average=False)`` the training weights), and a resumed run continues exactly. Statistics of batch norms are those of the training
    weights.

    "SAM" looks at each batch twice (:class:`zoo.optim.SAM`), with the same random numbers, so with the same dropout masks. What is
    logged, and statistics of batch norms, are of the first look; the gradient that callbacks see, and that is clipped, is that of
    the second, the one that is applied. Penalties are part of the loss in both.

    Args:
        net: Maps a standardized batch to the output (logits, say).
        optimizer: Name in ``torch.optim``, "Lion", "MuonAdamW" (Muon for the matrices of hidden layers, AdamW for the rest),
            "Newton", "SAM", "AdamWScheduleFree" (see above), or a dotted path to a class of your own. A name is tried when the
            task is built, by one step on small tensors.
            SGD, Adam, AdamW and Adagrad step with torch's fused kernel where there is one for the device and type of the
            parameters, but not under float16 mixed precision; a resumed run goes on with the kernel that its checkpoint names.
        lr: Learning rate, > 0.
        weight_decay: Weight decay, >= 0, as the optimizer understands it (decoupled for AdamW, L2 for SGD).
        optimizer_args: Further arguments of the optimizer, e.g. ``{"momentum": 0.9, "nesterov": True}``. One that names ``fused``,
            ``foreach`` or ``differentiable`` chooses the kernel. SAM's are ``rho``, the name of the optimizer that makes the steps
            and that optimizer's arguments: ``{"rho": 0.05, "base": "SGD", "base_args": {"momentum": 0.9}}``.
        decay_norm_and_bias: Whether weight decay acts on norms, biases and embeddings too.
        layer_decay: Layer-wise learning rate decay: each layer group (see :meth:`layer_groups`) has the rate of the one above it
            times this, in (0, 1]; the head has ``lr``.
        init: Name of the net's initialization, see :func:`zoo.tasks.initialize`; None: the net's own.
        init_args: Further arguments of the initialization, e.g. ``{"std": 0.02}``.
        penalties: Terms that the training loss gets, ``train/penalty_<name>`` in the log and no part of ``train/loss`` or of
            ``val/loss``: a factor each for "l1", "l2", "orthogonal", "activity_l1", "activity_l2", or one for named layers,
            ``{"activity_l1": {"weight": 1e-4, "layers": ["fc1"]}}``, see :class:`zoo.tasks.penalties.Penalties`.
        weights: Where the weights come from, see :func:`zoo.create_model`. No hyperparameter: a checkpoint of the task has
            the weights itself, and loads nothing else.

    Raises:
        ValueError, TypeError: An unknown optimizer or initialization, an argument it does not have, a value out of range, or
            weights that do not fit.
    """

    training_arguments = (*TaskArguments.__annotations__, "encoder_weights")
    metrics: dict[str, Metric]

    def __init__(
        self,
        net: nn.Module,
        *,
        optimizer: str = "AdamW",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        optimizer_args: dict[str, Any] | None = None,
        decay_norm_and_bias: bool = False,
        layer_decay: float = 1.0,
        init: str | None = None,
        init_args: dict[str, Any] | None = None,
        penalties: dict[str, Any] | None = None,
        weights: str | None = None,
    ) -> None:
        given: Any = net
        if isinstance(given, str):  # all that a checkpoint holds of a net from outside
            raise net_is_missing(type(self), given)
        if "." in optimizer and comes_from_file("optimizer"):
            raise ValueError(
                f"the checkpoint asks for the optimizer {optimizer!r} to be imported, which no file may: "
                f"load_from_checkpoint(path, optimizer={optimizer!r}) if you trust it"
            )
        check_optimizer(optimizer, lr, weight_decay, optimizer_args or {})
        if not 0 < layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1], got {layer_decay}")
        if init is not None:
            initialize(net, init, init_args)
        elif init_args:
            raise ValueError(f"init_args {init_args} belong to an init, and none is given")
        wanted = Penalties(net, penalties)
        super().__init__()
        of_the_net = set(OF_NAMED_NET) - arguments_of(type(self)).keys()  # a family has its own
        self.save_hyperparameters(ignore=["net", *sources_of(type(self)), *of_the_net])
        if "net" in inspect.signature(type(self).__init__).parameters and self.net_by_name is None:
            self.hparams["net"] = f"{type(net).__module__}.{type(net).__qualname__}"
        self.net = net
        self.build_parts()
        try_optimizer(**self._optimizer_arguments([part for part in self.trained_parts if hasattr(self, part)]))
        with real_device():  # a net may be built on the meta device, the task's own tensors never are
            self.register_task_buffers()
        self._penalties = wanted
        self._means = RunningMeans()
        self._last_batch = (-1, -1)  # (epoch, batch): an optimizer's closure may run a batch more than once
        self._last_logged = 0  # optimizer step of the last window that was logged
        self._window: tuple[Tensor, Tensor] | None = (
            None  # of the accumulation window: the reference and the count so far
        )
        self._gradient_scale: Tensor | None = None  # to apply after the next backward pass
        self.looks_again = False  # whether this is SAM's second look at a batch
        self._first_look: tuple[Any, ...] | None = None  # SAM, the batch, its index, the random generators before
        # of a schedule-free optimizer: the training weights while their averages are in place
        self._trained: list[tuple[nn.Parameter, Tensor]] = []
        self._states_before: dict[str, Tensor] = {}  # of random generators, at the start of a fit
        # no submodule: made when evaluation starts, so a task built on the meta device leaves nothing there
        self.__dict__["metrics"] = {}
        if weights is not None:
            use_weights(self, weights)

    # What a subclass gives ------------------------------------------------------------------------------------------

    @property
    def monitor(self) -> tuple[str, str]:
        """The metric that decides which checkpoint is best, and its mode, "min" or "max"."""
        return "val/loss", "min"

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Return the loss, the means to log, and what they are means over.

        Returns:
            The loss to minimize, a mean; the means over the batch to log, by name, "loss" among them; and their one denominator:
            the number of examples, tokens or pixels that count (or their total weight). A loss that has terms with different
            denominators (a mean over tokens and one over examples) must be written with one of them. A batch in which
            nothing counts gives a loss of 0, not nan.
        """
        raise TypeError(f"{type(self).__name__} does not say how it is trained: define training_losses")

    def build_metrics(self) -> dict[str, Metric]:
        """Return fresh torchmetrics objects by name for one evaluation; they gather over ranks by themselves."""
        raise TypeError(f"{type(self).__name__} does not say how it is evaluated: define build_metrics")

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        """Add one evaluation batch to the metrics."""
        raise TypeError(f"{type(self).__name__} does not say how it is evaluated: define update_metrics")

    def render(self, batch: Any) -> dict[str, Any]:
        """Return pictures, texts and tables of a batch, by name: called in evaluation, without gradients, on one process.

        Images are uint8 tensors ``(3, H, W)``, texts are str, tables are lists of rows, the first one their column names.
        """
        return {}

    def expected_initial_loss(self) -> float | None:
        """Return the loss in nats of a fresh net that knows nothing, or None where there is no such number."""
        return None

    def loss_floor(self) -> float:
        """Return the smallest training loss in nats that a perfect net can reach; above 0 where targets are not certain."""
        return 0.0

    # What callbacks.TrainingDiagnostics asks ------------------------------------------------------------------------

    @property
    def unfit_diagnoses(self) -> tuple[str, ...]:
        """Names of what :class:`callbacks.TrainingDiagnostics` looks for and what makes no sense for this task."""
        return ()

    def diagnostic_numbers(self, batch: Any) -> dict[str, float]:
        """Return numbers of a validation batch that only this kind of task knows, each in [0, 1]; none by default.

        Called in evaluation mode, without gradients. ``sample_diversity``, ``active_share``, ``attention_movement``,
        ``forced_accuracy`` and ``written_accuracy`` are understood.
        """
        return {}

    def loss_in_evaluation(self, batch: Any) -> Tensor | None:
        """Return the loss of a training batch as it is in evaluation mode; None where a batch by itself has none."""
        return self.training_losses(batch)[1].get("loss")

    # The forward pass -----------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Any:
        """Return the net's output for input in units of the data."""
        return self.net(self.standardize(x))

    def forward_args(self, batch: Any) -> tuple[Any, ...]:
        """Return what :meth:`forward` takes of a batch: its first part, unless a task says otherwise."""
        return (input_of(batch),)

    # Fitting --------------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Reset what belongs to one fit, take what the datamodule knows, and refuse what cannot be trained.

        Raises:
            ValueError: Data that the net cannot take, an optimizer that cannot accumulate gradients and has to, SAM where its two
                looks are not possible, penalties of parameters that are sharded, or two averages of the weights.
        """
        super().setup(stage)
        if stage != "fit":  # a checkpoint to resume from is loaded after this
            return
        trainer = self.trainer
        if self.hparams["optimizer"] in CLOSURE_OPTIMIZERS:
            self._refuse_accumulation_by(self.hparams["optimizer"])
        if self.hparams["optimizer"] == "SAM":
            self._check_sam()
        if self._penalties.factors and not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise ValueError(
                f"{type(trainer.strategy).__name__} shards parameters, and penalties are of whole ones: take "
                "--trainer.strategy ddp, or leave penalties out"
            )
        if self._is_schedule_free() and _averages(trainer):
            raise ValueError(f"{self.hparams['optimizer']} averages the weights already: drop callbacks.EMA")
        self._trained = []
        self._means.reset()
        self._last_batch, self._last_logged = (-1, -1), 0
        self._window = self._gradient_scale = self._first_look = None
        if trainer.world_size > 1:
            # Distributed strategies have put the generators back to the seed, as if building the model had drawn nothing.
            reset = "PL_GLOBAL_SEED" in os.environ and self._states_before
            share_generators(trainer, self._states_before if reset else generator_states(trainer))

    def _refuse_accumulation_by(self, optimizer: str) -> None:
        planned = [c.scheduling for c in self.trainer.callbacks if isinstance(c, GradientAccumulationScheduler)]  # type: ignore[attr-defined]
        batches = max([self.trainer.accumulate_grad_batches, *(n for epochs in planned for n in epochs.values())])
        if batches > 1:
            raise ValueError(
                f"{optimizer} evaluates the loss of a batch several times a step, so gradients of several batches cannot be "
                f"accumulated: set accumulate_grad_batches=1 (got {batches}) and a larger batch"
            )

    def _check_sam(self) -> None:
        """Refuse SAM where its two looks at a batch are not possible.

        Raises:
            ValueError: Optimization by hand, float16 mixed precision, or sharded parameters.
        """
        if not self.automatic_optimization:
            raise ValueError(
                f"SAM looks at a batch twice, and {type(self).__name__} makes its steps by itself (automatic_optimization=False): "
                "take the base alone, as in optimizer='SGD'"
            )
        if grad_scaler(self.trainer) is not None:
            raise ValueError(
                "SAM cannot train in float16 mixed precision, whose scaler skips steps between its two looks: take "
                "--trainer.precision bf16-mixed or 32-true"
            )
        strategy: Any = self.trainer.strategy
        whole = isinstance(strategy, SingleDeviceStrategy | DDPStrategy)
        if not whole:
            raise ValueError(
                f"{type(strategy).__name__} shards parameters, and SAM takes the norm of the gradient of whole ones: take "
                "--trainer.strategy ddp"
            )

    def configure_callbacks(self) -> Sequence[Callback] | Callback:
        """Remember the states of the random generators: the first hook that is called, before strategies reset them."""
        self._states_before = generator_states(self.trainer)
        return super().configure_callbacks()

    def configure_optimizers(self) -> Optimizer:
        """Return one optimizer of all trained parts, at a constant rate; schedules are set by ``callbacks.LRSchedule``."""
        return build_optimizer(**self._optimizer_arguments(self.trained_parts), fused=self.may_fuse)

    def _optimizer_arguments(self, parts: Iterable[str]) -> dict[str, Any]:
        """Return trained parts and the hyperparameters as :func:`zoo.optim.build_optimizer` takes them."""
        h = self.hparams
        return {
            "net": self.net,
            "name": h["optimizer"],
            "arguments": h["optimizer_args"] or {},
            **{name: h[name] for name in ("lr", "weight_decay", "decay_norm_and_bias", "layer_decay")},
            "others": {name: getattr(self, name) for name in parts if name != "net"},
        }

    @property
    def may_fuse(self) -> bool:
        """Whether fused kernels may make the optimizer's steps: not under float16 mixed precision."""
        return not has_trainer(self) or grad_scaler(self.trainer) is None

    def on_fit_start(self) -> None:
        """Set training mode, see :meth:`train`, and refuse a parameter that would silently never be trained.

        Raises:
            ValueError: A parameter requires a gradient, and no optimizer has it.
        """
        for optimizer in self.trainer.optimizers:
            unscale_before_step(optimizer)
        self.train()  # Lightning keeps the mode that it finds, and a loaded model is in evaluation mode
        if any(not part.training for part in self.modules()):  # frozen, or kept so: it is meant
            warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start of training")
        trained = {id(p) for o in self.trainer.optimizers for group in o.param_groups for p in group["params"]}
        lost = [name for name, p in self.named_parameters() if p.requires_grad and id(p) not in trained]
        if lost and self.trainer.optimizers:
            part, more = lost[0].partition(".")[0], f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            cure = (
                "give it to one in configure_optimizers"
                if part in self.trained_parts
                else f"add {part!r} to trained_parts of {type(self).__name__}"
            )
            raise ValueError(
                f"{lost[0]}{more} would never be trained: no optimizer has it; {cure}, or set requires_grad_(False) if it shall "
                "stay as it is"
            )

    def on_train_start(self) -> None:
        """Refuse batches of one example where a batch norm cannot train on them.

        Raises:
            ValueError: There are such batches.
        """
        check_batch_norm(self)

    def shared_random(self, batch: Any, batch_idx: int) -> AbstractContextManager[Any]:
        """Return a context in which several processes draw the rows of one stream; nothing happens for one process.

        ``training_step`` enters it. A task with a training step of its own does so too.
        """
        several = has_trainer(self) and self.trainer.world_size > 1
        return shared_random(self.trainer, batch, batch_idx) if several else nullcontext()

    def penalized_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Return :meth:`training_losses` with the task's ``penalties``: added to the loss, and each as "penalty_<name>".

        Raises:
            TypeError: ``training_losses`` gives no single denominator.
        """
        with self._penalties.watching(self.net):
            loss, means, count = self.training_losses(batch)
        if (isinstance(count, Tensor) and count.ndim) or not isinstance(count, Tensor | int | float):
            raise TypeError(
                f"training_losses of {type(self).__name__} must give one denominator, a number or a 0-d tensor, got {count}: write "
                "all terms of the loss as means over the same examples, tokens or pixels"
            )
        for name, term in self._penalties.terms(self.net, batch, count).items():
            loss, means = loss + term, {**means, f"penalty_{name}": term}
        return loss, means, count

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return one batch's loss and penalties, weighted by its share of the optimizer step."""
        sam = next((optimizer for optimizer in self.trainer.optimizers if isinstance(optimizer, SAM)), None)
        if sam is not None and not self.looks_again:
            self._first_look = sam, batch, batch_idx, generator_states(self.trainer)
        with explained(self), self.shared_random(batch, batch_idx):
            loss, means, count = self.penalized_losses(batch)
        if self._last_batch != (here := (self.current_epoch, batch_idx)):
            self._last_batch = here
            self._means.update(means, count)
        return self._weighted(loss, count)

    def _weighted(self, loss: Tensor, count: int | float | Tensor) -> Tensor:
        """Weight a batch so that the step's gradient is that of the loss over all its examples, on all processes.

        The trainer divides by ``accumulate_grad_batches`` and averages over processes, as if all batches counted equally. Each
        batch is weighted by its count relative to that of the window's first; when the window's last count is known, the
        gradient is rescaled right after its backward pass, before anybody reads it.
        """
        trainer = self.trainer
        batches, processes = trainer.accumulate_grad_batches, trainer.world_size
        if (batches == 1 and processes == 1) or trainer.strategy.handles_gradient_accumulation:
            return loss
        mine = torch.empty((), dtype=exact_dtype(loss.device), device=loss.device)
        if isinstance(count, Tensor):
            mine.copy_(count.detach())
        else:
            mine.fill_(count)  # not copied: a GPU would be waited for
        if self._window is None:
            total = self._sum_over_ranks(mine.clone()) if processes > 1 else mine
            self._window = torch.where(total > 0, total / processes, 1.0), torch.zeros_like(mine)
        reference, so_far = self._window
        if is_last_of_window(trainer):
            self._window = None
            if batches > 1:
                so_far = so_far + mine
                total = self._sum_over_ranks(so_far) if processes > 1 else so_far
                scale = batches * processes * reference / total.clamp(min=torch.finfo(total.dtype).tiny)
                self._gradient_scale = torch.where(total > 0, scale, 1.0)
        else:
            self._window = reference, so_far + mine
        return loss * (mine / reference).to(loss.dtype)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Run the backward pass; at the end of an accumulation window, rescale the gradient, see :meth:`training_step`.

        SAM's second look at the batch is here, too.
        """
        super().backward(loss, *args, **kwargs)
        if self._first_look is not None:
            self._look_again()
        if self._gradient_scale is None:
            return
        scale, self._gradient_scale = self._gradient_scale, None
        if scale.device.type == "cpu" and scale == 1:  # on a GPU, to look would be to wait
            return
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale)

    def _look_again(self) -> None:
        """Replace the gradient by the one that SAM applies.

        All within the backward pass of the first look: hooks around it, those before the step, and clipping come once a step. The
        second look draws what the first drew, logs nothing, and what it changes in buffers (statistics of batch norms) is put back.
        """
        (sam, batch, batch_idx, states), self._first_look = cast(Any, self._first_look), None
        buffers = [(buffer, buffer.clone()) for buffer in self.buffers()]
        set_generators(self.trainer, states)
        self.looks_again = True
        try:
            with sam.perturbed(), patch.object(self, "log", _log_nothing):
                sam.zero_grad()
                super().backward(cast(Tensor, self.trainer.strategy.training_step(batch, batch_idx)))
        finally:
            self.looks_again = False
            with torch.no_grad():
                for buffer, own in buffers:
                    buffer.copy_(own)

    def _sum_over_ranks(self, value: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(value, reduce_op="sum")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the window when the trainer is about to write a row."""
        if not row_is_due(self.trainer, self._last_logged):
            return
        self._last_logged = self.trainer.global_step
        means = self._means.window(self._sum_over_ranks)
        self._check_finite(means.items())
        for name, value in means.items():
            self.log(f"train/{name}_step", value, prog_bar=name == "loss", batch_size=1)

    def on_train_epoch_end(self) -> None:
        """Log the exact means over the epoch."""
        means = self._means.epoch(self._sum_over_ranks)
        self._check_finite(means.items())
        for name, value in means.items():
            self.log(f"train/{name}", value, batch_size=1, sync_dist=True, reduce_fx="max")
        self._means.reset()

    def _check_finite(self, values: Iterable[tuple[str, float]], stage: str = "train/") -> None:
        """End a fit whose loss is not finite, before a checkpoint of it is saved.

        Raises:
            FloatingPointError: A value is nan or infinite (not under float16, where too large a step is tried again).
        """
        if not is_fitting(self) or grad_scaler(self.trainer) is not None:
            return
        trainer = self.trainer
        clip = "trainer.gradient_clip_val" if self.automatic_optimization else "clip_grad"
        for name, value in values:
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{stage}{name} is {value:g} after step {trainer.global_step} in epoch {trainer.current_epoch}, so training "
                    f"cannot go on: lower lr (it is {self.hparams['lr']:g}), clip the gradient ({clip}), or "
                    f"look for values that are not finite in the data"
                )

    def on_fit_end(self) -> None:
        """Leave the weights that are evaluated, see :class:`Task`."""
        self._use_averages()

    # Evaluation -----------------------------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """Validate the averages of a schedule-free optimizer."""
        if is_fitting(self):
            self._use_averages()

    def on_validation_end(self) -> None:
        """Go on with the training weights, to the bit; callbacks and checkpoints of validation have seen the averages."""
        if is_fitting(self):
            with torch.no_grad():
                for parameter, own in self._trained:
                    parameter.copy_(own)
            self._trained = []

    def _use_averages(self) -> None:
        if not self._trained:
            with torch.no_grad():
                for parameter, average in averaged_weights(self.trainer.optimizers):
                    self._trained.append((parameter, parameter.clone()))
                    parameter.copy_(average)

    def _is_schedule_free(self) -> bool:
        return is_schedule_free(optimizer_class(self.hparams["optimizer"]))

    def _start_evaluation(self) -> None:
        self.__dict__["metrics"] = {name: metric.to(self.device) for name, metric in self.build_metrics().items()}

    def _end_evaluation(self, stage: str) -> None:
        for name, metric in self.metrics.items():
            value = metric.compute()
            if stage == "val" and name == "loss":
                self._check_finite([(name, value.item())], "val/")
            if value.ndim == 0:  # a confusion matrix is kept, not logged
                # every rank holds the same value: their maximum is that value, to the bit
                self.log(f"{stage}/{name}", value, batch_size=1, prog_bar=True, sync_dist=True, reduce_fx="max")

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.update_metrics(self.metrics, batch)

    def on_validation_epoch_end(self) -> None:
        self._end_evaluation("val")

    def on_test_epoch_start(self) -> None:
        self._start_evaluation()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.update_metrics(self.metrics, batch)

    def on_test_epoch_end(self) -> None:
        self._end_evaluation("test")

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to rebuild the module, and to continue an epoch where it stopped."""
        self._save_both_sets(checkpoint)
        due = row_is_due(self.trainer, self._last_logged)  # callbacks save at the end of a batch, before we log it
        means = self._means.state_dict(self._sum_over_ranks, looked_at=due)
        for sums in (means["window"], means["epoch"]):
            self._check_finite(zip(means["names"], sums or [], strict=False))
        norm: Any = torch.nn.utils.get_total_norm(self.parameters())
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # sharded: a DTensor
        self._check_finite([("the norm of the weights", norm.item())], "")
        checkpoint["zoo"] = {
            "model": name_of(self),
            "frozen": self._frozen,
            **self.data_description(),
            "means": means,
            "last_logged": self.trainer.global_step if due else self._last_logged,
        }

    def _save_both_sets(self, checkpoint: dict[str, Any]) -> None:
        """Give a checkpoint the averages of a schedule-free optimizer, with the training weights beside them."""
        pairs: list[tuple[nn.Parameter, Tensor, Tensor]] = [(p, own, p) for p, own in self._trained]
        pairs = pairs or [(p, p, x) for p, x in averaged_weights(self.trainer.optimizers)]
        if not pairs:
            return
        own, averages = {id(p): y for p, y, _ in pairs}, {id(p): x.detach() for p, _, x in pairs}
        names = {name: id(p) for name, p in self.named_parameters(remove_duplicate=False) if id(p) in own}
        state = checkpoint["state_dict"]
        trained = {name: own[names[name]].detach() if name in names else value for name, value in state.items()}
        checkpoint["ema"] = {"evaluate": True, "other": trained}  # as callbacks.EMA saves the two
        checkpoint["state_dict"] = {
            name: averages[names[name]] if name in names else value for name, value in state.items()
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what :meth:`on_save_checkpoint` added."""
        if not is_fitting(self):
            self._trained = []  # the task gets other weights
        elif "ema" in checkpoint and self._is_schedule_free():
            checkpoint["state_dict"] = checkpoint["ema"]["other"]  # the trainer loads it next
        elif "ema" in checkpoint and not _averages(self.trainer):
            raise ValueError("the checkpoint's weights are an average: resume with callbacks.EMA, as it was trained")
        state = checkpoint.get("zoo")
        if state is None:
            return
        self.check_vocabularies("the checkpoint", state)
        self.describe_data(state)
        if (frozen := state.get("frozen", 0)) != self.frozen:
            self.freeze(frozen)
        self._last_logged = state["last_logged"]
        first = not has_trainer(self) or self.global_rank == 0
        self._means.load_state_dict(state["means"], self.device, first_rank=first)


def net_is_missing(cls: type, net: str) -> TypeError:
    """Return the error for a checkpoint that names the class of its net, which no file may ask to import."""
    return TypeError(
        f"{cls.__name__} was given its net, a {net}, from outside, and no file holds a net: build it again and give it, "
        f"{cls.__name__}.load_from_checkpoint(path, net=net)"
    )


def _log_nothing(*args: Any, **kwargs: Any) -> None:
    """Take the place of ``log``."""


def check_monitor(monitor: str, example: str) -> None:
    """Refuse a ``monitor`` that is no logged metric.

    Raises:
        ValueError: It does not begin with "val/" or "train/".
    """
    if not monitor.startswith(("val/", "train/")):
        raise ValueError(f"monitor names a logged metric such as {example!r} or 'val/loss', got {monitor!r}")


def input_of(batch: Any) -> Any:
    """Return the input of a batch, ``x`` of ``(x, y)``, or a batch that is an input itself (a tensor, a NamedTuple)."""
    return batch[0] if type(batch) in (tuple, list) else batch


def _averages(trainer: Any) -> bool:
    """Whether a callback keeps an average of the weights."""
    return any(hasattr(callback, "average") for callback in trainer.callbacks)
