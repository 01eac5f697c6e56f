"""``zoo lottery``: lottery tickets on the bundled digits (Frankle and Carbin 2019, arXiv:1803.03635).

A dense LeNet-300-100 is trained, pruned by magnitude and set back to the weights that it had early on, again and again. Beside that
ticket stand nets of as few weights that only lack one of its parts.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.cli.errors import UserError
from recipes.cli.run.options import Parser
from recipes.cli.studies.comparison import fit_and_measure, run_quietly, seed_all

if TYPE_CHECKING:
    from torch import Tensor

HELP = """zoo lottery [options]: prune a net to few weights, set the rest back to where they began, and train them alone.

  --rounds N    rounds of pruning, each of 20% of the weights that are left, 10% in the last layer (default: 18)
  --rewind K    step of the dense training to whose weights a net is set back; 0 is the start (default: 0)
  --seeds N     number of repetitions (default: 3)
  --debug       show the traceback of any error

The net is LeNet-300-100, a multi-layer perceptron 64-300-100-10 of 50,200 weights, on the bundled digits. Each row has the accuracy
on the test images of nets with the same number of weights in each layer, mean and range over the seeds:
  ticket            pruned round by round, each time set back and trained again (Frankle and Carbin 2019)
  re-initialized    the ticket's mask, other random weights
  random mask       the ticket's weights at the start, a random mask
  one-shot          all rounds at once, from the dense net, then set back
Every third round is a row, and the last one. The curves are drawn into lottery_ticket.png in this folder.

Examples:
  zoo lottery
  zoo lottery --rewind 50 --seeds 5
  zoo lottery --rounds 3 --seeds 1
