"""Optimizers side by side: along a curved valley, on two moons, and on the bundled digits.

``python -m recipes.cli.studies.optimizers`` prints the table of docs/optimizers.md and draws its picture into the current folder.
All make the same number of steps, each at the rate of a grid that leaves the smallest mean loss of training over the seeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.cli.studies.comparison import run_quietly, seed_all
from recipes.cli.text import columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor, nn

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
LENGTHS = (0.3, 1.0)  # of the steps of L-BFGS and Newton, whose rate is a share of their own step
STEPS = {"valley": 200, "moons": 60, "digits": 200}
SEEDS = (0, 1, 2)
PICTURE = Path("optimizers.png")


@dataclass(frozen=True)
class Method:
    """An optimizer of the comparison.

    Args:
        optimizer: Its name.
        arguments: Its arguments.
        problems: The problems that it fits.
        weight_decay: Its weight decay.
        rates: The grid of its learning rates.
        color, dash: Of its curves.
    """

    optimizer: str
    color: str
    arguments: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ("valley", "moons", "digits")
    weight_decay: float = 0.0
    rates: tuple[float, ...] = RATES
    dash: str = "-"


_MOMENTUM = {"momentum": 0.9}
_SMOOTH: dict[str, Any] = {"problems": ("valley", "moons"), "rates": LENGTHS}  # both want the loss of all examples
METHODS = {
    "SGD": Method("SGD", "#888888"),
    "momentum": Method("SGD", "#1f77b4", _MOMENTUM),
    "Nesterov": Method("SGD", "#17becf", {**_MOMENTUM, "nesterov": True}, dash="--"),
    "RMSprop": Method("RMSprop", "#8c564b"),
    "Adagrad": Method("Adagrad", "#bcbd22"),
    "Adam": Method("Adam", "#d62728"),
    "AdamW": Method("AdamW", "#ff9896", problems=("moons", "digits"), weight_decay=0.01, dash="--"),
    "Lion": Method("Lion", "#ff7f0e"),
    "MuonAdamW": Method("MuonAdamW", "#9467bd", problems=("moons", "digits")),
    "SAM": Method("SAM", "#2ca02c", {"rho": 0.05, "base": "SGD", "base_args": _MOMENTUM}),
    "L-BFGS": Method("LBFGS", "#e377c2", {"max_iter": 2, "line_search_fn": "strong_wolfe"}, **_SMOOTH),
    "Newton": Method("Newton", "#000000", {"damping": 0.1}, **_SMOOTH),
}


@dataclass(frozen=True)
class Run:
    """One run.

    Args:
        losses: Loss before each step, on the examples of the step.
        final: Loss of training after the last step, infinite if it is not finite.
        result: What the table shows: distance to the minimum, loss, or accuracy of the test.
        looks: Mean number of gradients in a step.
        path: The points of the valley, from the start.
    """

    losses: list[float]
    final: float
    result: float
    looks: float
    path: list[tuple[float, float]]


Results = dict[str, dict[str, tuple[float, list[Run]]]]  # problem -> method -> its rate, and the run of each seed


def valley(x: Any, y: Any) -> Any:
    """Return Rosenbrock's function with a factor of 20: a curved valley to its minimum of 0 at (1, 1)."""
    return (1 - x) ** 2 + 20 * (y - x**2) ** 2


def descend(net: "nn.Module", method: Method, lr: float, loss_at: Callable[[int], "Tensor"], steps: int) -> Run:
    """Make steps, and return the run without its result; it ends where the loss is not finite."""
    import math

    from zoo.optim import build_optimizer

    optimizer: Any = build_optimizer(net, method.optimizer, lr, method.weight_decay, method.arguments, False)
    losses: list[float] = []
    looks, path = 0, []
    for step in range(steps):
        first: list[float] = []

        def closure(step: int = step, first: list[float] = first) -> "Tensor":
            optimizer.zero_grad()
            loss = loss_at(step)
            loss.backward()
            first.append(loss.item())
            return loss

        if method.optimizer != "Newton" or math.isfinite(loss_at(step).item()):  # its solver refuses nan
            path.append(_place(net))
            optimizer.step(closure)
            losses.append(first[0])
            looks += len(first)
        if len(losses) <= step or not math.isfinite(losses[-1]):
            return Run(losses, math.inf, math.nan, looks / (step + 1), path)
    return Run(losses, math.nan, math.nan, looks / steps, [*path, _place(net)])


