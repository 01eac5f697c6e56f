"""What is told of wrong examples after a fit: all of them, by name, over all processes; and the folder of the model."""

import csv
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import Patterns, PatternTask, after_a_fit, quiet_trainer
from lightning.pytorch import seed_everything
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from callbacks import ModelFolder, WrongExamples
from datamodules import ArrayDataModule
from zoo import ClassificationTask, LinearRegressor, create_model, load

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")


REST = int(Patterns().read("test")[0][0, 0, 5, 5]) % 4


class Flipped(PatternTask):
    """Right but for the examples whose last pixel is that of the first one, modulo 4: they get the next class."""

    def forward(self, x: Tensor) -> Tensor:
        true = (x[:, 0, :5:2, 2] > 0.9).float().argmax(1)
        wrong = (x[:, 0, 5, 5] * 255).round().long() % 4 == REST
        return 9 * torch.nn.functional.one_hot((true + wrong) % 3, 3).float() + 0 * self.net(x).sum()


def expected(part: str) -> set[int]:
    """The places of wrong examples in a part."""
    data = Patterns(batch_size=10)
    data.setup()
    return {i for i, x in enumerate(data._parts[part].x) if int(x[0, 5, 5]) % 4 == REST}


def run(folder: Path, *callbacks: Any, evaluate: str = "test") -> None:
    seed_everything(1, verbose=False)
    trainer = quiet_trainer(*callbacks, default_root_dir=folder, limit_train_batches=1, max_epochs=1)
    task, data = Flipped(), Patterns(batch_size=10)
    trainer.fit(task, datamodule=data)
    if evaluate:
        getattr(trainer, evaluate)(task, datamodule=data, verbose=False)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "wrong_examples.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("evaluate", "part"), [("test", "test"), ("validate", "val")])
def test_all_of_them_by_number(tmp_path: Path, evaluate: str, part: str) -> None:
    run(tmp_path, WrongExamples(num_examples=3), evaluate=evaluate)
    found = rows(tmp_path)
    assert {int(row["file"]) for row in found} == expected(part)
    assert all("abc"["abc".index(row["true"]) - 2] == row["predicted"] for row in found)
    assert all(float(row["probability"]) > 0.9 for row in found)
    with Image.open(tmp_path / "wrong_examples.png") as picture:
        assert picture.size == (320, 138)  # three in one row, 11 times as large as they are
    assert (tmp_path / "confusion.png").is_file()


