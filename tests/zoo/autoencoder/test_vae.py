"""Variational autoencoders: shapes, conditions, and that they learn."""

from typing import Any

import pytest
import torch
from kit import quiet_trainer

import zoo
from datamodules import DigitsDataModule
from zoo import VAE, ConvVAE
from zoo.autoencoder import ConvVAENet, VAENet
from zoo.testing import check_module


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_mean_log_variance_and_example(size: tuple[int, int], conditional: bool) -> None:
    x, y = torch.rand(4, 3, *size), torch.tensor([0, 1, 2, 3])
    for net in (
        VAENet((3, *size), 5, [16], conditional=conditional, num_classes=4),
        ConvVAENet((3, *size), 5, 4, conditional=conditional, num_classes=4),
    ):
        mean, log_variance = net.encode(x, y)
        assert mean.shape == log_variance.shape == (4, 5)
        assert not torch.equal(mean, log_variance)
        assert net.decode(mean, y).shape == x.shape
        assert torch.equal(net.eval()(x, y), net.decode(net.encode(x, y)[0], y))  # of the means


@pytest.mark.parametrize("cls", [VAENet, ConvVAENet])
def test_encoder_and_decoder_depend_on_the_class(cls: Any) -> None:
    net = cls((1, 8, 8), 2, conditional=True, num_classes=4).eval()
    x, z = torch.rand(1, 1, 8, 8).expand(4, -1, -1, -1), torch.zeros(4, 2)
    y = torch.arange(4)
    assert len(net.encode(x, y)[0].unique(dim=0)) == 4
    assert len(net.decode(z, y).unique(dim=0)) == 4
    for without_class in (lambda: net.encode(x), lambda: net.decode(z)):
        with pytest.raises(ValueError, match=r"needs the class y of each example, in 0\.\.3, got none"):
            without_class()


def test_the_parameters_of_the_quick_start() -> None:
    """Encoder 784-512-256-2x16, decoder 16-256-512-784."""
    net = zoo.create_model("vae_mlp").net
    down = 784 * 512 + 512 + 512 * 256 + 256 + 256 * 32 + 32
    up = 16 * 256 + 256 + 256 * 512 + 512 + 512 * 784 + 784
    assert sum(p.numel() for p in net.parameters()) == down + up


@pytest.mark.parametrize("cls", [VAE, ConvVAE])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_four_patterns_are_learned(cls: Any, likelihood: Any) -> None:
    """The loss falls towards ln 4 nats, the entropy of the pattern's number; gaussian densities are not bounded by it."""
    x = torch.eye(4).repeat_interleave(16, dim=1).view(4, 1, 8, 8)
    torch.manual_seed(0)
    task = cls(
        input_shape=[1, 8, 8], latent_dim=2, likelihood=likelihood, **({"widths": [64]} if cls is VAE else {"width": 8})
    )
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-2)
    batch = x.repeat(8, 1, 1, 1), torch.arange(4).repeat(8)
    first, best = None, None
    for _ in range(150):
        optimizer.zero_grad()
        loss = task.training_losses(batch)[0]
        loss.backward()
        optimizer.step()
        first, best = loss.item() if first is None else first, loss.item()
    assert best < (6 if likelihood == "bernoulli" else 0) < first
    assert (task.reconstruct(x) - x).abs().max() < 0.2


@pytest.mark.parametrize("output", ["sigmoid", "linear"])
def test_the_contract_of_a_learned_std(output: Any) -> None:
    """A parameter that the task adds to its net is trained, saved and loaded."""
    model = zoo.create_model(
        "vae_mlp", input_shape=[1, 8, 8], widths=[32], latent_dim=8, likelihood="gaussian", output=output
    )
    report = check_module(model, (torch.rand(8, 1, 8, 8), torch.arange(8)), lr=1e-2)
    assert set(report.values()) == {"ok"}
    assert model.layer_groups() == [["encoder"], ["decoder", "log_std"]]  # not part of the encoder


def test_data_with_another_number_of_classes_are_refused() -> None:
    model = zoo.create_model("cvae_mlp", input_shape=[1, 8, 8], widths=[8], latent_dim=2, num_classes=3)
    trainer = quiet_trainer(max_epochs=1)
    with pytest.raises(ValueError, match="num_classes is 3, but DigitsDataModule has 10 classes"):
        trainer.fit(model, datamodule=DigitsDataModule())


@pytest.mark.parametrize("cls", [VAE, ConvVAE])
def test_bad_arguments_and_shapes(cls: Any) -> None:
    with pytest.raises(ValueError, match="latent_dim must be 1 or more, got 0"):
        cls(latent_dim=0)
    with pytest.raises(ValueError, match=r"built for examples of shape \(1, 28, 28\), got \(2, 1, 8, 8\)"):
        cls()(torch.rand(2, 1, 8, 8))
