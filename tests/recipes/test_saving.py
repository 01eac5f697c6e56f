"""When a run saves and what it keeps: ``--save-every``, ``--keep``, ``--time-limit``, damaged files, SLURM."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_kit import RECIPE, SHORT, Zoo, assert_one_line
from killed import session
from resume_kit import rows_of

from recipes.cli.errors import UserError
from recipes.cli.run.durations import interval_of, seconds_of
from recipes.cli.run.record import read_record, state_of

RUN = Path("runs", RECIPE, "version_0")
LENGTH = ("--trainer.max_epochs=2", "--trainer.limit_train_batches=5", "--trainer.log_every_n_steps=1")
# ends the process at a step without any clean-up as a kill does, but in this process: nothing is saved or recorded
KILL = """
import os
from lightning.pytorch import Callback

class Killed(BaseException):
    pass

class At(Callback):
    # at the end of a batch, before anything is saved there
    def __init__(self, step: int = -1, what: str = "kill"): self.step, self.what = step, what
    def on_train_batch_end(self, trainer, pl_module, *args):
        if trainer.global_step == self.step:
            if self.what == "kill": raise Killed
            os.kill(os.getpid(), int(self.what))
    def on_train_batch_start(self, trainer, pl_module, *args):
        if self.what == "file" and trainer.global_step == 7:
            import shutil
            shutil.rmtree(trainer.default_root_dir)
            open(trainer.default_root_dir, "w").close()
        if self.what == "gone" and trainer.global_step == 7:
            import shutil
            shutil.rmtree(trainer.default_root_dir)
