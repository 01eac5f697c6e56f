"""The encoder-decoder transformer: parameters, equality with torch.nn.Transformer, what it must not see, and its cache."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from benchmarks.attention import BEAM, END, PAD, TorchTwin, beam_by_hand, by_beam, net_of, rows_of, sources_of
from zoo.blocks import SentencePair
from zoo.testing import check_module
from zoo.transformer import Transformer, TransformerSeq2Seq

SMALL: dict[str, Any] = {"source_vocab_size": 11, "vocab_size": 13, "width": 16, "num_layers": 2, "num_heads": 4}
SWITCHES: dict[str, dict[str, Any]] = {
    "published": {},
    "before": {"norm_first": True},
    "learned": {"positions": "learned", "max_positions": 9},
    "rotary": {"positions": "rotary", "norm": "rms", "norm_first": True, "feed_forward": "swiglu"},
    "grouped": {"num_kv_heads": 2, "qk_norm": True, "feed_forward": "relu2"},
    "tied": {"tied": "output", "feed_forward": "gelu"},
    "all tied": {"tied": "all", "source_vocab_size": 13},
}


def net_with(**options: Any) -> Transformer:
    """In float64, with weights that leave the linear range, and without dropout."""
    torch.manual_seed(1)
    net = Transformer(**{**SMALL, "dropout": 0.0, **options}).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.4)
    return net


def pair(rows: int = 4, source: int = 6, target: int = 7) -> SentencePair:
    """Texts of different lengths, as the data give them."""
    g = torch.Generator().manual_seed(0)
    x = torch.randint(2, 11, (rows, source), generator=g)
    y = torch.randint(2, 11, (rows, target), generator=g)
    y[:, 0] = END
    for b in range(1, rows):
        x[b, -b:], x[b, -b - 1], y[b, target - b :] = PAD, END, PAD
    return SentencePair(x, y)


# Numbers of parameters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "d", "ff", "count"), [("base", 512, 2048, 63_082_496), ("big", 1024, 4096, 214_245_376)]
)
def test_published_parameters(name: str, d: int, ff: int, count: int) -> None:
    """Table 3 says 65 and 213 million. Six layers each; attention 4 (D D + D), feed-forward 2 D F + F + D, a norm 2 D."""
    with torch.device("meta"):
        net = zoo.create_model(f"transformer_{name}").net
    attention, feed, norm = 4 * (d * d + d), 2 * d * ff + ff + d, 2 * d
    formula = 37_000 * d + 6 * (attention + feed + 2 * norm) + 6 * (2 * attention + feed + 3 * norm)
    assert sum(p.numel() for p in net.parameters()) == formula == count
    assert abs(count / {"base": 65e6, "big": 213e6}[name] - 1) < 0.03


@pytest.mark.parametrize("which", SWITCHES)
def test_parameters_of_switches(which: str) -> None:
    options = {**SMALL, **SWITCHES[which]}
    with torch.device("meta"):
        net = Transformer(**options)
    d, gated = 16, which == "rotary"
    shared = {"output": 1, "all": 2}.get(options.get("tied", "none"), 0)
    embeddings = (options["source_vocab_size"] if shared < 2 else 0) * d + (1 if shared else 2) * 13 * d
    rows = d + 2 * (8 if which == "grouped" else d)  # of Q, K and V
    attention = rows * d + rows + d * d + d + (2 * 4 if which == "grouped" else 0)
    hidden = 8 * d // 3 if gated else 4 * d
    feed = (3 if gated else 2) * d * hidden + (2 if gated else 1) * hidden + d
    norm = d if gated else 2 * d
    layers = 2 * (attention + feed + 2 * norm) + 2 * (2 * attention + feed + 3 * norm)
    last = 2 * norm if options.get("norm_first") else 0
    positions = 2 * 9 * d if which == "learned" else 0
    assert sum(p.numel() for p in net.parameters()) == embeddings + layers + last + positions


# Against torch.nn ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("feed_forward", ["relu", "gelu"])
def test_logits_and_gradients_equal_torchs(norm_first: bool, feed_forward: Any) -> None:
    """With sources and targets of different lengths; the loss is of the tokens that are no padding."""
    ours, x = net_with(norm_first=norm_first, feed_forward=feed_forward), pair()
    theirs = TorchTwin(ours).double().train()
    y = torch.cat([x.target[:, 1:], x.target[:, :1]], dim=1)
    wanted, got = theirs(x), ours.train()(x)
    real = x.target != PAD
    torch.testing.assert_close(got[real], wanted[real], rtol=0, atol=1e-10)
    for logits in (got, wanted):
        F.cross_entropy(logits[real], y[real]).backward()
    named = dict(theirs.net.named_parameters())
    named |= {"encoder.embedding.weight": theirs.source.weight, "decoder.embedding.weight": theirs.target.weight}
    named["fc.weight"] = theirs.fc.weight
    assert named.keys() == dict(ours.named_parameters()).keys()
    for name, p in ours.named_parameters():
        assert p.grad is not None
        assert p.grad.abs().max() > 1e-6, name
        torch.testing.assert_close(
            p.grad, named[name].grad, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_embeddings_are_scaled_and_positions_are_the_formula() -> None:
    net, d = net_with(), 16
    read: list[Tensor] = []
    net.decoder.layers[0].register_forward_pre_hook(lambda _, args: read.append(args[0]))
    x = pair()
    net(x)
    for t in (0, 1, 6):
        for i in (0, 1, 7):
            angle = t / 10000 ** (2 * i / d)
            for k, added in ((2 * i, math.sin(angle)), (2 * i + 1, math.cos(angle))):
                wanted = net.decoder.embedding.weight[x.target[0, t], k].item() * math.sqrt(d) + added
                assert read[0][0, t, k].item() == pytest.approx(wanted, abs=1e-12)


def test_a_fresh_net_has_embeddings_of_variance_one_and_matrices_of_glorots() -> None:
    torch.manual_seed(0)
    net = Transformer(500, 500, padding=3, width=64, tied="all")
    embedded = net.encoder.embed(torch.arange(4, 500))
    assert embedded.var().item() == pytest.approx(1, rel=0.05)
    assert not net.encoder.embedding.weight[3].any()
    for name, p in net.named_parameters():
        if "linear" in name or "out_proj" in name or "in_proj" in name:
            if p.ndim == 1:
                assert not p.any(), name
            else:
                assert p.abs().max().item() == pytest.approx(math.sqrt(6 / sum(p.shape)), rel=0.02), name


@pytest.mark.parametrize("tied", ["none", "output", "all"])
def test_what_is_tied_is_one_parameter(tied: Any) -> None:
    net = Transformer(13, 13, width=16, num_layers=1, num_heads=2, tied=tied)
    weights = [net.fc.weight, net.decoder.embedding.weight, net.encoder.embedding.weight]
    assert len({id(weight) for weight in weights}) == {"none": 3, "output": 2, "all": 1}[tied]
    task = TransformerSeq2Seq(13, 13, width=16, num_layers=1, num_heads=2, tied=tied, dropout=0.0)
    x = pair()
    batch = x, x.target.roll(-1, 1)
    report = check_module(task, batch, only=["gradients", "checkpoint", "folder", "hyperparameters"])
    assert set(report.values()) == {"ok"}


# What it must not see -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", SWITCHES)
def test_neither_the_future_nor_padding_changes_anything(which: str) -> None:
    net, x = net_with(**SWITCHES[which]), pair()
    before = net(x)
    changed = x.target.clone()
    changed[:, 4:] = (changed[:, 4:] + 3) % 11
    torch.testing.assert_close(net(SentencePair(x.source, changed))[:, :4], before[:, :4], rtol=0, atol=1e-12)
    more = SentencePair(F.pad(x.source, (0, 3), value=PAD), F.pad(x.target, (0, 2), value=PAD))
    if which != "learned":
        torch.testing.assert_close(net(more)[:, :7], before, rtol=0, atol=1e-12)
    alone = torch.cat([net(SentencePair(s[s != PAD][None], t[None])) for s, t in zip(*x, strict=True)])
    torch.testing.assert_close(alone, before, rtol=0, atol=1e-12)
    with torch.no_grad():
        net.encoder.embedding.weight[PAD] += 5  # what stands for padding, whatever it is
    if which != "all tied":
        real = x.target != PAD
        torch.testing.assert_close(net(x)[real], before[real], rtol=0, atol=1e-12)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_the_order_of_the_source_matters(positions: Any) -> None:
    net, x = net_with(positions=positions), pair()
    source = x.source[:1]  # without padding
    assert (net.encoder(source.flip(1)).flip(1) - net.encoder(source)).abs().max() > 1e-2
    if positions == "rotary":  # only distances matter: two more tokens before, which nobody looks at, change nothing
        longer = F.pad(source, (2, 0), value=PAD)
        mask = longer != PAD
        got = net.encoder.read(net.encoder.embed(longer), mask)[:, 2:]
        torch.testing.assert_close(got, net.encoder(source), rtol=0, atol=1e-12)


def test_every_source_token_is_seen() -> None:
    net, x = net_with(), pair()
    before = net(x)
    for s in range(6):
        changed = x.source.clone()
        changed[0, s] = changed[0, s] % 9 + 2
        after = net(SentencePair(changed, x.target))
        assert (after[0] - before[0]).abs().max() > 1e-6
        assert torch.equal(after[1:], before[1:])


def test_a_source_of_padding_alone_is_finite() -> None:
    net, x = net_with(), pair()
    x.source[0] = PAD
    logits = net(x)
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


# The cache ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", SWITCHES)
def test_step_by_step_is_the_whole(which: str) -> None:
    """With rows that are repeated, left out and exchanged on the way; a state that was given stays as it is."""
    net, x = net_with(**SWITCHES[which]), pair()
    wanted, state, rows = net(x), net.encode(x.source), torch.arange(4)
    for t in range(7):
        kept = [part.clone() for part in zoo.internals.tree_leaves(state) if isinstance(part, Tensor)]
        logits, after = net.step(x.target[rows, t], state)
        torch.testing.assert_close(logits, wanted[rows, t], rtol=0, atol=1e-10)
        same = [part for part in zoo.internals.tree_leaves(state) if isinstance(part, Tensor)]
        assert all(torch.equal(a, b) for a, b in zip(kept, same, strict=True))
        index = torch.tensor([[3, 0, 0, 1, 2], [4, 2, 0, 1, 3], [1, 0], [0, 1, 1], [0, 1, 2], [2, 1, 0], [0]][t])
        state, rows = net.reorder_state(after, index), rows[index]


def test_rows_of_other_targets_of_the_same_source_leave_its_keys_alone() -> None:
    """In a beam, hypotheses change places within their example: its memory need not be copied for that."""
    net, x = net_with(), pair(2)
    wide = net.reorder_state(net.encode(x.source), torch.tensor([0, 0, 1, 1]))
    _, state = net.step(torch.tensor([3, 4, 5, 6]), wide)
    within = net.reorder_state(state, torch.tensor([1, 1, 3, 2]))
    assert within.layers[0].memory is state.layers[0].memory
    assert within.mask is state.mask
    keys = state.layers[1].tokens.keys
    assert torch.equal(within.layers[1].tokens.keys, keys[[1, 1, 3, 2]])
    across = net.reorder_state(state, torch.tensor([2, 1]))
    assert torch.equal(across.layers[0].memory.keys, state.layers[0].memory.keys[[2, 1]])
    assert torch.equal(across.mask, state.mask[[2, 1]])
    assert across.sources.tolist() == [1, 0]


def test_gradients_flow_through_the_steps() -> None:
    net, x = net_with(), pair()
    net(x).square().sum().backward()
    wanted = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    state, total = net.encode(x.source), torch.zeros(())
    for t in range(7):
        logits, state = net.step(x.target[:, t], state)
        total = total + logits.square().sum()
    total.backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], rtol=1e-9, atol=1e-9)


def test_beam_search_finds_what_one_by_hand_finds() -> None:
    """Without a cache, sentence by sentence, in lists."""
    net, sources = net_of(32, 2).double(), sources_of(6, 8)
    with torch.no_grad():
        net.fc.weight[END] = 1.05 * net.fc.weight[93]  # sentences end where they would have had a frequent token
    found = by_beam(net, sources, 12)
    wanted = rows_of([beam_by_hand(net, row[row != PAD], BEAM, 12) for row in sources], 12)
    assert torch.equal(found, wanted)
    ends = [(row == END).any().item() for row in found]
    assert any(ends)
    assert not all(ends)


# The kernels --------------------------------------------------------------------------------------------------------------


def test_attention_is_torchs_kernel_without_masks_of_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    kernel = F.scaled_dot_product_attention

    def counted(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        mask = options["attn_mask"]
        calls.append(
            (q.shape[2], None if mask is None else tuple(mask.shape), options["is_causal"], options["dropout_p"])
        )
        return kernel(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    net, x = Transformer(**SMALL, attention_dropout=0.2).eval(), pair()
    net(x)
    padded = (4, 1, 1, 6)
    assert calls == [(6, padded, False, 0.0)] * 2 + [(7, None, True, 0.0), (7, padded, False, 0.0)] * 2
    calls.clear()
    net.train()(x)
    assert {dropout for *_, dropout in calls} == {0.2}
    state = net.eval().encode(x.source)
    calls.clear()
    for t in range(3):
        _, state = net.step(x.target[:, t], state)
    assert calls == [(1, None, False, 0.0), (1, padded, False, 0.0)] * 6


def test_dropout_acts_in_training_alone_on_embedded_tokens_and_on_each_part() -> None:
    torch.manual_seed(0)
    x = pair()
    for options in ({"dropout": 0.3}, {"dropout": 0.0, "attention_dropout": 0.3}):
        net: Any = Transformer(**SMALL, **options)
        assert not torch.equal(net(x), net(x))
        net.eval()
        assert torch.equal(net(x), net(x))
    net = Transformer(**{**SMALL, "width": 64}, dropout=0.3)
    for stack in (net.encoder, net.decoder):
        assert {layer.dropout.p for layer in stack.layers} == {0.3}
        read: list[Tensor] = []
        stack.layers[0].register_forward_pre_hook(lambda _, args, read=read: read.append(args[0]))
        net.train()(x)
        assert (read[0] == 0).double().mean().item() == pytest.approx(0.3, abs=0.04)


# Attention for drawing ----------------------------------------------------------------------------------------------------


def test_attention_is_the_softmax_of_the_last_layers_products() -> None:
    net, x = net_with(norm_first=True, num_kv_heads=2), pair()
    every = net.attention(x, layer=None, heads="all")
    assert every.shape == (4, 2, 4, 7, 6)
    assert torch.equal(net.attention(x), every[:, 1].mean(dim=1))
    assert torch.equal(net.attention(x, layer=0, heads="all"), every[:, 0])
    assert torch.equal(net.attention(x, layer=None), every.mean(dim=2))
    real = (x.source != PAD)[:, None].expand(-1, 7, -1)
    weights = net.attention(x)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(4, 7).double())
    assert not weights[~real].any()
    assert (weights[real] > 0).all()
    read: list[Tensor] = []
    last: Any = net.decoder.layers[1]
    last.multihead_attn.register_forward_pre_hook(lambda _, args: read.extend(args[:2]))
    net(x)
    w, b = last.multihead_attn.in_proj_weight, last.multihead_attn.in_proj_bias
    q = (read[0] @ w[:16].T + b[:16]).view(4, 7, 4, 4)
    k = (read[1] @ w[16:24].T + b[16:24]).view(4, 6, 2, 4).repeat_interleave(2, dim=2)
    scores = torch.einsum("bthd,bshd->bhts", q, k) / 2
    scores = scores.masked_fill((x.source == PAD)[:, None, None], -math.inf)
    torch.testing.assert_close(every[:, 1], scores.softmax(dim=3), rtol=0, atol=1e-12)


def test_a_task_that_translates() -> None:
    """The task's options beside those of the net: lengths of what is written, of sources, and their limits."""
    task = TransformerSeq2Seq(**SMALL, max_positions=9)
    assert (task.net.max_length, task.net.max_source_length) == (9, 9)
    assert task.has_attention
    assert task.longest() == 9
    with pytest.raises(ValueError, match="max_length is 10, and the net reads 9 tokens of a target at most"):
        task.longest(10)
    free = TransformerSeq2Seq(**SMALL, max_positions=None, positions="rotary")
    assert free.net(SentencePair(torch.ones(1, 2000, dtype=torch.long), torch.ones(1, 2, dtype=torch.long))).shape == (
        1,
        2,
        13,
    )


