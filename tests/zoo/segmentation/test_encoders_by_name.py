"""Encoders of other libraries by name: their own maps, trained whole, saved and loaded without being named, refused in words."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hub_kit import point_to
from kit import assert_reloads, checkpoint
from safetensors.torch import save
from torch import nn

import zoo
from zoo import backbones
from zoo.segmentation import UNet
from zoo.tasks import ClassificationTask

SWIN: dict[str, Any] = {"embed_dim": 8, "depths": [2, 2, 1, 1], "num_heads": [1, 1, 2, 2], "strict_img_size": False}
ENCODERS: dict[str, tuple[str, dict[str, Any] | None]] = {
    "resnet": ("timm/test_resnet", None),
    "convnext": ("timm/test_convnext", None),
    "efficientnet": ("timm/test_efficientnet", {"drop_path_rate": 0.1}),
    "swin": ("timm/swin_tiny_patch4_window7_224", SWIN),
    "mobilenet": ("torchvision/mobilenet_v3_small", {"width_mult": 0.25}),
}


def built(kind: str, cls: type = zoo.UNetSegmenter, **arguments: Any) -> zoo.Task:
    name, encoder_args = ENCODERS[kind]
    return cls(encoder=name, encoder_args=encoder_args, num_classes=3, **arguments).eval()


@pytest.mark.parametrize("cls", [zoo.UNetSegmenter, zoo.FCNSegmenter])
@pytest.mark.parametrize("kind", ENCODERS)
def test_any_size_and_every_parameter_is_trained(kind: str, cls: type) -> None:
    net = built(kind, cls).net
    y = net(torch.rand(2, 3, 75, 61))
    assert y.shape == (2, 3, 75, 61)
    (y.square().sum() + y.sum()).backward()
    assert [k for k, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    named = [id(p) for group in net.layer_groups() for n in group for p in _parameters(net, n)]
    assert sorted(named) == sorted(map(id, net.parameters()))


def _parameters(net: nn.Module, name: str) -> list[nn.Parameter]:
    parent, _, last = name.rpartition(".")
    part = getattr(net.get_submodule(parent), last)
    return [part] if isinstance(part, nn.Parameter) else list(part.parameters())


@pytest.mark.parametrize("kind", ["resnet", "convnext", "efficientnet", "swin"])
def test_maps_are_timms(kind: str) -> None:
    encoder, (name, arguments) = built(kind).net.encoder, ENCODERS[kind]
    net = timm.create_model(name.removeprefix("timm/"), **(arguments or {})).eval()
    fits = net.load_state_dict({k.removeprefix("model."): t for k, t in encoder.state_dict().items()}, strict=False)
    assert not fits.unexpected_keys
    x = torch.rand(2, 3, 64, 96)
    maps = net.forward_intermediates(x, output_fmt="NCHW", intermediates_only=True)
    for ours, theirs, info in zip(encoder.features(x), maps, net.feature_info, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.shape == (2, info["num_chs"], 64 // info["reduction"], 96 // info["reduction"])


def test_maps_of_torchvision_are_the_outputs_of_its_blocks() -> None:
    """The last layer or block of each stride, and none from within a block; where the dense part begins there are no more."""
    net = backbones.build("torchvision/mobilenet_v3_small", 2, 3)
    maps = [(m.channels, m.stride) for m in net.feature_maps()]
    assert maps == [(16, 2), (16, 4), (24, 8), (48, 16), (576, 32)]
    x = torch.rand(1, 3, 64, 64)
    net.eval()
    ends = (0, 1, 3, 8, 12)
    for end, y in zip(ends, net.features(x), strict=True):
        assert torch.equal(y, net.model.features[: end + 1](x))
    assert not net.model.features[0]._forward_hooks
    vgg = backbones.build("torchvision/vgg11", 2, 3)  # its pooling to 7x7 is no map
    assert [y.shape[-1] for y in vgg.features(torch.rand(1, 3, 32, 32))] == [32, 16, 8, 4, 2, 1]


@pytest.mark.parametrize(
    ("kind", "cls"), [*((kind, zoo.UNetSegmenter) for kind in ENCODERS), ("convnext", zoo.FCNSegmenter)]
)
def test_it_is_saved_and_loaded_by_its_name(kind: str, cls: type, tmp_path: Path) -> None:
    task, x = built(kind, cls, in_channels=1, lr=0.5), torch.rand(2, 1, 70, 66)
    for p in task.parameters():  # the scores of an FCN are zero before the first step
        nn.init.normal_(p, std=0.1)
    assert_reloads(task, x, tmp_path)
    config = json.loads((tmp_path / "folder" / "config.json").read_text())["hparams"]
    assert (config["encoder"], config["encoder_args"]) == ENCODERS[kind]


def test_groups_are_timms_then_the_decoders() -> None:
    task = built("convnext", layer_decay=0.5, lr=1.0)
    groups = task.layer_groups()
    net = timm.create_model("test_convnext")
    depths = timm.models.group_parameters(net, net.group_matcher(coarse=True), reverse=True)
    own = [name for name, _ in task.net.encoder.model.named_parameters()]
    encoder = [group for group in groups if group[0].startswith("encoder.")]
    for depth, group in enumerate(encoder):
        inside = [n for n in own if any(f"encoder.model.{n}.".startswith(f"{name}.") for name in group)]
        assert {depths[n] for n in inside} == {depth}
    assert groups[len(encoder) :] == [*([f"stages.{i}"] for i in range(5)), ["head"]]
    rates = {group["name"]: group["lr"] for group in task.configure_optimizers().param_groups}
    assert rates == {f"{i}/all": 0.5 ** (len(groups) - 1 - i) for i in range(len(groups))}
    task.freeze("stages.0").train()
    assert not any(p.requires_grad for p in task.net.encoder.parameters())
    assert all(p.requires_grad for p in task.net.stages.parameters())


# Weights ------------------------------------------------------------------------------------------------------------


def test_weights_of_the_hub_come_with_their_standardization(
    hub: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = timm.create_model("test_resnet", stem_width=16, num_classes=7)
    config = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "input_size": [3, 96, 96], "num_classes": 7}
    content = {"architecture": "test_resnet", "num_classes": 7, "model_args": {"stem_width": 16}}
    content |= {"pretrained_cfg": config | {"classifier": "fc", "first_conv": "conv1.0"}}
    hub["me/net"] = {"config.json": json.dumps(content).encode(), "model.safetensors": save(source.state_dict())}
    fresh = zoo.UNetSegmenter("hf/me/net")
    assert not fresh.standardized
    task = zoo.UNetSegmenter("hf/me/net", encoder_weights="pretrained").eval()
    point_to(monkeypatch, 9)  # the hub is asked no more
    assert task.hparams["encoder_args"] == {"architecture": "test_resnet", "stem_width": 16}
    assert task.mean.tolist() == pytest.approx([0.5, 0.4, 0.3])
    for key, value in task.net.encoder.model.state_dict().items():
        assert torch.equal(value, source.state_dict()[key]), key
    folder, x = task.save_pretrained(tmp_path / "m"), torch.rand(1, 3, 64, 64)
    assert torch.equal(zoo.load(folder)(x), task(x))
    config = json.loads((folder / "config.json").read_text())
    config["hparams"]["encoder_args"] = None
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="asks for the encoder 'hf/me/net' to be looked up on the hub"):
        zoo.load(folder)


def test_default_weights_and_those_of_a_file(hub: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    source = timm.create_model("test_convnext")
    hub["timm/test_convnext.r160_in1k"] = {"model.safetensors": save(source.state_dict())}
    config = timm.data.resolve_model_data_config(source)
    for weights in ("pretrained", "r160_in1k"):
        task = zoo.FCNSegmenter("timm/test_convnext", encoder_weights=weights)
        assert task.mean.tolist() == pytest.approx(list(config["mean"]))
        assert torch.equal(task.net.encoder.model.stem[0].weight, source.stem[0].weight)
    trained = ClassificationTask("timm/test_convnext", 4, preprocessing={"mean": [0.1] * 3, "std": [0.5] * 3})
    folder = trained.save_pretrained(tmp_path / "classifier")
    task = zoo.UNetSegmenter("timm/test_convnext", encoder_weights=str(folder))
    assert torch.equal(task.net.encoder.model.stem[0].weight, trained.net.model.stem[0].weight)
    assert task.mean.tolist() == pytest.approx([0.1] * 3)


# A class of the user's own ------------------------------------------------------------------------------------------

OWN = """
from torch import nn
class Net(nn.Module):
    def __init__(self, width=4, tensor=False):
        super().__init__()
        self.a, self.b, self.tensor = nn.Conv2d(3, width, 3, 2, 1), nn.Conv2d(width, 6, 3, 2, 1), tensor
        self.idle = nn.Linear(2, 2)
    def features(self, x):
        x = self.a(x)
        return x if self.tensor else [x, self.b(x)]