"""


@pytest.fixture
def at(tmp_cwd: Path) -> str:
    name = f"kill_{tmp_cwd.name}".replace("-", "_")
    Path(f"{name}.py").write_text(KILL)
    return f"--trainer.callbacks+={name}.At"


def content(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def files(run: Path = RUN) -> dict[str, int]:
    return {path.name: content(path)["global_step"] for path in (run / "checkpoints").iterdir()}


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def same(one: Path, two: Path) -> bool:
    a, b = content(one)["state_dict"], content(two)["state_dict"]
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def kill(zoo: Zoo, at: str, step: int, *args: Any) -> None:
    """Train up to a step and leave what a kill leaves there."""
    try:
        zoo("fit", "-c", RECIPE, *LENGTH, at, f"--trainer.callbacks.step={step}", *args)
    except BaseException as error:
        assert type(error).__name__ == "Killed", error  # noqa: PT017
    else:
        raise AssertionError("it ended before")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from recipes.cli.__main__ import main

    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", "-c", RECIPE, *LENGTH]) == 0
    return folder / RUN


@pytest.mark.parametrize(
    ("every", "killed_at", "saved"),
    [("2steps", 3, 2), ("2steps", 5, 4), ("2steps", 9, 8), ("1 step", 4, 3), ("0.000001s", 8, 7), ("3steps", 7, 6)],
)
def test_a_kill_loses_at_most_the_interval(
    zoo: Zoo, at: str, whole: Path, every: str, killed_at: int, saved: int
) -> None:
    kill(zoo, at, killed_at, "--save-every", every)
    assert files()["last.ckpt"] == saved
    result = zoo("fit", "-c", RECIPE, "--resume", "--trainer.callbacks.step=-1")
    assert result.code == 0, result.err
    assert f"resumes at step {saved} " in result.out
    assert same(RUN / "checkpoints/last.ckpt", whole / "checkpoints/last.ckpt")
    assert (RUN / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert state_of(RUN) == ("done", "")


def test_what_is_asked_once_stays_for_the_run(zoo: Zoo, at: str) -> None:
    kill(zoo, at, 3, "--save-every", "1steps", "--keep", "2")
    assert "#   saving  every 1steps, keep 2\n" in (RUN / "config.yaml").read_text()
    assert files() == {"last.ckpt": 2, "step_1.ckpt": 1}
    assert zoo("fit", "--resume", RUN, "--trainer.callbacks.step=8", "--trainer.callbacks.what=15").code == 143
    assert files() == {"best.ckpt": 5, "last.ckpt": 8, "step_7.ckpt": 7}
    assert zoo("fit", "--resume", RUN, "--trainer.callbacks.step=-1", "--keep", "3", "--save-every", "2steps").code == 0
    assert files() == {"best.ckpt": 10, "last.ckpt": 10, "step_8.ckpt": 8, "step_7.ckpt": 7}
    assert "#   saving  every 2steps, keep 3\n" in (RUN / "config.yaml").read_text()


def test_keep_alone_keeps_the_ends_of_epochs(zoo: Zoo) -> None:
    """Also where there is no best one, as for a GAN without a judge."""
    args = (*SHORT, "--trainer.max_epochs=4", "--trainer.limit_val_batches=0", "--keep", "3")
    assert zoo("fit", RECIPE, *args).code == 0
    assert files() == {"last.ckpt": 12, "step_9.ckpt": 9, "step_6.ckpt": 6}
    inodes = {path.stat().st_ino for path in (RUN / "checkpoints").iterdir()}
    assert len(inodes) == 3  # damage of one is not damage of another


def test_a_damaged_last_checkpoint_is_named_and_the_newest_good_one_taken(zoo: Zoo, at: str, whole: Path) -> None:
    kill(zoo, at, 9, "--save-every", "1steps", "--keep", "3")
    assert files() == {"best.ckpt": 5, "last.ckpt": 8, "step_7.ckpt": 7, "step_6.ckpt": 6}
    damage(RUN / "checkpoints/last.ckpt")
    damage(RUN / "checkpoints/step_7.ckpt")
    result = zoo("fit", "--resume", RUN, "--trainer.callbacks.step=-1")
    assert result.code == 0, result.err
    assert "resumes at step 6 " in result.out
    for words in ("last.ckpt is damaged", "step_7.ckpt is damaged", "goes on from step_6.ckpt, step 6"):
        assert words in result.err
    assert "steps 7 to 9 are trained again" in result.err
    assert same(RUN / "checkpoints/last.ckpt", whole / "checkpoints/last.ckpt")
    assert (RUN / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert "is damaged" in (RUN / "log.txt").read_text()


def test_without_others_the_best_one_is_taken(zoo: Zoo, at: str, whole: Path) -> None:
    kill(zoo, at, 8, "--save-every", "2steps")
    (RUN / "checkpoints/last.ckpt").write_bytes(b"PK\x03\x04")  # cut off
    result = zoo("fit", "--resume", RUN, "--trainer.callbacks.step=-1")
    assert "goes on from best.ckpt, step 5; steps 6 to 8 are trained again" in result.err
    assert same(RUN / "checkpoints/last.ckpt", whole / "checkpoints/last.ckpt")


def test_a_missing_last_checkpoint_is_made_good_by_those_before(zoo: Zoo, at: str) -> None:
    kill(zoo, at, 4, "--save-every", "1steps", "--keep", "2")
    (RUN / "checkpoints/last.ckpt").unlink()
    result = zoo("fit", "-c", RECIPE, "--resume", "--trainer.callbacks.step=-1")
    assert result.code == 0, result.err
    assert "resumes at step 2 " in result.out
    assert "last.ckpt is missing; the run goes on from step_2.ckpt, step 2; steps 3 to " in result.err


def test_a_folder_in_the_place_of_the_last_checkpoint_is_named(zoo: Zoo, at: str) -> None:
    kill(zoo, at, 4, "--save-every", "1steps", "--keep", "2")
    path = RUN / "checkpoints/last.ckpt"
    path.unlink()
    path.mkdir()
    assert_one_line(zoo("fit", "--resume", RUN), f"{path} is a folder", "move it away", "step_2.ckpt")


def test_a_damaged_checkpoint_that_is_named_or_the_only_one_is_refused(zoo: Zoo, at: str) -> None:
    kill(zoo, at, 3, "--save-every", "1steps")
    path = RUN / "checkpoints/last.ckpt"
    damage(path)
    before = {file: file.read_bytes() for file in RUN.rglob("*") if file.is_file()}
    assert_one_line(
        zoo("fit", "--resume", path), "is damaged", "zoo fit --resume", "takes the newest one that is whole"
    )
    words = ("is damaged", "there is no other: start again with zoo fit -c", "config.yaml")
    assert_one_line(zoo("fit", "--resume", RUN), *words)
    assert {file: file.read_bytes() for file in RUN.rglob("*") if file.is_file()} == before


def test_resuming_from_an_earlier_checkpoint_forgets_the_later_ones(zoo: Zoo, at: str) -> None:
    kill(zoo, at, 9, "--save-every", "1steps", "--keep", "3")
    args = ("--trainer.callbacks.step=7", "--trainer.callbacks.what=15")
    assert zoo("fit", "--resume", RUN / "checkpoints/best.ckpt", *args).code == 143
    assert files() == {"best.ckpt": 5, "last.ckpt": 7, "step_6.ckpt": 6}


def test_a_time_limit_saves_and_stops(zoo: Zoo, whole: Path) -> None:
    result = zoo("fit", RECIPE, *LENGTH, "--time-limit", "0.001s")
    assert result.code == 143, result.err
    assert f"stopped by the time limit and saved; resume with: zoo fit --resume {RUN}" in result.out
    assert files() == {"last.ckpt": 1}
    assert state_of(RUN) == ("stopped", "by the time limit")
    assert zoo("fit", "--resume", RUN, "--time-limit", "1h").code == 0
    assert same(RUN / "checkpoints/last.ckpt", whole / "checkpoints/last.ckpt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_time_limit_of_forked_processes_is_told_as_one(zoo: Zoo) -> None:
    forked = ("--trainer.devices=2", "--trainer.strategy=ddp_fork", "--data.batch_size=32")
    result = zoo("fit", RECIPE, *LENGTH, *forked, "--time-limit", "0.001s")
    assert result.code == 143, result.err
    assert "stopped by the time limit and saved" in result.out
    assert state_of(RUN) == ("stopped", "by the time limit")


def test_repeats_save_and_stop_too(zoo: Zoo) -> None:
    group = RUN.parent / "seeds_0"
    args = ("fit", RECIPE, *LENGTH, "--seeds", "2", "--save-every", "2steps", "--keep", "2")
    result = zoo(*args, "--time-limit", "0.001s")
    assert result.code == 143, result.err
    assert "stopped by the time limit" in result.out
    assert zoo("fit", "--resume", group).code == 0
    for seed in ("seed_0", "seed_1"):
        assert "every 2steps, keep 2" in (group / seed / "config.yaml").read_text()
        assert files(group / seed) == {"best.ckpt": 10, "last.ckpt": 10, "step_8.ckpt": 8}


@pytest.mark.parametrize("place", ["7", "7_3"])
def test_slurm_saves_on_its_signal_and_goes_on_when_the_job_is_requeued(
    zoo: Zoo, at: str, whole: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A stand-in for ``scontrol`` writes down what it is asked."""
    stand_in(monkeypatch, 'echo "$@" >> asked.txt')
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    if "_" in place:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    job = ("fit", "-c", RECIPE, *LENGTH, at, "--trainer.callbacks.step=3", "--trainer.callbacks.what")
    result = zoo(*job, int(signal.SIGUSR1))
    assert result.code == 128 + signal.SIGUSR1, result.err
    assert "stopped by SIGUSR1 and saved" in result.out
    assert f"the job {place} is back in the queue" in result.out
    assert Path("asked.txt").read_text() == f"requeue {place}\n"
    assert files() == {"last.ckpt": 3}
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # the same command again
    result = zoo(*job, int(signal.SIGUSR1))
    assert result.code == 0, result.err
    assert f"this job of SLURM's was requeued: {RUN} goes on" in result.out
    assert "resumes at step 3 " in result.out
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    assert same(RUN / "checkpoints/last.ckpt", whole / "checkpoints/last.ckpt")
    record = read_record(RUN)
    assert record is not None
    assert record.slurm_job == "7"


