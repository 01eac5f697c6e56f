"""A model is loaded in evaluation mode, and a fit trains in training mode, but for what is frozen or only kept."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import PatternNet, Patterns, PatternTask, SaveOnce, fit_patterns, quiet_trainer, same_weights
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

import zoo
from callbacks import LayerFreezing
from datamodules import DigitsDataModule
from zoo import registry
from zoo.tasks import ClassificationTask


def digits_resnet(**how: Any) -> Any:
    return zoo.load("resnet20_digits", dropout=0.5, dropout_kind="element", **how)


class Modes(Callback):
    """The names of the modules in evaluation mode at each training batch, and whether each dropout set values to zero."""

    def __init__(self) -> None:
        self.evaluated: list[set[str]] = []
        self.dropped: dict[str, bool] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, module in pl_module.named_modules():
            if isinstance(module, nn.Dropout):
                module.register_forward_hook(lambda *call, name=name: self.look(pl_module.trainer, name, *call[1:]))

    def look(self, trainer: Trainer, name: str, given: Any, output: Tensor) -> None:
        if trainer.training:
            self.dropped[name] = bool(((output == 0) & (given[0] != 0)).any())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.evaluated.append({name for name, module in pl_module.named_modules() if not module.training})


def fit(model: LightningModule, *callbacks: Callback, **options: Any) -> Modes:
    """Two epochs of two batches, with a sanity check and a validation after each batch."""
    modes = Modes()
    often = {"max_epochs": 2, "limit_train_batches": 2, "limit_val_batches": 1, "val_check_interval": 1}
    trainer = quiet_trainer(*callbacks, modes, **{"num_sanity_val_steps": 1, **often, **options})
    trainer.fit(model, datamodule=DigitsDataModule(batch_size=16))
    assert len(modes.evaluated) == 4
    return modes


def means(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.named_buffers() if name.endswith("running_mean")}


def moved(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in means(model).items() if not torch.equal(value, before[name])}


WAYS: dict[str, Callable[[Path], Any]] = {
    "load": lambda _: digits_resnet(),
    "load, not strict": lambda _: digits_resnet(num_classes=10, strict=False),
    "create_model": lambda _: zoo.create_model("resnet20", weights="resnet20_digits", dropout=0.5),
    "a net of its own": lambda _: ClassificationTask(digits_resnet().net, 10),
    "eval() of the constructor's": lambda _: zoo.create_model("resnet20", in_channels=1, dropout=0.5).eval(),
    "a checkpoint": lambda folder: zoo.load(checkpoint_of(digits_resnet(), folder / "a.ckpt")),
    "load_from_checkpoint": lambda folder: zoo.CIFARResNetClassifier.load_from_checkpoint(
        checkpoint_of(digits_resnet(), folder / "a.ckpt"), weights_only=True
    ).eval(),
}


def checkpoint_of(model: LightningModule, path: Path) -> Path:
    trainer = quiet_trainer()
    model.trainer = trainer
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path, weights_only=True)
    return path


@pytest.mark.parametrize("way", WAYS)
def test_a_fit_trains_in_training_mode(way: str, tmp_path: Path) -> None:
    model = WAYS[way](tmp_path)
    assert not any(part.training for part in model.net.modules())
    before = means(model)
    modes = fit(model)
    assert modes.evaluated == [set()] * 4
    assert len(modes.dropped) == 9
    assert all(modes.dropped.values())
    assert moved(model, before) == before.keys()


def test_what_is_loaded_predicts_as_it_did(tmp_path: Path) -> None:
    """In training mode, the norms of a loaded ResNet-20 would take the statistics of the batch."""
    x = torch.rand(4, 1, 8, 8)
    wanted = zoo.load("resnet20_digits").eval()(x)
    assert (zoo.load("resnet20_digits").train()(x) - wanted).abs().max() > 0.1
    for model in (
        zoo.load("resnet20_digits"),
        zoo.load(checkpoint_of(zoo.load("resnet20_digits").freeze("layer2"), tmp_path / "a.ckpt")),
        zoo.create_model("resnet20", weights="resnet20_digits"),
    ):
        assert torch.equal(model(x), wanted)


def test_only_loaded_models_are_in_evaluation_mode() -> None:
    modes = {
        "name": zoo.create_model("resnet20"),
        "class": zoo.CIFARResNetClassifier(20, in_channels=1, num_classes=10, weights="resnet20_digits"),
        "encoder": zoo.create_model("unet", encoder="resnet20", in_channels=1, encoder_weights="resnet20_digits"),
    }
    for name, model in modes.items():
        assert all(part.training for part in model.modules()), name


def test_frozen_groups_stay_as_they_are() -> None:
    model = digits_resnet().freeze("layer3")
    before = means(model)
    modes = fit(model)
    assert modes.dropped == {f"net.layer{i}.{k}.dropout": i == 3 for i in (1, 2, 3) for k in range(3)}
    assert moved(model, before) == {name for name in before if name.startswith("net.layer3")}
    assert all(name.split(".")[1] in ("conv1", "bn1", "activation", "layer1", "layer2") for name in modes.evaluated[0])


def test_what_is_set_free_during_a_fit_trains() -> None:
    model = digits_resnet()
    before = means(model)
    modes = fit(model, LayerFreezing(milestones={1: "layer2"}))
    evaluated = [{name.split(".")[1] for name in names} for names in modes.evaluated]
    assert evaluated[:2] == [{"conv1", "bn1", "activation", "layer1", "layer2", "layer3"}] * 2
    assert evaluated[2:] == [{"conv1", "bn1", "activation", "layer1"}] * 2
    assert moved(model, before) == {name for name in before if name.startswith(("net.layer2", "net.layer3"))}


def test_the_mode_before_a_fit_makes_no_difference(tmp_path: Path) -> None:
    """To the bit, also for a run that is resumed."""
    task = PatternTask()
    whole, _ = fit_patterns(task=copy.deepcopy(task), epochs=2)
    evaluated, _ = fit_patterns(SaveOnce(tmp_path / "3.ckpt", 3), task=copy.deepcopy(task).eval(), epochs=2)
    resumed, _ = fit_patterns(task=task.eval(), epochs=2, ckpt=tmp_path / "3.ckpt", seed=9)
    assert same_weights(whole, evaluated)
    assert same_weights(whole, resumed)


def test_both_nets_of_an_adversarial_task_train() -> None:
    model = zoo.create_model("gan_mlp", input_shape=[1, 8, 8], widths=[8]).eval()
    assert fit(model).evaluated == [set()] * 4


class Taught(PatternTask):
    """Keeps two copies of its net: the one in evaluation mode, the other in training mode."""

    def build_parts(self) -> None:
        self.teacher = PatternNet().requires_grad_(False).eval()
        self.target = PatternNet().requires_grad_(False)


class TaughtLater(PatternTask):
    """The same with one norm in evaluation mode, set in the constructor."""

    def __init__(self, **task: Any) -> None:
        super().__init__(**task)
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)
        self.teacher[1].eval()


@pytest.mark.parametrize("cls", [Taught, TaughtLater])
@pytest.mark.parametrize("way", ["fresh", "eval", "load"])
def test_parts_that_are_only_kept_stay_in_the_mode_that_they_were_given(
    cls: type[PatternTask], way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    zoo.register("taught", cls)
    model = cls()
    declared = {name for name, part in model.named_modules() if not part.training}
    assert "teacher.1" in declared
    if way == "eval":
        model.eval()
    elif way == "load":
        model = zoo.load(checkpoint_of(model, tmp_path / "a.ckpt"))
    assert any(part.training for part in model.modules()) is (way == "fresh")
    modes = Modes()
    quiet_trainer(modes, max_epochs=1, num_sanity_val_steps=1, val_check_interval=2).fit(model, datamodule=Patterns())
    assert modes.evaluated == [declared] * 5
    assert {name for name, part in copy.deepcopy(model).eval().train().named_modules() if not part.training} == declared


class Foreign(LightningModule):
    """No task of the zoo."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode at the start of training")
def test_the_mode_of_a_foreign_module_is_its_own() -> None:
    model = Foreign()
    model.net[1].eval()
    assert fit(model).evaluated == [{"net.1"}] * 4
