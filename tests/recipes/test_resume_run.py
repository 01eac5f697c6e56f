"""Stopping a run and ``--resume``: it continues in its own folder, bitwise as if it had not been stopped."""

import csv
import inspect
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cli_kit import RECIPE, SHORT, Zoo, assert_one_line
from lightning.pytorch import Trainer

from recipes.cli.run.changes import RESUMABLE

STOPPER = """
import os, signal
from lightning.pytorch import Callback

class StopAt(Callback):
    def __init__(self, step: int = 1, signum: int = 15): self.step, self.signum = step, signum
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.signum)
"""
RUN = Path("runs", RECIPE, "version_0")


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def rows(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


def contents(run: Path) -> dict[str, tuple[int, bytes]]:
    """The time and the content of every file of a recipe's runs."""
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in run.parent.rglob("*") if p.is_file()}


@pytest.fixture
def stopper(tmp_cwd: Path) -> str:
    name = f"stopper_{tmp_cwd.name}".replace("-", "_")
    Path(f"{name}.py").write_text(STOPPER)
    return f"{name}.StopAt"


@pytest.mark.parametrize("step", [0, 1, 2, 3, 5])
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(
    zoo: Zoo, run_template: Path, stopper: str, step: int
) -> None:
    stop = (f"--trainer.callbacks+={stopper}", f"--trainer.callbacks.step={step}")
    result = zoo("fit", "-c", RECIPE, "--trainer.max_epochs=2", *SHORT, *stop)
    assert result.code == 143
    assert f"stopped by SIGTERM and saved; resume with: zoo fit --resume {RUN}" in result.out
    assert result.err == ""
    before = (RUN / "log.txt").read_text()
    assert "stopped by SIGTERM" in before
    result = zoo("fit", "-c", RECIPE, "--resume", "--trainer.callbacks.step=-1")
    assert result.code == 0, result.err
    uninterrupted = run_template / RUN
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    assert same(weights(RUN), weights(uninterrupted))
    assert same(weights(RUN, "best"), weights(uninterrupted, "best"))
    assert rows(RUN) == rows(uninterrupted)
    assert (RUN / "log.txt").read_text().startswith(before)


def test_ctrl_c_saves_and_exits_with_130(zoo: Zoo, stopper: str) -> None:
    stop = (f"--trainer.callbacks+={stopper}", "--trainer.callbacks.signum=2")
    result = zoo("fit", "-c", RECIPE, *SHORT, *stop)
    assert result.code == 130
    assert "stopped by Ctrl-C and saved" in result.out
    assert torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


