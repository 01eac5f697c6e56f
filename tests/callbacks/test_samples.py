"""What is written and handed over, of which examples, when; and that training does not notice."""

import csv
import random
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from kit import Memory, SaveEverywhere, quiet_trainer
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from callbacks import Samples
from datamodules import MoonsDataModule
from zoo.linear import MLPClassifier
from zoo.tasks import ClassificationTask

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:Found 1 module.* in eval mode at the start of training"),
]
PIXELS = torch.arange(3 * 4 * 5, dtype=torch.uint8).view(3, 4, 5)
TABLE = [["word", "count"], ["a|b, c", 1], ["d", 2]]
FOUR = DataLoader(torch.ones(8, 1), 2)  # training data: four steps


class Shows(LightningModule):
    """A dropout, a batch norm that is frozen, and a ``render`` that keeps what it was given."""

    def __init__(self, shown: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.net[1].eval()
        self.shown = {"picture": PIXELS} if shown is None else shown
        self.batches: list[Any] = []
        self.states: list[Any] = []
        self.steps: list[int] = []

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Tensor:
        return batch + 1000 if self.trainer.training else batch  # an augmentation

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.net(batch).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", self.net(batch).mean(), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-8)

    def render(self, batch: Any) -> dict[str, Any]:
        self.batches.append(batch)
        draws = (torch.rand(3).tolist(), random.random(), np.random.rand())  # noqa: NPY002
        modes = [module.training for module in self.modules()]
        self.states.append((draws, any(modes), torch.is_grad_enabled()))
        self.steps.append(self.trainer.global_step)
        return self.shown


def fit(
    folder: Path, samples: Samples | None, module: Any, train: Any = FOUR, val: Any = None, **options: Any
) -> Trainer:
    options = {"max_epochs": 3, "limit_val_batches": 1.0 if val is not None else 0} | options
    ckpt = options.pop("ckpt", None)
    more = options.pop("more", [])
    trainer = quiet_trainer(*([samples] if samples else []), *more, default_root_dir=folder, **options)
    trainer.fit(module, train, FOUR if val is None else val, ckpt_path=ckpt, weights_only=True if ckpt else None)
    return trainer


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "samples").iterdir())


def test_images_texts_and_tables_become_files(tmp_path: Path) -> None:
    fit(tmp_path, Samples(), Shows({"the/picture 1": PIXELS, "text": "ä\nb", "table": TABLE}), max_epochs=1)
    assert names(tmp_path) == ["epoch_0001_table.csv", "epoch_0001_text.txt", "epoch_0001_the_picture_1.png"]
    with Image.open(tmp_path / "samples/epoch_0001_the_picture_1.png") as image:
        assert np.array_equal(np.asarray(image), PIXELS.permute(1, 2, 0).numpy())
    assert (tmp_path / "samples/epoch_0001_text.txt").read_text("utf-8") == "ä\nb"
    with (tmp_path / "samples/epoch_0001_table.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["word", "count"], ["a|b, c", "1"], ["d", "2"]]


@pytest.mark.parametrize("val", [None, DataLoader(torch.ones(2, 1))], ids=["without", "with"])
@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3]), (2, [2, 3]), (3, [3]), (9, [3])])
def test_every_n_epochs_and_at_the_end(every: int, epochs: list[int], val: Any, tmp_path: Path) -> None:
    module = Shows()
    fit(tmp_path, Samples(every), module, val=val)
    assert names(tmp_path) == [f"epoch_{epoch:04d}_picture.png" for epoch in epochs]
    assert len(module.batches) == len(epochs)


def test_once_an_epoch_however_often_validation_runs(tmp_path: Path) -> None:
    module = Shows()
    fit(tmp_path, Samples(), module, val=DataLoader(torch.ones(2, 1)), val_check_interval=2, num_sanity_val_steps=1)
    assert module.steps == [4, 8, 12]  # not before training, nor in the middle of an epoch
    fit(tmp_path, Samples(), module := Shows(), val=DataLoader(torch.ones(2, 1)), check_val_every_n_epoch=3)
    assert module.steps == [4, 8, 12]


