"""Recurrent encoder-decoders: against the equations with torch's own cells, step by step; what is ignored, shown, refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo import SentencePair
from zoo.blocks.skeleton import skeleton
from zoo.seq2seq import RecurrentEncoderDecoder
from zoo.testing import check_module

SOURCES, TARGETS, W = 9, 7, 5
CELLS: dict[str, Any] = {"rnn_tanh": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}
CASES: dict[str, dict[str, Any]] = {
    "sutskever": {"cell": "lstm"},
    "two layers": {"cell": "gru", "num_layers": 2},
    "both directions": {"cell": "lstm", "num_layers": 2, "bidirectional": True},
    "cho": {"cell": "gru", "feed_context": True, "embedding_dim": 3},
    "cho, two layers": {"cell": "lstm", "num_layers": 2, "feed_context": True},
    "dot": {"cell": "gru", "attention": "dot"},
    "scaled dot": {"cell": "lstm", "attention": "scaled_dot"},
    "general": {"cell": "rnn_tanh", "attention": "general", "bidirectional": True},
    "reduced rank": {"cell": "gru", "attention": "reduced_rank", "attention_size": 2, "num_layers": 2},
    "additive": {"cell": "gru", "attention": "additive", "bidirectional": True},
    "input feeding": {"cell": "lstm", "attention": "general", "input_feeding": True, "num_layers": 2},
    "all": {"cell": "gru", "attention": "additive", "bidirectional": True, "input_feeding": True, "feed_context": True},
}


def build(**arguments: Any) -> RecurrentEncoderDecoder:
    torch.manual_seed(0)
    return RecurrentEncoderDecoder(SOURCES, TARGETS, width=W, **arguments).double().eval()


def pair() -> SentencePair:
    """Sources of five, three and one token, targets of four steps."""
    source = torch.tensor([[3, 4, 8, 2, 1], [5, 5, 1, 0, 0], [1, 0, 0, 0, 0]])
    return SentencePair(source, torch.tensor([[1, 2, 3, 6], [1, 5, 0, 0], [1, 3, 3, 0]]))


def cell_of(layer: nn.RNNBase, name: str) -> Any:
    """The layer as one of torch's cells, which knows no series."""
    cell = CELLS[name](layer.input_size, W).double()
    cell.load_state_dict({key.removesuffix("_l0"): tensor for key, tensor in layer.state_dict().items()})
    return cell


def by_hand(net: RecurrentEncoderDecoder, source: list[int], target: list[int]) -> tuple[Tensor, Tensor]:
    """Logits and weights of one pair without padding, one step after another: cells, matrices and no batch."""
    name, lstm = net.encoder.cell, net.encoder.cell == "lstm"
    zero = torch.zeros(W).double()

    def run(cell: Any, series: list[Tensor], state: Any) -> tuple[list[Tensor], Any]:
        outputs = []
        for x in series:
            state = cell(x, state)
            outputs.append(state[0] if lstm else state)
        return outputs, state

    series, ends = [net.source_embedding.weight[token] for token in source], []
    for i in range(0, len(net.encoder.layers), net.encoder.directions):
        start = (zero, zero) if lstm else zero
        outputs, end = run(cell_of(net.encoder.layers[i], name), series, start)
        if net.encoder.directions == 2:
            backwards, last = run(cell_of(net.encoder.layers[i + 1], name), series[::-1], start)
            outputs = [torch.cat(both) for both in zip(outputs, backwards[::-1], strict=True)]
            n, layer = net.encoder.num_layers, i // 2
            if lstm:
                joined = [torch.cat(parts) for parts in zip(end, last, strict=True)]
                end = net.bridge[layer](joined[0]).tanh(), net.bridge[n + layer](joined[1])
            else:
                end = net.bridge[layer](torch.cat([end, last])).tanh()
        ends.append(end)
        series = outputs
    memory = torch.stack(series)
    context = torch.cat([end[0] if lstm else end for end in ends])
    fed, logits, looks = zero, [], []
    cells = [cell_of(layer, name) for layer in net.decoder.layers]
    for token in target:
        x = net.embedding.weight[token]
        x = torch.cat([x, context]) if net.feed_context else x
        x = torch.cat([x, fed]) if net.input_feeding else x
        for i, cell in enumerate(cells):
            ends[i] = cell(x, ends[i])
            x = ends[i][0] if lstm else ends[i]
        if net.attend is not None:
            seen, weights = net.attend(x[None, None], memory[None])
            looks.append(weights[0, 0])
            x = fed = (net.combine.weight @ torch.cat([seen[0, 0], x])).tanh()
        logits.append(net.fc(x))
    return torch.stack(logits), torch.stack(looks) if looks else torch.zeros(0)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_attention_are_those_of_the_equations(case: str) -> None:
    """Of a padded batch, in float64; and step by step the same."""
    net, x = build(**CASES[case]), pair()
    logits = net(x)
    weights = net.attention(x) if net.has_attention else None
    state = net.encode(x.source)
    for t in range(4):
        step, state = net.step(x.target[:, t], state)
        torch.testing.assert_close(step, logits[:, t], rtol=0, atol=1e-12)
    for b, length in enumerate((5, 3, 1)):
        wanted, looks = by_hand(net, x.source[b, :length].tolist(), x.target[b].tolist())
        torch.testing.assert_close(logits[b], wanted, rtol=0, atol=1e-12)
        if weights is not None:
            torch.testing.assert_close(weights[b, :, :length], looks, rtol=0, atol=1e-12)
            assert (weights[b, :, length:] == 0).all()


