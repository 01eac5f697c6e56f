"""Plant known bugs, one line each, and see whether the fast tests of the package catch them: ``make mutants``.

Every ``*.yaml`` here lists packages, the tests of each, and bugs; see :class:`Bug`. Each bug is planted alone in a copy of the
tree, and the tests run until the first failure, at most a minute. With all packages (no argument) the outcome is written to
docs/reliability.md.

    python tests/mutants                       # all of them
    python tests/mutants zoo/losses callbacks  # those of some packages, nothing is written
    python tests/mutants --limit 300 callbacks # on a machine that is busy
"""

import argparse
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "reliability.md"
WORKERS = 2
HEADER = """# Reliability

A test suite is worth what it catches. `make mutants` plants bugs that a person could have made, each alone and one line long, and
runs the fast tests of the package where it stands until the first one fails, for at most {limit} s; a bug that is not caught by
then lives. Bugs were chosen before looking whether a test is there; where one lived, a test was written if a reasonable one exists,
else the reason stands here.

Measured on {date} by `make mutants`: **{caught} of {planted} bugs caught ({share:.1%})**.
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
    """Run tests in a copy of the tree until one fails.

    Returns:
        The test that failed, or None if none did within the time.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", *tests]
    process = subprocess.Popen(
        command,
        cwd=tree,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a test's own processes end with it
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return None
    if process.returncode == 0:
        return None
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    return failed[0] if failed else f"pytest ended with {process.returncode}: {output[-300:]}"


def plant(bug: Bug, tree: Path, limit: float) -> str | None:
    """Plant a bug in a copy of the tree, run the tests, and take it out again; return the test that caught it."""
    path = tree / bug.file
    text, stat = path.read_text(), path.stat()
    try:
        path.write_text(bug.planted(text))
        os.utime(path, (time.time(), time.time()))  # another time than any other version had: bytecode is made anew
        return run_tests(tree, bug.tests, limit)
    finally:
        path.write_text(text)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def run_all(bugs: Sequence[Bug], limit: float) -> dict[Bug, str | None]:
    """Return, for each bug, the test that caught it or None; each package's tests run once without a bug before.

    Raises:
        RuntimeError: The tests of a package fail without a bug.
    """
    outcome: dict[Bug, str | None] = {}
    broken: list[str] = []
    work: queue.SimpleQueue[tuple[str, ...] | Bug] = queue.SimpleQueue()
    for tests in dict.fromkeys(bug.tests for bug in bugs):
        work.put(tests)
        for bug in bugs:
            if bug.tests == tests:
                work.put(bug)

    def worker() -> None:
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
            tree = copy_tree(Path(folder))
            while not broken:
                try:
                    item = work.get_nowait()
                except queue.Empty:
                    return
                if isinstance(item, Bug):
                    outcome[item] = plant(item, tree, limit)
                    print(f"{'caught' if outcome[item] else 'LIVES '}  {item}", flush=True)
                elif failed := run_tests(tree, item, limit):
                    broken.append(failed)

    threads = [threading.Thread(target=worker) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if broken:
        raise RuntimeError(f"a test fails without a bug: {broken[0]}")
    return outcome


def cell(text: str) -> str:
    """Return text as code in a cell of a table."""
    return f"`` {text} ``".replace("|", "\\|")


def page(outcome: dict[Bug, str | None], limit: float, date: str) -> str:
    """Return docs/reliability.md."""
    caught = sum(test is not None for test in outcome.values())
    text = HEADER.format(
        limit=f"{limit:g}", date=date, caught=caught, planted=len(outcome), share=caught / len(outcome)
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
    parser.add_argument("--limit", type=float, default=60, metavar="SECONDS", help="for the tests of one bug (60)")
    options = parser.parse_args(arguments)
    bugs = read_bugs(options.packages)
    for bug in bugs:
        bug.planted((ROOT / bug.file).read_text())  # an error comes before the work
    done = run_all(bugs, options.limit)
    outcome = {bug: done[bug] for bug in bugs}
    living = [bug for bug, test in outcome.items() if test is None]
    print(f"{len(bugs) - len(living)} of {len(bugs)} bugs caught")
    if not options.packages:
        PAGE.write_text(page(outcome, options.limit, time.strftime("%Y-%m-%d")))
    return int(any(not bug.lives for bug in living))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
