"""Classifier of texts: the encoder of Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, and a linear layer.

The layer reads the mean of the tokens, or a token of its own, as in Devlin et al. 2019, "BERT", arXiv:1810.04805.

Deviations from BERT: the linear layer reads the class token as it is, without a layer before it; nothing was trained before.
"""

from typing import Literal, Unpack, get_args

import torch
from torch import Tensor, nn

from zoo.blocks import Classifier, FeedForward, Positions, TokenNorm
from zoo.model import Reads
from zoo.registry import register
from zoo.tasks import ClassificationArguments, ClassificationTask
from zoo.tasks.tokens import TokenTask
from zoo.transformer.encoder import TransformerEncoder

Pooling = Literal["mean", "class_token"]


class TextTransformer(Classifier):
    """A :class:`TransformerEncoder` of tokens, and a linear layer.

    Args:
        vocab_size: Number of tokens V.
        num_classes: Number of classes K.
        padding: Token that pads texts at their end; None if they are all equally long.
        pooling: What the linear layer reads: "mean" over the tokens of a text, or "class_token", a learned token before them.
        width, num_layers, num_heads, hidden_dim, dropout, attention_dropout: See :class:`zoo.transformer.Transformer`.
        positions, max_positions, norm, norm_first, feed_forward, num_kv_heads, qk_norm: The same; a class token has a position.

    Shape:
        int64 ``(B, T)`` -> logits ``(B, K)``.

    Raises:
        ValueError: An argument out of its range, or more tokens than positions.
    """

    class_token: Tensor | None

    def __init__(
        self,
        vocab_size: int = 256,
        num_classes: int = 10,
        padding: int | None = None,
        pooling: Pooling = "mean",
        width: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        hidden_dim: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        positions: Positions = "sinusoidal",
        max_positions: int | None = 1024,
        norm: TokenNorm = "layer",
        norm_first: bool = True,
        feed_forward: FeedForward = "gelu",
        num_kv_heads: int | None = None,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be one of {', '.join(get_args(Pooling))}, got {pooling!r}")
        self.vocab_size, self.padding, self.num_features = vocab_size, padding, width
        self.encoder = TransformerEncoder(
            vocab_size=vocab_size,
            padding=padding,
            cross=False,
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
        )
        token = nn.Parameter(torch.empty(width).normal_()) if pooling == "class_token" else None
        self.register_parameter("class_token", token)
        self.max_length = max_positions if max_positions is None or token is None else max_positions - 1
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.pooled(x))
        return logits

    def pooled(self, x: Tensor) -> Tensor:
        """Return what the linear layer reads: ``(B, T)`` -> ``(B, D)``."""
        real, embedded = self.encoder.real(x), self.encoder.embed(x)
        if self.class_token is not None:
            token = self.class_token.expand(x.shape[0], 1, -1)
            embedded = torch.cat([token, embedded], dim=1)  # (B, T, D) -> (B, 1 + T, D)
            real = None if real is None else torch.cat([torch.ones_like(real[:, :1]), real], dim=1)
            return self.encoder.read(embedded, real)[:, 0]
        states = self.encoder.read(embedded, real)
        if real is None:
            return states.mean(dim=1)
        weights = real.to(states.dtype) / real.sum(dim=1, keepdim=True)
        return (states * weights[..., None]).sum(dim=1)  # (B, T, D) -> (B, D)

    def layer_groups(self) -> list[list[str]]:
        """Return the embedding, each layer, and the head."""
        first, *groups = self.encoder.layer_groups("encoder")
        own = [] if self.class_token is None else ["class_token"]
        return [[*first, *own], *groups, [self.head_name]]


class TransformerClassifier(TokenTask, ClassificationTask):
    """A :class:`TextTransformer` trained as a classifier of texts. Arguments: those of the net, then ``**task``."""

    net: TextTransformer

    def __init__(
        self,
        vocab_size: int = 256,
        num_classes: int = 10,
        padding: int | None = None,
        pooling: Pooling = "mean",
        width: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        hidden_dim: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        positions: Positions = "sinusoidal",
        max_positions: int | None = 1024,
        norm: TokenNorm = "layer",
        norm_first: bool = True,
        feed_forward: FeedForward = "gelu",
        num_kv_heads: int | None = None,
        qk_norm: bool = False,
        **task: Unpack[ClassificationArguments],
    ) -> None:
        net = TextTransformer(
            vocab_size=vocab_size,
            num_classes=num_classes,
            padding=padding,
            pooling=pooling,
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
        )
        super().__init__(net, num_classes, **task)

    @property
    def reads(self) -> Reads:
        return "text"


register("transformer_classifier", TransformerClassifier)
