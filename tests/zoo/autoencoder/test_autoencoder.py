"""Autoencoders: the linear one is principal component analysis, one binary unit is 2-means; images of any size."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from datamodules import DigitsDataModule
from zoo import Autoencoder, ConvAutoencoder
from zoo.autoencoder import AutoencoderNet, ConvAutoencoderNet
from zoo.autoencoder.coders import map_shapes


def table(rows: int = 200, columns: int = 8) -> Tensor:
    """Correlated columns of different means and deviations."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * torch.logspace(0.5, -1, columns)
    return x @ mixing + 3.0


def principal(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The mean, and the first principal directions ``(count, D)``."""
    mean = x.mean(dim=0)
    return mean, torch.from_numpy(np.linalg.svd((x - mean).numpy(), full_matrices=False)[2][:count])


@pytest.mark.parametrize("count", [1, 3])
def test_the_linear_one_is_principal_component_analysis(count: int) -> None:
    x = table()
    torch.manual_seed(0)
    task = Autoencoder(input_shape=[8], latent_dim=count, widths=[]).double()
    task.mean, task.std = x.mean(dim=0), x.std(dim=0)
    optimizer = torch.optim.LBFGS(
        task.net.parameters(), max_iter=400, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = task.training_losses((x, None))[0]
        loss.backward()
        return loss

    optimizer.step(closure)
    mean, directions = principal(x, count)
    projector = directions.T @ directions
    wanted = ((x - mean) - (x - mean) @ projector).square().mean()
    assert closure().item() == pytest.approx(wanted.item(), rel=1e-4)
    plane, _ = torch.linalg.qr(task.net.decoder.layers[0].weight.detach() * task.std[:, None])  # in units of the data
    assert (plane @ plane.T - projector).abs().max() < 1e-2
    assert torch.allclose(task.reconstruct(x), mean + (x - mean) @ projector, atol=0.05)


def blobs() -> Tensor:
    """Two clusters, one with twice as many points as the other."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(300, 5, generator=generator)
    centers = torch.tensor([[0.0, 1, 2, 3, 4], [3.0, 3, 0, 3, 6]])
    return centers[(torch.arange(300) < 100).long()] + 0.5 * noise


def test_one_binary_unit_finds_the_centers_of_2_means() -> None:
    x = blobs()
    torch.manual_seed(0)
    task = Autoencoder(input_shape=[5], latent_dim=1, widths=[], bottleneck="threshold")
    task.mean, task.std = x.mean(dim=0), x.std(dim=0)
    optimizer = torch.optim.Adam(task.net.parameters(), lr=0.03)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / 300)
        optimizer.zero_grad()
        task.training_losses((x, None))[0].backward()
        optimizer.step()
    oracle = KMeans(2, n_init=5, random_state=0).fit(x.numpy())
    centers = torch.from_numpy(oracle.cluster_centers_)
    decoded = task.decode(torch.tensor([[0.0], [1.0]]))
    order = torch.cdist(decoded, centers).argmin(dim=1)
    assert sorted(order.tolist()) == [0, 1]
    assert (decoded - centers[order]).abs().max() < 0.05
    codes = task.encode(x).flatten().long()
    assert (order[codes] == torch.from_numpy(oracle.labels_)).float().mean() >= 0.99


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (1, 5), (28, 28)])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_reconstruction_has_the_size_of_its_image(size: tuple[int, int], depth: int) -> None:
    net = ConvAutoencoderNet((2, *size), latent_dim=3, width=4, depth=depth)
    x = torch.rand(2, 2, *size)
    assert net(x).shape == x.shape
    assert net.encode(x).shape == (2, 3)
    assert net.encoder.features(x).shape[1:] == map_shapes((2, *size), 4, depth)[-1]


@pytest.mark.parametrize("activation", ["tanh", "prelu", "maxout", "gelu"])
def test_dense_layers_take_any_activation(activation: Any) -> None:
    net = AutoencoderNet((1, 4, 4), 2, [6, 5], activation)
    x = torch.rand(3, 1, 4, 4)
    assert net(x).shape == x.shape
    widths = [layer.in_features for layer in net.decoder.layers if isinstance(layer, torch.nn.Linear)]
    assert widths == [2, 5, 6]  # those of the encoder in the opposite order


