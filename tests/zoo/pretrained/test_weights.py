"""``weights=``: from files and folders, into nets with the same head or another."""

import json
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import zoo
from zoo import registry
from zoo.blocks.skeleton import skeleton
from zoo.pretrained import load_weights
from zoo.tasks import ClassificationTask, RegressionTask


def make(**kwargs: Any) -> zoo.Task:
    return zoo.create_model("resnet18", **{"width": 4, "num_classes": 10, **kwargs})


@pytest.fixture
def trained() -> zoo.Task:
    """A model that looks trained: nothing in it has the value that its constructor gives it."""
    task = make(class_weight=[2.0] * 10)
    with torch.no_grad():
        for tensor in task.net.state_dict().values():
            tensor.add_(torch.rand_like(tensor)) if tensor.is_floating_point() else tensor.add_(7)
    task.mean, task.std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 0.125])
    task.class_names, task.input_shape = list("abcdefghij"), (3, 40, 40)
    return task.eval()


def write(task: zoo.Task, kind: str, folder: Path) -> Path:
    path = folder / f"weights.{kind}"
    state = {k: t.clone() for k, t in task.net.state_dict().items()}
    if kind == "folder":
        return task.save_pretrained(path)
    if kind == "ckpt":
        checkpoint = {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)}
        task.on_save_checkpoint(checkpoint) if task._trainer else checkpoint.update(
            zoo={"model": "resnet18", "frozen": 0, **task.data_description()}
        )
        torch.save(checkpoint, path)
    elif kind == "safetensors":
        save_file(state, path)
    elif kind == "old.pth":  # the format before torch 1.6, in which torchvision's older files are
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif kind == "ddp.pt":  # a foreign trainer's checkpoint of a wrapped net
        torch.save({"model": {f"module._orig_mod.{k}": t for k, t in state.items()}, "epoch": 3}, path)
    else:
        torch.save(state, path)
    return path


