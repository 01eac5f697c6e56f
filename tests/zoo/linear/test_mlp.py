"""MLP: parameter counts, a float64 formula, and what each option does."""

from typing import Any, get_args

import pytest
import torch
from kit import quiet_trainer
from torch import Tensor

import zoo
from datamodules import ArrayDataModule
from zoo import testing
from zoo.blocks import ActivationName
from zoo.linear import MLP
from zoo.testing import check_module

BATCH = torch.randn(8, 32), torch.arange(8)


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({}, 669_706),  # 784-512-512-10
        ({"in_features": 100, "widths": [2000]}, 222_010),
        ({"in_features": 100, "widths": []}, 1_010),
        ({"in_features": 100, "widths": [2000], "activation": "maxout", "pieces": 3}, 101 * 6000 + 20_010),
        ({"in_features": 4, "widths": [3, 5], "skip": "dense"}, 5 * 3 + 8 * 5 + 13 * 10),
        (
            {"in_features": 4, "widths": [3, 5], "skip": "dense", "activation": "maxout", "pieces": 3},
            5 * 9 + 8 * 15 + 13 * 10,
        ),
        ({"in_features": 4, "widths": [3], "norm": "batch"}, 5 * 3 + 6 + 40),
    ],
)
def test_parameter_count(arguments: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in MLP(**arguments).parameters()) == count


def test_maxout_units_are_one_output_each_for_the_layers_above() -> None:
    net = MLP(4, 2, [3, 5], "maxout", pieces=3, skip="dense")
    assert net(torch.rand(2, 4)).shape == (2, 2)


