"""The transformer layer against torch's layers and formulas in float64."""

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.blocks import RotaryPositions, TransformerLayer, build_token_norm, hidden_size

CLOSE = {"rtol": 0, "atol": 1e-12}


def drawn(net: nn.Module) -> nn.Module:
    """The same in float64, with no parameter at a special value."""
    for p in net.double().parameters():
        nn.init.normal_(p, std=0.4)
    return net


@pytest.mark.parametrize(
    ("cross", "norm_first", "activation"), [*product([False, True], [False, True], ["relu", "gelu"])]
)
def test_outputs_and_gradients_are_torchs(cross: bool, norm_first: bool, activation: Any) -> None:
    kind: Any = nn.TransformerDecoderLayer if cross else nn.TransformerEncoderLayer
    theirs = drawn(kind(8, 2, 20, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first))
    ours = TransformerLayer(8, 2, 20, cross=cross, norm_first=norm_first, feed_forward=activation).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, memory = (torch.randn(3, n, 8, dtype=torch.float64, requires_grad=True) for n in (5, 4))
    real = torch.arange(4) < torch.tensor([4, 2, 1])[:, None]
    future = ~torch.ones(5, 5, dtype=torch.bool).tril()
    if cross:
        wanted = theirs(x, memory, tgt_mask=future, memory_key_padding_mask=~real)
        found = ours(x, memory, causal=True, memory_mask=real[:, None, None])
    else:
        wanted, found = theirs(x, src_mask=future), ours(x, causal=True)
    torch.testing.assert_close(found, wanted, **CLOSE)
    probe = torch.randn_like(wanted)
    names = [name for name, _ in ours.named_parameters()]
    inputs = [x, memory] if cross else [x]
    gradients = [
        torch.autograd.grad((output * probe).sum(), [*inputs, *(net.get_parameter(name) for name in names)])
        for output, net in ((found, ours), (wanted, theirs))
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_an_encoder_does_not_see_padding() -> None:
    layer, x = drawn(TransformerLayer(8, 2, 20)), torch.randn(2, 5, 8, dtype=torch.float64)
    mask = (torch.arange(5) < torch.tensor([5, 3])[:, None])[:, None, None]
    changed = x.clone()
    changed[1, 3:] = 9.0
    torch.testing.assert_close(layer(x, mask=mask)[1, :3], layer(changed, mask=mask)[1, :3], **CLOSE)
    torch.testing.assert_close(layer(x, mask=mask)[1:, :3], layer(x[1:, :3]), **CLOSE)


def fed(layer: TransformerLayer, x: Tensor) -> Tensor:
    """The feed-forward net alone: with attention that gives 0 and norms that are the identity."""
    w = layer.state_dict()
    hidden = x @ w["linear1.weight"].T + w["linear1.bias"]
    if layer.feed_forward == "swiglu":
        gate = x @ w["gate.weight"].T + w["gate.bias"]
        hidden = gate / (1 + (-gate).exp()) * hidden
    else:
        cube = hidden + 0.044715 * hidden**3
        hidden = {
            "relu": hidden.clamp(min=0),
            "gelu": 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5)),
            "gelu_tanh": 0.5 * hidden * (1 + torch.tanh((2 / torch.pi) ** 0.5 * cube)),
            "relu2": hidden.clamp(min=0) ** 2,
        }[layer.feed_forward]
    return hidden @ w["linear2.weight"].T + w["linear2.bias"]


@pytest.mark.parametrize("kind", ["relu", "gelu", "gelu_tanh", "swiglu", "relu2"])
def test_feed_forward_nets_equal_their_formulas(kind: Any) -> None:
    layer = TransformerLayer(8, 2, 20, feed_forward=kind, norm_first=True).double()
    for name in ("self_attn.out_proj.weight", "self_attn.out_proj.bias"):
        nn.init.zeros_(layer.get_parameter(name))
    layer.norm2 = nn.Identity()
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x + fed(layer, x), **CLOSE)


