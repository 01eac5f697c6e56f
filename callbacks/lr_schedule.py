"""Learning rate schedules."""

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.checks import is_better
from callbacks.internals import callbacks_of, finished_epochs, is_fit_validation, mean_over_ranks, trained_batches
from callbacks.run_length import run_length

Schedule = Literal[
    "constant", "step", "exponential", "cosine", "linear", "inverse_time", "one_cycle", "inverse_sqrt", "plateau"
]

REQUIRED: Any = object()
ARGUMENTS: dict[str, dict[str, Any]] = {  # arguments of each schedule, with their defaults
    "constant": {},
    "step": {"milestones": REQUIRED, "gamma": 0.1},
    "exponential": {"gamma": REQUIRED},
    "cosine": {"final_factor": 0.0},
    "linear": {"final_factor": 0.0},
    "inverse_time": {"decay": REQUIRED},
    "one_cycle": {"final_factor": 4e-6, "momentum": (0.85, 0.95)},
    "inverse_sqrt": {},
    "plateau": {"gamma": 0.1, "final_factor": 0.0, "patience": 10, "monitor": "val/loss", "mode": "min"},
}
PLATEAU: dict[str, Any] = {"best": None, "waited": 0, "drops": 0}  # the state before the first validation
SIZED = ("cosine", "linear", "one_cycle")  # schedules that depend on the length of the run