"""

METHODS = ("ticket", "re-initialized", "random mask", "one-shot")
PICTURE = Path("lottery_ticket.png")
EPOCHS, BATCH, RATE = 20, 60, 1.2e-3  # batch and rate of Adam: the paper's, figure 2
STEPS = EPOCHS * -(-1437 // BATCH)  # of the 1,437 training images
SHARES = {"layers": 0.2, "fc": 0.1}  # of what is left, pruned in a round: the hidden layers and the last one; figure 2
MAX_ROUNDS = 25  # less than 0.4% of a hidden layer is left then
_EVERY = 3  # rounds from one row to the next
_FRESH = 1000  # added to the seed of other random weights
_COLORS = {"ticket": "#d62728", "re-initialized": "#1f77b4", "random mask": "#888888", "one-shot": "#2ca02c"}

Weights = dict[str, "Tensor"]


@dataclass(frozen=True)
class Row:
    """Accuracies of all seeds after a number of rounds.

    Args:
        rounds: Number of rounds; 0 is the dense net.
        left: Share of the weights that is left.
        accuracies: Of each method; of the dense net, "ticket" alone.
    """

    rounds: int
    left: float
    accuracies: dict[str, list[float]]


@dataclass
class Chain:
    """The rounds of one seed.

    Args:
        seed: Seed of the weights and of the order of examples.
        rewound: Weights to which a net is set back.
        dense: Weights of the dense net after training.
        trained: Weights of the last ticket after training.
    """

    seed: int
    rewound: Weights = field(default_factory=dict)
    dense: Weights = field(default_factory=dict)
    trained: Weights = field(default_factory=dict)


def run(args: list[str]) -> int:
    """Run the verb ``lottery``."""
    parser = Parser("zoo lottery")
    parser.add_argument("--rounds", type=int, default=18)
    parser.add_argument("--rewind", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(args)
    if not 1 <= options.rounds <= MAX_ROUNDS:
        raise UserError(f"--rounds must be in 1..{MAX_ROUNDS}, got {options.rounds}")
    if not 0 <= options.rewind < STEPS:
        raise UserError(f"--rewind is a step of the dense training in 0..{STEPS - 1}, got {options.rewind}")
    if options.seeds < 1:
        raise UserError(f"--seeds must be 1 or more, got {options.seeds}")
    run_quietly(lambda: _compare(options.rounds, options.rewind, options.seeds))
    return 0


def _compare(rounds: int, rewind: int, seeds: int) -> None:
    begin = time.monotonic()
    print(
        f"LeNet-300-100 on the digits, set back to step {rewind} of {STEPS}; test accuracy, mean (range) over {seeds} seed"
        f"{'s' if seeds > 1 else ''}\n"
    )
    print(f"{'rounds':>6}  {'weights left':>12}" + "".join(f"  {method:<19}" for method in METHODS).rstrip())
    print("-" * (20 + 21 * len(METHODS)))
    rows = []
    for row in compare(rounds, rewind, seeds):
        rows.append(row)
        print(line(row), flush=True)
    draw(rows, PICTURE)
    print(f"\n{time.monotonic() - begin:.0f} s; picture in {PICTURE}")


def compare(rounds: int, rewind: int, seeds: int) -> Iterator[Row]:
    """Train the dense nets, then round by round; give the row of the dense nets and of every third round and the last."""
    chains = [Chain(seed) for seed in range(seeds)]
    yield Row(0, 1.0, {"ticket": [_train_dense(chain, rewind) for chain in chains]})
    for count in range(1, rounds + 1):
        masks = [smallest(chain.trained, count) for chain in chains]
        found = {"ticket": [_train_ticket(c, mask, count, rewind) for c, mask in zip(chains, masks, strict=True)]}
        if count % _EVERY == 0 or count == rounds:
            for method in METHODS[1:]:
                found[method] = [control(method, c, m, count, rewind) for c, m in zip(chains, masks, strict=True)]
            left = sum(int((~mask).sum()) for mask in masks[0].values()) / sum(m.numel() for m in masks[0].values())
            yield Row(count, left, found)


def _train_dense(chain: Chain, rewind: int) -> float:
    task = net(chain.seed)
    keep = _keeping(rewind, chain.rewound)
    chain.rewound.update(_weights(task))  # of step 0
    accuracy = _fit(task, chain.seed, 0, 0, keep)
    chain.dense = chain.trained = _weights(task)
    return accuracy


def _train_ticket(chain: Chain, mask: Weights, rounds: int, rewind: int) -> float:
    task = masked(net(chain.seed), chain.rewound, mask)
    accuracy = _fit(task, chain.seed, rounds, rewind)
    chain.trained = _weights(task)
    return accuracy


def control(method: str, chain: Chain, mask: Weights, rounds: int, rewind: int) -> float:
    """Train a net that lacks a part of the ticket, and return its accuracy.

    Args:
        method: "re-initialized", "random mask" or "one-shot".
        chain: The dense net of the seed; it is not changed.
        mask: The ticket's, True where it is pruned.
        rounds: Number of the ticket's rounds.
        rewind: Step to whose weights the others are set back.
    """
    import torch

    seed = chain.seed
    if method == "re-initialized":
        fresh = net(_FRESH + seed)
        return _fit(masked(fresh, _weights(fresh), mask), seed, rounds, 0)  # it has made no step yet
    if method == "one-shot":
        mask = smallest(chain.dense, rounds)
    else:
        g = torch.Generator().manual_seed(seed)
        mask = {n: m.flatten()[torch.randperm(m.numel(), generator=g)].view(m.shape) for n, m in mask.items()}
    return _fit(masked(net(seed), chain.rewound, mask), seed, rounds, rewind)


def net(seed: int) -> Any:
    """Return a fresh net with the weights of a seed, drawn as in the paper (Glorot and Bengio 2010)."""
    from zoo import MLPClassifier

    seed_all(seed)
    return MLPClassifier(
        in_features=64, widths=[300, 100], init="xavier_normal", optimizer="Adam", lr=RATE, weight_decay=0.0
    )


def sparsity(layer: str, rounds: int) -> float:
    """Return the share of the weights of "layers" or "fc" that is pruned after so many rounds."""
    return 1 - (1 - SHARES[layer]) ** rounds


def smallest(weights: Weights, rounds: int) -> Weights:
    """Return the weights that are pruned after so many rounds: of each matrix, those of smallest magnitude."""
    import torch

    masks = {}
    for name, weight in weights.items():
        if weight.ndim == 2:
            mask = torch.zeros(weight.numel(), dtype=torch.bool)
            count = round(sparsity(name.split(".")[1], rounds) * weight.numel())
            mask[weight.abs().flatten().argsort(stable=True)[:count]] = True
            masks[name] = mask.view(weight.shape)
    return masks


def masked(task: Any, weights: Weights, mask: Weights) -> Any:
    """Give a net weights, zero where they are pruned."""
    values = {n: value.masked_fill(mask[n], 0) if n in mask else value for n, value in weights.items()}
    task.load_state_dict({**task.state_dict(), **values})
    return task


def _weights(task: Any) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in task.named_parameters()}


def _fit(task: Any, seed: int, rounds: int, made: int, *callbacks: Any) -> float:
    """Train, with zeros staying zero, and return the accuracy of the test.

    Args:
        task: The net; after rounds of pruning, its zeros are as many as these leave.
        seed: Seed of the order of examples.
        rounds: Number of rounds.
        made: Steps that its weights have made.
        callbacks: More callbacks.
    """
    from callbacks import MagnitudePruning
    from datamodules import DigitsDataModule

    seed_all(seed)
    prune = [
        MagnitudePruning(sparsity(part, rounds), "layer", [part], start_epoch=0) for part in SHARES if rounds
    ]  # zeros are the smallest, so just these are pruned
    data = DigitsDataModule(batch_size=BATCH, val_fraction=0)
    return fit_and_measure(task, data, EPOCHS, *prune, *callbacks, max_steps=STEPS - made)["test/acc"]


def _keeping(step: int, weights: Weights) -> Any:
    """Return a callback that keeps the weights after a step."""
    from lightning.pytorch import Callback, LightningModule, Trainer

    class Keep(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            if trainer.global_step == step:
                weights.update(_weights(pl_module))

    return Keep()


def line(row: Row) -> str:
    """Return a row of the table."""
    cells = [spread(row.accuracies[method]) if method in row.accuracies else "" for method in METHODS]
    return (f"{row.rounds:>6}  {row.left:>12.1%}" + "".join(f"  {cell:<19}" for cell in cells)).rstrip()


def spread(values: list[float]) -> str:
    """Return mean and range as text."""
    return f"{sum(values) / len(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def draw(rows: list[Row], path: Path) -> None:
    """Draw accuracy against the share of weights left into a PNG: means, and ranges over the seeds shaded."""
    from matplotlib.ticker import NullLocator, PercentFormatter

    from zoo.drawing.figures import new_figure

    figure = new_figure(7.5, 4.6, dpi=120)
    axes = figure.add_subplot()
    (dense,) = rows[0].accuracies.values()
    axes.axhline(sum(dense) / len(dense), color="black", lw=1, ls="--", label="dense net")
    axes.axhspan(min(dense), max(dense), color="black", alpha=0.1, lw=0)
    for method, color in _COLORS.items():
        shown = [row for row in rows if method in row.accuracies and row.rounds]
        left = [row.left for row in shown]
        runs = [row.accuracies[method] for row in shown]
        axes.plot(left, [sum(v) / len(v) for v in runs], color=color, marker=".", lw=1.5, label=method)
        axes.fill_between(left, [min(v) for v in runs], [max(v) for v in runs], color=color, alpha=0.18, lw=0)
    axes.set(xscale="log", xlabel="weights left", ylabel="test accuracy")
    axes.invert_xaxis()
    axes.set_xticks([row.left for row in rows if row.rounds])
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", frameon=False)
    figure.savefig(path)
