"""Nets of other libraries by name: equal to what the library builds, saved and loaded without it being asked, refused in words."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from hub_kit import point_to
from kit import assert_reloads, checkpoint, quiet_trainer
from lightning.pytorch import LightningDataModule
from safetensors.torch import save
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import zoo
from zoo import backbones
from zoo.optim.optimizers import parameter_groups
from zoo.tasks import ClassificationTask

TINY_SWIN: dict[str, Any] = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "img_size": 64}
TIMM: dict[str, tuple[str, dict[str, Any] | None]] = {
    "resnet": ("timm/test_resnet", None),
    "convnext": ("timm/test_convnext", None),
    "vit": ("timm/test_vit", {"img_size": 64, "dynamic_img_size": False}),
    "swin": ("timm/swin_tiny_patch4_window7_224", TINY_SWIN),
    "efficientnet": ("timm/test_efficientnet", None),
}


def built(kind: str, num_classes: int = 4, **task: Any) -> ClassificationTask:
    name, arguments = TIMM[kind]
    return ClassificationTask(name, num_classes, net_args=arguments, **task).eval()


def images(channels: int = 3, size: int = 64) -> torch.Tensor:
    return torch.rand(2, channels, size, size)


class Data(LightningDataModule):
    """Eight images of four classes, whose mean is not that of ImageNet."""

    num_classes, input_shape, mean, std = 4, (3, 64, 64), [0.9] * 3, [0.1] * 3

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(torch.rand(8, 3, 64, 64), torch.arange(8) % 4), 4)

    val_dataloader = train_dataloader


@pytest.mark.parametrize("kind", TIMM)
def test_logits_are_those_of_timm(kind: str) -> None:
    task, (name, arguments) = built(kind), TIMM[kind]
    net = timm.create_model(name.removeprefix("timm/"), num_classes=4, **(arguments or {})).eval()
    net.load_state_dict({k.removeprefix("net.model."): t for k, t in task.state_dict().items() if k.startswith("net.")})
    x = images()
    with torch.no_grad():
        assert torch.equal(task(x), net(x))
        task.net.reset_head(0)
        net.reset_classifier(0)
        assert torch.equal(task(x), net(x))


@pytest.mark.parametrize("kind", TIMM)
def test_it_is_saved_and_loaded_by_its_name(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, x = built(kind, in_channels=1, lr=0.5), images(1)
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **kw: create(*args, **kw | {"pretrained": never(kw)}))
    assert_reloads(task, x, tmp_path)
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["model"] == TIMM[kind][0]


def never(arguments: dict[str, Any]) -> bool:
    assert not arguments.get("pretrained")
    return False


@pytest.mark.parametrize("kind", TIMM)
def test_layers_are_timms_groups(kind: str) -> None:
    task = built(kind)
    net = task.net.model
    depths = timm.models.group_parameters(net, net.group_matcher(coarse=True), reverse=True)
    groups = task.layer_groups()
    for depth, names in enumerate(groups):
        inside = [n for n in depths if any(f"model.{n}.".startswith(f"{name}.") for name in names)]
        assert {depths[n] for n in inside} == {depth}, names
    task.freeze("head").train()
    trained = {n for n, p in task.net.named_parameters() if p.requires_grad}
    assert trained == {f"model.{n}" for n, depth in depths.items() if depth == max(depths.values())}
    head = {m for name in groups[-1] for m in task.net.get_submodule(name).modules()}
    assert {m for m in net.modules() if m.training and not [*m.children()]} <= head


def test_what_timm_does_not_decay_is_not_decayed() -> None:
    net = built("vit").net
    groups = {g["name"]: {id(p) for p in g["params"]} for g in parameter_groups(net, 1.0, 0.1, False)}
    assert net.model.no_weight_decay() >= {"pos_embed", "cls_token"}
    assert {id(net.model.pos_embed), id(net.model.cls_token)} <= groups["no_decay"]
    assert id(net.model.patch_embed.proj.weight) in groups["decay"]
    swin = built("swin").net
    groups = {g["name"]: {id(p) for p in g["params"]} for g in parameter_groups(swin, 1.0, 0.1, False, layer_decay=0.5)}
    tables = [p for n, p in swin.named_parameters() if n.endswith("relative_position_bias_table")]
    assert {id(p) for p in tables} <= set().union(*(ids for name, ids in groups.items() if name.endswith("no_decay")))


@pytest.mark.parametrize(
    ("kind", "strides"), [("resnet", [2, 4, 8, 16, 32]), ("swin", [4, 8, 16, 32]), ("vit", [16] * 6)]
)
def test_features_are_the_maps_of_the_stages(kind: str, strides: list[int]) -> None:
    net = built(kind).net
    maps, told = net.features(images()), net.feature_maps()
    assert [64 // y.shape[-1] for y in maps] == strides == [m.stride for m in told]
    assert [y.shape[1] for y in maps] == [m.channels for m in told]


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_logits_are_those_of_torchvision(name: str) -> None:
    task = zoo.create_model(f"torchvision/{name}", num_classes=4).eval()
    net = torchvision.models.get_model(name, num_classes=4).eval()
    net.load_state_dict({k.removeprefix("net.model."): t for k, t in task.state_dict().items() if k.startswith("net.")})
    with torch.no_grad():
        x = images()
        assert torch.equal(task(x), net(x))
        task.net.reset_head(3)
        assert task(x).shape == (2, 3)
        task.net.reset_head(0)
        assert task(x).shape == (2, task.net.num_features)


def test_a_model_of_the_zoo_is_a_net_by_name(tmp_path: Path) -> None:
    task = ClassificationTask("resnet20", 2, mode="binary", net_args={"width": 4}, in_channels=1).eval()
    assert task.hparams["net"] == "zoo/resnet20"
    assert task(images(1, 32)).shape == (2, 1)
    loaded = zoo.load(task.save_pretrained(tmp_path / "folder"))
    x = images(1, 32)
    assert torch.equal(loaded(x), task(x))


# Pretrained weights ---------------------------------------------------------------------------------------------------


def published(tag: str = "r160_in1k", **arguments: Any) -> tuple[nn.Module, dict[str, bytes]]:
    """A net of timm, and the files of its repository on the hub."""
    net = timm.create_model("test_resnet", **arguments).eval()
    config = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "input_size": [3, 96, 96], "interpolation": "bicubic"}
    config |= {"crop_pct": 0.75, "num_classes": net.num_classes, "classifier": "fc", "first_conv": "conv1.0"}
    content = {"architecture": "test_resnet", "num_classes": net.num_classes, "pretrained_cfg": config}
    return net, {"config.json": json.dumps(content).encode(), "model.safetensors": save(net.state_dict())}


def test_pretrained_weights_of_timm(
    hub: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source, hub["timm/test_resnet.r160_in1k"] = published()
    state = torch.get_rng_state()
    task = zoo.create_model("timm/test_resnet", weights="pretrained")
    assert torch.equal(torch.get_rng_state(), state)
    config = timm.data.resolve_model_data_config(source)
    assert torch.equal(task.mean, torch.tensor(config["mean"]))
    x = images()
    expected = source((x - torch.tensor(config["mean"]).view(3, 1, 1)) / torch.tensor(config["std"]).view(3, 1, 1))
    torch.testing.assert_close(task.eval()(x), expected)
    assert task.input_shape == (3, 160, 160)
    assert task.preparation == {"center": config["crop_pct"], "interpolation": "bilinear"}
    assert (len(task.class_names), task.class_names[0][:5]) == (1000, "tench")
    point_to(monkeypatch, 9)  # the hub is asked no more
    fitted = zoo.create_model("timm/test_resnet", weights=str(task.save_pretrained(tmp_path / "m")), num_classes=4)
    assert (
        fitted.hparams["preprocessing"]
        == task.hparams["preprocessing"]
        == {
            "mean": list(config["mean"]),
            "std": list(config["std"]),
            "size": 160,
            "crop": 0.95,
            "interpolation": "bilinear",
        }
    )
    with pytest.warns(UserWarning, match=r"trained on images of size 160, the data have size 64"):
        quiet_trainer(max_epochs=1).fit(fitted, datamodule=Data())
    assert torch.equal(fitted.mean.cpu(), torch.tensor(config["mean"]))  # not that of the data


def test_weights_without_a_head_leave_a_fresh_one(hub: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    """Also what is not one: a net that lacks more than its head is refused."""
    source, hub["me/self"] = published(num_classes=0)
    x = images()
    heads = []
    for _ in range(2):
        task = zoo.create_model(
            "hf/me/self", weights="pretrained", num_classes=4, preprocessing={"mean": [0], "std": [1]}
        )
        assert (task.load_report.missing, task.class_names) == (["net.model.fc.weight", "net.model.fc.bias"], None)
        heads.append(task.net.model.fc.weight.detach().clone())
        task.net.reset_head(0)
        torch.testing.assert_close(task(x), source(x))
    assert not torch.equal(*heads)
    torch.save(source.state_dict(), tmp_path / "whole.pth")
    task = ClassificationTask("timm/test_resnet", 4, weights=str(tmp_path / "whole.pth"))
    assert len(task.load_report.missing) == 2
    torch.save({k: t for k, t in source.state_dict().items() if "layer2" not in k}, tmp_path / "less.pth")
    with pytest.raises(ValueError, match=r"tensors are missing \(model.layer2"):
        ClassificationTask("timm/test_resnet", 4, weights=str(tmp_path / "less.pth"))


def test_every_fresh_head_is_another_one_and_repeatable(tmp_path: Path) -> None:
    for name in ("timm/test_resnet", "torchvision/shufflenet_v2_x0_5"):
        folder = str(zoo.create_model(name, num_classes=3).save_pretrained(tmp_path / name))
        heads = []
        for _ in range(2):
            torch.manual_seed(0)
            heads += [
                zoo.create_model(name, weights=folder, num_classes=4).net.get_parameter("model.fc.weight") for _ in "ab"
            ]
        assert not torch.equal(heads[0], heads[1])
        assert [torch.equal(heads[i], heads[i + 2]) for i in (0, 1)] == [True, True]


def test_a_fit_tells_of_files_that_are_read_otherwise(tmp_path: Path) -> None:
    class Files(Data):
        preparation = {"center": 1.0, "interpolation": "bilinear"}

    wanted = {"size": 64, "interpolation": "bicubic", "crop": 0.9}
    task = ClassificationTask("timm/test_resnet", 4, preprocessing=wanted)
    with pytest.warns(
        UserWarning, match="images of interpolation bicubic, center 0.9, the data have .* set .*center=0.9 of"
    ):
        quiet_trainer(max_epochs=1).fit(task, datamodule=Files())
    assert task.preparation == Files.preparation
    task.set_preprocessing(wanted)
    Files.preparation = {"center": 0.9001, "interpolation": "bicubic"}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*trained on images.*")
        quiet_trainer(max_epochs=1).fit(task, datamodule=Files())


def test_a_net_of_the_hub(hub: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source, hub["me/net"] = published(num_classes=7)
    task = ClassificationTask("hf/me/net", 7, weights="pretrained").eval()
    point_to(monkeypatch, 9)
    assert task.hparams["net_args"] == {"architecture": "test_resnet"}
    assert task.hparams["preprocessing"]["mean"] == [0.5, 0.4, 0.3]
    assert (task.input_shape, task.preparation) == ((3, 96, 96), {"center": 0.75, "interpolation": "bicubic"})
    x = images()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    torch.testing.assert_close(task(x), source((x - mean) / std))
    loaded = zoo.load(task.save_pretrained(tmp_path / "m"))
    assert torch.equal(loaded(x), task(x))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library tries it five times, half a minute long
    with pytest.raises(ConnectionError, match="hub cannot be reached for 'me/other'"):
        ClassificationTask("hf/me/other", 7)


def test_a_repository_that_is_no_net_of_timm(hub: dict[str, dict[str, bytes]]) -> None:
    hub["me/other"] = {"config.json": b'{"model": "lenet5", "hparams": {}}'}
    with pytest.raises(ValueError, match=r"hf/me/other is no net of timm.*weights='me/other'"):
        ClassificationTask("hf/me/other", 7)


@pytest.mark.parametrize("fixed", [True, False])
def test_pretrained_weights_of_a_net_for_images_of_another_size(hub: dict[str, dict[str, bytes]], fixed: bool) -> None:
    hub["timm/test_vit.r160_in1k"] = {"model.safetensors": save(timm.create_model("test_vit").state_dict())}
    arguments = {"img_size": 64, "dynamic_img_size": not fixed}
    task = zoo.create_model("timm/test_vit", weights="pretrained", num_classes=4, net_args=arguments)
    assert (task.preprocessing["size"], task.input_shape) == (64, (3, 64, 64))
    assert task.example_output().shape == (1, 4)


def test_a_head_of_several_layers_is_fitted_to_other_classes(tmp_path: Path) -> None:
    net = timm.create_model("levit_128s", num_classes=7)  # two heads, each of a norm and a linear layer
    torch.save(net.state_dict(), tmp_path / "net.pth")
    task = zoo.create_model("timm/levit_128s", weights=tmp_path / "net.pth", num_classes=4)
    heads = {f"net.model.{head}.linear.{name}" for head in ("head", "head_dist") for name in ("weight", "bias")}
    assert set(task.load_report.reinitialized) == heads


def test_a_net_for_images_that_are_not_square() -> None:
    net = zoo.create_model("timm/test_vit", num_classes=4, net_args={"img_size": [64, 32], "dynamic_img_size": False})
    assert net(torch.rand(1, 3, 64, 32)).shape == (1, 4)


def test_weights_of_timm_as_a_file(tmp_path: Path) -> None:
    net = timm.create_model("test_resnet", num_classes=4).eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    task = zoo.create_model("timm/test_resnet", weights=tmp_path / "net.pth", num_classes=4)
    assert task.load_report.complete
    x = images()
    assert torch.equal(task(x), net(x))


# Preprocessing --------------------------------------------------------------------------------------------------------


def test_what_the_user_set_is_kept_by_a_fit(tmp_path: Path) -> None:
    given = {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0], "size": 64, "interpolation": "bicubic", "crop": 0.9}
    for net in ("timm/test_resnet", timm.create_model("test_resnet", num_classes=4)):
        task = ClassificationTask(net, 4, preprocessing=given)
        assert task.preparation == {"center": 0.9, "interpolation": "bicubic"}
        quiet_trainer(max_epochs=1).fit(task, datamodule=Data())
        assert torch.equal(task.mean, torch.tensor([0.1, 0.2, 0.3]))
    bare = ClassificationTask(timm.create_model("test_resnet", num_classes=4), 4)
    bare.mean, bare.std = torch.tensor([0.1, 0.2, 0.3]), torch.ones(3)  # set by hand
    quiet_trainer(max_epochs=1).fit(bare, datamodule=Data())
    assert torch.equal(bare.mean, torch.tensor([0.1, 0.2, 0.3]))
    with pytest.raises(ValueError, match=r"preprocessing has no 'maen', did you mean 'mean'\?"):
        task.set_preprocessing({"maen": 1})


def test_what_the_user_set_wins_over_the_file(tmp_path: Path) -> None:
    given = {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0], "size": 64}
    folder = ClassificationTask("timm/test_resnet", 4, preprocessing=given).save_pretrained(tmp_path / "folder")
    other = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": 32}
    for task in (
        zoo.load(folder, preprocessing=other),
        zoo.create_model("timm/test_resnet", weights=folder, preprocessing=other),
    ):
        assert task.mean.tolist() == task.std.tolist() == [0.5] * 3
        assert task.hparams["preprocessing"] == other
        assert task.input_shape == (3, 32, 32)


# Refused --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("timm/resnt18", None, r"timm has no net 'resnt18', did you mean 'resnet18'\?"),
        ("timm/resnet18.a9_in1k", None, r"resnet18 has no weights 'a9_in1k', did you mean 'a\d_in1k'"),
        (
            "timm/test_resnet",
            {"stm_width": 1},
            r"net_args: test_resnet of timm has no argument 'stm_width', did you mean 'stem_width'",
        ),
        (
            "timm/test_resnet",
            {"pretrained": True},
            r"has 'pretrained': leave it out, weights='pretrained' loads weights",
        ),
        ("timm/test_resnet", {"checkpoint_path": "x.pth"}, r"net_args of timm/test_resnet has 'checkpoint_path'"),
        ("timm/test_resnet", {"pretrained_cfg": {"file": "x"}}, r"has 'pretrained_cfg'"),
        ("timm/test_resnet", {"features_only": True}, r"has 'features_only'"),
        ("timm/test_resnet", {"num_classes": 3}, r"net_args has 'num_classes': give num_classes to the model"),
        ("torchvision/resnt18", None, r"torchvision has no classifier 'resnt18', did you mean 'resnet18'\?"),
        (
            "torchvision/resnet18",
            {"weights": "DEFAULT"},
            r"net_args has 'weights': give num_classes and weights to the model",
        ),
        ("timm/test_vit", {"patch_size": 0}, r"timm cannot build test_vit with net_args {'patch_size': 0}"),
        ("torchvision/mobilenet_v2", {"round_nearest": 0}, r"torchvision cannot build mobilenet_v2 with net_args"),
        ("torchvision/resnet18", {"typo": 1}, r"resnet18 of torchvision has no argument 'typo'"),
        ("resnt18", None, r"unknown model 'resnt18', did you mean 'resnet18'\?.*timm/NAME"),
        ("resnet18", {"weights": "x"}, r"net_args: resnet18 has no argument 'weights'"),
        ("resnet18", {"num_classes": 3}, r"net_args has 'num_classes': give num_classes to the model"),
        ("torch.nn.Identity", {"num_classes": 3}, r"net_args has 'num_classes': give num_classes to the model"),
        ("zoo/resnt18", None, r"unknown model 'resnt18', did you mean 'resnet18'\?"),
        ("zoo/torch.nn.Identity", None, r"unknown model 'torch.nn.Identity'"),
        ("tim/resnet18", None, r"'tim' is no library of nets, did you mean 'timm'\?"),
        ("no_such_module.Net", None, r"net 'no_such_module.Net' cannot be imported"),
        ("json.dumps", None, r"is no torch.nn.Module class"),
        ("vae8", None, r"net 'zoo/vae8' is no classifier|unknown model 'vae8'"),
    ],
)
def test_bad_names_and_arguments_are_refused(name: str, arguments: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        ClassificationTask(name, 4, net_args=arguments)


def test_without_timm_one_line_tells_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = backbones.timm_nets.importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "timm" else find(name))
    for name in ("timm/resnet18", "hf/me/net"):
        with pytest.raises(ModuleNotFoundError, match=r"need timm: pip install 'lightning-zoo\[timm\]'"):
            ClassificationTask(name, 4)


def test_images_that_a_fixed_net_cannot_take_are_refused_with_the_cure(tmp_path: Path) -> None:
    task = ClassificationTask("timm/test_vit", 4, net_args={"dynamic_img_size": False})
    with pytest.raises(
        ValueError, match=r"timm/test_vit takes images of shape \(B, 3, 160, 160\).*set the datamodule's size=160"
    ):
        quiet_trainer(max_epochs=1).fit(task, datamodule=Data())


OWN = """
from torch import nn
print("imported")
class Net(nn.Sequential):
    def __init__(self, num_classes, width=2):
        super().__init__(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
"""


def test_a_class_of_the_users_own_is_never_imported_for_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_nets.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    task = zoo.create_model("own_nets.Net", num_classes=4, net_args={"width": 3})
    checkpoint(task, path := tmp_path / "model.ckpt")
    folder = task.save_pretrained(tmp_path / "folder")
    assert "imported" in capsys.readouterr().out
    for place in (path, folder):
        del sys.modules["own_nets"]
        with pytest.raises(
            ValueError, match=r"asks for the net 'own_nets.Net' to be imported.*pass net='own_nets.Net'"
        ):
            zoo.load(place)
        assert "own_nets" not in sys.modules
        loaded = zoo.load(place, net="own_nets.Net")
        assert torch.equal(loaded(x := images()), task(x))
    del sys.modules["own_nets"]
    with pytest.raises(
        TypeError, match=r"given its net, a own_nets.Net, from outside.*load_from_checkpoint\(path, net=net"
    ):
        ClassificationTask.load_from_checkpoint(path, weights_only=True)
    assert "own_nets" not in sys.modules
    monkeypatch.setattr("zoo.registry._ENTRIES", dict(zoo.registry._ENTRIES))
    zoo.register("own", ClassificationTask, net="own_nets.Net")
    assert torch.equal(zoo.load(path)(x), task(x))


def test_a_checkpoint_imports_no_optimizer_either(tmp_path: Path) -> None:
    task = zoo.create_model("lenet5", optimizer="torch.optim.SGD")
    checkpoint(task, path := tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"optimizer 'torch.optim.SGD' to be imported, which no file may"):
        type(task).load_from_checkpoint(path, weights_only=True)
    assert type(task).load_from_checkpoint(path, optimizer="SGD", weights_only=True).hparams["optimizer"] == "SGD"


def test_a_file_opens_imports_and_downloads_nothing_through_the_net(
    hub: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_nets.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    monkeypatch.setattr("zoo.registry._ENTRIES", dict(zoo.registry._ENTRIES))
    zoo.register("my_net", ClassificationTask, net="timm/test_resnet")
    _, hub["me/net"] = published(num_classes=4)
    folder = built("resnet").save_pretrained(tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    for wrong, message in (
        ({"net_args": {"pretrained": True}}, "has 'pretrained'"),
        ({"net_args": {"checkpoint_path": "/etc/passwd"}}, "has 'checkpoint_path'"),
        ({"net_args": 3}, "net_args must be dict"),
        ({"net": "os.system"}, "to be imported"),
        ({"net": "zoo/own_nets.Net", "net_args": None}, "unknown model 'own_nets.Net'"),
        ({"net": "zoo/timm/test_resnet", "net_args": {"net": "own_nets.Net"}}, "unknown model 'timm/test_resnet'"),
        ({"net": "zoo/my_net", "net_args": {"net": "own_nets.Net"}}, "my_net has no argument 'net'"),
        ({"net": "hf/me/net", "net_args": None}, "the net 'hf/me/net' to be looked up on the hub"),
        ({"preprocessing": {"mean": [1], "std": [0]}}, "std above 0"),
    ):
        (folder / "config.json").write_text(json.dumps(config | {"hparams": config["hparams"] | wrong}))
        with pytest.raises(ValueError, match=message):
            zoo.load(folder)
        assert "own_nets" not in sys.modules


def test_a_checkpoint_does_not_ask_the_hub(
    hub: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, hub["me/net"] = published(num_classes=4)
    checkpoint(ClassificationTask("hf/me/net", 4), path := tmp_path / "model.ckpt")
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["net_args"] = None
    torch.save(content, path)
    point_to(monkeypatch, 9)
    for load in (zoo.load, lambda file: ClassificationTask.load_from_checkpoint(file, weights_only=True)):
        with pytest.raises(
            (ValueError, TypeError), match=r"pass net='hf/me/net' if you trust it|load_from_checkpoint\(path"
        ):
            load(path)


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny"])
def test_the_default_weights_of_timm_come_first(name: str) -> None:
    listed = backbones.list_weights(f"timm/{name}")
    assert listed[:2] == ["pretrained", timm.get_pretrained_cfg(name).tag]
    assert {f"{name}.{tag}" for tag in listed[1:]} == set(timm.list_models(f"{name}.*", pretrained=True))
