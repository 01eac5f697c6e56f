"""Stopping a run and ``--resume``: it continues in its own folder, bitwise as if it had not been stopped."""

import csv
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from cli_kit import RECIPE, SHORT, Zoo, assert_one_line

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


def test_other_data_are_refused_and_the_config_is_kept(zoo: Zoo, trained: Path) -> None:
    before = (trained / "config.yaml").read_text()
    result = zoo("fit", "--resume", trained, "--data.split_seed=3", "--trainer.max_epochs=9")
    assert_one_line(
        result, "the checkpoint was saved on other data: fingerprint", "resume with the same files", started=True
    )
    assert (trained / "config.yaml").read_text() == before


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
