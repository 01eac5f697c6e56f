"""Finding recipes and reading their headers."""

import re
from pathlib import Path

import pytest
import yaml
from cli_kit import RECIPE, Zoo, assert_one_line

from recipes.cli import catalog
from recipes.cli.errors import UserError
from recipes.cli.text import columns

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
        "cnn/x",
        Path("config.yaml"),
        "what",
        "val/loss <= 1e-3 (so)",
        "1 s",
        "fingerprint 0a (3 train / 1 val)",
        "data.size, model",
        "wandb-offline",
    )
    Path("config.yaml").write_text(recipe.header() + "model: {}\n")
    assert catalog.find("config.yaml") == recipe
    assert recipe.bound == ("val/loss", "<=", 1e-3)


def test_comments_that_begin_like_the_fields_of_a_run_are_comments(tmp_cwd: Path) -> None:
    text = "changed from the paper: all; data of mine; logger as you like"
    Path("mine.yaml").write_text("# " + text.replace("; ", "\n# ") + "\nmodel: {}\n")
    recipe = catalog.find("mine.yaml")
    assert recipe.summary == text.replace("; ", " ")
    assert not recipe.changed + recipe.data + recipe.logger


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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe\x00", "x.yaml is not a text file"),
        (b"\x89PNG\r\n\x1a\n secret", "x.yaml is not a text file"),
        (b"secret " * 300_000, "x.yaml has 2.1 MB"),
        (b"import secret\n\nsecret.run()\n", "x.yaml holds text"),
        (
            b"def secret(x):\n    return {x: 1}[secret]\n",
            "x.yaml has a key that is no section",
        ),
        (b"secret\0secret", "x.yaml is not valid YAML"),
        (b'["secret", 1]', "x.yaml holds a list"),
        (b"3.5", "x.yaml holds a number"),
        (b"", "x.yaml is empty"),
        (b"# a comment alone\n", "x.yaml is empty"),
        (
            b"model: {class_path: secret, init_args: {lr",
            "x.yaml is not valid YAML: expected ',' or '}'",
        ),
        (
            b"model: !!python/object/apply:secret []",
            "x.yaml is not valid YAML: could not determine a constructor for the tag",
        ),
        (b"model: 2020-99-99", "x.yaml is not valid YAML"),
        (b"[" * 5000, "x.yaml is nested too deeply"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_without_its_content(
    zoo: Zoo, trained: Path, content: bytes, words: str
) -> None:
    Path("x.yaml").write_bytes(content)
    result = zoo("fit", "-c", "x.yaml")
    assert_one_line(result, words)
    assert len(result.err) < 250
    assert "secret" not in result.err.replace("python/object/apply:secret", "")
    (trained / "config.yaml").write_bytes(content)
    again = zoo("fit", "--resume", trained)
    assert_one_line(again, words.replace("x.yaml", f"{trained}/config.yaml"))


@pytest.mark.parametrize("option", ["--data", "--model", "--trainer", "--trainer.callbacks", "--trainer.callbacks+"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG secret", "x.png is not a text file"),
        (b"secret", "x.png holds text"),
        (b"secret: [", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_section_is_refused_without_its_content(
    zoo: Zoo, option: str, content: bytes, words: str
) -> None:
    Path("x.png").write_bytes(content)
    for args in ([option, "x.png"], [f"{option}=x.png"]):
        result = zoo("fit", "-c", RECIPE, *args)
        assert_one_line(result, "x.png", words)
        assert "secret" not in result.err


@pytest.mark.parametrize(
    "name",
    [
        "../../escape",
        "/tmp/escape",
        "a/../../escape",
        "a//b",
        "a b",
        "./a",
        ".a",
        "-a",
        "a/",
        "a\tb",
        "~/a",
        "C:\\a",
    ],
)
def test_a_name_that_could_lead_out_of_the_runs_is_refused(zoo: Zoo, tmp_cwd: Path, name: str) -> None:
    Path("work").mkdir()
    Path("work/mine.yaml").write_text(f"#   recipe  {name}\nmodel: {{class_path: zoo.LeNetClassifier}}\n")
    result = zoo("fit", "-c", "work/mine.yaml", "--runs", "work/runs")
    assert_one_line(result, "the line `recipe` of work/mine.yaml has", "letters, digits, _, -, . and single slashes")
    assert "\x1b" not in result.err
    assert [path.name for path in Path().rglob("*")] == ["work", "mine.yaml"]


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("mine", "mine"),
        ("my first net", "my_first_net"),
        ("größe-2.0", "größe-2.0"),
        ("..a", "a"),
        ("a\nmodel: b", "a_model_b"),
        ("...", "recipe"),
    ],
)
def test_the_name_of_a_file_is_made_a_name(tmp_cwd: Path, stem: str, name: str) -> None:
    Path(f"{stem}.yaml").write_text("model: {}\n")
    recipe = catalog.find(f"{stem}.yaml")
    assert recipe.name == name
    Path("config.yaml").write_text(recipe.header() + "model: {}\n")
    assert catalog.find("config.yaml").name == name


def test_a_recipe_is_not_hidden_by_a_folder_or_file_of_its_name(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("runs/linear/softmax_digits").mkdir(parents=True)
    monkeypatch.chdir("runs")
    result = zoo("fit", "-c", "linear/softmax_digits", "--trainer.fast_dev_run=true")
    assert result.code == 0, result.err
    assert "note:" not in result.out
    Path("linear/softmax_digits").rmdir()
    Path("linear/softmax_digits").write_text("# mine\ntrainer: {max_epochs: 3}\n")
    result = zoo("fit", "-c", "linear/softmax_digits", "--trainer.fast_dev_run=true")
    assert result.code == 0, result.err
    assert "note: linear/softmax_digits is the recipe of that name: the file is ./linear/softmax_digits" in result.out
    assert catalog.find("./linear/softmax_digits").summary == "mine"


def test_a_run_folder_is_no_recipe_but_has_one(tmp_cwd: Path) -> None:
    Path("run").mkdir()
    Path("run/config.yaml").write_text("model: {}\n")
    with pytest.raises(UserError, match=r"run is a folder: give run/config\.yaml"):
        catalog.find("run")


def test_the_list_has_every_recipe_within_80_columns(zoo: Zoo) -> None:
    lines = zoo("recipes").out.splitlines()
    assert max(map(len, lines)) <= 80
    for recipe in catalog.shipped():
        line = next(line for line in lines if line.startswith(f"{recipe.name} "))
        assert recipe.title in line
        assert line.endswith(f"  {recipe.time}")
        assert re.fullmatch(r"\d+ (s|epochs)", recipe.time)
    assert re.search(r"(?m)^cnn/lenet_digits +LeNet-5 on the bundled digits +\d+ s$", "\n".join(lines))


@pytest.mark.parametrize("name", ["cnn/lenet_digits", "linear/mlp_moons", "mlp_moon"])
def test_one_recipe_is_shown_whole_and_is_a_recipe_again(zoo: Zoo, name: str) -> None:
    recipe = catalog.matching(name)[0]
    result = zoo("recipes", name)
    assert result.out.startswith(recipe.path.read_text())
    assert str(recipe.path) in result.out
    own = Path(recipe.name).name + ".yaml"
    assert f"zoo recipes {recipe.name} > {own}" in result.out
    Path(own).write_text(result.out)
    mine = catalog.find(own)
    assert (mine.summary, mine.expect, mine.takes) == (recipe.summary, recipe.expect, recipe.takes)
    assert yaml.safe_load(result.out) == yaml.safe_load(recipe.path.read_text())


def test_columns_of_numbers_stand_to_the_right() -> None:
    table = columns([("name", "whole", "share"), ("a", 10, 0.5), ("long name", 7, 12.25)])
    assert table.split("\n") == [
        "name       whole  share",
        "---------  -----  -----",
        "a             10    0.5",
        "long name      7  12.25",
    ]


def test_recipes_takes_part_of_a_name_or_a_pattern(zoo: Zoo) -> None:
    for pattern in ("lenet", "cnn/lenet*"):
        out = zoo("recipes", pattern).out
        assert "cnn/lenet_digits" in out
        assert "softmax" not in out
    assert_one_line(zoo("recipes", "cnn/lenet_digts"), "no recipe matches", "did you mean 'cnn/lenet_digits'?")
    assert_one_line(zoo("recipes", "a", "b"), "one name or pattern")
    assert_one_line(zoo("recipes", "--all"), "unknown option --all")
