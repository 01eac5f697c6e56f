"""What a config.json or a checkpoint says is checked before anything is built, and opens, imports and downloads nothing."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import quiet_trainer
from safetensors.torch import load_file, save_file
from torch import nn

import zoo
from datamodules import DigitsDataModule
from zoo.pretrained.files import sha256
from zoo.registry import arguments_of, get, sources_of
from zoo.tasks import ClassificationArguments, ClassificationTask


def classifier() -> zoo.Model:
    model = zoo.create_model("lenet5_relu", width=2, num_classes=4)
    model.class_names, model.input_shape = list("abcd"), (3, 32, 32)
    return model.set_standardization([0.1, 0.2, 0.3], [0.5, 0.25, 0.125])


def save(model: zoo.Model, path: Path, edit: Callable[[dict[str, Any]], object] = lambda config: None) -> Path:
    """Save a folder, and edit its config."""
    config = json.loads((model.save_pretrained(path) / "config.json").read_text())
    edit(config)
    (path / "config.json").write_text(json.dumps(config))
    return path


def checkpoint(folder: Path) -> Path:
    """Write what a folder holds as a checkpoint."""
    config = json.loads((folder / "config.json").read_text())
    hparams, state = config.pop("hparams"), load_file(folder / "model.safetensors")
    torch.save({"zoo": config, "hyper_parameters": hparams, "state_dict": state}, folder.with_suffix(".ckpt"))
    return folder.with_suffix(".ckpt")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


EDITS: list[tuple[str, Any, str]] = [
    ("model", 3, r"model must be str \| None, got 3"),
    ("model", "os.system", r"asks for the net 'os.system' to be imported"),
    ("class_names", ["a"], r"class_names has 1 names, the model has 4 classes"),
    ("class_names", [1, 2, 3, 4], r"class_names must be list\[str\] \| None, got \[1, 2, 3, 4\]"),
    ("class_names", ["a", "b", "c", "\ud800"], r"class_names\[3\] is no valid text"),
    ("class_names", "abcd", r"class_names must be list\[str\] \| None, got 'abcd'"),
    ("input_shape", [3, 10**6, 10**6], r"input_shape must be sides of 1 or more with at most 268,435,456 numbers, got"),
    ("input_shape", [3, 0, 32], r"input_shape must be sides of 1 or more"),
    ("input_shape", [5, 32, 32], r"input_shape is \[5, 32, 32\], the net is built for 3 channels"),
    ("input_shape", [3.0, 32, 32], r"input_shape must be list\[int\] \| None"),
    ("preparation", [1], r"preparation must be dict\[str, .*Any\] \| None, got \[1\]"),
    ("preparation", {"x": nested(60)}, "preparation is nested too deeply"),
    ("frozen", -3, r"frozen must be a number of layer groups, 0 or more, got -3"),
    ("frozen", 99, r"LeNet has 5 layer groups: freeze 0\.\.5, got 99"),
    ("frozen", True, r"frozen must be int, got True"),
    ("training", "much", r"training must be dict"),
    ("hparams.num_classes", -1, r"num_classes must lie in 0\.\.16,777,216, got -1"),
    ("hparams.num_classes", 0, r"num_classes must be 2 or more, got 0"),
    ("hparams.num_classes", 10**12, r"num_classes must lie in 0\.\.16,777,216, got 1000000000000"),
    ("hparams.num_classes", 10**400, r"num_classes must lie in -2\^63\.\.2\^63 - 1"),
    ("hparams.num_classes", True, r"num_classes must be int, got True"),
    ("hparams.num_classes", "4", r"num_classes must be int, got '4'"),
    ("hparams.num_classes", 5, r"the weights do not fit LeNetClassifier: .*net\.fc3\.weight is \(4, 28\), wanted \(5, 28\)"),
    ("hparams.width", 10**9, r"they ask for more than [\d,]+ numbers; the file has 13 tensors of 6,721 numbers"),
    ("hparams.width", -2, r"the model cannot be built: width must be 1 or more, got -2"),
    ("hparams.variant", "best", r"variant must be Literal\['published', 'relu'\], got 'best'"),
    ("hparams.lr", float("nan"), "lr is nan"),
    ("hparams.lr", -1, "lr must be above 0, got -1"),
    ("hparams.optimizer", "evil.module.Adam", r"asks for the optimizer 'evil\.module\.Adam' to be imported, which load never"),
    ("hparams.optimizer_args", {"lr": {}}, "optimizer_args has 'lr'"),
    ("hparams.weight_decay", [], r"weight_decay must be float, got \[\]"),
    ("hparams.widht", 3, r"LeNetClassifier has no argument 'widht', did you mean 'width'\?"),
    ("hparams", [], r"hparams must be dict"),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", "checkpoint"])
@pytest.mark.parametrize(("entry", "value", "message"), EDITS)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, entry: str, value: Any, message: str, kind: str) -> None:
    def edit(config: dict[str, Any]) -> None:
        *parents, name = entry.split(".")
        for parent in parents:
            config = config[parent]
        config[name] = value

    path = save(classifier(), tmp_path / "model", edit)
    if kind == "checkpoint":
        path = checkpoint(path)
        if entry == "hparams":
            message = "is no lightning-zoo checkpoint"
    with pytest.raises(ValueError, match=message) as error:
        zoo.load(path)
    assert re.match(rf"{tmp_path}\S+(config\.json|model\.ckpt)\b", str(error.value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "it is nested too deeply"),
        ('{"a":' * 100_000, "it is nested too deeply"),
        ("[1, 2]", "it holds a list, not an object"),
        ("", "Expecting value"),
        ("{}", "it has no 'model'"),
        ('{"model": null, "hparams": {}}', "it has no 'model'"),
        ('{"model": "lenet5", "hparams": {"width": 3, "width": 4}}', "it has the key 'width' twice"),
        ('{"model": "lenet5", "hparams": {"width": 1' + "0" * 5000 + "}}", "Exceeds the limit"),
        ('{"model": "lenet5\x00"}', "Invalid control character"),
        ('{"model": "\xff"}', "utf-8"),
    ],
)
def test_a_config_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    path = classifier().save_pretrained(tmp_path / "model")
    (path / "config.json").write_bytes(text.encode("latin-1"))
    for use in (zoo.load, lambda path: zoo.create_model("lenet5", weights=path)):
        with pytest.raises(
            ValueError, match=rf"config\.json is damaged, or not of lightning-zoo \(.*{message}.*\): give the"
        ):
            use(path)


def test_a_huge_config_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = classifier().save_pretrained(tmp_path / "model")
    monkeypatch.setattr("zoo.pretrained.schema.MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"config\.json is damaged, .* \(it has [\d,]+ bytes, more than 100\)"):
        zoo.load(path)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([0.0] * 3, [1.0, 0.0, 1.0]),
        ([0.0] * 3, [1.0, -1.0, 1.0]),
        ([0.0, float("nan"), 0.0], [1.0] * 3),
        ([0.0] * 3, [1.0, float("inf"), 1.0]),
        ([0.0] * 3, [1.0]),
        ([0.0] * 1000, [1.0] * 1000),
        ([[0.0]] * 3, [[1.0]] * 3),
    ],
)
def test_a_standardization_that_cannot_be(tmp_path: Path, mean: Any, std: Any) -> None:
    path = classifier().save_pretrained(tmp_path / "model")
    tensors = {**load_file(path / "model.safetensors"), "mean": torch.tensor(mean), "std": torch.tensor(std)}
    save_file(tensors, path / "model.safetensors")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "sha256": sha256(path / "model.safetensors")}))
    cause = (
        "standardized for 1000 channels, the data have 3"
        if len(mean) == 1000
        else "mean and std must be equally many finite"
    )
    for use in (zoo.load, lambda path: zoo.load(checkpoint(path))):
        with pytest.raises(ValueError, match=rf"^{tmp_path}/model\S+: .*{cause}"):
            use(path)


@pytest.mark.parametrize("depth", [10**9, 2000])
def test_a_net_that_is_larger_than_its_file_is_not_built(tmp_path: Path, depth: int) -> None:
    small = zoo.create_model("highway50", depth=2, width=3, in_features=4, num_classes=2)
    path = save(small, tmp_path / "model", lambda config: config["hparams"].update(depth=depth))
    for strict in (True, False):
        with pytest.raises(ValueError, match=r"they ask for more than [\d,]+ tensors; the file has"):
            zoo.load(path, strict=strict)


# Files, folders, repositories and modules that a file names -------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was looked for to be opened or imported."""
    names: list[str] = []

    def look(name: Any, *args: Any, **kwargs: Any) -> None:
        names.append(str(name))
        raise FileNotFoundError(name)

    for place in (
        "zoo.backbones.find",
        "zoo.tasks.sampled.load",
        "zoo.pretrained.hub.download",
        "zoo.optim.optimizers.import_module",
    ):
        monkeypatch.setattr(place, look)
    return names


