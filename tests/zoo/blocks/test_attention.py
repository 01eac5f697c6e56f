"""Multi-head attention against a formula in float64 and against torch's own module."""

import math

import pytest
import torch
from torch import Tensor, nn

from zoo.blocks import MultiHeadAttention
from zoo.optim.initializers import initialize


def by_hand(net: MultiHeadAttention, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
    """Head by head, token by token."""
    w, size = net.state_dict(), x.shape[2] // net.num_heads
    q, k, v = (
        a @ w["in_proj_weight"][i * x.shape[2] : (i + 1) * x.shape[2]].T
        + w["in_proj_bias"][i * x.shape[2] : (i + 1) * x.shape[2]]
        for i, a in enumerate((x, context, context))
    )
    heads = torch.zeros_like(x)
    for b in range(x.shape[0]):
        for h in range(net.num_heads):
            part = slice(h * size, (h + 1) * size)
            for t in range(x.shape[1]):
                scores = torch.stack([q[b, t, part].dot(k[b, s, part]) / math.sqrt(size) for s in range(k.shape[1])])
                weights = scores.exp() if mask is None else scores.exp() * mask[t]
                heads[b, t, part] = (weights / weights.sum()) @ v[b, :, part]
    return heads @ w["out_proj.weight"].T + w["out_proj.bias"]


@pytest.mark.parametrize("kind", ["self", "cross", "causal"])
def test_equals_the_formula(kind: str) -> None:
    net, x = MultiHeadAttention(6, 3).double(), torch.randn(2, 4, 6, dtype=torch.float64)
    for p in net.parameters():
        nn.init.normal_(p)
    context = torch.randn(2, 5, 6, dtype=torch.float64) if kind == "cross" else None
    mask = torch.ones(4, 4, dtype=torch.bool).tril() if kind == "causal" else None
    wanted = by_hand(net, x, x if context is None else context, mask)
    torch.testing.assert_close(net(x, context, mask), wanted, rtol=1e-12, atol=1e-12)


def test_keys_start_and_outputs_are_torchs() -> None:
    torch.manual_seed(3)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    torch.manual_seed(3)
    ours, x = MultiHeadAttention(8, 2), torch.randn(2, 5, 8)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    drawn = [p.std() for p in (ours.in_proj_weight, ours.out_proj.weight)]
    assert torch.allclose(torch.stack(drawn), torch.tensor([math.sqrt(2 / (8 + 24)), math.sqrt(1 / 24)]), rtol=0.2)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert torch.equal(ours(x), theirs(x, x, x, need_weights=False)[0])


def test_a_mask_hides_the_future() -> None:
    net, x = MultiHeadAttention(8, 2), torch.randn(1, 5, 8)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    changed = x.clone()
    changed[:, 3:] = 7.0
    assert torch.equal(net(x, mask=mask)[:, :3], net(changed, mask=mask)[:, :3])
    assert not torch.equal(net(x)[:, :3], net(changed)[:, :3])


def test_weights_are_dropped_in_training_only() -> None:
    """With equal keys and values of one, what a token gathers is the sum of its weights: 1, or what dropping leaves of it."""
    net = MultiHeadAttention(400, 400, dropout=0.3)
    with torch.no_grad():
        net.in_proj_weight.zero_()
        net.in_proj_bias[800:] = 1.0
        net.out_proj.weight.copy_(torch.eye(400))
    x = torch.randn(4, 2, 400)
    torch.testing.assert_close(net.eval()(x), torch.ones(4, 2, 400))
    kept = net.train()(x)  # two tokens: a sum of two weights, each 1/2 / 0.7 or dropped
    shares = [(kept - value).abs().lt(1e-5).float().mean().item() for value in (0.0, 0.5 / 0.7, 1 / 0.7)]
    assert shares == pytest.approx([0.09, 0.42, 0.49], abs=0.04)


def test_an_initialization_by_name_draws_each_of_its_layers() -> None:
    net = MultiHeadAttention(8, 2)
    nn.init.ones_(net.in_proj_bias)
    initialize(net, "orthogonal")
    for weight in (*net.in_proj_weight.split(8), net.out_proj.weight):
        torch.testing.assert_close(weight @ weight.T, torch.eye(8))
    assert not net.in_proj_bias.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 3), "3 heads do not divide a width of 8"),
        ((8, 0), "0 heads do not divide a width of 8"),
        ((8, 2, 1.0), r"dropout is a probability in \[0, 1\), got 1.0"),
    ],
)
def test_bad_arguments(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(*arguments)
