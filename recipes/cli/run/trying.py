"""A few training steps of a recipe that leave nothing behind."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from typing_extensions import override

from callbacks import BatchSizeSchedule, LayerFreezing, MaxNorm
from recipes.cli.errors import UserError
from recipes.cli.run.building import RecipeCLI, as_list
from recipes.cli.run.hooks import NoProfiler, leave_out_empty_hooks

STEP_CALLBACKS: tuple[type[Callback], ...] = (  # callbacks that change what a step is
    BatchSizeSchedule,
    GradientAccumulationScheduler,
    LayerFreezing,
    MaxNorm,
)


def callbacks_of(cli: RecipeCLI) -> list[Callback]:
    """Return the callbacks that a recipe names."""
    return as_list(dict(cli.config_init.trainer).get("callbacks"))


def quiet_trainer(
    cli: RecipeCLI, *callbacks: Callback, keep: tuple[type[Callback], ...] = STEP_CALLBACKS, **options: Any
) -> Trainer:
    """Return the recipe's trainer on one device, which writes, logs and prints nothing.

    Args:
        cli: The recipe.
        callbacks: Further callbacks.
        keep: Kinds of the recipe's callbacks that take part, as copies; by default those that change what a step is.
        options: Arguments of the trainer in place of the recipe's.
    """
    given: dict[str, Any] = dict(cli.config_init.trainer)
    users = as_list(given.pop("callbacks", None))
    leave_out_empty_hooks(callbacks)
    return Trainer(
        **{
            **{name: value for name, value in given.items() if name not in ("plugins", "barebones", "max_time")},
            "default_root_dir": None,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "profiler": NoProfiler(),
            "fast_dev_run": False,
            "devices": 1,
            "num_nodes": 1,
            "strategy": "auto",
            **options,
        },
        callbacks=[*(copy.deepcopy(callback) for callback in users if isinstance(callback, keep)), *callbacks],
    )


def check_has_data(cli: RecipeCLI) -> None:
    """Refuse a recipe without training data.

    Raises:
        UserError: There are none.
    """
    if cli.datamodule is None and not is_overridden("train_dataloader", cli.model):
        raise UserError("the recipe has no data section, so there are no data to train on: add data.class_path")


@contextmanager
def copied(cli: RecipeCLI) -> Iterator[tuple[Any, Any]]:
    """Give copies of the model and of the datamodule, None without one, to train with; the recipe's own are not touched.

    What is put back afterwards, to the bit, are the global random generators, and the warning filters.
    """
    with isolate_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield copy.deepcopy((cli.model, cli.datamodule))


class Trial(Callback):
    """Trains without the schedules of the module itself, until a subclass raises :class:`Enough`."""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.lr_scheduler_configs.clear()


class Enough(Exception):
    """Ends the training of a :class:`Trial`."""
