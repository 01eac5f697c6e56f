"""Callbacks work with any LightningModule that offers what they use, and with batches whose parts are several tensors."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from kit import SaveEverywhere, quiet_trainer, same_weights
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

import callbacks
from callbacks import (
    EMA,
    ActivationStats,
    BatchNormReestimation,
    BatchSizeSchedule,
    DataWait,
    Freezable,
    GracefulStop,
    GradientNoiseScale,
    GradNorm,
    Histograms,
    IntervalCheckpoint,
    LayerFreezing,
    LearningCurves,
    LRSchedule,
    MagnitudePruning,
    MaxNorm,
    ModelFolder,
    NearestNeighbors,
    PeakMemory,
    RandomState,
    Renderable,
    Sampleable,
    Samples,
    Throughput,
    TrainingDiagnostics,
    UpdateRatio,
    WeightNorm,
    WrongExamples,
)
from datamodules import DataModule, Examples

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


class Series(NamedTuple):
    values: Tensor
    lengths: Tensor


class SeriesData(DataModule):
    """60 series of 2 to 9 numbers, padded with zeros; the class is the sign of their sum."""

    class_names = ["falls", "rises"]
    input_shape = (9,)

    def examples(self, part: Literal["train", "test"]) -> Examples:
        g = torch.Generator().manual_seed(len(part))
        lengths = torch.randint(2, 10, (60,), generator=g)
        values = torch.randn(60, 9, generator=g) * (torch.arange(9) < lengths[:, None])
        return Examples(Series(values, lengths), (values.sum(1) > 0).long())

    def collate(self, batch: Any) -> Any:
        x, *rest = batch
        return (Series(x.values[:, : int(x.lengths.max())], x.lengths), *rest)


class Own(LightningModule):
    """A user's classifier of series; no class of the zoo, and nothing of it in its checkpoints."""

    monitor = ("val/loss", "min")

    def __init__(self) -> None:
        super().__init__()
        self.low, self.middle, self.head = nn.Linear(1, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.frozen = 0
        self.rendered: list[Any] = []

    def forward(self, x: Series) -> Tensor:
        hidden = F.relu(self.middle(F.relu(self.low(x.values[..., None]))))  # (B, T) -> (B, T, 4)
        inside = torch.arange(hidden.shape[1]) < x.lengths[:, None]
        return self.head((hidden * inside[..., None]).sum(1) / x.lengths[:, None])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", F.cross_entropy(self(batch[0]), batch[1]), batch_size=len(batch[1]), sync_dist=True)

    def test_step(self, batch: Any, batch_idx: int) -> None: ...

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        p, label = self(batch[0]).softmax(1).max(1)
        return {"label": [str(int(k)) for k in label], "probability": p}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)

    def render(self, batch: Any) -> dict[str, Any]:
        self.rendered.append(batch)
        return {"confusion": torch.zeros(3, 2, 2, dtype=torch.uint8), "size": str(len(batch[1]))}

    # freezing

    def layer_groups(self) -> list[list[str]]:
        return [["low"], ["middle"], ["head"]]

    def group_of(self, layer: str) -> int:
        return ["low", "middle", "head"].index(layer)

    def freeze(self, below: int) -> None:
        self.frozen = below
        for place, (name,) in enumerate(self.layer_groups()):
            self.get_submodule(name).requires_grad_(place >= below)


class Record(Callback):
    def __init__(self) -> None:
        self.frozen: list[tuple[int, int, int]] = []  # step, what is declared, what has no gradient

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, Own)
        still = sum(not p.requires_grad for p in pl_module.parameters()) // 2
        self.frozen.append((trainer.global_step, pl_module.frozen, still))


def fit(*extra: Callback, module: Own | None = None, seed: int = 0, epochs: int = 3, **options: Any) -> Own:
    seed_everything(seed, verbose=False)
    module, ckpt = module or Own(), options.pop("ckpt", None)
    trainer = quiet_trainer(RandomState(), *extra, max_epochs=epochs, **options)
    trainer.fit(module, datamodule=SeriesData(batch_size=9), ckpt_path=ckpt, weights_only=True)
    return module


BATCHES = 6  # an epoch


def test_what_a_module_offers_can_be_asked() -> None:
    assert isinstance(Own(), Freezable)
    assert isinstance(Own(), Renderable)
    assert not isinstance(Own(), Sampleable)
    assert not isinstance(LightningModule(), Freezable | Renderable)


