"""What the docs show runs: every example in a docstring, and the README's lines of Python."""

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

import zoo

ROOT = Path(__file__).parents[1]
FILES = [path for package in ("zoo", "datamodules", "callbacks", "recipes") for path in (ROOT / package).rglob("*.py")]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_give_what_they_say(name: str, tmp_cwd: Path) -> None:
    result = doctest.testmod(import_module(name))
    assert result.attempted
    assert not result.failed


@pytest.mark.filterwarnings("ignore")  # an example is written for its reader, not for a quiet log
def test_the_lines_of_python_in_the_readme_run(tmp_cwd: Path) -> None:
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        exec(block, names)
    assert isinstance(names["model"], zoo.Task)
