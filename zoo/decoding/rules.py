"""What all ways of decoding share: their result, and the rules that say which tokens may follow."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from zoo.blocks.modes import evaluating
from zoo.protocol import Incremental


class Decoded(NamedTuple):
    """Sequences of tokens; of a beam with another axis, N, after the batch's: the N best, best first.

    Attributes:
        tokens: int64 ``(B, T)``, T that of the longest; after a sequence's end stands the declared ``padding``.
        lengths: int64 ``(B,)``, with the prefix and with the end token, where there is one; 0 where a beam has found fewer than N.
        scores: ``(B,)``, the sum of the log-probabilities of all tokens, divided by ``length ** alpha``; ``-inf`` where there is
            no sequence.
    """

    tokens: Tensor
    lengths: Tensor
    scores: Tensor


class RuleArguments(TypedDict, total=False):
    """Arguments of :class:`Rules` that all ways of decoding take by name."""

    end: int | None
    padding: int | None
    alpha: float
    min_length: int
    no_repeat_ngram: int | None
    prefix: Tensor | Sequence[int] | Sequence[Sequence[int]] | None
    forbid: Sequence[int]


class Rules:
    """Which tokens may follow, and how a sequence is scored.

    The score is the sum of the net's own log-probabilities over all tokens of the sequence, forced ones and the end token included,
    divided by ``length ** alpha``. A token that is excluded takes nothing from the others: they are not normalized again.

    Args:
        start: The token that each sequence begins after, int64 ``(B,)``; it is no part of the result.
        max_length: Largest number of tokens T, with the prefix and the end token, >= 1. A sequence that reaches it without an end
            token is kept as it is, with a score of the same form.
        end: The token that ends a sequence; None: all have ``max_length`` tokens.
        padding: What stands in the result after the end; None: the end token.
        alpha: Exponent of the length in the score, >= 0: 0 gives the sum of the log-probabilities, 1 their mean.
        min_length: The end token is excluded as long as a sequence would be shorter, 0 to ``max_length``.
        no_repeat_ngram: No n tokens in a row occur twice in a sequence, n >= 1; None: they may.
        prefix: Tokens that sequences must begin with, whatever the other rules say: the same for all, or for each sequence its own,
            of any length up to ``max_length``.
        forbid: Tokens that are never chosen, such as padding and the beginning.

    Raises:
        ValueError: An argument out of its range.
    """

    def __init__(
        self,
        start: Tensor,
        max_length: int,
        *,
        end: int | None = None,
        padding: int | None = None,
        alpha: float = 1.0,
        min_length: int = 0,
        no_repeat_ngram: int | None = None,
        prefix: Tensor | Sequence[int] | Sequence[Sequence[int]] | None = None,
        forbid: Sequence[int] = (),
    ) -> None:
        if start.ndim != 1 or start.dtype != torch.long or not len(start):
            raise ValueError(
                f"start must be one token for each sequence, int64 (B,), got {start.dtype} {tuple(start.shape)}"
            )
        if max_length < 1:
            raise ValueError(f"max_length must be 1 or more, got {max_length}")
        if not 0 <= min_length <= max_length:
            raise ValueError(f"min_length must be in 0 .. {max_length}, which is max_length, got {min_length}")
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha must be 0 or more, and finite, got {alpha}")
        if no_repeat_ngram is not None and no_repeat_ngram < 1:
            raise ValueError(f"no_repeat_ngram must be 1 or more, or None for no such rule, got {no_repeat_ngram}")
        self.max_length, self.min_length, self.alpha = max_length, min_length, alpha
        self.end, self.no_repeat_ngram = end, no_repeat_ngram
        self.padding = padding if padding is not None else 0 if end is None else end
        self.forbid = torch.tensor(sorted(set(forbid)), dtype=torch.long, device=start.device)
        self.prefix, self.shortest_prefix = self._read_prefix(prefix, start)
        self._vocabulary_size = 0

    def _read_prefix(self, prefix: Any, start: Tensor) -> tuple[Tensor, int]:
        """Return the tokens of each sequence, ``(B, P)``, -1 where its prefix has ended, and the length of the shortest."""
        given = prefix.tolist() if isinstance(prefix, Tensor) else list(prefix or ())
        rows = [list(row) for row in given] if given and not isinstance(given[0], int) else [given] * len(start)
        if len(rows) != len(start):
            raise ValueError(
                f"prefix must be one for all or one for each of the {len(start)} sequences, got {len(rows)}"
            )
        for b, row in enumerate(rows):
            if len(row) > self.max_length:
                raise ValueError(f"the prefix of sequence {b} has {len(row)} tokens, max_length is {self.max_length}")
            if self.end in row[:-1] or min(row, default=0) < 0:
                wrong = f"the end token {self.end} before its last place" if self.end in row[:-1] else f"{min(row)}"
                raise ValueError(f"the prefix of sequence {b} must hold tokens that others can follow, it has {wrong}")
        longest = max(len(row) for row in rows)
        padded = [[*row, *[-1] * (longest - len(row))] for row in rows]
        return torch.tensor(padded, dtype=torch.long, device=start.device), min(len(row) for row in rows)

    def log_probs(self, logits: Tensor) -> Tensor:
        """Return the logarithms of the probabilities of all tokens, in float32 at least: ``(R, V)`` -> ``(R, V)``."""
        if not self._vocabulary_size:
            self._check_vocabulary(logits)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=1)

    def _check_vocabulary(self, logits: Tensor) -> None:
        if logits.ndim != 2:
            raise ValueError(f"step must return logits (B, V) of the next token, got {tuple(logits.shape)}")
        self._vocabulary_size = size = logits.shape[1]
        prefix, forbid = self.prefix.flatten().tolist(), self.forbid.tolist()
        named = {"end": [] if self.end is None else [self.end], "prefix": prefix, "forbid": forbid}
        for name, tokens in named.items():
            if wrong := [k for k in tokens if not (-1 if name == "prefix" else 0) <= k < size]:
                raise ValueError(f"{name} must be of the net's vocabulary, 0 .. {size - 1}, got {wrong[0]}")
        if len(forbid) == size:
            raise ValueError(f"forbid excludes all {size} tokens of the vocabulary: leave one")

    def count(self) -> int:
        """Return the largest number of sequences that a beam can compare: those of ``max_length`` tokens, ended or not."""
        ends = self.end is not None and self.end not in self.forbid.tolist()
        others = self._vocabulary_size - len(self.forbid) - ends
        steps = self.max_length - self.shortest_prefix
        return others ** (steps - 1) * (others + ends) if steps else 1

    def allowed(self, log_probs: Tensor, tokens: Tensor, examples: Tensor) -> Tensor:
        """Return the log-probabilities with ``-inf`` for excluded tokens.

        Args:
            log_probs: ``(R, V)``.
            tokens: The tokens of each sequence so far, ``(R, t)``.
            examples: Which of the batch each of them belongs to, ``(R,)``.
        """
        t, allowed = tokens.shape[1], log_probs
        if len(self.forbid):
            allowed = allowed.index_fill(1, self.forbid, -math.inf)
        if self.end is not None and t + 1 < self.min_length:
            allowed = allowed.index_fill(1, tokens.new_tensor([self.end]), -math.inf)
        if self.no_repeat_ngram is not None and t >= self.no_repeat_ngram:
            allowed = allowed.masked_fill(self._repeats(tokens, self.no_repeat_ngram), -math.inf)
        if t < self.prefix.shape[1]:
            forced = self.prefix[examples, t].unsqueeze(1)  # (R, 1), -1 where nothing is forced
            index = forced.clamp(min=0)
            only = torch.full_like(log_probs, -math.inf).scatter(1, index, log_probs.gather(1, index))
            allowed = torch.where(forced < 0, allowed, only)
        return allowed

    def _repeats(self, tokens: Tensor, n: int) -> Tensor:
        """Return which tokens would make n tokens that were there before: ``(R, t)`` -> bool ``(R, V)``."""
        windows = tokens.unfold(1, n, 1)  # (R, t) -> (R, t - n + 1, n)
        recent = tokens[:, tokens.shape[1] - n + 1 :].unsqueeze(1)  # (R, 1, n - 1)
        again = (windows[..., :-1] == recent).all(dim=2)
        size = self._vocabulary_size
        repeated = torch.where(again, windows[..., -1], size)  # a column of its own for what is no repetition
        excluded = torch.zeros(len(tokens), size + 1, dtype=torch.bool, device=tokens.device)
        return excluded.scatter(1, repeated, True)[:, :size]

    def dead_end(self, example: int, t: int) -> ValueError:
        """Return the error that no token can follow."""
        return ValueError(
            f"nothing may follow at step {t + 1} of sequence {example}: forbid, min_length, no_repeat_ngram, prefix and the net's "
            "probabilities of 0 exclude every token; relax one of them, or lower max_length"
        )


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest values of each row, descending, and their indices: ``(R, N)`` -> ``(R, count)`` each."""
    if count == 1:
        value, index = values.max(dim=1, keepdim=True)
        return value, index
    value, index = values.topk(count, dim=1)
    return value, index


def decoding(net: Incremental) -> AbstractContextManager[Any]:
    """Return a context in which a net decodes: in evaluation mode, and without gradients."""
    return evaluating(net) if isinstance(net, nn.Module) else torch.no_grad()
