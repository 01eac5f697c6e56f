"""Objects that are used twice: a second evaluation, a fit after it, data and callbacks that have served another run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import Memory, Patterns, PatternTask, quiet_trainer, same_weights
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from torch.utils._pytree import tree_leaves

import zoo
from callbacks import (
    EMA,
    ActivationStats,
    BatchNormReestimation,
    GracefulStop,
    GradientNoiseScale,
    GradNorm,
    LayerFreezing,
    LearningCurves,
    LRSchedule,
    MagnitudePruning,
    MaxNorm,
    RandomState,
    Samples,
    UpdateRatio,
)
from datamodules import DigitsDataModule, GaussianRingDataModule, ShapesDataModule, SinusoidDataModule

# Modules and data -------------------------------------------------------------------------------------------------------


def digits() -> DigitsDataModule:
    return DigitsDataModule(batch_size=50, shift=1)


CASES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "classes": (lambda: PatternTask(label_smoothing=0.1), lambda: Patterns(shift=1, mixup=0.5)),
    "numbers": (lambda: zoo.create_model("mlp_regression", in_features=1, widths=[4]), lambda: SinusoidDataModule(200)),
    "codes": (lambda: zoo.create_model("vae_mlp", input_shape=[1, 8, 8], widths=[8], latent_dim=2), digits),
    "noise": (
        lambda: zoo.create_model("autoencoder_denoising", input_shape=[1, 8, 8], widths=[8], latent_dim=2),
        digits,
    ),
    "samples": (
        lambda: zoo.create_model("gan_mlp", input_shape=[2], widths=[8], latent_dim=2),
        lambda: GaussianRingDataModule(modes=2, radius=1.0, noise=0.5, count=400),
    ),
    "masks": (
        lambda: zoo.create_model("unet", num_classes=5, encoder_args={"width": 2, "depth": 2}),
        lambda: ShapesDataModule(count=20, size=16, batch_size=5, flip=True),
    ),
}
SHORT = {"max_epochs": 2, "limit_train_batches": 2, "limit_val_batches": 2, "limit_test_batches": 2}


def built(name: str) -> tuple[Any, Any]:
    seed_everything(3, verbose=False)
    model, data = CASES[name]
    return model(), data()


def fit(model: LightningModule, data: Any, trainer: Trainer | None = None) -> LightningModule:
    seed_everything(4, verbose=False)
    (trainer or quiet_trainer(**SHORT)).fit(model, datamodule=data)
    return model


def predictions(trainer: Trainer, model: LightningModule, data: Any) -> list[Any]:
    return tree_leaves(trainer.predict(model, datamodule=data))


def equal(one: list[Any], other: list[Any]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("name", CASES)
def test_evaluations_are_equal_and_leave_a_fit_alone(name: str) -> None:
    fresh = fit(*built(name))
    model, data = built(name)
    trainer = quiet_trainer(**SHORT)
    for run in (trainer.validate, trainer.test):
        first, second = (run(model, datamodule=data, verbose=False) for _ in range(2))
        assert first == second
        assert first[0]
    if model.reads == "image" or name == "numbers":
        assert equal(predictions(trainer, model, data), predictions(trainer, model, data))
    assert same_weights(fit(model, data, trainer), fresh)
    (after,) = trainer.test(model, datamodule=data, verbose=False)
    assert after != first[0]  # it has learned
    assert trainer.test(model, datamodule=data, verbose=False) == [after]
    (other,) = quiet_trainer(**SHORT).test(model, datamodule=built(name)[1], verbose=False)
    assert other == after


@pytest.mark.parametrize("name", CASES)
def test_used_data_and_a_used_model_are_as_good_as_new(name: str) -> None:
    model, data = built(name)
    fit(model, data)
    quiet_trainer(**SHORT).test(model, datamodule=data, verbose=False)
    assert same_weights(fit(built(name)[0], data), fit(*built(name)))  # another model on used data
    again, fresh = built(name)
    again.load_state_dict(model.state_dict())
    assert same_weights(fit(model, data), fit(again, fresh))  # the model's second fit


# Callbacks --------------------------------------------------------------------------------------------------------------

CALLBACKS: dict[str, Callable[[Path], Callback]] = {
    "cosine": lambda folder: LRSchedule("cosine", warmup=0.2),
    "plateau": lambda folder: LRSchedule("plateau", patience=0, gamma=0.5, monitor="val/falls", mode="max"),
    "average": lambda folder: EMA(0.8, start_step=2),
    "statistics": lambda folder: BatchNormReestimation(),
    "pruned": lambda folder: MagnitudePruning(0.6, rounds=2),
    "longest": lambda folder: MaxNorm(0.3),
    "norms": lambda folder: GradNorm(per_layer=True),
    "updates": lambda folder: UpdateRatio(per_layer=True),
    "activations": lambda folder: ActivationStats(),
    "noise": lambda folder: GradientNoiseScale(),
    "freezing": lambda folder: LayerFreezing("head", every=1, down_to=3),
    "patience": lambda folder: LayerFreezing("head", patience=1),
    "pictures": lambda folder: Samples(num_examples=4),
    "curves": lambda folder: LearningCurves(),
    "signals": lambda folder: GracefulStop(folder),
    "random": lambda folder: RandomState(),
}


class Falls(PatternTask):
    """Its monitor has its best value in the first epoch."""

    monitor = ("val/falls", "max")

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log("val/falls", -float(self.current_epoch), batch_size=1)


class Broken(Callback):
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 4:
            raise ArithmeticError("broken")


def record(callback: Callback, folder: Path) -> tuple[Any, ...]:
    """What a fit of four epochs leaves: its weights, rates, rows and files, and the callback's state."""
    seed_everything(6, verbose=False)
    task, logger = Falls(), Memory()
    trainer = quiet_trainer(callback, logger=logger, max_epochs=4, limit_train_batches=3, default_root_dir=folder)
    trainer.enable_checkpointing = isinstance(callback, Checkpoint)
    trainer.fit(task, datamodule=Patterns(shift=1))
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    weights = [{name: value.tolist() for name, value in each.items()} for each in [*task.weights, task.state_dict()]]
    return weights, task.rates, logger.rows, files, str(callback.state_dict())


@pytest.mark.parametrize(
    ("name", "first"),
    [*((name, "finished") for name in CALLBACKS), *((name, "broken") for name in ("average", "norms", "signals"))],
)
def test_a_used_callback_is_as_good_as_a_new_one(tmp_path: Path, name: str, first: str) -> None:
    used = CALLBACKS[name](tmp_path / "checkpoints")
    extra = [Broken()] if first == "broken" else []
    trainer = quiet_trainer(used, *extra, max_epochs=4, limit_train_batches=2, default_root_dir=tmp_path / "first")
    seed_everything(7, verbose=False)
    try:
        trainer.fit(Falls(lr=0.5), datamodule=Patterns(batch_size=9))
        trainer.test(Falls(), datamodule=Patterns(), verbose=False)
    except ArithmeticError:
        assert first == "broken"
    fresh = CALLBACKS[name](tmp_path / "checkpoints")
    assert record(used, tmp_path / "second") == record(fresh, tmp_path / "third")
