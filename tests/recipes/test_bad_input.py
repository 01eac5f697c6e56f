"""Bad input: a one-line error with the cause and the cure, exit code 2, no files left behind."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cli_kit import RECIPE, SHORT, Zoo, assert_one_line

from recipes.cli.run.options import check_logger

LENET = ("fit", "-c", "cnn/lenet_digits")
MINE = """
from lightning.pytorch import Callback, LightningModule
import resource, torch
from datamodules import DigitsDataModule
import zoo

class WrongLabels(DigitsDataModule):
    class_names = list("01234")

class Sneaky(DigitsDataModule):
    "Labels that leave the range after setup: only the task can see it."
    def setup(self, stage=None):
        super().setup(stage)
        for part in self._parts.values():
            part.y.add_(5)

class Required(zoo.SoftmaxRegressionClassifier):
    def __init__(self, num_classes: int, in_features: int, lr: float = 0.1):
        super().__init__(in_features, num_classes, lr=lr)

class Shaped(zoo.VAE):
    def __init__(self, input_shape: tuple[int, ...], lr: float = 0.1):
        super().__init__(input_shape, 2, [8], lr=lr)

class Buggy(zoo.SoftmaxRegressionClassifier):
    def __init__(self, lr: float = 0.1):
        None.nothing

class Mute(LightningModule):
    def __init__(self, size: int): super().__init__()

class Early(Callback):
    def on_train_start(self, trainer, pl_module):
        raise ValueError("not like this")

class Boom(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise ValueError("boom in the middle")

class Full(Callback):
    "From the second epoch on no file may grow beyond a few bytes."
    def __init__(self, size: int = 8000): self.size = size
    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
"""


@pytest.fixture
def mine(tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a user's module into the current folder and return its name."""
    name = f"mine_{tmp_cwd.name}".replace("-", "_")
    Path(f"{name}.py").write_text(MINE)
    return name


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], ["no recipe given", "zoo fit -c NAME"]),
        (["-c"], ["--config needs a value"]),
        (["-c", "cnn/lenet_digit"], ["unknown recipe 'cnn/lenet_digit'", "did you mean 'cnn/lenet_digits'?"]),
        (
            ["--model.nun_classes", "3"],
            ["zoo.LeNetClassifier has no argument 'nun_classes'", "did you mean 'num_classes'?"],
        ),
        (["--data.sise", "3"], ["datamodules.DigitsDataModule has no argument 'sise'", "did you mean 'size'?"]),
        (["--trainer.max_epoch", "3"], ["unknown option --trainer.max_epoch,", "did you mean '--trainer.max_epochs'?"]),
        (["--lr", "3"], ["unknown option --lr, did you mean '--model.lr'?"]),
        (["stray"], ["unexpected argument 'stray'"]),
        (["--model.lr", "fast"], ["model.lr must be a number, got fast"]),
        (["--trainer.max_epochs", "many"], ["trainer.max_epochs must be a whole number, got many"]),
        (["--model.variant", "new"], ["model.variant must be one of published, relu, got new"]),
        (["--model", "zoo.LeNetClassifer"], ["cannot be imported", "did you mean 'LeNetClassifier'?"]),
        (["--model", "no.such.Model"], ["cannot be imported", "no module 'no.such'"]),
        (
            ["--model", "torch.nn.Linear"],
            ["model must be a LightningModule such as zoo.LeNetClassifier, got torch.nn.Linear"],
        ),
        (
            ["--model", "lenet5"],
            ["model must be a class path such as zoo.LeNetClassifier, got lenet5, did you mean 'zoo.LeNetClassifier'?"],
        ),
        (
            ["--trainer.callbacks+=callbacks.LRSchedule", "--trainer.callbacks+=callbacks.LRSchedule"],
            ["the callback LRSchedule is given twice", "keep one"],
        ),
        (
            ["--trainer.callbacks+=callbacks.LRSchedule", "--trainer.callbacks.optimizer=0"] * 2,
            ["the callback LRSchedule{optimizer=0} is given twice", "keep one"],
        ),
        (["--trainer.callbacks+=callbacks.GradNrm"], ["cannot be imported", "did you mean 'GradNorm'?"]),
        (
            ["--trainer.callbacks+=callbacks.GradNorm", "--trainer.callbacks.norm", "2"],
            ["callbacks.GradNorm has no argument"],
        ),
        (
            ["--trainer.callbacks+=callbacks.LRSchedule", "--trainer.callbacks.schedule", "x"],
            ["schedule of callbacks.LRSchedule must be one of constant, step", "got x"],
        ),
        (["--model.width", "0"], ["width must be 1 or more, got 0"]),
        (["--model.optimizer", "Adamm"], ["'Adamm'", "did you mean 'Adam'?"]),
        (["--data.batch_size", "0"], ["batch_size", "got 0"]),
        (["--data.size", "30"], ["(1, 1, 30, 30)", "size=32"]),
        (["--trainer.logger", "false"], ["--logger"]),
        (["--trainer.default_root_dir", "x"], ["--runs"]),
        (["--trainer.accelerator", "nothing"], ["nothing"]),
        (
            ["--logger", "wand"],
            ["--logger must be one of csv, tensorboard, wandb, wandb-offline, none", "did you mean 'wandb'?"],
        ),
        (["--resume"], ["no run of cnn/lenet_digits", "zoo fit -c cnn/lenet_digits"]),
        (["--resume", "version_3"], ["no run 'version_3'"]),
        (["--ckpt", "x.ckpt"], ["unknown option --ckpt"]),
    ],
)
def test_fit_refuses(zoo: Zoo, args: list[str], words: list[str]) -> None:
    result = zoo("fit", *args) if args[:1] in ([], ["-c"]) else zoo(*LENET, *args)
    assert_one_line(result, *words, started="--data.size" in args)  # detected with the first batch
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "model: {class_path: zoo.LeNetClassifier, init_args: {lrr: 3}}",
            ["zoo.LeNetClassifier has no argument 'lrr', did you mean 'lr'?"],
        ),
        ("modle: {class_path: zoo.LeNetClassifier}", ["unknown key 'modle", "did you mean 'model'?"]),
        ("trainer: {max_epoch: 3}", ["max_epoch", "did you mean 'trainer.max_epochs'?"]),
        ("model: {class_path: zoo.LeNetClassifier, init_args: {lr", ["not valid YAML"]),
        ("data: {class_path: datamodules.DigitsDataModule}", ["model"]),
    ],
)
def test_a_mistake_in_a_users_recipe(zoo: Zoo, text: str, words: list[str]) -> None:
    Path("mine.yaml").write_text(text)
    assert_one_line(zoo("fit", "-c", "mine.yaml"), *words)
    assert os.listdir() == ["mine.yaml"]


