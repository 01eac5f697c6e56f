"""The run folder with every logger; no files anywhere else."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from cli_kit import RECIPE, SHORT, Zoo
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from datamodules import TextDataModule
from recipes.cli.catalog import Recipe
from recipes.cli.errors import UserError
from recipes.cli.run import loggers
from recipes.cli.run.building import RecipeCLI, check_kind, linked_values
from recipes.cli.run.checks import check_trainer
from recipes.cli.run.folder import Run
from recipes.cli.run.progress import EpochLines, LogInterval
from recipes.cli.run.verdict import verdict

OURS = {
    "config.yaml",
    "metrics.csv",
    "results.json",
    "run.json",
    "confusion.json",
    "report.html",
    ".lock",
    "curves.png",
    "log.txt",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
}
OURS |= {"samples/epoch_0001_confusion.png", "samples/epoch_0001_examples.png"}
EVERY_LOGGER = """
import json, os, sys
from pathlib import Path
from recipes.cli.__main__ import main

def files(root):
    return sorted(str(p) for p in Path(root).rglob("*") if not p.is_dir() or not any(p.iterdir()))

found = {}
for i, logger in enumerate(["csv", "tensorboard", "wandb-offline", "none"]):
    cwd = Path("work", logger)
    cwd.mkdir(parents=True)
    before = os.getcwd()
    os.chdir(cwd)
    code = main(["fit", "-c", "RECIPE", "--logger", logger, "--trainer.max_epochs=1", "--trainer.limit_train_batches=3"])
    os.chdir(before)
    assert code == 0
    found[logger] = files(cwd)
