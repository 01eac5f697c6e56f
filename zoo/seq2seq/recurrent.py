"""Recurrent encoder-decoder: Sutskever et al. 2014, "Sequence to Sequence Learning with Neural Networks", arXiv:1409.3215; Cho et
al. 2014, arXiv:1406.1078; with attention: Bahdanau et al. 2015, arXiv:1409.0473, Luong et al. 2015, arXiv:1508.04025.

Attention is built in the form of Luong et al., section 3: the decoder's state looks at the source after its step, so that all steps
of a target that is known are computed at once, by torch's fused kernels. Their ``input_feeding`` (section 3.3) goes step by step.

Deviations: with the additive score, which is that of Bahdanau et al., the attention still has this form, where theirs looks with
the state before the step, and feeds what it sees into the step. Sources are not reversed, which Sutskever et al. do; a
bidirectional encoder reads them in both directions. The decoder begins with the encoder's last state itself, of two directions
with a linear map of both, followed by tanh (of an LSTM's cell state without); the output has no maxout layer.
"""

from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor, nn

from zoo.blocks.recurrent import Cell, Recurrent, real_steps
from zoo.blocks.scored_attention import Score, ScoredAttention
from zoo.blocks.state import reorder_rows
from zoo.registry import register
from zoo.tasks import Seq2SeqArguments, Seq2SeqTask


class DecoderState(NamedTuple):
    """What the decoder goes on from: its own state, and what it knows of the source.

    Attributes:
        recurrent: State of the recurrent layers, ``(L, B, W)``, of an LSTM two.
        context: The encoder's last state, where each step reads it, ``(B, L W)``; else empty, ``(B, 0)``.
        fed: The attentional vector of the step before, where the next step reads it, ``(B, W)``; else empty, ``(B, 0)``.
        memory: Outputs of the encoder, ``(B, S, D)``; without attention empty, ``(B, 0, D)``.
        keys: What scores need of them, ``(B, S, k)``.
        mask: Which tokens of the source are real, bool ``(B, S)``.
    """

    recurrent: Any
    context: Tensor
    fed: Tensor
    memory: Tensor
    keys: Tensor
    mask: Tensor


