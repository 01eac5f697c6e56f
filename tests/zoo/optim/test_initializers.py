"""Initialization by name: the variance that each formula gives, and what must not change."""

import math

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.blocks import MultiHeadAttention, Recurrent, kernel
from zoo.optim import initialize


@pytest.mark.parametrize(
    ("name", "arguments", "variance"),
    [
        ("xavier_normal", {}, 2 / (300 + 200)),
        ("xavier_uniform", {}, 2 / (300 + 200)),
        ("lecun_normal", {}, 1 / 300),
        ("lecun_uniform", {}, 1 / 300),
        ("kaiming_normal", {}, 2 / 300),
        ("kaiming_uniform", {}, 2 / 300),
        ("kaiming_normal", {"mode": "fan_out"}, 2 / 200),
        ("gaussian", {}, 1e-4),
        ("gaussian", {"std": 0.5}, 0.25),
        ("orthogonal", {}, 1 / 300),
    ],
)
def test_variance(name: str, arguments: dict, variance: float) -> None:
    layer = nn.Linear(300, 200)
    initialize(layer, name, arguments)
    layer.requires_grad_(False)
    assert layer.weight.mean().abs() < 5 * (variance / 60_000) ** 0.5
    assert float(layer.weight.var()) == pytest.approx(variance, rel=0.03)
    assert not layer.bias.any()
    assert (layer.weight.abs().max() < (3.001 * variance) ** 0.5) == ("uniform" in name)


def test_orthogonal_rows() -> None:
    layer = nn.Conv2d(4, 8, 3)
    initialize(layer, "orthogonal")
    rows = layer.weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(8), atol=1e-5, rtol=0)


GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1, nn.LSTMCell: 4, nn.GRUCell: 3, nn.RNNCell: 1}


def xavier(weight: Tensor) -> None:
    """One layer's weight has mean 0 and variance 2 / (n_in + n_out), each row and column its share of it."""
    variance = 2 / sum(weight.shape)
    assert weight.mean().abs() < 5 * (variance / weight.numel()) ** 0.5
    assert float(weight.var()) == pytest.approx(variance, rel=0.04)


@pytest.mark.parametrize("kind", GATES)
def test_each_gate_of_a_recurrent_layer_is_a_layer(kind: type) -> None:
    net = nn.Sequential(kind(300, 200)).requires_grad_(False)
    initialize(net, "xavier_normal")
    for name, parameter in net.named_parameters():
        if "bias" in name:
            assert not parameter.any(), name
        else:
            gates = parameter.chunk(GATES[kind])
            assert {gate.shape for gate in gates} == {(200, 300 if "_ih" in name else 200)}
            for gate in gates:
                xavier(gate)
    initialize(net, "orthogonal")
    for name, parameter in net.named_parameters():
        for gate in parameter.chunk(GATES[kind]) if "weight_hh" in name else ():
            torch.testing.assert_close(gate @ gate.T, torch.eye(200), atol=1e-4, rtol=0)


def test_every_layer_and_direction_of_a_stack_is_drawn() -> None:
    net = nn.LSTM(7, 6, num_layers=3, bidirectional=True, proj_size=4).requires_grad_(False)
    initialize(net, "constant", {"value": 2.0})
    assert len(list(net.parameters())) == 3 * 2 * 5
    for name, parameter in net.named_parameters():
        assert parameter.unique().tolist() == [0.0 if "bias" in name else 2.0], name
    net = nn.LSTM(300, 200, proj_size=100).requires_grad_(False)
    initialize(net, "xavier_normal")
    for weight in (*net.weight_hh_l0.split(200), net.weight_hr_l0):  # (200, 100) each, and (100, 200)
        xavier(weight)


