"""``zoo transfer``: its data, its methods, its table and its errors."""

import re

import pytest
import torch
from cli_kit import Zoo, assert_one_line
from lightning.pytorch import Trainer

from recipes.cli.studies import transfer_digits as transfer

pytestmark = pytest.mark.filterwarnings("ignore:GPU available")


def test_training_digits_are_drawn_by_the_seed_and_test_digits_are_complete() -> None:
    low, high = transfer.half_digits("low", None, 0), transfer.half_digits("high", 3, 0)
    x, y = high.read("train")
    assert torch.bincount(y).tolist() == [3] * 5
    most = transfer.half_digits("high", transfer._MAX_LABELS, 0).read("train")[1]
    assert torch.bincount(most).tolist() == [transfer._MAX_LABELS] * 5
    assert high.class_names == list("56789")
    assert low.class_names == list("01234")
    tests = high.read("test")[1]
    assert len(tests) + len(low.read("test")[1]) == 360
    other = transfer.half_digits("high", 3, 1).read("train")[0]
    assert not torch.equal(x, other)
    assert torch.equal(x, transfer.half_digits("high", 3, 0).read("train")[0])


@pytest.mark.parametrize("method", transfer.METHODS)
def test_what_each_method_trains(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights that training starts from, those it changes, the frozen groups and the learning rate."""
    monkeypatch.setitem(transfer._NET, "width", 4)
    monkeypatch.setattr(transfer, "_SOURCE_EPOCHS", 2)  # whatever it has learned
    source, _ = transfer.train_source(0)
    fits: list[tuple[torch.nn.Module, list]] = []
    original = Trainer.fit

    def recording(self: Trainer, model: torch.nn.Module, **options: object) -> None:
        fits.append((model, [callback for callback in self.callbacks if type(callback).__name__ == "LayerFreezing"]))
        first = {name: value.clone() for name, value in model.state_dict().items()}
        start.update(first)
        original(self, model, **options)

    start: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(Trainer, "fit", recording)
    transfer.learn(method, source, 5, 0, 6)
    (task, freezing), key = fits[0], "net.conv1.weight"
    assert torch.equal(start[key], source.state_dict()[key]) == (method != "scratch")
    assert not torch.equal(start["net.fc.weight"], source.state_dict()["net.fc.weight"])
    assert torch.equal(task.state_dict()[key], start[key]) == (method == "head")
    assert len(freezing) == (method in ("head", "head, then all"))
    assert task.frozen == (4 if method == "head" else 0)
    assert task.hparams["lr"] == (transfer._RATE / 5 if method == "all" else transfer._RATE)


def test_the_table(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(transfer._NET, "width", 4)
    monkeypatch.setattr(transfer, "_SOURCE_EPOCHS", 2)
    result = zoo("transfer", "--labels", "2", "4", "--seeds", "1", "--epochs", "6")
    assert (result.code, result.err) == (0, "")
    assert re.search(r"digits 5-9 +2 a class +4 a class +seconds", result.out)
    for method in transfer.METHODS:
        assert re.search(rf"(?m)^{method} +[01]\.\d{{4}} +[01]\.\d{{4}} +\d+\.\d$", result.out)


def test_errors_are_one_line(zoo: Zoo) -> None:
    assert_one_line(zoo("transfer", "--labels", "0"), "--labels must be in 1..139", "[0]")
    assert_one_line(zoo("transfer", "--labels", "140"), "--labels must be in 1..139")
    assert_one_line(zoo("transfer", "--epochs", "2"), "--epochs 6 or more")
    assert_one_line(zoo("transfer", "--seeds", "0"), "--seeds must be 1 or more")
    assert_one_line(zoo("transfer", "now"), "zoo transfer --help")