class RecurrentEncoderDecoder(nn.Module):
    """Recurrent layers read the source; others begin with their last state, and write the target.

    Args:
        source_vocab_size: Number of tokens of the sources.
        vocab_size: Number of tokens V of the targets.
        padding: Token that pads both at their end.
        cell: "rnn_tanh", "rnn_relu", "lstm" or "gru", see :class:`zoo.blocks.Recurrent`.
        width: Size W of the state of each layer, in the encoder of each direction, too.
        num_layers: Number of layers of encoder and decoder.
        embedding_dim: Size E of the embedding of a token; None: W.
        bidirectional: Whether the encoder reads in both directions.
        feed_context: Whether each step of the decoder reads the encoder's last state (Cho et al.), not its beginning alone
            (Sutskever et al.).
        attention: Score with which the decoder's state s looks at the encoder's outputs h, see
            :class:`zoo.blocks.ScoredAttention`; None: it does not. "dot" and "scaled_dot" want one size of both, so an encoder of
            one direction.
        attention_size: k of the scores "reduced_rank" and "additive"; None: W.
        input_feeding: Whether each step reads the attentional vector of the step before; it makes training several times slower,
            as it goes step by step.
        dropout: Probability in [0, 1) of dropping a value between embedding, layers and output in training.

    Shape:
        source int64 ``(B, S)``, target ``(B, T)``, of a :class:`zoo.SentencePair` -> logits ``(B, T, V)``.

    Raises:
        ValueError: An argument out of its range, or arguments that do not go together.

    Example:
        >>> from zoo import SentencePair
        >>> net = RecurrentEncoderDecoder(9, 7, cell="gru", width=8, attention="dot")
        >>> pair = SentencePair(torch.ones(2, 5, dtype=torch.long), torch.ones(2, 3, dtype=torch.long))
        >>> net(pair).shape, net.attention(pair).shape
        (torch.Size([2, 3, 7]), torch.Size([2, 3, 5]))
    """

    head_name = "fc"

    def __init__(
        self,
        source_vocab_size: int = 256,
        vocab_size: int = 256,
        padding: int = 0,
        cell: Cell = "lstm",
        width: int = 256,
        num_layers: int = 1,
        embedding_dim: int | None = None,
        bidirectional: bool = False,
        feed_context: bool = False,
        attention: Score | None = None,
        attention_size: int | None = None,
        input_feeding: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        size = width if embedding_dim is None else embedding_dim
        if size < 1:
            raise ValueError(f"embedding_dim must be 1 or more, got {size}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {dropout}")
        if input_feeding and attention is None:
            raise ValueError("input_feeding=True feeds what attention has seen, and there is none: set attention")
        if attention in ("dot", "scaled_dot") and bidirectional:
            raise ValueError(
                f"attention={attention!r} multiplies states of one size, and a bidirectional encoder gives {2 * width} numbers, "
                f"the decoder {width}: set bidirectional=False, or attention='general', which has a matrix between them"
            )
        self.source_vocab_size, self.vocab_size, self.padding = source_vocab_size, vocab_size, padding
        self.feed_context, self.input_feeding = feed_context, input_feeding
        between = dropout if num_layers > 1 else 0.0
        self.source_embedding = nn.Embedding(source_vocab_size, size, padding_idx=padding)
        self.encoder = Recurrent(size, width, cell, num_layers, bidirectional=bidirectional, dropout=between)
        states = num_layers * (1 + (cell == "lstm")) if bidirectional else 0
        self.bridge = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(states))
        self.embedding = nn.Embedding(vocab_size, size, padding_idx=padding)
        read = size + feed_context * num_layers * width + input_feeding * width
        self.decoder = Recurrent(read, width, cell, num_layers, dropout=between)
        self.attend: ScoredAttention | None = None
        if attention is not None:
            k = width if attention_size is None else attention_size
            self.attend = ScoredAttention(width, self.encoder.out_features, attention, k)
            self.combine = nn.Linear(self.encoder.out_features + width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(width, vocab_size)

    @property
    def has_attention(self) -> bool:
        """Whether the decoder looks at the source."""
        return self.attend is not None

    def forward(self, x: Any) -> Tensor:
        return self._read(x.target, self.encode(x.source))[0]

    def attention(self, x: Any) -> Tensor:
        """Return how much each step of the target looks at each token of the source, ``(B, T, S)``; 0 at padding.

        Raises:
            TypeError: The net has no attention.
        """
        if self.attend is None:
            raise TypeError("this net has no attention: build it with attention='additive', say")
        return self._read(x.target, self.encode(x.source))[1]

    def encode(self, source: Tensor) -> DecoderState:
        """Read sources ``(B, S)``; return the state before the first token of the target."""
        lengths = (source != self.padding).sum(dim=1).clamp(min=1)
        outputs, state = self.encoder(self.dropout(self.source_embedding(source)), lengths)
        if self.encoder.directions == 2:
            state = self._bridged(state)
        h = state[0] if self.encoder.cell == "lstm" else state
        context = h.transpose(0, 1).flatten(1)  # (L, B, W) -> (B, L W)
        memory = outputs if self.has_attention else outputs[:, :0]
        return DecoderState(
            state,
            context if self.feed_context else context[:, :0],
            context.new_zeros(source.shape[0], self.decoder.width if self.input_feeding else 0),
            memory,
            memory if self.attend is None else self.attend.keys(memory),
            real_steps(lengths, source.shape[1]),
        )

    def _bridged(self, state: Any) -> Any:
        """The decoder's state from both directions of each layer: ``(2 L, B, W)`` -> ``(L, B, W)``, of an LSTM two."""
        layers, parts = self.encoder.num_layers, state if self.encoder.cell == "lstm" else (state,)
        made = []
        for i, part in enumerate(parts):
            both = part.unflatten(0, (layers, 2)).transpose(1, 2).flatten(2)  # (2 L, B, W) -> (L, B, 2 W)
            mapped = torch.stack([self.bridge[i * layers + n](both[n]) for n in range(layers)])
            made.append(mapped if i else mapped.tanh())  # a cell state has no bound
        return tuple(made) if self.encoder.cell == "lstm" else made[0]

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read one token of each target, ``(B,)``; return the logits of the next, ``(B, V)``, and the new state."""
        logits, _, state = self._read(tokens[:, None], state)
        return logits[:, 0], state

    def reorder_state(self, state: DecoderState, index: Tensor) -> DecoderState:
        """Return the state of other targets: those at ``index``, int64 ``(N,)``."""
        recurrent, *others = state
        return DecoderState(self.decoder.reorder_state(recurrent, index), *reorder_rows(others, index))

    def _read(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, Tensor, DecoderState]:
        """Read tokens ``(B, T)``: logits ``(B, T, V)``, weights of attention ``(B, T, S)``, and the state afterwards."""
        x = self.dropout(self.embedding(tokens))
        if self.feed_context:
            x = torch.cat([x, state.context.unsqueeze(1).expand(-1, x.shape[1], -1)], dim=2)  # (B, L W) -> (B, T, L W)
        if not self.input_feeding:
            y, weights, recurrent = self._decoded(x, state.recurrent, state)
            return self.fc(y), weights, state._replace(recurrent=recurrent)
        recurrent, fed, outputs, looks = state.recurrent, state.fed, [], []
        for x_t in x.split(1, dim=1):
            y, weights, recurrent = self._decoded(torch.cat([x_t, fed.unsqueeze(1)], dim=2), recurrent, state)
            fed = y[:, 0]
            outputs.append(y)
            looks.append(weights)
        logits = self.fc(torch.cat(outputs, dim=1))
        return logits, torch.cat(looks, dim=1), state._replace(recurrent=recurrent, fed=fed)

    def _decoded(self, x: Tensor, recurrent: Any, source: DecoderState) -> tuple[Tensor, Tensor, Any]:
        """What logits are made of, ``(B, T, W)``; the weights of attention, and the state of the recurrent layers afterwards."""
        outputs, recurrent = self.decoder(x, None, recurrent)
        outputs = self.dropout(outputs.contiguous())  # drawn by rows, which several processes divide
        if self.attend is None:
            return outputs, outputs[..., :0], recurrent
        seen, weights = self.attend(outputs, source.memory, source.mask, source.keys)
        return self.combine(torch.cat([seen, outputs], dim=2)).tanh(), weights, recurrent


class RecurrentSeq2Seq(Seq2SeqTask):
    """:class:`RecurrentEncoderDecoder`, trained to write targets. Arguments: those of the net, then ``**task``."""

    net: RecurrentEncoderDecoder

    def __init__(
        self,
        source_vocab_size: int = 256,
        vocab_size: int = 256,
        padding: int = 0,
        cell: Cell = "lstm",
        width: int = 256,
        num_layers: int = 1,
        embedding_dim: int | None = None,
        bidirectional: bool = False,
        feed_context: bool = False,
        attention: Score | None = None,
        attention_size: int | None = None,
        input_feeding: bool = False,
        dropout: float = 0.0,
        **task: Unpack[Seq2SeqArguments],
    ) -> None:
        net = RecurrentEncoderDecoder(
            source_vocab_size=source_vocab_size,
            vocab_size=vocab_size,
            padding=padding,
            cell=cell,
            width=width,
            num_layers=num_layers,
            embedding_dim=embedding_dim,
            bidirectional=bidirectional,
            feed_context=feed_context,
            attention=attention,
            attention_size=attention_size,
            input_feeding=input_feeding,
            dropout=dropout,
        )
        super().__init__(net, source_vocab_size, vocab_size, padding, **task)


register("rnn_seq2seq", RecurrentSeq2Seq, cell="rnn_tanh")
register("lstm_seq2seq", RecurrentSeq2Seq, cell="lstm")
register("gru_seq2seq", RecurrentSeq2Seq, cell="gru")
register("gru_attention_seq2seq", RecurrentSeq2Seq, cell="gru", bidirectional=True, attention="additive")
