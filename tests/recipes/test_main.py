"""The fast verbs: help, version, the list of recipes; exit codes; what is imported."""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import pytest
import yaml
from cli_kit import Zoo, assert_one_line

from recipes.cli.__main__ import VERBS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_verb(zoo: Zoo, args: list[str]) -> None:
    result = zoo(*args)
    assert result.code == 0
    assert all(re.search(rf"(?m)^  {verb} ", result.out) for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(zoo: Zoo, verb: str) -> None:
    result = zoo(verb, "--help")
    assert result.code == 0
    assert f"\n  zoo {verb}" in result.out.partition("Examples:")[2]


def test_help_of_a_recipe_lists_the_arguments_of_its_classes(zoo: Zoo) -> None:
    out = zoo("fit", "-c", "cnn/lenet_digits", "--help").out
    for option in ("--model.variant", "--model.lr", "--data.batch_size", "--trainer.max_epochs", "--resume"):
        assert option in out, option


def test_version_prints_the_environment(zoo: Zoo) -> None:
    out = zoo("--version").out
    assert out.startswith("lightning-zoo ")
    for word in ("Python", version("torch"), version("lightning"), "GPU", "cores", "memory"):
        assert word in out, word


def test_the_cores_are_those_that_may_be_used(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(77)), raising=False)
    assert "77 cores" in zoo("--version").out


def test_unknown_verb_suggests_the_closest(zoo: Zoo) -> None:
    assert_one_line(zoo("tets"), "'tets'", "did you mean 'test'?")
    assert_one_line(zoo("--versoin"), "did you mean '--version'?")


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["--version"],
        ["recipes"],
        ["models"],
        ["models", "resnet*"],
        ["models", "--weights"],
        ["examples", "{folder}"],
        ["fit", "--help"],
        ["predict", "--help"],
        ["runs", "--help"],
        ["compare", "--help"],
        ["web", "--help"],
    ],
)
def test_fast_verbs_import_neither_torch_nor_lightning(args: list[str], tmp_path: Path) -> None:
    args = [arg.format(folder=tmp_path / "examples") for arg in args]
    code = (
        f"import sys; from recipes.cli.__main__ import main; code = main({args!r})\n"
        "sys.exit(code or any(m in sys.modules for m in ('torch', 'lightning', 'numpy', 'rich')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_debug_shows_the_traceback(zoo: Zoo) -> None:
    result = zoo("recipes", "nothing-like-it", "--debug")
    assert result.code == 2
    assert "Traceback" in result.err
    assert "zoo: error: " in result.err


def test_a_bug_keeps_its_traceback_and_exits_with_1(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: list[str]) -> int:
        raise AttributeError("nobody's fault")

    monkeypatch.setattr("recipes.cli.verbs.recipes.run", broken)
    result = zoo("recipes")
    assert result.code == 1
    assert "Traceback" in result.err
    assert "nobody's fault" in result.err
    assert "zoo: error" not in result.err


def test_one_process_of_a_machine_prints_the_error(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (result := zoo("recipes", "nothing")).code == 2
    assert result.err == ""
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("NODE_RANK", "1")
    assert_one_line(zoo("recipes", "nothing"), "no recipe matches")


def test_interrupt_before_training_exits_with_130(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(args: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("recipes.cli.verbs.recipes.run", interrupted)
    assert zoo("recipes").code == 130


def test_whole_numbers_come_first() -> None:
    from recipes.cli.run.internals import whole_numbers_first

    def train(batches: float | int | bytes, rate: float, name: str | None = None) -> None: ...

    assert get_args(train.__annotations__["batches"]) == (float, int, bytes)
    whole_numbers_first(train)
    assert get_args(train.__annotations__["batches"]) == (int, float, bytes)
    assert train.__annotations__["rate"] is float
    assert get_args(train.__annotations__["name"]) == (str, type(None))


@pytest.mark.slow
def test_a_whole_number_stays_one_whatever_was_imported_before(tmp_cwd: Path) -> None:
    """Python keeps one object for ``float | int`` and ``int | float``: the one that was written first."""
    code = (
        "import sklearn.linear_model, datamodules; datamodules.DigitsDataModule()\n"
        "from recipes.cli.__main__ import main\n"
        "words = ['--trainer.limit_train_batches=1', '--trainer.overfit_batches=1', '--trainer.limit_val_batches=0.5']\n"
        "raise SystemExit(main(['fit', 'linear/softmax_digits', '--print_config', *words]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    trainer = yaml.safe_load(done.stdout)["trainer"]
    values = [trainer[f"{name}_batches"] for name in ("limit_train", "overfit", "limit_val")]
    assert [(value, type(value)) for value in values] == [(1, int), (1, int), (0.5, float)]
