"""Multi-head attention against a formula in float64 and against torch's own module."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.blocks import KeysValues, MultiHeadAttention, RotaryPositions
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


@pytest.mark.parametrize("kind", ["self", "cross", "causal", "padding", "causal and padding"])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_weights_are_torchs(kind: str, bias: bool) -> None:
    theirs = nn.MultiheadAttention(8, 2, bias=bias, batch_first=True, dtype=torch.float64)
    ours = MultiHeadAttention(8, 2, bias=bias).double()
    for p in theirs.parameters():
        nn.init.normal_(p)
    assert [(name, p.shape) for name, p in ours.named_parameters()] == [
        (name, p.shape) for name, p in theirs.named_parameters()
    ]
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    context = torch.randn(3, 4, 8, dtype=torch.float64) if kind == "cross" else None
    keys = x if context is None else context
    real = torch.arange(keys.shape[1]) < torch.tensor([keys.shape[1], 2, 1])[:, None]
    padded, causal = kind in ("padding", "cross", "causal and padding"), "causal" in kind
    wanted, weights = theirs(
        x,
        keys,
        keys,
        key_padding_mask=~real if padded else None,
        attn_mask=~torch.ones(5, 5, dtype=torch.bool).tril() if causal else None,
        average_attn_weights=False,
    )
    mask = real[:, None, None] if padded else None
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(ours(x, context, mask, causal), wanted, **close)
    output, found = ours.with_weights(x, context, mask, causal)
    torch.testing.assert_close(output, wanted, **close)
    torch.testing.assert_close(found, weights, **close)
    torch.testing.assert_close(found.sum(dim=3), torch.ones(3, 2, 5, dtype=torch.float64))


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_shared_heads_equal_heads_that_are_copied(kv_heads: int) -> None:
    grouped = MultiHeadAttention(12, 4, num_kv_heads=kv_heads).double()
    full, x = MultiHeadAttention(12, 4).double(), torch.randn(2, 5, 12, dtype=torch.float64)
    nn.init.normal_(grouped.in_proj_bias)
    weights = dict(grouped.state_dict())
    for name in ("in_proj_weight", "in_proj_bias"):
        q, k, v = weights[name].split([12, 3 * kv_heads, 3 * kv_heads])
        copied = [part.unflatten(0, (kv_heads, 3)).repeat_interleave(4 // kv_heads, 0).flatten(0, 1) for part in (k, v)]
        weights[name] = torch.cat([q, *copied])
    full.load_state_dict(weights, strict=True)
    for causal in (False, True):
        torch.testing.assert_close(grouped(x, causal=causal), full(x, causal=causal), rtol=0, atol=1e-12)
        for one, other in zip(grouped.with_weights(x, causal=causal), full.with_weights(x, causal=causal), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert grouped.keys_values(x).keys.shape == (2, kv_heads, 5, 3)  # what a cache holds is as much smaller


def test_normalized_queries_and_keys() -> None:
    net, x = MultiHeadAttention(6, 2, qk_norm=True).double(), torch.randn(1, 4, 6, dtype=torch.float64)
    for p in net.parameters():
        nn.init.normal_(p)
    q, k, _ = F.linear(x, net.in_proj_weight, net.in_proj_bias).unflatten(2, (3, 2, 3)).unbind(2)  # (1, T, heads, 3)
    q, k = (
        part / (part.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
        for part, norm in ((q, net.q_norm), (k, net.k_norm))
    )
    wanted = (torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(3)).softmax(-1)
    torch.testing.assert_close(net.with_weights(x)[1], wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(net(x), net.with_weights(x)[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(net.keys_values(x).keys[0, 1], k[0, :, 1], rtol=0, atol=1e-12)
    nn.init.zeros_(net.in_proj_bias)
    torch.testing.assert_close(net.with_weights(1e3 * x)[1], net.with_weights(1e6 * x)[1])  # scores stay bounded


FORMS: list[dict[str, Any]] = [{}, {"num_kv_heads": 2}, {"bias": False, "qk_norm": True, "num_kv_heads": 1}]


@pytest.mark.parametrize("arguments", FORMS)
@pytest.mark.parametrize("lengths", [[1, 1, 1, 1, 1, 1], [6], [3, 1, 2], [1, 5]])
def test_step_by_step_is_the_causal_pass(arguments: dict[str, Any], lengths: list[int]) -> None:
    net, x = MultiHeadAttention(16, 4, **arguments).double(), torch.randn(2, 6, 16, dtype=torch.float64)
    positions = RotaryPositions(4)
    wanted = net(x, causal=True, rotary=positions(x)[1])
    state, outputs, start = net.init_state(2), [], 0
    for length in lengths:
        part = x[:, start : start + length]
        before = [tensor.clone() for tensor in state]
        output, after = net.step(part, state, positions(part, start)[1])
        assert all(torch.equal(one, other) for one, other in zip(state, before, strict=True))
        state, start = after, start + length
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, dim=1), wanted, rtol=0, atol=1e-12)
    assert state.keys.shape == (2, net.num_kv_heads, 6, 4)


@pytest.mark.parametrize("arguments", FORMS)
def test_with_itself_as_context_it_is_self_attention(arguments: dict[str, Any]) -> None:
    net, x = MultiHeadAttention(16, 4, **arguments).double(), torch.randn(2, 5, 16, dtype=torch.float64)
    for name, p in net.named_parameters():
        nn.init.normal_(p, mean=float("norm" in name), std=0.5)
    torch.testing.assert_close(net(x, x), net(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("arguments", FORMS)
def test_rotary_attention_sees_distances_alone(arguments: dict[str, Any]) -> None:
    net, x, positions = (
        MultiHeadAttention(16, 4, **arguments).double(),
        torch.randn(2, 5, 16).double(),
        RotaryPositions(4),
    )
    near, far = (net.with_weights(x, rotary=positions(x, start)[1]) for start in (0, 1000))
    torch.testing.assert_close(near, far, rtol=0, atol=1e-10)
    torch.testing.assert_close(net(x, rotary=positions(x)[1]), near[0], rtol=0, atol=1e-12)
    assert (near[1] - net.with_weights(x)[1]).abs().max() > 1e-3
    turned = x[:, [4, 3, 2, 1, 0]]
    assert not torch.allclose(
        net(turned, rotary=positions(x)[1])[:, [4, 3, 2, 1, 0]], near[0]
    )  # and knows before from after


@pytest.mark.parametrize("arguments", FORMS)
def test_keys_and_values_of_a_context_are_computed_once(arguments: dict[str, Any]) -> None:
    net, x, context = MultiHeadAttention(16, 4, **arguments), torch.randn(2, 3, 16), torch.randn(2, 5, 16)
    kept, mask = net.keys_values(context), torch.tensor([[True] * 5, [True, True, False, False, False]])[:, None, None]
    assert isinstance(kept, KeysValues)
    assert torch.equal(net(x, kept, mask), net(x, context, mask))
    hidden = context.clone()
    hidden[1, 2:] = 100.0
    torch.testing.assert_close(net(x, hidden, mask), net(x, context, mask))
    assert not torch.allclose(net(x, hidden), net(x, context))


class Calls:
    """Records the calls of torch's attention."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[dict[str, Any]] = []
        original = F.scaled_dot_product_attention

        def recorded(*args: Any, **kwargs: Any) -> Tensor:
            names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
            self.seen.append({**dict(zip(names, args, strict=False)), **kwargs})
            return original(*args, **kwargs)

        monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)


