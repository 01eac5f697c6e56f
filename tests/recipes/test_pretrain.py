"""``zoo pretrain``: its data, its methods, its table and its errors; slow: pretraining beats fresh weights."""

import re

import pytest
import torch
from cli_kit import Zoo, assert_one_line
from lightning.pytorch import Trainer

from recipes.cli.studies import pretrain_then_classify as pretrain

pytestmark = pytest.mark.filterwarnings("ignore:GPU available")


def test_labels_are_drawn_evenly_by_the_seed() -> None:
    x, y = pretrain.labeled_digits(30, 0).read("train")
    assert torch.bincount(y).tolist() == [3] * 10
    many = pretrain.labeled_digits(pretrain._MAX_LABELS, 0).read("train")[1]
    assert torch.bincount(many).tolist() == [pretrain._MAX_LABELS // 10] * 10
    assert torch.equal(x, pretrain.labeled_digits(30, 0).read("train")[0])
    assert not torch.equal(x, pretrain.labeled_digits(30, 1).read("train")[0])
    assert len(pretrain.labeled_digits(None, 0).read("train")[1]) == 1437
    assert len(pretrain.labeled_digits(10, 0).read("test")[1]) == 360


@pytest.mark.parametrize("method", pretrain.METHODS)
def test_what_each_method_trains(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "_SOURCE_EPOCHS", 1)
    source, _ = pretrain.train_source(0)
    before = {name: value.clone() for name, value in source.state_dict().items()}
    start: dict[str, torch.Tensor] = {}
    fits: list[torch.nn.Module] = []
    original = Trainer.fit

    def recording(self: Trainer, model: torch.nn.Module, **options: object) -> None:
        start.update({name: value.clone() for name, value in model.state_dict().items()})
        fits.append(model)
        original(self, model, **options)

    monkeypatch.setattr(Trainer, "fit", recording)
    pretrain.learn(method, source, 10, 0, 3)
    end = fits[0].state_dict()
    own = [name for name in start if name.startswith("net.encoder.") and name.endswith("weight")]
    assert len(own) == 3
    for name in own:
        assert torch.equal(start[name], before[name]) == (method != "scratch")
        assert torch.equal(end[name], start[name]) == (method == "frozen")
    assert not torch.equal(end["net.fc.weight"], start["net.fc.weight"])
    assert torch.equal(end["mean"], before["mean"])  # not that of ten images
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())


def test_the_table(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "_SOURCE_EPOCHS", 1)
    result = zoo("pretrain", "--labels", "10", "20", "--seeds", "1", "--epochs", "2")
    assert (result.code, result.err) == (0, "")
    assert re.search(r"test/acc +10 labels +20 labels +seconds", result.out)
    for method in pretrain.METHODS:
        assert re.search(rf"(?m)^{method} +[01]\.\d{{4}} +[01]\.\d{{4}} +\d+\.\d$", result.out)


def test_errors_are_one_line(zoo: Zoo) -> None:
    assert_one_line(
        zoo("pretrain", "--labels", "10", "15"), "--labels must be multiples of 10 in 10..1390", "got 10 15"
    )
    assert_one_line(zoo("pretrain", "--labels", "1400"), "--labels must be multiples of 10")
    assert_one_line(zoo("pretrain", "--seeds", "0"), "--seeds and --epochs must be 1 or more")
    assert_one_line(zoo("pretrain", "now"), "zoo pretrain --help")


@pytest.mark.slow
def test_a_pretrained_encoder_beats_fresh_weights() -> None:
    accuracies = dict.fromkeys(pretrain.METHODS, 0.0)
    for seed in range(3):
        source, error = pretrain.train_source(seed)
        assert error < 0.02
        for method in accuracies:
            accuracies[method] += pretrain.learn(method, source, 20, seed, 100) / 3
    assert accuracies["frozen"] > accuracies["scratch"] + 0.03
    assert accuracies["joint"] > accuracies["scratch"] + 0.03
