"""Every recipe: its header, its form, one batch; slow: its `expect` line; by hand (`make evidence`): three seeds, a resume."""

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_kit import Zoo
from fakes import Fake, coco, masked, pets, sentences, tree, voc

import datamodules
from datamodules.downloads import DownloadedImages
from recipes.cli import catalog

RECIPES = catalog.shipped()
every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
MEASURED = [recipe for recipe in RECIPES if recipe.bound]
every_measured_recipe = pytest.mark.parametrize("recipe", MEASURED, ids=lambda recipe: recipe.name)
THIN = ["--model.encoder_args={width: 4}", "--model.encoder_weights=null", "--data.size=32", "--data.num_workers=0"]
TEXTS = (
    "recurrent/gru_austen",
    "recurrent/lstm_copy",
    "recurrent/lstm_reverse",
    "recurrent/text_file",
    "transformer/lm_austen",
)  # what these models make is no picture
TABLES = ("seq2seq/gru_dates",)  # nor of these, whose texts are beside those that they read
MORE = {"gan/wgan_gp_grid": {"test/modes": 24}}  # further bounds of a recipe
SMALLER = {  # what makes one batch of a large net a matter of a second
    "captioning/attend_shapes": ["--data.count=100"],
    "captioning/lstm_shapes": ["--data.count=100"],
    "captioning/transformer_shapes": ["--data.count=100"],
    "cnn/resnet110_cifar100": ["--model.width=4"],
    "transfer/image_folder": [
        "--model.net_args.width=8",
        "--model.weights=null",
        "--data.size=32",
        "--data.num_workers=0",
    ],
    "recurrent/gru_austen": ["--model.width=16"],
    "recurrent/text_file": ["--model.width=16"],
    "transformer/lm_austen": ["--model.width=16"],
    "recurrent/text_table": ["--model.width=16"],
    "transformer/text_table": ["--model.width=16"],
    "captioning/coco": ["--model.width=8", "--model.embedding_dim=8", *THIN],
    "captioning/caption_file": ["--model.width=8", "--model.embedding_dim=8", *THIN],
    "seq2seq/multi30k": ["--model.width=8", "--model.embedding_dim=8", "--data.vocab_size=300"],
    "seq2seq/pairs": ["--model.width=16"],
    "cnn/resnet50_imagenet": ["--model.width=8", "--data.size=32", "--data.num_workers=0"],
    "segmentation/fcn8s_voc": THIN,
    "segmentation/unet_folder": THIN,
    "segmentation/unet_pets": THIN,
}


SHORTER = {  # runs of many minutes: a part of them for the slow tests, and the bound that it must meet
    "captioning/attend_shapes": (
        ["--model.encoder_args={depth: 8}", "--data.count=20000", "--trainer.max_epochs=2"],
        0.3,
    ),
    "captioning/lstm_shapes": (
        ["--model.encoder_args={depth: 8}", "--data.count=20000", "--trainer.max_epochs=2"],
        0.6,
    ),
}


@pytest.fixture(autouse=True)
def pictures(request: pytest.FixtureRequest) -> None:
    """Pictures are drawn, once for each recipe: in the slow tests of those that have a bound."""
    recipe = request.node.callspec.params["recipe"] if hasattr(request.node, "callspec") else None
    if recipe is not None and recipe.bound and request.node.originalname == "test_one_batch":
        request.getfixturevalue("blank_pictures")


def test_every_yaml_is_a_recipe() -> None:
    paths = [path for path in catalog.PACKAGE.rglob("*") if path.suffix in (".yaml", ".yml", ".json")]
    assert sorted(paths) == sorted(recipe.path for recipe in RECIPES)
    assert len(RECIPES) >= 3


