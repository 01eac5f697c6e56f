"""``run.json``: the state of a run, and one process at a time that writes it."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from cli_kit import RECIPE, SHORT, Zoo, assert_one_line

from recipes.cli.errors import UserError
from recipes.cli.run.environment import environment
from recipes.cli.run.lock import Lock, is_held
from recipes.cli.run.record import Record, begun, ended, is_gone, read_record, state_of, write_record

RUN = Path("runs", RECIPE, "version_0")
BROKEN = """
import os, signal
from pathlib import Path
from lightning.pytorch import Callback
from recipes.cli.run.record import state_of

class AtStep2(Callback):
    def __init__(self, what: str): self.what = what
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step != 2: return
        if self.what == "raise": raise RuntimeError("the sky\\nfell")
        if self.what == "look": print("state", state_of(Path(trainer.default_root_dir)))
        if self.what == "twice": os.kill(os.getpid(), 2)
        if self.what in ("twice", "interrupt"): os.kill(os.getpid(), 2)
        if self.what == "terminate": os.kill(os.getpid(), 15)
"""
CHILD = """
import sys, time
from pathlib import Path
from recipes.cli.run.lock import Lock
lock = Lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def at_step_2(tmp_cwd: Path) -> str:
    name = f"broken_{tmp_cwd.name}".replace("-", "_")
    Path(f"{name}.py").write_text(BROKEN)
    return f"--trainer.callbacks+={name}.AtStep2"


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    """A process that holds the lock of a folder."""
    started = []

    def start(folder: Path) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("what", "code", "state", "message"),
    [
        ("nothing", 0, "done", ""),
        ("raise", 1, "failed", "RuntimeError: the sky fell"),
        ("interrupt", 130, "stopped", "by Ctrl-C"),
        ("twice", 130, "stopped", "by Ctrl-C, not saved"),
        ("terminate", 143, "stopped", "by SIGTERM"),
    ],
)
def test_how_a_run_has_ended(zoo: Zoo, at_step_2: str, what: str, code: int, state: str, message: str) -> None:
    args = ("fit", "-c", RECIPE, "--trainer.max_epochs=1", *SHORT, at_step_2, f"--trainer.callbacks.what={what}")
    assert zoo(*args).code == code
    assert state_of(RUN) == (state, message)
    record = read_record(RUN)
    assert record is not None
    assert record.commands == [" ".join(["zoo", *args])]
    assert record.started <= record.ended
    assert 0 < record.seconds < 600
    assert record.environment["torch"] == version("torch")
    assert not is_held(RUN)


def test_a_run_is_running_while_it_trains(zoo: Zoo, at_step_2: str) -> None:
    result = zoo("fit", RECIPE, "--trainer.max_epochs=1", *SHORT, at_step_2, "--trainer.callbacks.what=look")
    assert "state ('running', '')" in result.out


def test_a_resumed_run_adds_its_command_and_its_time(zoo: Zoo, at_step_2: str) -> None:
    args = ("--trainer.max_epochs=1", *SHORT, at_step_2, "--trainer.callbacks.what=terminate")
    assert zoo("fit", RECIPE, *args).code == 143
    first = read_record(RUN)
    assert first is not None
    result = zoo("fit", "--resume", RUN, "--trainer.callbacks.what=nothing")
    assert result.code == 0, result.err
    record = read_record(RUN)
    assert record is not None
    assert (record.state, record.started) == ("done", first.started)
    assert record.commands == [*first.commands, f"zoo fit --resume {RUN} --trainer.callbacks.what=nothing"]
    assert record.seconds > first.seconds


def test_a_killed_run_is_stopped(trained: Path) -> None:
    record = read_record(trained)
    assert record is not None
    write_record(trained, begun(record, ["fit"], {}))
    assert state_of(trained) == ("stopped", "its process was killed")


@pytest.mark.parametrize("content", [None, "", "[]", '{"state": "odd"}', '{"state": "done", "commands": 3}', "\0"])
def test_runs_without_a_readable_record(trained: Path, content: str | None) -> None:
    """Older runs have none."""
    path = trained / "run.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert state_of(trained) == ("done", "")
    (trained / "results.json").unlink()
    assert state_of(trained) == ("stopped", "")


def test_what_another_version_adds_to_a_record_is_left_out(trained: Path) -> None:
    content = json.loads((trained / "run.json").read_text())
    (trained / "run.json").write_text(json.dumps({**content, "mood": "good"}))
    assert state_of(trained) == ("done", "")


def test_two_processes_cannot_write_one_run(zoo: Zoo, trained: Path, holder: Any) -> None:
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    process = holder(trained)
    assert is_held(trained)
    assert state_of(trained) == ("running", "")
    assert_one_line(zoo("fit", "--resume", trained), "another process is writing the run", str(trained), "Ctrl-C")
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before
    assert zoo("test", trained).code == 0  # looking at it is allowed
    process.kill()
    process.wait()
    assert not is_held(trained)
    assert zoo("fit", "--resume", trained).code == 0


def test_what_is_left_of_a_killed_run_is_waited_for(trained: Path, holder: Any) -> None:
    """Its loading processes may have the lock for some seconds."""
    process = holder(trained)
    with pytest.raises(UserError, match="another process"):
        Lock(trained)
    timer = multiprocessing.get_context("fork").Process(target=_kill_later, args=(process.pid,))
    timer.start()
    Lock(trained, killed=True).release()
    timer.join()


def _kill_later(pid: int) -> None:
    time.sleep(1.0)
    os.kill(pid, 9)


def test_a_refused_or_failed_run_holds_no_lock(zoo: Zoo, trained: Path) -> None:
    assert zoo("fit", "--resume", trained, "--model.lr=3").code == 2
    assert not is_held(trained)
    assert zoo("fit", RECIPE, "--data.val_fraction=7").code == 2
    assert sorted(path.name for path in trained.parent.iterdir()) == ["version_0"]


def test_whether_a_process_is_gone() -> None:
    here = begun(None, ["fit"], {})
    assert not is_gone(here)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert is_gone(Record(pid=child.pid, host=here.host))
    assert not is_gone(Record(pid=child.pid, host="elsewhere"))
    assert not is_gone(Record(host=here.host))
    assert ended(here, "done", "", 1.5).seconds == 1.5


def test_the_commit_of_the_current_folder(tmp_cwd: Path) -> None:
    def git(*arguments: str) -> str:
        words = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    assert "git_commit" not in environment()
    git("init", "-q")
    assert "git_commit" not in environment()  # no commit yet
    Path("file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    Path("other").write_text("not followed")
    facts = environment()
    assert (facts["git_commit"], facts["git_dirty"]) == (git("rev-parse", "HEAD"), "no")
    Path("file").write_text("2")
    assert environment()["git_dirty"] == "yes"
