"""Train the bundled weights: ``python -m recipes.cli.bundle [NAME ...]``, some minutes on 2 CPU cores.

Each net is trained with several seeds; the weights of the first are kept, and the card has the metric of all. On the same
machine and versions the files are bitwise equal.
"""

import csv
import json
import platform
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from recipes.cli.__main__ import main
from recipes.cli.errors import UserError
from zoo import load
from zoo.pretrained import bundled

SEEDS = (0, 1, 2)
PACKAGES = ("lightning-zoo", "torch", "lightning", "scikit-learn")


@dataclass(frozen=True)
class Net:
    """How a bundled net is made, and what its card says.

    Attributes:
        recipe: Its recipe.
        metrics: Columns of ``metrics.csv`` that the card has; the first for every seed.
        options: Options of ``zoo fit``.
        data: What it was trained on, and under which license; "" where the recipe says it all.
        texts: Of a language model what the text on the card begins with; of a translator the texts that it translates there.
    """

    recipe: str
    metrics: tuple[str, ...]
    options: tuple[str, ...] = ()
    data: str = ""
    texts: tuple[str, ...] = ()

    def command(self, seed: int) -> str:
        """Return the command that trains it."""
        return " ".join(["zoo fit -c", self.recipe, *self.options, f"--seed_everything={seed}"])


TRANSLATIONS = ("test/exact", "test/bleu4", "test/chrf", "test/loss")
DATES = "dates of 1950 to 2049 as twelve locales write them (Unicode CLDR, Unicode License v3), none of the test part in training"
WRITTEN = ("3 March 2021", "Mar 3, 2021", "mercredi 3 mars 2021", "03.03.21", "2021年3月3日水曜日")
DIGITS = "1,797 handwritten digits (scikit-learn's copy of a part of a UCI set, Alpaydin and Kaynak 1998, CC BY 4.0)"
NETS = {
    "lenet5_digits": Net("cnn/lenet_digits", ("test/acc",), data=DIGITS),
    "resnet20_digits": Net("cnn/resnet_digits", ("test/acc",), ("--model.depth=20", "--model.width=16"), data=DIGITS),
    "char_lm": Net(
        "recurrent/gru_austen",
        ("test/loss", "test/perplexity", "test/acc", "test/bpc"),
        data='"Persuasion" by Jane Austen (1817), in the public domain',
        texts=("It was",),
    ),
    "unet_shapes": Net(
        "segmentation/unet_shapes",
        ("test/miou", "test/acc", "test/loss"),
        data="shapes that datamodules.ShapesDataModule draws, of this package (Apache License 2.0)",
    ),
    "vae_digits": Net("autoencoder/vae8_digits", ("test/elbo", "test/iwae", "test/kl"), data=DIGITS),
    "dcgan_digits": Net("gan/dcgan_digits", ("test/judged_acc", "test/frechet", "test/copy_ratio"), data=DIGITS),
    "mnist1d_fcn": Net(
        "cnn/fcn_mnist1d",
        ("test/acc", "test/loss"),
        data="series that datamodules.MNIST1DDataModule makes, equal to those of the package mnist1d (Apache License 2.0)",
    ),
    "co2_gru": Net(
        "recurrent/gru_co2",
        ("test/relative_mae", "test/mae", "test/rmse"),
        data="monthly means of carbon dioxide at Mauna Loa, 1958 to 2001 (Keeling and Whorf 2004), in the public domain",
    ),
    "captioner_shapes": Net(
        "captioning/attend_shapes",
        ("test/exact", "test/color", "test/shape", "test/relation"),
        data="images and captions that datamodules.ShapeCaptionsDataModule makes, of this package (Apache License 2.0)",
    ),
    "dates_gru": Net("seq2seq/gru_attention_dates", TRANSLATIONS, data=DATES, texts=WRITTEN),
    "dates_transformer": Net("transformer/dates", TRANSLATIONS, data=DATES, texts=WRITTEN),
}
SAMPLE: dict[str, Any] = {"seed": 0, "temperature": 0.5, "tokens": 400}


def train(name: str, target: Path) -> Path:
    """Train one net with all seeds, write its folder into ``target`` and return it."""
    net = NETS[name]
    with tempfile.TemporaryDirectory() as runs:
        for seed in SEEDS:
            if code := main(["fit", "-c", net.recipe, *net.options, f"--seed_everything={seed}", "--runs", runs]):
                raise UserError(f"training {name} ended with exit code {code}")
        return pack(name, [Path(runs, net.recipe, f"version_{i}") for i in range(len(SEEDS))], target)


def pack(name: str, runs: list[Path], target: Path) -> Path:
    """Write the folder of a net from its runs, one for each seed, into ``target`` and return it."""
    net, module = NETS[name], load(runs[0] / "checkpoints" / "best.ckpt")
    results = [_results(run) for run in runs]
    training = {
        "recipe": net.recipe,
        "command": net.command(SEEDS[0]),
        **({"data": net.data} if net.data else {}),
        "metric": {metric: results[0][metric] for metric in net.metrics},
        "seeds": {str(seed): result[net.metrics[0]] for seed, result in zip(SEEDS, results, strict=True)},
        **({"example": example(name, module)} if net.texts else {}),
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
    }
    return module.save_pretrained(target / name, training)


def example(name: str, module: Any) -> str:
    """Return what a model of texts writes: a command, and what it prints in the main."""
    texts = NETS[name].texts
    if "translation" in module.learns:
        written = module.predict_step(module.batch_of(texts))["text"]
        inputs = " ".join(json.dumps(text, ensure_ascii=False) for text in texts)
        return "\n".join([f"zoo predict {name} {inputs}", "", *map("{} -> {}".format, texts, written)])
    options = " ".join(f"--{key} {value}" for key, value in SAMPLE.items())
    (text,) = module.sample(1, prompt=texts[0], **SAMPLE)
    return f"zoo sample {name} --prompt {json.dumps(texts[0])} {options}\n\n{text}"


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


def _results(run: Path) -> dict[str, float]:
    """Return the test results of a run."""
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {key: round(float(row[key]), 4) for row in rows for key in row if key.startswith("test/") and row[key]}


def _sha256(folder: Path) -> str | None:
    config = folder / "config.json"
    return json.loads(config.read_bytes())["sha256"] if config.is_file() else None


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
