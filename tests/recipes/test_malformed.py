"""Hundreds of malformed command lines: each ends in one line that names the option and the cure, with exit code 2."""

import os
import shlex
from pathlib import Path

import malformed
import pytest
from cli_kit import Zoo

from recipes.cli.run.session import Session

TABLES = {
    name: getattr(malformed, name)
    for name in ("VERBS", "RUNS", "OTHERS", "UNKNOWN", "CLASSES", "TYPES", "RANGES", "MORE", "STARTED")
}


def problems(zoo: Zoo, table: list[tuple[str, str]], started: bool = False) -> list[str]:
    """Run the rows of a table and describe those that end in any other way."""
    wrong = []
    for line, words in table:
        result = zoo(*shlex.split(line))
        lines = result.err.strip().splitlines()
        missing = [word for word in words.split(" & ") if word not in result.err]
        if result.code != 2 or len(lines) != 1 or missing or (result.out and not started):
            wrong.append(f"{line}\n  [{result.code}] {result.err[-600:]}{result.out[-200:]}  lacks {missing}")
    return wrong


@pytest.fixture
def trains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is accepted ends at once with an exit code that no table expects."""
    for name in ("fit", "evaluate"):
        monkeypatch.setattr(Session, name, lambda self: 99)


def test_there_are_enough_rows() -> None:
    lines = [line for table in TABLES.values() for line, _ in table]
    assert len(lines) + len(malformed.FILES) >= 400
    assert len(lines) == len(set(lines)), sorted(line for line in set(lines) if lines.count(line) > 1)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == "MORE" else ()) for name in TABLES if name != "STARTED"],
)
@pytest.mark.usefixtures("trains_nothing")
def test_a_malformed_command_line_ends_in_one_line(zoo: Zoo, name: str) -> None:
    wrong = problems(zoo, TABLES[name])
    assert not wrong, f"{len(wrong)} of {len(TABLES[name])}:\n" + "\n".join(wrong)
    assert os.listdir() == []


@pytest.mark.parametrize("row", [pytest.param(slice(2)), pytest.param(slice(2, None), marks=pytest.mark.slow)])
def test_what_only_a_run_can_refuse_ends_in_one_line(zoo: Zoo, row: slice) -> None:
    wrong = problems(zoo, malformed.STARTED[row], started=True)
    assert not wrong, "\n".join(wrong)


@pytest.mark.usefixtures("trains_nothing")
def test_a_malformed_file_is_named(zoo: Zoo) -> None:
    table = []
    for name, content, words in malformed.FILES:
        Path(f"{name}.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
        table.append((f"fit {name}.yaml", words))
    wrong = problems(zoo, table)
    assert not wrong, f"{len(wrong)} of {len(table)}:\n" + "\n".join(wrong)
    assert {path.suffix for path in Path().iterdir()} == {".yaml"}