"""


def test_a_class_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_encoders.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    task = zoo.UNetSegmenter("own_encoders.Net", encoder_args={"width": 5}).eval()
    assert [(m.channels, m.stride) for m in task.net.maps] == [(5, 2), (6, 4)]
    x = torch.rand(1, 3, 11, 9)
    path, folder = checkpoint(task, tmp_path / "model.ckpt"), task.save_pretrained(tmp_path / "folder")
    for read in (
        lambda **kw: zoo.load(path, **kw),
        lambda **kw: zoo.load(folder, **kw),
        lambda **kw: zoo.create_model("unet", weights=folder, **kw),
        lambda **kw: zoo.UNetSegmenter.load_from_checkpoint(path, weights_only=True, **kw).eval(),
    ):
        del sys.modules["own_encoders"]
        with pytest.raises(ValueError, match=r"asks for the encoder 'own_encoders.Net' to be imported"):
            read()
        assert "own_encoders" not in sys.modules
        assert torch.equal(read(encoder="own_encoders.Net")(x), task(x))
    monkeypatch.setattr("zoo.registry._ENTRIES", dict(zoo.registry._ENTRIES))
    zoo.register("own_unet", zoo.UNetSegmenter, encoder="own_encoders.Net")
    for loaded in (zoo.load(path), zoo.UNetSegmenter.load_from_checkpoint(path, weights_only=True).eval()):
        assert torch.equal(loaded(x), task(x))
    with pytest.raises(ValueError, match=r"features of Net must give a list of maps \(B, C_i, H / s_i, W / s_i\)"):
        zoo.UNetSegmenter("own_encoders.Net", encoder_args={"tensor": True})
    with pytest.raises(ValueError, match=r"Net cannot take images of shape \(1, 1, 224, 224\)"):
        zoo.UNetSegmenter("own_encoders.Net", in_channels=1)


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (3, 2), (7, 0)])
def test_strides_do_not_depend_on_the_padding(kernel: int, padding: int) -> None:
    net = nn.Conv2d(3, 4, kernel, 2, padding)
    assert [m.stride for m in backbones.measured_maps(net, lambda x: [net(x)], "net", 3)] == [2]


def test_a_buffer_that_is_in_no_state_dict_keeps_its_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = OWN.replace("self.idle", "self.register_buffer('scale', torch.tensor(3.0), persistent=False); self.idle")
    own = own.replace("x = self.a(x)", "x = self.scale * self.a(x)").replace("from torch", "import torch\nfrom torch")
    (tmp_path / "buffered_encoders.py").write_text(own)
    monkeypatch.syspath_prepend(str(tmp_path))
    task = zoo.UNetSegmenter("buffered_encoders.Net").eval()
    loaded = zoo.load(task.save_pretrained(tmp_path / "folder"), encoder="buffered_encoders.Net")
    assert loaded.net.encoder.scale == 3
    assert torch.equal(loaded(x := torch.rand(1, 3, 8, 8)), task(x))


# Refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("timm/test_convnet", None, r"timm has no net 'test_convnet', did you mean 'test_convnext'\?"),
        ("tim/test_convnext", None, r"'tim' is no library of nets, did you mean 'timm'\?"),
        ("torchvision/resnt18", None, r"torchvision has no classifier 'resnt18', did you mean 'resnet18'\?"),
        ("timm/test_resnet", {"stm_width": 1}, r"^encoder_args: test_resnet of timm has no argument 'stm_width'"),
        ("timm/test_resnet", {"pretrained": True}, r"^encoder_args of timm/test_resnet has 'pretrained'"),
        ("timm/test_resnet", {"in_channels": 1}, r"not in encoder_args"),
        ("timm/test_vit", None, r"U-Net needs maps of several strides, and timm/test_vit has one, 16: take an encoder"),
        ("torchvision/swin_t", None, r"torchvision/swin_t has no feature maps, .* take a net of timm, timm/NAME"),
        ("no_such_module.Net", None, r"net 'no_such_module.Net' cannot be imported"),
        ("torch.nn.Flatten", None, r"zoo/|torch.nn.Flatten is none: it has no maps"),
    ],
)
def test_bad_names_and_arguments_are_refused(name: str, arguments: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as raised:
        zoo.UNetSegmenter(name, encoder_args=arguments)
    assert "\n" not in str(raised.value)


def test_without_timm_one_line_tells_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = backbones.timm_nets.importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "timm" else find(name))
    with pytest.raises(ModuleNotFoundError, match=r"need timm: pip install 'lightning-zoo\[timm\]'"):
        zoo.FCNSegmenter("timm/test_convnext")


def test_a_net_of_one_stride_is_an_encoder_of_an_fcn_with_one_map() -> None:
    task = zoo.FCNSegmenter("timm/test_vit", variant="32s", num_classes=3).eval()
    assert [(m.channels, m.stride) for m in task.net.maps] == [(64, 16)]
    assert task(torch.rand(2, 3, 50, 33)).shape == (2, 3, 50, 33)
    with pytest.raises(ValueError, match=r"FCN-8s combines 3 maps, and timm/test_vit has 1: choose another variant"):
        zoo.FCNSegmenter("timm/test_vit")


def test_a_net_of_one_image_size_asks_for_it() -> None:
    swin, arguments = ENCODERS["swin"]
    task = zoo.UNetSegmenter(swin, encoder_args={**arguments, "strict_img_size": True, "img_size": 64})
    assert task.example_shape == (3, 64, 64)
    for size in (33, 96):
        with pytest.raises(ValueError, match="set the datamodule's size=64"):
            task(torch.rand(1, 3, size, size))


def test_a_net_is_an_encoder_too() -> None:
    net = UNet(backbones.build("timm/test_resnet", 10, 2), 3)
    assert net(torch.rand(1, 2, 40, 40)).shape == (1, 3, 40, 40)