def test_the_most_confident_mistakes_come_first_and_are_shown(tmp_path: Path) -> None:
    shown: list[Tensor] = []

    class Unequal(Flipped):
        """More confident the brighter the first pixel is."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (0.05 + x[:, :1, 0, 1])

        def render(self, batch: Any) -> dict[str, Any]:
            shown.append(batch[0][:, 0, 0, 1])
            return super().render(batch)

    data = Patterns(batch_size=10)
    trainer = after_a_fit(quiet_trainer(WrongExamples(num_examples=3), default_root_dir=tmp_path))
    trainer.test(Unequal(), datamodule=data, verbose=False)
    brightness = data._parts["test"].x[:, 0, 0, 1] / 255
    wrong = sorted(expected("test"), key=lambda i: -float(brightness[i]))
    assert len({float(brightness[i]) for i in wrong[:4]}) == 4
    assert [int(row["file"]) for row in rows(tmp_path)][:4] == wrong[:4]
    assert torch.equal(shown[0], brightness[wrong[:3]])


def test_the_fits_own_validation_writes_nothing(tmp_path: Path) -> None:
    run(tmp_path, WrongExamples(), evaluate="")
    assert not list(tmp_path.iterdir())


def test_several_processes_tell_of_each_example_once(tmp_path: Path) -> None:
    """69 examples in batches of 17: the second process fills its third batch with one that does not count."""
    run(tmp_path / "one", WrongExamples())
    trainer_folder = tmp_path / "two"
    seed_everything(1, verbose=False)
    trainer = after_a_fit(quiet_trainer(WrongExamples(), ranks=2, default_root_dir=trainer_folder))
    task = Flipped()
    task.class_names = list("abc")
    trainer.test(task, datamodule=Patterns(batch_size=17), verbose=False)
    assert rows(tmp_path / "one") == rows(trainer_folder)


def test_a_model_without_mistakes_has_an_empty_table_and_a_confusion_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Flipped.forward
    monkeypatch.setattr(Flipped, "forward", lambda self, x: original(self, (x * 255 // 4 * 4 + REST + 1) / 255))
    run(tmp_path, WrongExamples())
    assert rows(tmp_path) == []
    assert (tmp_path / "confusion.png").is_file()
    assert not (tmp_path / "wrong_examples.png").exists()


def test_what_fails_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "confusion.png").mkdir()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(tmp_path, WrongExamples())
    assert any("WrongExamples could not show them: IsADirectoryError" in str(w.message) for w in caught)


def test_a_regression_is_left_alone(tmp_path: Path) -> None:
    data = ArrayDataModule(torch.rand(40, 2), torch.rand(40), kind="regression", test_fraction=0.25)
    trainer = quiet_trainer(WrongExamples(), ModelFolder(), max_epochs=1, default_root_dir=tmp_path)
    task = LinearRegressor(2)
    trainer.fit(task, datamodule=data)
    trainer.test(task, datamodule=data, verbose=False)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


class Stream(IterableDataset):
    """Examples without numbers, all of class 1."""

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return iter([(torch.tensor([1.0, 0.0]), 1)] * 5)


def test_examples_without_numbers_are_counted(tmp_path: Path) -> None:
    task = ClassificationTask(nn.Linear(2, 2), 2)
    nn.init.eye_(task.net.weight)
    nn.init.zeros_(task.net.bias)
    trainer = after_a_fit(quiet_trainer(WrongExamples(), ModelFolder(), default_root_dir=tmp_path))
    with pytest.warns(UserWarning, match="ModelFolder wrote nothing: the net, a .*Linear, was given from outside"):
        trainer.test(task, DataLoader(Stream(), 2), verbose=False)
    assert [row["file"] for row in rows(tmp_path)] == ["0", "1", "2", "3", "4"]


def test_the_folder_holds_the_model_that_was_tested(tmp_path: Path) -> None:
    task = create_model("resnet20", depth=8, width=4, in_channels=1, num_classes=3)
    data = Patterns(batch_size=10)
    trainer = quiet_trainer(ModelFolder(), max_epochs=2, default_root_dir=tmp_path)
    trainer.fit(task, datamodule=data)
    assert not (tmp_path / "model").exists()
    metrics = trainer.test(task, datamodule=data, verbose=False)[0]
    loaded = load(tmp_path / "model")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in task.state_dict().items())
    card = (tmp_path / "model/README.md").read_text()
    assert f"test/acc {round(metrics['test/acc'], 6)}" in card
    assert "- Epochs: `2`" in card
    assert data.data_identity in card
    training = json.loads((tmp_path / "model/config.json").read_text())["training"]
    assert training["metric"] == {name: pytest.approx(value, abs=1e-6) for name, value in metrics.items()}
    assert (training["epochs"], training["steps"]) == (2, 12)


def test_the_card_has_the_epochs_that_were_trained(tmp_path: Path) -> None:
    task = create_model("resnet20", depth=8, width=4, in_channels=1, num_classes=3)
    trainer = quiet_trainer(ModelFolder(), max_epochs=5, max_steps=6, default_root_dir=tmp_path)
    trainer.fit(task, datamodule=Patterns(batch_size=10))
    trainer.test(task, datamodule=Patterns(batch_size=10), verbose=False)
    assert json.loads((tmp_path / "model/config.json").read_text())["training"]["epochs"] == 1


@pytest.mark.parametrize("used", [False, True], ids=["new", "after a fit of another trainer"])
def test_an_evaluation_without_a_fit_writes_nothing(tmp_path: Path, used: bool) -> None:
    callbacks = WrongExamples(), ModelFolder()
    if used:
        run(tmp_path / "first", *callbacks, evaluate="")
    trainer = quiet_trainer(*callbacks, default_root_dir=tmp_path / "second")
    trainer.test(Flipped(), datamodule=Patterns(), verbose=False)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="num_examples must be >= 1, got 0"):
        WrongExamples(num_examples=0)
