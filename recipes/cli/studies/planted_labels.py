"""How many wrong labels the label check of ``zoo check`` finds: 5% of the digits' labels, planted.

``python -m recipes.cli.studies.planted_labels`` prints the table of docs/check.md.
"""

from dataclasses import dataclass

from torch import Tensor

from datamodules import DigitsDataModule
from datamodules.label_noise import plant
from recipes.cli.check.labels import suspects
from recipes.cli.text import columns

SHARE = 0.05
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Result:
    """What the check found on labels of which some are wrong.

    Args:
        planted: Number of labels that were changed.
        top: Number of these among the ``planted`` most doubted examples.
        found: Number of these among the likely errors.
        false: Number of likely errors whose label was not changed.
        accuracy: Of the probe on examples that it has not seen, with the labels as they are.
    """

    planted: int
    top: int
    found: int
    false: int
    accuracy: float


def measure(x: Tensor, y: Tensor, share: float, seed: int) -> Result:
    """Plant errors in labels and return what the check finds of them.

    Shape:
        x: ``(N, D)``, y: int64 ``(N,)``.
    """
    noisy, planted = plant(y, share, seed, int(y.max()) + 1)
    margins, doubted, accuracy = suspects(x, noisy)
    wrong, count = planted.numpy(), int(planted.sum())
    return Result(
        planted=count,
        top=int(wrong[margins.argsort()[:count]].sum()),
        found=int((doubted & wrong).sum()),
        false=int((doubted & ~wrong).sum()),
        accuracy=accuracy,
    )


def digits() -> tuple[Tensor, Tensor]:
    """Return the training examples of the digits: ``(N, 64)``, int64 ``(N,)``."""
    data = DigitsDataModule()
    data.setup("fit")
    examples = data.train_dataloader().dataset
    x, y = examples.__getitems__([*range(len(examples))])  # type: ignore[attr-defined,arg-type]
    return x.flatten(1).float(), y


def main() -> None:
    """Print the table: a row for each seed, and the mean and the range over all."""
    x, y = digits()
    results = [measure(x, y, SHARE, seed) for seed in SEEDS]
    rows: list[tuple[object, ...]] = [("seed", "planted", "in the top 5%", "found", "false", "probe")]
    for seed, r in zip(SEEDS, results, strict=True):
        top = f"{r.top} ({r.top / r.planted:.0%})"
        rows.append((str(seed), r.planted, top, f"{r.found} ({r.found / r.planted:.0%})", r.false, f"{r.accuracy:.1%}"))
    shares = [(r.top / r.planted, r.found / r.planted) for r in results]
    spread = [f"{sum(s) / len(s):.0%} ({min(s):.0%}-{max(s):.0%})" for s in zip(*shares, strict=True)]
    mean_false = sum(r.false for r in results) / len(results)
    rows.append(("mean", results[0].planted, spread[0], spread[1], round(mean_false, 1), ""))
    print(f"{len(y):,} digits, {SHARE:.0%} of the labels planted\n\n{columns(rows)}")


if __name__ == "__main__":
    main()