def test_a_second_ctrl_c_stops_at_once(zoo: Zoo, stopper: str) -> None:
    path = Path(f"{stopper.partition('.')[0]}.py")
    path.write_text(
        path.read_text() + "class Twice(StopAt):\n"
        "    def on_train_batch_start(self, *args):\n"
        "        if args[0].global_step == self.step:\n"
        "            os.kill(os.getpid(), 2); os.kill(os.getpid(), 2)\n"
    )
    result = zoo("fit", "-c", RECIPE, *SHORT, f"--trainer.callbacks+={stopper.replace('StopAt', 'Twice')}")
    assert result.code == 130
    assert "saved" not in result.out
    assert (RUN / "log.txt").is_file()  # it had begun
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_after_a_kill_no_step_appears_twice(zoo: Zoo, trained: Path) -> None:
    """A kill in the third epoch leaves rows that are newer than the checkpoint."""
    finished = rows(trained)
    with (trained / "metrics.csv").open("a") as file:
        file.write("7,2\n8,2\n")
    (trained / "checkpoints/.old.ckpt.tmp").write_text("half a checkpoint")
    assert zoo("fit", "--resume", trained, "--trainer.max_epochs=3").code == 0
    kept = rows(trained)
    assert [row["step"] for row in kept] == [str(i) for i in range(10)]
    assert [row["val/acc"] for row in kept[:6]] == [row["val/acc"] for row in finished[:6]]
    assert kept[8]["val/acc"]
    assert sorted(path.name for path in (trained / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize(
    "args",
    [
        ["-c", RECIPE, "--resume"],
        ["--resume", f"{RUN}"],
        ["--resume", f"{RECIPE}/version_0"],
        ["-c", RECIPE, "--resume", "version_0"],
        ["--resume", f"{RUN}/checkpoints/last.ckpt"],
    ],
)
def test_every_way_to_select_the_run(zoo: Zoo, trained: Path, args: list[str]) -> None:
    result = zoo("fit", *args, "--trainer.max_epochs=3")
    assert result.code == 0, result.err
    assert f"{RECIPE} resumes at step 6" in result.out
    assert yaml.safe_load((trained / "config.yaml").read_text())["trainer"]["max_epochs"] == 3
    assert [path.name for path in trained.parent.iterdir()] == ["version_0"]


def test_a_finished_run_is_only_tested_again(zoo: Zoo, trained: Path) -> None:
    before = rows(trained)
    out = zoo("fit", "--resume", trained).out
    assert re.search(r"test/acc +0\.\d+ \(best.ckpt\)", out)
    assert rows(trained) == before


def test_a_run_folder_may_be_moved(zoo: Zoo, trained: Path) -> None:
    best = weights(trained, "best")
    score = re.search(r"best val/loss +(\S+)", (trained / "log.txt").read_text())
    assert score
    shutil.move("runs", "moved")
    result = zoo("fit", "--resume", f"moved/{RECIPE}/version_0", "--runs", "moved")
    assert result.code == 0, result.err
    assert result.err == ""
    assert f"best val/loss  {score[1]}" in result.out
    assert same(weights(Path("moved", RECIPE, "version_0"), "best"), best)
    assert not Path("runs").exists()


def test_a_model_argument_that_contradicts_the_checkpoint_is_refused(zoo: Zoo, trained: Path) -> None:
    """Lightning itself silently uses the checkpoint's value."""
    expected = "--model.lr 0.5 contradicts the checkpoint, which was trained with 0.03"
    assert_one_line(zoo("fit", "-c", RECIPE, "--resume", "--model.lr=0.5"), expected, "new run without --resume")
    assert zoo("fit", "-c", RECIPE, "--resume", "--model.lr=0.03").code == 0
    assert_one_line(zoo("fit", "--resume", trained, "--model.num_classes=3"), "num_classes 3 contradicts")


def test_other_data_are_refused_and_the_run_is_kept(zoo: Zoo, trained: Path) -> None:
    config = trained / "config.yaml"
    config.write_text(config.read_text().replace("split_seed: 0", "split_seed: 3"))  # as if the files had changed
    before = contents(trained)
    result = zoo("fit", "--resume", trained, "--trainer.max_epochs=9")
    assert_one_line(
        result, "the checkpoint was saved on other data: fingerprint", "resume with the same files", started=True
    )
    assert contents(trained) == before


def test_overrides_of_the_first_session_are_kept(zoo: Zoo) -> None:
    assert zoo("fit", "-c", RECIPE, *SHORT, "--trainer.max_epochs=1", "--model.lr=0.5").code == 0
    assert zoo("fit", "-c", RECIPE, "--resume", "--trainer.max_epochs=2").code == 0
    checkpoint = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["lr"] == 0.5
    assert checkpoint["global_step"] == 6  # limit_train_batches lives on too


def test_wandb_keeps_its_run_id(zoo: Zoo) -> None:
    for args in (
        ["-c", RECIPE, *SHORT, "--trainer.max_epochs=1"],
        ["-c", RECIPE, "--resume", "--trainer.max_epochs=2"],
    ):
        assert zoo("fit", *args, "--logger=wandb-offline").code == 0
    ids = [path.name.rpartition("-")[2] for path in (RUN / "wandb").glob("offline-run-*")]
    assert len(ids) == 2
    assert len(set(ids)) == 1


def test_resume_refuses(zoo: Zoo, trained: Path) -> None:
    assert_one_line(zoo("fit", "-c", RECIPE, "-c", RECIPE, "--resume"), "at most one -c")
    assert_one_line(zoo("fit", "--resume"), "no run given")
    shutil.copy(trained / "checkpoints/last.ckpt", "alone.ckpt")
    assert_one_line(zoo("fit", "-c", RECIPE, "--resume", "alone.ckpt"), "is not in a run folder")
    assert_one_line(zoo("test", "--ckpt", "alone.ckpt"), "is not in a run folder", "-c RECIPE")
    assert zoo("test", "-c", RECIPE, "--ckpt", "alone.ckpt").code == 0


# The record of a run --------------------------------------------------------------------------------------------------


def config(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text())
    return loaded


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--trainer.max_epochs=1", ["--trainer.max_epochs 1 is too short", "has done 2 epochs", "give 2 or more"]),
        ("--trainer.max_steps=5", ["--trainer.max_steps 5 is too short", "has done 6 steps", "give 6 or more"]),
    ],
)
def test_a_length_below_what_is_done_is_refused(zoo: Zoo, trained: Path, option: str, words: list[str]) -> None:
    before = contents(trained)
    assert_one_line(zoo("fit", "-c", RECIPE, "--resume", option), *words)
    assert contents(trained) == before
    assert zoo("fit", "-c", RECIPE, "--resume").code == 0


