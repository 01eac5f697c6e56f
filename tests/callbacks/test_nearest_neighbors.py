"""Copies are told from new examples: by a number, in a picture, on any number of processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from kit import after_a_fit, quiet_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor

from callbacks import NearestNeighbors
from datamodules import ArrayDataModule, DigitsDataModule, ImageFolderDataModule

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")


class Made(LightningModule):
    """A model that makes given examples, again and again."""

    def __init__(self, examples: Tensor) -> None:
        super().__init__()
        self.examples = examples

    def sample(self, count: int) -> Tensor:
        return self.examples[torch.arange(count) % len(self.examples)]

    def test_step(self, batch: Any, batch_idx: int) -> None: ...


class Nothing(LightningModule):
    """A model that cannot be asked for examples."""

    def test_step(self, batch: Any, batch_idx: int) -> None: ...


def examples(part: str) -> Tensor:
    data = DigitsDataModule()
    data.setup()
    rows = data._parts[part]
    return rows.inputs(torch.arange(len(rows))) / 255


def ratio(module: LightningModule, data: Any = None, folder: Path | None = None, **options: Any) -> dict[str, float]:
    data = data or DigitsDataModule(shift=2, flip=True)  # what augments is not looked at
    trainer = quiet_trainer(NearestNeighbors(num_samples=300, num_shown=10), default_root_dir=folder, **options)
    if folder is not None:
        after_a_fit(trainer)
    (got,) = trainer.test(module, datamodule=data, verbose=False)
    return got


def test_training_images_are_not_cropped_at_random(tmp_cwd: Path) -> None:
    for i in range(40):
        path = Path("photos", ("a", "b")[i % 2], f"{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = torch.randint(256, (16, 16), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(path)
    data = ImageFolderDataModule("photos", size=16, color="gray", resized_crop=0.1, num_workers=0)
    data.setup("fit")
    train = data._parts["train"]
    copies = Made(train.inputs(torch.arange(len(train))) / 255)
    assert ratio(copies, data)["test/copy_ratio"] < 1e-3


def test_copies_new_examples_and_bad_ones(tmp_path: Path) -> None:
    train, held = examples("train"), examples("test")
    assert ratio(Made(train), folder=tmp_path)["test/copy_ratio"] < 1e-3
    assert ratio(Made(held))["test/copy_ratio"] == pytest.approx(1, abs=0.1)
    assert ratio(Made(torch.rand(300, 1, 8, 8)))["test/copy_ratio"] > 1.3
    assert 0.05 < ratio(Made((train + 0.1 * torch.randn_like(train)).clamp(0, 1)))["test/copy_ratio"] < 0.8
    with Image.open(tmp_path / "nearest_neighbors.png") as picture:
        assert picture.size == (8 * 68, 2 * (64 + 9) * 2)  # ten pairs, eight in a row
        above, below = picture.crop((2, 8, 66, 72)), picture.crop((2, 74, 66, 138))
        assert above.tobytes() == below.tobytes()  # each over its own copy
        assert above.getextrema() != ((255, 255),) * 3


def test_the_closest_are_shown_first(tmp_path: Path) -> None:
    copies, noise = examples("train")[:3], torch.rand(297, 1, 8, 8)
    assert ratio(Made(torch.cat([noise, copies])), folder=tmp_path)["test/copy_ratio"] > 1
    with Image.open(tmp_path / "nearest_neighbors.png") as picture:
        tiles = [picture.crop((68 * i + 2, y, 68 * i + 66, y + 64)).tobytes() for i in range(8) for y in (8, 74)]
    assert [above == below for above, below in zip(tiles[::2], tiles[1::2], strict=True)] == [True] * 3 + [False] * 5


def test_rows_of_a_table_have_a_ratio_and_no_picture(tmp_path: Path) -> None:
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(5))
    data = ArrayDataModule(x, torch.arange(300) % 2, batch_size=32)
    assert 0.8 < ratio(Made(torch.randn(300, 3)), data, tmp_path)["test/copy_ratio"] < 1.2
    assert not list(tmp_path.iterdir())


def test_a_module_without_samples_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Nothing must define sample\(count\) for NearestNeighbors"):
        ratio(Nothing())


def test_several_processes_tell_the_same(tmp_path: Path) -> None:
    class Keep(Callback):
        def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            torch.save(trainer.callback_metrics["test/copy_ratio"].item(), tmp_path / f"{trainer.global_rank}.pt")

    module, told = Made(examples("test").roll(1, 0)), []
    for ranks in (1, 2):
        trainer = quiet_trainer(NearestNeighbors(300), Keep(), ranks=ranks)
        trainer.test(module, datamodule=DigitsDataModule(batch_size=50), verbose=False)
        told += [torch.load(tmp_path / f"{rank}.pt") for rank in range(trainer.world_size)]
    assert told == pytest.approx([told[0]] * 3)


def test_it_is_the_ratio_of_medians_of_the_examples_that_count(tmp_path: Path) -> None:
    """By hand, on numbers whose mean is far from their median; the second process fills a batch with one that does not count."""

    class Keep(Callback):
        def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            torch.save(trainer.callback_metrics["test/copy_ratio"].item(), tmp_path / f"{trainer.world_size}.pt")

    train, real = torch.arange(40.0)[:, None], torch.cat([torch.zeros(1), torch.logspace(-3, 2, 6)])[:, None]
    made = torch.logspace(-2, 3, 5)[:, None]
    wanted = [min(abs(float(x) - float(t)) for t in train) for x in [*real, *made]]
    for ranks in (1, 2):
        data = ArrayDataModule(train, torch.arange(40) % 2, real, torch.arange(7) % 2, batch_size=3, val_fraction=0.0)
        quiet_trainer(NearestNeighbors(5), Keep(), ranks=ranks).test(Made(made), datamodule=data, verbose=False)
        found = torch.load(tmp_path / f"{ranks}.pt")
        assert found == pytest.approx(sorted(wanted[7:])[2] / sorted(wanted[:7])[3], rel=1e-4)


@pytest.mark.parametrize("name", ["num_samples", "num_shown"])
def test_wrong_arguments_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        NearestNeighbors(**{name: 0})
