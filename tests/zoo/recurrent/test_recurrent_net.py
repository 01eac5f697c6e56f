"""The five forms of a recurrent net, each against loops over torch's cells, and the reading of tokens."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.blocks import Series
from zoo.recurrent import RecurrentNet, TokenNet

F64 = torch.float64
X, LENGTHS = torch.randn(4, 6, 3, dtype=F64), torch.tensor([6, 2, 5, 1])


def build(form: Any, **arguments: Any) -> RecurrentNet:
    net = RecurrentNet(3, 2, width=5, form=form, **{"cell": "gru", **arguments}).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.6)
    return net


def cell_of(net: RecurrentNet, i: int = 0) -> nn.GRUCell:
    """The step of one layer, with its weights."""
    cell = nn.GRUCell(net.recurrent.layers[i].weight_ih_l0.shape[1], 5).double()  # type: ignore[union-attr, index]
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in net.recurrent.layers[i].state_dict().items()})
    return cell


def walk(cell: nn.GRUCell, inputs: list[Tensor], h: Tensor | None = None) -> list[Tensor]:
    """The states of one sequence after each input ``(D,)``."""
    h, states = torch.zeros(5, dtype=F64) if h is None else h, []
    for x_t in inputs:
        h = cell(x_t, h)
        states.append(h)
    return states


NOTHING = torch.zeros(3, dtype=F64)


def test_one_to_one() -> None:
    net = build("one_to_one")
    wanted = torch.stack([net.fc(walk(cell_of(net), [x])[0]) for x in X[:, 0]])
    torch.testing.assert_close(net(X[:, 0]), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 4])
def test_one_to_many(steps: int) -> None:
    net = build("one_to_many", num_steps=steps)
    states = [walk(cell_of(net), [x, *[NOTHING] * (steps - 1)]) for x in X[:, 0]]
    wanted = torch.stack([net.fc(torch.stack(rows)) for rows in states])
    torch.testing.assert_close(net(X[:, 0]), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("form", ["many_to_one", "many_to_one_mean", "many_to_many", "many_to_many_after"])
def test_forms_that_read_many(form: str, padded: bool) -> None:
    net = build(form, **({"num_steps": 3} if form == "many_to_many_after" else {}))
    got = net(Series(X, LENGTHS) if padded else X)
    for b, n in enumerate(LENGTHS.tolist() if padded else [6] * 4):
        states = walk(cell_of(net), list(X[b, :n]))
        wanted = {
            "many_to_one": states[-1],
            "many_to_one_mean": torch.stack(states).mean(dim=0),
            "many_to_many": torch.stack(states),
            "many_to_many_after": torch.stack(walk(cell_of(net), [NOTHING] * 3, states[-1])),
        }[form]
        mine = got[b, :n] if form == "many_to_many" else got[b]
        torch.testing.assert_close(mine, net.fc(wanted), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", ["many_to_one", "many_to_one_mean", "many_to_many"])
def test_two_directions_end_at_both_ends(form: str) -> None:
    """The last state of the backward direction is that at the first step; it begins at each sequence's own end."""
    net, width = build(form, bidirectional=True), 5
    forward, backward = cell_of(net, 0), cell_of(net, 1)
    got = net(Series(X, LENGTHS))
    for b, n in enumerate(LENGTHS.tolist()):
        there, back = walk(forward, list(X[b, :n])), walk(backward, list(X[b, :n].flip(0)))
        both = torch.stack([torch.cat(pair) for pair in zip(there, back[::-1], strict=True)])
        assert both.shape == (n, 2 * width)
        wanted = {
            "many_to_one": torch.cat([there[-1], back[-1]]),
            "many_to_one_mean": both.mean(dim=0),
            "many_to_many": both,
        }[form]
        torch.testing.assert_close(
            got[b, :n] if form == "many_to_many" else got[b], net.fc(wanted), rtol=1e-12, atol=1e-12
        )


