"""Words in place of options: a model by any of its names, and a recipe or a run as the first word of a verb."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_kit import RECIPE, SHORT, Zoo, assert_one_line
from lightning.pytorch import Callback
from PIL import Image
from sklearn.datasets import load_digits

import zoo as library


@pytest.fixture
def three(tmp_cwd: Path) -> Path:
    Image.fromarray((load_digits().images[3] * 255 / 16).round().astype(np.uint8)).save("three.png")
    return Path("three.png")


def loss(text: str) -> str:
    return next(line.split()[1] for line in text.splitlines() if line.startswith("test/loss"))


# Models ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lenet5_digits", "resnet20_digits"])
def test_predict_takes_bundled_names(zoo: Zoo, three: Path, name: str) -> None:
    (row,) = json.loads(zoo("predict", name, three, "--json").out)
    assert (row["label"], row["file"]) == ("3", "three.png")
    Path(name).mkdir()  # a folder of the same name does not hide it, as for zoo.load
    assert json.loads(zoo("predict", name, three, "--json").out) == [row]


def test_a_bundled_model_of_texts_writes_and_reads(zoo: Zoo) -> None:
    result = zoo("sample", "char_lm", "--prompt", "It was", "--tokens", 20)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("It was")
    told = zoo("predict", "char_lm", "It was a truth", "Vq  zzP pbtkd", "--json").out
    likely, unlikely = (row["bits_per_character"] for row in json.loads(told))
    assert likely < 3 < unlikely
    assert "char_lm (bundled)" in zoo("models", "gru_lm").out


@pytest.mark.parametrize("name", ["dates_gru", "dates_transformer"])
def test_a_bundled_translator_of_dates(zoo: Zoo, name: str) -> None:
    result = zoo("predict", name, "3 March 2021", "mercredi 3 mars 2021", "--json")
    assert (result.code, result.err) == (0, "")
    assert [row["text"] for row in json.loads(result.out)] == ["2021-03-03", "2021-03-03"]
    result = zoo("predict", name, "3 March 2021", "--beam", 4, "--best", 2, "--attention", "out.png")
    assert (result.code, result.err) == (0, "")
    assert result.out.index("2021-03-03") < result.out.index("out.png")
    assert Path("out.png").read_bytes().startswith(b"\x89PNG")
    assert_one_line(zoo("predict", name, "3 März 2021!"), "the text has '!' at character 12")


def test_a_repository_of_the_hub_is_a_model(zoo: Zoo, three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.pretrained import bundled, hub

    asked: list[str] = []
    monkeypatch.setattr(hub, "download", lambda name: asked.append(name) or bundled.HERE / "lenet5_digits")
    assert json.loads(zoo("predict", "someone/digits", three, "--json").out)[0]["label"] == "3"
    assert asked == ["someone/digits"]


@pytest.mark.parametrize("verb", ["predict", "sample"])
@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("lenet5_digit", ["no model 'lenet5_digit'", "did you mean 'lenet5_digits'?", "resnet20_digits"]),
        ("nothing.ckpt", ["no such checkpoint or folder: nothing.ckpt"]),
        ("a/b/c", ["no such checkpoint or folder: a/b/c"]),
        ("cnn/lenet_digits", ["is a recipe, not a model", "zoo fit -c cnn/lenet_digits"]),
        (RECIPE, [f"{RECIPE} is a recipe, not a model: give its run, runs/{RECIPE}/version_0"]),
        (f"runs/{RECIPE}", [f"give one of its runs, such as runs/{RECIPE}/version_0"]),
        ("runs", ["neither a run folder (no checkpoints/) nor written by save_pretrained (no config.json)"]),
    ],
)
def test_a_word_that_is_no_model(zoo: Zoo, trained: Path, three: Path, verb: str, word: str, words: list[str]) -> None:
    more = (three,) if verb == "predict" else ()
    assert_one_line(zoo(verb, word, *more), *words)


def test_sample_takes_every_name_of_a_model(zoo: Zoo, trained: Path) -> None:
    for word in ("lenet5_digits", trained, trained / "checkpoints/best.ckpt"):
        assert_one_line(zoo("sample", word), "cannot generate examples")  # it is loaded


# Recipes and runs -----------------------------------------------------------------------------------------------------


def test_fit_takes_a_recipe_as_its_first_word(zoo: Zoo) -> None:
    result = zoo("fit", RECIPE, "--trainer.max_epochs=1", *SHORT)
    assert (result.code, result.err) == (0, "")
    text = (Path("runs", RECIPE, "version_0/config.yaml")).read_text()
    assert zoo("fit", "-c", RECIPE, "--trainer.max_epochs=1", *SHORT).code == 0
    assert (Path("runs", RECIPE, "version_1/config.yaml")).read_text() == text
    Path("mine.yaml").write_text(text)
    Path("more.yaml").write_text("model: {init_args: {lr: 0.0625}}")
    assert zoo("fit", "mine.yaml", "-c", "more.yaml").code == 0
    assert "lr: 0.0625" in next(Path("runs").rglob("version_2/config.yaml")).read_text()


@pytest.mark.parametrize("verb", ["test", "validate"])
def test_evaluation_takes_a_run_as_its_first_word(zoo: Zoo, trained: Path, verb: str) -> None:
    wanted = zoo(verb, "--ckpt", trained)
    assert wanted.code == 0
    for word in (trained, f"{trained}/", trained / "checkpoints/best.ckpt", f"{RECIPE}/version_0", RECIPE):
        result = zoo(verb, word)
        assert (result.code, result.err) == (0, "")
        assert result.out.splitlines()[1:] == wanted.out.splitlines()[1:]
        assert "best.ckpt" in result.out
    assert zoo(verb, trained / "checkpoints/last.ckpt").out != wanted.out
    assert zoo(verb, RECIPE, "--ckpt", trained).out == wanted.out


def test_baselines_take_a_recipe_as_their_first_word(zoo: Zoo) -> None:
    result = zoo("baselines", "linear/mlp_wine")
    assert (result.code, result.err) == (0, "")
    assert "1 nearest neighbor" in result.out


def test_help_takes_a_recipe_as_its_first_word(zoo: Zoo, trained: Path) -> None:
    assert "--model.lr" in zoo("fit", RECIPE, "--help").out
    assert zoo("test", trained, "--help").code == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("fit", "linear/softmax_digit"), ["unknown recipe", "did you mean 'linear/softmax_digits'?"]),
        (("fit", f"runs/{RECIPE}/version_0"), ["is a run folder", f"zoo fit --resume runs/{RECIPE}/version_0"]),
        (("fit", "my runs"), ["zoo fit --resume 'my runs'"]),
        (("fit", "nothing.yaml"), ["no such recipe file: nothing.yaml"]),
        (("test", "linear/softmax_digit"), ["no run folder, no checkpoint and no recipe", "softmax_digits'?"]),
        (("test", "runs"), ["no run 'runs'"]),
        (("test", "folder"), ["folder was written by save_pretrained and knows no data", "give a run folder"]),
        (("validate", "nothing.yaml"), ["no such recipe file: nothing.yaml"]),
        (("test", "best.ckpt", "--ckpt", "x"), ["'best.ckpt' is no recipe, and --ckpt gives the checkpoint"]),
        (("baselines",), ["no recipe given: zoo baselines RECIPE"]),
        (("baselines", "linear/mlp_wines"), ["unknown recipe", "did you mean 'linear/mlp_wine'?"]),
    ],
)
def test_a_word_that_is_neither(zoo: Zoo, trained: Path, args: tuple[str, ...], words: list[str]) -> None:
    shutil.copytree(trained, "my runs")
    Path("folder").mkdir()
    Path("folder/config.json").write_text("{}")
    assert_one_line(zoo(*args), *words)


# Printed commands -----------------------------------------------------------------------------------------------------


def test_printed_commands_quote_paths_with_blanks(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("fit", RECIPE, "--runs", "my runs", "--trainer.max_epochs=1", *SHORT)
    result = zoo(*options)
    assert f"zoo predict 'my runs/{RECIPE}/version_0' " in result.out

    class Stop(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(library.tasks.Task, "configure_callbacks", lambda self: [Stop()])
    assert f"zoo fit --resume 'my runs/{RECIPE}/version_1'" in zoo(*options).out
