"""One sequence at a time: the most probable next token (greedy), or one that is drawn."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor

from zoo.decoding.rules import Decoded, RuleArguments, Rules, decoding, largest
from zoo.protocol import Incremental

BLOCK = 64  # steps whose random numbers are drawn at once

Choose = Callable[[Tensor], Tensor]  # log-probabilities of tokens, (B, V) -> tokens (B,)


def greedy(net: Incremental, state: Any, start: Tensor, max_length: int, **rules: Unpack[RuleArguments]) -> Decoded:
    """Follow the most probable token at each step.

    Args:
        net: Its ``step`` is used, see :class:`zoo.Decodable`.
        state: The state that the first step is made from, such as ``net.init_state(len(start))``.
        start: The first step's tokens, int64 ``(B,)``; they are no part of the result.
        max_length: Largest number of tokens T, >= 1.
        rules: See :class:`Rules`.

    Raises:
        ValueError: An argument out of its range, nothing that may follow, or logits that are nan.

    Example:
        >>> import torch
        >>> from zoo.decoding import greedy
        >>> class Counter:  # after token k comes token k + 1
        ...     def step(self, x_t, state):
        ...         return torch.eye(5)[(x_t + 1) % 5], state
        >>> greedy(Counter(), None, torch.tensor([0, 2]), 6, end=4).tokens
        tensor([[1, 2, 3, 4],
                [3, 4, 4, 4]])
    """
    checked = Rules(start, max_length, **rules)
    return _collect(net, state, start, checked, lambda log_probs: largest(log_probs, 1)[1].squeeze(1))


def sample(
    net: Incremental,
    state: Any,
    start: Tensor,
    max_length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int | Sequence[int] = 0,
    **rules: Unpack[RuleArguments],
) -> Decoded:
    """Draw each token from the net's distribution.

    The filters apply in this order, each to what the one before has left, normalized again: the rules, ``temperature``, ``top_k``,
    ``top_p``, ``min_p``. The scores are those of the net itself, without them.

    Args:
        net, state, start, max_length: See :func:`greedy`.
        temperature: Divides the logits, > 0: below 1 probable tokens become more probable.
        top_k: Number of the most probable tokens that are left, >= 1; None: all.
        top_p: The fewest of the most probable tokens are left whose probabilities reach this sum, in (0, 1] (Holtzman et al. 2020,
            "The Curious Case of Neural Text Degeneration", arXiv:1904.09751).
        min_p: Tokens are left that are at least this times as probable as the most probable one, in [0, 1) (Nguyen et al. 2024,
            "Turning Up the Heat", arXiv:2407.01082).
        seed: Of the draws. A sequence's draws do not depend on the rest of the batch: number b of a batch has the b-th stream of a
            seed. Several seeds, one a sequence, make it the same wherever it stands.
        rules: See :class:`Rules`.

    Raises:
        ValueError: See :func:`greedy`.
    """
    filters = _Filters(temperature, top_k, top_p, min_p)
    checked = Rules(start, max_length, **rules)
    return _collect(net, state, start, checked, _drawing(filters, seed, start))


def stream(
    net: Incremental,
    state: Any,
    start: Tensor,
    max_length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int | Sequence[int] = 0,
    **rules: Unpack[RuleArguments],
) -> Iterator[Tensor]:
    """Draw what :func:`sample` draws, and yield each step's tokens, ``(B,)``, as they come; ``padding`` after a sequence's end.

    Between two steps the net is in the mode that it was in before, and gradients are as they were.
    """
    filters = _Filters(temperature, top_k, top_p, min_p)
    checked = Rules(start, max_length, **rules)
    return _stream(net, _walk(net, state, start, checked, _drawing(filters, seed, start)))


def _stream(net: Incremental, walk: Iterator[tuple[Tensor, Tensor, Tensor]]) -> Iterator[Tensor]:
    while True:
        with decoding(net):
            tokens = next(walk, None)
        if tokens is None:
            return
        yield tokens[0]


def _collect(net: Incremental, state: Any, start: Tensor, rules: Rules, choose: Choose) -> Decoded:
    with decoding(net):
        tokens, log_probs, counts = zip(*_walk(net, state, start, rules, choose), strict=True)
    lengths = torch.stack(counts).sum(dim=0)
    sums = torch.stack(log_probs).sum(dim=0)
    scores = sums / lengths.to(sums) ** rules.alpha
    return Decoded(torch.stack(tokens, dim=1), lengths, scores)  # (B,) T times -> (B, T)


def _walk(
    net: Incremental, state: Any, start: Tensor, rules: Rules, choose: Choose
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield each step's tokens, their log-probabilities, and which of them are part of their sequence, ``(B,)`` each."""
    examples = torch.arange(len(start), device=start.device)
    tokens = start.new_empty(len(start), rules.max_length)
    going = torch.ones_like(start, dtype=torch.bool)
    last = start
    for t in range(rules.max_length):
        logits, state = net.step(last, state)
        allowed = rules.allowed(rules.log_probs(logits), tokens[:, :t], examples)
        last = choose(allowed)
        log_probs = allowed.gather(1, last.unsqueeze(1)).squeeze(1)
        wrong = going & ~(log_probs > -math.inf)  # nan, too
        shown, log_probs, counted = last.where(going, rules.padding), log_probs.where(going, 0.0), going
        if rules.end is not None:
            last = last.where(going, rules.end)  # padding need not be a token of the net
            going = going & (last != rules.end)
        tokens[:, t] = last
        any_wrong, any_going = torch.stack([wrong.any(), going.any()]).tolist()
        if any_wrong:
            example = int(wrong.nonzero()[0])
            raise _undefined(t) if allowed[example].isnan().any() else rules.dead_end(example, t)
        yield shown, log_probs, counted
        if not any_going:
            return


