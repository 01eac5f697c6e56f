"""``zoo transfer``: what transfer is worth. A net that knows the digits 0 to 4 learns 5 to 9 from a few examples of each."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from recipes.cli.console import Console, NoCaches, heard
from recipes.cli.errors import UserError
from recipes.cli.run.options import Parser
from recipes.cli.run.process import own_process_state

if TYPE_CHECKING:
    from zoo import Task

HELP = """zoo transfer [options]: train a net on the digits 0-4, then teach it 5-9 from few labels, in four ways.

  --labels N ...    labels of each class, one or more numbers (default: 1 2 5 20)
  --seeds N         how many times; the table tells the means (default: 3)
  --epochs N        of each training on 5-9 (default: 60)
  --debug           show the traceback of any error

The net is a CIFAR ResNet of 8 layers on the bundled digits. Its ways to learn the new classes:
  scratch           nothing is transferred: fresh weights, all of them trained
  head              only the new head is trained, what lies below stays frozen
  head, then all    the head first; from a third of the epochs on one more layer group after the other, each at 0.5 of the rate
                    of the one above it
  all               all of it from the first step on, at a fifth of the rate
Accuracy is that on the test images of 5-9, which no training has seen; seconds are those of one training.

Examples:
  zoo transfer
  zoo transfer --labels 10 50 --epochs 20
"""

METHODS = ("scratch", "head", "head, then all", "all")
_NET: dict[str, Any] = {"depth": 8, "width": 32, "in_channels": 1, "num_classes": 5}
_RATE = 1e-2
_SOURCE_EPOCHS = 20
_LEAST = 6  # epochs: the head's third and the four groups below


def run(args: list[str]) -> int:
    """The verb ``transfer``."""
    parser = Parser("zoo transfer")
    parser.add_argument("--labels", type=int, nargs="+", default=[1, 2, 5, 20])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args(args)
    if min(options.labels) < 1 or max(options.labels) > 140:
        raise UserError(f"--labels must lie in 1..140, the images there are of each class, got {options.labels}")
    if options.seeds < 1 or options.epochs < _LEAST:
        raise UserError(
            f"--seeds must be 1 or more and --epochs {_LEAST} or more, got {options.seeds}, {options.epochs}"
        )
    quietly(lambda: _compare(options.labels, options.seeds, options.epochs))
    return 0


def _compare(labels: list[int], seeds: int, epochs: int) -> None:
    """Train every method on every number of labels and print its row as soon as it is known."""
    begin = time.monotonic()
    sources = [_source(seed) for seed in range(seeds)]
    known = sum(accuracy for _, accuracy in sources) / seeds
    print(
        f"digits 0-4, all labels: test/acc {known:.4f} (mean of {seeds}), {(time.monotonic() - begin) / seeds:.1f} s each\n"
    )
    print_table(
        "digits 5-9",
        {count: f"{count} a class" for count in labels},
        METHODS,
        lambda method, count: [learn(method, sources[seed][0], count, seed, epochs) for seed in range(seeds)],
    )


def quietly(work: Callable[[], None]) -> None:
    """Do work that trains many times, without the log lines of each, and leave the process as it was."""
    with own_process_state():
        with NoCaches():
            import lightning.pytorch  # noqa: F401 (sets up its log, which is heard from then on)
        with heard(Console()):
            logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
            work()


def print_table(
    corner: str, columns: dict[int, str], methods: Sequence[str], learn: Callable[[str, int], list[float]]
) -> None:
    """Print a row a method, as soon as it is known: the mean accuracy for each number of labels, and the seconds of a training.

    Args:
        corner: above the methods.
        columns: numbers of labels, and what stands above them.
        methods: by name.
        learn: trains by a method on so many labels; gives the accuracy for each seed.
    """
    heads = "".join(f"{text:>14}" for text in columns.values())
    print(f"{corner:<16}{heads}{'seconds':>10}\n" + "-" * (26 + 14 * len(columns)))
    for method in methods:
        begin, cells, runs = time.monotonic(), "", 0
        for count in columns:
            found = learn(method, count)
            cells, runs = cells + f"{sum(found) / len(found):>14.4f}", runs + len(found)
        print(f"{method:<16}{cells}{(time.monotonic() - begin) / runs:>10.1f}", flush=True)


def _source(seed: int) -> "tuple[Task, float]":
    """A net that knows 0 to 4, and its accuracy."""
    from callbacks import LRSchedule
    from zoo import CIFARResNetClassifier

    start_from(seed)
    task = CIFARResNetClassifier(**_NET, lr=_RATE, weight_decay=1e-2)
    return task, fit_and_test(task, half("low", None, seed), _SOURCE_EPOCHS, LRSchedule("cosine"))


def learn(method: str, source: "Task", labels: int, seed: int, epochs: int) -> float:
    """Teach 5 to 9 by one of METHODS.

    Args:
        method: which.
        source: the net that knows 0 to 4; it stays as it is.
        labels: examples of each class.
        seed: chooses them, their order and fresh weights.
        epochs: of training.

    Returns:
        The accuracy on the test images of 5 to 9.
    """
    from callbacks import LayerFreezing, LRSchedule
    from zoo import CIFARResNetClassifier

    start_from(seed)
    rate = {"all": _RATE / 5}.get(method, _RATE)
    layer_decay = 0.5 if method == "head, then all" else 1.0
    task = CIFARResNetClassifier(**_NET, lr=rate, weight_decay=1e-2, layer_decay=layer_decay)
    if method != "scratch":
        kept = {k: v for k, v in source.state_dict().items() if not k.startswith("net.fc.")}
        task.load_state_dict({**task.state_dict(), **kept})
    callbacks: list[Any] = [LRSchedule("cosine")]
    if method == "head":
        callbacks.append(LayerFreezing("head"))
    if method == "head, then all":
        groups, first = len(task.layer_groups()), epochs // 3
        step = max(1, (epochs - first) // (2 * groups))
        callbacks.append(LayerFreezing("head", milestones={first + step * k: k + 2 for k in range(groups - 1)}))
    return fit_and_test(task, half("high", labels, seed), epochs, *callbacks)


def half(which: Literal["low", "high"], labels: int | None, seed: int) -> Any:
    """The bundled digits 0 to 4 or 5 to 9, the training part cut down to so many labels of each class, drawn by ``seed``."""
    import torch

    from datamodules import DigitsDataModule

    first = 0 if which == "low" else 5

    class Half(DigitsDataModule):
        class_names = [str(k) for k in range(first, first + 5)]

        def read(self, part: Literal["train", "test"]) -> tuple[torch.Tensor, torch.Tensor]:
            x, y = super().read(part)
            places = (y - first).clamp(-1, 5)
            chosen = (places >= 0) & (places < 5)
            x, y = x[chosen], places[chosen]
            if part == "train" and labels is not None:
                order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
                some = torch.cat([order[y[order] == k][:labels] for k in range(5)])
                x, y = x[some], y[some]
            return x, y

    return Half(batch_size=32, shift=1, val_fraction=0)


def start_from(seed: int) -> None:
    """Seed all generators."""
    from lightning.pytorch import seed_everything

    seed_everything(seed, verbose=False)


def fit_and_test(task: Any, data: Any, epochs: int, *callbacks: Any, metric: str = "test/acc") -> float:
    """Train, and a metric of the test part."""
    from lightning.pytorch import Trainer

    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, datamodule=data)
    return float(trainer.test(task, datamodule=data, verbose=False)[0][metric])
