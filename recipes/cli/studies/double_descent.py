"""Double descent: random features of MNIST-1D, far fewer than training examples to far more.

Belkin et al. 2019, arXiv:1812.11118. ``python -m recipes.cli.studies.double_descent`` prints the table of docs/double_descent.md
and draws its picture into the current folder. Each seed has its own series, wrong labels and random features.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.cli.studies.comparison import fit_and_measure, run_quietly, seed_all
from recipes.cli.text import columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COUNT, LABEL_NOISE = 400, 0.15  # of training examples, and the share of them whose label is wrong
WIDTHS = (10, 20, 40, 80, 160, 240, 320, 360, 380, 390, 400, 410, 420, 440, 480, 560, 800, 1600, 4000, 10000)
RIDGES = (0.0, 0.1)
SEEDS = (0, 1, 2)
PICTURE = Path("double_descent.png")
_TEST, _TRAIN = "#d9722e", "#3b6fb6"

Curve = dict[int, list[dict[str, float]]]  # number of features -> the metrics of each seed


def measure(width: int, ridge: float, seed: int, count: int = COUNT) -> dict[str, float]:
    """Train on ``count`` examples and return error rate, squared error, and the norm of the weights.

    Returns:
        "train/error", "train/loss" on the labels as they are, wrong ones included; "test/error", "test/loss"; "norm".
    """
    from datamodules import MNIST1DDataModule
    from zoo import RandomFeaturesClassifier

    seed_all(seed)
    data = MNIST1DDataModule(count=count, label_noise=LABEL_NOISE, data_seed=seed, val_fraction=0, batch_size=count)
    model = RandomFeaturesClassifier(num_features=width, ridge=ridge)
    metrics = fit_and_measure(model, data, 1)
    errors = {f"{part}/error": 1 - metrics[f"{part}/acc"] for part in ("train", "test")}
    losses = {f"{part}/loss": metrics[f"{part}/loss"] for part in ("train", "test")}
    return {**errors, **losses, "norm": float(model.net.fc.weight.detach().norm())}


def sweep(
    widths: Iterable[int],
    ridges: Iterable[float],
    seeds: Sequence[int],
    measure: Callable[[int, float, int], dict[str, float]] = measure,
) -> dict[float, Curve]:
    """Train with every number of features, ridge and seed; return the curve of each ridge."""
    return {ridge: {width: [measure(width, ridge, seed) for seed in seeds] for width in widths} for ridge in ridges}


def table(curves: dict[float, Curve]) -> str:
    """Return a row for each number of features: means and ranges over the seeds, for each ridge; errors in percent."""
    columns_of = {
        ridge: ("test/error", "test/loss") if ridge else ("train/error", "test/error", "test/loss", "norm")
        for ridge in curves
    }
    heads = [
        name.replace("/", " ") + (f", ridge {r:g}" if r else "") for r, names in columns_of.items() for name in names
    ]
    rows: list[tuple[object, ...]] = [("features", *heads)]
    for width in next(iter(curves.values())):
        cells = [
            _spread([run[name] for run in curves[ridge][width]], share=name.endswith("error"))
            for ridge, names in columns_of.items()
            for name in names
        ]
        rows.append((f"{width:,}", *cells))
    return columns(rows)


def _spread(values: list[float], share: bool) -> str:
    """Return mean and range as text; shares as percentages."""
    mean, low, high = sum(values) / len(values), min(values), max(values)
    texts = [f"{100 * v:.1f}" if share else f"{v:.3g}" if v < 1000 else f"{v:.0f}" for v in (mean, low, high)]
    return f"{texts[0]} ({texts[1]}-{texts[2]})"


def draw(curves: dict[float, Curve], path: Path, peak: int = COUNT) -> None:
    """Draw error rate and squared error against the number of features into a PNG: means, and ranges over the seeds shaded."""
    from zoo.drawing.figures import new_figure

    figure = new_figure(10, 4.2, dpi=120)
    for place, (name, label) in enumerate((("error", "error rate"), ("loss", "squared error")), start=1):
        axes = figure.add_subplot(1, 2, place)
        for ridge, curve in curves.items():
            what = f", ridge {ridge:g}" if ridge else ""
            style: dict[str, Any] = {"ls": "--" if ridge else "-"}
            if not ridge:
                _add(axes, curve, f"train/{name}", "train, wrong labels included", color=_TRAIN, **style)
            _add(axes, curve, f"test/{name}", f"test{what}", color=_TEST, **style)
        axes.axvline(peak, color="#555555", lw=1, ls=":", zorder=0)
        axes.set(xscale="log", xlabel="random features", ylabel=label)
        if name == "loss":
            axes.set_yscale("log")
            axes.set_ylim(bottom=0.01)  # below, the training error is rounding
        axes.annotate(
            f"{peak:,} features = {peak:,} examples",
            (peak, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize="small",
        )
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path)


def _add(axes: "Axes", curve: Curve, name: str, label: str, **style: Any) -> None:
    """Add a curve: the mean over the seeds, and their range."""
    runs = [[run[name] for run in runs] for runs in curve.values()]
    axes.plot([*curve], [sum(values) / len(values) for values in runs], label=label, marker=".", lw=1.4, **style)
    axes.fill_between([*curve], [min(v) for v in runs], [max(v) for v in runs], color=style["color"], alpha=0.2, lw=0)


def main() -> None:
    """Print the table and draw the picture."""
    curves = sweep(WIDTHS, RIDGES, SEEDS)
    draw(curves, PICTURE)
    print(
        f"{COUNT:,} series, {LABEL_NOISE:.0%} of the labels wrong; mean (range) over {len(SEEDS)} seeds, errors in percent\n\n"
        f"{table(curves)}\n\npicture in {PICTURE}"
    )


if __name__ == "__main__":
    run_quietly(main)