print(json.dumps(found))
"""


def test_every_logger_writes_into_the_run_folder_and_nothing_elsewhere(tmp_path: Path) -> None:
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "MPL", "XDG", "TORCHINDUCTOR"))}
    variables |= {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}
    script = EVERY_LOGGER.replace("RECIPE", RECIPE)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    written = json.loads(done.stdout.splitlines()[-1])
    assert [str(path) for name in ("home", "tmp") for path in (tmp_path / name).rglob("*")] == []
    for logger, paths in written.items():
        run = f"work/{logger}/runs/{RECIPE}/version_0/"
        inside = {path.removeprefix(run) for path in paths}
        extra = inside - OURS
        assert inside >= OURS
        if logger == "tensorboard":
            assert extra
            assert all(path.startswith("events.out.tfevents") for path in extra)
        elif logger == "wandb-offline":
            assert all(path.startswith("wandb/") for path in extra)
            assert sum(path.endswith(".wandb") for path in extra) == 1
        else:
            assert not extra


def test_contents_of_the_run_folder(trained: Path) -> None:
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 2
    assert config["trainer"]["devices"] == 1  # the numbers of the recipes are those of one
    assert "num_classes" not in config["model"]["init_args"]  # comes from the data
    assert config["model"]["init_args"]["optimizer"] == "AdamW"  # defaults are kept
    rows = list(csv.DictReader((trained / "metrics.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["0", "1", "2", "3", "4", "5", "6"]
    assert rows[2]["val/acc"]
    assert rows[2]["train/loss"]
    assert rows[6]["test/acc"]
    with Image.open(trained / "curves.png") as picture:
        assert picture.size[0] > 100
    for name in ("best", "last"):
        assert "state_dict" in torch.load(trained / f"checkpoints/{name}.ckpt", weights_only=True)
    assert torch.load(trained / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 6
    log = (trained / "log.txt").read_text()
    for text in ("starts: SoftmaxRegressionClassifier, 650 parameters", "epoch 1/2  train/acc", "test/acc", "expected"):
        assert text in log, text
    assert "\x1b" not in log


def test_config_reproduces_the_run(zoo: Zoo, trained: Path) -> None:
    result = zoo("fit", "-c", trained / "config.yaml")
    assert result.code == 0
    again = Path("runs", RECIPE, "version_1")
    assert again.is_dir()
    for name in ("config.yaml", "metrics.csv"):
        assert (again / name).read_text() == (trained / name).read_text()
    one, two = (torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (trained, again))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_config_has_the_fingerprint_of_the_data(trained: Path) -> None:
    head = (trained / "config.yaml").read_text().splitlines()[:6]
    assert any(re.fullmatch(r"#   data    fingerprint [0-9a-f]{16} \(\d+ train / \d+ val\)", line) for line in head)


def test_summary_compares_with_the_expectation(zoo: Zoo) -> None:
    text = _yaml("{batch_size: 128}", limit_train_batches=3)
    Path("easy.yaml").write_text("# easy\n#   expect  test/acc >= 0.01\n" + text)
    result = zoo("fit", "-c", "easy.yaml", "--seed_everything=3", "--data.num_workers=0", "--model.lr=0.001")
    assert "test/acc >= 0.01: met" in result.out
    assert re.search(r"run folder +runs/easy/version_0\n", result.out)
    assert "test/acc >= 0.01: met" in zoo("test", "-c", "easy.yaml").out
    Path("hard.yaml").write_text("#   expect  test/acc >= 0.999\n" + text)
    assert re.search(r"test/acc >= 0\.999: NOT met, got 0\.\d{4}\n", zoo("fit", "-c", "hard.yaml").out)


def test_a_changed_recipe_is_not_compared_with_the_expectation(zoo: Zoo) -> None:
    Path("easy.yaml").write_text(
        "#   expect  test/acc >= 0.01\n" + _yaml("{batch_size: 128}", limit_train_batches=2, callbacks=[])
    )
    Path("more.yaml").write_text("trainer: {max_epochs: 2}\n")
    cases = {
        "data.size was": ["--data.size=10"],
        "model was": ["--model=zoo.MLPClassifier"],
        "trainer.callbacks was": ["--trainer.callbacks+=callbacks.GradNorm"],
        "trainer.max_epochs was": ["-c", "more.yaml"],
        "trainer.max_epochs, model.lr were": ["--model.lr=0.5", "--trainer.max_epochs=2"],
    }
    for changed, args in cases.items():
        result = zoo("fit", "-c", "easy.yaml", *args)
        assert result.code == 0, result.err
        assert f"test/acc >= 0.01: not compared, {changed} changed" in result.out
    run = Path("runs/easy/version_4")
    for args in (
        ["test", "-c", "easy.yaml"],
        ["test", "--ckpt", run],
        ["fit", "--resume", run],
        ["fit", "-c", run / "config.yaml"],
    ):
        assert f"not compared, {changed} changed" in zoo(*args).out
    assert "not compared, data.batch_size was changed" in zoo("fit", "-c", "easy.yaml", "--data.batch_size=64").out


def test_a_checkpoint_of_another_recipe_or_of_none_is_not_compared(zoo: Zoo) -> None:
    for name in ("one", "other"):
        Path(f"{name}.yaml").write_text("#   expect  test/acc >= 0.01\n" + _yaml(limit_train_batches=2))
    assert "met" in zoo("fit", "-c", "one.yaml").out
    checkpoint = Path("runs/one/version_0/checkpoints/best.ckpt")
    assert "met" in zoo("test", "-c", "one.yaml", "--ckpt", checkpoint).out
    Path("alone.ckpt").write_bytes(checkpoint.read_bytes())
    for args in (["-c", "one.yaml", "--ckpt", "alone.ckpt"], ["-c", "other.yaml", "--ckpt", checkpoint]):
        result = zoo("test", *args)
        assert result.code == 0, result.err
        assert "test/acc" in result.out
        assert "expected" not in result.out


def _yaml(data: str = "{}", **trainer: object) -> str:
    return (
        "model: {class_path: zoo.SoftmaxRegressionClassifier}\n"
        f"data: {{class_path: datamodules.DigitsDataModule, init_args: {data}}}\n"
        f"trainer: {json.dumps({'max_epochs': 1, **trainer})}\n"
    )


def test_without_validation_the_last_checkpoint_is_tested(zoo: Zoo) -> None:
    Path("r.yaml").write_text(_yaml("{val_fraction: 0}"))
    result = zoo("fit", "-c", "r.yaml", *SHORT)
    assert result.code == 0, result.err
    assert "(last.ckpt)" in result.out
    assert [path.name for path in Path("runs/r/version_0/checkpoints").iterdir()] == ["last.ckpt"]


def test_last_is_saved_when_the_metric_does_not_improve(zoo: Zoo) -> None:
    """Lightning itself saves last.ckpt only together with a new best one."""
    options = ("--trainer.max_epochs=3", "--model.lr=1e-12")
    assert zoo("fit", "-c", RECIPE, *SHORT, *options).code == 0
    folder = Path("runs", RECIPE, "version_0/checkpoints")
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 2
    assert torch.load(folder / "best.ckpt", weights_only=True)["epoch"] < 2


def test_a_second_file_adds_to_the_first(zoo: Zoo) -> None:
    Path("short.yaml").write_text("trainer: {max_epochs: 1, limit_train_batches: 2}\n")
    assert zoo("fit", "-c", RECIPE, "-c", "short.yaml").code == 0
    run = Path("runs", RECIPE, "version_0")
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


def test_a_run_inside_a_run_has_its_own_folder(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_RUN_FOLDER", "elsewhere")
    assert zoo("fit", "-c", RECIPE, *SHORT, "--trainer.max_epochs=1").code == 0
    assert os.listdir() == ["runs"]


def test_print_config_only_prints(zoo: Zoo) -> None:
    result = zoo("fit", "-c", RECIPE, "--model.lr=0.25", "--print_config")
    assert result.code == 0
    assert yaml.safe_load(result.out)["model"]["init_args"]["lr"] == 0.25
    assert os.listdir() == []


def test_an_encoder_of_another_library_by_name(zoo: Zoo) -> None:
    command = ("fit", "-c", "segmentation/fcn8s_shapes", "--model.encoder_args=null", "--trainer.fast_dev_run=true")
    assert "FCNSegmenter, 208,535 parameters" in zoo(*command, "--model.encoder=timm/test_convnext").out
    wrong = zoo(*command, "--model.encoder=timm/test_convnet")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert "timm has no net 'test_convnet', did you mean 'test_convnext'?" in wrong.err


def test_fast_dev_run_leaves_nothing(zoo: Zoo) -> None:
    assert zoo("fit", "-c", RECIPE, "--trainer.fast_dev_run=true").code == 0
    assert os.listdir() == []


def test_runs_folder_can_be_elsewhere(zoo: Zoo) -> None:
    assert zoo("fit", "-c", RECIPE, *SHORT, "--trainer.max_epochs=1", "--runs", "deep/er").code == 0
    assert Path("deep/er", RECIPE, "version_0/log.txt").is_file()
    assert os.listdir() == ["deep"]
    assert zoo("test", "-c", RECIPE, "--runs", "deep/er").code == 0


def test_users_callbacks_are_added_and_replace_ours_of_the_same_class(zoo: Zoo) -> None:
    options = ("--trainer.callbacks+=callbacks.LearningCurves", "--trainer.callbacks.filename=mine.png")
    assert zoo("fit", "-c", RECIPE, *SHORT, "--trainer.max_epochs=1", *options).code == 0
    names = {path.name for path in Path("runs", RECIPE, "version_0").iterdir()}
    assert "mine.png" in names
    assert "curves.png" not in names


def test_evaluation_prints_the_metrics_and_writes_nothing(zoo: Zoo, trained: Path) -> None:
    before = sorted(Path().rglob("*"))
    wanted = list(csv.DictReader((trained / "metrics.csv").read_text().splitlines()))[-1]["test/acc"]
    for args in (["-c", RECIPE], ["--ckpt", trained], ["--ckpt", trained / "checkpoints/best.ckpt"]):
        out = zoo("test", *args).out
        assert f"{float(wanted):.4f}" in out
        assert "test/f1" in out
    out = zoo("validate", "-c", RECIPE).out
    assert "val/acc" in out
    assert "test/acc" not in out
    assert sorted(Path().rglob("*")) == before


def test_evaluation_with_a_logger_writes_a_run_folder(zoo: Zoo, trained: Path) -> None:
    assert zoo("test", "-c", RECIPE, "--logger", "csv").code == 0
    rows = (trained.parent / "version_1/metrics.csv").read_text().splitlines()
    assert len(rows) == 2
    assert "test/acc" in rows[0]


def test_evaluation_builds_the_model_of_the_checkpoint(zoo: Zoo) -> None:
    """LeNet's variants have weights of the same shapes: the recipe's default must not replace the checkpoint's variant."""
    options = ("--model.variant=relu", "--trainer.max_epochs=1", "--trainer.limit_train_batches=3")
    out = zoo("fit", "-c", "cnn/lenet_digits", *options).out
    trained_loss = re.search(r"test/loss +(\S+)", out)
    assert trained_loss
    run = "runs/cnn/lenet_digits/version_0"
    for args in (["--ckpt", run], ["-c", "cnn/lenet_digits", "--ckpt", run]):
        loss = re.search(r"test/loss +(\S+)", zoo("test", *args).out)
        assert loss
        assert loss[1] == trained_loss[1]
    result = zoo("test", "-c", "cnn/lenet_digits", "--ckpt", run, "--model.variant=published")
    assert result.code == 2
    assert "--model.variant published contradicts the checkpoint, which was trained with relu" in result.err