@contextmanager
def no_warning() -> Iterator[None]:
    """Let files pass that have no checksum."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*was not checked for damage")
        yield


KINDS = ("folder", "ckpt", "safetensors", "pth", "old.pth", "ddp.pt")


@pytest.mark.parametrize("kind", KINDS)
def test_weights_from_every_kind_of_file(kind: str, trained: zoo.Task, tmp_path: Path) -> None:
    path = write(trained, kind, tmp_path)
    before = torch.get_rng_state()
    unchecked = kind in ("safetensors", "old.pth")
    with pytest.warns(UserWarning, match="was not checked for damage") if unchecked else nullcontext():
        task = make(weights=path, lr=0.5).eval()
    assert torch.equal(torch.get_rng_state(), before), "a random number was drawn for what was loaded"
    assert not any(t.is_meta for t in (*task.parameters(), *task.buffers()))
    for name, value in trained.net.state_dict().items():
        assert torch.equal(task.net.state_dict()[name], value), name
    assert task.load_report is not None
    assert task.load_report.complete
    assert task.hparams["lr"] == 0.5
    assert "weights" not in task.hparams
    assert task.class_weight.tolist() == [1.0] * 10  # the file's belong to the data it was trained on
    assert all(p.requires_grad and p.is_leaf for p in task.parameters())
    if kind in ("folder", "ckpt"):
        assert torch.equal(task.mean, trained.mean)
        assert (task.class_names, task.input_shape) == (trained.class_names, trained.input_shape)
    assert task._standardized is (kind in ("folder", "ckpt"))  # else the first fit copies mean and std from the data


def test_the_class_takes_weights_too(trained: zoo.Task, tmp_path: Path) -> None:
    path = write(trained, "folder", tmp_path)
    task = zoo.ResNetClassifier(18, width=4, num_classes=10, weights=str(path)).eval()
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(task(x), trained(x))
    assert task.class_names == trained.class_names
    assert "weights" not in task.hparams


# Arguments that are stored with the weights ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "ckpt"])
def test_the_net_is_built_as_it_was_saved(kind: str, trained: zoo.Task, tmp_path: Path) -> None:
    task = zoo.create_model("resnet18", weights=write(trained, kind, tmp_path))
    assert (task.hparams["width"], task.num_classes) == (4, 10)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(task(x), trained(x))
    other = zoo.create_model("resnet18", weights=tmp_path / f"weights.{kind}", num_classes=7, in_channels=1)
    assert other.load_report is not None
    assert other.load_report.reinitialized == ["net.fc.weight", "net.fc.bias"]
    assert other.load_report.adapted == ["net.conv1.weight"]
    with pytest.raises(ValueError, match="width is 4 there and 5 here"):
        zoo.create_model("resnet18", weights=tmp_path / f"weights.{kind}", width=5)


def test_bundled_weights_bring_their_own_shape_and_classes() -> None:
    task = zoo.create_model("resnet20", weights="resnet20_digits")
    saved = zoo.load("resnet20_digits")
    assert (task.net.in_channels, task.num_classes, task.input_shape) == (1, 10, (1, 8, 8))
    assert task.load_report is not None
    assert task.load_report.complete
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(task(x), saved(x))
    assert zoo.create_model("resnet20", weights="resnet20_digits", in_channels=3).net.in_channels == 3


def test_how_they_were_trained_is_left_alone(tmp_path: Path) -> None:
    """Or a given optimizer would meet the arguments of another, and given classes the weights of others."""
    how: dict[str, Any] = {"optimizer": "SGD", "optimizer_args": {"momentum": 0.9}, "lr": 0.5, "init": "kaiming_normal"}
    saved = make(**how, class_weight=[2.0] * 10, top_k=9, threshold=0.3, label_smoothing=0.25)
    task = zoo.create_model("resnet18", weights=saved.save_pretrained(tmp_path / "m"), optimizer="Adam", num_classes=3)
    fresh = make().hparams
    left_out = ("optimizer_args", "lr", "init", "class_weight", "top_k")
    assert {k: task.hparams[k] for k in left_out} == {k: fresh[k] for k in left_out}
    assert (task.hparams["optimizer"], task.hparams["threshold"]) == ("Adam", 0.3)
    assert (task.hparams["label_smoothing"], task.hparams["width"]) == (0.25, 4)


def test_weights_of_the_class_by_another_name(tmp_path: Path) -> None:
    """What the name does not say comes with the weights: here the activation, which no tensor tells."""
    path = zoo.create_model("lenet5_relu", width=2).save_pretrained(tmp_path / "relu")
    task = zoo.create_model("lenet5", weights=path)
    assert (task.hparams["width"], task.hparams["variant"]) == (2, "relu")
    path = zoo.create_model("lenet5", width=2).save_pretrained(tmp_path / "tanh")
    assert zoo.create_model("lenet5_relu", weights=path).hparams["variant"] == "relu"


class Sized(ClassificationTask):
    """Its size has no default."""

    def __init__(self, size: int, **task: Any) -> None:
        super().__init__(nn.Linear(size, 10), **task)


def test_arguments_without_a_default_and_those_of_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    zoo.register("sized", Sized)
    path = Sized(3).save_pretrained(tmp_path / "m")
    config = json.loads((path / "config.json").read_text())
    config["hparams"]["of_long_ago"] = 1
    (path / "config.json").write_text(json.dumps(config))
    assert zoo.create_model("sized", weights=path).net.in_features == 3


def test_no_file_makes_the_model_open_another(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"encoder_args": {"width": 2}, "num_classes": 3}
    path = zoo.create_model("unet", **arguments).save_pretrained(tmp_path / "m")
    config = json.loads((path / "config.json").read_text())
    config["hparams"] |= {"encoder_weights": "of/another", "weights": "of/another"}
    (path / "config.json").write_text(json.dumps(config))
    assert zoo.create_model("unet", weights=path).load_report.complete  # type: ignore[union-attr]


# Nets of another size --------------------------------------------------------------------------------------------------


def test_another_number_of_classes_draws_a_new_head(trained: zoo.Task, tmp_path: Path) -> None:
    task = make(weights=write(trained, "folder", tmp_path), num_classes=7)
    assert task.load_report is not None
    assert task.load_report.reinitialized == ["net.fc.weight", "net.fc.bias"]
    assert len(task.load_report.loaded) == 120
    assert task.class_names is None
    assert task.input_shape == (3, 40, 40)
    head = task.net.fc.weight
    assert head.requires_grad
    assert 0.5 < head.std() * 3**0.5 * 32**0.5 < 1.5  # uniform in +-1/sqrt(32), as nn.Linear draws it
    one, other = (make(weights=tmp_path / "weights.folder", num_classes=7).net.fc.weight for _ in range(2))
    assert not torch.equal(one, other)


def test_binary_mode_has_one_output(trained: zoo.Task, tmp_path: Path) -> None:
    task = make(weights=write(trained, "pth", tmp_path), num_classes=2, mode="binary")
    assert task(torch.rand(2, 3, 32, 32)).shape == (2, 1)


def test_other_channels_adapt_the_first_convolution(trained: zoo.Task, tmp_path: Path) -> None:
    task = make(weights=write(trained, "folder", tmp_path), in_channels=1).eval()
    assert task.load_report is not None
    assert task.load_report.adapted == ["net.conv1.weight"]
    assert task.mean.tolist() == pytest.approx([0.2])
    assert task.input_shape == (1, 40, 40)
    x = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(task.net(x), trained.net(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    with pytest.raises(
        ValueError, match="its first convolution sees 3 channels, here it has 17: up to 16 can be adapted"
    ):
        make(weights=tmp_path / "weights.folder", in_channels=17)


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "reason"),
    [
        ("resnet18", {"width": 5}, "folder", "width is 4 there and 5 here"),
        ("resnet34", {"width": 4}, "ckpt", "depth is 18 there and 34 here"),
        ("lenet5", {}, "folder", "they are of resnet18"),
        (
            "resnet18",
            {"width": 5},
            "pth",
            r"conv1.weight is \(4, 3, 7, 7\) there and \(5, 3, 7, 7\) here \(100 more differ\)",
        ),
        ("resnet34", {"width": 4}, "pth", r"80 tensors are missing \(layer1.2.conv1.weight\)"),
        ("resnet18", {"width": 4, "norm": "none"}, "pth", r"100 tensors are unknown here \(bn1.weight\)"),
        (
            "lenet5",
            {},
            "safetensors",
            r"conv1.weight is .*, 9 tensors are missing \(conv1.bias\), 121 tensors are unknown here",
        ),
    ],
)
def test_weights_of_another_architecture(
    name: str, arguments: dict[str, Any], kind: str, reason: str, trained: zoo.Task, tmp_path: Path
) -> None:
    path = write(trained, kind, tmp_path)
    with pytest.raises(ValueError, match=rf"{path.name}.* cannot be the weights of this \w+: .*{reason}"), no_warning():
        zoo.create_model(name, weights=path, **arguments)


def test_the_class_refuses_the_same(trained: zoo.Task, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="width is 4 there and 5 here"):
        zoo.ResNetClassifier(18, width=5, weights=str(write(trained, "folder", tmp_path)))


def test_only_the_first_convolution_is_adapted(tmp_path: Path) -> None:
    zoo.create_model("lenet5", width=3, in_channels=1)
    net = zoo.create_model("lenet5", width=3).net
    state = {**net.state_dict(), "conv2.weight": torch.rand(8, 4, 5, 5)}
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"conv2.weight is \(8, 4, 5, 5\) there and \(8, 3, 5, 5\) here"):
        zoo.create_model("lenet5", width=3, weights=tmp_path / "net.pth")


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files(kind: str, trained: zoo.Task, tmp_path: Path) -> None:
    path = write(trained, kind, tmp_path)
    file = path / "model.safetensors" if kind == "folder" else path
    content = file.read_bytes()
    for share in (0.0, 0.5, 0.99):
        file.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ValueError, match=rf"{file.name} is damaged"):
            make(weights=path)


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("open('owned', 'w').close()",)


def test_a_file_that_holds_code_is_refused_by_name(tmp_cwd: Path) -> None:
    torch.save({"conv1.weight": Evil()}, "evil.pth")
    Path("plain.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    torch.save(make().net, "whole.pth")
    for name, what in (("evil.pth", "exec"), ("plain.pt", "exec"), ("whole.pth", "zoo.cnn.resnet.ResNet")):
        with pytest.raises(ValueError, match=rf"{name} asks to run or import .*{what}: refused, nothing of it was run"):
            make(weights=name)
    assert not Path("owned").exists()


def test_a_file_without_a_state_dict(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x.pth holds no state dict \(tensors by name\)"):
        make(weights=tmp_path / "x.pth")


def test_a_file_of_a_single_tensor_ends(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.zeros(3)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"1 tensors are unknown here \(weight\)"):
        make(weights=tmp_path / "x.pth")


def test_names_that_do_not_exist(tmp_cwd: Path) -> None:
    with pytest.raises(
        ValueError, match=r"resnet18 has no weights 'imagenett', did you mean 'imagenet'\?; by name it has imagenet"
    ):
        make(weights="imagenett")
    with pytest.raises(ValueError, match=r"lenet5 has no weights 'imagenet'.*; by name it has lenet5_digits"):
        zoo.create_model("lenet5", weights="imagenet")
    for path in ("nowhere.pth", "no/such/folder", "./here"):
        with pytest.raises(FileNotFoundError, match=f"no file or folder {path}"):
            make(weights=path)
    with pytest.raises(ValueError, match="num_classes must be 2 or more, got 1"):
        make(weights="imagenet", num_classes=1)
    with pytest.raises(ValueError, match=r"init 'orthogonal' would draw what weights 'x.pth' bring: give one of them"):
        make(weights="x.pth", init="orthogonal")


def test_a_half_precision_file_becomes_the_nets_precision(trained: zoo.Task, tmp_path: Path) -> None:
    save_file(
        {k: t.half() if t.is_floating_point() else t for k, t in trained.net.state_dict().items()},
        tmp_path / "h.safetensors",
    )
    with no_warning():
        task = make(weights=tmp_path / "h.safetensors")
    assert {p.dtype for p in task.parameters()} == {torch.float32}


class Tied(nn.Module):
    """An output layer that shares its matrix with the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(5, 3), nn.Linear(3, 5)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.embedding(x))


