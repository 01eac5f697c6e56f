"""``Trainer.predict(model, datamodule=data)`` predicts the test part: every task with every kind of data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch
from kit import BatchRecorder, PatternNet, Patterns, quiet_trainer
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import TensorDataset

from datamodules import (
    ArrayDataModule,
    CSVDataModule,
    DataModule,
    DatasetDataModule,
    DigitsDataModule,
    GaussianRingDataModule,
    ImageFolderDataModule,
    IrisDataModule,
    MaskFolderDataModule,
    MoonsDataModule,
    ShapesDataModule,
    SinusoidDataModule,
)
from zoo import create_model
from zoo.tasks import ClassificationTask, RegressionTask, SegmentationTask, Task

X, NUMBERS = torch.rand(20, 3), torch.rand(20, 2)


def csv_file(folder: Path) -> str:
    lines = ["a,b,c", *(f"{i},{'xy'[i % 2]},{['no', 'yes'][i % 3 == 0]}" for i in range(30))]
    (folder / "rows.csv").write_text("\n".join(lines))
    return str(folder / "rows.csv")


DATA: dict[str, Callable[[Path], DataModule]] = {
    "images": lambda _: Patterns(16),
    "digits": lambda _: DigitsDataModule(size=6, batch_size=100),
    "image folder": lambda folder: ImageFolderDataModule(
        str(fakes.tree(folder, {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 1})), size=6, num_workers=0
    ),
    "mask folder": lambda folder: MaskFolderDataModule(
        str(fakes.masked(folder, {"train": 4, "test": 3})), ["ground", "cell"], size=8, num_workers=0
    ),
    "shapes": lambda _: ShapesDataModule(4, size=8, batch_size=100),
    "rows": lambda _: ArrayDataModule(X, torch.arange(20) % 3, batch_size=3),
    "numbers": lambda _: ArrayDataModule(X, NUMBERS, kind="regression"),
    "csv": lambda folder: CSVDataModule(csv_file(folder), "c"),
    "csv numbers": lambda folder: CSVDataModule(csv_file(folder), "a", kind="regression"),
    "dataset": lambda _: DatasetDataModule(TensorDataset(X, torch.arange(20) % 3), test=TensorDataset(X, X[:, 0] > 2)),
    "dataset numbers": lambda _: DatasetDataModule(TensorDataset(X, NUMBERS), test=TensorDataset(X, NUMBERS)),
    "labels": lambda _: DatasetDataModule(
        TensorDataset(X, (X > 0.5).long()), test=TensorDataset(X, (X > 0.5).long()), class_names=list("abc")
    ),
    "table": lambda _: IrisDataModule(batch_size=7),
    "moons": lambda _: MoonsDataModule(count=40),
    "sinusoid": lambda _: SinusoidDataModule(count=40),
    "ring": lambda _: GaussianRingDataModule(count=40),
}


def net(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(outputs))


def shaped(data: DataModule) -> dict[str, Any]:
    return {"input_shape": list(data.input_shape)}


CLASSIFIED = ("images", "digits", "image folder", "rows", "csv", "dataset", "table", "moons")
COUNTED = ("numbers", "csv numbers", "dataset numbers", "sinusoid")
IMAGES = ("images", "digits", "image folder")
ROWS = ("rows", "numbers", "csv", "csv numbers", "dataset", "dataset numbers", "labels", "table", "moons", "ring")
MASKED = ("mask folder", "shapes")
Build = Callable[[Any], Task]
TASKS: dict[str, tuple[Build, tuple[str, ...], str]] = {
    "classification": (lambda d: ClassificationTask(net(d.num_classes), d.num_classes), CLASSIFIED, "label"),
    "binary": (lambda d: ClassificationTask(net(1), 2, mode="binary"), ("csv", "moons", "image folder"), "label"),
    "multi-label": (lambda d: ClassificationTask(net(3), 3, mode="multilabel"), ("labels",), "label"),
    "convolutions": (lambda d: ClassificationTask(PatternNet(), 3), ("images",), "probabilities"),
    "regression": (lambda d: RegressionTask(net(d.num_outputs), d.num_outputs), COUNTED, "value"),
    "glm": (lambda d: create_model("glm_gaussian", in_features=3, num_outputs=2), ("numbers",), "value"),
    "segmentation": (
        lambda d: SegmentationTask(nn.Conv2d(3, d.num_classes, 3, padding=1), d.num_classes),
        MASKED,
        "mask",
    ),
    "reconstruction": (
        lambda d: create_model("autoencoder_mlp", widths=[4], latent_dim=2, output="sigmoid", **shaped(d)),
        (*IMAGES, *ROWS, *MASKED),
        "reconstruction",
    ),
    "variational": (
        lambda d: create_model(
            "vae_mlp", widths=[4], latent_dim=2, likelihood="gaussian", output="linear", **shaped(d)
        ),
        (*IMAGES, *ROWS, *MASKED),
        "elbo",
    ),
    "conditional": (
        lambda d: create_model("cvae_mlp", widths=[4], latent_dim=2, num_classes=d.num_classes, **shaped(d)),
        IMAGES,
        "reconstruction",
    ),
    "adversarial": (lambda d: create_model("gan_mlp", widths=[4], **shaped(d)), (*IMAGES, *ROWS, *MASKED), "score"),
    "conditional adversarial": (
        lambda d: create_model("gan_mlp_conditional", widths=[4], num_classes=d.num_classes, **shaped(d)),
        ("images", "rows", "table"),
        "score",
    ),
    "likelihood": (
        lambda d: create_model("max_likelihood_gumbel"),
        ("sinusoid",),
        "log_likelihood",
    ),
}


@pytest.mark.parametrize(("task", "kind"), [(task, kind) for task, (_, kinds, _) in TASKS.items() for kind in kinds])
def test_the_test_part_is_predicted_in_its_order(task: str, kind: str, tmp_path: Path) -> None:
    build, _, name = TASKS[task]
    recorder = BatchRecorder()
    quiet_trainer().test(recorder, datamodule=DATA[kind](tmp_path), verbose=False)
    batches = recorder.seen["test"]
    assert all(len(batch) == 2 for batch in batches)
    torch.manual_seed(0)
    data = DATA[kind](tmp_path)
    model = build(data)
    predicted: Any = quiet_trainer().predict(model, datamodule=data)
    assert len(predicted) == len(batches)
    for got, batch in zip(predicted, batches, strict=True):
        assert len(got[name]) == len(batch[0])
        with torch.no_grad():
            wanted = model.eval().predict_step(batch)
        assert got.keys() == wanted.keys()
        for one, two in zip(tree_leaves(got), tree_leaves(wanted), strict=True):
            assert torch.equal(one, two) if isinstance(one, Tensor) else one == two


def test_every_kind_of_data_is_predicted() -> None:
    assert {kind for _, kinds, _ in TASKS.values() for kind in kinds} == DATA.keys()


@pytest.mark.parametrize("loader", ["train", "val", "test", "predict"])
def test_a_loader_before_setup(loader: str) -> None:
    part = "test" if loader == "predict" else loader
    stage = "test" if part == "test" else "fit"
    data = Patterns()
    message = rf'Patterns has not set up its {part} part: call setup\("{stage}"\) before'
    with pytest.raises(RuntimeError, match=message):
        getattr(data, f"{loader}_dataloader")()
    data.setup("fit" if stage == "test" else "test")  # the other ones
    with pytest.raises(RuntimeError, match=message):
        getattr(data, f"{loader}_dataloader")()
    data.setup(stage)
    assert len(getattr(data, f"{loader}_dataloader")()) > 0


def test_without_a_test_part_nothing_is_predicted() -> None:
    data = DatasetDataModule(TensorDataset(X, torch.arange(20) % 3))
    model = ClassificationTask(nn.Linear(3, 3), 3)
    with pytest.raises(ValueError, match="there is no test part: give DatasetDataModule a dataset as test"):
        quiet_trainer().predict(model, datamodule=data)
