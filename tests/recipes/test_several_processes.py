"""``zoo fit`` on two processes, or of accumulated batches, ends with the weights of one process and whole batches."""

import csv
import re
from pathlib import Path

import pytest
import torch
from cli_kit import Zoo
from PIL import Image
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")

STEPS = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=20", "--trainer.precision=64-true")
WAYS = {
    "one": ("--data.batch_size=48",),
    "two processes": ("--data.batch_size=24", "--trainer.devices=2", "--trainer.strategy=ddp_fork"),
    "accumulated": (
        "--data.batch_size=16",
        "--trainer.accumulate_grad_batches=3",
        "--trainer.limit_train_batches=60",
    ),
}


def weights(run: Path) -> dict[str, Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    ("recipe", "way", "options"),
    [
        ("linear/mlp_digits", "two processes", ()),
        ("autoencoder/denoising_digits", "two processes", ()),
        ("gan/gan_grid", "two processes", ()),
        ("linear/mlp_digits", "accumulated", ("--model.dropout=0.0",)),
    ],
)
def test_the_same_weights(zoo: Zoo, recipe: str, way: str, options: tuple[str, ...]) -> None:
    ends = []
    for i, name in enumerate(("one", way)):
        result = zoo("fit", "-c", recipe, *STEPS, *options, *WAYS[name])
        assert result.code == 0, result.err
        ends.append(weights(Path("runs", recipe, f"version_{i}")))
    assert gap(*ends) < 1e-6


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max((one[key].double() - other[key].double()).abs().max().item() for key in one)