@pytest.mark.parametrize("left_out", [(), ("out.weight",), ("embedding.weight",)])
def test_ties_are_made_again(left_out: tuple[str, ...]) -> None:
    state = {k: t for k, t in Tied().state_dict().items() if k not in left_out}
    before = torch.get_rng_state()
    with skeleton():
        net = Tied()
    assert load_weights(net, state, assign=True).missing == []
    assert torch.equal(torch.get_rng_state(), before)
    assert net.out.weight is net.embedding.weight
    assert torch.equal(net.out.weight, next(iter(state.values())))
    assert len(list(net.parameters())) == 2
    with torch.device("meta"):  # what is drawn again is tied too
        net = Tied()
    load_weights(net, {"out.bias": torch.ones(5)}, strict=False, assign=True)
    assert net.out.weight is net.embedding.weight
    assert not net.out.weight.is_meta
    assert torch.equal(net.out.bias, torch.ones(5))


def test_a_tensor_that_cannot_be_drawn_is_refused() -> None:
    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.fc = nn.Parameter(torch.zeros(3)), nn.Linear(2, 2)

    with torch.device("meta"):
        net = Token()
    with pytest.raises(ValueError, match=r"no 'token' of the model \(Token\), which has no reset_parameters"):
        load_weights(net, nn.Linear(2, 2, device="cpu").state_dict(prefix="fc."), strict=False, assign=True)


