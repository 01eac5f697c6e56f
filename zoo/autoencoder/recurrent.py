"""Recurrent autoencoder: Srivastava et al. 2015, "Unsupervised Learning of Video Representations using LSTMs", arXiv:1502.04681.

The encoder's last state is the code; a decoder goes on from it and writes the series, by default from its end to its beginning
(section 2.1: what was read last is written first).

Deviations from the paper: the decoder is the unconditioned one of section 2.2, and learns its first input, where the paper's is 0.
"""

from collections.abc import Sequence
from typing import Any, Literal, Unpack, get_args

import torch
from torch import Tensor, nn

from zoo.blocks import Cell, Recurrent, real_steps, reverse, split_series
from zoo.drawing import figures
from zoo.model import Makes, Reads
from zoo.registry import register
from zoo.tasks import ReconstructionArguments, ReconstructionTask
from zoo.tasks.base import input_of

Order = Literal["reversed", "same"]
_SHOWN = 4  # series that are drawn


class RecurrentAutoencoderNet(nn.Module):
    """Recurrent layers that read a series, recurrent layers that write it from their last state, and a linear layer.

    Args:
        input_shape: Shape (T, D) of a series; it reads any length, and without more :meth:`decode` writes T steps.
        width: Size W of the state of each layer. A code is the state of all layers, of an LSTM both h and c.
        cell: "rnn_tanh", "rnn_relu", "lstm" or "gru", see :class:`zoo.blocks.Recurrent`.
        num_layers: Number of layers of the encoder, and of the decoder.
        dropout: Probability in [0, 1) that an output of a layer below another one is dropped in training.
        order: Order in which the decoder writes the steps: "reversed", the last one first, or "same".

    Shape:
        ``(B, T, D)`` or a :class:`zoo.Series` -> ``(B, T, D)``, 0 beyond the end.

    Raises:
        ValueError: An argument out of its range, or series of another shape.
    """

    conditional = False

    def __init__(
        self,
        input_shape: Sequence[int] = (28, 28),
        width: int = 64,
        cell: Cell = "lstm",
        num_layers: int = 1,
        dropout: float = 0.0,
        order: Order = "reversed",
    ) -> None:
        super().__init__()
        if len(input_shape) != 2:
            raise ValueError(f"input_shape must be (T, D), steps and values of a step, got {tuple(input_shape)}")
        if order not in get_args(Order):
            raise ValueError(f"order must be one of {', '.join(get_args(Order))}, got {order!r}")
        self.input_shape, self.order = tuple(input_shape), order
        size = self.input_shape[1]
        self.encoder = Recurrent(size, width, cell, num_layers, dropout=dropout)
        self.decoder = Recurrent(width, width, cell, num_layers, dropout=dropout)
        self.start = nn.Parameter(torch.randn(width))
        self.fc = nn.Linear(width, size)
        self.latent_dim = width * num_layers * (2 if cell == "lstm" else 1)

    def encode(self, x: Any) -> Tensor:
        """Return the codes: the last state of all layers, ``(B, latent_dim)``."""
        _, state = self.encoder(*split_series(x))
        parts = torch.cat(state) if isinstance(state, tuple) else state  # (L, B, W) each
        return parts.transpose(0, 1).flatten(1)  # (L, B, W) -> (B, L, W) -> (B, L W)

    def decode(self, z: Tensor, lengths: Tensor | None = None, steps: int | None = None) -> Tensor:
        """Return the series of codes, ``(B, latent_dim)`` -> ``(B, T, D)``.

        Args:
            z: Codes.
            lengths: Number of steps of each series, ``(B,)``; None: all have T.
            steps: Number of steps T that are written; None: that of ``input_shape``.
        """
        steps = self.input_shape[0] if steps is None else steps
        parts = z.unflatten(1, (-1, self.decoder.width)).transpose(0, 1)  # (B, L W) -> (L, B, W)
        state: Any = parts.contiguous() if self.decoder.cell != "lstm" else parts.chunk(2)
        nothing = self.start.new_zeros(z.shape[0], steps - 1, self.decoder.width)
        first = self.start.expand(z.shape[0], 1, -1)
        written, _ = self.decoder(torch.cat([first, nothing], dim=1), lengths, state)
        output = self.fc(reverse(written, lengths) if self.order == "reversed" else written)
        return output if lengths is None else output.masked_fill(~real_steps(lengths, steps)[..., None], 0)

    def forward(self, x: Any) -> Tensor:
        values, lengths = split_series(x)
        return self.decode(self.encode(x), lengths, values.shape[1])

    def layer_groups(self) -> list[list[str]]:
        """Return two groups: the encoder, and all that decodes."""
        return [["encoder"], ["decoder", "start", "fc"]]


