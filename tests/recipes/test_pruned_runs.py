"""Pruning through `zoo fit`: what its checkpoints and its folder hold."""

from pathlib import Path

import pytest
import torch
from cli_kit import Zoo, assert_one_line

import zoo as package

PRUNE = ("--trainer.callbacks+=callbacks.MagnitudePruning", "--trainer.callbacks.sparsity=0.9")
RUN = ("--trainer.callbacks=[]", "--trainer.max_epochs=3", "--trainer.limit_train_batches=5", *PRUNE)
MLP = ("-c", "linear/mlp_digits", "--model.widths=[8]", *RUN)
FOLDER = Path("runs/linear/mlp_digits/version_0")
LAST = "checkpoints/last.ckpt"


def share_of_zeros(path: Path, **options: bool) -> float:
    """Of the weights that the whole file has, loaded without the callback."""
    net = package.load(path, **options).net
    weights = [p for name, p in net.named_parameters() if name.endswith("weight")]
    assert all(bool((p != 0).all()) for name, p in net.named_parameters() if name.endswith("bias"))
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def test_both_checkpoints_and_the_folder_are_dense_with_zeros(zoo: Zoo) -> None:
    more = ("--trainer.callbacks.rounds=2", "--trainer.callbacks+=callbacks.EMA", "--trainer.callbacks.decay=0.9")
    result = zoo("fit", *MLP, *more, "--trainer.callbacks+=callbacks.ModelFolder")
    assert result.code == 0, result.err
    wanted = round(0.9 * (64 * 8 + 8 * 10)) / (64 * 8 + 8 * 10)
    for path in (FOLDER / "checkpoints/best.ckpt", FOLDER / LAST, FOLDER / "model"):
        assert share_of_zeros(path) == wanted, path
    assert share_of_zeros(FOLDER / LAST, average=False) == wanted


def test_a_stopped_run_goes_on_exactly(zoo: Zoo) -> None:
    assert zoo("fit", *MLP, "--trainer.callbacks.start_epoch=0").code == 0
    assert zoo("fit", *MLP, "--trainer.callbacks.start_epoch=0", "--trainer.max_epochs=1").code == 0
    folders = [FOLDER.with_name(f"version_{i}") for i in (0, 1)]
    assert zoo("fit", "--resume", folders[1], "--trainer.max_epochs=3").code == 0
    whole, resumed = (torch.load(folder / LAST, weights_only=True) for folder in folders)
    assert all(torch.equal(value, resumed["state_dict"][name]) for name, value in whole["state_dict"].items())
    masks = [saved["callbacks"]["MagnitudePruning"]["pruned"] for saved in (whole, resumed)]
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())


@pytest.mark.parametrize(
    ("verb", "options", "words"),
    [
        ("fit", ("--trainer.callbacks.sparsity=1.5",), ["sparsity is a share of the weights in [0, 1), got 1.5"]),
        ("fit", ("--trainer.callbacks.layers=[layer.0]",), ["no layer 'layer.0', did you mean 'layers.0'?"]),
        ("fit", ("--trainer.callbacks.start_epoch=3",), ["in epoch 3, but the run's epochs are 0..2"]),
        ("check", ("--trainer.callbacks.start_epoch=3",), ["in epoch 3, but the run's epochs are 0..2"]),
    ],
)
def test_what_does_not_fit_ends_in_one_line(zoo: Zoo, verb: str, options: tuple[str, ...], words: list[str]) -> None:
    assert_one_line(zoo(verb, *MLP, *options), *words, started=True)
    assert not Path("runs").exists() or not list(Path("runs").rglob("*.ckpt"))
