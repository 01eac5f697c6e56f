"""Recurrent classifier of sequences, or of each of their steps: Graves 2012, "Supervised Sequence Labelling with Recurrent Neural
Networks", Springer.
"""

from typing import Any, Unpack

import torch
from torch import Tensor

from zoo.blocks import Cell, InitialState, split_series
from zoo.recurrent.net import Form
from zoo.recurrent.steps import SequenceTask, build_net
from zoo.registry import register
from zoo.tasks import ClassificationArguments, ClassificationTask


class SequenceClassifier(SequenceTask, ClassificationTask):
    """A :class:`RecurrentNet` trained as a classifier of sequences, or of their steps where it gives an output for each.

    Args:
        num_classes: Number of classes K.
        input_size: Number of values D of a step; of tokens, size of their embedding.
        width, cell, num_layers, bidirectional, dropout, initial_state, form, num_steps: See :class:`RecurrentNet`.
        vocab_size: Number of tokens V of the texts it reads; None: it reads numbers.
        padding: Token that pads texts at their end; None if all are equally long.
        task: Arguments of :class:`zoo.ClassificationTask`.

    Shape:
        batch: See :class:`SequenceTask`; y int64 ``(B,)``, by step ``(B, T)``; multi-label ``(B, K)``, by step ``(B, T, K)``.

    Raises:
        ValueError: An argument out of its range, or data with another number of classes.
    """

    def __init__(
        self,
        num_classes: int = 10,
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
        **task: Unpack[ClassificationArguments],
    ) -> None:
        net = build_net(
            vocab_size=vocab_size,
            padding=padding,
            input_size=input_size,
            num_outputs=num_classes,
            width=width,
            cell=cell,
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            initial_state=initial_state,
            form=form,
            num_steps=num_steps,
        )
        super().__init__(net, num_classes, **task)
        if self.by_step and self.mode == "multilabel" and task.get("class_weight") == "balanced":
            raise ValueError("class_weight='balanced' counts examples, not the labels of steps: give a list of weights")

    def output_shape(self) -> tuple[int, ...]:
        steps = [self.hparams["num_steps"] or self.example_shape[0]] if self.by_step else []
        return (*steps, *super().output_shape())

    def _outputs(self, x: Any) -> tuple[Tensor, list[Tensor]]:
        """Logits; by step those of all steps, ``(B T, K)``."""
        logits, others = super()._outputs(x)
        return (logits.flatten(0, 1) if self.by_step else logits), others

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Return the mean cross-entropy over all examples, by step over all steps; the accuracy is logged beside it."""
        return super().training_losses(self.flattened(batch))

    def update_metrics(self, metrics: dict[str, Any], batch: Any) -> None:
        super().update_metrics(metrics, self.flattened(batch))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Check the labels in the first epoch."""
        super().on_train_batch_start(self.flattened(batch), batch_idx)

    @property
    def output_meaning(self) -> str:  # type: ignore[override]
        """What :meth:`outputs` gives."""
        meaning = super().output_meaning
        return meaning.replace("(B,", "of each step (B, T,") if self.by_step else meaning

    def outputs(self, x: Any) -> dict[str, Tensor]:
        """Return ``probabilities``, ``(B, K)``, by step ``(B, T, K)``; in binary mode K is 2."""
        p = super().outputs(x)["probabilities"]
        rows = split_series(x)[0].shape[0]
        return {"probabilities": p.unflatten(0, (rows, -1)) if self.by_step else p}

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Any]:
        """Return the predicted labels.

        Returns:
            As :meth:`zoo.ClassificationTask.predict_step`; by step ``label`` is a list for each sequence, as long as it is,
            ``probability`` is ``(B, T)``, and ``probabilities`` ``(B, T, K)``.
        """
        if not self.by_step:
            return super().predict_step(batch, batch_idx)
        x = self.forward_args(batch)[0]
        p = self.outputs(x)["probabilities"]
        rows, steps = p.shape[:2]
        decided = self.decide(p.flatten(0, 1))
        chosen = p.flatten(0, 1)
        chosen = chosen.gather(1, decided[:, None])[:, 0] if decided.ndim == 1 else chosen.amax(dim=1)
        names = self._mode.names_of(decided, self.label_names)
        counts = self.counting_steps(x, steps)
        ends = [steps] * rows if counts is None else counts.sum(dim=1).tolist()
        return {
            "label": [names[i * steps : i * steps + end] for i, end in enumerate(ends)],
            "probability": chosen.unflatten(0, (rows, steps)),
            "probabilities": p,
        }

    @torch.no_grad()
    def render(self, batch: Any) -> dict[str, Any]:
        """Return pictures: the states of some sequences over their steps, and those of :class:`zoo.ClassificationTask`."""
        x, y = batch[0], batch[1]
        if not self.by_step:
            true, predicted = self._captions(y), self._captions(self.decide(self.outputs(x)["probabilities"]))
            captions = [f"true {a}, predicted {b}" for a, b in zip(true, predicted, strict=True)]
            return {"states": self.draw_states(x, captions), **super().render(batch)}
        _, target, *weight = self.flattened(batch)
        decided = self.decide(self.outputs(x)["probabilities"].flatten(0, 1))
        right = (decided == target.to(decided.dtype)).float().view(len(target), -1).mean(dim=1)
        counts = weight[0] > 0 if weight else torch.ones_like(right, dtype=torch.bool)
        by_row = [part.view(len(y), -1) for part in (right * counts, counts)]
        captions = [
            f"{hits:.0f} of {n} steps right" for hits, n in zip(*(r.sum(dim=1).tolist() for r in by_row), strict=True)
        ]
        return {"states": self.draw_states(x, captions), **self._confusion_pictures(decided[counts], target[counts])}


register("rnn_classifier", SequenceClassifier, cell="rnn_tanh")
register("lstm_classifier", SequenceClassifier, cell="lstm")
register("gru_classifier", SequenceClassifier, cell="gru")
