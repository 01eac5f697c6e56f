"""Recurrent layers against their equations in float64, torch's own modules, and each sequence by itself."""

from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from zoo.blocks import Recurrent, Series, at_end, real_steps, reverse, split_series
from zoo.blocks.recurrent import Cell
from zoo.tasks.shared_random import SharedRandom

CELLS = get_args(Cell)
LENGTHS = torch.tensor([7, 2, 4, 1])
F64 = torch.float64


def parts(state: Any) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def build(cell: Cell, **arguments: Any) -> Recurrent:
    """A net of 3 inputs and 5 units in float64, with weights that leave the linear range."""
    net = Recurrent(3, 5, cell, **arguments).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.6)
    return net


def series(steps: int = 7) -> Tensor:
    return torch.randn(4, steps, 3, dtype=F64)


def torchs(net: Recurrent) -> Any:
    """Torch's own module of all layers, with the same weights."""
    kind: Any = {"lstm": nn.LSTM, "gru": nn.GRU}.get(net.cell, nn.RNN)
    more = {"nonlinearity": net.cell[4:]} if kind is nn.RNN else {}
    theirs = kind(3, 5, net.num_layers, batch_first=True, bidirectional=net.directions == 2, **more).double()
    state = {}
    for i, layer in enumerate(net.layers):
        place = f"_l{i // net.directions}" + ("_reverse" if i % net.directions else "")
        state.update({name.replace("_l0", place): value for name, value in layer.state_dict().items()})
    theirs.load_state_dict(state, strict=True)
    return theirs


# Equations --------------------------------------------------------------------------------------------------------------


def by_hand(net: Recurrent, x: Tensor, biases: int, reset_before: bool = False) -> Tensor:
    """One sequence ``(T, D)``, step by step; with one bias a gate, or with torch's two kept apart."""
    w = {name: value.split(5) for name, value in net.layers[0].state_dict().items()}
    inputs, recurrent = w["weight_ih_l0"], w["weight_hh_l0"]
    if biases == 2:
        b, d = w["bias_ih_l0"], w["bias_hh_l0"]
    else:
        b = tuple(one + two for one, two in zip(w["bias_ih_l0"], w["bias_hh_l0"], strict=True))
        d = tuple(torch.zeros_like(part) for part in b)
    h = c = torch.zeros(5, dtype=F64)
    outputs = []
    for x_t in x:
        a = [inputs[k] @ x_t + b[k] for k in range(len(b))]
        u = [recurrent[k] @ h + d[k] for k in range(len(b))]
        if net.cell == "lstm":
            i, f, g, o = (a[k] + u[k] for k in range(4))
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        elif net.cell == "gru":
            r, z = torch.sigmoid(a[0] + u[0]), torch.sigmoid(a[1] + u[1])
            reset = recurrent[2] @ (r * h) + d[2] if reset_before else r * u[2]
            h = (1 - z) * torch.tanh(a[2] + reset) + z * h
        else:
            h = torch.tanh(a[0] + u[0]) if net.cell == "rnn_tanh" else (a[0] + u[0]).clamp(min=0)
        outputs.append(h)
    return torch.stack(outputs)


@pytest.mark.parametrize("cell", CELLS)
def test_equals_the_equations(cell: Cell) -> None:
    net, x = build(cell), series()
    outputs, state = net(x)
    wanted = torch.stack([by_hand(net, row, biases=2) for row in x])
    torch.testing.assert_close(outputs, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts(state)[0][0], wanted[:, -1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "lstm"])
def test_two_biases_act_as_their_sum(cell: Cell) -> None:
    net, x = build(cell), series()
    wanted = torch.stack([by_hand(net, row, biases=1) for row in x])
    torch.testing.assert_close(net(x)[0], wanted, rtol=1e-12, atol=1e-12)