@pytest.mark.parametrize("kind", GATES)
def test_recurrent_matrices_are_orthogonal_and_forget_gates_open(kind: type) -> None:
    net = nn.Sequential(nn.Linear(30, 70), kind(70, 50), nn.Linear(50, 20)).requires_grad_(False)
    initialize(net, "recurrent")
    width = 50
    for gate in net[1].get_parameter(next(n for n, _ in net[1].named_parameters() if "weight_hh" in n)).split(width):
        torch.testing.assert_close(gate @ gate.T, torch.eye(width), atol=1e-5, rtol=0)
    for weight in next(p for n, p in net[1].named_parameters() if "weight_ih" in n).split(width):
        assert float(weight.std()) == pytest.approx(math.sqrt(2 / 120), rel=0.05)
        assert weight.abs().max() < math.sqrt(6 / 120)
    biases = sum(p for n, p in net[1].named_parameters() if "bias" in n)  # what acts is torch's b_ih + b_hh
    wanted = torch.zeros(GATES[kind] * width)
    if kind in (nn.LSTM, nn.LSTMCell):
        wanted[width : 2 * width] = 1.0
    assert torch.equal(biases, wanted)
    assert not any(layer.bias.any() for layer in (net[0], net[2]))


def test_the_forget_gate_is_open_at_the_start() -> None:
    """A cell of 1 keeps sigmoid(1) in the first step of zeros, and the layers of the zoo are torch's."""
    net = Recurrent(3, 4, "lstm", bidirectional=True)
    for bias, kept in ((None, 1 / (1 + math.exp(-1))), (-2.0, 1 / (1 + math.exp(2)))):
        initialize(net, "recurrent", {} if bias is None else {"forget_bias": bias})
        _, (_, c) = net(torch.zeros(1, 1, 3), None, (torch.zeros(2, 1, 4), torch.ones(2, 1, 4)))
        torch.testing.assert_close(c, torch.full((2, 1, 4), kept), atol=1e-6, rtol=0)


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_an_embedding_is_drawn_but_for_its_padding(kind: type, padding: int) -> None:
    net = nn.Sequential(kind(400, 100, padding_idx=padding)).requires_grad_(False)
    initialize(net, "lecun_normal")  # as the linear layer 100 -> 400 with the same matrix
    assert float(net[0].weight.var()) == pytest.approx(1 / 100, rel=0.04)
    assert net[0].weight.any(dim=1).logical_not().nonzero().tolist() == [[padding]]


@pytest.mark.parametrize("embedding_first", [True, False])
def test_a_shared_matrix_is_drawn_once_and_keeps_its_padding(embedding_first: bool) -> None:
    parts = {"embedding": nn.Embedding(5, 3, padding_idx=1), "head": nn.Linear(3, 5)}
    parts["head"].weight = parts["embedding"].weight
    net = nn.ModuleDict(parts if embedding_first else dict(reversed(parts.items())))
    torch.manual_seed(0)
    initialize(net, "gaussian", {"std": 1.0})
    after = torch.rand(1)
    torch.manual_seed(0)
    wanted = torch.randn(5, 3)
    assert torch.equal(torch.rand(1), after)
    wanted[1] = 0
    assert torch.equal(parts["head"].weight, wanted)


@pytest.mark.parametrize(
    "net",
    [
        nn.MultiheadAttention(200, 2, add_bias_kv=True),
        nn.MultiheadAttention(200, 2, kdim=300, vdim=100),
        nn.MultiheadAttention(200, 2, bias=False),
        MultiHeadAttention(200, 2),
        MultiHeadAttention(200, 4, num_kv_heads=2, bias=False),
    ],
    ids=["packed", "apart", "no bias", "ours", "ours, shared"],
)
def test_queries_keys_and_values_are_layers(net: nn.Module) -> None:
    for parameter in net.parameters():
        nn.init.ones_(parameter)
    initialize(net.requires_grad_(False), "xavier_normal")
    packed, appended = net.in_proj_weight, getattr(net, "bias_k", None)
    layers = (
        packed.split(getattr(net, "sizes", 200))
        if packed is not None
        else (net.q_proj_weight, net.k_proj_weight, net.v_proj_weight)
    )
    for weight in (*layers, net.out_proj.weight):
        xavier(weight)
    assert not any(p.any() for p in (net.in_proj_bias, net.out_proj.bias) if p is not None)
    assert appended is None or appended.all()  # a token of its own, no bias of a layer