def test_layers_of_any_module_are_frozen_and_unfrozen() -> None:
    record = Record()
    module = Own()
    start = {name: value.clone() for name, value in module.state_dict().items()}
    fit(LayerFreezing("head", every=1, down_to=2), record, module=module)
    expected = [2] * BATCHES + [1] * 2 * BATCHES
    assert record.frozen == [(step, count, count) for step, count in enumerate(expected, start=1)]
    moved = {name for name, value in module.state_dict().items() if not torch.equal(value, start[name])}
    assert moved == {f"{layer}.{kind}" for layer in ("middle", "head") for kind in ("weight", "bias")}


def test_any_module_resumes_with_its_layers_frozen_as_they_were(tmp_path: Path) -> None:
    """Its checkpoint does not tell what was frozen: the callback does, in mid-epoch, too."""
    whole = fit(LayerFreezing("head", every=1), SaveEverywhere(tmp_path))
    for step in (BATCHES - 1, BATCHES, BATCHES + 2, 2 * BATCHES + 1):
        record = Record()
        resumed = fit(LayerFreezing("head", every=1), record, ckpt=tmp_path / f"step-{step}.ckpt", seed=1)
        assert record.frozen[0] == (step + 1, 2 - step // BATCHES, 2 - step // BATCHES)
        assert same_weights(resumed, whole), step


def test_two_ranks_unfreeze_any_module_like_one(tmp_path: Path) -> None:
    class Write(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            torch.save(pl_module.state_dict(), tmp_path / f"{trainer.world_size}-{trainer.global_rank}.pt")

    for ranks in (1, 2):
        seed_everything(0, verbose=False)
        trainer = quiet_trainer(LayerFreezing("head", every=1), Write(), ranks=ranks, max_epochs=3)
        trainer.fit(Own(), datamodule=SeriesData(batch_size=10 // ranks))
    one, *two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    assert all(torch.equal(value, two[1][name]) for name, value in two[0].items())
    for name, value in one.items():
        torch.testing.assert_close(two[0][name], value, rtol=0, atol=1e-6)


def test_lightnings_own_freeze_is_not_enough() -> None:
    class Half(LightningModule):
        layer_groups, group_of, frozen = Own.layer_groups, Own.group_of, 0
        training_step, validation_step = Own.training_step, Own.validation_step
        configure_optimizers = Own.configure_optimizers

    with pytest.raises(TypeError, match=r"Half must define freeze\(below\) to be frozen by LayerFreezing"):
        quiet_trainer(LayerFreezing(), max_epochs=1).fit(Half(), datamodule=SeriesData())


# Batches of several tensors ---------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    """The same batch of six, again and again."""

    def __iter__(self) -> Iterator[Any]:
        for _ in range(3):
            yield Series(torch.rand(6, 4), torch.full((6,), 4)), torch.arange(6) % 2, torch.ones(6)


@pytest.mark.parametrize("indexed", [True, False])
def test_samples_keeps_the_type_of_a_part_and_cuts_all_its_tensors(indexed: bool, tmp_path: Path) -> None:
    module = Own()
    trainer = quiet_trainer(Samples(num_examples=4), max_epochs=2, default_root_dir=tmp_path)
    if indexed:
        trainer.fit(module, datamodule=SeriesData(val_fraction=0.2))
    else:
        trainer.fit(module, DataLoader(Stream(), batch_size=None), DataLoader(Stream(), batch_size=None))
    assert (tmp_path / "samples/epoch_0002_size.txt").read_text() == "4"
    x, *rest = module.rendered[0]
    assert isinstance(x, Series)
    assert len(x.values) == len(x.lengths) == 4
    assert [len(part) for part in rest] == ([4] if indexed else [4, 4])
    assert not indexed or x.values.shape[1] == int(x.lengths.max())  # collated as in a step


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "wrong_examples.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_wrong_examples_of_named_parts_and_of_any_module(tmp_path: Path) -> None:
    module, data = Own(), SeriesData(batch_size=7)
    trainer = quiet_trainer(WrongExamples(num_examples=5), max_epochs=1, default_root_dir=tmp_path)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    test = data._parts["test"]
    with torch.no_grad():
        label = module(test.x).argmax(1)
    wrong = {str(i): (str(int(test.y[i])), str(int(label[i]))) for i in (label != test.y).nonzero().flatten().tolist()}
    assert 5 < len(wrong) < 60
    assert {row["file"]: (row["true"], row["predicted"]) for row in rows(tmp_path)} == wrong
    assert (tmp_path / "confusion.png").is_file()
    x, y = module.rendered[-1]
    assert isinstance(x, Series)
    assert 1 <= len(y) <= 5  # the surest mistake, and those of the same length


class Translates(Own):
    """Targets of several tensors: nothing to tell right from wrong, nothing to compare."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x: Series) -> Tensor:
        return self.norm(super().forward(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        assert isinstance(batch[1], Series)
        self.log("val/loss", self(batch[0]).square().mean(), batch_size=len(batch[0].values))

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        raise RuntimeError("nobody needs it")

    def render(self, batch: Any) -> dict[str, Any]:
        return {"size": str(len(batch[1].values))}

    def sample(self, count: int) -> Tensor:
        return torch.zeros(count, 9)

    def save_pretrained(self, folder: Path, training: Any = None) -> None:
        folder.mkdir()


class Translations(SeriesData):
    class_names = None

    def examples(self, part: Literal["train", "test"]) -> Examples:
        x = super().examples(part).x
        return Examples(x, Series(x.values.flip(1), x.lengths))


def test_every_callback_runs_over_batches_of_named_parts(tmp_path: Path) -> None:
    every = [
        *(
            EMA(0.9),
            GradNorm(),
            GracefulStop(tmp_path / "saved"),
            Histograms(1),
            IntervalCheckpoint(tmp_path / "saved", steps=1),
            LayerFreezing("head", every=1),
            LearningCurves(),
        ),
        *(LRSchedule(warmup=2), ModelFolder(), NearestNeighbors(), RandomState(), Samples(), WrongExamples()),
        *(ActivationStats(), DataWait(), GradientNoiseScale(), PeakMemory(), Throughput(), UpdateRatio(), WeightNorm()),
        *(BatchNormReestimation(), BatchSizeSchedule([1]), MagnitudePruning(0.5), MaxNorm(), TrainingDiagnostics()),
    ]
    assert {type(callback).__name__ for callback in every} == {
        name for name in callbacks.__all__ if issubclass(getattr(callbacks, name), Callback)
    }
    module, data = Translates(), Translations(batch_size=8, val_fraction=0.2)
    trainer = quiet_trainer(*every, max_epochs=3, default_root_dir=tmp_path)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "model", "samples", "saved"]
    assert "test/copy_ratio" not in trainer.callback_metrics


class Plain(LightningModule):
    """What every tutorial begins with: nothing but a net, a loss and an optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(9, 2)
        self.steps = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.steps += 1
        return F.cross_entropy(self.fc(batch[0].values), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", F.cross_entropy(self.fc(batch[0].values), batch[1]))

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class WholeSeries(SeriesData):
    def collate(self, batch: Any) -> Any:
        return batch


# of each callback, how it is built and what it asks of a module; None: nothing
EVERY: dict[str, tuple[Any, str | None]] = {
    "ActivationStats": (lambda folder: ActivationStats(), None),
    "BatchNormReestimation": (lambda folder: BatchNormReestimation(), "forward(x)"),
    "BatchSizeSchedule": (lambda folder: BatchSizeSchedule([1]), None),
    "DataWait": (lambda folder: DataWait(), None),
    "EMA": (lambda folder: EMA(0.9), None),
    "GracefulStop": (GracefulStop, None),
    "GradientNoiseScale": (lambda folder: GradientNoiseScale(), None),
    "GradNorm": (lambda folder: GradNorm(), None),
    "Histograms": (lambda folder: Histograms(1), None),
    "IntervalCheckpoint": (lambda folder: IntervalCheckpoint(folder, steps=1), None),
    "LayerFreezing": (lambda folder: LayerFreezing("head", every=1), "layer_groups, group_of, frozen"),
    "LearningCurves": (lambda folder: LearningCurves(), None),
    "LRSchedule": (lambda folder: LRSchedule(warmup=2), None),
    "MagnitudePruning": (lambda folder: MagnitudePruning(0.5), None),
    "MaxNorm": (lambda folder: MaxNorm(0.2), None),
    "ModelFolder": (lambda folder: ModelFolder(), "save_pretrained(folder, training)"),
    "NearestNeighbors": (lambda folder: NearestNeighbors(), "sample(count)"),
    "PeakMemory": (lambda folder: PeakMemory(), None),
    "RandomState": (lambda folder: RandomState(), None),
    "Samples": (lambda folder: Samples(), "render(batch)"),
    "Throughput": (lambda folder: Throughput(), None),
    "TrainingDiagnostics": (lambda folder: TrainingDiagnostics(), None),
    "UpdateRatio": (lambda folder: UpdateRatio(), None),
    "WeightNorm": (lambda folder: WeightNorm(), None),
    "WrongExamples": (lambda folder: WrongExamples(), "render(batch)"),
}


def test_every_callback_is_tried_on_a_plain_module() -> None:
    names = {name for name in callbacks.__all__ if issubclass(getattr(callbacks, name), Callback)}
    assert names == EVERY.keys()


@pytest.mark.parametrize("name", EVERY)
def test_a_plain_module_is_served_or_refused_before_training(name: str, tmp_path: Path) -> None:
    build, missing = EVERY[name]
    module, data = Plain(), WholeSeries(batch_size=9, val_fraction=0.2)
    start = {key: value.clone() for key, value in module.state_dict().items()}
    trainer = quiet_trainer(build(tmp_path), max_epochs=2, default_root_dir=tmp_path)
    if missing is not None:
        with pytest.raises(TypeError, match=re.escape(f"Plain must define {missing}")) as error:
            trainer.fit(module, datamodule=data)
        assert name in str(error.value)
        assert len(str(error.value).splitlines()) == 1
        assert module.steps == 0
        assert not list(tmp_path.iterdir())
        return
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert module.steps == trainer.global_step == 48 // 9 + 48 // (18 if name == "BatchSizeSchedule" else 9)
    assert not any(torch.equal(value, start[key]) for key, value in module.state_dict().items())
    assert (tmp_path / "curves.png").is_file() == (name == "LearningCurves")


def test_lightnings_own_predict_step_is_none_for_wrong_examples(tmp_path: Path) -> None:
    class Renders(Plain):
        render = Own.render

    trainer = quiet_trainer(WrongExamples(), max_epochs=1, default_root_dir=tmp_path)
    with pytest.raises(TypeError, match=r"Renders must define predict_step\(batch, batch_idx\) for WrongExamples"):
        trainer.fit(Renders(), datamodule=WholeSeries())


class Tokens(DataModule):
    input_shape = (5,)

    def examples(self, part: Literal["train", "test"]) -> Examples:
        return Examples(torch.arange(100).view(20, 5) % 7, torch.zeros(20))


class Generates(LightningModule):
    def __init__(self, made: Any) -> None:
        super().__init__()
        self.made = made

    def sample(self, count: int) -> Any:
        return self.made

    def test_step(self, batch: Any, batch_idx: int) -> None: ...


@pytest.mark.parametrize(
    ("data", "made"),
    [
        (Tokens(), torch.zeros(9, 5)),
        (SeriesData(), torch.zeros(9, 9)),
        (SeriesData(), ["a text"]),
    ],
    ids=["tokens", "named", "texts"],
)
def test_what_has_no_distance_is_not_compared(data: DataModule, made: Any) -> None:
    (logged,) = quiet_trainer(NearestNeighbors()).test(Generates(made), datamodule=data, verbose=False)
    assert logged == {}


class Rows(SeriesData):
    """Floats in one tensor, of which a test batch may count in part: a weight a number."""

    def examples(self, part: Literal["train", "test"]) -> Examples:
        values = super().examples(part).x.values
        return Examples(values, values)

    def collate(self, batch: Any) -> Any:
        x, y = batch
        weight = torch.ones_like(y)
        weight[0] = 0
        weight[1:, 3:] = 0
        return x, y, weight


def test_samples_of_another_form_are_not_compared_and_weights_may_have_the_targets_shape() -> None:
    def ratio(made: Any) -> dict[str, float]:
        (logged,) = quiet_trainer(callback).test(Generates(made), datamodule=Rows(batch_size=6), verbose=False)
        return logged

    callback = NearestNeighbors()
    assert ratio(torch.zeros(9, 4)) == {}
    assert ratio(["a text"]) == {}
    assert ratio(torch.randn(9, 9)).keys() == {"test/copy_ratio"}
    assert sum(len(part) for part in callback._real if part is not None) == 60 - 10  # one in each batch does not count
