"""How long the commands that need no model take to answer, each time in a fresh process, the interpreter's start included."""

import os
import subprocess
import sys
import time
from functools import partial

from benchmarks.harness import Row, alternate, spread

DEVICES = ("cpu",)
ROUNDS = 9
HEAVY = {"torch", "lightning"}


def command(*arguments: str) -> str:
    """The source of a process that is ``zoo ARGUMENTS``."""
    return f"""
from recipes.cli.__main__ import main
try:
    code = main({list(arguments)!r})
except SystemExit as end:
    code = end.code
assert not code, code
"""


CASES = {
    "import zoo": ("import zoo", 0.1),
    "zoo --help": (command("--help"), 0.5),
    "zoo --version": (command("--version"), 0.5),
    "zoo recipes": (command("recipes"), 0.5),
}


def start(source: str) -> tuple[float, float, set[str]]:
    """CPU time and wall clock of a fresh interpreter, in seconds, and the heavy modules it has imported at its end."""
    source += f"\nimport sys\nprint(*({HEAVY!r} & sys.modules.keys()), file=sys.stderr)"
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    told = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall, process.returncode = time.perf_counter() - started, os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"a process ended with {process.returncode}: {told}")
    return usage.ru_utime + usage.ru_stime, wall, set(told.split())


def run(device: str = "cpu") -> list[Row]:
    """All rows of this benchmark."""
    walls: dict[str, list[float]] = {name: [] for name in CASES}
    heavy: dict[str, set[str]] = {}

    def timed(name: str) -> float:
        cpu, wall, heavy[name] = start(CASES[name][0])
        walls[name].append(wall)
        return cpu

    times = alternate({name: partial(timed, name) for name in CASES}, ROUNDS)
    rows = []
    for name, (_, limit) in CASES.items():
        cpu, wall = spread(times[name]), spread(walls[name][1:])
        imports = ", ".join(sorted(heavy[name])) or "neither torch nor lightning"
        rows.append(
            Row(
                f"`{name}`: CPU time",
                f"{cpu:.3f} s",
                "",
                f"wall clock {wall:.3f} s; imports {imports}",
                f"< {limit} s, neither torch nor lightning",
                cpu.median < limit and not heavy[name],
            )
        )
    return rows
