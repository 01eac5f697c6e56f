"""Ensembles and Monte Carlo dropout: what they say together, by hand; what drops and what does not; whom they refuse."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import entropy as scipy_entropy
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

import zoo
from zoo.blocks import MultiHeadAttention, VanillaDropout
from zoo.tasks import ClassificationTask
from zoo.uncertainty import DeepEnsemble, MCDropout, has_dropout, mixture

D, K = 6, 3


def task(*layers: nn.Module, **arguments: Any) -> ClassificationTask:
    """A classifier of ``(B, D)``, in training mode as a new one is."""
    model = ClassificationTask(nn.Sequential(*layers, nn.LazyLinear(K)), K, **arguments)
    model.input_shape = (D,)
    model.eval()(torch.zeros(1, D))
    return model.train()


def members(count: int) -> list[zoo.Model]:
    return [zoo.MLPClassifier(in_features=D, num_classes=K, widths=[8]) for _ in range(count)]


# What is mixed ----------------------------------------------------------------------------------------------------------


def test_entropy_and_disagreement_are_those_of_scipy() -> None:
    p = torch.rand(5, 7, K, dtype=torch.float64).softmax(dim=-1)
    p[0, 0] = torch.tensor([1.0, 0.0, 0.0])
    found = mixture(p)
    mean = p.mean(dim=0)
    whole, parts = scipy_entropy(mean.numpy(), axis=-1), scipy_entropy(p.numpy(), axis=-1).mean(axis=0)
    torch.testing.assert_close(found["probabilities"], mean)
    torch.testing.assert_close(found["entropy"], torch.from_numpy(whole))
    torch.testing.assert_close(found["disagreement"], torch.from_numpy(whole - parts))
    # it is the mean divergence of the members from their mean
    divergence = scipy_entropy(p.numpy(), mean.numpy(), axis=-1).mean(axis=0)
    torch.testing.assert_close(found["disagreement"], torch.from_numpy(divergence))


def test_labels_by_themselves_are_mixed_one_by_one() -> None:
    p = torch.rand(4, 7, K, dtype=torch.float64)
    found = mixture(p, several=True)
    each = mixture(torch.stack([1 - p, p], dim=-1))
    for name in ("entropy", "disagreement"):
        assert found[name].shape == (7, K)
        torch.testing.assert_close(found[name], each[name])


def test_sure_members_that_differ_disagree_and_unsure_ones_that_agree_do_not() -> None:
    sure = torch.eye(2)
    assert mixture([sure, sure.flip(1)])["disagreement"].tolist() == pytest.approx([math.log(2)] * 2)
    same = mixture([torch.full((3, 2), 0.5)] * 7)
    assert same["disagreement"].tolist() == [0.0] * 3
    assert same["entropy"].tolist() == pytest.approx([math.log(2)] * 3)
    with pytest.raises(ValueError, match="no prediction"):
        mixture([])


# Ensembles --------------------------------------------------------------------------------------------------------------


def test_an_ensemble_is_the_mean_of_its_members_and_of_one_that_one() -> None:
    models, x = members(3), torch.rand(9, D)
    with torch.no_grad():
        each = [model.eval().outputs(x)["probabilities"] for model in models]
    found = DeepEnsemble(models).outputs(x)
    torch.testing.assert_close(found["probabilities"], sum(each) / 3)
    assert (found["disagreement"] > 1e-6).all()
    one = DeepEnsemble(models[:1]).outputs(x)
    assert torch.equal(one["probabilities"], each[0])
    assert (one["disagreement"] == 0).all()


def test_members_are_asked_in_evaluation_mode_and_left_as_they_were() -> None:
    models, x = [task(nn.BatchNorm1d(D), nn.Dropout(0.5)) for _ in range(2)], torch.rand(9, D)
    models[0].eval()
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
    ensemble = DeepEnsemble(models)
    first, again = (ensemble.outputs(x)["probabilities"] for _ in range(2))
    assert torch.equal(first, again)
    assert [model.training for model in models] == [False, True]
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_several_labels_are_uncertain_one_by_one() -> None:
    models = [task(mode="multilabel") for _ in range(2)]
    found = DeepEnsemble(models).outputs(torch.rand(4, D))
    assert found["entropy"].shape == found["disagreement"].shape == (4, K)


def test_members_must_be_alike() -> None:
    one, other = members(2)
    other.class_names = ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"same classes: model 1 has \['0', '1', '2'\], model 2 \['a', 'b', 'c'\]"):
        DeepEnsemble([one, other])
    wide = zoo.MLPClassifier(in_features=D + 1, num_classes=K, widths=[8])
    one.input_shape, wide.input_shape = (D,), (D + 1,)
    with pytest.raises(ValueError, match=r"same shape of an input: model 1 has \(6,\), model 2 \(7,\)"):
        DeepEnsemble([one, wide])
    with pytest.raises(ValueError, match="same mode: model 1 has 'multiclass', model 2 'multilabel'"):
        DeepEnsemble([task(), task(mode="multilabel")])
    many = [zoo.MLPClassifier(in_features=D, num_classes=9, widths=[8]) for _ in range(2)]
    many[1].class_names = [*"012345678"[:8], "x"]
    with pytest.raises(ValueError, match="model 1 has 9, among them '8', model 2 9, among them 'x'"):
        DeepEnsemble(many)
    with pytest.raises(ValueError, match="one model or more, got none"):
        DeepEnsemble([])
    regressor = zoo.MLPRegressor(in_features=D, widths=[8])
    with pytest.raises(TypeError, match="a deep ensemble is for classifiers, and MLPRegressor predicts no classes"):
        DeepEnsemble([regressor])
    with pytest.raises(TypeError, match="Monte Carlo dropout is for classifiers"):
        MCDropout(regressor)


# Monte Carlo dropout ----------------------------------------------------------------------------------------------------


class Functional(nn.Module):
    """Drops by a function, as it is told by its mode."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.rate = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.rate, training=self.training)


