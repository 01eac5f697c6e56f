"""``zoo pretrain``: the worth of unlabeled images. An autoencoder sees all digits; a classifier starts with its encoder."""

import copy
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Literal

from recipes.cli.errors import UserError
from recipes.cli.run.options import Parser
from recipes.cli.studies.comparison import draw_per_class, fit_and_test, print_table, run_quietly, seed_all

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Autoencoder

HELP = """zoo pretrain [options]: train an autoencoder on all digits without their labels, then a classifier on few labels.

  --labels N ...    labels in all, equally many of each of the ten classes; one or more numbers (default: 10 20 50)
  --seeds N         number of repetitions; the table shows the means (default: 5)
  --epochs N        epochs of each training on labels (default: 100)
  --debug           show the traceback of any error

The autoencoder has dense layers and codes of 16 numbers, and is trained to remove noise; its decoder is dropped. The classifier
is its encoder and a linear head, trained in one of three ways:
  scratch           nothing is kept: fresh weights, all of them trained
  frozen            the encoder is kept as it is, the head is trained
  joint             both are trained, the encoder at a tenth of the head's rate
Accuracy is measured on the 360 test images, which no training has seen; seconds are those of one training.

Examples:
  zoo pretrain
  zoo pretrain --labels 100 --seeds 1
"""

METHODS = ("scratch", "frozen", "joint")
_NET: dict[str, Any] = {"input_shape": [1, 8, 8], "latent_dim": 16, "widths": [256, 128]}
_RATES = {"scratch": 3e-3, "frozen": 1e-2, "joint": 1e-2}
_SOURCE_EPOCHS = 60
_MAX_LABELS = 1390  # the rarest digit has 139 training images


def run(args: list[str]) -> int:
    """Run the verb ``pretrain``."""
    parser = Parser("zoo pretrain")
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=100)
    options = parser.parse_args(args)
    if any(count % 10 or not 10 <= count <= _MAX_LABELS for count in options.labels):
        raise UserError(
            f"--labels must be multiples of 10 in 10..{_MAX_LABELS}, equally many of each class, "
            f"got {' '.join(map(str, options.labels))}"
        )
    if options.seeds < 1 or options.epochs < 1:
        raise UserError(f"--seeds and --epochs must be 1 or more, got {options.seeds}, {options.epochs}")
    run_quietly(lambda: _compare(options.labels, options.seeds, options.epochs))
    return 0


def _compare(labels: list[int], seeds: int, epochs: int) -> None:
    begin = time.monotonic()
    sources = [train_source(seed) for seed in range(seeds)]
    error = sum(error for _, error in sources) / seeds
    print(
        f"1437 images, no label: test/denoised_mse {error:.4f} (mean of {seeds}), "
        f"{(time.monotonic() - begin) / seeds:.1f} s each\n"
    )
    print_table(
        "test/acc",
        {count: f"{count} labels" for count in labels},
        METHODS,
        lambda method, count: [learn(method, sources[seed][0], count, seed, epochs) for seed in range(seeds)],
    )


def train_source(seed: int) -> "tuple[Autoencoder, float]":
    """Train a denoising autoencoder on all training images and return it with its error on the test images."""
    from callbacks import LRSchedule
    from zoo import Autoencoder

    seed_all(seed)
    task = Autoencoder(**_NET, output="sigmoid", corruption="gaussian", corruption_level=0.3, lr=3e-3, weight_decay=0.1)
    schedule = LRSchedule("cosine", warmup=0.1)
    return task, fit_and_test(task, labeled_digits(None, seed), _SOURCE_EPOCHS, schedule, metric="test/denoised_mse")


def learn(method: str, source: "Autoencoder", labels: int, seed: int, epochs: int) -> float:
    """Train on labeled digits with one of METHODS.

    Args:
        method: One of METHODS.
        source: Autoencoder; it is not changed. All methods keep its standardization of images.
        labels: Number of training examples in all.
        seed: Seed of the choice of examples, their order and fresh weights.
        epochs: Number of epochs.

    Returns:
        The accuracy on the test images.
    """
    from torch import nn

    from callbacks import LayerFreezing, LRSchedule
    from zoo import Autoencoder, ClassificationTask

    seed_all(seed)
    encoder = Autoencoder(**_NET).net.encoder if method == "scratch" else copy.deepcopy(source.net.encoder)
    net = nn.Sequential(OrderedDict(encoder=encoder, fc=nn.Linear(_NET["latent_dim"], 10)))
    task = ClassificationTask(
        net, 10, lr=_RATES[method], weight_decay=1e-2, layer_decay=0.1 if method == "joint" else 1.0
    )
    task.load_state_dict({**task.state_dict(), "mean": source.mean, "std": source.std})
    callbacks: list[Any] = [LRSchedule("cosine")]
    if method == "frozen":
        callbacks.append(LayerFreezing("head"))
    return fit_and_test(task, labeled_digits(labels, seed), epochs, *callbacks)


def labeled_digits(labels: int | None, seed: int) -> Any:
    """Return the bundled digits as a datamodule.

    Args:
        labels: Number of training examples in all, equally many of each class; None for all there are.
        seed: Seed of the choice of training examples.
    """
    from datamodules import DigitsDataModule

    class FewDigits(DigitsDataModule):
        def read(self, part: Literal["train", "test"]) -> "tuple[Tensor, Tensor]":
            x, y = super().read(part)
            if part == "train" and labels is not None:
                some = draw_per_class(y, labels // 10, 10, seed)
                x, y = x[some], y[some]
            return x, y

    return FewDigits(batch_size=32, val_fraction=0)
