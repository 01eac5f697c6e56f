"""Plant known bugs, one line each, and see whether the fast tests of the package catch them: ``make mutants``.

Every ``*.yaml`` here lists packages, the tests of each, and bugs; see :class:`Bug`. Each bug is planted alone in a copy of the
tree, and the tests run until the first failure, at most a minute of processor time. The outcome for all packages (no argument)
is written to docs/reliability.md.

    python tests/mutants                       # all of them, half an hour or more
    python tests/mutants --sample 100          # a hundred of them, drawn at random
    python tests/mutants zoo/losses callbacks  # those of some packages, nothing is written
"""

import argparse
import functools
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "reliability.md"
WORKERS = 2
_ERROR = 3  # pytest's own code for an error of its own
LIBRARIES = ("torch", "torchvision", "lightning.pytorch", "torchmetrics", "matplotlib.pyplot", "sklearn")
_kept: list[tempfile.TemporaryDirectory[str]] = []
HEADER = """# Reliability

A test suite is worth what it catches. `make mutants` plants bugs that a person could have made, each alone and one line long,
and runs the fast tests of the package where it stands until the first one fails, for at most {limit} s of processor time; a bug
that is not caught by then lives. A test that catches one passes without it. Bugs were chosen before looking whether a test is
there; where one lived, a test was written if a reasonable one exists, else the reason stands here.

Measured on {date} by `python tests/mutants{options}`: **{caught} of {planted} bugs caught ({share:.1%})**{listed}.
"""


@dataclass(frozen=True)
class Bug:
    """A line of a file, without its indentation, and what it becomes.

    Attributes:
        package: The package, for the table.
        tests: Test files and folders of the package, or single tests of a long file, in the order in which they run.
        file: Path from the root of the project.
        line: The line; it stands in the file exactly once.
        bug: What it is replaced by.
        lives: Why no test catches it; empty for those that a test must catch.
    """

    package: str
    tests: tuple[str, ...]
    file: str
    line: str
    bug: str
    lives: str = ""

    def planted(self, text: str) -> str:
        """Return the text of the file with the bug.

        Raises:
            ValueError: The line is not there exactly once, the bug changes nothing, or it is no Python.
        """
        lines = text.splitlines()
        places = [i for i, line in enumerate(lines) if line.strip() == self.line]
        if len(places) != 1:
            raise ValueError(f"{self.file}: the line {self.line!r} stands there {len(places)} times, must be once")
        if self.bug.strip() == self.line or "\n" in self.bug:
            raise ValueError(f"{self.file}: the bug must be another line than {self.line!r}")
        old = lines[places[0]]
        lines[places[0]] = old[: len(old) - len(old.lstrip())] + self.bug
        planted = "\n".join(lines) + "\n"
        if self.file.endswith(".py"):
            compile(planted, self.file, "exec")
        return planted

    def __str__(self) -> str:
        return f"{self.file}: {self.line}  ->  {self.bug}"


def read_bugs(packages: Iterable[str] = ()) -> list[Bug]:
    """Return the bugs of packages, of all of them by default."""
    parts = [part for path in sorted(HERE.glob("*.yaml")) for part in yaml.safe_load(path.read_text())]
    chosen = set(packages) or {part["package"] for part in parts}
    if unknown := chosen - {part["package"] for part in parts}:
        known = ", ".join(sorted({part["package"] for part in parts}))
        raise ValueError(f"no bugs in {', '.join(sorted(unknown))}: the packages are {known}")
    return [
        Bug(part["package"], tuple(part["tests"]), **bug)
        for part in parts
        for bug in part["bugs"]
        if part["package"] in chosen
    ]


def copy_tree(folder: Path) -> Path:
    """Copy the files of the project that git knows or would add."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def run_tests(tree: Path, tests: Sequence[str], limit: float) -> str | None:
    """Run tests in a copy of the tree until one fails, in a child that has the libraries already.

    Args:
        tree: The copy.
        tests: What pytest takes.
        limit: Seconds of processor time.

    Returns:
        The test that failed, or None if none did within the time.
    """
    with tempfile.TemporaryFile("w+") as output:
        if not (child := os.fork()):
            os.setsid()  # the processes that a test starts end with it
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit)))
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            os.chdir(tree)
            sys.path.insert(0, str(tree))
            # plugins that happen to be installed are not ours: pytest would find that the libraries have imported some already
            os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
            code = _ERROR  # never back into the code of the parent, whatever happens
            try:
                code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--tb=no", *tests])
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        ended, until = 0, time.monotonic() + 20 * limit  # a test may also wait for ever
        while not ended and time.monotonic() < until:
            time.sleep(0.05)
            ended, status = os.waitpid(child, os.WNOHANG)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if not ended:
            os.waitpid(child, 0)
            return None
        if os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0:
            return None
        output.seek(0)
        text = output.read()
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", text, re.MULTILINE)
    if not failed:
        raise RuntimeError(f"pytest ended with {os.WEXITSTATUS(status)}: {text[-1000:]}")
    return failed[0]


def plant(bug: Bug, limit: float) -> str | None:
    """Plant a bug in this process's copy of the tree, run the tests, and take it out again; return the test that caught it."""
    path = _own_tree() / bug.file
    text, stat = path.read_text(), path.stat()
    try:
        path.write_text(bug.planted(text))
        os.utime(path, (time.time(), time.time()))  # another time than any other version had: bytecode is made anew
        caught = run_tests(_own_tree(), bug.tests, limit)
    finally:
        path.write_text(text)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    print(f"{'caught' if caught else 'LIVES '}  {bug}", flush=True)
    return caught


