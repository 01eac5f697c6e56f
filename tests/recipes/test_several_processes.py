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
    one, other = ends
    gap = max((one[key].double() - other[key].double()).abs().max().item() for key in one)
    assert gap < 1e-6
