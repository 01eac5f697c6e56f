"""Beam search, for all sequences of a batch at once."""

import math
from typing import Any, NamedTuple, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.decoding.rules import Decoded, RuleArguments, Rules, decoding, largest
from zoo.decoding.sampling import greedy
from zoo.protocol import Decodable


def beam_search(
    net: Decodable,
    state: Any,
    start: Tensor,
    max_length: int,
    *,
    beam: int = 4,
    best: int = 1,
    with_greedy: bool = False,
    **rules: Unpack[RuleArguments],
) -> Decoded:
    """Follow several hypotheses at once, and return the best.

    At each step the ``beam`` best of all continuations of an example's open hypotheses are taken, by the sum of log-probabilities.
    Those that end are set aside, of which the best by score are kept; the others stay open. So one that ends takes a place in its
    step; transformers fills it at once, and may find others.

    The search is over at ``max_length``, where open hypotheses are kept as they are, or when no open one can pass the worst that
    is kept: log-probabilities are at most 0 and lengths at most T, so one with the sum s reaches at most ``s / T ** alpha``. The
    result is the same as without this stop. A beam of 1 is :func:`greedy`; one that holds all sequences finds the best of all.

    A beam may lose the greedy sequence to hypotheses that look better for a while, and then find none as good. With
    ``with_greedy`` that sequence is compared with what the beam has found, so that the best is never worse than it.

    Args:
        net: ``step`` and ``reorder_state`` are used, see :class:`zoo.Decodable`. A step is made for the open hypotheses of all
            examples together, up to ``B beam`` rows.
        state, start, max_length: See :func:`greedy`; a row for each example.
        beam: Number of hypotheses, from 1 up to the number of sequences that there are. It may be larger than the vocabulary.
        best: Number N of sequences to return for each example, 1 to ``beam``.
        with_greedy: Whether the sequence of :func:`greedy` is one of those of which the best are returned; it takes a step for each
            of its tokens more.
        rules: See :class:`Rules`.

    Returns:
        The N best of each example, best first: tokens ``(B, N, T)``, lengths and scores ``(B, N)``.

    Raises:
        ValueError: An argument out of its range, nothing that may follow, or logits that are nan.
        TypeError: A net without ``reorder_state``.
    """
    if beam < 1:
        raise ValueError(f"beam must be 1 or more, got {beam}")
    if not 1 <= best <= beam:
        raise ValueError(f"best must be in 1 .. {beam}, which is beam, got {best}")
    if not hasattr(net, "reorder_state"):
        raise TypeError(
            f"beam search needs {type(net).__name__}.reorder_state(state, index); for a state of tensors it returns "
            "zoo.blocks.reorder_rows(state, index, batch_axis)"
        )
    checked = Rules(start, max_length, **rules)
    with decoding(net):
        found = _search(net, state, start, checked, beam, best)
    if with_greedy:
        return _joined(found, greedy(net, state, start, max_length, **rules), checked.padding)
    return found


class _Kept(NamedTuple):
    """The best hypotheses that were set aside, best first; those that are missing have a score of ``-inf``."""

    tokens: Tensor  # (B, N, T)
    lengths: Tensor  # (B, N)
    scores: Tensor  # (B, N)

    def add(self, examples: Tensor, tokens: Tensor, scores: Tensor, length: int) -> None:
        """Set hypotheses aside: tokens ``(A, W, T)``, scores ``(A, W)``, ``-inf`` for those that are none."""
        count = self.scores.shape[1]
        both = torch.cat([self.scores[examples], scores], dim=1)
        lengths = torch.cat([self.lengths[examples], torch.full_like(scores, length, dtype=torch.long)], dim=1)
        scores, order = both.sort(dim=1, descending=True, stable=True)  # of equal ones the earlier stays
        scores, order = scores[:, :count], order[:, :count]
        rows = torch.arange(len(examples), device=order.device).unsqueeze(1)
        self.tokens[examples] = torch.cat([self.tokens[examples], tokens], dim=1)[rows, order]
        self.lengths[examples] = lengths.gather(1, order)
        self.scores[examples] = scores