def test_a_skeleton_has_values_in_the_buffers_of_the_task_only() -> None:
    before = torch.get_rng_state()

    class Operations(TorchDispatchMode):
        names: ClassVar[set[str]] = set()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.add(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with skeleton(), Operations() as operations:
        task = make(class_weight=[float(k) for k in range(10)], init="kaiming_normal")
    assert "empty" in operations.names
    assert not operations.names & {
        "normal_",
        "uniform_",
        "fill_",
        "zero_",
    }  # slow on the meta device, and without effect
    assert torch.equal(torch.get_rng_state(), before)
    assert all(t.is_meta for t in task.net.state_dict().values())
    assert task.class_weight.tolist() == list(range(10))
    assert (task.mean.item(), task.std.item()) == (0, 1)


def test_a_regression_keeps_the_unit_of_its_target(tmp_path: Path) -> None:
    task = zoo.create_model("mlp_regression", widths=[4])
    task.target_mean, task.target_std = torch.tensor([150.0]), torch.tensor([70.0])
    task.save_pretrained(tmp_path / "m")
    for twin in (
        zoo.create_model("mlp_regression", widths=[4], weights=tmp_path / "m"),
        zoo.MLPRegressor(widths=[4], weights=str(tmp_path / "m")),
    ):
        assert twin.target_mean.item() == 150
        assert twin._target_known
    several = zoo.create_model("mlp_regression", widths=[4], num_outputs=2, weights=tmp_path / "m")
    assert several.target_mean.tolist() == [0, 0]


def test_load_keeps_the_class_weights_that_were_asked_for(trained: zoo.Task, tmp_path: Path) -> None:
    path = write(trained, "folder", tmp_path)
    wanted = [float(k) for k in range(7)]
    task = zoo.load(path, num_classes=7, class_weight=wanted, strict=False)
    assert task.class_weight.tolist() == wanted
    assert task.load_report.missing == []


def own_net(outputs: int = 10) -> nn.Module:
    return nn.Sequential(
        OrderedDict(a=nn.Conv2d(1, 3, 3), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(3, outputs))
    )


def test_a_net_from_outside_takes_weights(tmp_path: Path) -> None:
    torch.save(own_net(5).state_dict(), tmp_path / "net.pth")
    task = ClassificationTask(own_net(), 10, weights=str(tmp_path / "net.pth"))
    assert task.load_report is not None
    assert task.load_report.reinitialized == ["net.fc.weight", "net.fc.bias"]
    with pytest.raises(ValueError, match=r"a.weight is \(3, 1, 3, 3\) there and \(3, 1, 5, 5\) here"):
        RegressionTask(
            nn.Sequential(OrderedDict(a=nn.Conv2d(1, 3, 5), fc=nn.Linear(3, 5))), 5, weights=str(tmp_path / "net.pth")
        )
