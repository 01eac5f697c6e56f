"""Real processes: signals, kills, several ranks."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cli_kit import RECIPE
from killed import ended

pytestmark = pytest.mark.slow
RUN = Path("runs", RECIPE, "version_0")
ROOT = Path(__file__).parents[2]
EPOCHS = 40


def start(*args: str, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "recipes.cli", *args]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, out + err
    return out, err


def wait_for_epoch(process: subprocess.Popen[str], epoch: int) -> None:
    assert process.stdout
    for line in process.stdout:
        if line.startswith(f"epoch {epoch}/"):
            return
    raise AssertionError("it ended before")


def state(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        finish(start("fit", "-c", RECIPE, f"--trainer.max_epochs={EPOCHS}"))
    return folder / RUN


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_stopped_run_resumes_to_the_same_bits(tmp_cwd: Path, uninterrupted: Path, signum: int, code: int) -> None:
    process = start("fit", "-c", RECIPE, f"--trainer.max_epochs={EPOCHS}")
    wait_for_epoch(process, 3)
    process.send_signal(signum)
    out, err = finish(process, code)
    assert err == ""
    assert ("resume with: zoo fit --resume" in out) is (signum != signal.SIGKILL)
    out, err = finish(start("fit", "-c", RECIPE, "--resume"))
    assert err == ""
    assert "resumes at step" in out
    one, two = state(RUN), state(uninterrupted)
    assert all(torch.equal(one[key], two[key]) for key in two)
    rows, wanted = ([*csv.DictReader((run / "metrics.csv").read_text().splitlines())] for run in (RUN, uninterrupted))
    assert [row["step"] for row in rows] == [row["step"] for row in wanted]
    if signum != signal.SIGKILL:  # a kill may take a row that was not written yet
        assert rows == wanted


def test_a_run_killed_again_and_again_ends_with_the_same_bits(tmp_cwd: Path, uninterrupted: Path) -> None:
    """Each kill is at another moment of an epoch; what is lost of the metrics is told."""
    args = ["-c", RECIPE, f"--trainer.max_epochs={EPOCHS}"]
    told = ""
    for epoch, delay in ((2, 0.0), (5, 0.03), (9, 0.06), (14, 0.1), (20, 0.15)):
        process = start("fit", *args)
        wait_for_epoch(process, epoch)
        time.sleep(delay)
        process.kill()
        told += finish(process, -signal.SIGKILL)[1]
        args = ["-c", RECIPE, "--resume"]
    told += finish(start("fit", *args))[1]
    one, two = state(RUN), state(uninterrupted)
    assert all(torch.equal(one[key], two[key]) for key in two)
    rows, wanted = ([*csv.DictReader((run / "metrics.csv").read_text().splitlines())] for run in (RUN, uninterrupted))
    assert len({row["step"] for row in rows}) == len(rows)
    missing = [row["step"] for row in wanted if row["step"] not in {row["step"] for row in rows}]
    assert not missing or "are lost" in told
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]


def test_a_signal_before_training_leaves_nothing(tmp_cwd: Path) -> None:
    process = start("fit", "-c", RECIPE)
    time.sleep(1.0)  # it imports
    process.send_signal(signal.SIGTERM)
    out, err = finish(process, 143)
    assert (out, err) == ("", "")
    assert os.listdir() == []


def test_a_progress_bar_on_a_terminal(tmp_cwd: Path) -> None:
    import pty

    leader, follower = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-m", "recipes.cli", "fit", "-c", RECIPE, "--trainer.max_epochs=2"]
    process = subprocess.Popen(command, env=environment, stdout=follower, stderr=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            chunk = os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(leader)
    assert process.wait(60) == 0
    text = shown.decode()
    assert "━" in text
    assert re.search(r"epoch 2/2 .*val/acc", text)
    assert "v_num" not in text
    log = (RUN / "log.txt").read_text()
    assert "━" not in log
    assert "\x1b" not in log
    assert "epoch 2/2" in log


def test_two_processes_train_in_one_run_folder(tmp_cwd: Path) -> None:
    out, err = finish(
        start("fit", "-c", RECIPE, "--trainer.devices=2", "--data.batch_size=32", "--trainer.max_epochs=3")
    )
    assert err == ""
    assert out.count("epoch 3/3") == 1
    assert out.count("run folder") == 1
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    names = {path.name for path in RUN.iterdir()}
    files = {".lock", "config.yaml", "metrics.csv", "curves.png", "log.txt", "results.json", "run.json"}
    files |= {"confusion.json", "report.html"}
    counts, results = (json.loads((RUN / name).read_text()) for name in ("confusion.json", "results.json"))
    assert sum(counts["true"]) == 360  # of both processes
    assert sum(counts["right"]) / 360 == pytest.approx(results["metrics"]["test/acc"])
    assert names == {*files, "checkpoints", "samples"}
    assert {path.name for path in (RUN / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_two_processes_print_an_error_once(tmp_cwd: Path) -> None:
    _, err = finish(start("fit", "-c", "cnn/lenet_digits", "--trainer.devices=2", "--data.size=30"), 2)
    assert err.count("zoo: error: ") == 1
    assert "set the datamodule's size=32" in err
    assert os.listdir() == []


def test_two_nodes_train_in_one_run_folder(tmp_cwd: Path) -> None:
    """Start each process by itself with its rank in variables, as torchrun does."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [
        start(
            "fit",
            "-c",
            RECIPE,
            "--trainer.num_nodes=2",
            "--trainer.max_epochs=2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            WORLD_SIZE="2",
            RANK=str(rank),
            GROUP_RANK=str(rank),
            LOCAL_RANK="0",
            TORCHELASTIC_RUN_ID="x",
        )
        for rank in (0, 1)
    ]
    (out, err), (quiet, also_quiet) = [finish(process) for process in ranks]
    assert "epoch 2/2" in out
    assert (err, quiet, also_quiet) == ("", "", "")
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    assert {path.name for path in (RUN / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_sigterm_saves_and_stops_two_processes(tmp_cwd: Path) -> None:
    args = ("-c", RECIPE, "--trainer.devices=2")
    process = start("fit", *args)
    wait_for_epoch(process, 3)
    process.send_signal(signal.SIGTERM)
    finish(process, 143)
    out, _ = finish(start("fit", "-c", RECIPE, "--resume", "--trainer.max_epochs=8"))
    assert "resumes at step" in out


def test_sigterm_to_one_of_two_processes_alone_in_the_test_part_ends_both(tmp_cwd: Path) -> None:
    """Lightning's handler would wait in it for the other one, for ever."""
    Path("waits.py").write_text(
        "import os, signal, time\nfrom pathlib import Path\nfrom lightning.pytorch import Callback\n\n"
        "class AtTest(Callback):\n"
        "    def on_test_start(self, trainer, module):\n"
        "        Path(f'pid_{os.getpid()}').touch()\n"
        "        if not trainer.is_global_zero:\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    process = start(
        *("fit", "-c", RECIPE, "--trainer.devices=2", "--trainer.max_epochs=1", "--trainer.callbacks+=waits.AtTest")
    )
    process.communicate(timeout=240)
    assert process.returncode != 0
    pids = [int(path.name.removeprefix("pid_")) for path in Path().glob("pid_*")]
    assert len(pids) == 2
    assert all(map(ended, pids))
