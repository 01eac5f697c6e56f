"""What the studies share: training many times quietly, on few labels, and printing a table row by row."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from recipes.cli.console import Console, NoCaches, captured_logs
from recipes.cli.run.process import exiting_at_once, restored_process_state

if TYPE_CHECKING:
    from torch import Tensor


def run_quietly(work: Callable[[], None]) -> None:
    """Call ``work``, which trains many times, without Lightning's log lines of each fit."""
    with restored_process_state():
        with NoCaches(), exiting_at_once():
            import lightning.pytorch  # noqa: F401 (sets up its log, which is captured from then on)
        with captured_logs(Console()), warnings_only():
            work()


@contextmanager
def warnings_only() -> Iterator[None]:
    """Show no log line of Lightning's that is less than a warning."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def seed_all(seed: int) -> None:
    """Seed all generators."""
    from lightning.pytorch import seed_everything

    seed_everything(seed, verbose=False)


def fit_and_test(task: Any, data: Any, epochs: int, *callbacks: Any, metric: str = "test/acc") -> float:
    """Train the task and return a metric of the test split."""
    return fit_and_measure(task, data, epochs, *callbacks)[metric]


def fit_and_measure(task: Any, data: Any, epochs: int, *callbacks: Any, max_steps: int = -1) -> dict[str, float]:
    """Train the task and return all metrics, of the last epoch of training and of the test split.

    Args:
        task: The task.
        data: Its datamodule.
        epochs: Number of epochs.
        callbacks: Callbacks of the training.
        max_steps: Number of steps at which training ends even within an epoch, -1 for none.
    """
    from lightning.pytorch import Trainer

    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        max_steps=max_steps,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, datamodule=data)
    trained = {name: float(value) for name, value in trainer.callback_metrics.items()}
    tested = trainer.test(task, datamodule=data, verbose=False)[0]
    return trained | {name: float(value) for name, value in tested.items()}


def draw_per_class(y: "Tensor", per_class: int, num_classes: int, seed: int) -> "Tensor":
    """Draw the indices of ``per_class`` examples of each class.

    Args:
        y: Labels ``(N,)`` in 0..num_classes-1.
        per_class: Number of examples of each class; all of them where there are fewer.
        num_classes: Number of classes.
        seed: Seed of the draw.
    """
    import torch

    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[y[order] == k][:per_class] for k in range(num_classes)])


def print_table(
    corner: str, columns: dict[int, str], methods: Sequence[str], learn: Callable[[str, int], list[float]]
) -> None:
    """Print one row per method as soon as it is known: mean accuracy for each number of labels, and seconds per training.

    Args:
        corner: Heading of the column of methods.
        columns: Heading of each number of labels.
        methods: Names of the methods.
        learn: Trains with a method and a number of labels; returns one accuracy per seed.
    """
    heads = "".join(f"{text:>14}" for text in columns.values())
    print(f"{corner:<16}{heads}{'seconds':>10}\n" + "-" * (26 + 14 * len(columns)))
    for method in methods:
        begin, cells, runs = time.monotonic(), "", 0
        for count in columns:
            accuracies = learn(method, count)
            cells, runs = cells + f"{sum(accuracies) / len(accuracies):>14.4f}", runs + len(accuracies)
        print(f"{method:<16}{cells}{(time.monotonic() - begin) / runs:>10.1f}", flush=True)