SLIM: dict[str, dict[str, Any]] = {
    "lenet5": {"width": 1},
    "unet": {"encoder": "resnet20", "encoder_args": {"depth": 8, "width": 4}},
    "fcn16s_vgg16": {"encoder": "lenet5_relu", "encoder_args": {"width": 2}},
    "gan_mlp": {"input_shape": [1, 8, 8], "latent_dim": 2, "widths": [3], "num_judged": 4},
}


@pytest.mark.parametrize("kind", ["folder", "checkpoint"])
@pytest.mark.parametrize(
    ("name", "source"),
    [("lenet5", "weights"), ("unet", "encoder_weights"), ("fcn16s_vgg16", "encoder_weights"), ("gan_mlp", "judge")],
)
def test_a_file_opens_nothing(tmp_path: Path, opened: list[str], name: str, source: str, kind: str) -> None:
    model = zoo.create_model(name, **SLIM[name])
    path = save(model, tmp_path / "model", lambda config: config["hparams"].update({source: "/etc/passwd"}))
    path = path if kind == "folder" else checkpoint(path)
    with pytest.warns(
        UserWarning, match=rf"names {source} '/etc/passwd', which is not opened for a file: pass {source}=\.\.\."
    ):
        loaded = zoo.load(path)
    assert source not in loaded.hparams
    if source == "judge":
        assert quiet_trainer().test(loaded, DigitsDataModule(), verbose=False) == [{}]
    assert opened == []

    def use() -> None:
        quiet_trainer().test(zoo.load(path, strict=False, **{source: "mine"}), DigitsDataModule(), verbose=False)

    with pytest.raises(FileNotFoundError):  # the caller may
        use()
    assert opened == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"encoder_args": {"weights": "/etc/passwd"}},
            "encoder_args of resnet20 has 'weights': it takes depth, num_classes",
        ),
        ({"encoder_args": {"optimizer": "evil.Adam"}}, "encoder_args of resnet20 has 'optimizer'"),
        ({"encoder_args": {"name": "lenet5"}}, "encoder_args of resnet20 has 'name'"),
        (
            {"encoder": "unet", "encoder_args": {"encoder_weights": "me/evil"}},
            "encoder_args of unet has 'encoder_weights'",
        ),
        ({"encoder": "gan_mlp", "encoder_args": {"judge": "me/evil"}}, "encoder_args of gan_mlp has 'judge'"),
        (
            {"encoder": "unet", "encoder_args": {"encoder": "resnet20", "encoder_args": {"weights": "me/evil"}}},
            "encoder_args of resnet20 has 'weights'",
        ),
    ],
)
def test_an_encoder_opens_nothing(tmp_path: Path, opened: list[str], arguments: dict[str, Any], message: str) -> None:
    model = zoo.create_model("unet", **SLIM["unet"])
    path = save(model, tmp_path / "model", lambda config: config["hparams"].update(arguments))
    with pytest.raises(ValueError, match=message):
        zoo.load(path)
    assert opened == []