def test_a_gru_resets_after_the_recurrent_matrix() -> None:
    """As in version 1 of Cho et al. 2014 and in cuDNN; the published form, U (r * h), is another function."""
    net, x = build("gru"), series()
    published = torch.stack([by_hand(net, row, biases=2, reset_before=True) for row in x])
    assert (net(x)[0] - published).abs().max() > 0.01
    with torch.no_grad():  # where nothing is reset, both are the same
        net.layers[0].bias_ih_l0[:5] = 1e4
    published = torch.stack([by_hand(net, row, biases=2, reset_before=True) for row in x])
    torch.testing.assert_close(net(x)[0], published, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_layers_and_directions_are_those_of_torch(cell: Cell, bidirectional: bool) -> None:
    net, x = build(cell, num_layers=3, bidirectional=bidirectional), series()
    count = 3 * (1 + bidirectional)
    before: Any = torch.randn(count, 4, 5, dtype=F64)
    before = (before, torch.randn(count, 4, 5, dtype=F64)) if cell == "lstm" else before
    for state in (None, before):
        outputs, after = net(x, None, state)
        wanted, theirs = torchs(net)(x, state)
        torch.testing.assert_close(outputs, wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(parts(after), parts(theirs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("cell", "gates"), [("rnn_tanh", 1), ("rnn_relu", 1), ("gru", 3), ("lstm", 4)])
def test_number_of_parameters(cell: Cell, gates: int) -> None:
    m, d = 17, 11
    with torch.device("meta"):
        one, both = Recurrent(d, m, cell), Recurrent(d, m, cell, num_layers=2, bidirectional=True)
    plain = m * m + d * m + m
    assert sum(p.numel() for p in one.parameters()) == gates * (plain + m)  # torch's second bias
    assert sum(p.numel() for p in both.parameters()) == 2 * gates * (plain + m + m * m + 2 * m * m + m + m)


# Lengths ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_padded_sequences_are_read_as_if_alone(cell: Cell, bidirectional: bool, layers: int) -> None:
    net, x = build(cell, num_layers=layers, bidirectional=bidirectional, initial_state="learned"), series()
    outputs, state = net(x, LENGTHS)
    alone = [net(x[b : b + 1, :n]) for b, n in enumerate(LENGTHS.tolist())]
    for b, (n, (wanted, _)) in enumerate(zip(LENGTHS.tolist(), alone, strict=True)):
        torch.testing.assert_close(outputs[b, :n], wanted[0], rtol=1e-12, atol=1e-12)
        assert not outputs[b, n:].any()  # 0 beyond the end
    ends = [torch.cat(rows, dim=1) for rows in zip(*(parts(after) for _, after in alone), strict=True)]
    torch.testing.assert_close(parts(state), tuple(ends), rtol=1e-12, atol=1e-12)

    readout = torch.randn_like(outputs)
    loss = (outputs * readout).sum() + sum((part * part).sum() for part in parts(state))
    by_itself = sum((o[0] * readout[b, : o.shape[1]]).sum() for b, (o, _) in enumerate(alone))
    by_itself = by_itself + sum((part * part).sum() for _, after in alone for part in parts(after))
    got, wanted_gradients = (torch.autograd.grad(value, list(net.parameters())) for value in (loss, by_itself))
    torch.testing.assert_close(got, wanted_gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_padded_sequences_are_what_torch_reads_packed(cell: Cell, bidirectional: bool) -> None:
    net, x = build(cell, num_layers=2, bidirectional=bidirectional), series()
    packed, theirs = torchs(net)(pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False))
    wanted, _ = pad_packed_sequence(packed, batch_first=True, total_length=7)
    outputs, state = net(x, LENGTHS)
    torch.testing.assert_close(outputs, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts(state), parts(theirs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_what_stands_beyond_the_end_changes_nothing(cell: Cell) -> None:
    net, x = build(cell, num_layers=2, bidirectional=True), series()
    x = x.masked_fill(~real_steps(LENGTHS, 7)[..., None], 0).requires_grad_()
    longer = torch.cat([x.detach(), 9 * torch.randn(4, 3, 3, dtype=F64)], dim=1)
    longer[1:, 4:] = 3.0
    outputs, state = net(x, LENGTHS)
    other, after = net(longer, LENGTHS)
    torch.testing.assert_close(other[:, :7], outputs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts(after), parts(state), rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(outputs.square().sum() + parts(state)[-1].sum(), x)
    assert not gradient[~real_steps(LENGTHS, 7)].any()


def test_the_cell_state_at_the_end_is_exact_in_float32() -> None:
    """The gates that hold it are saturated, whatever the weights."""
    net = Recurrent(3, 5)
    for p in net.parameters():
        nn.init.normal_(p, std=5.0)
    x, lengths = torch.randn(1, 300, 3), torch.tensor([3])
    (_, c), (_, wanted) = net(x, lengths)[1], net(x[:, :3])[1]
    torch.testing.assert_close(c, wanted, rtol=1e-6, atol=1e-6)


def test_helpers_of_series() -> None:
    values = torch.arange(8.0).view(2, 4, 1)
    assert split_series(values) == (values, None)
    got = split_series(Series(values, torch.tensor([1, 3])))
    assert got[0] is values
    assert got[1] is not None
    assert got[1].tolist() == [1, 3]
    assert real_steps(torch.tensor([1, 3]), 4).int().tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]
    assert at_end(values, torch.tensor([1, 3])).flatten().tolist() == [0, 6]
    assert at_end(values, None).flatten().tolist() == [3, 7]


def test_reverse_is_its_own_inverse_and_leaves_padding() -> None:
    x = torch.arange(8.0).view(2, 4, 1)
    assert reverse(x, torch.tensor([4, 2])).flatten().tolist() == [3, 2, 1, 0, 5, 4, 6, 7]
    assert torch.equal(reverse(reverse(x, torch.tensor([4, 2])), torch.tensor([4, 2])), x)
    assert reverse(x, None).flatten().tolist() == [3, 2, 1, 0, 7, 6, 5, 4]


# States -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_a_state_carries_on(cell: Cell) -> None:
    net, x = build(cell, num_layers=2), series(6)
    whole, last = net(x)
    state, pieces = None, []
    for start, end in pairwise([0, 1, 4, 6]):
        piece, state = net(x[:, start:end], None, state)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts(state), parts(last), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("initial_state", ["zero", "learned"])
@pytest.mark.parametrize("cell", CELLS)
def test_step_by_step_equals_the_forward_pass(cell: Cell, initial_state: Any) -> None:
    net, x = build(cell, num_layers=2, initial_state=initial_state), series(4)
    state, outputs = net.init_state(4), []
    for x_t in x.unbind(1):
        output, state = net.step(x_t, state)
        outputs.append(output)
    torch.testing.assert_close(torch.stack(outputs, dim=1), net(x)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_a_reordered_state_is_that_of_the_other_sequences(cell: Cell) -> None:
    net, x, index = build(cell, num_layers=2), series(), torch.tensor([3, 3, 0, 1, 1, 1])
    before = net.reorder_state(net(x)[1], index)
    torch.testing.assert_close(parts(before), parts(net(x[index])[1]), rtol=1e-12, atol=1e-12)
    assert all(part.shape == (2, 6, 5) for part in parts(before))


def test_a_learned_state_is_one_parameter_a_layer_and_direction() -> None:
    net, x = build("lstm", num_layers=2, bidirectional=True, initial_state="learned"), series()
    assert [p.shape for p in net.initial] == [(4, 5), (4, 5)]  # h and c
    net(x, LENGTHS)[0].sum().backward()
    for p in net.initial:
        assert p.grad is not None
        assert (p.grad != 0).all()
    given = tuple(p[:, None].expand(-1, 4, -1) for p in net.initial)
    assert torch.equal(net(x)[0], net(x, None, given)[0])
    assert not any(Recurrent(3, 5, initial_state="learned").initial[0].flatten())  # it starts at 0


def test_a_random_state_is_drawn_in_training_and_zero_in_evaluation() -> None:
    net, x = build("gru", num_layers=2, initial_state="random"), series()
    first, second = net(x)[0], net(x)[0]
    assert (first[:, 0] != second[:, 0]).all()
    draws = net.init_state(3000)
    assert draws.shape == (2, 3000, 5)
    assert abs(draws.mean()) < 0.03
    assert abs(draws.std() - 1) < 0.03
    net.eval()
    assert not net.init_state(3).any()
    assert torch.equal(net(x)[0], net(x)[0])


def test_processes_draw_states_and_dropout_of_one_stream() -> None:
    """Rank r of two has the rows r::2 of what one process draws."""
    net, x = build("lstm", num_layers=3, dropout=0.5, initial_state="random"), series()
    torch.manual_seed(5)
    with SharedRandom(batch_size=4, rank=0, world_size=1, seed=0):
        whole, _ = net(x)
    for rank in range(2):
        torch.manual_seed(5)
        with SharedRandom(batch_size=2, rank=rank, world_size=2, seed=0):
            mine, _ = net(x[rank::2])
        torch.testing.assert_close(mine, whole[rank::2], rtol=1e-12, atol=1e-12)


def test_dropout_acts_between_layers_in_training() -> None:
    """Neither on the input nor on the output: with all of it dropped, the last layer reads zeros."""
    net, x = build("gru", num_layers=2, dropout=0.999999), series()
    read: list[Tensor] = []
    net.layers[0].register_forward_pre_hook(lambda layer, args: read.append(args[0]))
    outputs, _ = net(x)
    assert torch.equal(read[0], x)
    wanted, _ = net.layers[1](torch.zeros(4, 7, 5, dtype=F64))
    torch.testing.assert_close(outputs, wanted, rtol=1e-12, atol=1e-12)
    assert torch.equal(net.eval()(x)[0], net(x)[0])
    assert not torch.allclose(net(x)[0], outputs)


# Bad input --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, "width must be 1 or more, got 0"),
        ({"in_features": 0}, "in_features must be 1 or more, got 0"),
        ({"num_layers": 0}, "num_layers must be 1 or more, got 0"),
        ({"cell": "rnn"}, "cell must be one of rnn_tanh, rnn_relu, lstm, gru, got 'rnn'"),
        ({"initial_state": "zeros"}, "initial_state must be one of zero, random, learned, got 'zeros'"),
        ({"num_layers": 2, "dropout": 1.0}, "dropout is a probability in"),
        ({"dropout": 0.1}, "acts between layers, and there is one"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recurrent(**{"in_features": 3, "width": 5, **arguments})


@pytest.mark.parametrize(
    ("shape", "lengths", "message"),
    [
        ((4, 7), None, r"series must have shape \(B, T, 3\), got \(4, 7\)"),
        ((4, 7, 2), None, r"series must have shape \(B, T, 3\), got \(4, 7, 2\)"),
        ((4, 7, 3), [7, 2, 0, 1], r"lengths must lie in 1..7, the number of steps, got 0"),
        ((4, 7, 3), [7, 2, 8, 1], r"lengths must lie in 1..7, the number of steps, got 8"),
        ((4, 7, 3), [7, 2], r"lengths must be one number a sequence, \(4,\), got \(2,\)"),
    ],
)
def test_series_are_checked(shape: tuple[int, ...], lengths: list[int] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recurrent(3, 5)(torch.zeros(shape), None if lengths is None else torch.tensor(lengths))


def test_both_directions_are_not_read_step_by_step() -> None:
    net = Recurrent(3, 5, bidirectional=True)
    with pytest.raises(ValueError, match="read whole sequences, not step by step"):
        net.step(torch.zeros(2, 3), net.init_state(2))
