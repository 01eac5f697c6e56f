"""Run benchmarks and write their tables: ``python -m benchmarks [name ...]``; without a name all of them.

Each benchmark has its own section in RESULTS.md, one for the CPU and, measured where there is a GPU, one for that; what is
not measured now stays as it stands there.
"""

import datetime
import os
import platform
import re
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.harness import Row, quiet

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
HEADER = """# Measured speed

Written by `make bench`. Ours and the peer take turns in one process, on one thread; times are CPU time of that thread (on a
GPU: wall clock, synchronized); a ratio is the median over the rounds with its range.
"""


def names() -> list[str]:
    """All benchmarks: the files of this folder, but for the machinery."""
    return sorted(p.stem for p in HERE.glob("*.py") if p.stem not in {"__init__", "__main__", "harness"})


def processor() -> str:
    """The model of the CPU."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def conditions(name: str, device: str) -> str:
    """Machine, versions, date and command."""
    machine = f"{processor()}, {os.cpu_count()} cores"
    if device != "cpu":
        machine = f"{torch.cuda.get_device_name()}; {machine}"
    packages = ("torch", "torchvision", "lightning", "torchmetrics", "lightning-zoo")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    today = datetime.date.today().isoformat()
    return f"{machine}; Python {platform.python_version()}, {versions}; {today}; `python -m benchmarks {name}`"


def table(rows: Iterable[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| what | ours | peer | comparison | target | met |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        met = "" if row.met is None else "yes" if row.met else "NO"
        lines.append(f"| {row.what} | {row.ours} | {row.peer} | {row.comparison} | {row.target} | {met} |")
    return "\n".join(lines)


def read_sections(text: str) -> dict[str, str]:
    """Heading -> what stands below it."""
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)[1:]
    return {heading: body.strip() for heading, body in zip(parts[::2], parts[1::2], strict=True)}


def main(chosen: list[str]) -> int:
    """Run the chosen benchmarks; 1 if a target is missed, 2 for an unknown name."""
    if unknown := sorted(set(chosen) - set(names())):
        print(f"no benchmark {', '.join(unknown)}: there are {', '.join(names())}", file=sys.stderr)
        return 2
    quiet()
    missed = False
    for name in chosen or names():
        benchmark = import_module(f"benchmarks.{name}")
        for device in getattr(benchmark, "DEVICES", ("cpu", "cuda")):
            if device == "cuda" and not torch.cuda.is_available():
                continue
            rows = benchmark.run(device)
            heading = benchmark.heading(device) if hasattr(benchmark, "heading") else f"{name} ({device})"
            note = benchmark.note(device) if hasattr(benchmark, "note") else ""
            print(f"{heading}\n{table(rows)}\n", flush=True)
            missed = missed or any(row.met is False for row in rows)
            # at once, so that a later failure or a second shell loses nothing
            sections = read_sections(RESULTS.read_text()) if RESULTS.exists() else {}
            sections[heading] = "\n\n".join(filter(None, (conditions(name, device), note, table(rows))))
            body = "\n".join(f"## {heading}\n\n{sections[heading]}\n" for heading in sorted(sections))
            RESULTS.write_text(f"{HEADER}\n{body}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