def _undefined(t: int) -> ValueError:
    return ValueError(f"the net's logits are nan or inf at step {t + 1}: no token can be chosen")


# Drawing ----------------------------------------------------------------------------------------------------------------


class _Filters(NamedTuple):
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None

    def check(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature must be above 0, and finite, got {self.temperature}; top_k=1 is its limit at 0"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be 1 or more, or None for all tokens, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.min_p is not None and not 0 <= self.min_p < 1:
            raise ValueError(f"min_p must be in [0, 1), got {self.min_p}")


def _filtered(log_probs: Tensor, filters: _Filters) -> tuple[Tensor, Tensor | None]:
    """Return the probabilities that are left, and the tokens that they are of; None: of all in order.

    Shape:
        ``(B, V)`` -> ``(B, N)``, ``(B, N)``.
    """
    best = log_probs.amax(dim=1, keepdim=True)
    scaled, tokens = (log_probs - best) / filters.temperature, None
    if filters.top_k is not None or filters.top_p is not None:
        scaled, tokens = scaled.topk(min(filters.top_k or scaled.shape[1], scaled.shape[1]), dim=1)  # descending
    p = scaled.softmax(dim=1)
    if filters.top_p is not None and filters.top_p < 1:
        p = p.where(p.cumsum(dim=1) - p < filters.top_p, 0.0)
    if filters.min_p is not None:
        p = p.where(p >= filters.min_p * p.amax(dim=1, keepdim=True), 0.0)
    return p, tokens


def _drawing(filters: _Filters, seed: int | Sequence[int], start: Tensor) -> Choose:
    """Return the function that draws a token for each sequence, each with random numbers of its own."""
    filters.check()
    numbers = _uniform_numbers(seeds_of(seed, len(start)))
    exact = torch.float32 if start.device.type == "mps" else torch.float64

    def choose(log_probs: Tensor) -> Tensor:
        p, tokens = _filtered(log_probs, filters)
        cumulative = p.to(exact).cumsum(dim=1)
        cumulative = cumulative / cumulative[:, -1:]  # its end is 1, which no number reaches
        u = next(numbers).to(exact).to(log_probs.device).unsqueeze(1)  # (B, 1)
        index = torch.searchsorted(cumulative, u, right=True).clamp(max=p.shape[1] - 1)
        return (index if tokens is None else tokens.gather(1, index)).squeeze(1)

    return choose


def seeds_of(seed: int | Sequence[int], count: int) -> list[int]:
    """Return the seed of each sequence of a batch: of one number, the first seeds do not depend on their count."""
    if isinstance(seed, int):
        return torch.randint(2**63 - 1, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    if len(seed) != count:
        raise ValueError(f"seed must be one number, or one for each of the {count} sequences, got {len(seed)}")
    return list(seed)


def _uniform_numbers(seeds: Sequence[int]) -> Iterator[Tensor]:
    """Yield a number in [0, 1) for each seed, float64 ``(B,)``, again and again."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    while True:
        yield from torch.stack([torch.rand(BLOCK, generator=g, dtype=torch.float64) for g in generators], dim=1)
