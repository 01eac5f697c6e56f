"""Exported files: the same numbers as the model, metadata, and what cannot be exported."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from kit import quiet_trainer, run_onnx
from safetensors import safe_open
from torch import Tensor, nn

import zoo
from datamodules import DigitsDataModule
from zoo import exports
from zoo.blocks.skeleton import skeleton


def metadata_of(path: Path) -> dict[str, Any]:
    """What a file tells of itself, as plain data, by the library of its format."""
    if path.suffix == ".pt2":
        files = {"metadata.json": ""}
        torch.export.load(path, extra_files=files)
        return json.loads(files["metadata.json"])
    if path.suffix == ".onnx":
        texts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    else:
        with safe_open(path, "pt") as file:
            texts = file.metadata()
    return {k: json.loads(v) if v[0] in "[{n" and k not in ("format", "model") else v for k, v in texts.items()}


def linear_regressor() -> zoo.LinearRegressor:
    """Three columns and two targets of very different units."""
    model = zoo.LinearRegressor(in_features=3, num_outputs=2).set_standardization(
        [5.0, -300.0, 0.01], [2.0, 40.0, 0.001]
    )
    model.target_mean, model.target_std = torch.tensor([1000.0, -2.0]), torch.tensor([50.0, 0.1])
    model.preparation = {"columns": [{"name": name} for name in "abc"], "targets": ["price", "größe"]}
    return model


def by_hand(model: zoo.LinearRegressor, x: Tensor) -> np.ndarray:
    w, b = (p.detach().numpy().astype(np.float64) for p in model.net.parameters())
    mean, std, target_mean, target_std = (
        getattr(model, name).numpy().astype(np.float64) for name in ("mean", "std", "target_mean", "target_std")
    )
    return (((x.numpy() - mean) / std) @ w.T + b) * target_std + target_mean


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_raw_columns_go_in_and_the_targets_own_unit_comes_out(suffix: str, tmp_path: Path) -> None:
    model, path = linear_regressor(), tmp_path / "new" / f"model.{suffix}"
    assert zoo.export(model, path) == path
    assert model.training
    for count in (1, 7):
        x = model.mean + model.std * torch.randn(count, 3)
        got = run_onnx(path, x)[0] if suffix == "onnx" else torch.export.load(path).module()(x)["value"].detach()
        np.testing.assert_allclose(got, by_hand(model, x), rtol=1e-5)
    told = metadata_of(path)
    assert told["inputs"][0] | {"meaning": 0} == {"name": "x", "dtype": "float32", "shape": ["batch", 3], "meaning": 0}
    assert told["inputs"][0]["meaning"] == "columns in units of the data, not standardized"
    assert told["outputs"] == [{"name": "value", "meaning": "predictions (B, K), in the target's own unit"}]
    assert told["preparation"] == model.preparation
    assert told["model"] == "linear_regression"
    if suffix == "onnx":
        session = onnxruntime.InferenceSession(path)
        assert [(node.name, node.shape) for node in session.get_inputs()] == [("x", ["batch", 3])]
        assert [(node.name, node.shape) for node in session.get_outputs()] == [("value", ["batch", 2])]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("unet", {"encoder_args": {"width": 4, "depth": 1}}),
        *(
            pytest.param(name, {"encoder": encoder, "encoder_args": arguments}, marks=pytest.mark.slow)
            for name, encoder, arguments in (
                ("fcn16s_vgg16", "lenet5_relu", {}),  # its maps are smaller than their grid
                ("unet_vgg16", "lenet5_relu", {"width": 12}),
                ("fcn8s_vgg16", "vgg11_bn", {"width": 4}),
                ("fcn8s_resnet50", "resnet20", {"depth": 8, "width": 8}),
                ("unet_resnet34", "densenet121", {"blocks": [1, 1, 1, 1], "growth_rate": 4}),
            )
        ),
    ],
)
def test_a_segmenters_file_takes_images_of_any_size(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    model = zoo.create_model(name, **arguments, num_classes=3)
    for p in model.parameters():
        if p.ndim > 1:  # fresh heads begin with zeros
            nn.init.kaiming_normal_(p)
    model.eval().set_standardization([0.4, 0.5, 0.6], [0.2, 0.3, 0.1])
    model.input_shape, model.class_names = (3, 40, 40), ["sky", "Baum", "道"]
    path = zoo.export(model, tmp_path / "unet.onnx")
    for shape in ((1, 40, 40), (2, 40, 33), (3, 37, 39), (1, 70, 34)):  # some are padded
        x = torch.rand(shape[0], 3, *shape[1:])
        with torch.no_grad():
            wanted = model(x).softmax(dim=1)
        assert wanted.std(dim=(0, 2, 3)).amin() > 1e-2  # or a wrong pixel would not be seen
        (got,) = run_onnx(path, x)
        assert got.shape == (shape[0], 3, *shape[1:])
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    told = metadata_of(path)
    assert told["class_names"] == model.class_names
    assert told["inputs"][0]["shape"] == ["batch", 3, "height", "width"]
    assert told["inputs"][0]["meaning"] == "RGB images, values in [0, 1], not standardized"


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_columns_and_targets_that_float32_cannot_hold(suffix: str, tmp_path: Path) -> None:
    """Timestamps in milliseconds, and a target of seconds: the file takes float64 and gives it."""
    model = zoo.LinearRegressor(in_features=2).set_standardization([1.7e12, 3.0], [1000.0, 2.0])
    model.target_mean, model.target_std = (torch.tensor([v], dtype=torch.float64) for v in (1.7e9, 0.25))
    path = zoo.export(model, tmp_path / f"model.{suffix}")
    x = model.mean + model.std * torch.randn(5, 2, dtype=torch.float64)
    got = run_onnx(path, x)[0] if suffix == "onnx" else torch.export.load(path).module()(x)["value"].detach().numpy()
    assert got.dtype == np.float64
    np.testing.assert_allclose(got - 1.7e9, by_hand(model, x) - 1.7e9, atol=1e-5)
    assert metadata_of(path)["inputs"][0]["dtype"] == "float64"


def test_a_class_goes_into_a_conditional_model(tmp_path: Path) -> None:
    model = zoo.create_model("cvae_mlp", input_shape=[1, 8, 8], latent_dim=2, widths=[16]).eval()
    path = zoo.export(model, tmp_path / "cvae.onnx")
    x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 3, 3, 9])
    with torch.no_grad():
        np.testing.assert_allclose(run_onnx(path, x, y)[0], model(x, y), atol=1e-6)
        assert (model(x, y) - model(x, y.flip(0))).abs().max() > 1e-3
    assert [(entry["name"], entry["dtype"]) for entry in metadata_of(path)["inputs"]] == [
        ("x", "float32"),
        ("y", "int64"),
    ]


@pytest.mark.parametrize(
    ("name", "arguments", "target"),
    [
        (
            "lenet5",
            {"mode": "binary", "num_classes": 2},
            lambda m, x: torch.cat([1 - m(x).sigmoid(), m(x).sigmoid()], 1),
        ),
        ("lenet5", {"mode": "multilabel", "num_classes": 3}, lambda m, x: m(x).sigmoid()),
        ("glm_poisson", {}, lambda m, x: m(x).exp()),
        ("dcgan", {"input_shape": [3, 16, 16], "latent_dim": 8, "width": 4}, lambda m, z: m(z)),
        ("max_likelihood_gumbel", {}, lambda m, x: -x[:, 0] - (-x[:, 0]).exp() - 0.0),
    ],
    ids=["binary", "multilabel", "glm", "gan", "density"],
)
def test_what_a_file_gives(name: str, arguments: dict[str, Any], target: Any, tmp_path: Path) -> None:
    model = zoo.create_model(name, **arguments)
    program = torch.export.load(zoo.export(model, tmp_path / "model.pt2")).module()
    (x,) = (torch.rand_like(x) for x in model.eval().example_inputs(5))
    (got,) = program(x).values()
    if name == "max_likelihood_gumbel":  # location and scale of a fresh one: 0 and 1
        model.net.distribution = lambda: torch.distributions.Gumbel(torch.zeros(1), torch.ones(1))  # type: ignore[method-assign]
    torch.testing.assert_close(got, target(model, x), atol=1e-5, rtol=1e-5)


def test_a_model_that_is_being_used_is_exported_and_goes_on(tmp_path: Path) -> None:
    """After a fit, with a trainer attached, frozen groups and a compiled net."""
    model = zoo.create_model("lenet5", num_classes=10, lr=3e-3)
    model.freeze(1)
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=2)
    trainer.fit(model, datamodule=DigitsDataModule(size=32))
    model.net.compile(backend="eager")
    modes = [part.training for part in model.modules()]
    path = zoo.export(model, tmp_path / "lenet.pt2")
    assert [part.training for part in model.modules()] == modes
    told = metadata_of(path)
    assert told["class_names"] == [str(k) for k in range(10)]
    assert told["preparation"] == model.preparation
    assert told["inputs"][0]["shape"] == ["batch", 1, 32, 32]
    x = torch.rand(4, 1, 32, 32)
    got = torch.export.load(path).module()(x)["probabilities"]
    torch.testing.assert_close(got, model.eval()(x).softmax(dim=1), atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:.*was not checked for damage")
def test_safetensors_are_weights_with_metadata(tmp_path: Path) -> None:
    model = zoo.create_model("lenet5", num_classes=3).set_standardization(0.3, 0.2)
    model.class_names, model.input_shape = ["a", "b", "c"], (1, 32, 32)
    path = zoo.export(model, tmp_path / "model.safetensors")
    with safe_open(path, "pt") as file:
        held = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no dict)
    assert held.keys() == model.state_dict().keys()
    assert all(torch.equal(t, held[k]) for k, t in model.state_dict().items())
    told = metadata_of(path)
    assert (told["format"], told["class_names"], told["input_shape"]) == ("pt", ["a", "b", "c"], [1, 32, 32])
    assert told["hparams"]["num_classes"] == 3
    twin, x = zoo.create_model("lenet5", weights=path, num_classes=3).eval(), torch.rand(2, 1, 32, 32)
    assert torch.equal(twin(x), model.eval()(x))
    zoo.export(zoo.create_model("resnet20", width=4), path)  # has numbers without an axis, those of batches


def test_a_shared_tensor_is_written_under_each_of_its_names(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
    net[2].weight = net[0].weight
    path = zoo.export(zoo.ClassificationTask(net, num_classes=2), tmp_path / "model.safetensors")
    with safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("net.0.weight"), file.get_tensor("net.2.weight"))
        assert torch.equal(file.get_tensor("net.0.weight"), net[0].weight)


def test_columns_are_compared_where_the_data_lie(tmp_path: Path) -> None:
    """Far from the mean a net may be flat, and a difference would not be seen."""
    model = zoo.LinearRegressor(in_features=2).set_standardization([500.0, -3.0], [2.0, 0.5])
    (x,) = exports._inputs(model, 200)
    low, high = x.amin(dim=0), x.amax(dim=0)
    assert (low >= model.mean).all()
    assert (high <= model.mean + model.std).all()
    assert (high - low > 0.9 * model.std).all()


# What cannot be exported ----------------------------------------------------------------------------------------------


class Branches(nn.Module):
    num_classes = 2

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 1 else -x


class Draws(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if len(x) == 2 else x.flip(1)


def task(net: nn.Module) -> zoo.ClassificationTask:
    model = zoo.ClassificationTask(net, num_classes=2)
    model.input_shape = (2,)
    return model


@pytest.mark.parametrize(
    ("make", "suffix", "message"),
    [
        (
            lambda: zoo.MaximumLikelihood("Gamma"),
            "onnx",
            r"cannot be written as ONNX: ONNX has nothing for torch's \w+.lgamma",
        ),
        (lambda: task(Branches()), "pt2", "depends on the values of its input, and a graph has no branches"),
        (lambda: task(Draws()), "pt2", "its outputs for one input differ from time to time"),
        (lambda: task(FixedBatch()), "pt2", "does not take batch size 1"),
        (lambda: zoo.ClassificationTask(nn.Linear(2, 2), 2), "pt2", "the shape of an example is not known"),
    ],
    ids=["operator", "branches", "draws", "batch", "shape"],
)
def test_what_cannot_be_exported_says_why_and_leaves_no_file(
    make: Any, suffix: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        zoo.export(make(), tmp_path / f"model.{suffix}")
    assert len(str(error.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", [1.0, float("nan")], ids=["other", "nan"])
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_a_graph_that_differs_does_not_replace_the_file(
    suffix: str, change: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, right = tmp_path / f"model.{suffix}", exports._traced

    def wrong(model: zoo.Model, example: Any) -> Any:
        other = linear_regressor()
        other.load_state_dict(model.state_dict())
        other.std[1] += change
        return right(other, example)

    path.write_text("the old one")
    monkeypatch.setattr(exports, "_traced", wrong)
    with pytest.raises(ValueError, match=r"differs from the model by .* at batch size"):
        zoo.export(linear_regressor(), path)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {path.name: "the old one"}


def test_onnx_wants_the_extra_and_less_than_two_gibibytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with skeleton():
        large = zoo.create_model("vit_h_14")
    with pytest.raises(
        ValueError, match=r"holds 2 GiB, and the weights of this ViT are 2\.4 GiB: take the format torch-export"
    ):
        zoo.export(large, tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"^ONNX needs onnxscript: pip install 'lightning-zoo\[export\]'$"):
        zoo.export(linear_regressor(), tmp_path / "model.onnx")
    zoo.export(linear_regressor(), tmp_path / "model.pt2")


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("model.bin", None, r"let it end in \.onnx \(onnx\), \.pt2 \(torch-export\), \.safetensors \(safetensors\)"),
        ("model.pt2", "onnx", r"model\.pt2 is not the name of a file of onnx: let it end in \.onnx \(onnx\)$"),
        ("model.onnx", "onx", r"format must be one of .*, got 'onx', did you mean 'onnx'|did you mean"),
        (".", "onnx", r"is a folder: give the name of a file, such as .*model\.onnx"),
    ],
)
def test_names_of_files(name: str, format: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.export(linear_regressor(), tmp_path / name, format)


def test_a_suffix_may_be_in_capitals() -> None:
    assert exports.check_format(Path("MODEL.PT2"), None) == "torch-export"
    assert exports.check_format(Path("model.Onnx"), "onnx") == "onnx"
