"""What tasks with a recurrent net share: which steps count, the shape of an example, pictures of states."""

from typing import Any

import torch
from torch import Tensor

from zoo.blocks import real_steps, split_series
from zoo.drawing import figures
from zoo.model import Reads
from zoo.recurrent.net import SINGLE, WRITING, RecurrentNet, TokenNet
from zoo.tasks.tokens import EXAMPLE_STEPS, TokenTask

SHOWN = 4  # sequences whose states are drawn


class SequenceTask(TokenTask):
    """A task whose net is a :class:`RecurrentNet`, or a :class:`TokenNet` that embeds tokens for one.

    Where the net gives an output at each step, targets are given for each step too, and each step of each sequence counts as an
    example does elsewhere: loss and metrics are means over all steps before the ends, on all processes.

    Shape:
        batch: ``(x, y)`` or ``(x, y, weight)``. x: float ``(B, T, D)``, a :class:`zoo.Series` where lengths differ, or tokens
        ``(B, T)``. y: as the task's; by step ``(B, T, ...)``, where what stands beyond the end does not count. weight: ``(B,)``, or
        by step ``(B, T)``.
    """

    net: Any
    standardize_axis = -1

    @property
    def by_step(self) -> bool:
        """Whether there is an output for each step."""
        return self.hparams["form"] in ("many_to_many", *WRITING)

    @property
    def reads(self) -> Reads:
        if self.hparams["vocab_size"] is not None:
            return "text"
        return "row" if self.hparams["form"] in SINGLE else "series"

    @property
    def causal(self) -> bool:
        """Whether an output depends on the steps up to its own alone."""
        return bool(self.net.goes_by_step)

    @property
    def padding(self) -> int | None:
        """Token or value beyond the end of a sequence; None if all are equally long."""
        return {"text": self.hparams["padding"], "row": None}.get(self.reads, 0)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example: of series ``(T, D)``, of text ``(T,)``, of one step ``(D,)``."""
        if self.input_shape is not None:
            return self.input_shape
        return {"text": (EXAMPLE_STEPS,), "row": (self.hparams["input_size"],)}.get(
            self.reads, (EXAMPLE_STEPS, self.hparams["input_size"])
        )

    def setup(self, stage: str) -> None:
        """Refuse targets of steps that the net does not give, and what :class:`zoo.tasks.tokens.TokenTask` refuses.

        Raises:
            ValueError: They are.
        """
        data = getattr(self.trainer, "datamodule", None)
        if getattr(data, "in_step", False) and not self.by_step:
            raise ValueError(
                f"{type(data).__name__} has a target for each step, and form={self.hparams['form']!r} gives one output a sequence: "
                "build the model with form='many_to_many'"
            )
        super().setup(stage)

    # Steps ----------------------------------------------------------------------------------------------------------

    def lengths_of(self, x: Any) -> Tensor | None:
        """Return the lengths of sequences, ``(B,)``; None if all are as long as the batch, or are read in one step."""
        if self.reads == "text":
            lengths: Tensor | None = self.net.lengths_of(x)
            return lengths
        return split_series(x)[1]

    def counting_steps(self, x: Any, steps: int) -> Tensor | None:
        """Return which steps of the outputs count, bool ``(B, T)``; None if all do."""
        lengths = self.lengths_of(x) if self.hparams["form"] == "many_to_many" else None
        return None if lengths is None else real_steps(lengths, steps)

    def flattened(self, batch: Any) -> tuple[Any, ...]:
        """Return a batch whose targets and weights are those of all steps, ``(B T, ...)``; without steps as it is.

        Raises:
            ValueError: Targets or weights are not given for each step.
        """
        x, y, *rest = batch
        if not self.by_step:
            return (x, y, *rest)
        count = self.hparams["num_steps"] or split_series(x)[0].shape[1]
        weight: Tensor | None = rest[0] if rest else None
        if y.shape[1:2] != (count,) or (weight is not None and weight.ndim > 1 and weight.shape[1] != count):
            got = f"{tuple(y.shape)}" if y.shape[1:2] != (count,) else f"weights {tuple(weight.shape)}"  # type: ignore[union-attr]
            raise ValueError(
                f"form={self.hparams['form']!r} gives an output at each of {count} steps, so targets must have shape "
                f"(B, {count}, ...), got {got}: take form='many_to_one' for one target a sequence"
            )
        counts = self.counting_steps(x, count)
        if weight is not None and weight.ndim == 1:
            weight = weight[:, None].expand(-1, count)  # (B,) -> (B, T)
        if counts is not None:
            weight = torch.ones_like(counts, dtype=self.mean.dtype) if weight is None else weight
            y = y.masked_fill(~_widened(counts, y), 0)
            weight = weight * _widened(counts, weight)
        return (x, y.flatten(0, 1), *([] if weight is None else [weight.flatten(0, 1)]))

    # Pictures -------------------------------------------------------------------------------------------------------

    def draw_states(self, x: Any, captions: list[str]) -> Tensor:
        """Draw the states of the uppermost layer over the steps, of the first sequences with a caption each."""
        lengths = self.lengths_of(x) if self.hparams["form"] not in WRITING else None
        states = self.net.hidden(self.standardize(x))[:SHOWN].float().cpu()  # (B, T, W)
        ends = [states.shape[1]] * len(states) if lengths is None else lengths[:SHOWN].tolist()
        return figures.state_maps([row[:end].T for row, end in zip(states, ends, strict=True)], captions[:SHOWN])


def _widened(counts: Tensor, like: Tensor) -> Tensor:
    """``(B, T)`` with axes of 1 for all further ones of another tensor ``(B, T, ...)``."""
    return counts.view(*counts.shape, *[1] * (like.ndim - 2))


def build_net(
    vocab_size: int | None,
    padding: int | None,
    input_size: int,
    **net: Any,
) -> RecurrentNet | TokenNet:
    """Return a net that reads series of numbers, or tokens if there are any.

    Raises:
        ValueError: A padding, and no tokens.
    """
    recurrent = RecurrentNet(input_size=input_size, **net)
    if vocab_size is not None:
        return TokenNet(recurrent, vocab_size, padding)
    if padding is not None:
        raise ValueError(
            f"padding={padding} is a token, and this net reads numbers: set vocab_size, or leave padding out"
        )
    return recurrent