def test_parameter_counts() -> None:
    net = AutoencoderNet((1, 8, 8), 2, [])
    assert sum(p.numel() for p in net.parameters()) == 64 * 2 + 2 + 2 * 64 + 64
    conv = ConvAutoencoderNet((1, 8, 8), latent_dim=2, width=4, depth=2, norm="none")
    down = (9 * 4 + 4) + (9 * 4 * 8 + 8) + (8 * 2 * 2 * 2 + 2)
    up = (2 * 32 + 32) + (9 * 8 * 4 + 4) + (9 * 4 + 1)
    assert sum(p.numel() for p in conv.parameters()) == down + up
    normed = ConvAutoencoderNet((1, 8, 8), latent_dim=2, width=4, depth=2)  # biases of 4, 8 and 4 maps less
    norms = 2 * (4 + 8) + 2 * (8 + 4)  # scale and shift: of the maps of the encoder, and of the decoder but its last
    assert sum(p.numel() for p in normed.parameters()) == down + up - (4 + 8 + 4) + norms


@pytest.mark.parametrize("bottleneck", ["threshold", "stochastic_binary"])
def test_a_binary_code_is_zeros_and_ones_and_the_encoder_has_gradients(bottleneck: Any) -> None:
    for net in (
        AutoencoderNet((1, 8, 8), 6, [16], bottleneck=bottleneck),
        ConvAutoencoderNet((1, 8, 8), 6, 4, norm="none", bottleneck=bottleneck),
    ):
        x = torch.rand(10, 1, 8, 8)
        code = net.encode(x)
        assert ((code == 0) | (code == 1)).all()
        net(x).square().sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in net.encoder.parameters())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Autoencoder(latent_dim=0), "latent_dim must be 1 or more, got 0"),
        (lambda: ConvAutoencoder(latent_dim=-1), "latent_dim must be 1 or more, got -1"),
        (lambda: Autoencoder(widths=[5, 0]), r"widths must be 1 or more each, got \[5, 0\]"),
        (lambda: ConvAutoencoder(depth=0), "width and depth must be 1 or more, got 32 and 0"),
        (lambda: ConvAutoencoder(input_shape=[5]), r"input_shape must be \(C, H, W\) of an image, got \[5\]"),
        (
            lambda: Autoencoder(bottleneck="sign"),
            "bottleneck must be one of identity, threshold, stochastic_binary, got 'sign'",
        ),
        (
            lambda: AutoencoderNet((1, 8, 8))(torch.rand(2, 1, 9, 8)),
            r"built for examples of shape \(1, 8, 8\), got \(2, 1, 9, 8\)",
        ),
    ],
)
def test_bad_arguments_and_shapes(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.slow
@pytest.mark.parametrize(("count", "bound"), [(2, 0.0525), (8, 0.0245), (16, 0.0115)])
def test_the_linear_one_on_digits_is_within_2_percent_of_principal_components(count: int, bound: float) -> None:
    data = DigitsDataModule()
    data.setup("fit")
    data.setup("test")
    train, test = (data._parts[part].x.flatten(1).double() / 255 for part in ("train", "test"))
    mean, directions = principal(train, count)
    residuals = (test - mean) - (test - mean) @ directions.T @ directions
    torch.manual_seed(0)
    task = Autoencoder(input_shape=[64], latent_dim=count, widths=[])
    task.mean, task.std = data.mean, data.std
    optimizer = torch.optim.Adam(task.net.parameters(), lr=1e-2)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4000)
    for _ in range(4000):
        optimizer.zero_grad()
        task.training_losses((train.float()[torch.randint(len(train), (128,))], None))[0].backward()
        optimizer.step()
        rate.step()
    error = task.predict_step(test.float())["error"].mean().item()
    assert error <= 1.02 * residuals.square().mean().item()
    assert error <= 1.02 * bound
