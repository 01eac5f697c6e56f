"""What every task shares: standardized input, the optimizer by name, exact logging, and what a checkpoint tells."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from zoo.registry import name_of
from zoo.tasks.means import RunningMeans
from zoo.tasks.optimizers import build_optimizer, check_optimizer

if TYPE_CHECKING:
    from zoo.pretrained import LoadReport


class Task(LightningModule):
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

    Raises:
        ValueError, TypeError: an unknown optimizer, an argument it does not have, or a value out of range.
    """

    mean: Tensor
    std: Tensor
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
    ) -> None:
        check_optimizer(optimizer, lr, weight_decay, optimizer_args or {})
        super().__init__()
        self.save_hyperparameters(ignore=["net"])
        self.net = net
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("std", torch.ones(1))
        self.class_names: list[str] | None = None
        self.input_shape: tuple[int, ...] | None = None
        self.preparation: dict[str, Any] | None = None  # how files become input, in the datamodule's words
        self.load_report: LoadReport | None = None  # what zoo.load found
        self._standardized = False  # whether mean and std are known: copied from data, or loaded
        self._means = RunningMeans()
        self._last_batch = (-1, -1)  # (epoch, batch): an optimizer's closure may run a batch more than once
        self._last_logged = 0  # optimizer step of the last window that was logged
        # no submodule: made when evaluation starts, so a task built on the meta device leaves nothing there
        self.__dict__["metrics"] = {}

    # What a subclass gives ------------------------------------------------------------------------------------------

    @property
    def monitor(self) -> tuple[str, str]:
        """The metric that decides which checkpoint is best, and its mode, "min" or "max"."""
        return "val/loss", "min"

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int]:
        """The loss to minimize, the means over the batch to log (``"loss"`` among them), and the number of examples."""
        raise TypeError(f"{type(self).__name__} does not say how it is trained: define training_losses")

    def build_metrics(self) -> dict[str, Metric]:
        """Fresh torchmetrics objects by name for one evaluation; they gather over ranks by themselves."""
        raise TypeError(f"{type(self).__name__} does not say how it is evaluated: define build_metrics")

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        """Add one evaluation batch to the metrics."""
        raise TypeError(f"{type(self).__name__} does not say how it is evaluated: define update_metrics")

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

    def standardize(self, x: Tensor) -> Tensor:
        """``(x - mean) / std``, channel by channel (images, ``(B, C, ...)``) or column by column (``(B, D)``)."""
        shape = (-1, *[1] * (x.ndim - 2))
        return (x - self.mean.view(shape)) / self.std.view(shape)

    def forward(self, x: Tensor) -> Any:
        """The net's output for input in units of the data."""
        return self.net(self.standardize(x))

    # Data -> module -------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Take what the datamodule tells, and refuse data that the net cannot take."""
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit":  # a checkpoint to resume from is loaded after this
            self._means.reset()
            self._last_batch, self._last_logged = (-1, -1), 0
        if stage != "fit" or data is None:
            return
        if not self._standardized and getattr(data, "mean", None) is not None:
            self.mean = torch.as_tensor(data.mean, dtype=torch.float32).flatten().to(self.mean.device)
            self.std = torch.as_tensor(data.std, dtype=torch.float32).flatten().to(self.std.device)
            self._standardized = True
        if getattr(data, "class_names", None) is not None:
            self.class_names = [str(name) for name in data.class_names]
        self.preparation = getattr(data, "preparation", None)
        if getattr(data, "input_shape", None) is not None:
            self.input_shape = tuple(int(n) for n in data.input_shape)
            self._try_input(self.input_shape)

    def _try_input(self, shape: tuple[int, ...]) -> None:
        """Send one zero example through the net, so that a shape it cannot take is found before anything is done."""
        if self.mean.numel() not in (1, shape[0]):
            raise ValueError(
                f"the model was standardized for {self.mean.numel()} channels, the data have {shape[0]} (shape {shape})"
            )
        training = self.net.training
        self.net.eval()
        try:
            with torch.no_grad():
                self(torch.zeros(1, *shape, device=self.mean.device))
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"{type(self.net).__name__} cannot take the data's input of shape {shape}: {error}"
            ) from error
        finally:
            self.net.train(training)

    # Optimization ---------------------------------------------------------------------------------------------------

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
        for name, value in self._means.window(self._sum_over_ranks).items():
            self.log(f"train/{name}_step", value, prog_bar=name == "loss", batch_size=1)

    def on_train_epoch_end(self) -> None:
        """Log the exact means over the epoch."""
        for name, value in self._means.epoch(self._sum_over_ranks).items():
            self.log(f"train/{name}", value, batch_size=1, sync_dist=True, reduce_fx="max")
        self._means.reset()

    # Evaluation -----------------------------------------------------------------------------------------------------

    def _start_evaluation(self) -> None:
        self.__dict__["metrics"] = {name: metric.to(self.device) for name, metric in self.build_metrics().items()}

    def _end_evaluation(self, stage: str) -> None:
        for name, metric in self.metrics.items():
            value = metric.compute()
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
        checkpoint["zoo"] = {
            "model": name_of(self),
            **self.data_description(),
            "means": self._means.state_dict(self._sum_over_ranks, looked_at=due),
            "last_logged": self.trainer.global_step if due else self._last_logged,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what :meth:`on_save_checkpoint` told."""
        told = checkpoint.get("zoo")
        if told is None:
            return
        self.describe_data(told)
        self._last_logged = told["last_logged"]
        self._means.load_state_dict(
            told["means"], self.device, first_rank=self._trainer is None or self.global_rank == 0
        )

    def data_description(self) -> dict[str, Any]:
        """What the module remembers of its data, as plain data: class names, the shape of an example, how files become one."""
        return {
            "class_names": self.class_names,
            "input_shape": None if self.input_shape is None else list(self.input_shape),
            "preparation": self.preparation,
        }

    def describe_data(self, description: Mapping[str, Any]) -> None:
        """Set what :meth:`data_description` gave."""
        names, shape = description.get("class_names"), description.get("input_shape")
        self.class_names = None if names is None else list(names)
        self.input_shape = None if shape is None else tuple(shape)
        self.preparation = description.get("preparation")

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in ("mean", "std"):  # one number before the first fit, one a channel afterwards
            loaded, buffer = state_dict.get(prefix + name), getattr(self, name)
            if loaded is not None and loaded.shape != buffer.shape:
                setattr(self, name, torch.empty(loaded.shape, dtype=buffer.dtype, device=buffer.device))
        self._standardized = self._standardized or prefix + "mean" in state_dict
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a folder that :func:`zoo.load` reads: ``config.json``, ``model.safetensors`` (the net's keys), ``README.md``.

        Returns:
            The folder.

        Raises:
            ValueError: the class is not registered (``zoo.register``), so nobody could rebuild it from the folder.
        """
        from zoo.pretrained import save_folder

        return save_folder(self, Path(folder))
