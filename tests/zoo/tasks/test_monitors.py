"""What decides which checkpoint is best, against a table written by hand: the metric and its mode, of every model and metric."""

from typing import Any

import pytest
from torch import nn

import zoo
from recipes.cli import index
from zoo.tasks import ClassificationTask, RegressionTask, SegmentationTask

# of models that take no other one, and by default; a generator needs a judge
DEFAULTS: dict[str, tuple[str, str] | None] = {
    "ClassificationTask": ("val/acc", "max"),
    "SegmentationTask": ("val/miou", "max"),
    "RegressionTask": ("val/loss", "min"),
    "ReconstructionTask": ("val/loss", "min"),
    "VariationalTask": ("val/elbo", "max"),
    "AdversarialTask": None,
    "LanguageModelTask": ("val/loss", "min"),
    "Seq2SeqTask": ("val/loss", "min"),
    "CaptioningTask": ("val/loss", "min"),
    "GLMRegressor": ("val/loss", "min"),
    "MaximumLikelihood": ("val/loss", "min"),
}
OTHERS = {"autoencoder_denoising": ("val/denoised_mse", "min")}


@pytest.mark.parametrize(
    "name", sorted({*OTHERS, *{zoo.registry.get(name).cls: name for name in reversed(zoo.list_models())}.values()})
)
def test_of_every_class_of_models(name: str) -> None:
    entry = zoo.registry.get(name)
    kinds = [each.__name__ for each in entry.cls.__mro__ if each.__name__ in DEFAULTS]
    assert index.on_meta(entry).monitor == OTHERS.get(name, DEFAULTS[kinds[0]])


def test_of_a_generator_with_a_judge() -> None:
    model = zoo.create_model("dcgan", width=4, judge="lenet5_digits", input_shape=[1, 32, 32])
    assert model.monitor == ("val/frechet", "min")


CLASSES = {"loss": "min", "acc": "max", "f1": "max"}
METRICS: list[tuple[type[Any], dict[str, Any], dict[str, str]]] = [
    (ClassificationTask, {"num_classes": 3, "top_k": 2}, CLASSES | {"acc_top2": "max"}),
    (ClassificationTask, {"num_classes": 2, "mode": "binary"}, CLASSES),
    (ClassificationTask, {"num_classes": 3, "mode": "multilabel"}, CLASSES),
    (RegressionTask, {"num_outputs": 1}, {"loss": "min", "rmse": "min", "mae": "min", "r2": "max"}),
    (
        SegmentationTask,
        {"num_classes": 3, "loss": {"cross_entropy": 1.0, "dice": 1.0, "focal": 1.0}},
        {"loss": "min", "miou": "max", "acc": "max", "iou/cat": "max", "iou/loss": "max"}
        | {"cross_entropy": "min", "dice": "min", "focal": "min"},
    ),
]


@pytest.mark.parametrize(("task", "arguments", "modes"), METRICS, ids=lambda each: getattr(each, "__name__", ""))
def test_of_every_metric(task: type[Any], arguments: dict[str, Any], modes: dict[str, str]) -> None:
    known = {name for name in task(nn.Linear(2, 3), **arguments).build_metrics() if name != "confusion"}
    assert known <= modes.keys()
    for part in ("val", "train"):
        for name, mode in modes.items():
            assert task(nn.Linear(2, 3), monitor=f"{part}/{name}", **arguments).monitor == (f"{part}/{name}", mode)