def test_linked_values_reach_the_model(zoo: Zoo) -> None:
    assert zoo("fit", "-c", "cnn/resnet_digits", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1").code == 0
    checkpoint = torch.load("runs/cnn/resnet_digits/version_0/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["in_channels"] == 1  # the default is 3
    assert checkpoint["hyper_parameters"]["num_classes"] == 10
    assert zoo("fit", "-c", RECIPE, *SHORT, "--model.in_features=64", "--trainer.max_epochs=1").code == 0


def test_no_end_is_not_below_a_least_length() -> None:
    check_trainer({"min_steps": 5, "max_steps": -1, "min_epochs": 2, "max_epochs": -1})
    with pytest.raises(UserError, match=r"trainer.min_steps 5 is above trainer.max_steps 4"):
        check_trainer({"min_steps": 5, "max_steps": 4})


def test_tensorboard_forgets_the_steps_that_a_resumed_run_repeats(tmp_path: Path) -> None:
    (logger,) = loggers.build("tensorboard", Run(tmp_path, "mine"), 7)
    writer: Any = logger.experiment
    writer.close()
    (file,) = tmp_path.glob("events.*")
    events = [event for event in EventFileLoader(str(file)).Load() if event.HasField("session_log")]
    assert [event.step for event in events] == [7]


def test_only_square_images_have_a_size() -> None:
    square, other = (linked_values(SimpleNamespace(input_shape=(3, 4, width))) for width in (4, 6))  # type: ignore[arg-type]
    assert (square["image_size"], square["in_features"]) == (4, 48)
    assert "image_size" not in other
    assert (other["in_features"], other["input_shape"], other["in_channels"]) == (72, [3, 4, 6], 3)


def test_series_tell_their_numbers_at_a_time_and_texts_their_vocabulary() -> None:
    text = TextDataModule("to be or not " * 20, context=4)
    assert linked_values(text) == {"vocab_size": 7, "in_features": 4, "input_shape": [4]}
    labeled = SimpleNamespace(input_shape=(9,), num_classes=2, vocab_size=8, vocabulary={"padding": 7})
    assert linked_values(labeled)["padding"] == 7  # type: ignore[arg-type]
    assert linked_values(SimpleNamespace(input_shape=(9, 3)))["input_size"] == 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "learns", "words"),
    [
        (
            "text",
            "classification",
            "does not continue texts, .* use a model such as --model zoo.RecurrentLanguageModel",
        ),
        ("classification", "text", "has no text to continue .* use data such as --data datamodules.TextFileDataModule"),
        ("captioning", "segmentation", "does not write captions, .* a model such as --model zoo.RecurrentCaptioning"),
        ("classification", "captioning", "has none .* use data such as --data datamodules.CaptionFileDataModule"),
    ],
)
def test_texts_and_captions_are_for_models_that_write_them(kind: str, learns: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_kind(SimpleNamespace(learns=(learns,)), SimpleNamespace(kind=kind))
    check_kind(SimpleNamespace(learns=("text",)), SimpleNamespace(kind="text"))
    check_kind(SimpleNamespace(learns=("captioning",)), SimpleNamespace(kind="captioning"))


@pytest.mark.parametrize(
    ("expect", "value", "words"),
    [
        ("test/rmse <= 1.5", 1.4, "met"),
        ("test/rmse <= 1.5", 1.5, "met"),
        ("test/rmse <= 1.5", 1.6, "NOT met, got 1.6000"),
        ("test/rmse >= 1.5", 1.6, "met"),
        ("test/rmse >= 1.5", 1.5, "met"),
        ("test/rmse >= 1.5", 1.4, "NOT met, got 1.4000"),
    ],
)
def test_a_bound_is_met_on_its_side(expect: str, value: float, words: str) -> None:
    recipe = Recipe("mine", Path("mine.yaml"), expect=expect)
    assert verdict(recipe, {"test/rmse": value}, []) == f"{expect}: {words}"


def test_required_arguments_come_from_the_data(zoo: Zoo, tmp_cwd: Path) -> None:
    name = f"required_{tmp_cwd.name}"
    Path(f"{name}.py").write_text(
        "import zoo\nclass Mine(zoo.SoftmaxRegressionClassifier):\n"
        "    def __init__(self, num_classes: int, in_features: int, lr: float = 0.1) -> None:\n"
        "        super().__init__(in_features, num_classes, lr=lr)\n"
    )
    Path("r.yaml").write_text(_yaml().replace("zoo.SoftmaxRegressionClassifier", f"{name}.Mine"))
    result = zoo("fit", "-c", "r.yaml", *SHORT)
    assert result.code == 0, result.err
    assert "num_classes" not in Path("runs/r/version_0/config.yaml").read_text()
    assert zoo("fit", "-c", "runs/r/version_0/config.yaml", *SHORT).code == 0
    assert zoo("test", "-c", "r.yaml").code == 0


def test_the_configuration_becomes_plain_data_once(zoo: Zoo, tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is compared with the recipe, and written when the run is built and when it begins; each takes a tenth of a second."""
    converted = []
    plain = RecipeCLI._plain
    monkeypatch.setattr(RecipeCLI, "_plain", lambda self, config: [converted.append(config), plain(self, config)][1])
    assert zoo("fit", "-c", RECIPE, *SHORT, "--trainer.max_epochs=1").code == 0
    assert len(converted) == 2  # the recipe, and what is run
    config = yaml.safe_load(Path("runs", RECIPE, "version_0/config.yaml").read_text())
    assert config["trainer"]["limit_train_batches"] == 3
    assert "num_classes" not in config["model"]["init_args"]


def test_process_state_is_restored(zoo: Zoo) -> None:
    import logging
    import signal
    import warnings

    def state() -> tuple[object, ...]:
        handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
        return (
            sys.path[:],
            dict(os.environ),
            handlers,
            logging.getLogger("lightning.pytorch").handlers[:],
            warnings.filters[:],
        )

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    before = state()
    assert zoo("fit", "-c", RECIPE, *SHORT, "--trainer.max_epochs=1", "--logger=wandb-offline").code == 0
    assert state() == before


@pytest.mark.parametrize("logger", ["tensorboard", "wandb-offline"])
def test_two_fits_in_one_process_have_separate_logs(zoo: Zoo, logger: str) -> None:
    for _ in range(2):
        assert zoo("fit", "-c", RECIPE, *SHORT, "--trainer.max_epochs=1", "--logger", logger).code == 0
    pattern = "events*" if logger == "tensorboard" else "wandb/offline-run-*/*.wandb"
    one, two = (sorted(Path("runs", RECIPE, f"version_{i}").glob(pattern)) for i in (0, 1))
    assert len(one) == len(two) > 0
    assert {path.name for path in one}.isdisjoint(path.name for path in two)


def test_the_line_of_an_epoch_has_its_new_metrics_but_not_single_classes() -> None:
    lines: list[str] = []
    metrics = {name: torch.tensor(0.5) for name in ("val/miou", "val/iou/cat", "train/loss", "train/loss_step", "lr")}
    trainer: Any = SimpleNamespace(callback_metrics=metrics, current_epoch=0, max_epochs=2, sanity_checking=False)
    module: Any = None
    line = EpochLines(SimpleNamespace(print=lines.append))  # type: ignore[arg-type]
    line.on_train_epoch_start(trainer, module)
    line.on_validation_end(trainer, module)
    line.on_train_epoch_end(trainer, module)
    line.on_train_epoch_start(trainer, module)
    trainer.current_epoch = 1
    line.on_train_epoch_end(trainer, module)
    line.on_train_end(trainer, module)
    assert re.fullmatch(r"epoch 1/2  train/loss 0.5000  val/miou 0.5000  [\d.]+ s", lines[0])
    assert re.fullmatch(r"epoch 2/2  train/loss 0.5000  [\d.]+ s", lines[1])
    trainer.sanity_checking = True
    line.on_validation_end(trainer, module)
    line.on_train_epoch_end(trainer, module)
    line.on_train_end(trainer, module)
    assert re.fullmatch(r"epoch 2/2  train/loss 0.5000  [\d.]+ s", lines[2])


@pytest.mark.parametrize(
    ("batches", "epochs", "every"),
    [
        (1, 1, 1),
        (20, 1, 1),
        (20, 30, 2),
        (937, 1, 3),
        (843, 20, 50),  # not less often than Lightning
        (4954, 90, 247),  # 20 an epoch
        (100, float("inf"), 50),
        (float("inf"), 1, 50),
    ],
)
def test_the_interval_of_rows_fits_the_length_of_the_run(batches: float, epochs: float, every: int) -> None:
    trainer: Any = SimpleNamespace(
        num_training_batches=batches, accumulate_grad_batches=1, estimated_stepping_batches=batches * epochs
    )
    LogInterval().on_train_start(trainer, None)  # type: ignore[arg-type]
    assert trainer.log_every_n_steps == every


def logged(run: Path) -> list[int]:
    rows = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    return [int(row["step"]) for row in rows if row["train/loss_step"]]


def test_a_short_run_has_a_row_a_step_and_a_resumed_one_keeps_its_interval(zoo: Zoo) -> None:
    run = Path("runs", RECIPE, "version_0")
    assert zoo("fit", "-c", RECIPE, "--trainer.limit_train_batches=18", "--trainer.max_epochs=1").code == 0
    assert logged(run) == list(range(18))
    assert (
        zoo("fit", "-c", RECIPE, "--resume", "--trainer.max_epochs=35").code == 0
    )  # 630 steps: every second of a new run
    assert logged(run) == list(range(630))
    given = ("--trainer.limit_train_batches=9", "--trainer.max_epochs=1", "--trainer.log_every_n_steps=4")
    assert zoo("fit", "-c", RECIPE, *given).code == 0
    assert logged(run.with_name("version_1")) == [3, 7]
