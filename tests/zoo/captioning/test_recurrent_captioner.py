"""Recurrent captioners: against the equations with torch's own cells, step by step; all captions at once, what is refused."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo import CaptionedImage
from zoo.blocks.skeleton import skeleton
from zoo.captioning import RecurrentCaptioner
from zoo.cnn import CIFARResNet
from zoo.decoding import beam_search, greedy
from zoo.encoders import ImageEncoder
from zoo.testing import check_module

V, W, E, D = 7, 5, 3, 16  # D: channels of the encoder's last map, of 3 x 2 cells
CELLS: dict[str, Any] = {"rnn_tanh": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}
CASES: dict[str, dict[str, Any]] = {
    "show and tell": {},
    "gru": {"cell": "gru", "embedding_dim": E},
    "rnn": {"cell": "rnn_tanh"},
    "show, attend and tell": {"attention": "additive", "embedding_dim": E},
    "no gate": {"attention": "additive", "gate": False},
    "gru, general": {"cell": "gru", "attention": "general", "embedding_dim": E},
    "dot": {"attention": "dot", "width": D},
    "scaled dot": {"cell": "rnn_tanh", "attention": "scaled_dot", "width": D},
    "reduced rank": {"cell": "gru", "attention": "reduced_rank", "positions": True},
    "positions": {"attention": "additive", "positions": True},
}


@torch.enable_grad()
def build(stage: int = -1, **arguments: Any) -> RecurrentCaptioner:
    torch.manual_seed(0)
    encoder = ImageEncoder(CIFARResNet(8, width=4), stage)
    net = RecurrentCaptioner(encoder, V, **{"width": W, **arguments}).double()
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    return net.eval()


def captioned() -> CaptionedImage:
    """Three images of 12 x 8 pixels with two captions each, of which some are shorter and one is missing."""
    caption = torch.tensor([[[1, 2, 3, 6], [1, 4, 0, 0]], [[1, 5, 0, 0], [1, 2, 2, 4]], [[1, 3, 3, 0], [0, 0, 0, 0]]])
    return CaptionedImage(torch.rand(3, 3, 12, 8, generator=torch.Generator().manual_seed(1)).double(), caption)


def cell_of(net: RecurrentCaptioner) -> Any:
    """The layer as one of torch's cells, which knows no series."""
    layer: Any = net.decoder.layers[0]
    cell = CELLS[net.decoder.cell](layer.input_size, layer.hidden_size).double()
    cell.load_state_dict({key.removesuffix("_l0"): tensor for key, tensor in layer.state_dict().items()})
    return cell


def scores(net: RecurrentCaptioner, h: Tensor, cells: Tensor) -> Tensor:
    """How well each cell of the map fits the state, by the formula of the score."""
    attend: Any = net.attend
    if attend.score == "additive":
        return torch.stack(
            [attend.v.weight[0] @ (attend.query.weight @ h + attend.key.weight @ a).tanh() for a in cells]
        )
    if attend.score == "reduced_rank":
        return torch.stack([(attend.query.weight @ h) @ (attend.key.weight @ a) for a in cells])
    if attend.score == "general":
        return torch.stack([h @ attend.key.weight @ a for a in cells])
    return torch.stack([h @ a for a in cells]) / (math.sqrt(len(h)) if attend.score == "scaled_dot" else 1)


