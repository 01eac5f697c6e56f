"""CONTRIBUTING.md: its files, written into an empty folder, do what the guide says."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import zoo
from recipes.cli import __main__ as cli
from zoo import registry

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE, flags=re.DOTALL | re.MULTILINE)
FILES = {found[1]: text for _, text in BLOCKS if (found := re.match(r"# (\w+\.(?:py|yaml))\n", text))}


@pytest.fixture
def folder(tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's folder, with the guide's files; what they register is forgotten again."""
    zoo.list_models()
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    monkeypatch.syspath_prepend(tmp_cwd)
    for name, text in FILES.items():
        Path(name).write_text(text.partition("\n")[2])
    yield tmp_cwd
    for name in FILES:
        sys.modules.pop(Path(name).stem, None)


@pytest.mark.filterwarnings("ignore")  # an example is written for its reader, not for a quiet log
def test_the_lines_of_python_run_in_their_order(folder: Path) -> None:
    names: dict[str, Any] = {}
    for kind, text in BLOCKS:
        if kind == "python" and text not in FILES.values():
            exec(text, names)
    assert set(names["report"].values()) == {"ok"}
    assert names["results"]["test/coverage"] == pytest.approx(0.9, abs=0.03)
    assert names["found"].flatten().tolist() == pytest.approx([2.303, 4.605], rel=0.15)


def test_the_lines_of_the_command_line_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for kind, text in BLOCKS if kind == "console" for line in text.splitlines()]
    assert len(lines) == 3
    for line in lines:
        program, *args = shlex.split(line)
        assert program == "zoo"
        assert cli.main(args) == 0, capsys.readouterr().err
    assert re.findall(r"expected +test/coverage >= 0.89: (\w+)", capsys.readouterr().out) == [
        "met",
        "not",
        "met",
    ]  # not compared: another quantile
    assert "examples_seen" in Path("runs/waiting_quantile/version_0/metrics.csv").read_text().partition("\n")[0]


def test_the_verb_runs(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = [text for kind, text in BLOCKS if kind == "text"]
    name, module, summary = re.fullmatch(r'"(\w+)": \("recipes\.cli\.verbs\.(\w+)", "(.*)"\),\n', line).groups()
    monkeypatch.setitem(cli.VERBS, name, (module, summary))
    assert cli.main(["size", "lenet5"]) == 0
    assert capsys.readouterr().out == "61,706\n"
    assert cli.main(["size"]) == 2
    assert (
        capsys.readouterr().err
        == "zoo: error: `zoo size` takes the name of one model, got 0 (`zoo models` lists them)\n"
    )
    assert cli.main(["--help"]) == 0
    assert summary in capsys.readouterr().out


def test_the_guide_names_what_exists() -> None:
    for path in re.findall(r"\]\(([\w/.]+)(?:#[\w-]+)?\)", GUIDE):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:zoo|datamodules|callbacks|recipes|tests|benchmarks)/[\w/.]+)`", GUIDE):
        assert (ROOT / path).exists(), path
    for command in re.findall(r"^\| `make (\w+)` \|", GUIDE, flags=re.MULTILINE):
        assert f"\n{command}: " in (ROOT / "Makefile").read_text(), command
