"""Multi-head attention: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.2.

Further forms: heads of queries that share heads of keys and values (Ainslie et al. 2023, "GQA: Training Generalized Multi-Query
Transformer Models from Multi-Head Checkpoints", arXiv:2305.13245); queries and keys that are normalized (Henry et al. 2020,
"Query-Key Normalization for Transformers", arXiv:2010.04245, here by the root mean square with a learned scale, as in Qwen3);
rotary positions, see :class:`zoo.blocks.RotaryPositions`.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.blocks.positions import Angles, rotate

_NORM_EPS = 1e-6  # of the queries' and keys' norm, as in Qwen3


class KeysValues(NamedTuple):
    """Keys and values of tokens, to which later queries attend.

    Shape:
        ``(B, kv_heads, S, D / heads)`` each.
    """

    keys: Tensor
    values: Tensor


class MultiHeadAttention(nn.Module):
    """softmax(Q K' / sqrt(D / heads)) V for each head; a linear map joins the heads.

    The state-dict keys and the initialization are those of ``nn.MultiheadAttention``.

    Args:
        width: Width D of a token, divided among the heads.
        num_heads: Number of heads, a divisor of the width.
        dropout: Probability in [0, 1) that an attention weight is dropped in training.
        num_kv_heads: Number of heads of keys and values, a divisor of ``num_heads``: heads of queries share them in groups that
            stand side by side. None: as many as of queries; 1 is multi-query attention.
        bias: Whether the linear maps have a bias.
        qk_norm: Whether the query and the key of each head are divided by their root mean square, and scaled by learned numbers
            that all heads share.

    Shape:
        x ``(B, T, D)``, context ``(B, S, D)`` -> ``(B, T, D)``.

    Raises:
        ValueError: An argument out of its range.

    Example:
        >>> MultiHeadAttention(width=8, num_heads=2)(torch.rand(4, 5, 8)).shape
        torch.Size([4, 5, 8])
    """

    in_proj_bias: nn.Parameter | None

    def __init__(
        self,
        width: int,
        num_heads: int,
        dropout: float = 0.0,
        num_kv_heads: int | None = None,
        bias: bool = True,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        if num_heads < 1 or width < 1 or width % num_heads:
            raise ValueError(
                f"num_heads must be a divisor of the width: {num_heads} heads do not divide a width of {width}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {dropout}")
        kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if kv_heads < 1 or num_heads % kv_heads:
            raise ValueError(
                f"num_kv_heads must be a divisor of num_heads: {kv_heads} heads of keys and values cannot be shared by "
                f"{num_heads} heads of queries in groups of one size"
            )
        self.num_heads, self.num_kv_heads, self.dropout = num_heads, kv_heads, dropout
        size = width // num_heads
        self.sizes = [width, kv_heads * size, kv_heads * size]  # rows of Q, K and V
        self.in_proj_weight = nn.Parameter(torch.empty(sum(self.sizes), width))  # of Q, K and V, stacked
        self.register_parameter("in_proj_bias", nn.Parameter(torch.zeros(sum(self.sizes))) if bias else None)
        self.out_proj = nn.Linear(width, width, bias)
        self.q_norm = nn.RMSNorm(size, _NORM_EPS) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(size, _NORM_EPS) if qk_norm else nn.Identity()
        nn.init.xavier_uniform_(self.in_proj_weight)
        if bias:
            nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        x: Tensor,
        context: Tensor | KeysValues | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        rotary: Angles | None = None,
    ) -> Tensor:
        """Return the attention output of each token.

        Args:
            x: Tokens that give the queries.
            context: Tokens that give the keys and values, or these as :meth:`keys_values` gives them; None for self-attention.
            mask: True where attention is allowed, broadcast to ``(B, heads, T, S)``; None allows all. Each token must be allowed
                one or more. ``(B, 1, 1, S)`` hides padding.
            causal: Whether a token attends to itself and to those before it alone. Without a mask, none is made for it.
            rotary: Angles of the positions by which queries and keys are turned, see :class:`zoo.blocks.RotaryPositions`; for
                self-attention alone.

        Raises:
            ValueError: Rotary positions, or ``causal``, and a context.
        """
        q, k, v = self._project(x, context, causal, rotary)
        return self._join(self._attend(q, k, v, mask, causal))

    def with_weights(
        self,
        x: Tensor,
        context: Tensor | KeysValues | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        rotary: Angles | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the output, and the weights of each head: rows over S that sum to 1, before dropout.

        The arguments are those of :meth:`forward`, which is faster, as it holds no weights.

        Shape:
            ``(B, T, D)``, ``(B, heads, T, S)``.
        """
        q, k, v = self._project(x, context, causal, rotary)
        k, v = (part.repeat_interleave(self.num_heads // self.num_kv_heads, dim=1) for part in (k, v))
        scores = q @ k.mT / math.sqrt(q.shape[3])
        if causal:
            lower = torch.ones(scores.shape[2:], dtype=torch.bool, device=x.device).tril()
            mask = lower if mask is None else mask & lower
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        weights = scores.softmax(dim=3)
        return self._join(F.dropout(weights, self.dropout, self.training) @ v), weights

    def keys_values(self, context: Tensor) -> KeysValues:
        """Return the keys and values of a context ``(B, S, D)``, so that they are computed once for many queries."""
        rows, biases = self.in_proj_weight.split(self.sizes), self._biases()
        k, v = (self._split(F.linear(context, rows[i], biases[i])) for i in (1, 2))
        return KeysValues(self.k_norm(k), v)

    def init_state(self, batch_size: int) -> KeysValues:
        """Return the keys and values of no tokens, from which :meth:`step` begins."""
        weight = self.in_proj_weight
        shape = (batch_size, self.num_kv_heads, 0, self.sizes[0] // self.num_heads)
        return KeysValues(weight.new_empty(shape), weight.new_empty(shape))

    def step(self, x: Tensor, state: KeysValues, rotary: Angles | None = None) -> tuple[Tensor, KeysValues]:
        """Read the next tokens of each text, one or several: causal self-attention to them and to all before them.

        Args:
            x: The next tokens, ``(B, T, D)``.
            state: Keys and values of the tokens before, which stay as they are.
            rotary: Angles of the positions of ``x``.

        Returns:
            The outputs ``(B, T, D)``, and the keys and values of all tokens up to now.
        """
        q, *new = self._project(x, None, True, rotary)
        k, v = (torch.cat([old, part], dim=2) for old, part in zip(state, new, strict=True))
        count, before, mask = q.shape[2], state.keys.shape[2], None
        if count > 1 and before > 0:
            mask = torch.ones(count, before + count, dtype=torch.bool, device=x.device).tril(before)
        return self._join(self._attend(q, k, v, mask, causal=count > 1 and before == 0)), KeysValues(k, v)

    def _project(
        self, x: Tensor, context: Tensor | KeysValues | None, causal: bool, rotary: Angles | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``(B, heads, T, D / heads)``, keys and values ``(B, kv_heads, S, D / heads)``."""
        if context is None:
            parts = F.linear(x, self.in_proj_weight, self.in_proj_bias).split(self.sizes, dim=-1)
            q, k, v = (self._split(part) for part in parts)
            q, k = self.q_norm(q), self.k_norm(k)
            return (q, k, v) if rotary is None else (rotate(q, rotary), rotate(k, rotary), v)
        if causal or rotary is not None:
            raise ValueError(
                f"{'causal=True' if causal else 'rotary'} is for self-attention, where queries and keys have the same positions: "
                "leave it out, or context"
            )
        q = self._split(F.linear(x, self.in_proj_weight[: self.sizes[0]], self._biases()[0]))
        k, v = context if isinstance(context, KeysValues) else self.keys_values(context)
        return self.q_norm(q), k, v

    def _biases(self) -> list[Tensor | None]:
        """The biases of queries, keys and values."""
        return [None] * 3 if self.in_proj_bias is None else [*self.in_proj_bias.split(self.sizes)]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        if causal and mask is not None:  # torch takes one of them
            mask, causal = mask & torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(), False
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
            enable_gqa=self.num_kv_heads < self.num_heads,
        )

    def _split(self, x: Tensor) -> Tensor:
        x = x.unflatten(2, (-1, self.sizes[0] // self.num_heads))  # (B, T, D) -> (B, T, heads, D / heads)
        return x.transpose(1, 2)  # (B, T, heads, D / heads) -> (B, heads, T, D / heads)

    def _join(self, y: Tensor) -> Tensor:
        y = y.transpose(1, 2).flatten(2)  # (B, heads, T, D / heads) -> (B, T, heads, D / heads) -> (B, T, D)
        return self.out_proj(y)