def test_a_length_within_a_begun_epoch_is_refused(zoo: Zoo, stopper: str) -> None:
    stop = (f"--trainer.callbacks+={stopper}", "--trainer.callbacks.step=4")
    assert zoo("fit", "-c", RECIPE, "--trainer.max_epochs=5", *SHORT, *stop).code == 143
    before = contents(RUN)
    result = zoo("fit", "-c", RECIPE, "--resume", "--trainer.max_epochs=1")
    assert_one_line(result, "has begun epoch 2; give 2 or more")
    assert contents(RUN) == before
    result = zoo("fit", "-c", RECIPE, "--resume", "--trainer.max_epochs=3", "--trainer.callbacks.step=-1")
    assert result.code == 0, result.err
    assert config(RUN)["trainer"]["max_epochs"] == 3
    assert "trainer.max_epochs: 5 -> 3, from here on" in (RUN / "log.txt").read_text()
    assert len(rows(RUN)) == 10
    result = zoo("fit", "-c", RECIPE, "--resume")
    assert result.code == 0, result.err
    assert len(rows(RUN)) == 10


def test_a_time_below_what_is_done_is_refused(zoo: Zoo) -> None:
    timed = ("--trainer.max_epochs=1", "--trainer.max_time=00:01:00:00")
    assert zoo("fit", "-c", RECIPE, *SHORT, *timed).code == 0
    path = RUN / "checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["callbacks"]["Timer"]["time_elapsed"]["train"] = 3601.0  # as if it had been stopped by its time
    torch.save(checkpoint, path)
    before = contents(RUN)
    result = zoo("fit", "-c", RECIPE, "--resume", "--trainer.max_time=00:00:30:00")
    assert_one_line(result, "--trainer.max_time 00:00:30:00 is too short: the run has trained for 3601 s")
    assert contents(RUN) == before
    assert zoo("fit", "-c", RECIPE, "--resume").code == 0
    longer = ("--trainer.max_time=00:02:00:00", "--trainer.max_epochs=2")
    assert zoo("fit", "-c", RECIPE, "--resume", *longer).code == 0
    assert config(RUN)["trainer"]["max_time"] == "00:02:00:00"


