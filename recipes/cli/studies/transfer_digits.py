"""``zoo transfer``: the worth of transfer. A net that knows the digits 0 to 4 learns 5 to 9 from a few examples each."""

import time
from typing import TYPE_CHECKING, Any, Literal

from recipes.cli.errors import UserError
from recipes.cli.run.options import Parser
from recipes.cli.studies.comparison import draw_per_class, fit_and_test, print_table, run_quietly, seed_all

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Task

HELP = """zoo transfer [options]: train a net on the digits 0-4, then on 5-9 with few labels, in four ways.

  --labels N ...    labels of each class, one or more numbers (default: 1 2 5 20)
  --seeds N         number of repetitions; the table shows the means (default: 3)
  --epochs N        epochs of each training on 5-9 (default: 60)
  --debug           show the traceback of any error

The net is a CIFAR ResNet of 8 layers on the bundled digits. It learns the new classes in one of four ways:
  scratch           nothing is transferred: fresh weights, all of them trained
  head              only the new head is trained, all layers below stay frozen
  head, then all    the head first; from a third of the epochs on, one more layer group after the other, each at 0.5 of the
                    rate of the one above it
  all               all of it from the first step on, at a fifth of the rate
Accuracy is measured on the test images of 5-9, which no training has seen; seconds are those of one training.

Examples:
  zoo transfer
  zoo transfer --labels 10 50 --epochs 20
"""

METHODS = ("scratch", "head", "head, then all", "all")
_NET: dict[str, Any] = {"depth": 8, "width": 32, "in_channels": 1, "num_classes": 5}
_RATE = 1e-2
_SOURCE_EPOCHS = 20
_MIN_EPOCHS = 6  # the head's third and the four groups below
_MAX_LABELS = 139  # training images of the rarest digit of 5-9


def run(args: list[str]) -> int:
    """Run the verb ``transfer``."""
    parser = Parser("zoo transfer")
    parser.add_argument("--labels", type=int, nargs="+", default=[1, 2, 5, 20])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args(args)
    if min(options.labels) < 1 or max(options.labels) > _MAX_LABELS:
        raise UserError(
            f"--labels must be in 1..{_MAX_LABELS}, the number of training images of each class, got {options.labels}"
        )
    if options.seeds < 1 or options.epochs < _MIN_EPOCHS:
        raise UserError(
            f"--seeds must be 1 or more and --epochs {_MIN_EPOCHS} or more, got {options.seeds}, {options.epochs}"
        )
    run_quietly(lambda: _compare(options.labels, options.seeds, options.epochs))
    return 0


def _compare(labels: list[int], seeds: int, epochs: int) -> None:
    begin = time.monotonic()
    sources = [train_source(seed) for seed in range(seeds)]
    accuracy = sum(accuracy for _, accuracy in sources) / seeds
    print(
        f"digits 0-4, all labels: test/acc {accuracy:.4f} (mean of {seeds}), {(time.monotonic() - begin) / seeds:.1f} s each\n"
    )
    print_table(
        "digits 5-9",
        {count: f"{count} a class" for count in labels},
        METHODS,
        lambda method, count: [learn(method, sources[seed][0], count, seed, epochs) for seed in range(seeds)],
    )


def train_source(seed: int) -> "tuple[Task, float]":
    """Train a net on 0 to 4 and return it with its accuracy."""
    from callbacks import LRSchedule
    from zoo import CIFARResNetClassifier

    seed_all(seed)
    task = CIFARResNetClassifier(**_NET, lr=_RATE, weight_decay=1e-2)
    return task, fit_and_test(task, half_digits("low", None, seed), _SOURCE_EPOCHS, LRSchedule("cosine"))


def learn(method: str, source: "Task", labels: int, seed: int, epochs: int) -> float:
    """Train on 5 to 9 with one of METHODS.

    Args:
        method: One of METHODS.
        source: Net trained on 0 to 4; it is not changed.
        labels: Number of training examples of each class.
        seed: Seed of the choice of examples, their order and fresh weights.
        epochs: Number of epochs.

    Returns:
        The accuracy on the test images of 5 to 9.
    """
    from callbacks import LayerFreezing, LRSchedule
    from zoo import CIFARResNetClassifier

    seed_all(seed)
    lr = {"all": _RATE / 5}.get(method, _RATE)
    layer_decay = 0.5 if method == "head, then all" else 1.0
    task = CIFARResNetClassifier(**_NET, lr=lr, weight_decay=1e-2, layer_decay=layer_decay)
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
    return fit_and_test(task, half_digits("high", labels, seed), epochs, *callbacks)


def half_digits(which: Literal["low", "high"], labels: int | None, seed: int) -> Any:
    """Return the bundled digits 0 to 4 or 5 to 9 as a datamodule.

    Args:
        which: "low" for 0 to 4, "high" for 5 to 9.
        labels: Number of training examples of each class; None for all.
        seed: Seed of the choice of training examples.
    """
    from datamodules import DigitsDataModule

    first = 0 if which == "low" else 5

    class HalfDigits(DigitsDataModule):
        class_names = [str(k) for k in range(first, first + 5)]

        def read(self, part: Literal["train", "test"]) -> "tuple[Tensor, Tensor]":
            x, y = super().read(part)
            chosen = (y >= first) & (y < first + 5)
            x, y = x[chosen], y[chosen] - first
            if part == "train" and labels is not None:
                some = draw_per_class(y, labels, 5, seed)
                x, y = x[some], y[some]
            return x, y

    return HalfDigits(batch_size=32, shift=1, val_fraction=0)
