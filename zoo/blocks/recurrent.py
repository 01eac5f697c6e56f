"""Recurrent layers over series that are padded, never packed: torch's fused kernels, each sequence with its own end.

The cells are those of torch. "rnn_tanh", "rnn_relu": Elman 1990, "Finding Structure in Time". "lstm": Hochreiter and Schmidhuber
1997, with the forget gate of Gers et al. 2000. "gru": Cho et al. 2014, arXiv:1406.1078, in the form of their first version, which
cuDNN has too: the reset gate is applied after the recurrent matrix, ``n = tanh(W x + b + r * (U h + c))``, where the published
version multiplies before, ``U (r * h)``.

Deviations: torch has two biases a gate, of the input and of the recurrent matrix, which act as their sum.
"""

from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.blocks.state import reorder_rows
from zoo.internals import assert_on_device

Cell = Literal["rnn_tanh", "rnn_relu", "lstm", "gru"]
InitialState = Literal["zero", "random", "learned"]
State = Any  # a tensor (L, B, W); of an LSTM two of them, (h, c); L is layers times directions
_MODULES: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU}
_SATURATED = 1e4  # added to a gate it is exactly 0 or 1, in every floating-point type


class Series(NamedTuple):
    """Series of different lengths, padded with 0 at the end.

    Shape:
        values: float ``(B, T, D)``; lengths: int64 ``(B,)``, in 1..T.
    """

    values: Tensor
    lengths: Tensor


def split_series(x: Any) -> tuple[Tensor, Tensor | None]:
    """Return values and lengths of a batch of series: a :class:`Series` or another tuple with its fields, or a tensor alone."""
    lengths = getattr(x, "lengths", None)
    return (x, None) if lengths is None else (x.values, lengths)


