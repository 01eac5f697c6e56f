"""Names what goes wrong in a run while it goes wrong."""

import dataclasses
import json
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from callbacks.activation_stats import ActivationStats
from callbacks.diagnoses import NAMES, OF_VALIDATION, SAMPLES, Diagnosis, Record, Row, Validation, diagnose
from callbacks.grad_norm import GradNorm
from callbacks.input_statistics import InputStatistics
from callbacks.internals import (
    evaluating,
    fetched_batches_of_epoch,
    forward_context,
    has_grad_scaler,
    has_whole_parameters,
    is_fit_validation,
    keeping_modes,
    leaves,
    logged_step,
    row_is_due,
    run_folder,
)
from callbacks.monitor import Monitor
from callbacks.run_length import run_length
from callbacks.update_ratio import UpdateRatio

_KEPT = 4  # training batches whose loss is measured again in evaluation mode
_FILE = "diagnoses.json"


class TrainingDiagnostics(Callback):
    """Say once, as a line and in ``diagnoses.json`` of the run folder, what is going wrong: with the evidence, and what to try.

    ================================  ====================================================================================
    not finite                        a loss, a gradient or a weight is nan or infinite: in which layer it was so first
    loss exploded                     the loss is above three times that of the start
    vanishing gradients               gradients of the first layers are a tiny part of those of the last
    dying ReLU                        most units of a layer are 0 for all examples
    saturation                        most values of a tanh or sigmoid lie where it is flat
    rate too high, rate too low       updates are far from a thousandth of the weights, and the loss hardly falls
    plateau from initialization       the loss stays where it was, and weights began all equal or out of scale
    underfit                          the training loss has settled not far below that of the start
    overfit                           the validation loss rises while that of training falls
    validation too easy               validation inputs are training inputs, or their loss is far below that of training batches
    distribution mismatch             validation inputs have other means or another variance
    mode collapse                     samples of a GAN are alike
    posterior collapse                the codes of a variational autoencoder do not depend on the input
    attention does not move           each step of a text looks at the same places
    teacher-forcing gap               a text is right only as long as the true one is read
    ================================  ====================================================================================

    Nothing is said in the first epoch, but that a value is not finite, that the loss has exploded, or that the inputs of validation
    are those of training or differ from them. The evidence is
    that of :class:`~callbacks.GradNorm`, :class:`~callbacks.UpdateRatio` and :class:`~callbacks.ActivationStats`, the losses, and
    what a module offers of its own. Thresholds, and how often they find what was planted: docs/diagnostics.md.

    A module may define (the zoo's tasks do):

    - ``unfit_diagnoses``: names of the table that make no sense for it, such as "loss exploded" of a loss that may be negative.
    - ``diagnostic_numbers(batch)``: numbers of a validation batch that only it knows, by name: ``sample_diversity``,
      ``active_share``, ``attention_movement``, ``forced_accuracy`` and ``written_accuracy``, each in [0, 1].
    - ``loss_in_evaluation(batch)``: the loss of a training batch as evaluation measures it, a 0-d tensor, or None.
    - ``expected_initial_loss()``, ``loss_floor()``: what a fresh net has, and a perfect one.

    A run with this callback ends with the same bits as one without. What was said is saved in checkpoints: a resumed run does not
    say it again. References to the last four training batches are kept. Without validation, or for a net without such layers, what
    cannot be seen is not looked for. Under float16, values that are not finite are the scaler's affair. Of several ranks, the first
    one speaks, of what it saw itself.

    Args:
        leave_out: Names of the table that are not looked for.
        every_n_steps: Optimizer steps from one measurement to the next; by default those at which the trainer writes a row
            (``log_every_n_steps``, of which 0 turns this callback off).

    Raises:
        ValueError: A name that is not in the table, or ``every_n_steps`` is out of its range.

    Example:
        >>> TrainingDiagnostics(leave_out=["underfit"]).diagnoses
        []
    """

    def __init__(self, leave_out: Sequence[str] = (), every_n_steps: int | None = None) -> None:
        for name in leave_out:
            if name not in NAMES:
                raise ValueError(f"leave_out names some of {', '.join(NAMES)}, got {name!r}")
        self.leave_out = tuple(leave_out)
        self.every_n_steps = every_n_steps
        self.diagnoses: list[Diagnosis] = []
        self.record = Record()
        self._monitors = (
            _GradNorm(per_layer=True, every_n_steps=every_n_steps),
            _UpdateRatio(per_layer=False, every_n_steps=every_n_steps),
            _ActivationStats(per_layer=True, every_n_steps=every_n_steps),
        )
        self._begin()

    def _begin(self) -> None:
        self._names: tuple[str, ...] = ()
        self._weights: dict[str, int] = {}  # name -> number of values
        self._losses: list[Tensor] = []  # of the batches since the last row, on the device
        self._of_row: list[float] = []  # those that have been read
        self._since_validation: list[float] = []  # losses of the batches since then
        self._rate = 0.0
        self._batches: deque[Any] = deque(maxlen=_KEPT)
        self._inputs: InputStatistics | None = None
        self._numbers: dict[str, float] = {}
        self._seen_loss = math.nan
        self._folder: Path | None = None

    # Setting up -----------------------------------------------------------------------------------------------------

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._begin()
        self._folder = run_folder(trainer)
        if trainer.global_step == 0:  # a checkpoint to resume from is loaded after this
            self.record, self.diagnoses = Record(), []

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        unfit = (*self.leave_out, *getattr(pl_module, "unfit_diagnoses", ()))
        self._names = tuple(name for name in NAMES if name not in unfit)
        weights = _weights_of(pl_module)
        self._weights = {name: weight.numel() for name, weight in weights.items()}
        if trainer.global_step == 0:
            self._look_at_start(pl_module, weights if has_whole_parameters(trainer) else {})
            self._inputs = InputStatistics()
        if not trainer.enable_validation:
            missing = [name for name in OF_VALIDATION if name in self._names]
            rank_zero_info(f"TrainingDiagnostics: without validation, it does not look for {', '.join(missing)}.")
        for monitor in self._monitors:
            monitor.on_train_start(trainer, pl_module)

    def _look_at_start(self, module: Any, weights: dict[str, Tensor]) -> None:
        for name, value in (("expected_initial_loss", "expected_loss"), ("loss_floor", "loss_floor")):
            if hasattr(module, name):
                setattr(self.record, value, getattr(module, name)())
        if not weights:
            return
        with torch.no_grad():
            flat = [weight.detach().flatten(1).float() for weight in weights.values()]
            gains = torch.stack([w.square().mean().sqrt().cpu() for w in flat]).tolist()
            same = torch.stack([(w == w[0]).all().cpu() for w in flat]).tolist()
        self.record.gains = {
            name: gain * math.sqrt(w.shape[1]) for name, gain, w in zip(weights, gains, flat, strict=True)
        }
        *hidden, _ = zip(weights, same, flat, strict=True)  # the last layer may well begin at 0
        self.record.twins = [name for name, equal, w in hidden if equal and len(w) > 1]

    # Training -------------------------------------------------------------------------------------------------------

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batches.append(batch)
        for monitor in self._monitors:
            monitor.on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self._inputs is not None and trainer.current_epoch == 0:
            self._inputs.add_training(batch)

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        for monitor in self._monitors:
            monitor.on_before_backward(trainer, pl_module, loss)
        if self.record.not_finite or has_grad_scaler(trainer):
            return
        # on a GPU, to look would be to wait
        if (loss.device.type == "cpu" or self._monitors[0].is_due(trainer)) and not bool(loss.isfinite().all()):
            self.record.not_finite = self._first_not_finite(trainer, pl_module)
            self._speak(trainer)

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for monitor in self._monitors:
            monitor.on_after_backward(trainer, pl_module)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        for monitor in self._monitors:
            monitor.on_before_optimizer_step(trainer, pl_module, optimizer)
        self._rate = max(group["lr"] for held in trainer.optimizers for group in held.param_groups)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            self._losses.append(loss.detach().float().mean() * trainer.accumulate_grad_batches)
        for monitor in self._monitors:
            monitor.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if row_is_due(trainer):
            self._read(trainer, pl_module)
            self._speak(trainer)

    def _read(self, trainer: Trainer, module: LightningModule) -> None:
        """Read what was measured since the last row from the device."""
        measured: dict[str, float] = {}
        for monitor in self._monitors:
            for values in monitor.take_pending().values():
                measured |= values
        self._read_losses()
        if not self._of_row:
            return
        mean = sum(self._of_row) / len(self._of_row)
        self._of_row = []
        updates = [value for name, value in measured.items() if name.startswith("update_ratio")]
        gradients = {
            name: measured[f"grad_norm/{name}"] / math.sqrt(count)
            for name, count in self._weights.items()
            if f"grad_norm/{name}" in measured
        }
        row = Row(
            logged_step(trainer) + 1, self._now(trainer), mean, self._rate, max(updates, default=math.nan), gradients
        )
        for name, value in measured.items():
            kind, _, layer = name.partition("/")
            if layer and kind in ("dead_units", "saturation"):
                (row.dead if kind == "dead_units" else row.saturated)[layer.removeprefix("net.")] = value
        for old in self.record.rows[1:][-SAMPLES : -SAMPLES + 1]:  # details are of the first row and the last ones
            old.gradients, old.dead, old.saturated = {}, {}, {}
        self.record.rows.append(row)
        total = run_length(trainer, "step")
        self.record.share_done = trainer.global_step / total if math.isfinite(total) else math.nan
        bad = [name for name, value in gradients.items() if not math.isfinite(value)]
        if bad and not self.record.not_finite and not has_grad_scaler(trainer):
            self.record.not_finite = f"the gradient of {bad[-1]} is not finite, and so are those below it"

    def _read_losses(self) -> None:
        losses = torch.stack(self._losses).tolist() if self._losses else []
        self._losses = []
        if losses and math.isnan(self.record.start_loss):
            self.record.start_loss = losses[0]
        self._of_row += losses
        self._since_validation += losses

    def _now(self, trainer: Trainer) -> float:
        batches = trainer.num_training_batches
        return trainer.current_epoch + (fetched_batches_of_epoch(trainer) / batches if math.isfinite(batches) else 0.0)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for monitor in self._monitors:
            monitor.on_train_end(trainer, pl_module)
        self._batches.clear()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        for monitor in self._monitors:
            monitor.on_exception(trainer, pl_module, exception)
        self._batches.clear()

    # Validation -----------------------------------------------------------------------------------------------------

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not is_fit_validation(trainer) or dataloader_idx:
            return
        if self._inputs is not None:
            self._inputs.add_validation(batch)
        module: Any = pl_module
        if batch_idx == 0 and hasattr(module, "diagnostic_numbers"):
            with isolate_rng():
                self._numbers = {k: float(v) for k, v in module.diagnostic_numbers(batch).items()}

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen_loss = math.nan
        if is_fit_validation(trainer) and "validation too easy" in self._names and self._batches:
            self._seen_loss = self._loss_of_training_batches(trainer, pl_module)

    def _loss_of_training_batches(self, trainer: Trainer, module: Any) -> float:
        if not hasattr(module, "loss_in_evaluation"):
            return math.nan
        losses = []
        with isolate_rng(), evaluating(trainer, module), forward_context(trainer):
            for batch in self._batches:
                if (loss := module.loss_in_evaluation(batch)) is None:
                    return math.nan
                losses.append(loss.detach().float())
        return float(torch.stack(losses).mean())

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not is_fit_validation(trainer):
            return
        self._read_losses()
        if self._inputs is not None:
            found = self._inputs.compare()
            self._inputs = None  # once is enough: validation inputs stay the same
            for name, value in found.items():
                setattr(self.record, name, value)
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val") and v.numel() == 1}
        train = self._since_validation
        self._since_validation = []
        self.record.validations.append(
            Validation(
                step=trainer.global_step,
                epoch=self._now(trainer),
                train_loss=sum(train) / len(train) if train else math.nan,
                val_loss=metrics.get("val/loss", metrics.get("val_loss", math.nan)),
                seen_loss=self._seen_loss,
                numbers=self._numbers,
            )
        )
        self._numbers = {}
        self._speak(trainer)

    # Speaking -------------------------------------------------------------------------------------------------------

    def _speak(self, trainer: Trainer) -> None:
        said = {diagnosis.name for diagnosis in self.diagnoses}
        new = diagnose(self.record, tuple(name for name in self._names if name not in said))
        if not new:
            return
        self.diagnoses += new
        for diagnosis in new:
            rank_zero_info(f"TrainingDiagnostics: {diagnosis}")
        if self._folder is not None and trainer.is_global_zero:
            self._folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps([dataclasses.asdict(diagnosis) for diagnosis in self.diagnoses], indent=2)
            (self._folder / _FILE).write_text(text + "\n", encoding="utf-8")

    @override
    def state_dict(self) -> dict[str, Any]:
        self._read_losses()
        return {
            "of_row": self._of_row,
            "diagnoses": [dataclasses.asdict(diagnosis) for diagnosis in self.diagnoses],
            "record": dataclasses.asdict(self.record),
            "since_validation": self._since_validation,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.diagnoses = [Diagnosis(**each) for each in state_dict["diagnoses"]]
        record = Record(**state_dict["record"])
        record.rows = [Row(**row) for row in state_dict["record"]["rows"]]
        record.validations = [Validation(**each) for each in state_dict["record"]["validations"]]
        self.record = record
        self._since_validation, self._of_row = state_dict["since_validation"], state_dict["of_row"]

    # Where a value was first not finite -----------------------------------------------------------------------------

    def _first_not_finite(self, trainer: Trainer, module: LightningModule) -> str:
        """Say where: in the weights, in the batch, or in the output of which layer."""
        parameters = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        bad = [name for name, p in parameters if not bool(p.isfinite().all())]
        if bad:
            return f"the weights of {bad[-1]} are not finite, as its gradient was first ({len(bad)} of {len(parameters)} are not)"
        batch = self._batches[-1] if self._batches else None
        floats = [leaf for leaf in leaves(batch) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        if any(not bool(leaf.isfinite().all()) for leaf in floats):
            return "the batch has values that are not finite"
        if not has_whole_parameters(trainer):
            return "the loss is not finite"
        layer = self._layer_of(module, batch)
        return (
            "the loss is not finite, all outputs of layers are"
            if layer is None
            else f"the output of {layer} is the first that is not finite"
        )

    def _layer_of(self, module: Any, batch: Any) -> str | None:
        """Run the batch once more, and return the first layer whose output is not finite."""
        found: list[str] = []
        names = {part: name for name, part in module.named_modules() if name}

        def look(part: nn.Module, _: Any, output: Any) -> None:
            tensors = [leaf for leaf in leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
            if not found and any(not bool(leaf.isfinite().all()) for leaf in tensors):
                found.append(names[part])

        handles = [part.register_forward_hook(look) for part in names]
        buffers = [(part, name, b) for part in module.modules() for name, b in part.named_buffers(recurse=False)]
        for part, name, buffer in buffers:  # not changed in place: the backward pass may need them
            setattr(part, name, buffer.clone())
        try:
            with isolate_rng(), torch.no_grad(), keeping_modes(module):
                run = getattr(module, "training_losses", None)
                run(batch) if run is not None else module(batch[0] if isinstance(batch, list | tuple) else batch)
        finally:
            for handle in handles:
                handle.remove()
            for part, name, buffer in buffers:
                setattr(part, name, buffer)
        return found[0] if found else None


class _Kept(Monitor):
    """A monitor whose values are not logged, but taken."""

    @override
    def log_pending(self, trainer: Trainer) -> None:
        pass


class _GradNorm(_Kept, GradNorm):
    pass


class _UpdateRatio(_Kept, UpdateRatio):
    pass


class _ActivationStats(_Kept, ActivationStats):
    @override
    def _note(self, why: str) -> None:
        self._noted = True


def _weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the trained matrices and filters, not those of embeddings, in the order of the net."""
    rows = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding | nn.EmbeddingBag)}
    return {
        name: p
        for name, p in module.named_parameters()
        if p.requires_grad and p.ndim > 1 and "weight" in name.rsplit(".", 1)[-1] and id(p) not in rows
    }
