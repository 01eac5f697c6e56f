"""Max-norm, vanilla dropout and re-estimated batch norms through `zoo fit`: what its checkpoints and its folder hold."""

from pathlib import Path
from typing import Any

import pytest
import torch
from cli_kit import Zoo, assert_one_line
from torch import Tensor

import zoo as package

RUN = ("--trainer.max_epochs=2", "--trainer.callbacks=[]")
MLP = ("-c", "linear/mlp_digits", "--model.widths=[8]", *RUN)
NORMALIZED = (*MLP, "--model.norm=batch")
FOLDER = Path("runs/linear/mlp_digits/version_0")
BEST = "checkpoints/best.ckpt"
ESTIMATE = "--trainer.callbacks+=callbacks.BatchNormReestimation"
AVERAGE = ("--trainer.callbacks+=callbacks.EMA", "--trainer.callbacks.decay=0.9")


def digits() -> Tensor:
    """All training images as they are, in float64."""
    # imported before Lightning, its datamodule would change how the command line reads numbers of batches
    from datamodules import DigitsDataModule

    data = DigitsDataModule()
    data.setup("fit")
    images = data._part("train").for_evaluation()
    return images.__getitems__(list(range(len(images))))[0].double() / 255


def is_estimated(task: Any, images: Tensor) -> bool:
    """Whether the first batch norm has mean and variance, in float64, of what it sees of all images."""
    layer = task.net.double().layers[0]
    with torch.no_grad():
        values = layer.linear(((images - task.mean) / task.std).flatten(1))
    wanted = torch.stack([values.mean(0), values.var(0, correction=0)])
    return torch.allclose(torch.stack([layer.norm.running_mean, layer.norm.running_var]), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("average", [False, True])
def test_both_checkpoints_and_the_folder_hold_estimated_statistics(zoo: Zoo, average: bool) -> None:
    more = AVERAGE if average else ()
    result = zoo("fit", *NORMALIZED, ESTIMATE, *more, "--trainer.callbacks+=callbacks.ModelFolder")
    assert result.code == 0, result.err
    images = digits()
    for path in (FOLDER / BEST, FOLDER / "checkpoints/last.ckpt", FOLDER / "model"):
        assert is_estimated(package.load(path), images), path
    if average:  # the training weights keep the statistics of training
        assert not is_estimated(package.load(FOLDER / "checkpoints/last.ckpt", average=False), images)


@pytest.mark.slow
def test_a_stopped_run_goes_on_exactly_and_a_run_without_it_has_other_statistics(zoo: Zoo) -> None:
    images, options = digits(), (*AVERAGE, "--trainer.limit_train_batches=3")
    assert zoo("fit", *NORMALIZED, ESTIMATE, *options).code == 0
    assert zoo("fit", *NORMALIZED, ESTIMATE, *options, "--trainer.max_epochs=1").code == 0
    folders = [FOLDER.with_name(f"version_{i}") for i in (0, 1, 2)]
    assert zoo("fit", "--resume", folders[1], "--trainer.max_epochs=2").code == 0
    whole, resumed = (torch.load(folder / "checkpoints/last.ckpt", weights_only=True) for folder in folders[:2])
    for one, other in ((whole["state_dict"], resumed["state_dict"]), (whole["ema"]["other"], resumed["ema"]["other"])):
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert zoo("fit", *NORMALIZED, *options).code == 0
    assert not is_estimated(package.load(folders[2] / BEST), images)


def test_the_weights_of_a_run_stay_within_the_norm(zoo: Zoo) -> None:
    result = zoo("fit", *MLP, "--trainer.callbacks+=callbacks.MaxNorm", "--trainer.callbacks.max_norm=0.5")
    assert result.code == 0, result.err
    net: Any = package.load(FOLDER / BEST).net
    norms = torch.cat([layer.weight.norm(dim=1) for layer in (net.layers[0].linear, net.fc)])
    assert norms.max() <= 0.5 + 1e-6
    assert (norms > 0.5 - 1e-6).any()


def test_vanilla_dropout_is_chosen_on_the_command_line(zoo: Zoo) -> None:
    result = zoo("fit", *MLP, "--model.dropout_kind=vanilla")
    assert result.code == 0, result.err
    task = package.load(FOLDER / BEST)
    assert task.hparams["dropout_kind"] == "vanilla"
    assert isinstance(task.net.layers[0].dropout, package.blocks.VanillaDropout)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((*MLP, ESTIMATE), ["MLPClassifier has no batch norm"]),
        ((*NORMALIZED, ESTIMATE, "--data.val_fraction=0"), ["this run has none: give validation data"]),
        (
            (*MLP, "--trainer.callbacks+=callbacks.MaxNorm", "--trainer.callbacks.layers=[layer.0]"),
            ["MLPClassifier has no layer 'layer.0', did you mean 'layers.0'?"],
        ),
        (
            (*MLP, "--trainer.callbacks+=callbacks.MaxNorm", "--trainer.callbacks.max_norm=-1"),
            ["must be a finite number > 0, got -1"],
        ),
        ((*MLP, "--model.dropout_kind=vanila"), ["dropout_kind", "vanila"]),
    ],
)
def test_what_does_not_fit_ends_in_one_line(zoo: Zoo, options: tuple[str, ...], words: list[str]) -> None:
    assert_one_line(zoo("fit", *options), *words, started=True)
    assert not Path("runs").exists() or not list(Path("runs").rglob("config.yaml"))
