"""Recurrent net: Elman 1990 (RNN), Hochreiter and Schmidhuber 1997 (LSTM), Cho et al. 2014, arXiv:1406.1078 (GRU).

It reads or writes a series in one of five forms (Karpathy 2015, "The Unreasonable Effectiveness of Recurrent Neural Networks").
Where a net writes a step and reads none, its input is 0: an unconditioned decoder in the words of Srivastava et al. 2015
(arXiv:1502.04681, section 2.2), here with the weights of the reader.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from zoo.blocks import Cell, Classifier, InitialState, Recurrent, Series, at_end, split_series

Form = Literal["one_to_one", "one_to_many", "many_to_one", "many_to_one_mean", "many_to_many", "many_to_many_after"]
WRITING = ("one_to_many", "many_to_many_after")  # forms that go on for a number of steps of their own
SINGLE = ("one_to_one", "one_to_many")  # forms that read one step


class RecurrentNet(Classifier):
    """Recurrent layers and a linear layer.

    Args:
        input_size: Number of values D of a step.
        num_outputs: Number of outputs K.
        width: Size W of the state of each layer and direction.
        cell: "rnn_tanh", "rnn_relu", "lstm" or "gru", see :class:`zoo.blocks.Recurrent`.
        num_layers: Number of recurrent layers.
        bidirectional: Whether each layer reads in both directions.
        dropout: Probability in [0, 1) that an output of a layer below another one is dropped in training.
        initial_state: State before the first step: "zero", "random" or "learned".
        form: What is read, and where outputs come from:
            "one_to_one": one step is read, and gives the output.
            "one_to_many": one step is read, and outputs are written at ``num_steps`` steps, the first of which is that one.
            "many_to_one": the last state of the uppermost layer, that of each direction at its own end, gives the output.
            "many_to_one_mean": the mean over the states at all steps does.
            "many_to_many": each step gives one, in step.
            "many_to_many_after": after the whole series is read, the net goes on from its last state for ``num_steps`` steps.
        num_steps: Number of steps S that a net writes, for the forms that do; None for others.

    Shape:
        ``(B, T, D)`` or a :class:`zoo.Series`, "one_to_one" and "one_to_many" ``(B, D)`` -> ``(B, K)``; "many_to_many"
        ``(B, T, K)``, which means nothing beyond the end of a sequence; "one_to_many" and "many_to_many_after" ``(B, S, K)``.

    Raises:
        ValueError: An argument out of its range, or series of another shape.

    Example:
        >>> net = RecurrentNet(3, 2, width=8, form="many_to_many")
        >>> net(Series(torch.rand(4, 5, 3), torch.tensor([5, 2, 3, 1]))).shape
        torch.Size([4, 5, 2])
    """

    def __init__(
        self,
        input_size: int = 1,
        num_outputs: int = 10,
        width: int = 128,
        cell: Cell = "lstm",
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        initial_state: InitialState = "zero",
        form: Form = "many_to_one",
        num_steps: int | None = None,
    ) -> None:
        super().__init__()
        if form not in get_args(Form):
            raise ValueError(f"form must be one of {', '.join(get_args(Form))}, got {form!r}")
        if form in WRITING and (num_steps is None or num_steps < 1):
            raise ValueError(f"form={form!r} writes a number of steps: num_steps must be 1 or more, got {num_steps}")
        if form not in WRITING and num_steps is not None:
            raise ValueError(f"num_steps={num_steps} is for the forms {' and '.join(WRITING)}, got form={form!r}")
        if form in WRITING and bidirectional:
            raise ValueError(
                f"form={form!r} goes on after the last step, which has no other direction: bidirectional=False"
            )
        self.input_size, self.form, self.num_steps = input_size, form, num_steps or 0
        self.recurrent = Recurrent(input_size, width, cell, num_layers, bidirectional, dropout, initial_state)
        self.num_features = self.recurrent.out_features
        self.fc = nn.Linear(self.num_features, num_outputs)

    @property
    def goes_by_step(self) -> bool:
        """Whether an output depends on the steps up to its own alone, so that the net can go step by step."""
        return self.form == "many_to_many" and self.recurrent.directions == 1

    def forward(self, x: Any) -> Tensor:
        states, lengths = self.hidden(x), split_series(x)[1]
        if self.form == "one_to_one":
            states = states[:, 0]
        elif self.form == "many_to_one":
            states = self._last(states, lengths)
        elif self.form == "many_to_one_mean":
            states = states.sum(dim=1) / (states.shape[1] if lengths is None else lengths[:, None])  # 0 beyond the end
        return self.fc(states)

    def hidden(self, x: Any) -> Tensor:
        """Return the states of the uppermost layer that outputs are made of, ``(B, T, W)``, or ``(B, S, W)`` of those written."""
        values, lengths = split_series(x)
        if self.form in SINGLE:
            if values.ndim != 2:
                raise ValueError(
                    f"form={self.form!r} reads one step, (B, {self.input_size}), got {tuple(values.shape)}"
                )
            values = values[:, None]  # (B, D) -> (B, 1, D)
        states, last = self.recurrent(values, None if self.goes_by_step else lengths)  # no end is seen before it
        if self.form not in WRITING:
            return states
        count = self.num_steps - (self.form == "one_to_many")
        nothing = values.new_zeros(values.shape[0], count, self.input_size)
        written = self.recurrent(nothing, None, last)[0] if count else states[:, :0]
        return torch.cat([states, written], dim=1) if self.form == "one_to_many" else written

    def _last(self, states: Tensor, lengths: Tensor | None) -> Tensor:
        """The last state of each direction: forwards that at the end, backwards that at the first step."""
        width = self.recurrent.width
        return torch.cat([at_end(states[..., :width], lengths), states[:, 0, width:]], dim=1)  # (B, T, W) -> (B, W)

    def init_state(self, batch_size: int) -> Any:
        """Return the state before the first step."""
        return self.recurrent.init_state(batch_size)

    def step(self, x_t: Any, state: Any) -> tuple[Tensor, Any]:
        """Read one step of each series, ``(B, D)``; return its output ``(B, K)`` and the next state: in step, form "many_to_many".

        Raises:
            ValueError: The net reads in both directions.
        """
        output, state = self.recurrent.step(split_series(x_t)[0], state)
        return self.fc(output), state

    def reorder_state(self, state: Any, index: Tensor) -> Any:
        """Return the state of other series: those at ``index``, int64 ``(N,)``."""
        return self.recurrent.reorder_state(state, index)

    def layer_groups(self) -> list[list[str]]:
        """Return each recurrent layer, and the head."""
        groups = [[f"recurrent.{name}" for name in names] for names in self.recurrent.layer_groups()]
        return [*groups, ["fc"]]


class TokenNet(Classifier):
    """An embedding of tokens, read by a :class:`RecurrentNet`.

    Args:
        net: Reads the embedded tokens; its ``input_size`` is the size of the embedding.
        vocab_size: Number of tokens V.
        padding: Token that pads texts at their end; None if they are all equally long. Its embedding is 0.

    Shape:
        int64 ``(B, T)`` -> as the net's.

    Raises:
        ValueError: An argument out of its range.
    """

    head_name = "net.fc"

    def __init__(self, net: RecurrentNet, vocab_size: int, padding: int | None = None) -> None:
        super().__init__()
        if vocab_size < 1:
            raise ValueError(f"vocab_size must be 1 or more, got {vocab_size}")
        if padding is not None and not 0 <= padding < vocab_size:
            raise ValueError(f"padding must be a token, 0..{vocab_size - 1}, or None, got {padding}")
        if net.form in SINGLE:
            raise ValueError(f"form={net.form!r} reads one step of numbers; tokens are read by forms that read many")
        self.vocab_size, self.padding = vocab_size, padding
        self.num_features, self.goes_by_step, self.form = net.num_features, net.goes_by_step, net.form
        self.embedding = nn.Embedding(vocab_size, net.input_size, padding_idx=padding)
        self.net = net

    def series(self, x: Tensor) -> Any:
        """Return the embedded tokens with their lengths."""
        values, lengths = self.embedding(x), self.lengths_of(x)  # (B, T) -> (B, T, D)
        return values if lengths is None else Series(values, lengths)

    def lengths_of(self, x: Tensor) -> Tensor | None:
        """Return the number of tokens of each text, 1 for an empty one: ``(B, T)`` -> ``(B,)``; None if nothing pads them."""
        return None if self.padding is None else (x != self.padding).sum(dim=1).clamp(min=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.series(x))

    def hidden(self, x: Tensor) -> Tensor:
        """Return the states that outputs are made of, see :meth:`RecurrentNet.hidden`."""
        return self.net.hidden(self.series(x))

    def init_state(self, batch_size: int) -> Any:
        """Return the state before the first token."""
        return self.net.init_state(batch_size)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read one token of each text, ``(B,)``; see :meth:`RecurrentNet.step`."""
        return self.net.step(self.embedding(x_t), state)

    def reorder_state(self, state: Any, index: Tensor) -> Any:
        """Return the state of other texts: those at ``index``, int64 ``(N,)``."""
        return self.net.reorder_state(state, index)

    def layer_groups(self) -> list[list[str]]:
        """Return the embedding, and the groups of the net."""
        return [["embedding"], *([f"net.{name}" for name in names] for names in self.net.layer_groups())]
