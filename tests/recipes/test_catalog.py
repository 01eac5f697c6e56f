"""Finding recipes and reading their headers."""

from pathlib import Path

import pytest
from cli_kit import Zoo, assert_one_line

from recipes.cli import catalog
from recipes.cli.errors import UserError

HEAD = """# A thing
# over two lines.
#   run     zoo fit -c mine
#   expect  test/acc >= 0.9 (measured 0.95,
#           0.94-0.96 over 3 seeds)
#   takes   a while
model: {}
# expect  not this one
"""


def test_read_parses_the_header(tmp_cwd: Path) -> None:
    Path("mine.yaml").write_text(HEAD)
    recipe = catalog.find("mine.yaml")
    assert recipe == catalog.Recipe(
        "mine",
        Path("mine.yaml"),
        "A thing over two lines.",
        "test/acc >= 0.9 (measured 0.95, 0.94-0.96 over 3 seeds)",
        "a while",
    )
    assert recipe.bound == ("test/acc", ">=", 0.9)


def test_header_round_trip(tmp_cwd: Path) -> None:
    recipe = catalog.Recipe(
        "cnn/x", Path("config.yaml"), "what", "val/loss <= 1e-3 (so)", "1 s", "fingerprint 0a (3 train / 1 val)"
    )
    Path("config.yaml").write_text(recipe.header() + "model: {}\n")
    assert catalog.find("config.yaml") == recipe
    assert recipe.bound == ("val/loss", "<=", 1e-3)


@pytest.mark.parametrize("text", ["", "published, not reproduced by us", "test/acc about 0.9"])
def test_no_bound(text: str) -> None:
    assert catalog.Recipe("x", Path("x"), expect=text).bound is None


def test_a_shipped_recipe_given_by_path_has_its_name() -> None:
    by_name = catalog.find("cnn/lenet_digits")
    assert by_name.name == "cnn/lenet_digits"
    assert catalog.find(str(by_name.path)) == by_name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cnn/lenet_digit", ["unknown recipe 'cnn/lenet_digit'", "did you mean 'cnn/lenet_digits'?"]),
        ("lenet_digits", ["did you mean 'cnn/lenet_digits'?"]),
        ("mine.yaml", ["no such recipe file: mine.yaml"]),
        (".", ["is a folder"]),
    ],
)
def test_find_refuses(tmp_cwd: Path, text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        catalog.find(text)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_binary_file_is_refused(tmp_cwd: Path) -> None:
    Path("x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        catalog.find("x.yaml")


def test_recipes_lists_all_with_bound_and_time(zoo: Zoo) -> None:
    out = zoo("recipes").out
    for recipe in catalog.shipped():
        line = next(line for line in out.splitlines() if line.startswith(recipe.name))
        assert recipe.summary in line
        assert recipe.takes in line
        expected = "{} {} {:g}  ".format(*recipe.bound) if recipe.bound else " ".join(recipe.expect.split()[:3])
        assert f"  {expected}" in line
        assert "(measured" not in line


def test_recipes_takes_part_of_a_name_or_a_pattern(zoo: Zoo) -> None:
    for pattern in ("lenet", "cnn/lenet*"):
        out = zoo("recipes", pattern).out
        assert "cnn/lenet_digits" in out
        assert "softmax" not in out
    assert_one_line(zoo("recipes", "cnn/lenet_digts"), "no recipe matches", "did you mean 'cnn/lenet_digits'?")
    assert_one_line(zoo("recipes", "a", "b"), "one pattern")
    assert_one_line(zoo("recipes", "--all"), "unknown option --all")
