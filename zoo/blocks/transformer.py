"""The layer of transformers: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, and what later ones changed in it.

Norm before each part: Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture", arXiv:2002.04745. Root mean
square: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", arXiv:1910.07467. Feed-forward: GELU (Hendrycks and Gimpel
2016, arXiv:1606.08415), SwiGLU (Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202), squared ReLU (So et al. 2021,
"Primer", arXiv:2109.08668).
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.blocks.attention import KeysValues, MultiHeadAttention
from zoo.blocks.positions import Angles

TokenNorm = Literal["layer", "rms"]
FeedForward = Literal["relu", "gelu", "gelu_tanh", "swiglu", "relu2"]


class LayerState(NamedTuple):
    """What a layer keeps of the tokens before: their keys and values, and those of the memory, which stay."""

    tokens: KeysValues
    memory: KeysValues | None = None


class TransformerLayer(nn.Module):
    """Self-attention, attention to a memory if there is one, and a feed-forward net; each is added to its input and normalized.

    The state-dict keys are those of ``nn.TransformerEncoderLayer``, with ``cross`` of ``nn.TransformerDecoderLayer``; "swiglu" has
    a third matrix, ``gate``.

    Args:
        width: Width D of a token.
        num_heads: Number of heads, a divisor of the width.
        hidden_dim: Number of hidden units of the feed-forward net, see :func:`hidden_size`.
        dropout: Probability in [0, 1) of dropping a value of each part's output in training (section 5.4).
        attention_dropout: Probability in [0, 1) of dropping an attention weight in training.
        cross: Whether there is an attention to a memory, between the two others (fig. 1, right).
        norm: "layer" or "rms".
        norm_first: Whether the input of each part is normalized, x + part(norm(x)); or their sum, norm(x + part(x)), as published.
        feed_forward: max(0, W1 x) or another function between W1 and W2: "relu", "gelu" (exact), "gelu_tanh" (its approximation,
            as in GPT-2), "relu2" (its square); or "swiglu", W2 (silu(G x) * W1 x).
        num_kv_heads: Heads of keys and values, see :class:`MultiHeadAttention`.
        qk_norm: Whether queries and keys are normalized in self-attention and in attention to the memory.
        bias: Whether linear maps and layer norms have a bias.
        norm_eps: Added to the variance, or to the mean square.

    Shape:
        x ``(B, T, D)``, memory ``(B, S, D)`` -> ``(B, T, D)``.

    Raises:
        ValueError: An argument out of its range.

    Example:
        >>> import torch
        >>> layer = TransformerLayer(width=8, num_heads=2, hidden_dim=32)
        >>> layer(torch.rand(4, 5, 8), causal=True).shape
        torch.Size([4, 5, 8])
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        hidden_dim: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        cross: bool = False,
        norm: TokenNorm = "layer",
        norm_first: bool = False,
        feed_forward: FeedForward = "relu",
        num_kv_heads: int | None = None,
        qk_norm: bool = False,
        bias: bool = True,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if feed_forward not in get_args(FeedForward):
            raise ValueError(f"feed_forward must be one of {', '.join(get_args(FeedForward))}, got {feed_forward!r}")
        if hidden_dim < 1:
            raise ValueError(f"hidden_dim must be 1 or more, got {hidden_dim}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {dropout}")
        self.cross, self.norm_first, self.feed_forward = cross, norm_first, feed_forward
        attention = partial(MultiHeadAttention, width, num_heads, attention_dropout, num_kv_heads, bias, qk_norm)
        build_norm = partial(build_token_norm, norm, width, norm_eps, bias)
        self.self_attn = attention()
        if cross:
            self.multihead_attn = attention()
        self.linear1 = nn.Linear(width, hidden_dim, bias)
        if feed_forward == "swiglu":
            self.gate = nn.Linear(width, hidden_dim, bias)
        self.linear2 = nn.Linear(hidden_dim, width, bias)
        self.norm1, self.norm2 = build_norm(), build_norm()
        if cross:
            self.norm3 = build_norm()
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | KeysValues | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        rotary: Angles | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the tokens of the next layer.

        Args:
            x: Tokens.
            memory: What ``cross`` attends to: tokens, such as an encoder's, or their keys and values.
            mask: See :class:`MultiHeadAttention`; of self-attention.
            causal: Whether a token attends to itself and those before it alone.
            rotary: Angles of the positions, for self-attention.
            memory_mask: True where a token of the memory may be attended to, broadcast to ``(B, heads, T, S)``.

        Raises:
            ValueError: A memory missing or not wanted.
        """
        self._check(memory)
        return self._through(
            x,
            lambda h: self.self_attn(h, None, mask, causal, rotary),
            lambda h: self.multihead_attn(h, memory, memory_mask),
        )

    def with_weights(
        self,
        x: Tensor,
        memory: Tensor | KeysValues | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        rotary: Angles | None = None,
        memory_mask: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what :meth:`forward` returns, and attention weights: "self" ``(B, heads, T, T)``, "cross" ``(B, heads, T, S)``."""
        self._check(memory)
        weights: dict[str, Tensor] = {}

        def attend(h: Tensor) -> Tensor:
            y, weights["self"] = self.self_attn.with_weights(h, None, mask, causal, rotary)
            return y

        def look(h: Tensor) -> Tensor:
            y, weights["cross"] = self.multihead_attn.with_weights(h, memory, memory_mask)
            return y

        return self._through(x, attend, look), weights

    def init_state(self, batch_size: int, memory: Tensor | None = None) -> LayerState:
        """Return the state before the first token: no keys and values of tokens, and those of the memory, computed once.

        Raises:
            ValueError: A memory missing or not wanted.
        """
        self._check(memory)
        kept = None if memory is None else self.multihead_attn.keys_values(memory)
        return LayerState(self.self_attn.init_state(batch_size), kept)

    def step(
        self, x: Tensor, state: LayerState, rotary: Angles | None = None, memory_mask: Tensor | None = None
    ) -> tuple[Tensor, LayerState]:
        """Read the next tokens of each text, one or several: ``(B, T, D)`` -> the same, and the next state.

        The result is that of :meth:`forward` with ``causal`` over all tokens. The given state stays as it is.

        Args:
            x: The next tokens.
            state: Of all tokens before, see :meth:`init_state`.
            rotary: Angles of the positions of ``x``.
            memory_mask: See :meth:`forward`.
        """
        tokens = state.tokens

        def attend(h: Tensor) -> Tensor:
            nonlocal tokens
            y, tokens = self.self_attn.step(h, state.tokens, rotary)
            return y

        y = self._through(x, attend, lambda h: self.multihead_attn(h, state.memory, memory_mask))
        return y, LayerState(tokens, state.memory)

    def _through(self, x: Tensor, attend: Callable[[Tensor], Tensor], look: Callable[[Tensor], Tensor]) -> Tensor:
        x = self._add(x, self.norm1, attend)
        if not self.cross:
            return self._add(x, self.norm2, self._feed)
        x = self._add(x, self.norm2, look)
        return self._add(x, self.norm3, self._feed)

    def _add(self, x: Tensor, norm: nn.Module, part: Callable[[Tensor], Tensor]) -> Tensor:
        if self.norm_first:
            return x + self.dropout(part(norm(x)))
        y: Tensor = norm(x + self.dropout(part(x)))
        return y

    def _feed(self, x: Tensor) -> Tensor:
        hidden = self.linear1(x)
        if self.feed_forward == "swiglu":
            hidden = F.silu(self.gate(x)) * hidden
        elif self.feed_forward in ("gelu", "gelu_tanh"):
            hidden = F.gelu(hidden, approximate="tanh" if self.feed_forward == "gelu_tanh" else "none")
        else:
            hidden = hidden.relu()
        y: Tensor = self.linear2(hidden.square() if self.feed_forward == "relu2" else hidden)
        return y

    def _check(self, memory: object) -> None:
        if self.cross != (memory is not None):
            raise ValueError(
                "this layer has cross=True, so it needs a memory to attend to"
                if self.cross
                else "this layer has no attention to a memory: build it with cross=True, or leave memory out"
            )

    def extra_repr(self) -> str:
        return f"{self.feed_forward}, norm_first={self.norm_first}"


def build_token_norm(norm: TokenNorm, width: int, eps: float = 1e-5, bias: bool = True) -> nn.Module:
    """Build a norm of each token ``(..., D)`` by name, with a learned scale, and "layer" with a learned shift if ``bias``.

    Raises:
        ValueError: An unknown name.
    """
    if norm not in get_args(TokenNorm):
        raise ValueError(f"norm must be one of {', '.join(get_args(TokenNorm))}, got {norm!r}")
    return nn.LayerNorm(width, eps, bias=bias) if norm == "layer" else nn.RMSNorm(width, eps)


def hidden_size(width: int, feed_forward: FeedForward, hidden_dim: int | None = None) -> int:
    """Return the number of hidden units of a feed-forward net: the given one, or 4 D.

    Of "swiglu" it is two thirds of 4 D, so that its three matrices have as many weights as two (Shazeer 2020, section 3).
    """
    if hidden_dim is not None:
        return hidden_dim
    return 8 * width // 3 if feed_forward == "swiglu" else 4 * width
