"""What is checked before anything is built: the trainer's options, and callbacks that are given twice."""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.utilities.model_helpers import is_overridden
from typing_extensions import override

from recipes.cli.errors import UserError
from recipes.cli.run.checkpoints import Best
from zoo.spelling import suggest

# The trainer's options ----------------------------------------------------------------------------------------------


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _at_least(least: int) -> tuple[str, Callable[[Any], bool]]:
    return f"a whole number >= {least}", lambda value: _whole(value) and value >= least


def _share(least: float) -> tuple[str, Callable[[Any], bool]]:
    """A number of batches, or a share of them."""
    wanted = f"a number of batches >= {1 if least else 0}, or a share of them in {'(' if least else '['}0.0, 1.0]"
    return wanted, lambda value: value >= 1 or value == 0 == least if _whole(value) else least <= value <= 1.0


_EPSILON = math.ulp(0.0)  # the smallest number above 0
_POSITIVE, _NOT_NEGATIVE = _at_least(1), _at_least(0)
# option -> what is wanted, and a test of a value that has the right type; None is the trainer's default
_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "num_nodes": _POSITIVE,
    "fast_dev_run": ("true, false or a number of batches >= 1", lambda value: isinstance(value, bool) or value >= 0),
    "max_epochs": ("a whole number >= 1, or -1 for no end", lambda value: value >= 1 or value == -1),
    "min_epochs": _NOT_NEGATIVE,
    "max_steps": ("a whole number >= 1, or -1 for no end", lambda value: value >= 1 or value == -1),
    "min_steps": _NOT_NEGATIVE,
    "max_time": (
        "a duration DD:HH:MM:SS such as 00:01:30:00",
        lambda value: not isinstance(value, str) or re.fullmatch(r"\d+:\d\d?:\d\d?:\d\d?", value.strip()) is not None,
    ),
    "limit_train_batches": _share(_EPSILON),
    "limit_val_batches": _share(0.0),
    "limit_test_batches": _share(0.0),
    "limit_predict_batches": _share(0.0),
    "overfit_batches": _share(0.0),
    "val_check_interval": (
        "a number of batches >= 1, a share of the epoch in (0.0, 1.0], or a duration DD:HH:MM:SS",
        lambda value: value >= 1 if _whole(value) else not isinstance(value, float) or 0 < value <= 1,
    ),
    "check_val_every_n_epoch": _POSITIVE,
    "num_sanity_val_steps": ("a whole number >= 0, or -1 for all", lambda value: value >= -1),
    "log_every_n_steps": _NOT_NEGATIVE,
    "accumulate_grad_batches": _POSITIVE,
    "gradient_clip_val": ("a number >= 0", lambda value: 0 <= value < math.inf),
    "reload_dataloaders_every_n_epochs": _NOT_NEGATIVE,
}
_MOST_PROCESSES = 8  # on a machine with fewer cores: enough to try several processes out


def check_trainer(options: Mapping[str, Any]) -> None:
    """Check the values of the trainer's options: types were checked by the parser, ranges are checked here.

    Raises:
        UserError: A value is out of its range, or two options contradict each other.
    """
    for name, (wanted, fits) in _RANGES.items():
        if (value := options.get(name)) is not None and not fits(value):
            raise UserError(f"trainer.{name} must be {wanted}, got {value}")
    for name, known in {
        "gradient_clip_algorithm": ["norm", "value"],
        "profiler": ["simple", "advanced", "pytorch"],
        "accelerator": ["auto", "gpu", *AcceleratorRegistry.available_accelerators()],
        "strategy": ["auto", *StrategyRegistry.available_strategies()],
    }.items():
        value = options.get(name)
        if isinstance(value, str) and value not in known:
            shown = ", ".join(known)
            raise UserError(f"trainer.{name} must be one of {shown}, got {value!r}{suggest(value, known)}")
    for unit in ("epochs", "steps"):
        least, most = options.get(f"min_{unit}"), options.get(f"max_{unit}")
        if least is not None and most is not None and 0 <= most < least:
            raise UserError(f"trainer.min_{unit} {least} is above trainer.max_{unit} {most}: lower it")
    _check_devices(options.get("accelerator"), options.get("devices"))


def _check_devices(accelerator: Any, devices: Any) -> None:
    gpus = torch.cuda.device_count()
    if accelerator == "cpu" or (accelerator in ("auto", None) and not gpus and not torch.backends.mps.is_available()):
        most = max(_MOST_PROCESSES, os.cpu_count() or 1)
        what, machine = "processes", f"this machine has {os.cpu_count()} CPU cores"
    elif gpus and accelerator in ("auto", "gpu", "cuda", None):
        most, what, machine = gpus, "GPUs", f"this machine has {gpus}"
    else:
        return
    text = str(devices).strip()
    if devices in (None, "auto") or text == "-1" or (what == "GPUs" and not text.isdecimal()):
        return
    if not re.fullmatch(r"\d+", text) or not 1 <= int(text) <= most:
        raise UserError(f"trainer.devices must be a number of {what} in 1..{most} ({machine}), or auto, got {devices}")


def check_seed(seed: Any) -> None:
    """Check ``seed_everything``.

    Raises:
        UserError: It is not a seed of numpy's.
    """
    if _whole(seed) and not 0 <= seed < 2**32:
        raise UserError(f"seed_everything must be a whole number in 0..2**32-1, got {seed}")


def check_callbacks(callbacks: Sequence[Callback], settings: Sequence[Any]) -> None:
    """Refuse a callback that is given twice.

    Args:
        callbacks: The callbacks.
        settings: The class path and the arguments of each.

    Raises:
        UserError: Two callbacks are the same, or would write over each other's state or files.
    """
    given: set[str] = set()
    for callback, setting in zip(callbacks, settings, strict=True):
        alone = is_overridden("state_dict", callback, Callback) or type(callback).__module__.startswith("callbacks.")
        if (key := callback.state_key if alone else str(setting)) in given:
            raise UserError(
                f"the callback {callback.state_key} is given twice: keep one, and change its arguments there"
            )
        given.add(key)


# Monitored metrics --------------------------------------------------------------------------------------------------


class MonitorCheck(Callback):
    """After the sanity check, refuse a validation metric that a callback monitors and that validation does not log."""

    @override
    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, text in missing_monitors(trainer):
            if name.startswith("val"):  # those of training are not logged yet
                raise UserError(text)


def missing_monitors(trainer: Trainer) -> Iterator[tuple[str, str]]:
    """Yield the metrics that callbacks monitor and that are not logged, each with a message for the user."""
    metrics: Mapping[str, Any] = trainer.callback_metrics
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        options = getattr(callback, "options", None)
        name = options.get("monitor") if isinstance(options, dict) else getattr(callback, "monitor", None)
        if isinstance(name, str) and name not in metrics and getattr(callback, "strict", True):
            logged = [metric for metric in metrics if metric.startswith(name.partition("/")[0])] or [*metrics]
            what = (
                f"model.monitor is {name!r}"
                if isinstance(callback, Best)
                else f"{type(callback).__name__} monitors {name!r}"
            )
            yield name, f"{what}, which is not logged; logged are {', '.join(logged)}{suggest(name, logged)}"
