"""What encoders and decoders of texts share: embedded tokens with positions, layers over them, and the mask of padding."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.blocks import (
    Angles,
    FeedForward,
    Positions,
    TokenNorm,
    TransformerLayer,
    build_positions,
    build_token_norm,
    hidden_size,
)


class TransformerStack(nn.Module):
    """Embedded tokens, times sqrt(D), with their positions; and transformer layers, with a norm after the last where each part has
    one before it (Xiong et al. 2020).

    Args:
        vocab_size: Number of tokens V.
        padding: Token that pads texts at their end; None if nothing does.
        cross: Whether the layers attend to a memory, too.
        width: Width D of a token.
        num_layers: Number of layers, >= 1.
        num_heads: Number of heads, a divisor of the width.
        hidden_dim: Number of hidden units of the feed-forward nets; None: 4 D, of "swiglu" two thirds of it.
        dropout: Probability in [0, 1) of dropping a value of the embedded tokens and of each part's output in training.
        attention_dropout: Probability in [0, 1) of dropping an attention weight in training.
        positions: "sinusoidal", "learned" or "rotary".
        max_positions: Largest number of tokens; None, but for learned positions: any.
        norm, norm_first, feed_forward, num_kv_heads, qk_norm: See :class:`zoo.blocks.TransformerLayer`.

    Raises:
        ValueError: An argument out of its range.
    """

    layers: Any  # a list of TransformerLayer

    def __init__(
        self,
        vocab_size: int,
        padding: int | None,
        cross: bool,
        width: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int | None,
        dropout: float,
        attention_dropout: float,
        positions: Positions,
        max_positions: int | None,
        norm: TokenNorm,
        norm_first: bool,
        feed_forward: FeedForward,
        num_kv_heads: int | None,
        qk_norm: bool,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"the number of layers must be 1 or more, got {num_layers}")
        if vocab_size < 1:
            raise ValueError(f"the vocabulary must have a token or more, got {vocab_size}")
        if padding is not None and not 0 <= padding < vocab_size:
            raise ValueError(f"padding must be a token, 0..{vocab_size - 1}, got {padding}")
        if max_positions is not None and max_positions < 1:
            raise ValueError(f"max_positions must be 1 or more, or None, got {max_positions}")
        if max_positions is None and positions == "learned":
            raise ValueError(
                "learned positions are a vector for each, so their number must be given: set max_positions"
            )
        layers = [
            TransformerLayer(
                width=width,
                num_heads=num_heads,
                hidden_dim=hidden_size(width, feed_forward, hidden_dim),
                dropout=dropout,
                attention_dropout=attention_dropout,
                cross=cross,
                norm=norm,
                norm_first=norm_first,
                feed_forward=feed_forward,
                num_kv_heads=num_kv_heads,
                qk_norm=qk_norm,
            )
            for _ in range(num_layers)
        ]
        self.padding, self.scale, self.max_positions = padding, math.sqrt(width), max_positions
        self.embedding = nn.Embedding(vocab_size, width, padding_idx=padding)
        self.positions = build_positions(positions, width, num_heads, max_positions)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(layers)
        self.norm = build_token_norm(norm, width) if norm_first else nn.Identity()
        for layer in layers:
            initialize_layer(layer)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)  # times sqrt(D): of variance 1, as what is added to it
        if padding is not None:
            nn.init.zeros_(self.embedding.weight[padding])

    def real(self, tokens: Tensor) -> Tensor | None:
        """Return which tokens are no padding, the first one in any case: ``(B, T)`` -> bool ``(B, T)``; None if nothing pads."""
        if self.padding is None:
            return None
        first = torch.arange(tokens.shape[1], device=tokens.device) == 0  # an attention to nothing has no weights
        return (tokens != self.padding) | first

    def embed(self, tokens: Tensor) -> Tensor:
        """Return embedded tokens, without their positions: ``(B, T)`` -> ``(B, T, D)``."""
        embedded: Tensor = self.embedding(tokens) * self.scale
        return embedded

    def through(
        self, x: Tensor, start: int, apply: Callable[[TransformerLayer, Tensor, Angles | None], Tensor]
    ) -> Tensor:
        """Return what the layers make of embedded tokens ``(B, T, D)``, the first of which is at position ``start``.

        ``apply(layer, x, rotary)`` gives the output of a layer.

        Raises:
            ValueError: More tokens than positions.
        """
        self._check(start + x.shape[1])
        x, rotary = self.positions(x, start)
        x = self.dropout(x)
        for layer in self.layers:
            x = apply(layer, x, rotary)
        y: Tensor = self.norm(x)
        return y

    def _check(self, length: int) -> None:
        if self.max_positions is None or torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return
        if length > self.max_positions:
            raise ValueError(
                f"a text of {length} tokens is longer than the {self.max_positions} positions of the net: cut it, or build the net "
                f"with max_positions={length}; sinusoidal and rotary positions have no limit with max_positions=None, but beyond "
                "the lengths of its training a net predicts worse"
            )

    def layer_groups(self, name: str) -> list[list[str]]:
        """Return the names of the modules by depth, for a stack that is called ``name``."""
        groups = [["embedding", "positions", "dropout"], *([f"layers.{i}"] for i in range(len(self.layers)))]
        groups[-1] = [*groups[-1], "norm"]
        return [[f"{name}.{part}" for part in parts] for parts in groups]


class TransformerEncoder(TransformerStack):
    """A :class:`TransformerStack` without a memory, whose tokens attend to all others but padding.

    Shape:
        int64 ``(B, T)`` -> ``(B, T, D)``.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        return self.read(self.embed(tokens), self.real(tokens))

    def read(self, x: Tensor, real: Tensor | None) -> Tensor:
        """Return what the layers make of embedded tokens ``(B, T, D)``, of which those count that are ``real``, bool ``(B, T)``."""
        mask = None if real is None else real[:, None, None]  # (B, T) -> (B, 1, 1, T)
        return self.through(x, 0, lambda layer, h, rotary: layer(h, mask=mask, rotary=rotary))


def initialize_layer(layer: TransformerLayer) -> None:
    """Draw the matrices as Glorot and Bengio 2010 (Xavier), as most published implementations do; biases are 0."""
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
