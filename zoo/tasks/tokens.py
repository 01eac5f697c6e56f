"""What tasks share whose net reads a text as tokens: the shape of an example, the padding, texts as batches."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.blocks.vocabulary import Vocabulary
from zoo.tasks.base import Task

EXAMPLE_STEPS = 16  # of an example where no data told theirs


class TokenTask(Task):
    """A task whose net reads texts, int64 ``(B, T)``, padded at their end with the hyperparameter ``padding``.

    It has the hyperparameters ``vocab_size`` and ``padding``. Where a subclass says that it reads something else, nothing of this
    applies.
    """

    @property
    def padding(self) -> int | None:
        """Token beyond the end of a text; None if all are equally long."""
        padding: int | None = self.hparams["padding"]
        return padding

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example: its tokens, ``(T,)``."""
        return self.input_shape if self.input_shape is not None else (EXAMPLE_STEPS,)

    def example_inputs(self, batch_size: int = 1) -> tuple[Any, ...]:
        """Return texts of the first token that pads nothing; of what is no text, zeros."""
        if self.reads != "text":
            return super().example_inputs(batch_size)
        token = int(self.padding == 0 and self.hparams["vocab_size"] > 1)
        return (torch.full((batch_size, *self.example_shape), token, device=self.mean.device),)

    def setup(self, stage: str) -> None:
        """Refuse texts padded with another token than the net takes for the end.

        Raises:
            ValueError: They are.
        """
        vocabulary = getattr(getattr(self.trainer, "datamodule", None), "vocabulary", None)
        if self.reads == "text" and vocabulary is not None and vocabulary["padding"] != self.padding:
            raise ValueError(
                f"padding is {self.padding}, but the data pad their texts with {vocabulary['padding']}: leave padding out on the "
                f"command line, or build the model with padding={vocabulary['padding']}"
            )
        super().setup(stage)

    def batch_of(self, texts: Sequence[str]) -> Tensor:
        """Return texts as tokens, as :meth:`predict_step` takes them: int64 ``(B, T)``, padded, cut where the data cut them.

        Raises:
            ValueError: A text that cannot be read, or an empty one; or the model reads no texts.
        """
        if self.vocabulary is None:
            raise ValueError(f"this {type(self).__name__} has no vocabulary, so it cannot read text: train it on texts")
        vocabulary, most = Vocabulary(self.vocabulary), (self.preparation or {}).get("max_length")
        rows = [torch.tensor(vocabulary.encode(text)[:most], dtype=torch.long) for text in texts]
        if empty := [i for i, row in enumerate(rows) if not len(row)]:
            which = f"text {empty[0] + 1}" if len(texts) > 1 else "the text"
            raise ValueError(f"{which} is empty: there is nothing to read in it")
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.padding or 0)
        return padded.to(self.mean.device)