TAKEN = {
    "data.batch_size": 32,
    "data.num_workers": 1,
    "trainer.accelerator": "cpu",
    "trainer.accumulate_grad_batches": 2,
    "trainer.check_val_every_n_epoch": 2,
    "trainer.detect_anomaly": True,
    "trainer.devices": "1",
    "trainer.enable_autolog_hparams": False,
    "trainer.enable_model_summary": False,
    "trainer.enable_progress_bar": False,
    "trainer.inference_mode": False,
    "trainer.limit_predict_batches": 2,
    "trainer.limit_test_batches": 2,
    "trainer.limit_val_batches": 1,
    "trainer.log_every_n_steps": 2,
    "trainer.max_epochs": 4,
    "trainer.max_steps": 9,
    "trainer.max_time": "00:01:00:00",
    "trainer.min_epochs": 3,
    "trainer.min_steps": 3,
    "trainer.num_nodes": 1,
    "trainer.num_sanity_val_steps": 1,
    "trainer.profiler": "simple",
    "trainer.strategy": "auto",
    "trainer.val_check_interval": 3,
}
REFUSED = {
    "barebones": "true",
    "benchmark": "true",
    "deterministic": "true",
    "enable_checkpointing": "false",
    "fast_dev_run": "true",
    "gradient_clip_algorithm": "norm",
    "gradient_clip_val": "0.5",
    "limit_train_batches": "2",
    "overfit_batches": "2",
    "plugins": "lightning.pytorch.plugins.io.TorchCheckpointIO",
    "precision": "bf16-mixed",
    "reload_dataloaders_every_n_epochs": "1",
    "sync_batchnorm": "true",
    "use_distributed_sampler": "false",
    "model_registry": "x",
    "logger": "false",  # by --logger
    "default_root_dir": "x",  # by --runs
}


def test_every_argument_of_the_trainer_is_taken_or_refused_on_resume() -> None:
    taken = {key.removeprefix("trainer.") for key in RESUMABLE if key.startswith("trainer.")}
    assert taken | REFUSED.keys() == inspect.signature(Trainer.__init__).parameters.keys() - {"self"}
    assert not taken & REFUSED.keys()
    assert RESUMABLE - TAKEN.keys() == {"data.download", "data.path", "data.root", "model.teacher", "trainer.callbacks"}