def _place(net: "nn.Module") -> tuple[float, float]:
    x, y = next(net.parameters()).detach().flatten()[:2].tolist()
    return x, y


def measure(problem: str, method: Method, lr: float, seed: int, steps: int) -> Run:
    """Run a method on "valley", "moons" or "digits"."""
    import math
    from dataclasses import replace

    import torch
    from torch.nn.functional import cross_entropy

    seed_all(seed)
    if problem == "valley":
        point: Any = torch.nn.ParameterList([torch.tensor([-1.4, 1.6]) + 0.1 * torch.randn(2)]).double()
        run = descend(point, method, lr, lambda step: valley(*point[0]), steps)
        final = valley(*point[0]).item()
        distance = (point[0] - 1).norm().item()
        return replace(run, final=final if math.isfinite(final) else math.inf, result=distance)

    x, y, test_x, test_y = _examples(problem)
    net = _net(x.shape[1], 6 if problem == "moons" else 32, int(y.max()) + 1)
    batches = torch.stack([torch.randperm(len(x))[:64] for _ in range(steps)])

    def loss_at(step: int) -> "Tensor":
        part = batches[step] if problem == "digits" else slice(None)
        return cross_entropy(net(x[part]), y[part])

    run = descend(net, method, lr, loss_at, steps)
    with torch.no_grad():
        final = cross_entropy(net(x), y).item()
        accuracy = (net(test_x).argmax(dim=1) == test_y).double().mean().item()
    final = final if math.isfinite(final) else math.inf
    return replace(run, final=final, result=final if problem == "moons" else accuracy)


def _net(features: int, width: int, classes: int) -> "nn.Module":
    """Return a multilayer perceptron with two hidden layers."""
    from zoo.linear import MLP

    return MLP(in_features=features, num_outputs=classes, widths=[width, width])


@cache
def _examples(problem: str) -> "tuple[Tensor, Tensor, Tensor, Tensor]":
    """Return standardized training examples and those of the test, with their classes."""
    from datamodules import DigitsDataModule, MoonsDataModule

    data: Any = MoonsDataModule() if problem == "moons" else DigitsDataModule()
    data.setup("fit")
    data.setup("test")
    parts: list[Tensor] = []
    for loader in (data.train_dataloader(), data.test_dataloader()):
        x, y = loader.dataset.__getitems__([*range(len(loader.dataset))])[:2]
        parts += [x.flatten(1).float(), y]
    mean, deviation = parts[0].mean(), parts[0].std()
    return (parts[0] - mean) / deviation, parts[1], (parts[2] - mean) / deviation, parts[3]


def compare(
    methods: dict[str, Method],
    steps: dict[str, int],
    seeds: Sequence[int],
    measure: Callable[[str, Method, float, int, int], Run] = measure,
) -> Results:
    """Run every method on the problems that it fits; keep the rate with the smallest mean loss of training at the end."""
    results: Results = {}
    for problem, count in steps.items():
        results[problem] = {}
        for name, method in methods.items():
            if problem in method.problems:
                runs = {lr: [measure(problem, method, lr, seed, count) for seed in seeds] for lr in method.rates}
                best = min(runs, key=lambda lr: sum(run.final for run in runs[lr]))
                results[problem][name] = best, runs[best]
    return results


