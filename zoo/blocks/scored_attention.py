"""Attention of one head with a score of one's choice: Bahdanau et al. 2015, arXiv:1409.0473; Luong et al. 2015, arXiv:1508.04025.

The additive score is the former's, "dot" and "general" are the latter's; "reduced_rank" is "general" with a matrix of rank k, and
"scaled_dot" is that of Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1.
"""

import math
from typing import Literal, get_args

from torch import Tensor, nn

from zoo.spelling import suggest

Score = Literal["dot", "general", "reduced_rank", "additive", "scaled_dot"]


class ScoredAttention(nn.Module):
    """The mean of some vectors h_1 .. h_S, weighted by how well each fits a query s: ``sum_j softmax_j(score(s, h_j)) h_j``.

    Scores, for s of size ``query_size`` and h of size ``key_size``, and the number of their parameters:

    - "dot": s'h, none; both have one size.
    - "scaled_dot": s'h / sqrt(size), none; both have one size.
    - "general": s'Wh, ``query_size key_size``.
    - "reduced_rank": (Us)'(Vh), U and V with k rows, ``k (query_size + key_size)``.
    - "additive": v'tanh(Wh + Us), W and U with k rows, ``k (query_size + key_size + 1)``.

    Args:
        query_size: Size of a query.
        key_size: Size of each of the vectors that are looked at.
        score: One of the five above.
        size: k of the scores "reduced_rank" and "additive".

    Shape:
        query ``(B, T, query_size)``, memory ``(B, S, key_size)``, mask bool ``(B, S)`` -> ``(B, T, key_size)``, and the weights
        ``(B, T, S)``.

    Raises:
        ValueError: An argument out of its range, or sizes that differ for a score that wants one.

    Example:
        >>> import torch
        >>> attention = ScoredAttention(query_size=8, key_size=12, score="general")
        >>> context, weights = attention(torch.rand(2, 3, 8), torch.rand(2, 5, 12))
        >>> context.shape, weights.shape
        (torch.Size([2, 3, 12]), torch.Size([2, 3, 5]))
    """

    def __init__(self, query_size: int, key_size: int, score: Score = "additive", size: int = 128) -> None:
        super().__init__()
        for name, value in (("query_size", query_size), ("key_size", key_size), ("size", size)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        if score not in get_args(Score):
            raise ValueError(
                f"attention's score must be one of {', '.join(get_args(Score))}, got {score!r}{suggest(score, get_args(Score))}"
            )
        if score in ("dot", "scaled_dot") and query_size != key_size:
            raise ValueError(
                f"the score {score!r} multiplies vectors of one size, and queries have {query_size} numbers, what they look at "
                f"{key_size}: make both equal, or take the score 'general', which has a matrix between them"
            )
        self.score = score
        self.scale = 1 / math.sqrt(query_size) if score == "scaled_dot" else 1.0
        self.query: nn.Module = nn.Identity()  # U
        self.key: nn.Module = nn.Identity()  # W, or V of the reduced rank
        if score == "general":
            self.key = nn.Linear(key_size, query_size, bias=False)
        elif score in ("reduced_rank", "additive"):
            self.query, self.key = (nn.Linear(n, size, bias=False) for n in (query_size, key_size))
        if score == "additive":
            self.v = nn.Linear(size, 1, bias=False)

    def keys(self, memory: Tensor) -> Tensor:
        """Return what scores need of the memory, to be computed once for many queries: ``(B, S, key_size)`` -> ``(B, S, k)``."""
        keys: Tensor = self.key(memory)
        return keys

    def forward(
        self, query: Tensor, memory: Tensor, mask: Tensor | None = None, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the weighted means and the weights.

        Args:
            query: s, ``(B, T, query_size)``.
            memory: h_1 .. h_S, ``(B, S, key_size)``.
            mask: Which of them are real, bool ``(B, S)``, at least one; the others have the weight 0. None: all.
            keys: What :meth:`keys` gave for the memory; None: it is computed.
        """
        keys, query = self.keys(memory) if keys is None else keys, self.query(query)
        if self.score == "additive":
            sums = query.unsqueeze(2) + keys.unsqueeze(1)  # (B, T, 1, k) + (B, 1, S, k)
            scores = self.v(sums.tanh_()).squeeze(3)  # (B, T, S, k) -> (B, T, S)
        else:
            scores = query @ keys.transpose(1, 2) * self.scale  # (B, T, k) (B, k, S) -> (B, T, S)
        if mask is not None:
            scores = scores.masked_fill(~mask.unsqueeze(1), -math.inf)
        weights = scores.softmax(dim=2)
        return weights @ memory, weights

    def extra_repr(self) -> str:
        return f"score={self.score}"