@every_recipe
def test_form(recipe: catalog.Recipe) -> None:
    text = recipe.path.read_text()
    assert len(text.splitlines()) <= 40
    assert len(recipe.title) <= 35  # as much as a line of `zoo recipes` has for it
    assert recipe.title != recipe.summary
    assert f"#   run     zoo fit -c {recipe.name}\n" in text
    assert recipe.takes
    assert recipe.bound or re.match(
        r"published, not reproduced by us|not measured by us|depends on your (images|table|texts?)", recipe.expect
    )
    assert recipe.bound is None or re.search(r"\(measured -?[\d.]+, -?[\d.]+--?[\d.]+ over 3 seeds\)", recipe.expect)
    config = yaml.safe_load(text)
    assert isinstance(config["seed_everything"], int)
    assert "precision" not in config["trainer"]  # 32 bits where a number is expected
    assert not set(config) - {"seed_everything", "model", "data", "trainer"}


@every_measured_recipe
def test_measured_values_meet_the_bound(recipe: catalog.Recipe) -> None:
    match = re.search(r"measured (-?[\d.]+), (-?[\d.]+)-(-?[\d.]+)", recipe.expect)
    assert match
    assert recipe.bound
    mean, low, high = (float(text) for text in match.groups())
    assert low <= mean <= high
    assert low >= recipe.bound[2] if recipe.bound[1] == ">=" else high <= recipe.bound[2]


def provide_data(recipe: catalog.Recipe, patch: pytest.MonkeyPatch) -> list[str]:
    """Write a small version of data that are not bundled into the current folder; return the options that they need."""
    cls = getattr(datamodules, yaml.safe_load(recipe.path.read_text())["data"]["class_path"].rpartition(".")[2])
    if issubclass(cls, DownloadedImages):
        Fake(Path("data"), cls.source, patch)
    elif cls is datamodules.ImageNetDataModule:
        tree(Path("data/imagenet"), {f"{part}/n{i:02}": 4 for part in ("train", "val") for i in range(6)})
    elif cls is datamodules.ImageFolderDataModule:
        tree(Path("images"), dict.fromkeys(("cat", "dog"), 10))
        return ["--trainer.max_epochs=4"]
    elif cls is datamodules.MaskFolderDataModule:
        masked(Path("photos"), {"": 10}, values=(0, 255))
        return []
    elif cls is datamodules.CaptionFileDataModule:
        masked(Path("."), {"": 10})
        rows = [
            f"{name},a {word} thing" for name in sorted(map(str, Path("images").iterdir())) for word in ("red", "blue")
        ]
        Path("captions.csv").write_text("\n".join(["image,caption", *rows]) + "\n")
        return []
    elif cls is datamodules.COCOCaptionsDataModule:
        coco(Path("data/coco"))
        return ["--data.val_fraction=0.2", "--data.batch_size=4", "--data.min_count=1", "--trainer.max_epochs=6"]
    elif cls is datamodules.CSVDataModule:
        rows = [f"{i},{i % 7 / 3},{'ab'[i % 2]}" for i in range(60)]
        Path("table.csv").write_text("\n".join(["x,y,target", *rows]) + "\n")
        return []
    elif cls is datamodules.SequenceTableDataModule:
        rows = [f"{i},{i % 7 / 3},{'' if i % 3 else i},{'ab'[i % 2]}" for i in range(60)]
        Path("series.csv").write_text("\n".join(["t0,t1,t2,y", *rows]) + "\n")
        return []
    elif cls is datamodules.TimeSeriesDataModule:
        Path("series.csv").write_text("\n".join(["time,value", *(f"{i},{i % 7}" for i in range(80))]) + "\n")
        return []
    elif cls is datamodules.TextFileDataModule:
        Path("text.txt").write_bytes(("\ufeff" + "Naïve café, façade.\r\n" * 500).encode())
        return []
    elif cls is datamodules.TextTableDataModule:
        rows = [
            f'"{word}, and {i} more",{label}' for i in range(20) for word, label in (("fine", "good"), ("no", "bad"))
        ]
        Path("texts.csv").write_text("\n".join(["text,label", *rows]) + "\n")
        return []
    elif cls is datamodules.SentencePairsDataModule:
        Path("pairs.tsv").write_text("".join(f"{'ab' * (i % 5)}c{i}\t{i}{'xy' * (i % 5)}\n" for i in range(100)))
        return []
    elif cls is datamodules.Multi30kDataModule:
        sentences(Path("data/multi30k"))
        return []
    elif cls is datamodules.OxfordIIITPetDataModule:
        pets(Path("data"))
    elif cls is datamodules.VOCSegmentationDataModule:
        voc(Path("data"))
    else:
        return []
    return ["--data.val_fraction=0.5"]


