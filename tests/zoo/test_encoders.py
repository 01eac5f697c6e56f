"""One map of any net as tokens: which, of what size, without the layers behind it, and images that it cannot take."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from zoo import backbones, cnn
from zoo.blocks import ConvNet, layer_groups
from zoo.encoders import ImageEncoder, build_encoder
from zoo.tasks import ClassificationTask

NETS: dict[str, Callable[[], ConvNet]] = {
    "lenet": lambda: cnn.LeNet(10, 3),
    "alexnet": lambda: cnn.AlexNet(10, 3, 4),
    "vgg": lambda: cnn.VGG(11, 10, 3, 4),
    "googlenet": lambda: cnn.GoogLeNet(num_classes=10, width=4),
    "densenet": lambda: cnn.DenseNet([1, 2, 2, 1], 10, 3, 8),
    "densenet_cifar": lambda: cnn.CIFARDenseNet(16, 10, 3, 4),
    "resnet": lambda: cnn.ResNet(18, 10, 3, 4),
    "resnet_cifar": lambda: cnn.CIFARResNet(8, 10, 3, 4),
    "resnet_preact": lambda: cnn.PreActResNet(11, "bottleneck", 10, 3, 4),
    "highway": lambda: cnn.ConvHighway([1, 1, 1], width=8),
    "mobilenet": lambda: cnn.MobileNet(10, 3, 0.125),
}


def test_every_family_of_nets_is_an_encoder() -> None:
    families = {thing for thing in vars(cnn).values() if isinstance(thing, type) and issubclass(thing, ConvNet)}
    assert {type(build()) for build in NETS.values()} == families


@pytest.mark.parametrize("name", NETS)
def test_tokens_are_the_cells_of_each_map(name: str) -> None:
    images = torch.rand(2, 3, 75, 66)
    torch.manual_seed(0)
    whole = NETS[name]().eval()
    maps = whole.features(images)
    for stage in {-1, -2, 0}:
        torch.manual_seed(0)
        encoder = ImageEncoder(NETS[name](), stage).eval()
        tokens, (h, w) = encoder(images), encoder.map_size(images)
        assert (h, w) == maps[stage].shape[2:]
        assert tokens.shape == (2, h * w, encoder.out_channels)
        for i, j in ((0, 0), (h - 1, 0), (h // 2, w - 1)):
            torch.testing.assert_close(tokens[:, i * w + j], maps[stage][:, :, i, j])
        torch.testing.assert_close(encoder.feature_map(images), maps[stage])
        tokens.square().sum().backward()  # every parameter that is left has a gradient
        assert [key for key, p in encoder.named_parameters() if p.grad is None] == []
        named = [key for group in layer_groups(encoder) for key in group]
        assert named
        assert all(key.startswith("net.") for key in named)


def test_layers_behind_the_map_are_removed() -> None:
    sizes = [sum(p.numel() for p in ImageEncoder(cnn.ResNet(18), stage).parameters()) for stage in (0, 2, -1)]
    stem = 3 * 64 * 49 + 128
    blocks = 2 * (2 * 64 * 64 * 9 + 256)
    stage = 64 * 128 * 9 + 128 * 128 * 9 * 3 + 64 * 128 + 5 * 256  # its first block with a projection
    assert sizes == [stem, stem + blocks + stage, 11_689_512 - 513_000]


@pytest.mark.parametrize(
    ("name", "stage", "least"), [("resnet", -1, 1), ("lenet", -1, 16), ("alexnet", 0, 63), ("vgg", -1, 32)]
)
def test_the_smallest_image_is_known(name: str, stage: int, least: int) -> None:
    encoder = ImageEncoder(NETS[name](), stage).eval()
    assert encoder.smallest == least
    assert encoder(torch.rand(1, 3, least, least + 9)).shape[2] == encoder.out_channels
    if least > 1:
        title = type(encoder.net).__name__
        with pytest.raises(
            ValueError, match=f"{title} takes images of {least}x{least} pixels or more, got {least - 1}x40"
        ):
            encoder(torch.rand(1, 3, least - 1, 40))
    with pytest.raises(
        ValueError, match=r"takes images of shape \(B, 3, H, W\), got \(1, 1, 64, 64\): set in_channels=1"
    ):
        encoder(torch.rand(1, 1, 64, 64))
    with pytest.raises(ValueError, match=r"pass a batch; for one image, image\[None\]"):
        encoder(torch.rand(3, 64, 64))


def test_an_activation_behind_the_map_leaves_it_as_it_is() -> None:
    """A norm behind the map goes; the activation in place that followed it would then write into the map."""
    torch.manual_seed(0)
    net = cnn.DenseNet([1, 2, 2, 1], 10, 3, 8)
    images = torch.randn(2, 3, 64, 64)
    wanted = net.features(images)[1].detach().clone()
    assert (wanted < 0).any()
    assert torch.equal(ImageEncoder(net, 1).feature_map(images), wanted)


def test_a_stage_that_is_none() -> None:
    with pytest.raises(
        ValueError, match=r"stage is the index of a map of ResNet, which has 5, finest first: .*-5\.\.4, got 5"
    ):
        ImageEncoder(cnn.ResNet(18, width=4), 5)
    assert ImageEncoder(cnn.ResNet(18, width=4), -5).stage == 0


def test_a_net_that_needs_what_is_behind_its_map() -> None:
    class Split(nn.Module):
        """What is behind the first map has another number of channels, and something is cut off it."""

        in_channels = 3

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1)

        def features(self, x: torch.Tensor) -> list[torch.Tensor]:
            first, second = self.a(x), self.b(self.a(x))
            return [first, second.split((3, 3), dim=1)[0]]

    assert ImageEncoder(Split()).out_channels == 3
    with pytest.raises(ValueError, match="Split does not give its map of stage 0 alone: choose another; "):
        ImageEncoder(Split(), 0)


@pytest.mark.parametrize(
    ("name", "arguments", "stage", "smallest"),
    [
        ("timm/resnet18", {}, -2, 1),
        ("torchvision/mobilenet_v3_small", {}, -1, 1),
        ("timm/vit_tiny_patch16_224", {"depth": 2}, -1, 224),
    ],
)
def test_nets_of_other_libraries(name: str, arguments: dict, stage: int, smallest: int) -> None:
    pytest.importorskip(name.partition("/")[0])
    encoder = ImageEncoder(build_encoder(ClassificationTask, name, arguments, 1, None).net, stage)
    assert encoder.smallest == smallest
    side = max(smallest, 70)
    x = torch.rand(1, 1, side, side)
    h, w = encoder.map_size(x)
    y = encoder(x)
    assert y.shape == (1, h * w, encoder.out_channels)
    y.square().sum().backward()
    assert [key for key, p in encoder.named_parameters() if p.grad is None] == []
    if smallest == 224:
        assert encoder.image_size == 224
        with pytest.raises(ValueError, match="set the datamodule's size=224"):
            encoder(torch.rand(1, 1, 240, 224))
    assert isinstance(encoder.net, backbones.Backbone)


def test_a_net_of_patches_takes_no_part_of_one() -> None:
    pytest.importorskip("timm")
    assert ImageEncoder(build_encoder(ClassificationTask, "timm/test_vit", None, 3, None).net).smallest == 16


@torch.no_grad()
def test_an_encoder_is_built_where_no_gradients_are_wanted() -> None:
    encoder = ImageEncoder(cnn.ResNet(18, 10, 3, 4), 1)
    assert not any("layer3" in name for name, _ in encoder.named_parameters())
    assert all(p.requires_grad for p in encoder.parameters())