def test_a_bilinear_layer_is_linear_in_the_products() -> None:
    net = nn.Bilinear(20, 30, 50).requires_grad_(False)
    initialize(net, "kaiming_normal")
    assert float(net.weight.var()) == pytest.approx(2 / 600, rel=0.04)
    initialize(net, "xavier_normal")
    xavier(net.weight.flatten(1))  # (50, 20, 30) -> (50, 600)
    initialize(net, "orthogonal")
    rows = net.weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(50), atol=1e-5, rtol=0)
    assert not net.bias.any()


def test_units_that_start_equal_stay_equal() -> None:
    task = zoo.create_model("mlp", in_features=4, num_classes=3, widths=[5], init="constant", init_args={"value": 0.1})
    optimizer = torch.optim.SGD(task.net.parameters(), lr=0.1)
    x, y = torch.randn(20, 4), torch.arange(20) % 3
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(task.net(x), y).backward()
        optimizer.step()
    weight = task.net.layers[0].linear.weight
    assert torch.equal(weight, weight[:1].expand_as(weight))


def test_kernels_stand_in_the_first_convolution_only() -> None:
    torch.manual_seed(0)
    plain = zoo.create_model("lenet5_relu").net
    torch.manual_seed(0)
    task = zoo.create_model("lenet5_relu", init="kernels", init_args={"names": ["sobel_x", "gaussian5"]})
    weight = task.net.conv1.weight
    for i in range(6):
        expected = kernel(("sobel_x", "gaussian5")[i % 2], 5) / 3
        assert all(torch.equal(weight[i, c], expected) for c in range(3))
    assert torch.equal(task.net.conv2.weight, plain.conv2.weight)
    image = torch.zeros(1, 3, 32, 32)
    image[..., 16:] = 1.0  # a vertical edge
    assert nn.functional.conv2d(image, weight)[0, 0].max() == 4.0


def test_kernels_sum_to_what_they_must() -> None:
    sums = {name: round(float(kernel(name).sum()), 6) for name in ("laplacian", "edge", "sobel_x", "sobel_y")}
    assert set(sums.values()) == {0.0}
    assert {round(float(kernel(n, 7).sum()), 6) for n in ("identity", "box", "gaussian", "gaussian5", "sharpen")} == {
        1.0
    }
    assert torch.equal(kernel("sobel_x"), kernel("sobel_y").T)


def test_it_is_a_hyperparameter_of_every_task() -> None:
    task = zoo.create_model("resnet20", width=2, init="gaussian", init_args={"std": 0.5})
    assert task.hparams["init"] == "gaussian"
    assert float(task.net.conv1.weight.detach().std()) == pytest.approx(0.5, rel=0.3)
    assert torch.equal(task.net.bn1.weight, torch.ones(2))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"init": "xavier"}, ValueError, "unknown init 'xavier', did you mean"),
        ({"init": "gaussian", "init_args": {"sdt": 1}}, TypeError, "no argument 'sdt', did you mean 'std'"),
        ({"init_args": {"std": 1}}, ValueError, "belong to an init, and none is given"),
        ({"init": "kernels", "init_args": {"names": ["sobel"]}}, ValueError, "unknown kernel 'sobel'"),
        ({"init": "kernels", "init_args": {"names": []}}, ValueError, "at least one name"),
    ],
)
def test_bad_arguments(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        zoo.create_model("lenet5", **arguments)


def test_recurrent_needs_recurrent_layers() -> None:
    with pytest.raises(ValueError, match="is for a net with recurrent layers, got MLP: take another init"):
        zoo.create_model("mlp", init="recurrent")


def test_kernels_need_a_convolution_that_they_fit() -> None:
    with pytest.raises(ValueError, match="begins with a square convolution"):
        zoo.create_model("mlp", init="kernels")
    with pytest.raises(ValueError, match="does not fit the middle of 4x4"):
        kernel("box", 4)