@functools.cache
def _own_tree() -> Path:
    """Return the copy of the tree of this process, which is removed when it ends."""
    folder = tempfile.TemporaryDirectory(prefix="mutants-")
    _kept.append(folder)
    return copy_tree(Path(folder.name))


def run_all(bugs: Sequence[Bug], limit: float) -> dict[Bug, str | None]:
    """Return, for each bug, the test that caught it or None.

    Raises:
        RuntimeError: One of these tests fails without a bug, too.
    """
    for library in LIBRARIES:  # once, for all children
        import_module(library)
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork")) as workers:
        outcome = dict(zip(bugs, workers.map(plant, bugs, [limit] * len(bugs)), strict=True))
    if tests := sorted({test for test in outcome.values() if test is not None}):
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", *tests]
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if process.returncode:
            raise RuntimeError(f"tests fail without a bug: {process.stdout[-3000:]}")
    return outcome


def cell(text: str) -> str:
    """Return text as code in a cell of a table."""
    return f"`` {text} ``".replace("|", "\\|")


def page(outcome: dict[Bug, str | None], listed: int, limit: float, date: str) -> str:
    """Return docs/reliability.md.

    Args:
        outcome: The tests that caught bugs.
        listed: Number of bugs in all lists.
        limit: Seconds for each.
        date: Today.
    """
    caught = sum(test is not None for test in outcome.values())
    whole = len(outcome) == listed
    options = "" if whole else f" --sample {len(outcome)}"
    of_all = "" if whole else f", drawn at random from the {listed} that are listed"
    text = HEADER.format(
        limit=f"{limit:g}",
        date=date,
        options=options,
        caught=caught,
        planted=len(outcome),
        share=caught / len(outcome),
        listed=of_all,
    )
    packages = dict.fromkeys(bug.package for bug in outcome)
    text += "\n| package | planted | caught |\n| --- | --- | --- |\n"
    for package in packages:
        own = [test for bug, test in outcome.items() if bug.package == package]
        text += f"| {package} | {len(own)} | {sum(test is not None for test in own)} |\n"
    text += "\n## Those that live\n\n"
    living = [bug for bug, test in outcome.items() if test is None]
    for bug in living:
        text += f"- {bug.file}: {cell(bug.line)} became {cell(bug.bug)}: {bug.lives or 'not explained yet'}\n"
    text += "" if living else "None.\n"
    text += "\n## Those that were caught\n"
    for package in packages:
        text += f"\n### {package}\n\n| file | line | bug | caught by |\n| --- | --- | --- | --- |\n"
        for bug, test in outcome.items():
            if bug.package == package and test is not None:
                name = test.removeprefix("tests/").partition("[")[0]
                text += f"| {bug.file.removeprefix(package + '/')} | {cell(bug.line)} | {cell(bug.bug)} | {name} |\n"
    return text


def main(arguments: list[str]) -> int:
    """Plant the bugs of the packages named, or all; return 1 where one lives without a reason."""
    parser = argparse.ArgumentParser(prog="make mutants", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("packages", nargs="*", help="packages as in the lists; all by default")
    parser.add_argument(
        "--limit", type=float, default=60, metavar="SECONDS", help="of processor time for the tests of one bug (60)"
    )
    parser.add_argument("--sample", type=int, metavar="N", help="number of bugs to draw at random; all by default")
    options = parser.parse_args(arguments)
    bugs = listed = read_bugs(options.packages)
    for bug in bugs:
        bug.planted((ROOT / bug.file).read_text())  # an error comes before the work
    if options.sample:
        bugs = sorted(random.Random(0).sample(bugs, min(options.sample, len(bugs))), key=bugs.index)
    os.environ.update(OMP_NUM_THREADS="1", MPLBACKEND="Agg")
    outcome = run_all(bugs, options.limit)
    living = [bug for bug, test in outcome.items() if test is None]
    print(f"{len(bugs) - len(living)} of {len(bugs)} bugs caught")
    if not options.packages:
        PAGE.write_text(page(outcome, len(listed), options.limit, time.strftime("%Y-%m-%d")))
    return int(any(not bug.lives for bug in living))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
