"""What every test gets: one thread, a fixed seed, its own environment variables, no network and no W&B account."""

import gc
import inspect
import os
import random
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported, and handed on to the processes that tests start.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", MPLBACKEND="Agg", WANDB_MODE="offline", WANDB_SILENT="true")
for _name in list(os.environ):  # a shell inside a job must not make the tests part of that job
    if _name.startswith(("SLURM_", "PL_", "TORCHELASTIC_")) or _name in {
        "RANK",
        "LOCAL_RANK",
        "NODE_RANK",
        "WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "WANDB_API_KEY",
    }:
        del os.environ[_name]

# The background of a shell ignores Ctrl-C, and so would this process and those that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# "cuda": the contract of every model and tests/test_gpu_paths.py are on a real GPU (`make test-gpu`), as is the command line by
# itself where there is one. None: on none, or on the one of device_kit.py, which is not there.
DEVICE = os.environ.get("ZOO_TEST_DEVICE")

_LOCAL = {"", "localhost", "0.0.0.0", "::", "::1", socket.gethostname()}


def pytest_configure() -> None:
    """Refuse to test a GPU where there is none, before all tests fail one by one."""
    if DEVICE not in (None, "cuda"):
        raise pytest.UsageError(f"ZOO_TEST_DEVICE is 'cuda', or not set, got {DEVICE!r}")
    if DEVICE == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise pytest.UsageError(
                "the tests were asked to run on a GPU, and torch finds none: `make test` needs none"
            )
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # tests compare float32


def pytest_collection_finish() -> None:
    """What is imported and collected stays: the garbage collector need not look at it again, which took a tenth of all time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def pytest_sessionfinish() -> None:
    """At the end it is collected like all else: a library that finds its objects alive when Python ends would call them leaked."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _wandb_folders() -> Iterator[None]:
    """W&B's own folders, which it would put into the home folder."""
    with tempfile.TemporaryDirectory(prefix="wandb-") as folder:
        os.environ.update({f"WANDB_{kind}_DIR": folder for kind in ("CONFIG", "CACHE", "DATA", "ARTIFACT")})
        yield


@pytest.fixture(autouse=True)
def _isolation(_wandb_folders: None) -> Iterator[None]:
    """Seed every generator; afterwards put back the environment variables and what Trainer(deterministic=True) sets."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
    if torch := sys.modules.get("torch"):
        torch.use_deterministic_algorithms(False)
    if data := sys.modules.get("torch.utils.data"):
        _unpatch(data.DataLoader)
        _unpatch(data.BatchSampler)


def _unpatch(cls: type) -> None:
    """Undo what Lightning does to a class and those below it while a loader is made, and leaves there if that raises an error."""
    for name in ("__init__", "__setattr__", "__delattr__"):
        if f"__old{name}" in vars(cls):
            setattr(cls, name, inspect.unwrap(vars(cls)[name]))
            delattr(cls, f"__old{name}")
    for below in cls.__subclasses__():
        _unpatch(below)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, bytes]]]:
    """The repositories of a running hub."""
    from hub_kit import serve

    yield from serve(tmp_path, monkeypatch)


def _refuse_remote(host: Any) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    if isinstance(name, str) and name not in _LOCAL and not name.startswith(("127.", "::ffff:127.")):
        raise RuntimeError(f"a test tried to reach {name}: tests use no network")


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Refuse to look up or connect to anything but this machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            original = getattr(socket.socket, name)

            def guarded(self: socket.socket, address: Any, original: Any = original) -> Any:
                if self.family in (socket.AF_INET, socket.AF_INET6):
                    _refuse_remote(address[0])
                return original(self, address)

            patch.setattr(socket.socket, name, guarded)
        lookup = socket.getaddrinfo

        def guarded_lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
            _refuse_remote(host)
            return lookup(host, *args, **kwargs)

        patch.setattr(socket, "getaddrinfo", guarded_lookup)
        yield


@pytest.fixture
def tmp_cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of the test's own, which is also the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
