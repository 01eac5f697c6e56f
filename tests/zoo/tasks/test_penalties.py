"""Penalties: their formulas, which weights they are of, and that they are the same however a step is cut."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import Memory, quiet_trainer
from lightning.pytorch import Callback, Trainer
from test_exact_steps import Cut, TokenTask, dense, fit, gap, rows, tokens
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import zoo
from zoo.blocks import Recurrent
from zoo.tasks import ClassificationTask, Task
from zoo.tasks.penalties import Penalties

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]
BOUND = 1e-9
ALL = {
    "l1": 0.02,
    "l2": 0.05,
    "activity_l1": {"weight": 0.1, "layers": "1"},
    "activity_l2": {"weight": 0.2, "layers": ["1"]},
}


def classifier(**task: Any) -> ClassificationTask:
    return ClassificationTask(dense(4, 6, 3), 3, **{"lr": 0.05, "optimizer": "SGD", **task})


def terms(net: nn.Module, given: dict[str, Any], x: Tensor, *rest: Tensor, count: Any = None) -> dict[str, float]:
    """The terms for a batch that the net has seen."""
    penalties = Penalties(net, given)
    with penalties.watching(net):
        net(x)
    found = penalties.terms(net, (x, None, *rest), len(x) if count is None else count)
    return {name: value.item() for name, value in found.items()}


# Formulas -------------------------------------------------------------------------------------------------------------


def test_each_term_is_its_formula() -> None:
    net, x = dense(4, 6, 3).double(), rows()[0][:5]
    a, b = (p.detach().numpy() for p in (net[0].weight, net[2].weight))
    h = net[1](net[0](x)).detach().numpy()
    wanted = {
        "l1": 0.02 * (abs(a).sum() + abs(b).sum()),
        "l2": 0.05 / 2 * ((a**2).sum() + (b**2).sum()),
        "activity_l1": 0.1 * abs(h).sum() / 5,
        "activity_l2": 0.2 / 2 * (h**2).sum() / 5,
    }
    assert terms(net, ALL, x) == pytest.approx(wanted, rel=1e-12)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.0, 0.5], dtype=torch.float64)
    weighted = {"activity_l1": 0.1 * (abs(h) * weight.numpy()[:, None]).sum() / 3.5}
    assert terms(net, {"activity_l1": ALL["activity_l1"]}, x, weight, count=weight.sum()) == pytest.approx(weighted)
    assert terms(net, {"l1": {"weight": 1.0, "layers": ["2"]}}, x) == pytest.approx({"l1": abs(b).sum()})


@pytest.mark.parametrize(("cell", "gates"), [("rnn_tanh", 1), ("gru", 3), ("lstm", 4)])
def test_orthogonal_is_of_each_gate(cell: Any, gates: int) -> None:
    net = Recurrent(3, 4, cell, num_layers=2).double()
    wanted = 0.0
    for layer in net.layers:
        for w in layer.weight_hh_l0.detach().numpy().reshape(gates, 4, 4):
            wanted += ((w.T @ w - torch.eye(4).numpy()) ** 2).sum()
    x = torch.rand(2, 5, 3, dtype=torch.float64)
    assert terms(net, {"orthogonal": 0.5}, x) == pytest.approx({"orthogonal": 0.5 * wanted}, rel=1e-12)
    zoo.optim.initialize(net, "recurrent")
    assert terms(net, {"orthogonal": 0.5}, x)["orthogonal"] < 1e-12
    with pytest.raises(ValueError, match="MLP has no recurrent matrix"):
        zoo.create_model("mlp", penalties={"orthogonal": 0.1})


def test_no_penalty_of_norms_biases_embeddings_and_what_is_frozen() -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3), nn.Linear(3, 2))
    x = torch.tensor([[1, 2]])
    both = sum(net[i].weight.detach().abs().sum().item() for i in (2, 3))
    assert terms(net, {"l1": 1.0}, x) == pytest.approx({"l1": both})
    net[3].requires_grad_(False)
    assert terms(net, {"l1": 1.0}, x) == pytest.approx({"l1": net[2].weight.abs().sum().item()})


def test_where_nothing_counts_there_is_no_step() -> None:
    net, x, weight = dense(4, 6, 3).double(), rows()[0][:2], torch.zeros(2, dtype=torch.float64)
    assert set(terms(net, ALL, x, weight, count=weight.sum()).values()) == {0.0}


# Through Trainer.fit --------------------------------------------------------------------------------------------------


def test_l2_is_weight_decay_of_sgd(tmp_path: Path) -> None:
    one = fit(lambda: classifier(penalties={"l2": 0.3}), Cut(rows()), tmp_path / "l2")
    two = fit(lambda: classifier(weight_decay=0.3), Cut(rows()), tmp_path / "decay")
    assert gap(one, two) < BOUND
    assert gap(one, fit(classifier, Cut(rows()), tmp_path / "none")) > 1e-3


def some_tokens() -> tuple[Tensor, Tensor]:
    """Sequences that have a token each: the activity of a batch in which nothing counts is lost."""
    x, y = tokens(16)
    y[:, 0] = y[:, 0].clamp(min=0)
    return x, y


CASES: dict[str, tuple[Callable[[], Task], tuple[Tensor, ...]]] = {
    "classes": (lambda: classifier(penalties=ALL), rows(16)),
    "weighted": (lambda: classifier(penalties=ALL), rows(16, weighted=True)),
    "tokens": (lambda: TokenTask(lr=0.05, optimizer="SGD", penalties=ALL), some_tokens()),
}


@pytest.mark.parametrize("name", CASES)
def test_accumulated_batches_and_two_processes_make_the_step_of_one(tmp_path: Path, name: str) -> None:
    build, examples = CASES[name]
    whole = fit(build, Cut(examples), tmp_path / "whole")
    plain = build().double()
    plain._penalties = Penalties(plain.net, None)
    assert gap(whole, fit(lambda: plain, Cut(examples), tmp_path / "plain")) > 1e-3
    cut = fit(build, Cut(examples, (3, 1, 2, 2)), tmp_path / "cut", accumulate_grad_batches=4)
    assert gap(whole, cut) < BOUND
    both = fit(build, Cut(examples, (3, 1)), tmp_path / "both", ranks=2, accumulate_grad_batches=2)
    assert gap(whole, both) < BOUND


class Values(Callback):
    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        self.found = {name: value.item() for name, value in trainer.callback_metrics.items()}


def logged(**task: Any) -> dict[str, float]:
    """What one step on all examples logs, and the validation after it, at a rate that moves nothing."""
    x, y = rows()[:2]
    data = DataLoader(TensorDataset(x, y), len(x))
    values = Values()
    trainer = quiet_trainer(values, logger=Memory(), max_epochs=1)
    model = classifier(lr=1e-30, **task).double()
    trainer.fit(model, train_dataloaders=data, val_dataloaders=data)
    assert not any(layer._forward_hooks for layer in model.net)
    return values.found


def test_terms_are_logged_apart_and_are_no_part_of_a_loss() -> None:
    plain, found = logged(), logged(penalties=ALL)
    apart = {name for name in found if "penalty" in name}
    assert apart == {f"train/penalty_{name}{end}" for name in ALL for end in ("", "_step")}
    assert {name: found[name] for name in found.keys() - apart} == plain
    wanted = terms(classifier().double().net, ALL, rows()[0])
    assert {name: found[f"train/penalty_{name}"] for name in wanted} == pytest.approx(wanted, rel=1e-6)


def test_a_checkpoint_has_them() -> None:
    task = zoo.create_model("mlp", penalties={"l1": 0.1})
    again = type(task)(**task.hparams)
    assert again._penalties.factors == {"l1": 0.1}


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"L3": 0.1}, ValueError, "penalties has no 'L3'"),
        ({"orthogonl": 0.1}, ValueError, "did you mean 'orthogonal'"),
        ({"l1": -1.0}, ValueError, "penalties l1 must be 0 or above, got -1.0"),
        ({"l1": float("nan")}, ValueError, "penalties l1 must be 0 or above, got nan"),
        ({"l1": "much"}, TypeError, "penalties l1 is a number, or {weight: number, layers: names}, got 'much'"),
        ({"l1": {"layers": ["1"]}}, ValueError, "penalties l1 has layers and no weight"),
        ({"l1": {"weight": 1, "layer": "1"}}, ValueError, "penalties l1 takes weight and layers, got 'layer'"),
        ({"l1": {"weight": 1, "layers": 3}}, TypeError, "layers is a name or a list of names, got 3"),
        ({"l1": {"weight": 1, "layers": "1"}}, ValueError, "penalties l1: layers 1 of Sequential have no weight"),
        ({"activity_l1": 0.1}, ValueError, r"activity_l1 wants the layers .* layers: [0]"),
        ([("l1", 1)], TypeError, "penalties are factors by name"),
    ],
)
def test_bad_penalties(given: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        Penalties(dense(4, 6, 3), given)
    assert all(part in str(caught.value) for part in words.split(" .* "))


def test_a_layer_that_does_not_exist_is_suggested() -> None:
    with pytest.raises(ValueError, match=r"penalties activity_l1: LeNet has no layer 'conv11', did you mean 'conv1'\?"):
        zoo.LeNetClassifier(penalties={"activity_l1": {"weight": 1e-3, "layers": ["conv11"]}})


def test_two_nets_are_refused() -> None:
    with pytest.raises(ValueError, match="penalties are terms of one loss"):
        zoo.create_model("gan_mlp", penalties={"l1": 0.1})


def test_strategies_that_shard_are_refused() -> None:
    """Only with penalties; a strategy of one device or of whole copies is taken by the fits above."""
    trainer = quiet_trainer()

    def set_up(strategy: Any, penalties: dict[str, Any] | None) -> None:
        parts = {"strategy": strategy, "precision": trainer.precision, "world_size": 1, "accumulate_grad_batches": 1}
        task = classifier(penalties=penalties)
        task._trainer = type("T", (), {**parts, "datamodule": None})()
        task.setup("fit")

    sharded = type("Sharded", (), {"root_device": torch.device("cpu")})()
    set_up(sharded, None)
    set_up(trainer.strategy, {"l2": 0.1})
    with pytest.raises(ValueError, match="Sharded shards parameters, and penalties are of whole ones: take"):
        set_up(sharded, {"l2": 0.1})