@pytest.mark.parametrize(("recipe", "batch_size"), [("linear/mlp_digits", 68), ("autoencoder/denoising_digits", 160)])
def test_the_same_weights_with_a_short_last_batch(zoo: Zoo, recipe: str, batch_size: int) -> None:
    """Of 1,293 images one is left, which one process has, or 13."""
    ends = []
    for i, processes in enumerate((1, 2)):
        short = (f"--data.batch_size={batch_size // processes}", "--data.drop_last=false", "--trainer.max_epochs=1")
        several = ("--trainer.devices=2", "--trainer.strategy=ddp_fork") if processes == 2 else ()
        result = zoo("fit", "-c", recipe, "--trainer.precision=64-true", *short, *several)
        assert result.code == 0, result.err
        run = Path("runs", recipe, f"version_{i}")
        assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == -(-1293 // batch_size)
        ends.append(weights(run))
    assert gap(*ends) < 1e-6


def test_the_process_that_forks_knows_what_the_others_have_done(zoo: Zoo) -> None:
    """They return their weights, the counters and the best checkpoint; the first of them alone prints."""
    options = ("--trainer.max_epochs=2", "--trainer.devices=2", "--trainer.strategy=ddp_fork", "--data.batch_size=64")
    result = zoo("fit", "linear/softmax_digits", *options)
    assert result.code == 0, result.err
    assert re.search(r"trained +2 epochs, 20 steps; ", result.out)
    run = Path("runs/linear/softmax_digits/version_0")
    saved = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    state = next(state for name, state in saved["callbacks"].items() if name.startswith("Best"))
    shown = re.search(r"(?m)^best val/\w+ +([\d.]+)$", result.out)
    assert shown is not None
    assert float(shown[1]) == pytest.approx(float(state["best_model_score"]), abs=1e-4)
    log = (run / "log.txt").read_text()
    assert [log.count(f"epoch {i}/2") for i in (1, 2)] == [1, 1]
    assert "#   data    fingerprint " in (run / "config.yaml").read_text()
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert [row["step"] for row in rows if row["test/acc"]] == ["20"]


def test_the_lanes_of_a_text_have_the_same_weights_over_two_epochs(zoo: Zoo) -> None:
    """Rank r has the lanes r::2, and carries their states."""
    Path("text.txt").write_text("".join(f"{i} times {i % 7} is {i * (i % 7)}.\n" for i in range(50)))
    tiny = ("--model.width=8", "--model.dropout=0", "--data.context=8", "--trainer.max_epochs=2")
    ends = []
    for i, processes in enumerate((1, 2)):
        several = ("--trainer.devices=2", "--trainer.strategy=ddp_fork") if processes == 2 else ()
        size = f"--data.batch_size={4 // processes}"
        result = zoo("fit", "-c", "recurrent/text_file", *tiny, "--trainer.precision=64-true", size, *several)
        assert result.code == 0, result.err
        run = Path("runs/recurrent/text_file", f"version_{i}")
        ends.append((weights(run), re.findall(r"(?m)^(?:test|val)/\w+ +(\S+)", result.out)))
    assert gap(ends[0][0], ends[1][0]) < 1e-6
    assert len(ends[0][1]) >= 4
    assert ends[0][1] == ends[1][1]


def test_scheduled_sampling_and_written_texts_are_those_of_one_process(zoo: Zoo) -> None:
    """Pairs of texts: the weights, and all metrics of validation and test."""
    Path("pairs.tsv").write_text("".join(f"{i} times {i % 7}\tit is {i * (i % 7)}\n" for i in range(90)))
    sampled = ("--model.teacher_forcing=0.9", "--model.forcing_schedule=exponential", "--model.forcing_steps=20")
    tiny = ("--model.width=8", "--model.dropout=0", "--model.max_length=12", "--trainer.max_epochs=2", *sampled)
    ends = []
    for i, processes in enumerate((1, 2)):
        several = ("--trainer.devices=2", "--trainer.strategy=ddp_fork") if processes == 2 else ()
        size = f"--data.batch_size={8 // processes}"
        result = zoo("fit", "-c", "seq2seq/pairs", *tiny, "--trainer.precision=64-true", size, *several)
        assert result.code == 0, result.err
        run = Path("runs/seq2seq/pairs", f"version_{i}")
        rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
        logged = {key: [row[key] for row in rows if row[key]] for key in rows[0] if key.startswith(("val/", "test/"))}
        ends.append((weights(run), logged))
    assert gap(ends[0][0], ends[1][0]) < 1e-6
    assert len(ends[0][1]) == 18
    for key, values in ends[0][1].items():
        assert [float(v) for v in values] == pytest.approx([float(v) for v in ends[1][1][key]], rel=1e-5), key


CAPTIONS = """
seed_everything: 0
model:
  class_path: zoo.RecurrentCaptioning
  init_args: {encoder: lenet5_relu, width: 8, attention: additive, lr: 0.02, attention_penalty: 0.2, teacher_forcing: 0.8}
data:
  class_path: datamodules.CaptionFileDataModule
  init_args: {path: captions.csv, size: 16, num_workers: 0, val_fraction: 0.2, drop_last: false}
trainer: {max_epochs: 2, precision: 64-true}
"""


def test_captions_of_images_are_learned_as_on_one_process(zoo: Zoo) -> None:
    """One to three captions an image, read and written with attention: the weights, and all metrics of validation and test."""
    rows = ["image,caption"]
    for i in range(45):
        color = ((200, 40, i), (40, 200, i), (40, i, 200))[i % 3]
        Image.new("RGB", (20, 16), color).save(f"{i}.png")
        name = ("red", "green", "blue")[i % 3]
        rows += [
            f"{i}.png,{text}" for text in (f"a {name} field", name, f"all is {name} in here")[: 1 + i % 2 + i % 3 // 2]
        ]
    Path("captions.csv").write_text("\n".join(rows))
    Path("captions.yaml").write_text(CAPTIONS)
    ends = []
    ways = {
        "one": ["--data.batch_size=8"],
        "two": ["--data.batch_size=4", "--trainer.devices=2", "--trainer.strategy=ddp_fork"],
        "accumulated": ["--data.batch_size=4", "--trainer.accumulate_grad_batches=2"],
    }
    for i, options in enumerate(ways.values()):
        result = zoo("fit", "-c", "captions.yaml", *options)
        assert result.code == 0, result.err
        run = Path("runs/captions", f"version_{i}")
        table = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
        logged = {key: [row[key] for row in table if row[key]] for key in table[0] if key.startswith(("val/", "test/"))}
        ends.append((weights(run), logged))
    assert len(ends[0][1]) == 18
    for other, measured in ends[1:]:
        assert gap(ends[0][0], other) < 1e-6
        for key, values in ends[0][1].items():
            assert [float(v) for v in values] == pytest.approx([float(v) for v in measured[key]], rel=1e-5), key