def _joined(found: Decoded, other: Decoded, padding: int) -> Decoded:
    """The best of what a beam has found and of another sequence for each example, ``(B, T)``, which it may have found, too."""
    length = max(found.tokens.shape[2], other.tokens.shape[1])
    found_tokens, other_tokens = (
        F.pad(x, (0, length - x.shape[-1]), value=padding) for x in (found.tokens, other.tokens)
    )
    one = other_tokens.unsqueeze(1)  # (B, 1, T)
    same = (found_tokens == one).all(dim=2) & (found.lengths == other.lengths.unsqueeze(1))  # (B, N)
    # computed among other rows, a score may differ in its last digits
    scores = torch.where(same, torch.maximum(found.scores, other.scores.unsqueeze(1)), found.scores)
    extra = other.scores.masked_fill(same.any(dim=1), -math.inf).unsqueeze(1)
    scores, order = torch.cat([scores, extra], dim=1).sort(dim=1, descending=True, stable=True)
    order = order[:, :-1]
    lengths = torch.cat([found.lengths, other.lengths.unsqueeze(1)], dim=1).gather(1, order)
    rows = torch.arange(len(order), device=order.device).unsqueeze(1)
    tokens = torch.cat([found_tokens, one], dim=1)[rows, order]
    return Decoded(tokens[:, :, : int(lengths.max())], lengths, scores[:, :-1])


def _search(net: Decodable, state: Any, start: Tensor, rules: Rules, beam: int, best: int) -> Decoded:
    length = rules.max_length
    live = torch.arange(len(start), device=start.device)  # (A,): examples whose search goes on
    tokens = start.new_full((len(start), 1, length), rules.padding)  # (A, W, T): the open hypotheses
    last, end = start, -1 if rules.end is None else rules.end
    for t in range(length):
        logits, state = net.step(last, state)  # (A W, V)
        log_probs = rules.log_probs(logits)
        if t == 0:
            if beam > (fits := rules.count()):
                raise ValueError(f"beam must be in 1 .. {fits}, the number of sequences that there are, got {beam}")
            sums = log_probs.new_zeros(len(live), 1)  # (A, W); -inf: no hypothesis
            kept = _Kept(
                tokens.repeat(1, best, 1), live.new_zeros(len(live), best), sums.new_full((len(live), best), -math.inf)
            )
        width, vocabulary = sums.shape[1], log_probs.shape[1]
        allowed = rules.allowed(log_probs, tokens.flatten(0, 1)[:, :t], live.repeat_interleave(width))
        totals = (sums.flatten().unsqueeze(1) + allowed).view(len(live), -1)  # (A W, V) -> (A, W V)
        count = 1 if t < rules.shortest_prefix else min(beam, width * vocabulary)
        sums, choice = largest(totals, count)  # (A, W) of now
        parents = choice // vocabulary + width * torch.arange(len(live), device=choice.device).unsqueeze(1)
        tokens = tokens.flatten(0, 1)[parents]  # (A W, T) -> (A, W, T)
        tokens[:, :, t] = choice % vocabulary
        ended = (tokens[:, :, t] == end) & (sums > -math.inf)
        any_nan, any_ended = torch.stack([sums.isnan().any(), ended.any()]).tolist()
        if any_nan:
            raise ValueError(f"the net's logits are nan or inf at step {t + 1}: no token can be chosen")
        if any_ended:
            kept.add(live, tokens, sums.masked_fill(~ended, -math.inf) / (t + 1) ** rules.alpha, t + 1)
            sums = sums.masked_fill(ended, -math.inf)
        going = sums.amax(dim=1) / length**rules.alpha > kept.scores[live, -1]
        if not going.all():
            if (lost := ~going & (kept.scores[live, 0] == -math.inf)).any():
                raise rules.dead_end(int(live[lost][0]), t)
            live, tokens, sums, parents = live[going], tokens[going], sums[going], parents[going]
            if not len(live):
                break
        if t + 1 < length:
            state = net.reorder_state(state, parents.flatten())
            last = tokens[:, :, t].flatten()
    else:
        kept.add(live, tokens, sums / length**rules.alpha, length)
    return Decoded(kept.tokens[:, :, : int(kept.lengths.max())], kept.lengths, kept.scores)
