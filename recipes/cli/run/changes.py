"""What differs from a recipe or from a run's own configuration, and what of it a resumed run takes. Imports no torch."""

from collections.abc import Mapping
from typing import Any

from recipes.cli.catalog import Recipe
from recipes.cli.errors import UserError, one_line
from recipes.cli.run.internals import epochs_of

# These change neither what is learned nor what is measured: the recipe's bound still holds.
_NEUTRAL = {
    "data.download",
    "data.num_workers",
    "trainer.accelerator",
    "trainer.detect_anomaly",
    "trainer.enable_autolog_hparams",
    "trainer.enable_model_summary",
    "trainer.enable_progress_bar",
    "trainer.inference_mode",
    "trainer.limit_predict_batches",
    "trainer.log_every_n_steps",
    "trainer.num_sanity_val_steps",
    "trainer.profiler",
}
# A resumed run takes these, and records them in its config.yaml: how long it is, on what it runs, what is watched.
RESUMABLE = _NEUTRAL | {
    "data.batch_size",  # on other devices; in mid-epoch the data module refuses another global batch
    "data.path",  # the data may be moved: their fingerprint must be the same
    "data.root",
    "model.teacher",  # may be moved, too: the digest of its tensors must be the same
    "trainer.accumulate_grad_batches",
    "trainer.callbacks",
    "trainer.check_val_every_n_epoch",
    "trainer.devices",
    "trainer.limit_test_batches",
    "trainer.limit_val_batches",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.max_time",
    "trainer.min_epochs",
    "trainer.min_steps",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.val_check_interval",
}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the keys whose values differ between two configurations, and both values; lists are compared as a whole.

    Example:
        >>> one, other = ({"model": {"class_path": "Net", "init_args": {"lr": lr, "width": 8}}} for lr in (0.1, 0.5))
        >>> differences(one, other)
        {'model.lr': (0.1, 0.5)}
    """
    flat, flat_other = options_of(one), options_of(other)
    for section in ("model", "data"):  # of two classes, the arguments need not be compared
        if flat.get(section) != flat_other.get(section):
            for values in (flat, flat_other):
                for key in [key for key in values if key.startswith(f"{section}.")]:
                    del values[key]
    keys = dict.fromkeys([*flat, *flat_other])
    return {key: (flat.get(key), flat_other.get(key)) for key in keys if flat.get(key) != flat_other.get(key)}


def options_of(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the options of a configuration by the names that the command line has for them, "model.lr", with their values."""
    values: dict[str, Any] = {}
    if "class_path" in config:  # a class stands for its section: "model", and its arguments are "model.lr"
        values[prefix] = config["class_path"]
        config = {**(config.get("init_args") or {}), **(config.get("dict_kwargs") or {})}
    for key, value in config.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping):
            values |= options_of(value, name)
        else:
            values[name] = value
    return values


def _covers(names: set[str], key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def changed_keys(changes: Mapping[str, Any]) -> list[str]:
    """Return the keys that make another run of a recipe: its bound does not hold for it. The seed is none of them."""
    return [key for key in changes if key != "seed_everything" and not _covers(_NEUTRAL, key)]


def recorded_changes(recipe: Recipe, changes: Mapping[str, Any]) -> list[str]:
    """Return the keys to record in a run's ``config.yaml`` as other than the recipe's, those recorded there before included."""
    if not recipe.bound:
        return []
    fold = ["data.val_fraction"] if recipe.fold else []  # a fold validates in its place
    return list(dict.fromkeys([*filter(None, recipe.changed.split(", ")), *changed_keys(changes), *fold]))


def check_resumable(changes: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse what a resumed run cannot take.

    Raises:
        UserError: A value would change what the run has begun to learn, or could not reach it.
    """
    for key, (old, new) in changes.items():
        if not _covers(RESUMABLE, key):
            raise contradiction(key, new, old)


def contradiction(key: str, given: Any, saved: Any, resume: bool = True) -> UserError:
    """Return the error of a value that is not the checkpoint's."""
    cure = "leave it out, or train a new run without --resume" if resume else "leave it out"
    return UserError(
        f"--{key} {shown(given)} contradicts the checkpoint, which was trained with {shown(saved)}: {cure}"
    )


def check_length(checkpoint: Mapping[str, Any], trainer: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Refuse a length that is less than what the run has done: its record would not be true.

    Args:
        checkpoint: The checkpoint to resume from.
        trainer: Arguments of the trainer.
        changes: Keys that differ from the run's own configuration.

    Raises:
        UserError: The run has done more epochs or steps, or has trained for a longer time.
    """
    cure = "or leave it out; the run is as it was"
    begun, done = epochs_of(checkpoint)
    limit = trainer.get("max_epochs")
    if limit is not None and 0 <= limit < begun:
        has = f"has done {done} epochs" if done == begun else f"has begun epoch {begun}"
        raise UserError(f"--trainer.max_epochs {limit} is too short: the run {has}; give {begun} or more, {cure}")
    steps, limit = checkpoint.get("global_step", 0), trainer.get("max_steps")
    if limit is not None and 0 <= limit < steps:
        raise UserError(
            f"--trainer.max_steps {limit} is too short: the run has done {steps} steps; give {steps} or more, {cure}"
        )
    from lightning.pytorch.callbacks import Timer

    limit = trainer.get("max_time")
    seconds = checkpoint.get("callbacks", {}).get("Timer", {}).get("time_elapsed", {}).get("train", 0)
    if (
        limit is not None and "trainer.max_time" in changes
    ):  # a run that has ended by its time has trained a little longer
        allowed = Timer(duration=limit).time_remaining() or 0
        if allowed < seconds:
            raise UserError(
                f"--trainer.max_time {shown(limit)} is too short: the run has trained for {seconds:.0f} s; give more, {cure}"
            )


def shown(value: Any) -> str:
    """Return a value on one line, as YAML writes it."""
    return one_line("null" if value is None else str(value))