def test_what_a_resumed_run_takes_is_recorded(zoo: Zoo, trained: Path) -> None:
    options = [f"--{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in TAKEN.items()]
    result = zoo(
        "fit", "--resume", trained, *options, "--trainer.callbacks+=lightning.pytorch.callbacks.LearningRateMonitor"
    )
    assert result.code == 0, result.err
    recorded = config(trained)
    for key, value in TAKEN.items():
        section, name = key.split(".")
        arguments = recorded["trainer"] if section == "trainer" else recorded[section]["init_args"]
        assert arguments[name] == value, key
    assert "lightning.pytorch.callbacks.LearningRateMonitor" in {
        callback["class_path"] for callback in recorded["trainer"]["callbacks"]
    }
    assert torch.load(trained / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 9
    text = (trained / "config.yaml").read_text()
    result = zoo("fit", "--resume", trained)
    assert result.code == 0, result.err
    assert (trained / "config.yaml").read_text() == text


@pytest.mark.parametrize(
    "option",
    [
        *(f"--trainer.{name}={REFUSED[name]}" for name in ("precision", "gradient_clip_val", "limit_train_batches")),
        "--trainer.fast_dev_run=true",
        "--seed_everything=5",
        "--model.weight_decay=0.5",
        "--model.weights=softmax_digits",
        "--model=zoo.MLPClassifier",
        "--data.shift=1",
        "--data.split_seed=3",
        "--data=datamodules.WineDataModule",
    ],
)
def test_what_a_resumed_run_cannot_take_is_refused_by_name(zoo: Zoo, trained: Path, option: str) -> None:
    before = contents(trained)
    name, _, value = option.partition("=")
    expected = f"{name} {'True' if value == 'true' else value} contradicts the checkpoint, which was trained with "
    assert_one_line(zoo("fit", "--resume", trained, "--trainer.max_epochs=9", option), expected, "leave it out")
    assert contents(trained) == before


@pytest.mark.parametrize("logger", ["csv", "tensorboard", "wandb-offline"])
def test_a_start_that_fails_before_the_first_batch_writes_nothing(
    zoo: Zoo, trained: Path, stopper: str, logger: str
) -> None:
    path = Path(f"{stopper.partition('.')[0]}.py")
    path.write_text(
        path.read_text() + "class Bad(Callback):\n"
        "    def __init__(self, hook: str): setattr(self, hook, self.fail)\n"
        "    def fail(self, *args): raise ValueError('not like this')\n"
    )
    (trained / "checkpoints/.old.ckpt.tmp").write_text("half a checkpoint")
    (trained / "metrics.csv").write_text((trained / "metrics.csv").read_text() + "7,3")
    before = contents(trained)
    hook = "on_sanity_check_start" if logger != "csv" else "on_train_batch_start"
    bad = (f"--trainer.callbacks+={stopper.replace('StopAt', 'Bad')}", f"--trainer.callbacks.hook={hook}")
    result = zoo("fit", "--resume", trained, "--trainer.max_epochs=3", "--logger", logger, *bad)
    assert_one_line(result, "not like this", started=True)
    assert contents(trained) == before


def test_a_resumed_run_keeps_its_logger(zoo: Zoo) -> None:
    for args in (["--trainer.max_epochs=1", "--logger=tensorboard"], ["--resume", "--trainer.max_epochs=2"]):
        assert zoo("fit", "-c", RECIPE, *SHORT, *args).code == 0
    assert len(list(RUN.glob("events*"))) == 4  # of training and test, twice
    assert zoo("fit", "-c", RECIPE, "--resume", "--logger=csv").code == 0
    assert "#   logger" not in (RUN / "config.yaml").read_text()
    assert len(list(RUN.glob("events*"))) == 4


@pytest.mark.parametrize(
    ("size", "kept", "words"),
    [
        (None, 0, "metrics.csv is missing: its rows before step 6 are lost, a new file begins"),
        (7.5, 6, "metrics.csv ended in the middle of a line, or had one that is damaged: it is left out"),  # the test's
        (4.8, 3, "metrics.csv has 3 of the 6 rows before step 6: the others are lost"),
        (2.0, 1, "metrics.csv has 1 of the 6 rows before step 6: the others are lost"),
        (0.5, 0, "metrics.csv has 0 of the 6 rows before step 6: the others are lost"),
        (0.0, 0, "metrics.csv has 0 of the 6 rows before step 6: the others are lost"),
    ],
)
def test_lost_rows_are_told(zoo: Zoo, trained: Path, size: float | None, kept: int, words: str) -> None:
    """Of a file that is missing, or cut after so many lines."""
    path, finished = trained / "metrics.csv", rows(trained)
    lines = path.read_bytes().splitlines(keepends=True)
    if size is None:
        path.unlink()
    else:
        whole, part = divmod(size, 1)
        path.write_bytes(b"".join(lines[: int(whole)]) + lines[int(whole)][: int(part * len(lines[int(whole)]))])
    result = zoo("fit", "--resume", trained, "--trainer.max_epochs=3")
    assert result.code == 0
    assert result.err == f"warning: {trained}/{words}\n"
    assert words in (trained / "log.txt").read_text()
    resumed = rows(trained)
    assert [row["step"] for row in resumed] == [*map(str, range(kept)), "6", "7", "8", "9"]
    assert [{k: v for k, v in row.items() if k in finished[0]} for row in resumed[:kept]] == finished[:kept]
    assert zoo("fit", "--resume", trained).err == ""  # it is told once


def test_a_run_killed_before_its_first_checkpoint(zoo: Zoo, trained: Path) -> None:
    for name in ("version_1", "version_2"):
        (trained.parent / name / "checkpoints").mkdir(parents=True)
    shutil.copy(trained / "config.yaml", trained.parent / "version_1")
    killed = trained.parent / "version_1"
    expected = f"the run {killed} has no checkpoint (last.ckpt or best.ckpt), it ended before its first one"
    assert_one_line(zoo("fit", "--resume", killed), expected, f"zoo fit -c {killed}/config.yaml")
    assert_one_line(zoo("fit", "-c", RECIPE, "--resume", "version_2"), "version_2 was ended before it began")
    result = zoo("fit", "-c", RECIPE, "--resume")
    assert result.code == 0, result.err
    assert "note: version_1, version_2 have no checkpoint: version_0 is the newest that has one" in result.out
    shutil.rmtree(trained)
    assert_one_line(zoo("fit", "-c", RECIPE, "--resume"), "no run of", "version_2 ended before its first one")
    assert zoo("fit", "-c", killed / "config.yaml").code == 0
    assert [path.name for path in sorted(trained.parent.iterdir())] == ["version_1", "version_2", "version_3"]