class LRSchedule(Callback):
    """Set the learning rate of every optimizer, or of one, before each step: its own rate times a factor.

    The factor is a function of the time n, which counts optimizer steps (``interval="step"``) or epochs from 0. N is the length of
    the run as the trainer will run it (epochs, accumulation, ``limit_train_batches``, ``max_steps``, growing batches). During the w
    counts of warm-up the factor is (n + 1) / w; afterwards, with t = n - w and T = N - w:

    - constant: 1
    - step: gamma ^ (number of milestones <= n)
    - exponential: gamma ^ t
    - cosine, linear: over T from 1 to final_factor, along half a cosine (Loshchilov and Hutter 2017) or a line
    - inverse_time: 1 / (1 + decay * t) (Robbins and Monro 1951)
    - one_cycle: during warm-up (0.3 of the run by default) from 1/25 up to 1, then down to final_factor at the last step,
      both along half a cosine; momentum (or Adam's first beta), where there is one, moves the opposite way between the two
      given values (Smith and Topin 2017, arXiv:1708.07120, with the numbers of torch's ``OneCycleLR``)
    - inverse_sqrt: sqrt(w / (n + 1)) (Vaswani et al. 2017, section 5.3, arXiv:1706.03762, with its peak at 1)
    - plateau: times gamma, not below final_factor, whenever more than ``patience`` validations in a row bring no new best

    The factor is a pure function of the trainer's progress, so a resumed run continues exactly (or, with another length, along
    the schedule of the new length). Only plateau has a state, which is updated after each validation, before checkpoints are
    saved. Parameter groups keep their ratio: the base is each group's first rate, saved in the optimizer as ``initial_lr``.
    ``LearningRateMonitor`` sees the rates in use, whatever the order of the callbacks.

    In manual optimization, a step is a training batch, whichever optimizers step in it. There ``max_steps`` counts what the module
    makes ``global_step`` count; prefer ``max_epochs``. To give several optimizers different schedules, use one callback for
    each, with ``optimizer=0``, ``optimizer=1`` ...; an optimizer without one keeps its rate.

    Args:
        schedule: One of the above.
        warmup: Length of the warm-up: a fraction of the run below 1, otherwise a number of steps or epochs.
        interval: Unit of time, "step" or "epoch"; the rate changes after each.
        final_factor: Factor at the end of the decay, in [0, 1]. Default: 0; for one_cycle 4e-6.
        gamma: Factor of each decay, in (0, 1]. Default: 0.1; exponential has none.
        milestones: Times of decay, increasing: each a fraction of the run below 1, otherwise a step or epoch.
        decay: Rate of decay in 1 / (1 + decay * t), > 0.
        momentum: Lowest and highest momentum. Default: (0.85, 0.95).
        monitor: Metric that validation logs. Default: "val/loss".
        mode: Whether the best ``monitor`` is the "min" or the "max". Default: "min".
        patience: Number of validations in a row without a new best that are tolerated. Default: 10.
        optimizer: Index of the only optimizer to schedule, >= 0; None schedules all.

    Raises:
        ValueError: An argument is out of range, missing, or not one of this schedule; the module has a scheduler of its own, or an
            optimizer without schedule ("AdamWScheduleFree"); the run has no end, and the schedule depends on it; plateau without
            validation, or without the metric.

    Example:
        >>> LRSchedule("step", milestones=[0.5, 0.75], warmup=5, interval="epoch").options
        {'milestones': [0.5, 0.75], 'gamma': 0.1}
    """

    def __init__(
        self,
        schedule: Schedule = "cosine",
        *,
        warmup: float | None = None,
        interval: Literal["step", "epoch"] = "step",
        final_factor: float | None = None,
        gamma: float | None = None,
        milestones: list[float] | None = None,
        decay: float | None = None,
        momentum: tuple[float, float] | None = None,
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
        patience: int | None = None,
        optimizer: int | None = None,
    ) -> None:
        given: dict[str, Any] = {"final_factor": final_factor, "gamma": gamma, "milestones": milestones, "decay": decay}
        given |= {"momentum": momentum, "monitor": monitor, "mode": mode, "patience": patience}
        self.options = _options(schedule, given)
        self.schedule, self.interval = schedule, interval
        self.warmup = warmup if warmup is not None else 0.3 if schedule == "one_cycle" else 0
        self.optimizer = optimizer
        for name, value in {
            "interval": interval,
            "warmup": self.warmup,
            "optimizer": optimizer,
            **self.options,
        }.items():
            if name in RANGES and not _fits(RANGES[name][1], value):
                raise ValueError(f"{name} must be {RANGES[name][0]}, got {value!r}")
        self._length = math.inf  # N; as counts, w and the milestones are known when training starts
        self._warmup, self._milestones = 0, list[int]()
        self._plateau = dict(PLATEAU)

    @property
    @override
    def state_key(self) -> str:
        return "LRSchedule" if self.optimizer is None else f"LRSchedule{{optimizer={self.optimizer}}}"

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.global_step == 0:  # a checkpoint to resume from is loaded after this
            self._plateau = dict(PLATEAU)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.lr_scheduler_configs:
            raise ValueError("the module has a scheduler of its own: return the optimizer alone, or drop LRSchedule")
        if self.schedule == "plateau" and not trainer.enable_validation:
            raise ValueError("schedule='plateau' needs a validation metric, but this run has no validation")
        if self.optimizer is not None and self.optimizer >= len(trainer.optimizers):
            raise ValueError(f"optimizer must be one of 0..{len(trainer.optimizers) - 1}, got {self.optimizer}")
        for optimizer in trainer.optimizers if self.optimizer is None else [trainer.optimizers[self.optimizer]]:
            if hasattr(optimizer, "train") and hasattr(optimizer, "eval"):  # so it keeps two sets of weights
                raise ValueError(
                    f"{type(optimizer).__name__} averages the weights in place of a schedule: drop LRSchedule (its warm-up is "
                    "optimizer_args.warmup_steps)"
                )
        others = [c for c in callbacks_of(trainer) if isinstance(c, LRSchedule) and c is not self]
        if others and None in (self.optimizer, *(other.optimizer for other in others)):
            raise ValueError("two LRSchedules would set the same rate: give each the index of its optimizer")
        self._length = run_length(trainer, self.interval)
        times = (self.warmup, *self.options.get("milestones", []))
        fraction = any(0 < time < 1 for time in times)
        if math.isinf(self._length) and (fraction or self.schedule in SIZED):
            what = "a time as a fraction of the run" if fraction else f"schedule={self.schedule!r}"
            raise ValueError(f"{what} needs a run with an end: give the Trainer max_epochs (or max_steps), got none")
        w, *milestones = (round(time * self._length) if 0 < time < 1 else int(time) for time in times)
        limit = getattr(trainer, "limit_train_batches", 1.0)
        shortened = getattr(trainer, "fast_dev_run", False) or isinstance(limit, int) or limit < 1  # epochs cut short
        if self.warmup >= 1 and w >= self._length and not shortened:
            raise ValueError(
                f"warmup of {w} {self.interval}s does not end within the run of {self._length:g}: give a fraction of the run "
                "such as warmup=0.1, or train longer"
            )
        self._warmup, self._milestones = w, sorted(milestones)
        for group in self._groups(trainer):
            group.setdefault("initial_lr", float(group["lr"]))  # the state of a resumed optimizer has it
        self._apply(trainer)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._apply(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._apply(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.schedule != "plateau" or not is_fit_validation(trainer):
            return
        monitor, metrics = self.options["monitor"], trainer.callback_metrics
        if monitor not in metrics:
            raise ValueError(f"monitor must be a metric that validation logs ({', '.join(metrics)}), got {monitor!r}")
        value = mean_over_ranks(trainer, metrics[monitor])  # so that all ranks decide the same
        better = is_better(value, self._plateau["best"], self.options["mode"])
        self._plateau |= {"best": value, "waited": 0} if better else {"waited": self._plateau["waited"] + 1}
        if self._plateau["waited"] > self.options["patience"]:
            self._plateau |= {"waited": 0, "drops": self._plateau["drops"] + 1}
        self._apply(trainer)

    @override
    def state_dict(self) -> dict[str, Any]:
        return dict(self._plateau) if self.schedule == "plateau" else {}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._plateau = dict(state_dict)

    def factor(self, n: int) -> float:
        """Return the factor of the learning rates at step (or epoch) n of the run that has started."""
        w, t, options = self._warmup, n - self._warmup, self.options
        if self.schedule == "one_cycle":
            return self._cycle(n, 1 / 25, 1.0, options["final_factor"])
        if t < 0:
            return (n + 1) / w
        part = min(t / max(self._length - w, 1), 1.0)
        factors = {
            "step": lambda: options["gamma"] ** bisect_right(self._milestones, n),
            "exponential": lambda: options["gamma"] ** t,
            "cosine": lambda: _cosine(1.0, options["final_factor"], part),
            "linear": lambda: 1.0 + (options["final_factor"] - 1.0) * part,
            "inverse_time": lambda: 1.0 / (1.0 + options["decay"] * t),
            "inverse_sqrt": lambda: math.sqrt(max(w, 1) / (n + 1)),
            "plateau": lambda: max(options["gamma"] ** self._plateau["drops"], options["final_factor"]),
        }
        return factors.get(self.schedule, lambda: 1.0)()

    def _cycle(self, n: int, start: float, peak: float, end: float) -> float:
        """Return a value that goes from start to peak at the last step of warm-up, then to end at the last step of the run."""
        top = self._warmup - 1
        if n <= top:
            return _cosine(start, peak, n / top if top else 1.0)
        return _cosine(peak, end, min((n - top) / max(self._length - 1 - top, 1), 1.0))

    def _groups(self, trainer: Trainer) -> list[dict[str, Any]]:
        """Return the parameter groups to schedule."""
        scheduled = trainer.optimizers if self.optimizer is None else [trainer.optimizers[self.optimizer]]
        return [group for optimizer in scheduled for group in optimizer.param_groups]

    def _apply(self, trainer: Trainer) -> None:
        """Set the rate of the next step in every group."""
        n = _now(trainer, self.interval)
        factor = self.factor(n)
        for group in self._groups(trainer):
            rate = group["initial_lr"] * factor
            # a compiled or captured step reads this very tensor
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate
            if self.schedule == "one_cycle":
                low, high = self.options["momentum"]
                momentum = self._cycle(n, high, low, high)
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                elif "momentum" in group:
                    group["momentum"] = momentum


def _now(trainer: Trainer, interval: str) -> int:
    """Return the index of the next step or epoch."""
    if interval == "epoch":
        return finished_epochs(trainer)
    return trainer.global_step if trainer.lightning_module.automatic_optimization else trained_batches(trainer)


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * part)) / 2.0