@pytest.mark.parametrize(("name", "value", "has"), [("num_classes", 3, 10), ("in_features", 28, 64)])
def test_a_linked_value_that_contradicts_the_data_is_refused(zoo: Zoo, name: str, value: int, has: int) -> None:
    expected = f"--model.{name} {value} contradicts the data, which has {has}: leave it out"
    assert_one_line(zoo("fit", "-c", RECIPE, f"--model.{name}", value), expected)
    Path("mine.yaml").write_text(
        "model: {class_path: zoo.SoftmaxRegressionClassifier, init_args: {%s: %d}}\n" % (name, value)  # noqa: UP031
        + "data: {class_path: datamodules.DigitsDataModule}\n"
    )
    assert_one_line(zoo("fit", "-c", "mine.yaml"), expected)
    assert os.listdir() == ["mine.yaml"]


def test_labels_out_of_range_are_refused_before_training(zoo: Zoo, mine: str) -> None:
    result = zoo("fit", "-c", RECIPE, "--data", f"{mine}.WrongLabels")
    assert_one_line(result, "labels must lie in 0..4", "number the classes from 0", started=True)
    result = zoo("fit", "-c", RECIPE, "--data", f"{mine}.Sneaky")
    assert_one_line(result, "labels must lie in 0..9", started=True)
    assert not Path("runs").exists()


def test_a_required_argument_without_a_value(zoo: Zoo, mine: str) -> None:
    Path("r.yaml").write_text(f"model: {{class_path: {mine}.Mute}}\n")
    assert_one_line(zoo("fit", "-c", "r.yaml"), f"{mine}.Mute requires a value for size")
    Path("r.yaml").write_text(f"model: {{class_path: {mine}.Required}}\n")
    assert_one_line(zoo("fit", "-c", "r.yaml"), f"{mine}.Required requires a value for in_features, num_classes")


def test_a_required_argument_that_comes_from_the_data(zoo: Zoo, mine: str) -> None:
    Path("r.yaml").write_text(
        f"model: {{class_path: {mine}.Shaped}}\ndata: {{class_path: datamodules.DigitsDataModule}}\n"
    )
    result = zoo("fit", "-c", "r.yaml", "--trainer.max_epochs=1", *SHORT)
    assert result.code == 0, result.err
    Path("r.yaml").write_text(f"model: {{class_path: {mine}.Shaped}}\n")
    assert_one_line(zoo("fit", "-c", "r.yaml"), f"{mine}.Shaped requires a value for input_shape")


