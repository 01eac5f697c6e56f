"""Train the bundled weights: ``python -m recipes.cli.bundle [NAME ...]``, some minutes on 2 CPU cores.

Each net is trained with several seeds; the weights of the first are kept, and the card has the metric of all. On the same
machine and versions the files are bitwise equal.
"""

import csv
import json
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from recipes.cli.__main__ import main
from recipes.cli.errors import UserError
from zoo import load
from zoo.pretrained import bundled

SEEDS = (0, 1, 2)
PACKAGES = ("lightning-zoo", "torch", "lightning", "scikit-learn")
# name -> recipe, options, the metric on the card
NETS = {
    "lenet5_digits": ("cnn/lenet_digits", (), "test/acc"),
    "resnet20_digits": ("cnn/resnet_digits", ("--model.depth=20", "--model.width=16"), "test/acc"),
}


def train(name: str, target: Path) -> Path:
    """Train one net with all seeds, write its folder into ``target`` and return it."""
    recipe, options, metric = NETS[name]
    values: list[float] = []
    with tempfile.TemporaryDirectory() as runs:
        for seed in SEEDS:
            if code := main(["fit", "-c", recipe, *options, f"--seed_everything={seed}", "--runs", runs]):
                raise UserError(f"training {name} ended with exit code {code}")
            with Path(runs, recipe, f"version_{len(values)}", "metrics.csv").open(newline="", encoding="utf-8") as file:
                values.append(next(round(float(row[metric]), 4) for row in csv.DictReader(file) if row.get(metric)))
        module = load(Path(runs, recipe, "version_0", "checkpoints", "best.ckpt"))
        training = {
            "recipe": recipe,
            "command": " ".join(["zoo fit -c", recipe, *options, f"--seed_everything={SEEDS[0]}"]),
            "metric": {metric: values[0]},
            "seeds": {str(seed): value for seed, value in zip(SEEDS, values, strict=True)},
            "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        }
        return module.save_pretrained(target / name, training)


def run(names: list[str], target: Path = bundled.HERE) -> int:
    """Train the named nets, or all of them.

    Returns:
        0; 1 if weights differ from those that were there; 2 for an unknown name.
    """
    if unknown := sorted(set(names) - NETS.keys()):
        print(f"no bundled net {', '.join(unknown)}: the bundled nets are {', '.join(NETS)}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)  # it determines the order of sums, and so the bits
    differs = False
    for name in names or NETS:
        before = _sha256(bundled.HERE / name)
        after = _sha256(train(name, target))
        print(f"{name}: sha256 {after}, " + ("as before" if after == before else f"was {before}"))
        differs = differs or after != before
    return int(differs)


def _sha256(folder: Path) -> str | None:
    config = folder / "config.json"
    return json.loads(config.read_bytes())["sha256"] if config.is_file() else None


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