@pytest.mark.parametrize("norm_first", [True, False])
def test_where_the_norm_stands(norm_first: bool) -> None:
    """Root mean square, checked by hand for both orders."""
    layer, x = drawn(TransformerLayer(8, 2, 20, norm="rms", norm_first=norm_first)), torch.randn(2, 3, 8).double()

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.get_parameter(f"{name}.weight")

    if norm_first:
        h = x + layer.self_attn(norm(x, "norm1"))
        wanted = h + fed(layer, norm(h, "norm2"))
    else:
        h = norm(x + layer.self_attn(x), "norm1")
        wanted = norm(h + fed(layer, h), "norm2")
    torch.testing.assert_close(layer(x), wanted, **CLOSE)


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {
            "norm": "rms",
            "norm_first": True,
            "feed_forward": "swiglu",
            "num_kv_heads": 1,
            "qk_norm": True,
            "bias": False,
        },
    ],
)
def test_steps_and_weights_agree_with_the_forward_pass(cross: bool, arguments: dict[str, Any]) -> None:
    layer = drawn(TransformerLayer(8, 2, 20, cross=cross, **arguments))
    x, memory = torch.randn(2, 6, 8).double(), torch.randn(2, 3, 8).double() if cross else None
    memory_mask = torch.tensor([[True, True, True], [True, False, False]])[:, None, None] if cross else None
    positions = RotaryPositions(4)
    settings: dict[str, Any] = {"causal": True, "rotary": positions(x)[1], "memory_mask": memory_mask}
    wanted = layer(x, memory, **settings)
    output, weights = layer.with_weights(x, memory, **settings)
    torch.testing.assert_close(output, wanted, **CLOSE)
    assert list(weights) == ["self", "cross"][: 1 + cross]
    for kind, found in weights.items():
        torch.testing.assert_close(found.sum(3), torch.ones_like(found[..., 0]))
        assert found.shape == (2, 2, 6, 6 if kind == "self" else 3)
    assert not weights["self"].triu(1).any()
    if cross:
        assert not weights["cross"][1, :, :, 1:].any()
    state, outputs, start = layer.init_state(2, memory), [], 0
    for length in (1, 3, 1, 1):
        part = x[:, start : start + length]
        y, state = layer.step(part, state, positions(part, start)[1], memory_mask)
        outputs.append(y)
        start += length
    torch.testing.assert_close(torch.cat(outputs, dim=1), wanted, **CLOSE)
    assert (state.memory is None) == (not cross)


def test_no_bias_anywhere() -> None:
    layer = TransformerLayer(8, 2, 20, cross=True, feed_forward="swiglu", bias=False)
    assert not [name for name, _ in layer.named_parameters() if name.endswith("bias")]


def test_values_and_weights_are_dropped_by_rates_of_their_own() -> None:
    layer = TransformerLayer(8, 2, 20, dropout=0.25, attention_dropout=0.5, cross=True)
    assert {m.p for m in layer.modules() if isinstance(m, nn.Dropout)} == {0.25}
    assert {layer.self_attn.dropout, layer.multihead_attn.dropout} == {0.5}
    x, memory = torch.randn(2, 3, 8), torch.randn(2, 4, 8)
    assert torch.equal(layer.eval()(x, memory), layer(x, memory))
    assert not torch.equal(layer.train()(x, memory), layer(x, memory))


def test_each_parts_output_is_dropped() -> None:
    """With all of it dropped, but the scale kept, only the shortcut is left."""
    layer, x = TransformerLayer(8, 2, 20, dropout=0.5, norm_first=True, cross=True), torch.randn(2, 3, 8)
    seen: list[Tensor] = []
    layer.dropout.register_forward_hook(lambda module, args, output: seen.append(args[0]) or torch.zeros_like(output))
    assert torch.equal(layer(x, torch.randn(2, 4, 8)), x)
    assert len(seen) == 3


def test_sizes_of_feed_forward_nets() -> None:
    assert [hidden_size(512, kind) for kind in ("relu", "gelu", "relu2", "swiglu")] == [2048, 2048, 2048, 1365]
    assert hidden_size(512, "swiglu", 100) == 100
    counts = {
        kind: sum(
            p.numel()
            for p in TransformerLayer(96, 2, hidden_size(96, kind), feed_forward=kind, bias=False).parameters()
        )
        for kind in ("relu", "swiglu")
    }
    assert counts["relu"] == counts["swiglu"]


def test_norms_by_name() -> None:
    x = torch.randn(3, 8, dtype=torch.float64)
    for eps in (1e-5, 1e-2):
        rms = build_token_norm("rms", 8, eps).double()(x)
        torch.testing.assert_close(rms, x / (x.square().mean(1, keepdim=True) + eps).sqrt(), **CLOSE)
        torch.testing.assert_close(
            build_token_norm("layer", 8, eps).double()(x), F.layer_norm(x, (8,), eps=eps), **CLOSE
        )
    assert [name for name, _ in build_token_norm("layer", 8, bias=False).named_parameters()] == ["weight"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 3}, "3 heads do not divide a width of 8"),
        ({"hidden_dim": 0}, "hidden_dim must be 1 or more, got 0"),
        ({"dropout": 1.0}, r"dropout is a probability in \[0, 1\), got 1.0"),
        ({"norm": "batch"}, "norm must be one of layer, rms, got 'batch'"),
        ({"feed_forward": "tanh"}, "feed_forward must be one of relu, gelu, gelu_tanh, swiglu, relu2, got 'tanh'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerLayer(**{"width": 8, "num_heads": 2, "hidden_dim": 20, **arguments})


@pytest.mark.parametrize("cross", [False, True])
def test_a_memory_that_is_missing_or_not_wanted(cross: bool) -> None:
    layer, x = TransformerLayer(8, 2, 20, cross=cross), torch.randn(2, 3, 8)
    memory = None if cross else x
    message = "needs a memory" if cross else "has no attention to a memory"
    for call in (lambda: layer(x, memory), lambda: layer.with_weights(x, memory), lambda: layer.init_state(2, memory)):
        with pytest.raises(ValueError, match=message):
            call()