def test_the_batch_passes_the_hooks_of_validation(tmp_path: Path) -> None:
    class Halves(Shows):
        def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Tensor:
            return batch / 2

    fit(tmp_path, Samples(num_examples=3), module := Halves(), max_epochs=1)
    assert module.batches[0].tolist() == [[0.5]] * 3


SORTED = torch.arange(100.0)[:, None]


@pytest.mark.parametrize("shuffle", [False, True])
def test_always_the_same_examples_from_all_over_the_data(shuffle: bool, tmp_path: Path) -> None:
    val, train = DataLoader(SORTED, 3, shuffle=False), DataLoader(-SORTED, 25, shuffle=shuffle)
    with_val, without = Shows(), Shows()
    fit(tmp_path, Samples(num_examples=7), with_val, train, val)
    fit(tmp_path, Samples(num_examples=7), without, train)
    for module, sign in ((with_val, 1), (without, -1)):
        assert len(module.batches) == 3
        for batch in module.batches:
            assert torch.equal(batch, module.batches[0])
            assert batch.shape == (7, 1)
            assert (batch * sign >= 0).all()
        numbers = (module.batches[0] * sign).flatten().tolist()
        assert numbers == sorted(set(numbers))
        assert numbers[-1] - numbers[0] > 50
        assert max(numbers) < 100  # not augmented, though training data are
    fit(tmp_path, Samples(num_examples=500), everything := Shows(), train, val)
    assert torch.equal(everything.batches[0], SORTED)


def test_data_without_numbers_give_the_first_of_the_validation(tmp_path: Path) -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Iterator[Tensor]:
            return iter(SORTED)

    fit(tmp_path, Samples(num_examples=3), module := Shows(), val=DataLoader(Stream(), 5), num_sanity_val_steps=1)
    assert [batch.flatten().tolist() for batch in module.batches] == [[0.0, 1.0, 2.0]] * 3
    fit(tmp_path / "none", Samples(), module := Shows(), DataLoader(Stream(), 50))
    assert not module.batches
    assert not (tmp_path / "none/samples").exists()


def test_several_loaders_without_validation_are_read_like_their_batches(tmp_path: Path) -> None:
    class Two(Shows):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch["a"], batch_idx)

    fit(tmp_path, Samples(num_examples=2), module := Two(), {"a": FOUR, "b": DataLoader(SORTED, 25)}, max_epochs=1)
    assert {key: tuple(part.shape) for key, part in module.batches[0].items()} == {"a": (2, 1), "b": (2, 1)}


@pytest.mark.parametrize("val", [None, DataLoader(torch.ones(2, 1))], ids=["without", "with"])
@pytest.mark.parametrize("fails", [False, True])
def test_training_does_not_notice(val: Any, fails: bool, tmp_path: Path) -> None:
    class Modes(Shows):
        def on_train_end(self) -> None:
            self.end = [module.training for module in self.modules()], self.trainer.state.stage

        def render(self, batch: Any) -> dict[str, Any]:
            found = super().render(batch)
            self.net[1](torch.randn(5, 4))
            if fails:
                raise OSError("no paint")
            return found

    def run(samples: Samples | None) -> tuple[Any, ...]:
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        module = Modes()
        fit(tmp_path, samples, module, DataLoader(torch.ones(8, 1), 2, shuffle=True), val)
        assert len(module.batches) == (3 if samples else 0)
        weights = {key: value.tolist() for key, value in module.state_dict().items()}
        return weights, torch.rand(2).tolist(), random.random(), np.random.rand(), module.end  # noqa: NPY002

    with pytest.warns(UserWarning, match=r"could not show epoch \d: OSError: no paint") if fails else nullcontext():
        shown = run(Samples())
    assert shown == run(None)


def test_evaluation_without_gradients_on_fixed_random_numbers(tmp_path: Path) -> None:
    fit(tmp_path, Samples(), module := Shows(), val=DataLoader(torch.ones(2, 1)))
    torch.manual_seed(5)
    fit(tmp_path, Samples(), other := Shows())
    draws = module.states[0][0]
    assert module.states == other.states == [(draws, False, False)] * 3