class RecurrentAutoencoder(ReconstructionTask):
    """A :class:`RecurrentAutoencoderNet` trained to reconstruct its input. Arguments: those of the net, then ``**task``.

    Each step of each series counts as an example does elsewhere: loss and metrics are means over all steps before the ends.

    Shape:
        batch: ``(x, y)`` or ``(x, y, weight)``; x: float ``(B, T, D)``, or a :class:`zoo.Series` where lengths differ; weight:
        ``(B,)``.

    Raises:
        ValueError: An argument out of its range, or corruption of series whose lengths differ.
    """

    net: RecurrentAutoencoderNet
    standardize_axis = -1
    padding = 0

    def __init__(
        self,
        input_shape: Sequence[int] = (28, 28),
        width: int = 64,
        cell: Cell = "lstm",
        num_layers: int = 1,
        dropout: float = 0.0,
        order: Order = "reversed",
        **task: Unpack[ReconstructionArguments],
    ) -> None:
        input_shape = list(input_shape)  # hyperparameters are what JSON gives back
        net = RecurrentAutoencoderNet(
            input_shape=input_shape, width=width, cell=cell, num_layers=num_layers, dropout=dropout, order=order
        )
        super().__init__(net, **task)

    @property
    def reads(self) -> Reads:
        return "series"

    @property
    def data_kind(self) -> Makes:
        return "series"

    def to_data(self, raw: Tensor) -> Tensor:
        """Return the net's output in units of the data: ``(B, T, D)``."""
        return raw.sigmoid() if self.hparams["output"] == "sigmoid" else raw * self.std + self.mean

    def forward(self, x: Any, y: Tensor | None = None) -> Tensor:
        """Return the reconstruction, in units of the data; beyond the end it means nothing."""
        return self.to_data(self.net(self.standardize(x)))

    def outputs(self, x: Any, y: Tensor | None = None) -> dict[str, Tensor]:
        """Return ``reconstruction``, ``(B, T, D)`` in units of the data."""
        return {"reconstruction": self(x)}

    def corrupt(self, x: Any, repeatable: bool = True) -> Any:
        """Return a corrupted copy, see :meth:`ReconstructionTask.corrupt`.

        Raises:
            ValueError: Series whose lengths differ: what is drawn for one would depend on its padding.
        """
        if self.denoises and split_series(x)[1] is not None:
            raise ValueError(
                f"corruption={self.hparams['corruption']!r} is for series that are equally long, and these lengths differ: set "
                "corruption='none'"
            )
        return super().corrupt(x, repeatable) if self.denoises else x

    # Steps ----------------------------------------------------------------------------------------------------------

    def _losses(self, output: Tensor, x: Any, kind: str) -> Tensor:
        """The mean over the values of each step: ``(B, T, D)`` -> ``(B, T)``."""
        values = split_series(x)[0]
        return super()._losses(output.flatten(0, 1), values.flatten(0, 1), kind).view(values.shape[:2])

    def _by_step(self, batch: Any) -> tuple[Any, ...]:
        """A batch with a weight of each step, ``(B, T)``."""
        x, weight = batch[0], batch[2] if len(batch) > 2 else None
        values, lengths = split_series(x)
        rows, steps = values.shape[:2]
        counts = values.new_ones(rows, steps) if lengths is None else real_steps(lengths, steps).to(values.dtype)
        return x, None, counts if weight is None else counts * weight[:, None]

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Return the mean loss of the reconstruction over all steps."""
        return super().training_losses(self._by_step(batch))

    def update_metrics(self, metrics: dict[str, Any], batch: Any) -> None:
        super().update_metrics(metrics, self._by_step(batch))

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Any]:
        """Return ``reconstruction``, ``(B, T, D)`` in units of the data, and ``error``, its mean squared error ``(B,)``."""
        x = input_of(batch)
        made = self(x)
        weight = self._by_step((x, None))[2]
        errors = self._losses(made, x, "mse") * weight
        return {"reconstruction": made, "error": errors.sum(dim=1) / weight.sum(dim=1)}

    def render(self, batch: Any) -> dict[str, Any]:
        """Return pictures: some series over their reconstructions, a row a value, and codes of two numbers."""
        x, y = batch[0], batch[1]
        seen, lengths = self.corrupt(x), split_series(x)[1]
        one, two = (split_series(part)[0][:_SHOWN].float().cpu() for part in (seen, self.reconstruct(seen)))
        ends = [one.shape[1]] * len(one) if lengths is None else lengths[:_SHOWN].tolist()
        shown = {"reconstructions": figures.series_pairs(one, two, ends, ("input", "reconstruction"))}
        return shown | (
            self.render_codes(split_series(x)[0], y) if self.net.latent_dim == 2 and lengths is None else {}
        )


register("autoencoder_lstm", RecurrentAutoencoder, cell="lstm")
register("autoencoder_gru", RecurrentAutoencoder, cell="gru")