def table(results: Results) -> str:
    """Return a row for each method: gradients a step, then the rate, and mean and range over the seeds, of each problem."""
    heads = {"valley": "distance", "moons": "loss", "digits": "test accuracy"}
    rows: list[tuple[object, ...]] = [
        ("optimizer", "gradients", *(t for p in results for t in ("lr", f"{p}: {heads[p]}")))
    ]
    by_number = sorted(results.values(), key=len, reverse=True)
    names = list(dict.fromkeys(name for methods in by_number for name in methods))
    for name in names:
        cells: list[str] = []
        for problem, methods in results.items():
            rate, runs = methods.get(name, (0.0, []))
            cells += [f"{rate:g}", _spread([run.result for run in runs], problem)] if runs else ["", "-"]
        looks = [f"{methods[name][1][0].looks:.3g}" for methods in results.values() if name in methods]
        rows.append((name, ", ".join(dict.fromkeys(looks)), *cells))
    return columns(rows)


def _spread(values: list[float], problem: str) -> str:
    mean, low, high = sum(values) / len(values), min(values), max(values)
    form = "{:.1%}" if problem == "digits" else "{:.2g}"
    return "{} ({}-{})".format(*(form.format(v) for v in (mean, low, high)))


def draw(results: Results, path: Path, methods: dict[str, Method]) -> None:
    """Draw the trajectories of the first seed over the valley, and the mean losses of the other problems, into a PNG."""
    from zoo.drawing.figures import new_figure

    figure = new_figure(11, 8.6, dpi=110)
    adaptive = ("Adagrad", "RMSprop", "Adam", "Lion")  # in the order in which they are drawn
    plain = [name for name in results["valley"] if name not in adaptive]
    for place, names in enumerate((plain, adaptive), start=1):
        axes = figure.add_subplot(2, 2, place)
        _draw_valley(axes, {name: results["valley"][name] for name in names if name in results["valley"]}, methods)
    for place, problem in enumerate(("moons", "digits"), start=3):
        axes = figure.add_subplot(2, 2, place)
        for name, (_, runs) in results[problem].items():
            mean = [sum(losses) / len(losses) for losses in zip(*(run.losses for run in runs), strict=False)]
            width = 1 if problem == "moons" else 20  # the loss of a mini-batch is noisy
            smooth = [sum(mean[max(0, i - width + 1) : i + 1]) / min(width, i + 1) for i in range(len(mean))]
            axes.plot(smooth, color=methods[name].color, ls=methods[name].dash, lw=1.4, label=name)
        what = "all examples" if problem == "moons" else "64 examples a step, mean of the last 20 steps"
        axes.set(yscale="log", xlabel="step", ylabel="training loss, nats", title=f"{problem}: {what}")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    shown = [name for name in methods if name in handles]
    figure.legend([handles[n] for n in shown], shown, loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(path)


def _draw_valley(axes: "Axes", found: dict[str, tuple[float, list[Run]]], methods: dict[str, Method]) -> None:
    """Draw contours, the minimum, and the trajectory of each method."""
    import numpy as np

    x, y = np.meshgrid(np.linspace(-2.2, 2.2, 300), np.linspace(-1.2, 3.2, 300))
    axes.contourf(x, y, np.log10(valley(x, y) + 1e-3), levels=24, cmap="Greys", alpha=0.55)
    for name, (_, runs) in found.items():
        points = np.array(runs[0].path)
        style = methods[name]
        axes.plot(*points.T, color=style.color, ls=style.dash, marker=".", ms=3, lw=1.2, label=name)
        axes.plot(*points[-1], color=style.color, marker="o", ms=6, mec="white", ls="")
    axes.plot(1, 1, marker="*", ms=13, color="gold", mec="black", ls="")
    axes.set(xlim=(-2.2, 2.2), ylim=(-1.2, 3.2), title="valley: the steps of one seed", xlabel="x", ylabel="y")


def main() -> None:
    """Print the table and draw the picture."""
    results = compare(METHODS, STEPS, SEEDS)
    draw(results, PICTURE, METHODS)
    steps = ", ".join(f"{count} steps ({problem})" for problem, count in STEPS.items())
    print(
        f"{steps}; mean (range) over {len(SEEDS)} seeds; gradients: mean number in a step, in the order of the problems\n\n"
        f"{table(results)}\n\npicture in {PICTURE}"
    )


if __name__ == "__main__":
    run_quietly(main)