def test_nothing_to_show_nothing_done(tmp_path: Path) -> None:
    fit(tmp_path, Samples(), Shows({}))
    fit(tmp_path, Samples(), module := Shows(), fast_dev_run=True)
    quiet_trainer(Samples(), limit_val_batches=1, default_root_dir=tmp_path).validate(module, FOUR, verbose=False)
    assert not module.batches
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (torch.zeros(3, 4, 5), r"'x': torch.float32 \(3, 4, 5\)"),
        (torch.zeros(4, 5, dtype=torch.uint8), r"torch.uint8 \(4, 5\)"),
        (7, "got 'x': 7"),
        ([1, 2], r"got 'x': \[1, 2\]"),
    ],
)
def test_what_is_no_image_text_or_table_is_told(value: Any, told: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"Samples could not show epoch 1: TypeError: render\(\) must give.*" + told):
        fit(tmp_path, Samples(), Shows({"x": value}), max_epochs=1)


def test_a_folder_that_cannot_be_written_does_not_break_the_run(tmp_path: Path) -> None:
    (tmp_path / "samples").touch()
    with pytest.warns(UserWarning, match="Samples could not show epoch 2: FileExistsError"):
        assert fit(tmp_path, Samples(2), Shows(), max_epochs=2).global_step == 8


def test_the_run_folder_is_the_loggers(tmp_path: Path) -> None:
    fit(tmp_path / "root", Samples(), Shows(), max_epochs=1, logger=CSVLogger(tmp_path, name="run", version="v"))
    assert names(tmp_path / "run/v") == ["epoch_0001_picture.png"]


