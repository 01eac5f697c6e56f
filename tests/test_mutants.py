"""The bugs of `make mutants` can be planted: their lines are still there, and so are the tests that shall catch them."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
mutants = runpy.run_path(str(ROOT / "tests" / "mutants" / "__main__.py"))
BUGS = mutants["read_bugs"]()


@pytest.mark.parametrize("file", sorted({bug.file for bug in BUGS}))
def test_bugs_of_a_file_can_be_planted(file: str) -> None:
    """Each line stands in the file once, and the bug is another line that Python reads."""
    text = (ROOT / file).read_text()
    for bug in BUGS:
        if bug.file == file:
            assert bug.planted(text) != text


def test_each_bug_is_listed_once_and_its_tests_exist() -> None:
    """No bug counts twice."""
    keys = [(bug.file, bug.line, bug.bug) for bug in BUGS]
    assert len(keys) == len(set(keys))
    missing = {test for bug in BUGS for test in bug.tests if not (ROOT / test.partition("::")[0]).exists()}
    assert not missing


def test_planting_a_bug_changes_its_line_alone_and_refuses_a_line_that_is_not_there() -> None:
    """Indentation stays; a line that is there twice, or no more, is an error."""
    text = "def f(x):\n    y = x\n    return y\n"
    bug = mutants["Bug"]("p", (), "f.txt", "y = x", "y = -x")
    assert bug.planted(text) == "def f(x):\n    y = -x\n    return y\n"
    for other in ("def f(x):\n    return 1\n", text + "    y = x\n"):
        with pytest.raises(ValueError, match=r"stands there [02] times"):
            bug.planted(other)
