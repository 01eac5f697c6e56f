"""Vanilla dropout beside the inverted one of torch, in expectation, in a net, in a run of two processes, and in files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import checkpoint, run_onnx
from torch import Tensor, nn

import zoo
from zoo.blocks import VanillaDropout
from zoo.linear import MLP
from zoo.tasks.shared_random import SharedRandom


def both(x: Tensor, p: float, training: bool, seed: int = 3) -> tuple[Tensor, Tensor]:
    outputs = []
    for layer in (VanillaDropout(p), nn.Dropout(p)):
        torch.manual_seed(seed)
        outputs.append(layer.train(training)(x))
    return outputs[0], outputs[1]


@pytest.mark.parametrize("p", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("training", [True, False])
def test_it_is_the_inverted_one_times_one_minus_p(p: float, training: bool) -> None:
    x = torch.randn(50, 40)
    vanilla, inverted = both(x, p, training)
    torch.testing.assert_close(vanilla, inverted * (1 - p))
    if training:
        kept = vanilla != 0
        assert torch.equal(vanilla[kept], x[kept])  # to the bit
        assert kept.double().mean().item() == pytest.approx(1 - p, abs=0.03)
    else:
        torch.testing.assert_close(vanilla, x * (1 - p))


def test_evaluation_is_the_expectation_of_training() -> None:
    x, layer = torch.linspace(-2, 2, 5), VanillaDropout(0.4)
    mean = layer(x.expand(40_000, 5)).mean(0)
    torch.testing.assert_close(mean, layer.eval()(x), atol=0.03, rtol=0)


def test_gradients_pass_where_values_are_kept() -> None:
    x = torch.randn(200, requires_grad=True)
    y = VanillaDropout(0.5)(x)
    y.sum().backward()
    assert torch.equal(x.grad, (y != 0).float())


def test_a_net_with_weights_divided_by_one_minus_p_is_the_net_with_the_inverted_one() -> None:
    nets = [MLP(5, 3, [16, 16], dropout=0.25, dropout_kind=kind).double() for kind in ("vanilla", "inverted")]
    nets[1].load_state_dict(nets[0].state_dict())
    with torch.no_grad():
        for linear in (nets[0].layers[1].linear, nets[0].fc):  # those that read what dropout has left
            linear.weight /= 0.75
    x = torch.randn(9, 5, dtype=torch.float64)
    for training in (True, False):
        outputs = []
        for net in nets:
            torch.manual_seed(1)
            outputs.append(net.train(training)(x))
        torch.testing.assert_close(outputs[0], outputs[1])


def test_two_processes_drop_what_one_would() -> None:
    x, layer = torch.randn(6, 4), VanillaDropout(0.5)

    def drawn(rank: int, world: int) -> Tensor:
        torch.manual_seed(5)
        with SharedRandom(6 // world, rank, world, seed=rank):
            return layer(x[rank::world])

    whole = drawn(0, 1)
    assert 0 < (whole == 0).sum() < whole.numel()
    assert all(torch.equal(drawn(rank, 2), whole[rank::2]) for rank in (0, 1))


@pytest.fixture
def task() -> Any:
    return zoo.MLPClassifier(4, 3, [8], dropout=0.5, dropout_kind="vanilla").eval()


def by_hand(task: Any, x: Tensor) -> Tensor:
    """On input that is standardized by 0 and 1."""
    return task.net.fc(F.relu(task.net.layers[0].linear(x)) * 0.5)


def test_a_folder_holds_it(task: Any, tmp_path: Path) -> None:
    twin, x = zoo.load(task.save_pretrained(tmp_path / "model")), torch.randn(6, 4)
    assert isinstance(twin.net.layers[0].dropout, VanillaDropout)
    torch.testing.assert_close(twin(x), by_hand(task, x))


@pytest.mark.slow
def test_an_exported_file_holds_it(task: Any, tmp_path: Path) -> None:
    x = torch.randn(6, 4)
    zoo.export(task, tmp_path / "model.onnx")
    found = torch.from_numpy(run_onnx(tmp_path / "model.onnx", x)[0])
    torch.testing.assert_close(found, by_hand(task, x).softmax(1))


def test_a_folder_and_a_checkpoint_of_before_load_as_the_inverted_one(tmp_path: Path) -> None:
    task, x = zoo.MLPClassifier(4, 3, [8], dropout=0.5).eval(), torch.randn(6, 4)
    folder, path = task.save_pretrained(tmp_path / "model"), checkpoint(task, tmp_path / "model.ckpt")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    saved: dict[str, Any] = torch.load(path, weights_only=True)
    assert config["hparams"].pop("dropout_kind") == saved["hyper_parameters"].pop("dropout_kind") == "inverted"
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(saved, path)
    for twin in (zoo.load(folder), zoo.load(path)):
        assert type(twin.net.layers[0].dropout) is nn.Dropout
        assert torch.equal(twin(x), task(x))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="dropout_kind must be one of inverted, vanilla, got 'vanila'"):
        MLP(4, 2, dropout=0.5, dropout_kind="vanila")