@pytest.mark.parametrize("val", [None, DataLoader(torch.ones(2, 1))], ids=["without", "with"])
def test_tensorboard_gets_them_at_the_step_of_the_epochs_metrics(val: Any, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Logs(Shows):
        def on_train_epoch_end(self) -> None:
            self.log("end", 1.0)

    logger = TensorBoardLogger(tmp_path, name="run", version="v", default_hp_metric=False)
    fit(tmp_path, Samples(2), Logs({"p": PIXELS, "t": "a\nb", "table": TABLE}), val=val, logger=logger)
    events = EventAccumulator(str(tmp_path / "run/v"), {"images": 0, "tensors": 0, "scalars": 0}).Reload()
    steps = [event.step for event in events.Scalars("end")]
    assert steps == [3, 7, 11]
    images = events.Images("samples/p")
    assert [event.step for event in images] == steps[1:]
    assert (images[0].width, images[0].height) == (5, 4)
    texts = {
        name: [event.tensor_proto.string_val[0].decode() for event in events.Tensors(f"samples/{name}/text_summary")]
        for name in ("t", "table")
    }
    assert texts["t"] == ["    a\n    b"] * 2
    assert texts["table"] == ["| word | count |\n| --- | --- |\n| a\\|b, c | 1 |\n| d | 2 |"] * 2


def test_wandb_gets_them_on_the_axis_of_the_metrics(tmp_path: Path) -> None:
    run = MagicMock()  # what is sent is the point, not W&B's process
    logger = WandbLogger(experiment=run, save_dir=tmp_path)
    memory = Memory()
    shown = {"p": PIXELS, "t": "text", "table": TABLE}
    val = DataLoader(torch.ones(2, 1))
    fit(tmp_path, Samples(3), Shows(shown), val=val, logger=[memory, logger])
    sent = [call.args[0] for call in run.log.call_args_list]
    assert all(
        not call.kwargs and len(call.args) == 1 for call in run.log.call_args_list
    )  # a step would be another axis
    rows = {name: row for row in sent for name in row if name != "trainer/global_step"}
    assert rows["val"]["trainer/global_step"] == 11
    assert {rows[f"samples/{name}"]["trainer/global_step"] for name in shown} == {11}
    (image,) = rows["samples/p"]["samples/p"]
    assert np.array_equal(np.asarray(image.image), PIXELS.permute(1, 2, 0).numpy())
    assert rows["samples/t"]["samples/t"].data == [["text"]]
    table = rows["samples/table"]["samples/table"]
    assert [table.columns, *table.data] == TABLE
    assert {name for _, row in memory.rows for name in row} == {"val", "epoch"}


class Grows(Shows):
    """Shows its weights, so that every epoch's file is another."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.net[0](batch - 1000).sum()

    def render(self, batch: Any) -> dict[str, Any]:
        return {"weights": repr([p.tolist() for p in self.parameters()]), "batch": repr(batch.tolist())}


@pytest.mark.parametrize("val", [None, DataLoader(SORTED, 50)], ids=["without", "with"])
def test_a_resumed_run_writes_the_files_of_the_whole_one(val: Any, tmp_path: Path) -> None:
    def files(folder: Path) -> dict[str, str]:
        return {path.name: path.read_text() for path in (folder / "samples").glob("*")}

    torch.manual_seed(0)
    fit(tmp_path, Samples(2), Grows(), val=val, max_epochs=5, more=[SaveEverywhere(tmp_path)])
    whole = files(tmp_path)
    assert sorted(whole) == [f"epoch_000{e}_{name}.txt" for e in (2, 4, 5) for name in ("batch", "weights")]
    assert len({text for name, text in whole.items() if "weights" in name}) == 3
    validated = {"validation-8": 8, "validation-16": 16, "validation-20": 16} if val is not None else {}
    places = {"step-3": 0, "step-6": 0, "epoch-8": 8, "step-9": 8, "epoch-12": 8, "epoch-16": 16} | validated
    for place, done in places.items():
        fit(tmp_path / place, Samples(2), Grows(), val=val, max_epochs=5, ckpt=tmp_path / f"{place}.ckpt")
        missing = {name for name in whole if int(name[6:10]) * 4 <= done}
        assert files(tmp_path / place) == {name: text for name, text in whole.items() if name not in missing}, place


def test_a_second_fit_of_the_same_callback_starts_anew(tmp_path: Path) -> None:
    samples = Samples()
    fit(tmp_path / "one", samples, Shows(), max_epochs=1)
    fit(tmp_path / "two", samples, module := Shows(), DataLoader(SORTED, 25), max_epochs=1)
    assert names(tmp_path / "one") == names(tmp_path / "two")
    assert module.batches[0].max() > 1


def test_two_ranks_write_what_one_writes_and_only_once(tmp_path: Path) -> None:
    class Told(ClassificationTask):
        def render(self, batch: Any) -> dict[str, Any]:
            with (folder / "rendered").open("a") as file:
                file.write(f"{self.global_rank} ")
            return super().render(batch) | {"batch": repr(batch[0].tolist())}

    x, y = torch.randn(30, 2), torch.arange(30) % 3
    data = TensorDataset(x, y)
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        torch.manual_seed(0)
        task = Told(nn.Linear(2, 3), 3, optimizer="SGD", lr=1e-9)
        sampler = [DistributedSampler(data, ranks, rank, shuffle=False) for rank in range(ranks)]
        task.train_dataloader = lambda t=task, s=sampler: DataLoader(data, 5, sampler=s[t.global_rank])
        task.val_dataloader = task.train_dataloader
        quiet_trainer(Samples(num_examples=8), ranks=ranks, max_epochs=2, default_root_dir=folder).fit(task)
        assert (folder / "rendered").read_text() == "0 0 "
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / r / "samples").iterdir()} for r in ("1", "2"))
    assert sorted(one) == [f"epoch_000{e}_{n}" for e in (1, 2) for n in ("batch.txt", "confusion.png", "regions.png")]
    assert one == two


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_with_a_datamodule_in_any_precision(precision: Any, tmp_path: Path) -> None:
    trainer = quiet_trainer(Samples(), max_epochs=1, default_root_dir=tmp_path, precision=precision)
    trainer.fit(MLPClassifier(2, 2, [4]), datamodule=MoonsDataModule(count=100))
    assert names(tmp_path) == ["epoch_0001_confusion.png", "epoch_0001_regions.png"]


@pytest.mark.parametrize("name", ["every_n_epochs", "num_examples"])
def test_bad_arguments(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        Samples(**{name: 0})


def test_one_of_two_processes_draws_a_fit_without_validation(tmp_path: Path) -> None:
    """The confusion of the examples shown is that of one process: the other one has no such picture to wait for."""
    data = MoonsDataModule(count=40, val_fraction=0, batch_size=4)
    trainer = quiet_trainer(Samples(), ranks=2, max_epochs=1, default_root_dir=tmp_path)
    trainer.fit(MLPClassifier(2, 2, [4]), datamodule=data)
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == [
        "epoch_0001_confusion.png",
        "epoch_0001_regions.png",
    ]