@every_recipe
def test_one_batch(zoo: Zoo, recipe: catalog.Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [f"--trainer.limit_{part}_batches=1" for part in ("train", "val", "test")]
    options += provide_data(recipe, monkeypatch) + SMALLER.get(recipe.name, [])
    result = zoo("fit", "-c", recipe.name, "--trainer.max_epochs=1", *options)
    assert result.code == 0, result.err
    assert result.err == ""
    run = Path("runs", recipe.name, "version_0")
    assert (run / "checkpoints/last.ckpt").is_file()
    assert {path.name for path in run.glob("*.png")} >= {"curves.png"}
    shown = "txt" if recipe.name in TEXTS else "csv" if recipe.name in TABLES else "png"
    assert list(run.glob(f"samples/*.{shown}")), "nothing shows what the model makes: add callbacks.Samples"


def fitted(zoo: Zoo, recipe: catalog.Recipe, *options: object) -> tuple[float, Any]:
    assert recipe.bound is not None
    result = zoo("fit", "-c", recipe.name, *options)
    assert result.code == 0, result.err
    match = re.search(rf"(?m)^{recipe.bound[0]} +(-?[\d.]+)", result.out)
    assert match
    return float(match[1]), result


def measure(zoo: Zoo, recipe: catalog.Recipe, *options: object) -> float:
    assert recipe.bound is not None
    value, result = fitted(zoo, recipe, *options)
    assert f"{recipe.bound[0]} {recipe.bound[1]} {recipe.bound[2]:g}: met" in result.out
    for name, bound in MORE.get(recipe.name, {}).items():
        reached = re.search(rf"(?m)^{name} +([\d.]+)", result.out)
        assert reached, name
        assert float(reached[1]) >= bound, name
    return value


@pytest.mark.slow
@every_measured_recipe
def test_expectation_is_met(zoo: Zoo, recipe: catalog.Recipe) -> None:
    if recipe.name not in SHORTER:
        measure(zoo, recipe)
        return
    options, bound = SHORTER[recipe.name]
    assert recipe.bound is not None
    value, _ = fitted(zoo, recipe, *options)
    assert value >= bound if recipe.bound[1] == ">=" else value <= bound


@pytest.mark.evidence
@every_measured_recipe
def test_a_run_that_was_stopped_goes_on_as_the_whole_one(zoo: Zoo, recipe: catalog.Recipe) -> None:
    result = zoo("check", recipe.name, "--resume")
    assert result.code == 0, result.out
    assert " 0 warn, 0 fail" in result.out


@pytest.mark.evidence
@every_measured_recipe
def test_three_seeds(zoo: Zoo, recipe: catalog.Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    begin = time.monotonic()
    values = [measure(zoo, recipe, f"--seed_everything={seed}") for seed in range(3)]
    seconds = (time.monotonic() - begin) / 3
    with capsys.disabled():
        mean = sum(values) / 3
        print(
            f"\n{recipe.name}: measured {mean:.4f}, {min(values):.4f}-{max(values):.4f} over 3 seeds; {seconds:.1f} s each "
            f"on {os.cpu_count()} cores, {os.environ.get('OMP_NUM_THREADS')} thread"
        )
