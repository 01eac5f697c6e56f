"""Multi-head attention: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.2."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MultiHeadAttention(nn.Module):
    """softmax(Q K' / sqrt(D / heads)) V for each head; a linear map joins the heads.

    The state-dict keys and the initialization are those of ``nn.MultiheadAttention``.

    Args:
        width: Width D of a token, divided among the heads.
        num_heads: Number of heads, a divisor of the width.
        dropout: Probability in [0, 1) that an attention weight is dropped in training.

    Shape:
        x ``(B, T, D)``, context ``(B, S, D)`` -> ``(B, T, D)``.

    Raises:
        ValueError: An argument out of its range.

    Example:
        >>> MultiHeadAttention(width=8, num_heads=2)(torch.rand(4, 5, 8)).shape
        torch.Size([4, 5, 8])
    """

    def __init__(self, width: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if num_heads < 1 or width < 1 or width % num_heads:
            raise ValueError(
                f"num_heads must be a divisor of the width: {num_heads} heads do not divide a width of {width}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {dropout}")
        self.num_heads, self.dropout = num_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))  # of Q, K and V, stacked
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the attention output of each token.

        Args:
            x: Tokens that give the queries.
            context: Tokens that give the keys and values; None for self-attention.
            mask: True where attention is allowed, broadcast to ``(B, heads, T, S)``; None allows all.
        """
        if context is None:
            q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
            q = F.linear(x, weights[0], biases[0])
            k, v = (F.linear(context, weight, bias) for weight, bias in zip(weights[1:], biases[1:], strict=True))
        q, k, v = (self._split(part) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        y = y.transpose(1, 2).flatten(2)  # (B, heads, T, D / heads) -> (B, T, heads, D / heads) -> (B, T, D)
        return self.out_proj(y)

    def _split(self, x: Tensor) -> Tensor:
        x = x.unflatten(2, (self.num_heads, -1))  # (B, T, D) -> (B, T, heads, D / heads)
        return x.transpose(1, 2)  # (B, T, heads, D / heads) -> (B, heads, T, D / heads)
