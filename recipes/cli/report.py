"""``zoo --version``: the version, and the facts about the machine that a bug report needs. Imports no torch."""

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

from zoo.version import zoo_version

_PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy", "wandb")


def report() -> str:
    """Return the environment, one fact per line."""
    first, *rest = facts().items()
    return "\n".join([" ".join(first), *(f"  {name:<13} {value}" for name, value in rest)])


def facts() -> dict[str, str]:
    """Return the version, those of the packages, and facts about the machine."""
    return {
        "lightning-zoo": zoo_version(),
        "Python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        **{name: _version(name) for name in _PACKAGES},
        "GPU": _gpu(),
        "CPU": f"{_cores()} cores",
        "memory": _memory(),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _gpu() -> str:
    if shutil.which("nvidia-smi") is None:
        return "none (no nvidia-smi)"
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, errors="replace", timeout=3, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"nvidia-smi failed: {error}"
    return "; ".join(done.stdout.split("\n")).strip("; ") or "none"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):
        return "unknown"
