"""Transformer: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762.

As published, the norm comes after each part; ``norm_first`` is the form of Xiong et al. 2020, arXiv:2002.04745, which trains
without a warm-up.

Deviations: attention has biases, which torch has and the authors' code (tensor2tensor) has not. Weights begin as in fairseq, as
the paper says nothing of them: matrices as Glorot and Bengio, embeddings with a deviation of 1 / sqrt(D).
"""

from typing import Any, Literal, NamedTuple, Unpack, get_args

import torch
from torch import Tensor, nn

from zoo.blocks import Angles, FeedForward, LayerState, Positions, TokenNorm, TransformerLayer, reorder_rows
from zoo.registry import register
from zoo.tasks import Seq2SeqArguments, Seq2SeqTask
from zoo.transformer.encoder import TransformerEncoder, TransformerStack

Tied = Literal["none", "output", "all"]


class TransformerState(NamedTuple):
    """What the decoder has read: of each target its tokens' keys and values; of each source those of its memory.

    Attributes:
        layers: The state of each layer, a row for each target.
        mask: Which tokens of the source are no padding, bool ``(B, 1, 1, S)``.
        sources: Number of the source of each target, int64 ``(B,)``.
    """

    layers: tuple[LayerState, ...]
    mask: Tensor | None
    sources: Tensor


def reorder_targets(state: TransformerState, index: Tensor) -> TransformerState:
    """Return the state of other targets: those at ``index``, int64 ``(N,)``.

    What depends on the source alone is left where it is if no target gets another source.
    """
    sources = state.sources.index_select(0, index)
    if torch.compiler.is_exporting() or not torch.equal(sources, state.sources):  # an exported graph has no branches
        layers, mask = reorder_rows((state.layers, state.mask), index)
        return TransformerState(layers, mask, sources)
    kept = (LayerState(reorder_rows(layer.tokens, index), layer.memory) for layer in state.layers)
    return state._replace(layers=tuple(kept))