def stand_in(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    Path("bin").mkdir()
    Path("bin/scontrol").write_text(f"#!/bin/sh\n{script}\n")
    Path("bin/scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path('bin').resolve()}{os.pathsep}{os.environ['PATH']}")


def test_another_job_of_slurms_begins_anew(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert zoo("fit", RECIPE, *LENGTH, "--time-limit", "0.001s").code == 143
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    result = zoo("fit", RECIPE, *LENGTH)
    assert result.code == 0, result.err
    assert "version_1" in result.out


def test_a_requeued_job_goes_on_with_its_repeats(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, 'echo "$@" >> asked.txt')
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    args = ("fit", RECIPE, *LENGTH, "--seeds", "2")
    assert zoo(*args, "--time-limit", "0.001s").code == 143
    assert Path("asked.txt").read_text() == "requeue 7\n"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    result = zoo(*args)
    assert result.code == 0, result.err
    assert "seeds_0 goes on" in result.out
    assert [path.name for path in RUN.parent.iterdir()] == ["seeds_0"]


@pytest.mark.parametrize(("script", "words"), [("echo no such job >&2; exit 1", "no such job"), (None, "scontrol")])
def test_a_job_that_cannot_be_requeued(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch, script: str | None, words: str
) -> None:
    if script is not None:
        stand_in(monkeypatch, script)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    result = zoo("fit", RECIPE, *LENGTH, "--time-limit", "0.001s")
    assert result.code == 143
    assert "the job 7 is not requeued" in result.err
    assert words in result.err
    assert files() == {"last.ckpt": 1}


@pytest.mark.parametrize("what", ["file", "gone"])
def test_a_folder_that_cannot_be_written_any_more(zoo: Zoo, at: str, what: str) -> None:
    result = zoo("fit", "-c", RECIPE, *LENGTH, at, f"--trainer.callbacks.what={what}")
    assert_one_line(result, "cannot ", str(RUN), code=75, started=True)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--save-every", "0"), ("--save-every must be a time or a number of optimizer steps above 0", "'0'")),
        (("--save-every", "0steps"), ("above 0", "'0steps'")),
        (("--save-every", "10"), ("such as 10m, 500s or 200steps", "'10'")),
        (("--save-every=-5m",), ("'-5m'",)),
        (("--save-every=ten minutes",), ("'ten minutes'",)),
        (("--save-every", "0.0s"), ("'0.0s'",)),
        (("--keep", "0"), ("--keep must be 1 or more", "got 0")),
        (("--keep", "two"), ("--keep must be a whole number",)),
        (("--time-limit", "0"), ("--time-limit must be a time above 0", "23h50m")),
        (("--time-limit", "200steps"), ("'200steps'",)),
        (("--save-every", "1m", "--trainer.enable_checkpointing=false"), ("enable_checkpointing is false",)),
        (("--save_every", "1m"), ("--save_every", "did you mean '--save-every'")),
    ],
    ids=str,
)
def test_bad_values_are_refused_before_anything_is_done(
    zoo: Zoo, args: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_one_line(zoo("fit", RECIPE, *LENGTH, *args), *words)
    assert not Path("runs").exists()


def test_a_saving_line_that_says_something_else_is_refused(zoo: Zoo, trained: Path) -> None:
    path = trained / "config.yaml"
    path.write_text(path.read_text().replace("#   takes", "#   saving  every now and then\n#   takes", 1))
    assert_one_line(zoo("fit", "--resume", trained), "the line `saving` must say", "'every now and then'")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500s", 500.0), ("10m", 600.0), ("1h30m", 5400.0), ("1.5h", 5400.0), ("1d2h3m4s", 93784.0), (" 5s ", 5.0)],
)
def test_times(text: str, seconds: float) -> None:
    assert seconds_of("--time-limit", text) == seconds
    assert interval_of("--save-every", text) == (seconds, None)