def test_a_bug_in_a_users_class_keeps_its_traceback(zoo: Zoo, mine: str) -> None:
    result = zoo("fit", "-c", RECIPE, "--model", f"{mine}.Buggy")
    assert result.code == 1
    assert "AttributeError" in result.err
    assert "Traceback" in result.err
    assert not Path("runs").exists()


def test_an_error_before_the_first_batch_is_a_setup_error(zoo: Zoo, mine: str) -> None:
    result = zoo("fit", "-c", RECIPE, *SHORT, f"--trainer.callbacks+={mine}.Early")
    assert_one_line(result, "not like this", started=True)
    assert not Path("runs").exists()


def test_a_failure_inside_training_keeps_its_traceback(zoo: Zoo, mine: str) -> None:
    result = zoo("fit", "-c", RECIPE, *SHORT, f"--trainer.callbacks+={mine}.Boom")
    assert result.code == 1
    assert "Traceback" in result.err
    assert "boom in the middle" in result.err
    log = Path("runs", RECIPE, "version_0/log.txt").read_text()
    assert "boom in the middle" in log
    assert Path("runs", RECIPE, "version_0/checkpoints/last.ckpt").is_file()


def test_debug_shows_the_traceback_of_a_users_error(zoo: Zoo) -> None:
    result = zoo(*LENET, "--model.width", "0", "--debug")
    assert result.code == 2
    assert "Traceback" in result.err
    assert result.err.strip().splitlines()[-1] == "zoo: error: width must be 1 or more, got 0"


def test_a_folder_that_cannot_be_written(zoo: Zoo) -> None:
    Path("runs").write_text("a file")
    assert_one_line(zoo("fit", "-c", RECIPE), "cannot create a run folder", "--runs FOLDER")
    assert os.listdir() == ["runs"]


def test_a_full_disk_keeps_the_previous_checkpoint_and_exits_with_75(zoo: Zoo, mine: str) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        result = zoo("fit", "-c", RECIPE, *SHORT, f"--trainer.callbacks+={mine}.Full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_one_line(result, "cannot save", "File too large", "is kept", code=75, started=True)
    folder = Path("runs", RECIPE, "version_0/checkpoints")
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    for path in folder.iterdir():
        assert torch.load(path, weights_only=True)["epoch"] == 0
    again = ("--trainer.callbacks.size=100000000", "--trainer.max_epochs=3")
    assert zoo("fit", "-c", RECIPE, *SHORT, "--resume", *again).code == 0


def test_a_disk_that_fills_up_during_training_names_the_file_and_the_last_checkpoint(zoo: Zoo, mine: str) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    options = [
        f"--trainer.callbacks+={mine}.Full",
        "--trainer.callbacks.size=300",
        "--trainer.enable_checkpointing=false",
    ]
    try:
        result = zoo("fit", "-c", RECIPE, *SHORT, *options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_one_line(result, "metrics.csv", "File too large", "there is no checkpoint yet", code=75, started=True)


# Loggers ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def wandb_online(tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """W&B as in a new process: online, without settings, credentials and proxy."""
    import wandb

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_cwd))
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    wandb.teardown()
    yield monkeypatch
    wandb.teardown()


@pytest.mark.usefixtures("wandb_online")
def test_wandb_without_a_key_is_refused_at_once(zoo: Zoo) -> None:
    assert_one_line(zoo("fit", "-c", RECIPE, "--logger", "wandb"), "needs a W&B key", "wandb login", "wandb-offline")
    assert os.listdir() == []


def test_wandb_with_an_invalid_key_is_refused_at_once(zoo: Zoo, wandb_online: pytest.MonkeyPatch) -> None:
    wandb_online.setenv("WANDB_API_KEY", "x" * 4)
    assert_one_line(zoo("fit", "-c", RECIPE, "--logger", "wandb"), "cannot use the W&B key", "WANDB_API_KEY", "has 4")
    assert os.listdir() == []


