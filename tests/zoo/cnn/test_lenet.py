"""LeNet-5 against an independent formula in float64 and the published parameter counts."""

import pytest
import torch
import torch.nn.functional as F

import zoo
from zoo.cnn import LeNet


@pytest.mark.parametrize(("arguments", "count"), [({}, 61_706), ({"in_channels": 3, "variant": "relu"}, 62_006)])
def test_parameter_count(arguments: dict, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in LeNet(**arguments).parameters()) == count


@pytest.mark.parametrize("variant", ["published", "relu"])
def test_equals_the_formula(variant: str) -> None:
    net, x = LeNet(variant=variant).double(), torch.rand(2, 1, 32, 32, dtype=torch.float64)
    w = net.state_dict()

    def convolve(x: torch.Tensor, name: str) -> torch.Tensor:  # by unfolding: patches times weights
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        patches = F.unfold(x, 5)  # (B, C*25, L)
        side = x.shape[-1] - 4
        return (weight.flatten(1) @ patches + bias[:, None]).unflatten(2, (side, side))

    def pool(x: torch.Tensor) -> torch.Tensor:  # (B, C, H, W) -> (B, C, H/2, W/2)
        cells = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).transpose(3, 4)
        return cells.mean(dim=(-1, -2)) if variant == "published" else cells.amax(dim=(-1, -2))

    act = torch.tanh if variant == "published" else torch.relu
    h = pool(act(convolve(x, "conv1")))
    h = pool(act(convolve(h, "conv2"))).flatten(1)
    for name in ("fc1", "fc2"):
        h = act(h @ w[f"{name}.weight"].T + w[f"{name}.bias"])
    torch.testing.assert_close(net(x), h @ w["fc3.weight"].T + w["fc3.bias"], rtol=1e-12, atol=1e-12)


def test_features_are_s2_and_s4() -> None:
    maps = LeNet().features(torch.rand(1, 1, 32, 32))
    assert [tuple(m.shape) for m in maps] == [(1, 6, 14, 14), (1, 16, 5, 5)]


@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (2, 3, 32, 32), (1, 32, 32)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"LeNet takes images of shape \(B, 1, 32, 32\), got"):
        LeNet()(torch.rand(shape))


@pytest.mark.parametrize("arguments", [{"variant": "modern"}, {"width": 0}])
def test_bad_arguments(arguments: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        zoo.LeNetClassifier(**arguments)
