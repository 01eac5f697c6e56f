"""The range test of the learning rate: Smith 2017, "Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186.

The rate grows exponentially from step to step, until the loss diverges. The rate that is suggested is a tenth of the one at which
the smoothed loss reaches its floor, where it still falls (Gugger 2018, "How do you find a good learning rate",
https://sgugger.github.io/how-do-you-find-a-good-learning-rate.html; fastai's ``lr_find`` calls the rule ``minimum``).
The floor begins where 95% of the fall are done: on a flat one, the smallest loss may be anywhere.
"""

import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor
from typing_extensions import override

from callbacks import LayerFreezing
from recipes.cli.errors import UserError
from recipes.cli.run.building import RecipeCLI
from recipes.cli.run.trying import Enough, Trial, check_has_data, copied, quiet_trainer
from zoo.optim.schedule_free import is_schedule_free
from zoo.writing import replacing

LOW, HIGH, STEPS = 1e-7, 10.0, 120
_SMOOTHING = 0.9  # of the loss
_DIVERGED = 4.0  # times its fall so far, or twice its smallest value
_FLAT = 20  # steps at the beginning, whose rates change nothing: what the loss is, and how much it varies
_FLOOR = 0.95  # share of the fall
_CLEAR = 5.0  # standard deviations of the smoothed loss that a fall has to exceed
_NO_LENGTH = {"LBFGS": "searches along a line in each step", "Newton": "takes whole steps from the curvature"}


@dataclass
class Curve:
    """Losses of steps with a growing rate.

    Args:
        rates: Learning rate of each step: the largest of the parameter groups.
        losses: Loss of each step, before it.
        diverged: Whether the loss ended it.
    """

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    diverged: bool = False

    @property
    def smoothed(self) -> list[float]:
        """Return the exponential mean of the losses, without the bias of its beginning."""
        means, mean = [], 0.0
        for i, loss in enumerate(self.losses):
            mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
            means.append(mean / (1 - _SMOOTHING ** (i + 1)))
        return means

    @property
    def floor(self) -> int:
        """The first step at which 95% of the whole fall of the smoothed loss are done."""
        smoothed = self.smoothed
        low = min(smoothed[_FLAT:])  # of those before, few are averaged
        done = low + (1 - _FLOOR) * max(0.0, statistics.mean(self.losses[:_FLAT]) - low)
        return next(i for i in range(_FLAT, len(smoothed)) if smoothed[i] <= done)

    @property
    def suggestion(self) -> float | None:
        """A tenth of the rate of :attr:`floor`, to two digits; None if the loss falls nowhere by more than its noise.

        Example:
            >>> rates = [10 ** (i / 10 - 6) for i in range(60)]
            >>> Curve(rates, [2.0] * 30 + [1.0] * 20 + [9.0] * 10).suggestion
            0.004
            >>> Curve(rates, [2.0, 1.0] * 30).suggestion is None
            True
        """
        flat = self.losses[:_FLAT]
        noise = statistics.stdev(flat) * math.sqrt((1 - _SMOOTHING) / (1 + _SMOOTHING))
        fall = statistics.mean(flat) - self.smoothed[self.floor]
        return float(f"{self.rates[self.floor] / 10:.1e}") if fall > _CLEAR * noise else None