class Attending(nn.Module):
    """Attention over the columns of a row."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.embedding, self.attention = nn.Linear(1, 8), attention

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x[..., None])
        y = self.attention(h, h, h) if isinstance(self.attention, nn.MultiheadAttention) else self.attention(h)
        return (y[0] if isinstance(y, tuple) else y).flatten(1)


class Stepping(nn.Module):
    """Two recurrent layers over the columns of a row."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.layers = nn.GRU(1, 8, num_layers=2, dropout=p, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x[..., None])[0][:, -1]


class DropPath(nn.Module):
    """As timm has it."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.drop_prob = p

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(len(x), 1) > self.drop_prob) if self.training else x


def droppers(p: float) -> dict[str, nn.Module]:
    layer = nn.TransformerEncoderLayer(8, 2, 8, p, batch_first=True)
    return {
        "module": nn.Dropout(p),
        "alpha": nn.AlphaDropout(p),
        "vanilla": VanillaDropout(p),
        "function": Functional(p),
        "attention": Attending(MultiHeadAttention(8, 2, p)),
        "torch attention": Attending(nn.MultiheadAttention(8, 2, p, batch_first=True)),
        "encoder layer": Attending(layer),
        "recurrent": Stepping(p),
        "depth": StochasticDepth(p, "row"),
        "path": DropPath(p),
    }


@pytest.mark.parametrize("name", droppers(0.5))
def test_every_kind_drops_and_batch_norm_does_not_move(name: str) -> None:
    model, x = task(nn.BatchNorm1d(D), droppers(0.5)[name]), torch.rand(9, D)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    mc = MCDropout(model, samples=20)
    found = mc.outputs(x)
    assert (found["disagreement"] > 1e-5).sum() >= 5
    assert torch.equal(mc.outputs(x)["probabilities"], found["probabilities"])
    assert not torch.equal(MCDropout(model, 20, seed=1).outputs(x)["probabilities"], found["probabilities"])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(part.training for part in model.modules())


@pytest.mark.parametrize("name", droppers(0.0))
def test_without_a_probability_there_is_no_dropout(name: str) -> None:
    model = task(nn.BatchNorm1d(D), droppers(0.0)[name])
    assert not has_dropout(model)
    with pytest.raises(ValueError, match="has no dropout of a probability above 0"):
        MCDropout(model)


@pytest.mark.parametrize("name", droppers(1e-12))
def test_where_hardly_anything_is_dropped_it_is_the_model(name: str) -> None:
    model, x = task(nn.BatchNorm1d(D), droppers(1e-12)[name]).eval(), torch.rand(9, D)
    with torch.no_grad():
        wanted = model.outputs(x)["probabilities"]
    found = MCDropout(model, samples=3).outputs(x)
    torch.testing.assert_close(found["probabilities"], wanted)
    assert found["disagreement"].max() < 1e-6


def test_the_mean_is_that_of_the_samples() -> None:
    """A layer of one input and one mask: the value is dropped or doubled, so the mean is that of two softmaxes."""
    model = ClassificationTask(nn.Sequential(nn.Dropout(0.5), nn.Linear(1, 2, bias=False)), 2)
    x = torch.ones(1, 1)
    with torch.no_grad():
        weight = model.net[1].weight  # type: ignore[index]
        kept, dropped = (2 * weight[:, 0]).softmax(dim=0), torch.tensor([0.5, 0.5])
    found = MCDropout(model, samples=4000).outputs(x)["probabilities"][0]
    share = (found - dropped) / (kept - dropped)
    assert share.tolist() == pytest.approx([0.5, 0.5], abs=0.04)


def test_noise_that_is_no_dropout_stays_off() -> None:
    model = zoo.SequenceClassifier(
        num_classes=K, input_size=1, width=8, num_layers=2, dropout=0.5, initial_state="random"
    )
    model.net.recurrent.dropout = 1e-12  # type: ignore[union-attr]
    found = MCDropout(model, samples=5).outputs(torch.rand(4, 7, 1))
    assert found["disagreement"].max() < 1e-6
    model.net.recurrent.dropout = 0.5  # type: ignore[union-attr]
    assert MCDropout(model, samples=5).outputs(torch.rand(4, 7, 1))["disagreement"].max() > 1e-5


def test_a_single_recurrent_layer_drops_nothing() -> None:
    single = Stepping(0.5)
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        single.layers = nn.GRU(1, 8, dropout=0.5, batch_first=True)
    assert not has_dropout(task(single))


def test_samples_out_of_range() -> None:
    with pytest.raises(ValueError, match="samples must be 1 or more, got 0"):
        MCDropout(task(nn.Dropout(0.5)), samples=0)
