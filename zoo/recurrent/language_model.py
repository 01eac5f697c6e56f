"""Recurrent language model: Mikolov et al. 2010, "Recurrent Neural Network Based Language Model", Interspeech; dropout between its
parts as in Zaremba et al. 2014, arXiv:1409.2329.

Deviations: the output is one softmax over all tokens, where the first paper puts rare words into one class; dropout is off by
default, as the texts are small.
"""

from typing import Any, Unpack

from torch import Tensor, nn

from zoo.blocks.recurrent import Cell, InitialState, Recurrent
from zoo.registry import register
from zoo.tasks import LanguageModelTask, TaskArguments


class RecurrentLM(nn.Module):
    """Embedded tokens, recurrent layers, and a linear layer that gives the logits of the next token.

    Args:
        vocab_size: Size V of the vocabulary.
        cell: "rnn_tanh", "rnn_relu", "lstm" or "gru", see :class:`zoo.blocks.Recurrent`.
        width: Size W of the state of each layer.
        num_layers: Number of recurrent layers.
        embedding_dim: Size E of the embedding of a token; None: W.
        projection: Whether a linear map from W to E comes before the logits.
        tied: Whether the weights of the output are those of the embedding (Press and Wolf 2017, arXiv:1608.05859): they are one
            parameter. E must be W, or ``projection`` set.
        dropout: Probability in [0, 1) of dropping a value between embedding, layers and output in training (Zaremba et al.,
            fig. 2).
        initial_state: State before the first token, see :class:`zoo.blocks.Recurrent`.

    Shape:
        int64 ``(B, T)`` -> logits ``(B, T, V)``.

    Raises:
        ValueError: An argument out of its range, or sizes that cannot be tied.
    """

    head_name = "fc"

    def __init__(
        self,
        vocab_size: int = 256,
        cell: Cell = "lstm",
        width: int = 256,
        num_layers: int = 1,
        embedding_dim: int | None = None,
        projection: bool = False,
        tied: bool = False,
        dropout: float = 0.0,
        initial_state: InitialState = "zero",
    ) -> None:
        super().__init__()
        size = width if embedding_dim is None else embedding_dim
        if size < 1:
            raise ValueError(f"embedding_dim must be 1 or more, got {size}")
        if tied and size != width and not projection:
            raise ValueError(
                f"tied=True makes one matrix of embedding and output, so embedding_dim must be the width {width}, got {size}: set "
                "projection=True to map the one to the other, or leave embedding_dim out"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {dropout}")
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, size)
        self.dropout = nn.Dropout(dropout)
        between = dropout if num_layers > 1 else 0.0
        self.recurrent = Recurrent(size, width, cell, num_layers, dropout=between, initial_state=initial_state)
        self.projection = nn.Linear(width, size) if projection else nn.Identity()
        self.fc = nn.Linear(size if projection else width, vocab_size)
        if tied:
            nn.init.normal_(self.embedding.weight, std=size**-0.5)  # logits begin near 0, and the loss near ln V
            self.fc.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.read(x, None)[0]

    def read(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read tokens ``(B, T)`` from a state on; return the logits ``(B, T, V)`` and the state afterwards."""
        outputs, state = self.recurrent(self.dropout(self.embedding(x)), None, state)
        outputs = self.dropout(outputs.contiguous())  # drawn by rows, which several processes divide
        return self.fc(self.projection(outputs)), state

    def init_state(self, batch_size: int) -> Any:
        """Return the state before the first token."""
        return self.recurrent.init_state(batch_size)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read one token of each text, ``(B,)``; return the logits of the next, ``(B, V)``, and the new state."""
        logits, state = self.read(x_t[:, None], state)
        return logits[:, 0], state

    def reorder_state(self, state: Any, index: Tensor) -> Any:
        """Return the state of other texts: those at ``index``, int64 ``(N,)``."""
        return self.recurrent.reorder_state(state, index)


class RecurrentLanguageModel(LanguageModelTask):
    """:class:`RecurrentLM`, trained to predict the next token. Arguments: those of the net, then ``**task``."""

    net: RecurrentLM

    def __init__(
        self,
        vocab_size: int = 256,
        cell: Cell = "lstm",
        width: int = 256,
        num_layers: int = 1,
        embedding_dim: int | None = None,
        projection: bool = False,
        tied: bool = False,
        dropout: float = 0.0,
        initial_state: InitialState = "zero",
        **task: Unpack[TaskArguments],
    ) -> None:
        net = RecurrentLM(
            vocab_size=vocab_size,
            cell=cell,
            width=width,
            num_layers=num_layers,
            embedding_dim=embedding_dim,
            projection=projection,
            tied=tied,
            dropout=dropout,
            initial_state=initial_state,
        )
        super().__init__(net, vocab_size, **task)


register("rnn_lm", RecurrentLanguageModel, cell="rnn_tanh")
register("lstm_lm", RecurrentLanguageModel, cell="lstm")
register("gru_lm", RecurrentLanguageModel, cell="gru")
