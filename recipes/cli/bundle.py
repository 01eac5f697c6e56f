"""Train the nets that ship with the package anew: ``python -m recipes.cli.bundle [NAME ...]``, some minutes on 2 CPU cores.

Each is trained with several seeds; the net of the first is kept, and its card tells how all of them did. On the same machine
and versions the files come out the same to the bit; on others put the printed sha256 into ``zoo/pretrained/bundled.py``.
"""

import csv
import hashlib
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
# name -> recipe, options, the metric that the card tells
NETS = {
    "lenet5_digits": ("cnn/lenet_digits", (), "test/acc"),
    "resnet20_digits": ("cnn/resnet_digits", ("--model.depth=20", "--model.width=16"), "test/acc"),
}


def train(name: str, target: Path) -> Path:
    """Train one net with all seeds and write its folder into ``target``."""
    recipe, options, metric = NETS[name]
    values: list[float] = []
    with tempfile.TemporaryDirectory() as runs:
        for seed in SEEDS:
            if code := main(["fit", "-c", recipe, *options, f"--seed_everything={seed}", "--runs", runs]):
                raise UserError(f"training {name} ended with code {code}")
            with Path(runs, recipe, f"version_{len(values)}", "metrics.csv").open(newline="") as file:
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
    """Train the named nets, or all; 1 if a file is not the one that ``bundled.SHA256`` tells."""
    if unknown := sorted(set(names) - NETS.keys()):
        print(f"no bundled net {', '.join(unknown)}: there are {', '.join(NETS)}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)  # the order of sums, and so the bits, depend on it
    other = False
    for name in names or NETS:
        path = train(name, target) / "model.safetensors"
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f'    "{name}": "{found}",')
        other = other or found != bundled.SHA256.get(name)
    return int(other)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