@pytest.mark.parametrize("place", ["variable", ".netrc"])
def test_wandb_without_a_network_is_refused_at_once(zoo: Zoo, wandb_online: pytest.MonkeyPatch, place: str) -> None:
    if place == "variable":
        wandb_online.setenv("WANDB_API_KEY", "x" * 40)
    else:
        Path(".netrc").write_text(f"machine localhost:9 login user password {'x' * 40}")
    wandb_online.setenv("WANDB_BASE_URL", "http://localhost:9")
    before = os.listdir()
    assert_one_line(zoo("fit", "-c", RECIPE, "--logger", "wandb"), "cannot reach localhost", "wandb-offline")
    assert os.listdir() == before


@pytest.mark.usefixtures("wandb_online")
def test_wandb_in_offline_mode_needs_no_key() -> None:
    Path("wandb").mkdir()
    Path("wandb/settings").write_text("[default]\nmode = offline\n")
    check_logger("wandb")


@pytest.mark.usefixtures("wandb_online")
def test_a_version_of_wandb_without_this_lookup_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb.sdk.lib.wbauth", None)
    check_logger("wandb")


def test_a_logger_that_is_not_installed_names_its_extra(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert_one_line(zoo("fit", "-c", RECIPE, "--logger", "tensorboard"), "pip install 'lightning-zoo[tensorboard]'")


# Checkpoints --------------------------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch PWNED",)


@pytest.mark.parametrize("verb", ["test", "predict"])
def test_a_bad_checkpoint_is_refused(zoo: Zoo, trained: Path, verb: str) -> None:
    good = (trained / "checkpoints/best.ckpt").read_bytes()
    flipped = bytearray(good)
    weight = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)["state_dict"]["net.fc.weight"]
    flipped[good.index(weight.numpy().tobytes()) + 200] ^= 16
    torch.save({"state_dict": {}, "x": Evil()}, "hostile.ckpt")
    torch.save([1, 2], "list.ckpt")
    torch.save({"a": 1}, "foreign.ckpt")
    Path("cut.ckpt").write_bytes(good[: len(good) // 2])
    Path("flipped.ckpt").write_bytes(flipped)
    Path("text.ckpt").write_text("hello")
    Path("empty.ckpt").write_bytes(b"")
    Path("x.png").write_bytes(b"")
    for name, word in {
        "hostile": "refused",
        "list": "holds a list",
        "foreign": "foreign.ckpt is no",
        "cut": "cut off",
        "flipped": "damaged",
        "text": "damaged",
        "empty": "damaged",
        "missing": "no such checkpoint",
    }.items():
        path = f"{name}.ckpt"
        args = ("predict", path, "x.png") if verb == "predict" else ("test", "-c", RECIPE, "--ckpt", path)
        assert_one_line(zoo(*args), path, word)
    assert not Path("PWNED").exists()


def test_a_checkpoint_of_another_model_is_refused(zoo: Zoo, trained: Path) -> None:
    result = zoo("test", "-c", "cnn/lenet_digits", "--ckpt", trained)
    assert_one_line(result, "another model (softmax_regression) than LeNetClassifier")
    result = zoo("fit", "-c", "cnn/lenet_digits", "--resume", trained)
    assert_one_line(result, "is a run of linear/softmax_digits, not of cnn/lenet_digits")


def test_a_checkpoint_with_an_optimizer_to_import_is_refused(zoo: Zoo, trained: Path) -> None:
    path = trained / "checkpoints/best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hyper_parameters"]["optimizer"] = "os.system"
    torch.save(checkpoint, path)
    assert_one_line(
        zoo("test", "-c", RECIPE, "--ckpt", path), "'os.system' would have to be imported, which no file may ask for"
    )
    Path("x.png").write_bytes(b"")
    assert_one_line(zoo("predict", path, "x.png"), "os.system")


@pytest.mark.filterwarnings("ignore:.*names weights '/etc/passwd', which is not opened")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_classes", 10**12, "num_classes must lie in 0..16,777,216, got 1000000000000"),
        ("temperature", "hot", "temperature must be float, got 'hot'"),
        ("weights", "/etc/passwd", None),
    ],
)
def test_hyperparameters_that_cannot_be_are_refused(
    zoo: Zoo, trained: Path, name: str, value: object, message: str | None
) -> None:
    path = trained / "checkpoints/best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hyper_parameters"][name] = value
    torch.save(checkpoint, path)
    Path("x.csv").write_text(",".join(f"pixel{i}" for i in range(64)) + "\n" + ",".join("0" * 64) + "\n")
    for args in (("test", "-c", RECIPE, "--ckpt", path), ("predict", path, "x.csv")):
        result = zoo(*args)
        if message is not None:
            assert_one_line(result, message)
        else:
            assert "passwd" not in result.out
            assert "Traceback" not in result.err