def test_numbers_of_parameters() -> None:
    """Two embeddings, 2 GRUs of 3 (E W + W W + 2 W), the output; what a score adds is s h, k (s + h), k (s + h + 1)."""
    with skeleton():
        plain, *others = (
            sum(p.numel() for p in RecurrentEncoderDecoder(50, 60, cell="gru", width=64, **options).parameters())
            for options in (
                {},
                {"attention": "dot"},
                {"attention": "general"},
                {"attention": "reduced_rank", "attention_size": 10},
                {"attention": "additive", "attention_size": 10},
                {"attention": "additive", "bidirectional": True},
                {"feed_context": True},
            )
        )
    gru = 3 * (64 * 64 + 64 * 64 + 2 * 64)
    assert plain == 50 * 64 + 60 * 64 + 2 * gru + 65 * 60
    combined, both = 128 * 64, 192 * 64 + gru + 129 * 64  # the other direction, and the map of both ends
    assert [n - plain for n in others] == [
        combined,
        combined + 64 * 64,
        combined + 10 * (64 + 64),
        combined + 10 * (64 + 64 + 1),
        both + 64 * (64 + 128 + 1),
        3 * 64 * 64,
    ]


def test_the_last_state_is_all_that_is_known_of_the_source_without_attention() -> None:
    """The decoder of two sources is the same once it begins with the same state."""
    net, x = build(cell="gru"), pair()
    state = net.encode(x.source)
    one = state.recurrent[:, :1].expand(-1, 3, -1).contiguous()
    logits, _ = net.step(x.target[:, 0], state._replace(recurrent=one))
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-14)
    assert state.memory.numel() == state.context.numel() == state.fed.numel() == 0
    assert not net.has_attention
    with pytest.raises(TypeError, match="this net has no attention: build it with attention='additive', say"):
        net.attention(x)


@pytest.mark.parametrize("case", [case for case in CASES if "attention" in CASES[case]])
def test_attention_is_a_distribution_over_real_tokens(case: str) -> None:
    net, x = build(**CASES[case]), pair()
    weights = net.attention(x)
    assert weights.shape == (3, 4, 5)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(3, 4).double())
    assert (weights[x.source[:, None].expand(-1, 4, -1) == 0] == 0).all()


@pytest.mark.parametrize("case", ["both directions", "input feeding", "all"])
def test_the_contract_holds_for_every_form(case: str) -> None:
    """Padding, causality along the target, step by step, reordered states; accumulated batches and several processes."""
    torch.manual_seed(0)
    model = zoo.RecurrentSeq2Seq(SOURCES, TARGETS, width=8, **CASES[case])
    x, y = pair(), torch.tensor([[2, 3, 6, 1], [5, 1, 0, 0], [3, 3, 1, 0]])
    batch = SentencePair(*(part.repeat(2, 1) for part in x)), y.repeat(2, 1)
    batch[0].target[3:, 1] = 2  # series that differ
    checks = [
        "gradients",
        "independence",
        "causality",
        "padding",
        "incremental",
        "accumulation",
        "checkpoint",
        "folder",
    ]
    assert set(check_module(model, batch, only=checks).values()) == {"ok"}


def test_dropout_acts_in_training_alone() -> None:
    net = build(cell="gru", attention="dot", dropout=0.5, num_layers=2)
    assert torch.equal(net(pair()), net(pair()))
    net.train()
    assert not torch.equal(net(pair()), net(pair()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"attention": "dot", "bidirectional": True},
            "attention='dot' multiplies states of one size, and a bidirectional encoder gives 10 numbers, the decoder 5: set "
            "bidirectional=False, or attention='general'",
        ),
        ({"attention": "scaled_dot", "bidirectional": True}, "attention='scaled_dot' multiplies states of one size"),
        ({"input_feeding": True}, "input_feeding=True feeds what attention has seen, and there is none: set attention"),
        ({"embedding_dim": 0}, "embedding_dim must be 1 or more, got 0"),
        ({"dropout": 1.0}, r"dropout is a probability in \[0, 1\), got 1.0"),
        (
            {"attention": "cosine"},
            "score must be one of dot, general, reduced_rank, additive, scaled_dot, got 'cosine'",
        ),
        ({"attention": "additive", "attention_size": 0}, "size must be 1 or more, got 0"),
        ({"cell": "mlp"}, "cell must be one of rnn_tanh, rnn_relu, lstm, gru, got 'mlp'"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)
