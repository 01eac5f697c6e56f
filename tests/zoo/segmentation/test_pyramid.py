"""Any convolutional net as an encoder: the output has the input's size, every parameter is used, maps are aligned with images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from zoo import cnn
from zoo.blocks import ConvNet
from zoo.segmentation import FCN, UNet, UNetEncoder
from zoo.tasks import ClassificationTask

ENCODERS: dict[str, Callable[[], ConvNet]] = {
    "lenet": lambda: cnn.LeNet(10, 3),
    "alexnet": lambda: cnn.AlexNet(10, 3, 4),
    "vgg": lambda: cnn.VGG(11, 10, 3, 4),
    "vgg_bn": lambda: cnn.VGG(16, 10, 3, 4, norm="batch"),
    "googlenet": lambda: cnn.GoogLeNet(num_classes=10, width=4),
    "densenet": lambda: cnn.DenseNet([1, 2, 2, 1], 10, 3, 8),
    "densenet_cifar": lambda: cnn.CIFARDenseNet(16, 10, 3, 4),
    "resnet18": lambda: cnn.ResNet(18, 10, 3, 4),
    "resnet50": lambda: cnn.ResNet(50, 10, 3, 4),
    "resnet_cifar": lambda: cnn.CIFARResNet(8, 10, 3, 4),
    "resnet_preact": lambda: cnn.PreActResNet(11, "bottleneck", 10, 3, 4),
    "highway": lambda: cnn.ConvHighway([1, 1, 1], width=8),
    "mobilenet": lambda: cnn.MobileNet(10, 3, 0.125),
    "unet": lambda: UNetEncoder(width=4),
}


def test_every_family_of_nets_is_tested() -> None:
    tested = {type(build()) for build in ENCODERS.values()} - {UNetEncoder}
    assert tested == {thing for thing in vars(cnn).values() if isinstance(thing, type) and issubclass(thing, ConvNet)}


@pytest.mark.parametrize("kind", ["fcn", "unet"])
@pytest.mark.parametrize("name", ENCODERS)
def test_any_net_is_an_encoder_for_images_of_any_size(name: str, kind: str) -> None:
    variant = "16s" if name == "lenet" else "8s"
    net = FCN(ENCODERS[name](), 5, variant) if kind == "fcn" else UNet(ENCODERS[name](), 5)
    y = net(torch.rand(2, 3, 75, 61))
    assert y.shape == (2, 5, 75, 61)
    (y.square().sum() + y.sum()).backward()
    unused = [k for k, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert unused == []
    assert sorted(m.stride for m in net.maps) == [m.stride for m in net.maps] == sorted({m.stride for m in net.maps})
    assert sorted(id(p) for g in net.layer_groups() for n in g for p in _parameters(net, n)) == sorted(
        map(id, net.parameters())
    )


def _parameters(net: nn.Module, name: str) -> list[nn.Parameter]:
    return list(net.get_submodule(name).parameters())


def test_images_are_padded_by_reflection_to_a_multiple_of_the_stride() -> None:
    net = UNet(cnn.ResNet(18, 10, 3, 4), 3).eval()
    x = torch.rand(2, 3, 75, 61)
    padded = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (0, 21), (0, 3)), mode="reflect"))
    torch.testing.assert_close(net(x), net(padded)[:, :, :75, :61])


@pytest.mark.parametrize("name", ["lenet", "alexnet", "vgg", "resnet18", "densenet", "unet"])
def test_maps_are_aligned_with_the_image(name: str) -> None:
    """The response of a map to a pixel is centered within one cell of that pixel."""
    encoder = ENCODERS[name]().double().eval()
    for module in encoder.modules():  # positive weights, so that no responses cancel
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    recorded: list[list[torch.Tensor]] = []

    class Maps(UNet):
        def decode(self, maps: list[torch.Tensor]) -> torch.Tensor:
            recorded.append(maps)
            return super().decode(maps)

    net = Maps(encoder, 2).double().eval()
    for row, column in ((66, 67), (98, 61)):
        x = torch.zeros(1, 3, 160, 128, dtype=torch.float64)
        net(x)
        x[:, :, row, column] = 1
        net(x)
        for before, after, m in zip(recorded[-2], recorded[-1], net.maps, strict=True):
            assert after.shape[2:] == (160 // m.stride, 128 // m.stride)
            response = (after - before)[0].abs().sum(0)
            weight = response / response.sum()
            for axis, place in ((1, row), (0, column)):
                cells = weight.sum(axis)
                middle = ((torch.arange(len(cells)) + 0.5) * m.stride * cells).sum()
                assert abs(middle - place - 0.5) <= m.stride, (m, middle, place)


def test_heads_and_unused_layers_are_removed() -> None:
    unet = UNet(cnn.VGG(11, 10, 3, 4), 3)
    assert not any("classifier" in name for name, _ in unet.named_parameters())
    fcn = FCN(cnn.VGG(11, 10, 3, 4), 3)
    assert [n for n, _ in fcn.named_parameters() if "classifier" in n] == [
        f"encoder.classifier.{i}.{kind}" for i in (0, 3) for kind in ("weight", "bias")
    ]
    assert not any("aux" in n or ".fc." in n for n, _ in FCN(cnn.GoogLeNet(width=4)).named_parameters())


@pytest.mark.parametrize(
    ("encoder", "size", "least"), [("resnet18", 31, 32), ("lenet", 12, 13), ("alexnet", 32, 33), ("unet", 15, 16)]
)
def test_images_below_the_stride_are_refused(encoder: str, size: int, least: int) -> None:
    net = UNet(ENCODERS[encoder](), 2).eval()
    with pytest.raises(ValueError, match=f"images of {least}x{least} pixels or more, got {size}x40"):
        net(torch.rand(1, 3, size, 40))
    assert net(torch.rand(1, 3, least, 40)).shape == (1, 2, least, 40)
    with pytest.raises(ValueError, match="in_channels=1"):
        net(torch.rand(1, 1, 64, 64))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"encoder": "vit_b_16", "encoder_args": {"num_layers": 1}}, ValueError, "vit_b_16 is none"),
        ({"encoder": "mlp"}, ValueError, "must be a convolutional classifier"),
        ({"encoder": "resent18"}, ValueError, "did you mean 'resnet18'"),
        ({"encoder": "resnet18", "encoder_args": {"widht": 4}}, TypeError, "did you mean 'width'"),
        ({"encoder_args": {"widht": 4}}, TypeError, "UNetEncoder has no argument 'widht', did you mean 'width'"),
        ({"encoder": "resnet18", "encoder_args": {"in_channels": 1}}, TypeError, "not in encoder_args"),
        ({"encoder_args": {"in_channels": 1}}, TypeError, "give in_channels to the model itself, not in encoder_args"),
        ({"encoder_weights": "imagenet"}, ValueError, "the plain encoder has no weights"),
        ({"encoder_args": {"depth": 0}}, ValueError, "depth must be 1 or more"),
        ({"skip": "sum"}, ValueError, "skip must be 'concat' or 'none'"),
    ],
)
def test_bad_encoders(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        zoo.create_model("unet", **arguments)


def test_the_plain_encoder_is_unets_own() -> None:
    net = zoo.create_model(
        "unet", encoder_args={"width": 4, "depth": 1, "norm": "none"}, in_channels=2, norm="group"
    ).net
    assert isinstance(net.encoder, UNetEncoder)
    assert net.in_channels == 2
    assert not any(
        isinstance(m, nn.GroupNorm) for m in net.encoder.modules()
    )  # its own arguments, not those of the decoder
    assert any(isinstance(m, nn.GroupNorm) for m in net.stages.modules())
    with pytest.raises(ValueError, match="unknown model 'plain'"):
        zoo.FCNSegmenter(encoder="plain")


@pytest.mark.parametrize("name", ["unet", "fcn8s_vgg16"])
def test_an_encoder_comes_with_its_weights_and_their_standardization(name: str, tmp_path: Path) -> None:
    source = zoo.load("resnet20_digits")
    model = zoo.create_model(name, encoder="resnet20", encoder_weights="resnet20_digits", in_channels=1, num_classes=4)
    wanted = {k: v for k, v in source.net.state_dict().items() if not k.startswith("fc.")}
    for key, value in wanted.items():
        assert torch.equal(model.net.encoder.state_dict()[key], value), key
    assert torch.equal(model.mean, source.mean)
    assert model.standardized
    assert "encoder_weights" not in model.hparams
    # a folder has all of it, without the encoder's weights
    model.save_pretrained(tmp_path / "model")
    twin = zoo.load(tmp_path / "model")
    x = torch.rand(2, 1, 17, 21)
    torch.testing.assert_close(twin.eval()(x), model.eval()(x))
    with pytest.raises(ValueError, match="leave encoder_weights='resnet20_digits' out"):
        zoo.create_model(name, str(tmp_path / "model"), encoder="resnet20", encoder_weights="resnet20_digits")


@pytest.mark.parametrize("name", ["unet", "fcn8s_vgg16"])
def test_a_fresh_encoder_has_no_standardization_so_the_first_fit_takes_the_data_s(name: str) -> None:
    assert not zoo.create_model(name, encoder="resnet20", encoder_args={"depth": 8, "width": 4}).standardized


@pytest.mark.parametrize("name", ["unet_resnet34", "fcn8s_resnet50"])
def test_a_frozen_encoder_keeps_its_norms(name: str) -> None:
    model = zoo.create_model(name, encoder="resnet18", encoder_args={"width": 4}, num_classes=3)
    groups = model.layer_groups()
    assert groups[0][0] == "encoder.conv1"
    assert groups[-1][-1] == model.net.head_name
    first = next(i for i, group in enumerate(groups) if not group[0].startswith("encoder."))
    model.freeze(groups[first][0]).train()
    before = {k: v.clone() for k, v in model.net.state_dict().items()}
    optimizer = model.configure_optimizers()
    batch = torch.rand(4, 3, 40, 40), torch.randint(3, (4, 40, 40))
    for _ in range(2):  # the scores of an FCN are zero before the first step
        optimizer.zero_grad()
        model.training_losses(batch)[0].backward()
        optimizer.step()
    after = model.net.state_dict()
    moved = {k for k, v in after.items() if not torch.equal(v, before[k])}
    assert {k for k in moved if k.startswith("encoder.")} == set()
    assert any("running_mean" in k for k in before if k.startswith("encoder."))
    assert moved == {k for k in before if not k.startswith("encoder.")}


def test_earlier_layers_have_lower_rates() -> None:
    model = zoo.create_model("unet", encoder_args={"width": 4, "depth": 2}, layer_decay=0.5, lr=1.0)
    rates = {group["name"]: group["lr"] for group in model.configure_optimizers().param_groups}
    assert rates == {f"{i}/all": 0.5 ** (5 - i) for i in range(6)}  # three stages down, two up, the head


def test_a_head_for_other_classes_is_reinitialized(tmp_path: Path) -> None:
    arguments = {"encoder": "resnet18", "encoder_args": {"width": 4}}
    for name, fresh in (("unet", {"head"}), ("fcn8s_vgg16", {"score", "finer_scores", "upsamplings"})):
        model = zoo.create_model(name, num_classes=5, **arguments)
        for p in model.parameters():
            nn.init.normal_(p)
        model.save_pretrained(tmp_path / name)
        twin = zoo.create_model(name, tmp_path / name, num_classes=3, **arguments)
        report = twin.load_report
        assert {key.split(".")[1] for key in report.reinitialized} == fresh
        assert report.missing == report.unexpected == report.adapted == []
        assert twin(torch.rand(2, 3, 40, 50)).shape == (2, 3, 40, 50)
        if name != "unet":
            assert not twin(torch.rand(2, 3, 40, 50)).any()  # zero scores


def test_a_user_defined_encoder() -> None:
    class Own(ConvNet):
        in_channels, num_features = 2, 8

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)
            self.idle, self.fc = nn.Linear(3, 3), nn.Linear(8, 4)

        def features(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [a := self.a(x), self.b(a)]

    net = UNet(Own(), 3)
    assert isinstance(net.encoder.idle, nn.Identity)
    assert [(m.channels, m.stride) for m in net.maps] == [(6, 2), (8, 4)]
    assert net(torch.rand(1, 2, 9, 10)).shape == (1, 3, 9, 10)
    assert ClassificationTask(Own(), 4).net.fc.out_features == 4