def _is_time(x: float) -> bool:
    return 0 <= x < 1 or x == int(x) > 0


TIME = "a fraction of the run in [0, 1) or a whole number of steps or epochs"
RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "optimizer": ("the index of an optimizer, >= 0, or None for all", lambda x: x is None or (x == int(x) >= 0)),
    "interval": ("'step' or 'epoch'", lambda x: x in ("step", "epoch")),
    "warmup": (TIME, _is_time),
    "final_factor": ("in [0, 1]", lambda x: 0 <= x <= 1),
    "gamma": ("in (0, 1]", lambda x: 0 < x <= 1),
    "milestones": (f"increasing, each {TIME}", lambda x: 0 not in x and [*x] == sorted({y for y in x if _is_time(y)})),
    "decay": ("> 0", lambda x: x > 0),
    "momentum": ("two numbers in [0, 1), the lower first", lambda x: len(x) == 2 and 0 <= x[0] <= x[1] < 1),
    "mode": ("'min' or 'max'", lambda x: x in ("min", "max")),
    "patience": (">= 0", lambda x: x == int(x) >= 0),
}


def _fits(test: Callable[[Any], bool], value: Any) -> bool:
    try:
        return not isinstance(value, bool) and test(value)
    except (TypeError, ValueError, OverflowError):  # another type, nan, infinite
        return False


def _options(schedule: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the schedule with its defaults.

    Raises:
        ValueError: There is no such schedule, or an argument is missing or not one of it.
    """
    if schedule not in ARGUMENTS:
        raise ValueError(f"schedule must be one of {', '.join(ARGUMENTS)}, got {schedule!r}")
    takes = ARGUMENTS[schedule]
    options = takes | {name: value for name, value in given.items() if value is not None}
    wrong = [f"{name} is not used" for name in options if name not in takes]
    if wrong := wrong + [f"{name} is missing" for name, value in options.items() if value is REQUIRED]:
        known = ", ".join(takes) or "no argument of its own"
        raise ValueError(f"schedule={schedule!r} takes {known}: {', '.join(wrong)}")
    return options
