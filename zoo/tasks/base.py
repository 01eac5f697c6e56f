"""What every task shares: standardized input, the optimizer by name, exact logging, and what a checkpoint tells."""

import inspect
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from zoo.registry import name_of
from zoo.tasks.initializers import initialize
from zoo.tasks.means import RunningMeans
from zoo.tasks.optimizers import build_optimizer, check_optimizer
from zoo.tasks.portable import Portable


class Task(Portable):
    """A net and how it is trained. Subclasses give the loss, the metrics and the prediction.

    Input comes in units of the data (images: floats in [0, 1]); the task standardizes it with its own ``mean`` and ``std``
    (one number a channel or column), which it copies from the datamodule at the first fit and keeps ever after.

    Training logs ``train/<name>_step`` every ``trainer.log_every_n_steps`` optimizer steps (the mean over the examples since
    the last time) and ``train/<name>`` at the end of the epoch (the exact mean over its examples, all ranks together).

    Args:
        net: maps a standardized batch to the output (logits, say).
        optimizer: name in ``torch.optim``, "Newton", or a dotted path to a class of your own.
        lr: learning rate, > 0.
        weight_decay: >= 0, as the optimizer understands it (decoupled for AdamW, L2 for SGD).
        optimizer_args: further arguments of the optimizer, e.g. ``{"momentum": 0.9, "nesterov": True}``.
        decay_norm_and_bias: let weight decay act on norms and biases too.
        layer_decay: layer-wise rate decay: each layer group (see :meth:`layer_groups`) has the rate of the one above it times
            this, in (0, 1]; the head has ``lr``.
        init: draw the net's weights by this name, see :func:`zoo.tasks.initialize`; None: as the net itself does.
        init_args: further arguments of the initialization, e.g. ``{"std": 0.02}``.
        weights: where the net's weights come from, see :func:`zoo.create_model`. No hyperparameter: a checkpoint of the task has
            the weights itself, and loads nothing else.

    Raises:
        ValueError, TypeError: an unknown optimizer or initialization, an argument it does not have, a value out of range, or
            weights that do not fit.
    """

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
        weights: str | None = None,
    ) -> None:
        given: Any = net
        if isinstance(given, str):  # all that a checkpoint tells of a net from outside
            cls = type(self).__name__
            raise TypeError(
                f"{cls} was given its net, a {given}, from outside, and no file holds a net: build it again and give it, "
                f"{cls}.load_from_checkpoint(path, net=net)"
            )
        check_optimizer(optimizer, lr, weight_decay, optimizer_args or {})
        if not 0 < layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1], got {layer_decay}")
        if init is not None:
            initialize(net, init, init_args)
        elif init_args:
            raise ValueError(f"init_args {init_args} belong to an init, and none is given")
        super().__init__()
        self.save_hyperparameters(ignore=["net", "weights", "encoder_weights"])
        if "net" in inspect.signature(type(self).__init__).parameters:
            self.hparams["net"] = f"{type(net).__module__}.{type(net).__qualname__}"
        self.net = net
        self.register_task_buffers()
        self._means = RunningMeans()
        self._last_batch = (-1, -1)  # (epoch, batch): an optimizer's closure may run a batch more than once
        self._last_logged = 0  # optimizer step of the last window that was logged
        # no submodule: made when evaluation starts, so a task built on the meta device leaves nothing there
        self.__dict__["metrics"] = {}
        if weights is not None:
            from zoo.pretrained import use_weights

            use_weights(self, weights)

    # What a subclass gives ------------------------------------------------------------------------------------------

    @property
    def monitor(self) -> tuple[str, str]:
        """The metric that decides which checkpoint is best, and its mode, "min" or "max"."""
        return "val/loss", "min"

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """The loss to minimize, the means over the batch to log (``"loss"`` among them), and the number they are means over."""
        raise TypeError(f"{type(self).__name__} does not say how it is trained: define training_losses")

    def build_metrics(self) -> dict[str, Metric]:
        """Fresh torchmetrics objects by name for one evaluation; they gather over ranks by themselves."""
        raise TypeError(f"{type(self).__name__} does not say how it is evaluated: define build_metrics")

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        """Add one evaluation batch to the metrics."""
        raise TypeError(f"{type(self).__name__} does not say how it is evaluated: define update_metrics")

    @property
    def output_size(self) -> int | None:
        """What the net must give an example, ``(B, output_size)``; None where the task does not say."""
        return None

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """What the net must give an example of that shape; None where the task does not say."""
        return None if self.output_size is None else (self.output_size,)

    def render(self, batch: Any) -> dict[str, Any]:
        """What is worth looking at in a batch, by name: called in evaluation, without gradients, on one process.

        Images are uint8 tensors ``(3, H, W)``, texts are str, tables are lists of rows, the first one their column names.
        """
        return {}

    def expected_initial_loss(self) -> float | None:
        """The loss in nats of a fresh net that knows nothing, or None where there is no such number."""
        return None

    def loss_floor(self) -> float:
        """The smallest training loss in nats that a perfect net can reach; above 0 where targets are not certain."""
        return 0.0

    # The forward pass -----------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Any:
        """The net's output for input in units of the data."""
        return self.net(self.standardize(x))

    def forward_args(self, batch: Any) -> tuple[Any, ...]:
        """What :meth:`forward` takes of a batch: its first part, where a task does not say otherwise."""
        return (batch[0],)

    # Fitting --------------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Begin anew, take what the datamodule tells, and refuse data that the net cannot take."""
        super().setup(stage)
        if stage == "fit":  # a checkpoint to resume from is loaded after this
            self._means.reset()
            self._last_batch, self._last_logged = (-1, -1), 0

    def configure_optimizers(self) -> Optimizer:
        """One optimizer at a constant rate; a schedule is the business of ``callbacks.LRSchedule``."""
        h = self.hparams
        return build_optimizer(
            self.net,
            h["optimizer"],
            h["lr"],
            h["weight_decay"],
            h["optimizer_args"] or {},
            decay_norm_and_bias=h["decay_norm_and_bias"],
            layer_decay=h["layer_decay"],
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step's loss."""
        loss, means, count = self.training_losses(batch)
        if self._last_batch != (here := (self.current_epoch, batch_idx)):
            self._last_batch = here
            self._means.update(means, count)
        return loss

    def _row_is_due(self) -> bool:
        step, every = self.trainer.global_step, getattr(self.trainer, "log_every_n_steps")  # noqa: B009 (mypy does not see it)
        return every > 0 and step != self._last_logged and step % every == 0  # every 0: never

    def _sum_over_ranks(self, value: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(value, reduce_op="sum")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the window when the trainer is about to write a row."""
        if not self._row_is_due():
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
        """End a fit whose loss is lost, before a checkpoint of it is saved.

        Raises:
            FloatingPointError: a value is nan or infinite (under float16 too large a step is tried again: there nothing is said).
        """
        trainer = self._trainer
        if (
            trainer is None
            or trainer.state.fn != "fit"
            or getattr(trainer.precision_plugin, "scaler", None) is not None
        ):
            return
        clip = "trainer.gradient_clip_val" if self.automatic_optimization else "clip_grad"
        for name, value in values:
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{stage}{name} is {value:g} after step {trainer.global_step} in epoch {trainer.current_epoch}, so training "
                    f"cannot go on: lower lr (it is {self.hparams['lr']:g}), clip the gradient ({clip}), or "
                    f"look for values that are not finite in the data"
                )

    # Evaluation -----------------------------------------------------------------------------------------------------

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
        """Fresh metrics."""
        self._start_evaluation()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the metrics."""
        self.update_metrics(self.metrics, batch)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/<metric>``."""
        self._end_evaluation("val")

    def on_test_epoch_start(self) -> None:
        """Fresh metrics."""
        self._start_evaluation()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the metrics."""
        self.update_metrics(self.metrics, batch)

    def on_test_epoch_end(self) -> None:
        """Log ``test/<metric>``."""
        self._end_evaluation("test")

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Tell what is needed to rebuild the module, and to continue an epoch where it stopped."""
        due = self._row_is_due()  # callbacks save at the end of a batch before we log it
        means = self._means.state_dict(self._sum_over_ranks, looked_at=due)
        for sums in (means["window"], means["epoch"]):
            self._check_finite(zip(means["names"], sums or [], strict=False))
        norm: Any = torch.nn.utils.get_total_norm(self.net.parameters())
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # sharded: a DTensor
        self._check_finite([("the norm of the weights", norm.item())], "")
        checkpoint["zoo"] = {
            "model": name_of(self),
            "frozen": self._frozen,
            **self.data_description(),
            "means": means,
            "last_logged": self.trainer.global_step if due else self._last_logged,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what :meth:`on_save_checkpoint` told."""
        fitting = self._trainer is not None and self.trainer.state.fn == "fit"
        if "ema" in checkpoint and fitting and not _averages(self.trainer):
            raise ValueError("the checkpoint's weights are an average: resume with callbacks.EMA, as it was trained")
        told = checkpoint.get("zoo")
        if told is None:
            return
        self.describe_data(told)
        self.freeze(told.get("frozen", 0))
        self._last_logged = told["last_logged"]
        self._means.load_state_dict(
            told["means"], self.device, first_rank=self._trainer is None or self.global_rank == 0
        )


def _averages(trainer: Any) -> bool:
    """Whether a callback keeps an average of the weights."""
    return any(hasattr(callback, "average") for callback in trainer.callbacks)
