"""Schedule-free AdamW in a fit: what is evaluated, saved and loaded is the average, what goes on are the training weights."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import PATTERN_BATCHES, PatternTask, SaveEverywhere, fit_patterns, quiet_trainer, same_weights
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

import zoo
from callbacks import EMA, LRSchedule
from datamodules import DigitsDataModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]
KEY = "net.13.weight"  # of the head


def task(**options: Any) -> PatternTask:
    torch.manual_seed(4)
    return PatternTask(**{"optimizer": "AdamWScheduleFree", **options})


class Watch(Callback):
    """z of the head after each step, and the head that validation sees, that callbacks see at its end, and at the epoch's."""

    def __init__(self) -> None:
        self.z: list[Tensor] = []
        self.during: list[Tensor] = []
        self.after: list[Tensor] = []
        self.left: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.z.append(trainer.optimizers[0].state[pl_module.net[13].weight]["z"].double())

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.during.append(pl_module.state_dict()[KEY].clone())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.after.append(pl_module.state_dict()[KEY].clone())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.left.append(pl_module.state_dict()[KEY].clone())


def test_validation_sees_the_mean_of_z_and_training_goes_on_from_its_own_weights() -> None:
    """At a constant rate x is the plain mean of all z (section 2 of the paper, c = 1 / t), and y lies between z and x."""
    watch = Watch()
    fitted, _ = fit_patterns(watch, task=task(), epochs=2, num_sanity_val_steps=1)
    assert torch.equal(watch.during[0], watch.after[0])  # the sanity check: no step yet
    for epoch, (seen, left) in enumerate(zip(watch.during[1:], watch.left, strict=True), start=1):
        steps = epoch * PATTERN_BATCHES
        mean = torch.stack(watch.z[:steps]).mean(dim=0)
        torch.testing.assert_close(seen.double(), mean, atol=1e-6, rtol=1e-5)
        assert torch.equal(watch.after[epoch], seen)
        assert torch.equal(left, fitted.weights[steps - 1][KEY])  # to the bit
        torch.testing.assert_close(left.double(), 0.1 * watch.z[steps - 1] + 0.9 * mean, atol=1e-6, rtol=1e-5)
    assert torch.equal(fitted.state_dict()[KEY], watch.during[-1])  # after the fit


def test_evaluation_leaves_the_steps_as_they_are() -> None:
    often, _ = fit_patterns(task=task(), epochs=2, val_check_interval=1)
    never, _ = fit_patterns(task=task(), epochs=2, limit_val_batches=0)
    for one, other in zip(often.weights, never.weights, strict=True):
        assert torch.equal(one[KEY], other[KEY])
    assert same_weights(often, never)  # the averages, at the end


def test_resuming_is_the_uninterrupted_run(tmp_path: Path) -> None:
    whole, _ = fit_patterns(SaveEverywhere(tmp_path), task=task(), epochs=2)
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert {path.name.partition("-")[0] for path in paths} == {"step", "validation", "epoch"}
    for path in paths:
        resumed, _ = fit_patterns(task=task(), ckpt=path, epochs=2, seed=8)
        assert same_weights(resumed, whole), path.name


def test_a_checkpoint_holds_both_sets_and_load_chooses(tmp_path: Path) -> None:
    model = zoo.create_model("mlp", in_features=64, widths=[4], optimizer="AdamWScheduleFree", lr=0.05)
    trainer = quiet_trainer(SaveEverywhere(tmp_path), max_epochs=1, limit_train_batches=3, limit_val_batches=1)
    trainer.fit(model, datamodule=DigitsDataModule(batch_size=64))
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    model.save_pretrained(tmp_path / "folder")
    average = model.net.fc.weight
    assert torch.equal(zoo.load(tmp_path / "folder").net.fc.weight, average)
    trained = zoo.load(tmp_path / "step-3.ckpt", average=False).net.fc.weight
    assert not torch.equal(trained, average)
    for name in ("step-3", "validation-3", "epoch-3", "after"):
        path = tmp_path / f"{name}.ckpt"
        for kind, expected in ((None, average), (True, average), (False, trained)):
            assert torch.equal(zoo.load(path, average=kind).net.fc.weight, expected), (name, kind)


def test_a_second_fit_starts_from_what_the_task_holds() -> None:
    first, _ = fit_patterns(task=task(), epochs=1)
    start = first.state_dict()[KEY].clone()

    class Start(Callback):
        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            if trainer.global_step == 0:
                assert torch.equal(pl_module.state_dict()[KEY], start)

    fit_patterns(Start(), task=first, epochs=1)
    assert not torch.equal(first.state_dict()[KEY], start)


def test_rates_of_layers_and_clipping_hold() -> None:
    fitted, trainer = fit_patterns(task=task(layer_decay=0.5), epochs=1, gradient_clip_val=0.1)
    rates = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}
    assert rates["3/decay"] == 2 * rates["2/decay"] == 4 * rates["1/decay"]
    assert fitted.rates[0] == fitted.rates[-1] == rates


def test_another_average_or_a_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"averages the weights already: drop callbacks\.EMA"):
        fit_patterns(EMA(), task=task())
    with pytest.raises(ValueError, match="in place of a schedule: drop LRSchedule"):
        fit_patterns(LRSchedule("constant"), task=task())


def test_no_share_of_the_average_is_refused_when_the_task_is_built() -> None:
    with pytest.raises(ValueError, match="AdamWScheduleFree cannot train PatternNet"):
        task(optimizer_args={"betas": [0.0, 0.999]})


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = zoo.create_model("softmax_regression", optimizer="AdamWScheduleFree")
    made.save_pretrained(tmp_path / "folder")
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    message = r"not installed: pip install 'lightning-zoo\[schedulefree\]', or give another optimizer"
    for make in (
        lambda: zoo.create_model("lenet5", optimizer="AdamWScheduleFree"),
        lambda: zoo.load(tmp_path / "folder"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    assert torch.equal(zoo.load(tmp_path / "folder", optimizer="AdamW").net.fc.weight, made.net.fc.weight)


def test_another_schedule_free_optimizer_is_one_by_its_path() -> None:
    watch = Watch()
    fit_patterns(watch, task=task(optimizer="schedulefree.SGDScheduleFree", lr=0.1), epochs=1)
    mean = torch.stack(watch.z).mean(dim=0)
    torch.testing.assert_close(watch.during[-1].double(), mean, atol=1e-6, rtol=1e-5)


def test_tied_weights_are_exchanged_once(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.ReLU(), nn.Linear(36, 36), nn.Linear(36, 3))
    net[3].weight = net[1].weight

    class Tied(PatternTask):
        def __init__(self) -> None:
            zoo.ClassificationTask.__init__(self, net, 3, optimizer="AdamWScheduleFree", lr=0.01)
            self.rates, self.weights = [], []

    whole, trainer = fit_patterns(task=Tied(), epochs=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    for held in (saved["state_dict"], saved["ema"]["other"]):
        assert torch.equal(held["net.1.weight"], held["net.3.weight"])
    assert torch.equal(saved["ema"]["other"]["net.1.weight"], whole.weights[-1]["net.1.weight"])
    assert not torch.equal(saved["state_dict"]["net.1.weight"], whole.weights[-1]["net.1.weight"])
