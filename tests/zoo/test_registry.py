"""The registry, and the lazy package."""

import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from zoo import registry
from zoo.tasks import ClassificationTask

ROOT = Path(__file__).parents[2]


def test_names_sort_as_a_person_would() -> None:
    assert zoo.list_models("resnet*") == [f"resnet{d}" for d in (18, 20, 32, 34, 44, 50, 56, 101, 110, 152)]


def test_arguments_win_over_the_preset() -> None:
    assert zoo.create_model("plain20", width=4).hparams["shortcut"] == "none"
    assert zoo.create_model("plain20", width=4, shortcut="identity").hparams["shortcut"] == "identity"


def test_unknown_names_suggest_the_closest() -> None:
    with pytest.raises(
        ValueError, match=r"unknown model 'resnet19', did you mean 'resnet1.'\?; `zoo models` lists all"
    ):
        zoo.create_model("resnet19")
    with pytest.raises(TypeError, match="ResNetClassifier has no argument 'widht', did you mean 'width'"):
        zoo.create_model("resnet18", widht=3)
    with pytest.raises(TypeError, match="has no argument 'net'"):
        zoo.create_model("resnet18", net=None)
    with pytest.raises(AttributeError, match="module 'zoo' has no attribute 'ResNot'"):
        zoo.ResNot  # noqa: B018


def test_the_name_of_a_module_is_the_preset_that_fits() -> None:
    for name in ("lenet5", "lenet5_relu", "plain20", "resnet20"):
        assert registry.name_of(zoo.create_model(name)) == name
    assert registry.name_of(zoo.LeNetClassifier(variant="relu", in_channels=3)) == "lenet5_relu"
    assert registry.name_of(ClassificationTask(zoo.create_model("lenet5").net)) is None


def test_register(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    zoo.register("tiny", zoo.LeNetClassifier, width=2)
    assert zoo.create_model("tiny").net.conv1.out_channels == 2
    with pytest.raises(ValueError, match="'lenet5' is taken by LeNetClassifier"):
        zoo.register("lenet5", zoo.ResNetClassifier)
    with pytest.raises(TypeError, match="has no argument 'depth'"):
        zoo.register("deep", zoo.LeNetClassifier, depth=3)


def test_every_argument_of_the_parents_is_known() -> None:
    known = registry.arguments_of(zoo.ResNetClassifier)
    assert {"depth", "width", "num_classes", "mode", "top_k", "optimizer", "lr"} <= set(known)
    assert "net" not in known
    assert "net" in registry.arguments_of(ClassificationTask)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "zoo.registry.get('resnet20')",
        "zoo.create.load('lenet5_digits')",
        "zoo.segmentation.UNetSegmenter('resnet20', {'width': 4})",
        "zoo.autoencoder.VAE(weights='lenet5_digits')",
    ],
)
def test_every_way_in_finds_the_models_of_all_families(line: str) -> None:
    """In a fresh process, where nothing else was imported."""
    module = line.partition("(")[0].rpartition(".")[0]
    code = f"import {module}\ntry:\n    {line}\nexcept ValueError as error:\n    print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "unknown model" not in done.stdout