@pytest.mark.parametrize("skip", ["none", "residual", "dense"])
@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
def test_equals_the_formula(skip: str, norm: str) -> None:
    net = MLP(5, 2, [4, 4, 4], "tanh", norm=norm, skip=skip).double().eval()
    for p in net.parameters():
        torch.nn.init.normal_(p)
    w, x = net.state_dict(), torch.randn(7, 5, dtype=torch.float64)
    for i in range(3):
        if f"layers.{i}.norm.running_mean" in w:
            w[f"layers.{i}.norm.running_mean"].normal_()
            w[f"layers.{i}.norm.running_var"].uniform_(0.5, 2)
    outputs = [x]
    for i in range(3):
        h = (torch.cat(outputs, 1) if skip == "dense" else outputs[-1]) @ w[f"layers.{i}.linear.weight"].T
        h = h + w[f"layers.{i}.linear.bias"]
        if norm != "none":
            if norm == "layer":
                mean, var = h.mean(1, keepdim=True), h.var(1, keepdim=True, correction=0)
            else:
                mean, var = w[f"layers.{i}.norm.running_mean"], w[f"layers.{i}.norm.running_var"]
            h = (h - mean) / (var + 1e-5).sqrt() * w[f"layers.{i}.norm.weight"] + w[f"layers.{i}.norm.bias"]
        h = h.tanh()
        outputs.append(h + outputs[-1] if skip == "residual" and i else h)
    last = torch.cat(outputs, 1) if skip == "dense" else outputs[-1]
    torch.testing.assert_close(net(x), last @ w["fc.weight"].T + w["fc.bias"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", get_args(ActivationName))
def test_contract_of_every_activation(activation: str) -> None:
    task = zoo.MLPClassifier(32, widths=[64], activation=activation)
    draws = activation.startswith("stochastic")
    skip = (
        {}
        if draws
        else dict.fromkeys(("checkpoint", "accumulation", "processes"), "what draws nothing has no part in it")
    )
    report = check_module(task, BATCH, lr=0.05, skip=skip)
    assert {name for name, result in report.items() if result != "ok"} == skip.keys()


@pytest.mark.parametrize("arguments", [{"norm": "batch"}, {"norm": "layer"}, {"skip": "dense"}, {"skip": "residual"}])
def test_contract_of_the_options(arguments: dict[str, Any]) -> None:
    task = zoo.MLPClassifier(32, widths=[64, 64], **arguments)
    assert set(check_module(task, BATCH).values()) == {"ok"}


def test_dropout_acts_in_training_only() -> None:
    net, x = MLP(32, 10, [1000], dropout=0.3), BATCH[0]
    hidden = net.layers[0]
    dropped = (hidden(x) == 0).float().mean() - (hidden.eval()(x) == 0).float().mean()
    assert dropped.item() == pytest.approx(0.3 * (hidden(x) > 0).float().mean().item(), abs=0.02)
    kept = hidden.train()(x)
    plain = hidden.eval()(x)
    torch.testing.assert_close(kept[kept > 0], plain[kept > 0] / 0.7)
    assert torch.equal(net.eval()(x), net(x))


def test_a_zeroed_residual_layer_is_the_identity() -> None:
    net = MLP(6, 2, [6, 6], skip="residual")
    torch.nn.init.zeros_(net.layers[1].linear.weight)
    torch.nn.init.zeros_(net.layers[1].linear.bias)
    x = torch.randn(3, 6)
    torch.testing.assert_close(net(x), net.fc(net.layers[0](x)))


def test_an_mlp_learns_xor_and_a_linear_model_does_not() -> None:
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = torch.tensor([0, 1, 1, 0])

    def accuracy(task: zoo.Task) -> float:
        optimizer = torch.optim.Adam(task.parameters(), lr=0.05)
        for _ in range(300):
            optimizer.zero_grad()
            task.training_losses((x, y))[0].backward()
            optimizer.step()
        return task.training_losses((x, y))[1]["acc"].item()

    assert accuracy(zoo.MLPClassifier(2, 2, [16], "tanh")) == 1.0
    assert accuracy(zoo.MLPClassifier(2, 2, [])) <= 0.75


def test_regressor_and_folder(tmp_path: Any) -> None:
    task = zoo.MLPRegressor(3, 2, (4,))
    task.target_mean, task.target_std = torch.tensor([5.0, 6.0]), torch.tensor([2.0, 3.0])
    assert task.hparams["widths"] == [4]
    twin = zoo.load(task.save_pretrained(tmp_path / "model"))
    x: Tensor = torch.randn(5, 3)
    torch.testing.assert_close(twin(x), task.net(x) * task.target_std + task.target_mean)


def test_replacing_the_head() -> None:
    net = MLP(4, 10, [3, 5], skip="dense")
    net.reset_head(0)
    assert net(torch.rand(2, 4)).shape == (2, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": [4, 0]}, r"widths must be 1 or more each, got \[4, 0\]"),
        ({"norm": "instance"}, "norm must be one of none, batch, layer, got 'instance'"),
        ({"skip": "add"}, "skip must be one of none, residual, dense, got 'add'"),
        ({"dropout": 1.0}, r"dropout is a probability in \[0, 1\), got 1.0"),
        ({"widths": [4, 5], "skip": "residual"}, r"all widths must be equal, got \[4, 5\]"),
        ({"activation": "swish"}, "unknown activation 'swish'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLP(**arguments)


def test_hyperparameters_from_a_tuple_rebuild() -> None:
    testing.check_hyperparameters(zoo.MLPClassifier(32, widths=(8, 8)), BATCH)


@pytest.mark.parametrize(
    "name", ["mlp", "mlp_regression", "linear_regression", "logistic_regression", "softmax_regression"]
)
def test_without_biases(name: str) -> None:
    model = zoo.create_model(name, in_features=6, bias=False)
    names = [n for n, _ in model.net.named_parameters()]
    assert names
    assert not [n for n in names if "bias" in n]
    model.net.eval()
    assert not model.net(torch.zeros(1, 6)).any()  # every layer is linear, or a ReLU that keeps 0
    report = check_module(model, BIASLESS[name], only=["gradients", "hyperparameters", "folder"])
    assert set(report.values()) == {"ok"}


BIASLESS = {name: (torch.randn(8, 6), torch.randn(8)) for name in ("mlp_regression", "linear_regression")} | {
    name: (torch.randn(8, 6), torch.arange(8) % 2) for name in ("mlp", "logistic_regression", "softmax_regression")
}


def test_a_head_without_a_bias_is_replaced_by_one() -> None:
    net = MLP(5, 2, [4], bias=False)
    net.reset_head(3)
    assert net.fc.bias is None
    assert net(torch.randn(2, 5)).shape == (2, 3)


def test_output_activation_in_the_targets_own_unit() -> None:
    """A target of shares: the sigmoid's output is compared with it as it is."""
    x = torch.randn(200, 3)
    y = (x @ torch.tensor([[1.0], [-2.0], [0.5]])).sigmoid() * 0.9 + 0.05
    model = zoo.create_model("mlp_regression", in_features=3, widths=[], output_activation="sigmoid", lr=0.1)
    data = ArrayDataModule(x, y, kind="regression", batch_size=50)
    quiet_trainer(max_epochs=1).fit(model, datamodule=data)
    assert (model.target_mean, model.target_std) == (0, 1)
    with torch.no_grad():
        w, b = model.net.fc.weight, model.net.fc.bias
        expected = torch.sigmoid((x - model.mean) / model.std @ w.T + b)
        torch.testing.assert_close(model.eval()(x), expected)
        losses = model.training_losses((x, y))[0]
        torch.testing.assert_close(losses, (expected - y).square().mean())
    assert model.expected_initial_loss() is None
    model.net.reset_head(0)
    torch.testing.assert_close(model.net(x), x)  # features are no outputs
    with pytest.raises(ValueError, match="output_activation 'maxout' takes several outputs for one"):
        MLP(5, 2, output_activation="maxout")


@pytest.mark.parametrize(
    "activation", ["identity", {"name": "identity"}, {"name": "leaky_relu", "negative_slope": 0.5}]
)
def test_the_target_is_standardized_without_an_output_activation_alone(activation: Any) -> None:
    model = zoo.create_model("mlp_regression", in_features=3, widths=[], output_activation=activation)
    assert model.standardizes_target == ("leaky_relu" not in str(activation))