def test_a_preset_is_not_opened_again(tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model was started from once is in its file."""
    monkeypatch.setattr("zoo.registry._ENTRIES", dict(zoo.registry._ENTRIES))
    zoo.register("started_unet", zoo.UNetSegmenter, encoder="resnet20", encoder_weights="gone.pt", skip="none")
    model = zoo.create_model("started_unet", encoder_weights=None, encoder_args=SLIM["unet"]["encoder_args"])
    assert zoo.load(model.save_pretrained(tmp_path / "model")).load_report.complete
    assert opened == []


def test_every_text_argument_is_known() -> None:
    """A new argument of type str may name a file: declare it in ``weight_sources`` or ``other_sources``, or add it here."""
    plain = {
        "encoder",
        "family",
        "init",
        "monitor",
        "optimizer",
    }  # names of models, distributions, initializers, metrics
    for cls in {get(name).cls for name in zoo.list_models()}:
        if not cls.__module__.startswith("zoo."):
            continue  # another test's own
        texts = {
            k for k, p in arguments_of(cls).items() if p.annotation in (str, str | None, str | Path, str | Path | None)
        }
        assert texts - set(sources_of(cls)) <= plain
        assert set(sources_of(cls)) <= texts


# Arguments that are called like those of zoo.create_model and zoo.load ---------------------------------------------------


class Odd(ClassificationTask):
    """A model whose arguments are called as those of other functions."""

    def __init__(self, name: str = "a", cls: int = 2, path: int = 3, strict: int = 4, **task: Any) -> None:
        task = {"num_classes": 2, **task}
        super().__init__(nn.Linear(cls, 2), **task)


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.registry._ENTRIES", dict(zoo.registry._ENTRIES))
    zoo.register("odd", Odd, name="b", cls=5)


def test_arguments_may_be_called_like_those_of_the_ways_in(tmp_path: Path, odd: None) -> None:
    model = zoo.create_model("odd", path=7)
    path = model.save_pretrained(tmp_path / "model")
    for loaded in (zoo.load(path), zoo.load(checkpoint(path)), zoo.load(path, name="c", path=7)):
        assert {k: loaded.hparams[k] for k in ("cls", "path", "strict")} == {"cls": 5, "path": 7, "strict": 4}
        assert loaded.net.in_features == 5
    assert zoo.load(path, name="c").hparams["name"] == "c"
    assert zoo.create_model("odd", weights=path, path=7).load_report.complete  # type: ignore[union-attr]


def test_weights_of_another_meaning_are_refused_when_registered() -> None:
    class Weighted(ClassificationTask):
        def __init__(self, weights: list[float], **task: Any) -> None:
            super().__init__(nn.Linear(2, 2), 2, **task)

    with pytest.raises(
        TypeError, match=r"Weighted has an argument 'weights' of another meaning than that of create_model\("
    ):
        zoo.register("weighted", Weighted, weights=[1.0])


def test_unpacked_arguments_are_checked_too() -> None:
    assert "label_smoothing" in ClassificationArguments.__annotations__
    assert arguments_of(zoo.LeNetClassifier)["label_smoothing"].annotation is float