def test_layers_are_frozen_by_depth() -> None:
    task = TransformerSeq2Seq(**SMALL, norm_first=True)
    groups = task.layer_groups()
    assert [group[0] for group in groups] == [
        "encoder.embedding",
        "encoder.layers.0",
        "encoder.layers.1",
        "decoder.embedding",
        "decoder.layers.0",
        "decoder.layers.1",
        "fc",
    ]
    task.freeze("decoder.embedding")
    assert {name.partition(".")[0] for name, p in task.net.named_parameters() if p.requires_grad} == {"decoder", "fc"}
    tied = TransformerSeq2Seq(**SMALL | {"source_vocab_size": 13}, tied="all").freeze(-1)
    assert [name for name, p in tied.net.named_parameters() if p.requires_grad] == ["encoder.embedding.weight"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "3 heads do not divide a width of 16"),
        ({"num_heads": 0}, "0 heads do not divide a width of 16"),
        ({"num_heads": 16, "positions": "rotary"}, "must be even, got 1"),
        ({"num_kv_heads": 3}, "3 heads of keys and values cannot be shared by 4 heads of queries"),
        ({"num_layers": 0}, "the number of layers must be 1 or more, got 0"),
        ({"padding": 11}, r"padding must be a token, 0\.\.10, got 11"),
        ({"padding": -1}, r"padding must be a token, 0\.\.10, got -1"),
        ({"tied": "all"}, "must have one vocabulary, got 11 and 13 tokens: set tied='output'"),
        ({"tied": "both"}, "tied must be one of none, output, all, got 'both'"),
        ({"positions": "learned", "max_positions": None}, "learned positions are a vector for each.*set max_positions"),
        ({"positions": "relative"}, "positions must be one of sinusoidal, learned, rotary, got 'relative'"),
        ({"max_positions": 0}, "max_positions must be 1 or more, or None, got 0"),
        ({"dropout": 1.0}, r"dropout is a probability in \[0, 1\), got 1.0"),
        ({"norm": "batch"}, "norm must be one of layer, rms, got 'batch'"),
        ({"feed_forward": "tanh"}, "feed_forward must be one of relu, gelu.*got 'tanh'"),
        ({"vocab_size": 0}, "the vocabulary must have a token or more, got 0"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Transformer(**{**SMALL, **options})


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_what_is_longer_than_the_positions_is_refused(positions: Any) -> None:
    net = Transformer(**SMALL, positions=positions, max_positions=6)
    x = pair()
    message = (
        "a text of 7 tokens is longer than the 6 positions of the net: cut it, or build the net with max_positions=7"
    )
    with pytest.raises(ValueError, match=message):
        net(x)
    net(SentencePair(x.source, x.target[:, :6]))
    with pytest.raises(ValueError, match=message):
        net.encode(torch.ones(1, 7, dtype=torch.long))
    state = net.encode(x.source)
    for t in range(6):
        _, state = net.step(x.target[:, t], state)
    with pytest.raises(ValueError, match=message):
        net.step(x.target[:, 6], state)
