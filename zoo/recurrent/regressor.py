"""Recurrent regressor: one or several numbers for a sequence, or for each of its steps."""

from typing import Any, Unpack

import torch
from torch import Tensor

from zoo.blocks import Cell, InitialState
from zoo.drawing import figures
from zoo.recurrent.net import Form
from zoo.recurrent.steps import SequenceTask, build_net
from zoo.registry import register
from zoo.tasks import RegressionArguments, RegressionTask


class SequenceRegressor(SequenceTask, RegressionTask):
    """A :class:`RecurrentNet` trained to predict numbers of sequences, or of their steps where it gives an output for each.

    Args:
        num_outputs: Number of outputs K.
        input_size: Number of values D of a step; of tokens, size of their embedding.
        width, cell, num_layers, bidirectional, dropout, initial_state, form, num_steps: See :class:`RecurrentNet`.
        vocab_size: Number of tokens V of the texts it reads; None: it reads numbers.
        padding: Token that pads texts at their end; None if all are equally long.
        task: Arguments of :class:`zoo.RegressionTask`.

    Shape:
        batch: See :class:`SequenceTask`; y float ``(B, K)``, by step ``(B, T, K)``; with one output also without K.

    Raises:
        ValueError: An argument out of its range, or targets of another shape.
    """

    def __init__(
        self,
        num_outputs: int = 1,
        input_size: int = 1,
        width: int = 128,
        cell: Cell = "lstm",
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        initial_state: InitialState = "zero",
        form: Form = "many_to_one",
        num_steps: int | None = None,
        vocab_size: int | None = None,
        padding: int | None = None,
        **task: Unpack[RegressionArguments],
    ) -> None:
        net = build_net(
            vocab_size=vocab_size,
            padding=padding,
            input_size=input_size,
            num_outputs=num_outputs,
            width=width,
            cell=cell,
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            initial_state=initial_state,
            form=form,
            num_steps=num_steps,
        )
        super().__init__(net, num_outputs, **task)

    def output_shape(self) -> tuple[int, ...]:
        steps = [self.hparams["num_steps"] or self.example_shape[0]] if self.by_step else []
        return (*steps, *super().output_shape())

    def standardized_output(self, x: Any) -> Tensor:
        """Return the net's output, by step that of all steps, ``(B T, K)``."""
        output = super().standardized_output(x)
        return output.flatten(0, 1) if self.by_step else output

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Return the mean loss over all residuals, by step those of all steps."""
        return super().training_losses(self.flattened(batch))

    def update_metrics(self, metrics: dict[str, Any], batch: Any) -> None:
        super().update_metrics(metrics, self.flattened(batch))

    @property
    def output_meaning(self) -> str:  # type: ignore[override]
        """What :meth:`outputs` gives."""
        return f"predictions {'of each step (B, T, K)' if self.by_step else '(B, K)'}, in the target's own unit"

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Any]:
        """Return ``value``, in the target's unit: ``(B, K)``, by step ``(B, T, K)``; with one output without K.

        By step, where lengths differ, ``lengths`` are returned too: beyond the end a value means nothing.
        """
        x = self.forward_args(batch)[0]
        value = self(x)
        value = value.to(torch.promote_types(value.dtype, torch.float32))
        counts = self.counting_steps(x, value.shape[1]) if self.by_step else None
        return {
            "value": value.squeeze(-1) if self.num_outputs == 1 else value,
            **({} if counts is None else {"lengths": counts.sum(dim=1)}),
        }

    @torch.no_grad()
    def render(self, batch: Any) -> dict[str, Any]:
        """Return pictures: predicted against true values, and the states of some sequences over their steps."""
        x, y, *weight = self.flattened(batch)
        target, output = y.view(-1, self.num_outputs), self(x).reshape(-1, self.num_outputs)
        if weight:
            counts = (weight[0] > 0).view(len(target), -1).all(dim=1)
            target, output = target[counts], output[counts]
        captions = [f"sequence {i + 1}" for i in range(len(batch[1]))]
        return {
            "scatter": figures.predicted_against_true(target, output),
            "states": self.draw_states(x, captions),
        }


register("rnn_regressor", SequenceRegressor, cell="rnn_tanh")
register("lstm_regressor", SequenceRegressor, cell="lstm")
register("gru_regressor", SequenceRegressor, cell="gru")
