"""``zoo examples``: the files are those of the generator, what is there is kept, and every command that is shown works."""

import csv
import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_kit import Zoo, assert_one_line
from PIL import Image

from recipes.cli.verbs.examples import BUNDLED, EXAMPLES

FILES = [name for example in EXAMPLES for name in example.files]
COMMANDS = [command for example in EXAMPLES for command in example.commands]


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("make_examples", BUNDLED / "make_examples.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_those_of_the_generator() -> None:
    made = generator()
    texts, images = made.texts(), made.images()
    assert {*texts, *images, "co2.csv"} == set(FILES)
    for name, text in texts.items():
        assert (BUNDLED / name).read_bytes().decode() == text, name
    for name, pixels in images.items():
        assert np.array_equal(np.asarray(Image.open(BUNDLED / name)), pixels), name
    note = (BUNDLED / "examples.md").read_text()
    assert all(f"`{name}`" in note for name in FILES)
    assert sum((BUNDLED / name).stat().st_size for name in FILES) < 50_000


def test_they_are_copied_as_they_are_and_each_has_a_command(zoo: Zoo) -> None:
    result = zoo("examples")
    assert result.code == 0
    assert sorted(path.name for path in Path("examples").iterdir()) == sorted(FILES)
    assert result.out.startswith(f"{len(FILES)} files in examples\n")
    for name in FILES:
        assert Path("examples", name).read_bytes() == (BUNDLED / name).read_bytes()
        assert re.search(rf"(?m)^  zoo .*\bexamples/{name}\b", result.out), name
    assert max(map(len, result.out.splitlines())) <= 90


def test_what_is_there_is_kept(zoo: Zoo) -> None:
    assert zoo("examples", "a b/c").code == 0
    assert "'a b/c/three.png'" in zoo("examples", "a b/c").out  # as a shell reads it
    own = Path("a b/c/co2.csv")
    own.write_text("my own")
    (Path("a b/c") / "three.png").unlink()
    assert_one_line(zoo("examples", "a b/c"), "a b/c/co2.csv exists and is not the example", "--overwrite")
    assert own.read_text() == "my own"
    assert not Path("a b/c/three.png").exists()  # nothing is written before all is looked at
    assert zoo("examples", "a b/c", "--overwrite").out.startswith("2 files in a b/c, where 8 were already\n")
    assert own.read_bytes() == (BUNDLED / "co2.csv").read_bytes()
    assert zoo("examples", "a b/c").out.startswith("0 files in a b/c, where 10 were already\n")


def test_a_folder_that_cannot_be_written(zoo: Zoo) -> None:
    Path("file").write_text("")
    assert_one_line(zoo("examples", "file"), "file is a file")
    assert_one_line(zoo("examples", "file/below"), "cannot write", "file")
    Path("taken/three.png").mkdir(parents=True)
    assert_one_line(zoo("examples", "taken"), "taken/three.png exists")
    assert_one_line(zoo("examples", "taken", "--overwrite"), "cannot write", "three.png")


@pytest.mark.parametrize(
    "command",
    [pytest.param(c, marks=[pytest.mark.slow] if c.startswith("zoo finetune") else []) for c in COMMANDS],
)
def test_its_commands_work(zoo: Zoo, command: str) -> None:
    zoo("examples", ".")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    result = zoo(*shlex.split(command)[1:])
    assert result.code == 0, result.err
    assert not result.err
    assert all(path.read_bytes() == content for path, content in before.items())


def test_the_bundled_nets_are_right_about_them(zoo: Zoo) -> None:
    """Columns of the tables that are printed, against what the files say."""
    zoo("examples", ".")

    def column(name: str, *command: str) -> list[str]:
        head, rule, *rows = zoo("predict", *command).out.splitlines()
        start = head.index(name)
        end = start + rule[start:].find(" ") if " " in rule[start:] else None
        return [row[start:end].strip() for row in rows]

    for net in ("lenet5_digits", "resnet20_digits"):
        assert column("label", net, "three.png", "eight.png") == ["3", "8"]
    with Path("signals.csv").open(newline="") as file:
        assert column("label", "mnist1d_fcn", "signals.csv") == [row["digit"] for row in csv.DictReader(file)]
    dates = [line.split("\t")[1] for line in Path("dates.txt").read_text(encoding="utf-8").splitlines()]
    for net in ("dates_gru", "dates_transformer"):
        assert column("text", net, "dates.txt") == dates
    perplexities = [*map(float, column("perplexity", "char_lm", "sentences.txt"))]
    assert 1 < perplexities[0] < perplexities[1] < perplexities[2]