class _Sweep(Trial):
    """Sets the rate of each step, keeps the losses, and ends training."""

    def __init__(self, curve: Curve, low: float, high: float, steps: int) -> None:
        self.curve, self.low, self.high, self.steps = curve, low, high, steps
        self._window: list[Tensor] = []

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        optimizers = [
            optimizer for optimizer in trainer.optimizers if optimizer.param_groups
        ]  # none: Lightning puts in a dummy
        if len(optimizers) != 1:
            raise UserError(
                f"--find-lr looks for one rate, and {type(pl_module).__name__} has {len(optimizers)} optimizers: "
                "try some rates with zoo fit"
            )
        (optimizer,) = optimizers
        name = type(optimizer).__name__
        if name in _NO_LENGTH:
            raise UserError(
                f"--find-lr looks for the length of steps, and {name} {_NO_LENGTH[name]}: try some rates with zoo fit"
            )
        if is_schedule_free(optimizer):
            raise UserError(
                f"--find-lr lets the rate grow, and {name} weights what it averages by the rates: try some rates with zoo fit, or "
                "look for one with --model.optimizer AdamW"
            )
        groups = optimizer.param_groups
        rates = [float(group.get("initial_lr", group["lr"])) for group in groups]  # lr: where a schedule begins
        self.shares = [rate / max(rates) for rate in rates]  # per-layer rates keep their ratios

    def _rate(self, step: int) -> float:
        return self.low * (self.high / self.low) ** (step / (self.steps - 1))

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        rate = self._rate(trainer.global_step)
        for group, share in zip(trainer.optimizers[0].param_groups, self.shares, strict=True):
            group["lr"] = group["lr"].fill_(rate * share) if isinstance(group["lr"], Tensor) else rate * share

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            raise UserError(
                f"--find-lr looks at the loss that training_step returns, and {type(pl_module).__name__} returns none"
            )
        self._window.append(loss.detach().float())
        step = trainer.global_step
        if step == len(self.curve.losses):  # within an accumulation window
            return
        # the trainer has divided each loss by the number of batches of a whole window
        value = float(sum(self._window)) * trainer.accumulate_grad_batches / len(self._window)
        self._window.clear()
        self._keep(self._rate(step - 1), value)
        if self.curve.diverged or step >= self.steps:
            raise Enough

    def _keep(self, rate: float, loss: float) -> None:
        curve = self.curve
        if not math.isfinite(loss):
            curve.diverged = True
            return
        curve.rates.append(rate)
        curve.losses.append(loss)
        smoothed = curve.smoothed
        least = min(smoothed)
        fall = max(curve.losses[0], least) - least  # losses may be negative
        curve.diverged = len(smoothed) > 5 and smoothed[-1] > least + _DIVERGED * max(fall, abs(least) / 2)


def range_test(cli: RecipeCLI, low: float = LOW, high: float = HIGH, steps: int = STEPS) -> Curve:
    """Train a copy of a recipe's model with a growing rate.

    Args:
        cli: The recipe, whose model, data and callbacks are not touched.
        low: Rate of the first step.
        high: Rate of the last step.
        steps: Number of optimizer steps.

    Raises:
        UserError: The recipe has no data, more than one optimizer or one without a rate to find; or the loss is soon not finite.
    """
    check_has_data(cli)
    if not cli.model.automatic_optimization:
        raise UserError(
            f"--find-lr looks at one loss that falls, and {type(cli.model).__name__} is trained by hand, with losses of its own: "
            "try some rates with zoo fit"
        )
    curve = Curve()
    sweep = _Sweep(curve, low, high, steps)
    with copied(cli) as (module, data):
        trainer = quiet_trainer(
            cli,
            sweep,
            keep=(GradientAccumulationScheduler, LayerFreezing),
            max_epochs=-1,
            max_steps=steps,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            log_every_n_steps=0,
        )
        try:
            trainer.fit(module, datamodule=data)
        except Enough:
            pass
        except FloatingPointError:  # the module's own guard
            curve.diverged = True
    if len(curve.losses) <= _FLAT:
        reached = f"{curve.rates[-1] if curve.rates else low:.1e}"
        raise UserError(
            f"the loss diverged after {len(curve.losses)} steps, at a rate of {reached}: it is not finite, or jumps, whatever the "
            "rate: look at the data with zoo check"
        )
    return curve


def draw(curve: Curve, path: Path, title: str, used: float | None) -> None:
    """Draw the losses against the rates into a PNG, with the rate suggested and the one that the recipe uses."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # the object interface: no display, no global state
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(curve.rates, curve.losses, color="#3b6fb6", alpha=0.3, lw=1, label="loss of a step")
    axes.plot(curve.rates, curve.smoothed, color="#3b6fb6", lw=2, label="smoothed")
    if curve.suggestion is not None:
        axes.axvline(curve.suggestion, color="#d9722e", lw=1.5, label=f"suggested: {curve.suggestion:.1e}")
    if used is not None:
        axes.axvline(used, color="black", lw=1, ls=":", label=f"the recipe's: {used:.1e}")
    low, first = min(curve.smoothed), curve.losses[0]
    top = max(first, low) + 0.5 * max(abs(first - low), 1e-12)
    axes.set_ylim(low - 0.15 * (top - low), top)
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", title=title)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
