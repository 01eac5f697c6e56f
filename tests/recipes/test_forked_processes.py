"""Runs of forked processes: what ends one of them, and a signal to the process that only waits for them, end it as one process."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from cli_kit import RECIPE, Zoo, assert_one_line
from killed import ended, session

from recipes.cli.many.one import _joined
from recipes.cli.run.ranks import _packed, _unpacked
from recipes.cli.run.record import read_record

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
RUN = Path("runs", RECIPE, "version_0")
FORKED = ("--trainer.devices=2", "--trainer.strategy=ddp_fork", "--data.batch_size=32")
LONG = ("fit", "-c", RECIPE, "--trainer.max_epochs=30")
# what happens to process RANK, or to the one that waits for it, after the step AT
EVENTS = """
import os
import signal
import time
from pathlib import Path
import torch
from lightning.pytorch import Callback
from datamodules import DigitsDataModule

class OwnError(Exception):
    def __init__(self, name):
        super().__init__(f"the real error of {name}")

class Event(Callback):
    def __init__(self, what: str, rank: int = 1, at: int = 12):
        self.what, self.rank, self.at = what, rank, at

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_rank == self.rank and trainer.global_step == self.at:
            if self.what == "crash":
                raise OwnError("mine")
            if self.what == "exit":
                raise SystemExit(9)
            if self.what == "full":
                try:
                    raise OSError(28, "No space left on device", "some.file")
                except OSError as error:
                    raise RuntimeError("no row is written") from error
            if self.what == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            parent = os.getppid()
            for name in self.what.split(","):
                Path(f"pid_{os.getpid()}").touch()
                os.kill(parent, signal.Signals[name])
                time.sleep(0.05)

class Refused(DigitsDataModule):
    def setup(self, stage=None):
        super().setup(stage)
        if stage == "fit":
            raise ValueError("there is no column x: give --data.column")

class Waiting(DigitsDataModule):
    def setup(self, stage=None):
        if torch.distributed.get_rank() == 1:
            os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(30)
"""


@pytest.fixture(autouse=True)
def _events(tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("events.py").write_text(EVENTS)
    for name in ("events", "waits"):  # of an earlier test
        monkeypatch.delitem(sys.modules, name, raising=False)


def event(what: str) -> tuple[str, str]:
    return "--trainer.callbacks+=events.Event", f"--trainer.callbacks.what={what}"


def test_a_refusal_is_that_of_one_process(zoo: Zoo) -> None:
    one, two = (zoo("fit", "-c", RECIPE, "--data=events.Refused", *options) for options in ((), FORKED))
    assert_one_line(one, "there is no column x", started=True)
    assert (two.code, two.err) == (one.code, one.err)
    assert not Path("runs").exists()


def test_a_crash_is_told_with_the_traceback_of_its_process(zoo: Zoo) -> None:
    result = zoo(*LONG, *FORKED, *event("crash"))
    assert result.code == 1
    lines = result.err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert 'raise OwnError("mine")' in result.err
    assert lines[-1] == "events.OwnError: the real error of mine"
    assert "SIGTERM" not in result.err  # that Lightning sends to the others
    record = read_record(RUN)
    assert record is not None
    assert (record.state, record.message) == ("failed", "OwnError: the real error of mine")
    assert (RUN / "log.txt").read_text().rstrip().endswith(lines[-1])


def test_a_full_disk_is_one_of_the_machine(zoo: Zoo) -> None:
    result = zoo(*LONG, *FORKED, *event("full"))
    assert_one_line(result, "cannot write some.file: No space left on device", code=75, started=True)


def test_a_killed_process_is_told_in_one_line(zoo: Zoo) -> None:
    result = zoo(*LONG, *FORKED, *event("die"), "--save-every", "5steps")
    assert_one_line(result, "process 1 of the run was killed", f"is {RUN}/checkpoints/last.ckpt", code=75, started=True)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("name", "code", "how"), [("SIGTERM", 143, 0), ("SIGINT", 130, "Ctrl-C"), ("SIGUSR1", 138, 0)])
def test_a_signal_to_the_process_that_waits_stops_those_that_train(zoo: Zoo, name: str, code: int, how: str) -> None:
    result = zoo(*LONG, *FORKED, *event(name))
    assert (result.code, result.err) == (code, "")
    assert f"stopped by {how or name} and saved; resume with: zoo fit --resume {RUN}" in result.out
    record = read_record(RUN)
    assert record is not None
    assert (record.state, record.message) == ("stopped", f"by {how or name}")
    assert 12 <= torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["global_step"] <= 14
    assert multiprocessing.active_children() == []


def test_a_second_interrupt_ends_them_at_once(zoo: Zoo) -> None:
    interrupt = signal.getsignal(signal.SIGINT)
    result = zoo(*LONG, *FORKED, *event("SIGINT,SIGINT"))
    assert result.code == 130
    record = read_record(RUN)
    assert record is not None
    assert (record.state, record.message) == ("stopped", "by Ctrl-C, not saved")
    for child in multiprocessing.active_children():
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
    assert signal.getsignal(signal.SIGINT) is interrupt


def test_a_signal_before_training_leaves_nothing(zoo: Zoo) -> None:
    """One process waits for the other, and would hear no signal."""
    result = zoo("fit", "-c", RECIPE, *FORKED, "--data=events.Waiting")
    assert (result.code, result.err) == (143, "")
    assert not Path("runs").exists()


@pytest.mark.parametrize("whom", ["os.getppid()", "os.getpid()"])
def test_a_signal_while_the_test_part_is_measured_ends_it(zoo: Zoo, whom: str) -> None:
    """To the process that waits, or to one of the others alone."""
    again = (*FORKED, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2")
    waits = "--trainer.callbacks+=waits.AtTest"
    Path("waits.py").write_text(
        "import os, signal, time\nfrom lightning.pytorch import Callback\n\nclass AtTest(Callback):\n"
        "    def on_test_start(self, trainer, module):\n        if not trainer.is_global_zero:\n"
        f"            os.kill({whom}, signal.SIGTERM)\n        time.sleep(30)\n"
    )
    result = zoo("fit", "-c", RECIPE, *again, waits)
    assert (result.code, result.err) == (143, "")
    record = read_record(RUN)
    assert record is not None
    assert (record.state, record.message) == ("stopped", "by SIGTERM, not saved")


def test_a_process_that_ends_itself_is_a_failure(zoo: Zoo) -> None:
    result = zoo(*LONG, *FORKED, *event("exit"))
    assert result.code == 9
    record = read_record(RUN)
    assert record is not None
    assert (record.state, record.message) == ("failed", "it ended itself with code 9")


def test_processes_that_are_not_forked_are_refused(zoo: Zoo) -> None:
    result = zoo("fit", "-c", RECIPE, "--trainer.devices=2", "--trainer.strategy=ddp_spawn")
    assert_one_line(result, "'spawn'", "give ddp_fork, or ddp")
    assert not Path("runs").exists()


def test_processes_end_with_the_one_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the background of a shell, where an interrupt, which torch sends them then, is ignored."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/events.py").write_text(EVENTS)
    monkeypatch.chdir(tmp_path / "run")
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        killed = session("never", *LONG, *FORKED, *event("SIGKILL"), "--trainer.max_epochs=3000")
    finally:
        signal.signal(signal.SIGINT, handler)
    assert killed.code == -signal.SIGKILL, killed
    (pid,) = (int(path.name.removeprefix("pid_")) for path in Path().glob("pid_*"))
    if not ended(pid):
        os.kill(pid, signal.SIGKILL)  # the other one then fails
        pytest.fail("a forked process outlives the one that has started it")


CHILD = """
import signal, subprocess, sys, time
from recipes.cli.run.signals import end_with_parent, handling_signals

