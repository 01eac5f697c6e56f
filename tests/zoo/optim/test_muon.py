"""Muon by the singular values, beside torch's; which parameters it steps, and AdamW for the rest."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.optim import MuonAdamW, build_optimizer
from zoo.optim.muon import orthogonalized
from zoo.optim.optimizers import hidden_matrices


class Small(nn.Sequential):
    """A hidden matrix, biases, and a head."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


def with_gradients(net: nn.Module, seed: int) -> nn.Module:
    g = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=g).to(p.dtype)
    return net


def build(net: nn.Module, decay: float = 0.0, **arguments: Any) -> MuonAdamW:
    optimizer = build_optimizer(net, "MuonAdamW", 0.1, decay, arguments, decay_norm_and_bias=False)
    assert isinstance(optimizer, MuonAdamW)
    return optimizer


def by_singular_values(matrix: Tensor, iterations: int) -> Tensor:
    """In float64: the polynomial of each singular value, and the singular vectors as they are."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(iterations):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ v


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5), (1, 6)])
def test_orthogonalized_moves_the_singular_values_alone(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, dtype=torch.float64)
    ours = orthogonalized(matrix, 5)
    torch.testing.assert_close(ours, by_singular_values(matrix, 5), rtol=1e-10, atol=1e-10)
    assert torch.linalg.svdvals(ours).min() > 0.3
    assert torch.linalg.svdvals(ours).max() < 1.3
    assert torch.equal(orthogonalized(torch.zeros(shape), 5), torch.zeros(shape))


def test_the_rest_steps_as_torchs_adamw_to_the_bit() -> None:
    net, twin = Small(), Small()
    twin.load_state_dict(net.state_dict())
    optimizer = build(net, 0.2, betas=(0.8, 0.95), eps=1e-6)
    rest = {"betas": (0.8, 0.95), "eps": 1e-6, "lr": 0.1}
    peer = torch.optim.AdamW(
        [{"params": [twin[2].weight], "weight_decay": 0.2}, {"params": [twin[0].bias, twin[2].bias]}],
        weight_decay=0.0,
        **rest,
    )
    for step in range(4):
        with_gradients(net, step)
        with_gradients(twin, step)
        optimizer.step()
        peer.step()
    assert torch.equal(net[2].weight, twin[2].weight)
    assert torch.equal(net[0].bias, twin[0].bias)
    assert not torch.equal(net[0].weight, twin[0].weight)


@pytest.mark.parametrize("nesterov", [True, False])
def test_a_matrix_steps_by_the_formula(nesterov: bool) -> None:
    net = Small().double()
    optimizer = build(net, 0.2, momentum=0.7, nesterov=nesterov, iterations=4)
    weights, momentum = net[0].weight.detach().clone(), torch.zeros(4, 6).double()
    for step in range(3):
        with_gradients(net, step)
        gradient = net[0].weight.grad.clone()
        optimizer.step()
        momentum = 0.7 * momentum + 0.3 * gradient
        direction = 0.3 * gradient + 0.7 * momentum if nesterov else momentum
        weights = (1 - 0.1 * 0.2) * weights - 0.1 * 0.2 * 6**0.5 * by_singular_values(direction, 4)
        torch.testing.assert_close(net[0].weight.data, weights, rtol=1e-9, atol=1e-9)


def test_a_matrix_steps_as_torchs_muon() -> None:
    """torch iterates in bfloat16, of 8 bits: nearly."""
    net, twin = Small(), Small()
    twin.load_state_dict(net.state_dict())
    start = net[0].weight.detach().clone()
    optimizer = build(net, 0.0)
    peer = torch.optim.Muon([twin[0].weight], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        with_gradients(net, step)
        with_gradients(twin, step)
        optimizer.step()
        peer.step()
    assert (net[0].weight - twin[0].weight).norm() < 0.05 * (net[0].weight - start).norm()


def test_stacked_matrices_are_stepped_one_by_one() -> None:
    """Queries, keys and values of an attention; the gates of a recurrent layer."""
    stacked, single = torch.randn(6, 5, dtype=torch.float64), []
    p = nn.Parameter(stacked.clone())
    optimizer = MuonAdamW([{"params": [p], "rows": [[1, 2, 3]]}], lr=0.1)
    gradient = torch.randn(6, 5, dtype=torch.float64)
    p.grad = gradient.clone()
    optimizer.step()
    for part, of in zip(stacked.split([1, 2, 3]), gradient.split([1, 2, 3]), strict=True):
        one = nn.Parameter(part.clone())
        one.grad = of.clone()
        MuonAdamW([{"params": [one], "rows": [[len(one)]]}], lr=0.1).step()
        single.append(one.data)
    torch.testing.assert_close(p.data, torch.cat(single))


def matrices_of(net: nn.Module) -> dict[str, list[int]]:
    rows = hidden_matrices(net)
    return {name: rows[id(p)] for name, p in net.named_parameters() if id(p) in rows}


def test_which_matrices_are_hidden() -> None:
    sizes: dict[str, Any] = {"vocab_size": 7, "width": 8, "num_layers": 1, "num_heads": 2}
    of_transformer = matrices_of(zoo.create_model("transformer_lm", positions="learned", **sizes).net)
    assert {name.partition("layers.0.")[2] for name in of_transformer} == {
        "self_attn.in_proj_weight",
        "self_attn.out_proj.weight",
        "linear1.weight",
        "linear2.weight",
    }
    assert next(rows for name, rows in of_transformer.items() if "in_proj" in name) == [8, 8, 8]
    lstm = nn.Sequential(nn.Embedding(9, 3), nn.LSTM(3, 4), nn.Linear(4, 9))
    assert matrices_of(lstm) == {"1.weight_ih_l0": [4] * 4, "1.weight_hh_l0": [4] * 4}
    tied = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9, bias=False), nn.ReLU(), nn.Linear(9, 2))
    tied[1].weight = tied[0].weight
    assert matrices_of(tied) == {}


def test_groups_have_names_rates_and_decays() -> None:
    task = zoo.create_model(
        "mlp", in_features=4, widths=[5, 6], optimizer="MuonAdamW", lr=1.0, layer_decay=0.5, weight_decay=0.1
    )
    groups = task.configure_optimizers().param_groups
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in groups] == [
        ("0/decay/matrices", 0.25, 0.1),
        ("0/no_decay", 0.25, 0.0),
        ("1/decay/matrices", 0.5, 0.1),
        ("1/no_decay", 0.5, 0.0),
        ("2/decay", 1.0, 0.1),
        ("2/no_decay", 1.0, 0.0),
    ]
    assert sum(len(g["params"]) for g in groups) == len(list(task.net.parameters()))


def test_a_copy_and_a_loaded_state_go_on_alike() -> None:
    net = Small()
    optimizer = build(net, 0.1)
    with_gradients(net, 0)
    optimizer.step()
    copied_net, copied = copy.deepcopy((net, optimizer))
    loaded_net = Small()
    loaded_net.load_state_dict(net.state_dict())
    loaded = build(loaded_net, 0.1)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, its in ((net, optimizer), (copied_net, copied), (loaded_net, loaded)):
        for group in its.param_groups:
            group["lr"] = 0.03
        for step in (1, 2):
            with_gradients(one, step)
            its.step()
    for name, value in net.state_dict().items():
        assert torch.equal(value, copied_net.state_dict()[name])
        assert torch.equal(value, loaded_net.state_dict()[name])


def test_a_closure_is_called_once_and_what_has_no_gradient_stays() -> None:
    net = Small()
    optimizer, calls = build(net), []

    def closure() -> Tensor:
        calls.append(loss := net(torch.ones(2, 6)).square().sum())
        loss.backward()
        return loss

    net[0].weight.requires_grad_(False)
    before = net[0].weight.clone()
    assert optimizer.step(closure) is calls[0]
    assert len(calls) == 1
    assert torch.equal(net[0].weight, before)


def test_bad_arguments() -> None:
    for bad in ({"momentum": 1.0}, {"iterations": 0}):
        with pytest.raises(ValueError, match=r"momentum in .* iterations >= 1, got"):
            build(Small(), **bad)
    with pytest.raises(ValueError, match="Invalid beta parameter"):
        build(Small(), betas=(1.0, 0.9))
    with pytest.raises(ValueError, match=r"no matrix of a hidden layer for Muon: take AdamW"):
        zoo.create_model("resnet20", width=2, optimizer="MuonAdamW")
