"""FCN: parameter counts of the paper, its formula with torch's functions, bilinear initialization, the classifier in it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zoo
from zoo.blocks.skeleton import skeleton
from zoo.cnn import VGG, CIFARResNet, LeNet
from zoo.segmentation import FCN
from zoo.segmentation.fcn import Upsampling


def test_parameters() -> None:
    """VGG-16 without its last layer (134 M in table 1), scores of 21 classes, 4x4 kernels from classes to classes."""
    vgg = 138_357_544 - (4096 + 1) * 1000
    wanted = {"32s": vgg + (4096 + 1) * 21}
    wanted["16s"] = wanted["32s"] + (512 + 1) * 21 + 21 * 21 * 16
    wanted["8s"] = wanted["16s"] + (256 + 1) * 21 + 21 * 21 * 16
    for variant, count in wanted.items():
        with skeleton():
            net = zoo.create_model(f"fcn{variant}_vgg16").net
        assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_upsampling_is_initialized_as_bilinear_interpolation(factor: int) -> None:
    x = torch.rand(2, 3, 6, 7)
    y = Upsampling(3, factor)(x)
    assert y.shape == (2, 3, 6 * factor, 7 * factor)
    inside = (..., slice(factor, -factor), slice(factor, -factor))  # the border is padded with zeros
    torch.testing.assert_close(y[inside], F.interpolate(x, scale_factor=factor, mode="bilinear")[inside])


@pytest.mark.parametrize("variant", ["32s", "16s", "8s"])
def test_a_fresh_net_prefers_no_class(variant: str) -> None:
    model = zoo.create_model(f"fcn{variant}_vgg16", encoder="vgg11", encoder_args={"width": 2}, num_classes=7)
    x, y = torch.rand(2, 3, 50, 70), torch.randint(7, (2, 50, 70))
    assert not model(x).any()
    assert model.training_losses((x, y))[0].item() == pytest.approx(model.expected_initial_loss())
    assert model.expected_initial_loss() == math.log(7)


def with_random_decoder(net: FCN) -> FCN:
    for parameter in [*net.score.parameters(), *net.finer_scores.parameters(), *net.upsamplings.parameters()]:
        nn.init.normal_(parameter, std=0.3)
    return net


def test_formula() -> None:
    """Fig. 3 and section 4.2 in float64: fc6 and fc7 are convolutions, scores of pool5, pool4 and pool3 are added."""
    net = with_random_decoder(FCN(VGG(11, 10, 3, 4, dropout=0.0), 5, "8s")).double().eval()
    w = net.state_dict()
    x = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    pool3, pool4, pool5 = net.encoder.features(x)[2:]
    fc6 = F.conv2d(
        pool5, w["encoder.classifier.0.weight"].view(256, 32, 7, 7), w["encoder.classifier.0.bias"], padding=3
    )
    fc7 = F.conv2d(fc6.relu(), w["encoder.classifier.3.weight"][..., None, None], w["encoder.classifier.3.bias"])

    def score(name: str, y: torch.Tensor) -> torch.Tensor:
        return F.conv2d(y, w[f"{name}.weight"], w[f"{name}.bias"])

    def twice(i: int, y: torch.Tensor) -> torch.Tensor:
        return F.conv_transpose2d(y, w[f"upsamplings.{i}.weight"], stride=2, padding=1)

    y = twice(0, score("score", fc7.relu())) + score("finer_scores.0", pool4)
    y = twice(1, y) + score("finer_scores.1", pool3)
    wanted = F.interpolate(y, scale_factor=8, mode="bilinear", align_corners=False)
    torch.testing.assert_close(net(x), wanted, rtol=1e-12, atol=1e-12)


def test_the_output_in_the_middle_of_an_image_is_that_of_the_classifier() -> None:
    """In the middle of the 7x7 map, fc6 as a convolution is fc6 of the classifier."""
    torch.manual_seed(0)
    classifier = VGG(11, 10, 3, 2).eval()
    x = torch.rand(1, 3, 224, 224)
    logits = classifier(x)
    head = classifier.classifier[6]
    net = FCN(classifier, 10, "32s").eval()
    net.score.weight.data, net.score.bias.data = head.weight.data[..., None, None], head.bias.data
    y = net(x)[..., 111:113, 111:113].mean(dim=(-2, -1))  # bilinear: the middle of cell 3 of 7
    torch.testing.assert_close(y, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["32s", "16s", "8s"])
def test_the_output_moves_with_the_image(variant: str) -> None:
    net = with_random_decoder(FCN(CIFARResNet(8, 10, 3, 4), 3, variant)).eval()
    x = torch.zeros(1, 3, 128, 128)
    x[..., 58:66, 54:62] = torch.rand(3, 8, 8)
    moved = x.roll((4, -8), dims=(2, 3))
    inside = (..., slice(48, 80), slice(48, 80))
    torch.testing.assert_close(net(moved).roll((-4, 8), dims=(2, 3))[inside], net(x)[inside], rtol=1e-4, atol=1e-5)
    assert net(x)[inside].std() > 0


def test_finer_variants_have_finer_output_strides() -> None:
    """The output stride is that of the finest map that is combined."""
    for variant, stride in (("32s", 32), ("16s", 16), ("8s", 8)):
        net = FCN(VGG(11, 10, 3, 4), 2, variant)
        assert net.output_stride == stride
        assert net.maps[-1 - len(net.finer_scores)].stride == stride


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="variant must be '32s', '16s' or '8s', got '4s'"):
        FCN(VGG(11, width=2), 3, "4s")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="FCN-8s combines 3 maps, and LeNet has 2"):
        FCN(LeNet(), 3, "8s")