class TransformerDecoder(TransformerStack):
    """A :class:`TransformerStack` whose tokens attend to themselves and those before, and to a memory.

    Shape:
        tokens int64 ``(B, T)``, memory ``(B, S, D)``, mask bool ``(B, 1, 1, S)`` or None -> ``(B, T, D)``.
    """

    def forward(self, tokens: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        options: dict[str, Any] = {"memory": memory, "causal": True, "memory_mask": mask}
        return self.through(self.embed(tokens), 0, lambda layer, x, rotary: layer(x, rotary=rotary, **options))

    def weights(self, tokens: Tensor, memory: Tensor, mask: Tensor | None) -> list[Tensor]:
        """Return the weights of each layer's attention to the memory, ``(B, heads, T, S)`` each."""
        found = []

        def apply(layer: TransformerLayer, x: Tensor, rotary: Angles | None) -> Tensor:
            x, weights = layer.with_weights(x, memory, causal=True, rotary=rotary, memory_mask=mask)
            found.append(weights["cross"])
            return x

        self.through(self.embed(tokens), 0, apply)
        return found

    def init_state(self, memory: Tensor, mask: Tensor | None = None) -> TransformerState:
        """Return the state before the first token of a target for each memory, ``(B, S, D)``: its keys and values."""
        count = memory.shape[0]
        layers = tuple(layer.init_state(count, memory) for layer in self.layers)
        return TransformerState(layers, mask, torch.arange(count, device=memory.device))

    def step(self, tokens: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """Read the next token of each target, ``(B,)`` -> ``(B, D)``."""
        before, after = iter(state.layers), []

        def apply(layer: TransformerLayer, x: Tensor, rotary: Angles | None) -> Tensor:
            x, read = layer.step(x, next(before), rotary, state.mask)
            after.append(read)
            return x

        start = state.layers[0].tokens.keys.shape[2]
        x = self.through(self.embed(tokens[:, None]), start, apply)
        return x[:, 0], state._replace(layers=tuple(after))


class Transformer(nn.Module):
    """An encoder of the source, and a decoder that attends to it and to the target up to each token (fig. 1).

    Args:
        source_vocab_size: Number of tokens of the source.
        vocab_size: Number of tokens V of the target.
        padding: Token that pads sources and targets at their end.
        width: Width D of a token (table 3: d_model).
        num_layers: Number of layers of the encoder, and of the decoder.
        num_heads: Number of heads, a divisor of the width.
        hidden_dim: Number of hidden units of the feed-forward nets (d_ff); None: 4 D, of "swiglu" two thirds of it.
        dropout: Probability in [0, 1) of dropping a value of the embedded tokens and of each part's output in training
            (section 5.4).
        attention_dropout: Probability in [0, 1) of dropping an attention weight in training.
        positions: "sinusoidal" as published, "learned", or "rotary" in the self-attention of both.
        max_positions: Largest number of tokens of a source, and of a target; None, but for learned positions: any. Beyond the
            lengths of the training a net reads on, but what it predicts gets worse.
        norm: "layer" or "rms".
        norm_first: Whether the norm comes before each part, and after the last layer, instead of after each part.
        feed_forward: "relu" as published, "gelu", "gelu_tanh", "swiglu" or "relu2", see :class:`zoo.blocks.TransformerLayer`.
        num_kv_heads: Number of heads of keys and values, a divisor of ``num_heads``; None: as many.
        qk_norm: Whether queries and keys are normalized.
        tied: Which matrices are one parameter: "none"; "output", the embedding of the target and the linear layer before the
            softmax; or "all", with the embedding of the source too, as published (section 3.4), where both have one vocabulary.

    Shape:
        :class:`zoo.SentencePair` of int64 ``(B, S)`` and ``(B, T)`` -> logits of the token after each of the target, ``(B, T, V)``.

    Raises:
        ValueError: An argument out of its range.
    """

    head_name = "fc"

    def __init__(
        self,
        source_vocab_size: int = 256,
        vocab_size: int = 256,
        padding: int = 0,
        width: int = 256,
        num_layers: int = 3,
        num_heads: int = 8,
        hidden_dim: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        positions: Positions = "sinusoidal",
        max_positions: int | None = 1024,
        norm: TokenNorm = "layer",
        norm_first: bool = False,
        feed_forward: FeedForward = "relu",
        num_kv_heads: int | None = None,
        qk_norm: bool = False,
        tied: Tied = "none",
    ) -> None:
        super().__init__()
        if tied not in get_args(Tied):
            raise ValueError(f"tied must be one of {', '.join(get_args(Tied))}, got {tied!r}")
        if tied == "all" and source_vocab_size != vocab_size:
            raise ValueError(
                f"tied='all' makes one matrix of both embeddings, so source and target must have one vocabulary, got "
                f"{source_vocab_size} and {vocab_size} tokens: set tied='output'"
            )
        options: dict[str, Any] = {
            "padding": padding,
            "width": width,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "hidden_dim": hidden_dim,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
            "positions": positions,
            "max_positions": max_positions,
            "norm": norm,
            "norm_first": norm_first,
            "feed_forward": feed_forward,
            "num_kv_heads": num_kv_heads,
            "qk_norm": qk_norm,
        }
        self.source_vocab_size, self.vocab_size, self.padding = source_vocab_size, vocab_size, padding
        self.max_length = self.max_source_length = max_positions
        self.encoder = TransformerEncoder(source_vocab_size, cross=False, **options)
        self.decoder = TransformerDecoder(vocab_size, cross=True, **options)
        self.fc = nn.Linear(width, vocab_size, bias=False)
        nn.init.xavier_uniform_(self.fc.weight)
        if tied != "none":
            self.fc.weight = self.decoder.embedding.weight
        if tied == "all":
            self.encoder.embedding.weight = self.decoder.embedding.weight

    def forward(self, x: Any) -> Tensor:
        memory, mask = self._read(x.source)
        logits: Tensor = self.fc(self.decoder(x.target, memory, mask))
        return logits

    def _read(self, source: Tensor) -> tuple[Tensor, Tensor | None]:
        """The memory ``(B, S, D)``, and which of it is no padding, ``(B, 1, 1, S)``."""
        real = self.encoder.real(source)
        return self.encoder.read(self.encoder.embed(source), real), None if real is None else real[:, None, None]

    def encode(self, source: Tensor) -> TransformerState:
        """Return the state before the first token of the target, for sources ``(B, S)``: the keys and values of their memory."""
        return self.decoder.init_state(*self._read(source))

    def step(self, tokens: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """Read one token of each target, ``(B,)``; return the logits of the next, ``(B, V)``, and the new state."""
        x, state = self.decoder.step(tokens, state)
        return self.fc(x), state

    def reorder_state(self, state: TransformerState, index: Tensor) -> TransformerState:
        """Return the state of other targets: those at ``index``, int64 ``(N,)``."""
        return reorder_targets(state, index)

    def attention(self, x: Any, layer: int | None = -1, heads: Literal["mean", "all"] = "mean") -> Tensor:
        """Return how much each token of the target attends to each of the source; rows sum to 1, and are 0 on padding.

        Args:
            x: Sources and targets.
            layer: Which of the decoder's layers; None: all, along a further axis after the batch's.
            heads: "mean" over the heads, or "all", along an axis before that of the target.

        Returns:
            ``(B, T, S)``; with all heads ``(B, heads, T, S)``; with all layers ``(B, layers, ...)``.
        """
        found = torch.stack(self.decoder.weights(x.target, *self._read(x.source)), dim=1)  # (B, layers, heads, T, S)
        found = found.mean(dim=2) if heads == "mean" else found
        return found if layer is None else found[:, layer]

    def layer_groups(self) -> list[list[str]]:
        """Return the embedding and the layers of the encoder, those of the decoder, and the head."""
        return [*self.encoder.layer_groups("encoder"), *self.decoder.layer_groups("decoder"), ["fc"]]


class TransformerSeq2Seq(Seq2SeqTask):
    """A :class:`Transformer` trained to write one text after it has read another. Arguments: those of the net, then ``**task``."""

    net: Transformer

    def __init__(
        self,
        source_vocab_size: int = 256,
        vocab_size: int = 256,
        padding: int = 0,
        width: int = 256,
        num_layers: int = 3,
        num_heads: int = 8,
        hidden_dim: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        positions: Positions = "sinusoidal",
        max_positions: int | None = 1024,
        norm: TokenNorm = "layer",
        norm_first: bool = False,
        feed_forward: FeedForward = "relu",
        num_kv_heads: int | None = None,
        qk_norm: bool = False,
        tied: Tied = "none",
        **task: Unpack[Seq2SeqArguments],
    ) -> None:
        net = Transformer(
            source_vocab_size=source_vocab_size,
            vocab_size=vocab_size,
            padding=padding,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            dropout=dropout,
            attention_dropout=attention_dropout,
            positions=positions,
            max_positions=max_positions,
            norm=norm,
            norm_first=norm_first,
            feed_forward=feed_forward,
            num_kv_heads=num_kv_heads,
            qk_norm=qk_norm,
            tied=tied,
        )
        super().__init__(net, source_vocab_size, vocab_size, padding, **task)


# section 5: 37,000 tokens shared by both languages, Adam, and label smoothing; its rates are callbacks.LRSchedule("inverse_sqrt")
_PUBLISHED: dict[str, Any] = {
    "source_vocab_size": 37000,
    "vocab_size": 37000,
    "num_layers": 6,
    "tied": "all",
    "optimizer": "Adam",
    "optimizer_args": {"betas": [0.9, 0.98], "eps": 1e-9},
    "label_smoothing": 0.1,
}
register("transformer_seq2seq", TransformerSeq2Seq)
# table 3; their peaks of the rate are D^-0.5 * 4000^-0.5
register(
    "transformer_base", TransformerSeq2Seq, width=512, num_heads=8, hidden_dim=2048, dropout=0.1, lr=7e-4, **_PUBLISHED
)
register(
    "transformer_big", TransformerSeq2Seq, width=1024, num_heads=16, hidden_dim=4096, dropout=0.3, lr=5e-4, **_PUBLISHED
)