def real_steps(lengths: Tensor, steps: int) -> Tensor:
    """Return which steps lie before the end of each sequence: ``(B,)`` -> bool ``(B, T)``."""
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def at_end(series: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the last step of each sequence: ``(B, T, D)`` -> ``(B, D)``."""
    if lengths is None:
        return series[:, -1]
    index = (lengths - 1)[:, None, None].expand(-1, 1, series.shape[2])
    return series.gather(1, index)[:, 0]


class Recurrent(nn.Module):
    """Recurrent layers, one over another, in one direction or in both.

    Steps beyond the end of a sequence change nothing: outputs, final state and gradients are those of the sequence by itself. Read
    backwards, each sequence begins at its own end.

    Args:
        in_features: Number of values D of a step, >= 1.
        width: Size W of the state of a layer and direction, >= 1.
        cell: "rnn_tanh", "rnn_relu", "lstm" or "gru".
        num_layers: Number of layers, >= 1. Each reads the outputs of the one below it.
        bidirectional: Whether each layer reads in both directions; its output is both states, forward first.
        dropout: Probability in [0, 1) that an output of a layer below another one is dropped in training.
        initial_state: State before the first step where none is given: "zero"; "learned", one parameter for each layer and
            direction; or "random": standard normal in training, another one for each sequence (Zimmermann et al. 2012,
            "Forecasting with Recurrent Neural Networks: 12 Tricks", section 2.2: the net learns to forget it), and its mean, 0, in
            evaluation.

    Shape:
        x ``(B, T, D)``, lengths ``(B,)`` -> outputs ``(B, T, W)``, with both directions ``(B, T, 2 W)``, 0 beyond the end; and the
        state at each sequence's own end ``(L, B, W)``, of an LSTM the tuple (h, c) of two such. L is the number of layers times
        that of directions, in torch's order: the directions of the first layer, of the second ...

    Raises:
        ValueError: An argument out of its range, or series of another shape.

    Example:
        >>> net = Recurrent(3, 8, cell="gru", num_layers=2)
        >>> outputs, state = net(torch.rand(4, 5, 3), torch.tensor([5, 2, 3, 1]))
        >>> outputs.shape, state.shape
        (torch.Size([4, 5, 8]), torch.Size([2, 4, 8]))
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        cell: Cell = "lstm",
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        initial_state: InitialState = "zero",
    ) -> None:
        super().__init__()
        for name, value in (("in_features", in_features), ("width", width), ("num_layers", num_layers)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        for name, chosen, known in (("cell", cell, Cell), ("initial_state", initial_state, InitialState)):
            if chosen not in get_args(known):
                raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, got {chosen!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {dropout}")
        if dropout and num_layers == 1:
            raise ValueError(f"dropout={dropout} acts between layers, and there is one: set dropout=0 or num_layers=2")
        self.in_features, self.width, self.cell = in_features, width, cell
        self.num_layers, self.directions = num_layers, 1 + bidirectional
        self.out_features = width * self.directions
        self.dropout, self.initial_state = dropout, initial_state
        sizes = [in_features, *[self.out_features] * (num_layers - 1)]
        self.layers = nn.ModuleList(_build(cell, size, width) for size in sizes for _ in range(self.directions))
        if initial_state == "learned":
            self.initial = nn.ParameterList(torch.zeros(len(self.layers), width) for _ in range(1 + (cell == "lstm")))

    def forward(self, x: Tensor, lengths: Tensor | None = None, state: State = None) -> tuple[Tensor, State]:
        """Return the outputs at all steps and the state after the last one.

        Args:
            x: Series, padded at the end.
            lengths: Number of steps of each sequence; None: all have T.
            state: State before the first step, as this method returns it; None: the initial state.
        """
        self._check(x, lengths)
        h = self.init_state(x.shape[0]) if state is None else state
        before: Any = h.unbind() if self.cell != "lstm" else list(zip(*h, strict=True))
        real = None if lengths is None else real_steps(lengths, x.shape[1])[..., None]  # (B, T, 1)
        after: list[Any] = []
        for i in range(0, len(self.layers), self.directions):
            if i and self.dropout:
                x = F.dropout(x.contiguous(), self.dropout, self.training)  # by rows: processes divide them
            outputs = []
            for direction in range(self.directions):
                ordered = x if direction == 0 else reverse(x, lengths)
                output, end = self._run(i + direction, ordered, before[i + direction], lengths, real)
                outputs.append(output if direction == 0 else reverse(output, lengths))
                after.append(end)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
        x = x if real is None else x.masked_fill(~real, 0)
        if self.cell != "lstm":
            return x, torch.stack(after)
        h, c = zip(*after, strict=True)
        return x, (torch.stack(h), torch.stack(c))

    def _run(self, i: int, x: Tensor, state: Any, lengths: Tensor | None, real: Tensor | None) -> tuple[Tensor, Any]:
        """Outputs of one layer in one direction, and its state at each sequence's own end: ``(B, W)``, of an LSTM two."""
        layer = self.layers[i]
        if self.cell != "lstm":
            output, h = layer(x, state[None].contiguous())  # (B, W) -> (1, B, W)
            return output, h[0] if lengths is None else at_end(output, lengths)
        state = tuple(part[None].contiguous() for part in state)
        if lengths is None or real is None:
            output, (h, c) = layer(x, state)
            return output, (h[0], c[0])
        output, c = _lstm_that_stops(layer, x, ~real, state)
        return output, (at_end(output, lengths), c)

    def init_state(self, batch_size: int) -> State:
        """Return the state before the first step: ``(L, B, W)``, of an LSTM the tuple (h, c) of two such."""
        count, weight = len(self.layers), next(self.layers.parameters())
        parts = []
        for part in range(1 + (self.cell == "lstm")):
            if self.initial_state == "learned":
                parts.append(self.initial[part][:, None].expand(-1, batch_size, -1))  # (L, W) -> (L, B, W)
            elif self.initial_state == "random" and self.training:
                drawn = torch.randn(batch_size, count, self.width, device=weight.device, dtype=weight.dtype)
                parts.append(drawn.transpose(0, 1))  # (B, L, W) -> (L, B, W): a row of the draw is of one sequence
            else:
                parts.append(weight.new_zeros(count, batch_size, self.width))
        return tuple(parts) if self.cell == "lstm" else parts[0]

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one step of each sequence: ``(B, D)`` -> output ``(B, W)`` and the next state.

        Raises:
            ValueError: The layers read in both directions.
        """
        if self.directions > 1:
            raise ValueError("bidirectional layers read whole sequences, not step by step: set bidirectional=False")
        output, state = self(x_t[:, None], None, state)
        return output[:, 0], state

    def reorder_state(self, state: State, index: Tensor) -> State:
        """Return the state of other sequences: those at ``index``, int64 ``(N,)``, which may repeat some and leave out others."""
        return reorder_rows(state, index, batch_axis=1)

    def layer_groups(self) -> list[list[str]]:
        """Return the names of the modules by layer, see :func:`zoo.blocks.layer_groups`."""
        first = [f"initial.{i}" for i in range(len(self.initial))] if self.initial_state == "learned" else []
        names = [f"layers.{i}" for i in range(len(self.layers))]
        groups = [names[i : i + self.directions] for i in range(0, len(names), self.directions)]
        return [first + groups[0], *groups[1:]]

    def extra_repr(self) -> str:
        return f"{self.cell}, initial_state={self.initial_state}, dropout={self.dropout:g}"

    def _check(self, x: Tensor, lengths: Tensor | None) -> None:
        if x.ndim != 3 or x.shape[2] != self.in_features:
            raise ValueError(f"series must have shape (B, T, {self.in_features}), got {tuple(x.shape)}")
        if lengths is None or torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return
        if lengths.shape != (len(x),):
            raise ValueError(f"lengths must be one number a sequence, {(len(x),)}, got {tuple(lengths.shape)}")
        if lengths.is_meta:  # shapes alone
            return
        if lengths.is_cuda:  # to look at them would be to wait for all that the GPU has to do
            assert_on_device(((lengths >= 1) & (lengths <= x.shape[1])).all(), "lengths must lie in 1..T")
            return
        shortest, longest = (int(n) for n in lengths.aminmax())
        if shortest < 1 or longest > x.shape[1]:
            raise ValueError(
                f"lengths must lie in 1..{x.shape[1]}, the number of steps, got {shortest if shortest < 1 else longest}"
            )


def _build(cell: Cell, in_features: int, width: int) -> nn.Module:
    """Return one layer in one direction."""
    if cell in _MODULES:
        module: nn.Module = _MODULES[cell](in_features, width, batch_first=True)
        return module
    return nn.RNN(in_features, width, batch_first=True, nonlinearity="relu" if cell == "rnn_relu" else "tanh")


def reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return each sequence from its own end to its beginning; padding stays behind it. It is its own inverse."""
    if lengths is None:
        return x.flip(1)
    places = torch.arange(x.shape[1], device=x.device)
    index = lengths[:, None] - 1 - places  # (B, T), negative beyond the end
    index = index.where(index >= 0, places)
    return x.gather(1, index[..., None].expand_as(x))


def _lstm_that_stops(layer: Any, x: Tensor, ended: Tensor, state: Any) -> tuple[Tensor, Tensor]:
    """Outputs ``(B, T, W)`` of one LSTM layer, and its cell state at each sequence's own end, ``(B, W)``.

    The kernel tells the cell state of the last step alone. Beyond the end the input gate is therefore held at 0 and the forget gate
    at 1, through one more input, so that the cell keeps what it has.
    """
    width = layer.hidden_size
    gates = x.new_zeros(4 * width, 1)  # torch's order: input, forget, cell, output
    gates[:width], gates[width : 2 * width] = -_SATURATED, _SATURATED
    weights = [torch.cat([layer.weight_ih_l0, gates], dim=1), layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0]
    longer = torch.cat([x, ended.to(x.dtype)], dim=2)
    output, _, c = torch.lstm(longer, state, weights, True, 1, 0.0, layer.training, False, True)
    return output, c[0]