def test_an_lstm_goes_on_with_its_cell_state() -> None:
    """Which torch's kernel tells of the last step of the batch alone."""
    net = build("many_to_many_after", cell="lstm", num_layers=2, num_steps=3)
    got = net(Series(X, LENGTHS))
    for b, n in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(got[b : b + 1], net(X[b : b + 1, :n]), rtol=1e-12, atol=1e-12)


def test_step_by_step_in_step() -> None:
    net = build("many_to_many", num_layers=2)
    state, outputs = net.init_state(4), []
    for x_t in X.unbind(1):
        output, state = net.step(x_t, state)
        outputs.append(output)
    torch.testing.assert_close(torch.stack(outputs, dim=1), net(X), rtol=1e-12, atol=1e-12)
    kept = net.reorder_state(state, torch.tensor([2, 2]))
    torch.testing.assert_close(net.step(X[[2, 2], 0], kept)[0], net.step(X[:, 0], state)[0][[2, 2]])


def test_tokens_are_embedded_and_end_where_padding_begins() -> None:
    net = TokenNet(build("many_to_one"), vocab_size=7, padding=0).double()
    tokens = torch.tensor([[3, 5, 1, 2], [4, 4, 0, 0], [6, 0, 0, 0]])
    got = net(tokens)
    for row, n in zip(tokens, (4, 2, 1), strict=True):
        torch.testing.assert_close(net(row[None, :n]), got[(tokens == row).all(dim=1)], rtol=1e-12, atol=1e-12)
    assert not net.embedding.weight[0].any()
    everything = TokenNet(build("many_to_one"), vocab_size=7).double()  # 0 is a token as any other
    assert everything.lengths_of(tokens) is None
    assert not torch.allclose(everything(tokens)[2], everything(tokens[2:, :1])[0])


def test_an_empty_text_is_read_as_one_token_of_padding() -> None:
    net = TokenNet(build("many_to_one"), vocab_size=7, padding=0).double()
    torch.testing.assert_close(net(torch.zeros(1, 4, dtype=torch.long)), net(torch.zeros(1, 1, dtype=torch.long)))


def test_layer_groups_and_features() -> None:
    net = TokenNet(build("many_to_one", num_layers=2, bidirectional=True, initial_state="learned"), vocab_size=7)
    assert net.layer_groups() == [
        ["embedding"],
        ["net.recurrent.initial.0", "net.recurrent.layers.0", "net.recurrent.layers.1"],
        ["net.recurrent.layers.2", "net.recurrent.layers.3"],
        ["net.fc"],
    ]
    net.double().reset_head(0)
    assert net(torch.ones(2, 3, dtype=torch.long)).shape == (2, net.num_features) == (2, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "many"}, "form must be one of one_to_one, one_to_many, many_to_one, many_to_one_mean, many_to_many"),
        ({"form": "one_to_many"}, "writes a number of steps: num_steps must be 1 or more, got None"),
        ({"form": "many_to_many_after", "num_steps": 0}, "num_steps must be 1 or more, got 0"),
        ({"num_steps": 3}, "num_steps=3 is for the forms one_to_many and many_to_many_after, got form='many_to_one'"),
        ({"form": "one_to_many", "num_steps": 2, "bidirectional": True}, "has no other direction"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecurrentNet(**arguments)


@pytest.mark.parametrize(
    ("form", "arguments", "message"),
    [
        ("many_to_one", {"vocab_size": 0}, "vocab_size must be 1 or more, got 0"),
        ("many_to_one", {"vocab_size": 4, "padding": 4}, r"padding must be a token, 0..3, or None, got 4"),
        ("one_to_one", {"vocab_size": 4}, "form='one_to_one' reads one step of numbers"),
    ],
)
def test_tokens_are_checked(form: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenNet(build(form), **arguments)


def test_series_are_not_one_step() -> None:
    with pytest.raises(ValueError, match=r"form='one_to_one' reads one step, \(B, 3\), got \(4, 6, 3\)"):
        build("one_to_one")(X)
