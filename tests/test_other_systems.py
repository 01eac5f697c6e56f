"""Windows and macOS: what only POSIX, or only Linux, has is not needed."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kit import quiet_trainer

import zoo
from callbacks import EMA, GracefulStop, LearningCurves, ModelFolder, RandomState
from datamodules import DigitsDataModule

ROOT = Path(__file__).parents[1]
PACKAGES = ("zoo", "datamodules", "callbacks", "recipes")
OS = ("fork", "forkpty", "getuid", "geteuid", "getgid", "getpgid", "killpg", "setsid", "sched_getaffinity", "mkfifo")
SIGNAL = ("pthread_sigmask", "pthread_kill", "sigwait", "alarm", "SIGHUP", "SIGQUIT", "SIGALRM")
# not SIGKILL and SIGUSR1: Lightning uses them unless the system is called Windows
POSIX_ONLY = {os: OS, signal: SIGNAL}
MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what Windows does not have, but what multiprocessing itself starts workers with here."""
    monkeypatch.setenv("LOGNAME", "me")  # Python itself would ask for the user's number
    for module, names in POSIX_ONLY.items():
        for name in set(names) - {"fork"}:
            monkeypatch.delattr(module, name, raising=False)


def test_no_source_imports_what_only_posix_has() -> None:
    word = re.compile(rf"^\s*(import|from) ({'|'.join(MODULES)})\b", re.MULTILINE)
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(sources) > 100
    assert [path.name for path in sources if word.search(path.read_text())] == []
    names = re.compile(rf"\b(os\.({'|'.join(OS)})|signal\.({'|'.join(SIGNAL)}|SIGKILL|SIGUSR1))\b")
    uses = [line for path in sources for line in path.read_text().splitlines() if names.search(line)]
    guarded = {"signal.pthread_sigmask", "os.sched_getaffinity"}  # behind a hasattr, see the fits below
    assert {match[0] for line in uses for match in names.finditer(line)} == guarded


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
@pytest.mark.usefixtures("elsewhere")
def test_a_fit_with_workers_needs_nothing_of_posix_alone(tmp_path: Path) -> None:
    model = zoo.create_model("softmax_regression", in_features=64, lr=0.1)
    data = DigitsDataModule(batch_size=64, num_workers=1)
    callbacks = [EMA(0.9), GracefulStop(tmp_path), LearningCurves(), ModelFolder(), RandomState()]
    trainer = quiet_trainer(*callbacks, max_epochs=1, limit_train_batches=3, default_root_dir=tmp_path)
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, verbose=False)
    assert trainer.global_step == 3
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(zoo.load(tmp_path / "model")(x), model.eval()(x))


ALONE = """
import os, signal, sys
import lightning.pytorch, matplotlib.pyplot, sklearn.datasets, torchvision, wandb  # other libraries look for themselves
for module, names in {names!r}.items():
    for name in names:
        vars(sys.modules[module]).pop(name, None)
sys.modules.update(dict.fromkeys({modules!r}))
from recipes.cli.__main__ import main
code = main(["fit", "-c", "linear/softmax_digits", "--trainer.max_epochs=1", "--trainer.limit_train_batches=3"])
code = code or main(["predict", "runs/linear/softmax_digits/version_0", sys.argv[1]])
sys.exit(code or main(["export", "runs/linear/softmax_digits/version_0", "-o", "model.pt2"]))
"""


@pytest.mark.slow
def test_the_command_line_needs_nothing_of_posix_alone(tmp_path: Path) -> None:
    """Everything is imported without it."""
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    names = {module.__name__: names for module, names in POSIX_ONLY.items()}
    own = [name for name in MODULES if name not in ("posix", "pwd", "grp", "termios", "tty")]  # the standard library's
    code = ALONE.format(names=names, modules=own)
    done = subprocess.run(
        [sys.executable, "-c", code, "black.png"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LOGNAME": "me"},  # Python itself would ask for the user's number
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.pt2").is_file()
