"""U-Net: parameter counts of the paper, its formula with torch's functions, and the purpose of skip connections."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from zoo.cnn import CIFARResNet, ResNet
from zoo.segmentation import UNet, UNetEncoder


def conv(before: int, after: int, side: int = 3) -> int:
    return (before * side * side + 1) * after


def test_parameters_of_the_paper() -> None:
    """Fig. 1: two 3x3 convolutions at 64 to 1024 channels and back, 2x2 transposed ones, one to 2 classes: 31.0 million."""
    down = [
        conv(1, 64),
        *(conv(c, 2 * c) for c in (64, 128, 256, 512)),
        *(conv(c, c) for c in (64, 128, 256, 512, 1024)),
    ]
    up = [conv(2 * c, c, 2) + conv(2 * c, c) + conv(c, c) for c in (512, 256, 128, 64)]
    with torch.device("meta"):
        net = zoo.create_model("unet", num_classes=2, in_channels=1, norm="none").net
        without = zoo.create_model("unet_noskip", num_classes=2, in_channels=1, norm="none").net
    count = sum(p.numel() for p in net.parameters())
    assert count == sum(down) + sum(up) + conv(64, 2, 1) == 31_030_658
    assert count - sum(p.numel() for p in without.parameters()) == sum(9 * c * c for c in (512, 256, 128, 64))


def test_formula() -> None:
    """Fig. 1 in float64, with two poolings."""
    torch.manual_seed(0)
    net = UNet(UNetEncoder(3, 4, 2, norm="none"), 5, norm="none").double().eval()
    w = net.state_dict()

    def double(name: str, x: Tensor) -> Tensor:
        for i in (1, 2):
            x = F.conv2d(x, w[f"{name}.conv{i}.weight"], w[f"{name}.conv{i}.bias"], padding=1).relu()
        return x

    def up(i: int, x: Tensor, skip: Tensor) -> Tensor:
        x = F.conv_transpose2d(x, w[f"stages.{i}.up.weight"], w[f"stages.{i}.up.bias"], stride=2)
        return double(f"stages.{i}.convs", torch.cat([skip, x], dim=1))

    x = torch.rand(2, 3, 16, 20, dtype=torch.float64)
    a = double("encoder.stages.0", x)
    b = double("encoder.stages.1", F.max_pool2d(a, 2))
    c = double("encoder.stages.2", F.max_pool2d(b, 2))
    wanted = F.conv2d(up(1, up(0, c, b), a), w["head.weight"], w["head.bias"])
    torch.testing.assert_close(net(x), wanted, rtol=1e-12, atol=1e-12)


def accuracy_on_noise(skip: str) -> float:
    """The share of pixels of white noise that are classified correctly as bright or dark, after a short training on such images."""
    torch.manual_seed(0)
    model = zoo.create_model("unet", encoder_args={"width": 4, "depth": 3}, in_channels=1, skip=skip, lr=0.03)
    optimizer = model.configure_optimizers()
    for _ in range(40):
        x = torch.rand(4, 1, 24, 24)
        loss, means, _ = model.training_losses((x, (x[:, 0] > 0.5).long()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(means["acc"])


def test_skips_carry_single_pixels() -> None:
    """White noise does not fit through a map of an eighth of the size: without skip connections most of it is lost."""
    assert accuracy_on_noise("concat") > 0.9
    assert accuracy_on_noise("none") < 0.7


def test_without_skips_the_decoder_takes_the_last_map_alone() -> None:
    for skip, depends in (("concat", True), ("none", False)):
        net = UNet(CIFARResNet(8, 10, 3, 4), 2, skip).eval()
        nn.init.zeros_(net.stages[0].up.weight)  # cut what comes from below
        a, b = net(torch.rand(1, 3, 16, 16)), net(torch.rand(1, 3, 16, 16))
        assert (not torch.equal(a, b)) == depends


def test_a_stage_without_a_map_of_its_size() -> None:
    """The finest map of a ResNet has half of the image's size: the last stage has no skip connection."""
    net = UNet(ResNet(18, 10, 3, 8), 3)
    assert [(m.channels, m.stride) for m in net.maps] == [(8, 2), (8, 4), (16, 8), (32, 16), (64, 32)]
    shapes = [(stage.up.in_channels, stage.up.out_channels, stage.convs.conv1.in_channels) for stage in net.stages]
    assert shapes == [(64, 32, 64), (32, 16, 32), (16, 8, 16), (8, 8, 16), (8, 8, 8)]
    assert net(torch.rand(1, 3, 33, 47)).shape == (1, 3, 33, 47)


def test_norms_by_name() -> None:
    kinds = {"batch": nn.BatchNorm2d, "group": nn.GroupNorm, "none": nn.Identity}
    for norm, kind in kinds.items():
        net = zoo.create_model("unet", encoder_args={"width": 4, "depth": 1}, norm=norm).net
        assert all(isinstance(m, kind) for n, m in net.named_modules() if n.rpartition(".")[2].startswith("norm"))


def test_the_activation_is_that_of_both_paths() -> None:
    net = zoo.create_model("unet", encoder_args={"width": 4, "depth": 1}, activation="elu").net
    kinds = {name.split(".")[0]: type(m) for name, m in net.named_modules() if "activation" in name}
    assert kinds == {"encoder": nn.ELU, "stages": nn.ELU}
    assert not any(isinstance(m, nn.ReLU) for m in net.modules())


def test_the_decoder_is_grouped_from_the_coarsest_stage_to_the_head() -> None:
    groups = zoo.create_model("unet", encoder_args={"width": 4, "depth": 2}).layer_groups()
    assert [group[0] for group in groups[-3:]] == ["stages.0", "stages.1", "head"]


def test_dropout_acts_on_the_last_map_in_training() -> None:
    net = zoo.create_model("unet", encoder_args={"width": 4, "depth": 2}, skip="none", norm="none", dropout=0.5).net
    x = torch.rand(1, 3, 16, 16)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="width must be 1 or more"):
        UNetEncoder(width=0)
    with pytest.raises(ValueError, match="dropout is a probability"):
        UNet(UNetEncoder(width=2, depth=1), 2, dropout=1.0)