end_with_parent()

def stop(signum, frame):
    print(signum, flush=True)
    sys.exit(128 + signum)

with handling_signals(stop):
    print("ready", flush=True)
    time.sleep(float(sys.argv[1]))
"""
PARENT = """
import subprocess, sys

child = subprocess.Popen([sys.executable, "-c", sys.argv[1], "600"])
print(child.pid, flush=True)
child.wait()
"""


def python(code: str, argument: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, "-c", code, argument], stdout=subprocess.PIPE, env=environment)


@pytest.mark.parametrize(
    ("signum", "heard", "code"),
    [
        (signal.SIGTERM, signal.SIGTERM, 143),
        (signal.SIGINT, signal.SIGTERM, 130),
        (signal.SIGUSR1, signal.SIGUSR1, 138),
        (None, None, 0),
    ],
)
def test_a_run_in_a_process_of_its_own_gets_the_signals(signum: int | None, heard: int | None, code: int) -> None:
    """An interrupt as SIGTERM: that of a terminal reaches it by itself, too, and would be a second one."""
    with python(CHILD, "0" if signum is None else "60") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        if signum is not None:
            threading.Timer(0.2, os.kill, (os.getpid(), signum)).start()
        assert _joined(process) == code
        assert process.stdout.read().decode().split() == ([] if heard is None else [str(int(heard))])


def test_a_process_of_ours_ends_with_its_parent() -> None:
    with python(PARENT, CHILD) as process:
        assert process.stdout is not None
        lines = {process.stdout.readline().decode().strip() for _ in range(2)}
        process.kill()
    (pid,) = lines - {"ready"}
    assert ended(int(pid))


class Odd(KeyError):
    def __init__(self, name: str, other: int) -> None:
        super().__init__(f"no {name}")


@pytest.mark.parametrize(
    "error", [ValueError("x"), FileNotFoundError(2, "No such file", "a.csv"), Odd("x", 1), torch.OutOfMemoryError("y")]
)
def test_errors_come_back_as_they_were(error: Exception) -> None:
    back = _unpacked(_packed(error))
    assert (type(back).__name__, str(back), back.args) == (type(error).__name__, str(error), error.args)
    assert isinstance(back, OSError) == isinstance(error, OSError)
    assert isinstance(back, KeyError) == isinstance(error, KeyError)
    assert getattr(back, "filename", None) == getattr(error, "filename", None)
