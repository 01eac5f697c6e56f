"""``zoo pretrain``: its data, its ways to learn, its table, errors in one line; slow: that it is worth the while."""

import re

import pytest
import torch
from cli_kit import Zoo, assert_one_line
from lightning.pytorch import Trainer

from recipes.cli.studies import pretrain_then_classify as recipe

pytestmark = pytest.mark.filterwarnings("ignore:GPU available")


def test_few_labels_are_drawn_evenly() -> None:
    x, y = recipe.digits(30, 0).read("train")
    assert torch.bincount(y).tolist() == [3] * 10
    assert torch.bincount(recipe.digits(recipe._MOST, 0).read("train")[1]).tolist() == [recipe._MOST // 10] * 10
    assert torch.equal(x, recipe.digits(30, 0).read("train")[0])
    assert not torch.equal(x, recipe.digits(30, 1).read("train")[0])
    assert len(recipe.digits(None, 0).read("train")[1]) == 1437
    assert len(recipe.digits(10, 0).read("test")[1]) == 360


@pytest.mark.parametrize("method", recipe.METHODS)
def test_what_each_way_trains(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "_PRETRAINING", 1)
    source, _ = recipe.pretrained(0)
    before = {name: value.clone() for name, value in source.state_dict().items()}
    begins: dict[str, torch.Tensor] = {}
    fits: list[torch.nn.Module] = []
    original = Trainer.fit

    def recording(self: Trainer, model: torch.nn.Module, **options: object) -> None:
        begins.update({name: value.clone() for name, value in model.state_dict().items()})
        fits.append(model)
        original(self, model, **options)

    monkeypatch.setattr(Trainer, "fit", recording)
    recipe.learn(method, source, 10, 0, 3)
    ends = fits[0].state_dict()
    own = [name for name in begins if name.startswith("net.encoder.") and name.endswith("weight")]
    assert len(own) == 3
    for name in own:
        assert torch.equal(begins[name], before[name]) == (method != "scratch")
        assert torch.equal(ends[name], begins[name]) == (method == "frozen")
    assert not torch.equal(ends["net.fc.weight"], begins["net.fc.weight"])
    assert torch.equal(ends["mean"], before["mean"])  # not that of ten images
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())


def test_the_table(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "_PRETRAINING", 1)
    result = zoo("pretrain", "--labels", "10", "20", "--seeds", "1", "--epochs", "2")
    assert (result.code, result.err) == (0, "")
    assert re.search(r"test/acc +10 labels +20 labels +seconds", result.out)
    for method in recipe.METHODS:
        assert re.search(rf"(?m)^{method} +[01]\.\d{{4}} +[01]\.\d{{4}} +\d+\.\d$", result.out)


def test_errors_are_one_line(zoo: Zoo) -> None:
    assert_one_line(
        zoo("pretrain", "--labels", "10", "15"), "--labels must be multiples of 10 in 10..1360", "got 10 15"
    )
    assert_one_line(zoo("pretrain", "--labels", "1370"), "--labels must be multiples of 10")
    assert_one_line(zoo("pretrain", "--seeds", "0"), "--seeds and --epochs must be 1 or more")
    assert_one_line(zoo("pretrain", "now"), "zoo pretrain --help")


@pytest.mark.slow
def test_what_is_kept_beats_a_fresh_net() -> None:
    found = dict.fromkeys(recipe.METHODS, 0.0)
    for seed in range(3):
        source, error = recipe.pretrained(seed)
        assert error < 0.02
        for method in found:
            found[method] += recipe.learn(method, source, 20, seed, 100) / 3
    assert found["frozen"] > found["scratch"] + 0.03
    assert found["joint"] > found["scratch"] + 0.03
