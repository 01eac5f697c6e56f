"""``zoo fit`` on two processes, or of accumulated batches, ends with the weights of one process and whole batches."""

from pathlib import Path

import pytest
import torch
from cli_kit import Zoo
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")

STEPS = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=20", "--trainer.precision=64-true")
WAYS = {
    "one": ("--data.batch_size=48",),
    "two processes": ("--data.batch_size=24", "--trainer.devices=2", "--trainer.strategy=ddp_fork"),
    "accumulated": (
        "--data.batch_size=16",
        "--trainer.accumulate_grad_batches=3",
        "--trainer.limit_train_batches=60",
    ),
}


def weights(run: Path) -> dict[str, Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    ("recipe", "way", "options"),
    [
        ("linear/mlp_digits", "two processes", ()),
        ("autoencoder/denoising_digits", "two processes", ()),
        ("gan/gan_grid", "two processes", ()),
        ("linear/mlp_digits", "accumulated", ("--model.dropout=0.0",)),
    ],
)
def test_the_same_weights(zoo: Zoo, recipe: str, way: str, options: tuple[str, ...]) -> None:
    ends = []
    for i, name in enumerate(("one", way)):
        result = zoo("fit", "-c", recipe, *STEPS, *options, *WAYS[name])
        assert result.code == 0, result.err
        ends.append(weights(Path("runs", recipe, f"version_{i}")))
    assert gap(*ends) < 1e-6


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max((one[key].double() - other[key].double()).abs().max().item() for key in one)


@pytest.mark.parametrize(("recipe", "batch_size"), [("linear/mlp_digits", 68), ("autoencoder/denoising_digits", 160)])
def test_the_same_weights_with_a_short_last_batch(zoo: Zoo, recipe: str, batch_size: int) -> None:
    """Of 1,293 images one is left, which one process has, or 13."""
    ends = []
    for i, processes in enumerate((1, 2)):
        short = (f"--data.batch_size={batch_size // processes}", "--data.drop_last=false", "--trainer.max_epochs=1")
        several = ("--trainer.devices=2", "--trainer.strategy=ddp_fork") if processes == 2 else ()
        result = zoo("fit", "-c", recipe, "--trainer.precision=64-true", *short, *several)
        assert result.code == 0, result.err
        run = Path("runs", recipe, f"version_{i}")
        assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == -(-1293 // batch_size)
        ends.append(weights(run))
    assert gap(*ends) < 1e-6