def test_torchs_attention_is_called_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, x = Calls(monkeypatch), torch.randn(2, 5, 8)
    net = MultiHeadAttention(8, 2, dropout=0.25)
    for training in (True, False):
        net.train(training)
        net(x, causal=True)
        net(x)
        state = net.step(x, net.init_state(2))[1]  # a prompt, read at once
        net.step(x[:, :1], state)
    assert [call["attn_mask"] for call in calls.seen] == [None] * 8
    assert [call["is_causal"] for call in calls.seen] == [True, False, True, False] * 2
    assert [call["dropout_p"] for call in calls.seen] == [0.25] * 4 + [0.0] * 4


def test_a_causal_pass_does_not_see_the_future() -> None:
    net, x = MultiHeadAttention(8, 2).double(), torch.randn(2, 5, 8, dtype=torch.float64)
    changed = x.clone()
    changed[:, 3:] += 1.0
    real = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    for mask in (None, real):
        assert torch.equal(net(x, mask=mask, causal=True)[:, :3], net(changed, mask=mask, causal=True)[:, :3])
        assert not torch.equal(net(x, mask=mask, causal=True)[:, 3:], net(changed, mask=mask, causal=True)[:, 3:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_kv_heads": 3}, "3 heads of keys and values cannot be shared by 4 heads of queries"),
        ({"num_kv_heads": 0}, "0 heads of keys and values cannot be shared"),
    ],
)
def test_bad_groups(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(8, 4, **arguments)


def test_what_is_for_self_attention_alone() -> None:
    net, x = MultiHeadAttention(8, 2), torch.randn(2, 5, 8)
    with pytest.raises(ValueError, match="causal=True is for self-attention"):
        net(x, x, causal=True)
    with pytest.raises(ValueError, match="rotary is for self-attention"):
        net(x, x, rotary=RotaryPositions(4)(x)[1])