def by_hand(net: RecurrentCaptioner, image: Tensor, caption: list[int]) -> tuple[Tensor, Tensor]:
    """Logits and weights of one caption of one image: cells, matrices, and no batch."""
    lstm, cell, attend = net.decoder.cell == "lstm", cell_of(net), net.attend
    feature_map = net.encoder.net.features(image[None])[-1][0]  # (D, h, w)
    rows, columns = feature_map.shape[1:]
    cells = torch.stack([feature_map[:, i, j] for i in range(rows) for j in range(columns)])
    mean = cells.mean(dim=0)
    zero = torch.zeros(net.decoder.width).double()
    if attend is None:
        state = cell(net.image.weight @ mean + net.image.bias, (zero, zero) if lstm else zero)
    else:
        ends = [(layer.weight @ mean + layer.bias).tanh() for layer in net.initial]
        state = tuple(ends) if lstm else ends[0]
    if net.positions is not None:
        for n, (i, j) in enumerate(itertools.product(range(rows), range(columns))):
            for k in range(D // 4):
                for axis, place in enumerate((i, j)):
                    angle = place / 10000 ** (2 * k / (D // 2))
                    cells[n, axis * D // 2 + 2 * k] += math.sin(angle)
                    cells[n, axis * D // 2 + 2 * k + 1] += math.cos(angle)
    logits, looks = [], []
    for token in caption:
        x = net.embedding.weight[token]
        if attend is None:
            state = cell(x, state)
            logits.append(net.fc.weight @ (state[0] if lstm else state) + net.fc.bias)
            continue
        before = state[0] if lstm else state
        exponentials = scores(net, before, cells).exp()
        weights = exponentials / exponentials.sum()
        seen = sum(weight * a for weight, a in zip(weights, cells, strict=True))
        if net.gate is not None:
            seen = seen / (1 + (-net.gate.weight[0] @ before - net.gate.bias[0]).exp())
        state = cell(torch.cat([x, seen]), state)
        after = state[0] if lstm else state
        y = x + net.hidden_output.weight @ after + net.hidden_output.bias + net.context_output.weight @ seen
        logits.append(net.fc.weight @ y + net.fc.bias)
        looks.append(weights)
    return torch.stack(logits), torch.stack(looks) if looks else torch.zeros(0)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_logits_and_attention_are_those_of_the_equations(case: str) -> None:
    """Of all captions of all images at once, in float64; and step by step the same."""
    net, x = build(**CASES[case]), captioned()
    logits = net(x)
    weights = net.attention(x) if net.has_attention else None
    assert logits.shape == (3, 2, 4, V)
    for b, r in itertools.product(range(3), range(2)):
        wanted, looks = by_hand(net, x.image[b], x.caption[b, r].tolist())
        torch.testing.assert_close(logits[b, r], wanted, rtol=0, atol=1e-12)
        if weights is not None:
            torch.testing.assert_close(weights[b, r], looks, rtol=0, atol=1e-12)
    state = net.encode(x.image)
    for t in range(4):
        step, state = net.step(x.caption[:, 0, t], state)
        torch.testing.assert_close(step, logits[:, 0, t], rtol=0, atol=1e-12)


def test_numbers_of_parameters() -> None:
    """Of an encoder with 40 channels, 50 tokens, W = 64 and E = 32, without those of the encoder."""
    with skeleton():
        counts = []
        for options in (
            {},
            {"cell": "gru"},
            {"attention": "additive"},
            {"attention": "additive", "positions": True},
            {"attention": "general", "gate": False},
            {"cell": "gru", "attention": "additive"},
        ):
            net = RecurrentCaptioner(ImageEncoder(CIFARResNet(8, width=10)), 50, width=64, embedding_dim=32, **options)
            counts.append(sum(p.numel() for name, p in net.named_parameters() if not name.startswith("encoder.")))
    words, rows = 50 * 32, (32 + 64 + 2) * 64  # of one gate of a cell that reads an embedding
    assert counts[:2] == [words + 4 * rows + 41 * 32 + 65 * 50, words + 3 * rows + 41 * 32 + 65 * 50]
    start, output = 41 * 64, 65 * 32 + 40 * 32 + 33 * 50
    additive, wider = 64 * (40 + 64 + 1), rows + 40 * 64  # of one gate of a cell that reads what is seen, too
    assert counts[2:] == [
        words + 2 * start + additive + 65 + 4 * wider + output,
        words + 2 * start + additive + 65 + 4 * wider + output,
        words + 2 * start + 64 * 40 + 4 * wider + output,
        words + start + additive + 65 + 3 * wider + output,
    ]


@torch.no_grad()
@pytest.mark.parametrize("case", ["show and tell", "show, attend and tell", "reduced rank"])
def test_greedy_and_beam_search_find_the_best_of_all_captions(case: str) -> None:
    """All sequences of three words and the end, up to four tokens, as captions of one batch; the beam holds all."""
    net, image = build(**CASES[case]), captioned().image
    net.fc.weight.mul_(8)  # far from alike
    words, end, longest = (2, 3, 4), 1, 4
    sequences = [(*body, end) for n in range(longest) for body in itertools.product(words, repeat=n)] + list(
        itertools.product(words, repeat=longest)
    )
    written = torch.zeros(len(sequences), longest, dtype=torch.long)
    for i, sequence in enumerate(sequences):
        written[i, : len(sequence)] = torch.tensor(sequence)
    read = torch.cat([torch.ones(len(written), 1, dtype=torch.long), written[:, :-1]], dim=1)
    logits = net(CaptionedImage(image, read.expand(3, -1, -1)))  # (B, R, T, V)
    each = logits.log_softmax(dim=3).gather(3, written.expand(3, -1, -1)[..., None])[..., 0]
    real = (written != 0).double()
    means = (each * real).sum(dim=2) / real.sum(dim=1)  # (B, R)
    rules: dict[str, Any] = {"end": end, "padding": 0, "forbid": [0, 5, 6]}
    start = torch.ones(3, dtype=torch.long)
    made = beam_search(net, net.encode(image), start, longest, beam=3**3 * 4, best=2, **rules)  # all that go on
    for b in range(3):
        best = means[b].topk(2)
        torch.testing.assert_close(made.scores[b], best.values, rtol=0, atol=1e-12)
        for n, i in enumerate(best.indices.tolist()):
            assert made.tokens[b, n, : made.lengths[b, n]].tolist() == list(sequences[i])
    for b, (row, length) in enumerate(zip(*greedy(net, net.encode(image), start, longest, **rules)[:2], strict=True)):
        prefix: list[int] = []
        for token in row[:length].tolist():
            options = [s for s in sequences if list(s[: len(prefix)]) == prefix and len(s) > len(prefix)]
            i = max(range(len(options)), key=lambda i: float(each[b, sequences.index(options[i]), len(prefix)]))
            assert options[i][len(prefix)] == token
            prefix.append(token)


@torch.no_grad()
def test_scores_of_zero_see_the_mean_of_the_map() -> None:
    net, x = build(attention="additive"), captioned()
    assert net.attend is not None
    net.attend.v.weight.zero_()
    torch.testing.assert_close(
        net.attention(x), torch.full((3, 2, 4, 6), 1 / 6, dtype=torch.float64), rtol=0, atol=1e-15
    )


@torch.no_grad()
def test_a_closed_gate_sees_nothing() -> None:
    """From one state on, captions of all images are then the same."""
    net, x = build(attention="additive"), captioned()
    assert net.gate is not None
    state = net.encode(x.image)
    one = tuple(part[:, :1].expand(-1, 3, -1).contiguous() for part in state.recurrent)
    tokens = torch.full((3,), 2)
    opened, _ = net.step(tokens, state._replace(recurrent=one))
    net.gate.bias.fill_(-1e9)
    closed = []
    for i in range(3):  # each by itself: rows of one product may differ by rounding
        alone = tuple(part[:, :1].contiguous() for part in one)
        seen = state._replace(
            recurrent=alone, memory=state.memory[i : i + 1].clone(), keys=state.keys[i : i + 1].clone()
        )
        closed.append(net.step(tokens[:1], seen)[0])
    assert torch.equal(closed[0], closed[1])
    assert torch.equal(closed[0], closed[2])
    assert not torch.allclose(opened[0], opened[1])


@torch.no_grad()
def test_the_first_state_is_all_that_is_known_of_the_image_without_attention() -> None:
    net, x = build(), captioned()
    state = net.encode(x.image)
    assert state.memory.shape == (3, 0, D)
    assert state.keys.shape == (3, 0, D)
    one = tuple(part[:, :1].expand(-1, 3, -1).contiguous() for part in state.recurrent)
    logits, _ = net.step(torch.full((3,), 2), state._replace(recurrent=one))
    assert torch.equal(logits[0], logits[1])
    assert not net.has_attention
    with pytest.raises(TypeError, match="no attention"):
        net.attention(x)


@torch.no_grad()
def test_positions_tell_two_equal_parts_of_an_image_apart() -> None:
    """A uniform image, seen without borders, has one vector in all cells: only positions differ."""
    for positions in (False, True):
        net = build(attention="additive", positions=positions)
        net.encoder.net = Uniform()
        weights = net.attention(captioned())
        assert ((weights - 1 / 6).abs().amax() > 1e-3) == positions


class Uniform(nn.Module):
    in_channels = 3

    def features(self, x: Tensor) -> list[Tensor]:
        return [x.new_ones(len(x), D, 3, 2)] * 3


@pytest.mark.parametrize("case", ["gru", "show, attend and tell", "reduced rank"])
def test_the_contract_holds_for_every_form(case: str) -> None:
    """Padding, causality along the caption, step by step, reordered states; accumulated batches and several processes."""
    torch.manual_seed(0)
    args = {"encoder": "resnet20", "encoder_args": {"depth": 8, "width": 4, "norm": "layer"}}
    model = zoo.RecurrentCaptioning(**args, vocab_size=V, **{"width": 8, **CASES[case]})
    x = captioned()
    y = torch.tensor([[[2, 3, 6, 1], [4, 1, 0, 0]], [[5, 1, 0, 0], [2, 2, 4, 1]], [[3, 3, 1, 0], [0, 0, 0, 0]]])
    batch = CaptionedImage(x.image.float().repeat(2, 1, 1, 1), x.caption.repeat(2, 1, 1)), y.repeat(2, 1, 1)
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


@pytest.mark.parametrize("attention", [None, "additive"])
def test_dropout_acts_in_training_alone(attention: Any) -> None:
    net = build(attention=attention, dropout=0.5)
    assert torch.equal(net(captioned()), net(captioned()))
    net.train()
    net.encoder.eval()
    assert not torch.equal(net(captioned()), net(captioned()))
    with torch.no_grad():
        net.embedding.weight.zero_()  # so what is dropped of it makes no difference
    assert not torch.equal(net(captioned()), net(captioned()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"attention": "dot"},
            "attention='dot' multiplies vectors of one size, and the map has 16 channels, the state 5: set width=16, or "
            "attention='general'",
        ),
        ({"attention": "scaled_dot"}, "attention='scaled_dot' multiplies vectors of one size"),
        (
            {"positions": True},
            "positions=True tells attention where the cells of the map are, and there is none: set attention",
        ),
        ({"embedding_dim": 0}, "embedding_dim must be 1 or more, got 0"),
        ({"dropout": 1.0}, r"dropout is a probability in \[0, 1\), got 1.0"),
        (
            {"attention": "cosine"},
            "score must be one of dot, general, reduced_rank, additive, scaled_dot, got 'cosine'",
        ),
        ({"cell": "mlp"}, "cell must be one of rnn_tanh, rnn_relu, lstm, gru, got 'mlp'"),
        ({"width": 0, "embedding_dim": 2}, "width must be 1 or more, got 0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)