@pytest.mark.parametrize("text", ["", "s", "1", "1x", "1m-", "1e3s", "\u0661s", "9" * 400 + "d"])
def test_no_times(text: str) -> None:
    with pytest.raises(UserError):
        seconds_of("--time-limit", text)


def test_a_record_is_plain_json(zoo: Zoo) -> None:
    assert zoo("fit", RECIPE, *SHORT, "--trainer.max_epochs=1").code == 0
    assert json.loads((RUN / "run.json").read_text())["state"] == "done"
    shutil.rmtree("runs")


@pytest.mark.parametrize("every", ["1steps", "2steps"])
def test_a_row_that_a_kill_takes_is_told(zoo: Zoo, at: str, every: str) -> None:
    """A checkpoint within an epoch is saved a moment before the row of its step is written."""
    kill(zoo, at, 5, "--save-every", every)
    path = RUN / "metrics.csv"
    rows = path.read_text().splitlines(keepends=True)
    step = files()["last.ckpt"]
    path.write_text("".join(rows[:step]))  # but for the last row before the checkpoint
    result = zoo("fit", "--resume", RUN, "--trainer.callbacks.step=-1")
    assert result.code == 0
    assert f"has {step - 1} of the {step} rows before step {step}: the others are lost" in result.err


def test_epochs_alone_are_logged_and_no_row_is_missed(zoo: Zoo, at: str) -> None:
    """A run without rows of steps."""
    args = ("--trainer.max_epochs=2", "--trainer.limit_train_batches=5", "--trainer.log_every_n_steps=100")
    signal_ = ("--trainer.callbacks.step=7", f"--trainer.callbacks.what={int(signal.SIGTERM)}")
    assert zoo("fit", "-c", RECIPE, *args, at, *signal_).code == 143
    result = zoo("fit", "--resume", RUN, "--trainer.callbacks.step=-1")
    assert (result.code, result.err) == (0, "")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("every", ["1", "100"])
def test_a_kill_right_after_the_save_of_an_epoch_takes_none_of_its_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: str
) -> None:
    """Lightning hands them to the loggers after it has saved; with and without a row of the last step."""
    rows = {}
    for moment in ("write:last.ckpt:1:after", "never"):
        folder = tmp_path / moment
        folder.mkdir()
        monkeypatch.chdir(folder)
        ended = session(moment, "fit", "-c", RECIPE, *LENGTH, f"--trainer.log_every_n_steps={every}")
        assert ended.code == (0 if moment == "never" else -signal.SIGKILL), ended
        rows[moment] = rows_of(RUN)
    killed, whole = rows.values()
    assert "train/loss" in killed[-1]
    assert killed == whole[: len(killed)]
    assert killed[-1]["step"] == "4"
    assert torch.load(tmp_path / "write:last.ckpt:1:after" / RUN / "checkpoints/last.ckpt")["global_step"] == 5
