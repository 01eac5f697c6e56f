"""Greedy search and sampling: loops written out, exact distributions, sequences that do not depend on their batch, and streams."""

import inspect
import itertools
import math
import re
from typing import Any

import pytest
import torch
from decoding_kit import RULES, GRUNet, Recomputing, TableNet, Written, log_probs_of
from torch import Tensor, nn

from zoo.decoding import Decoded, RuleArguments, Rules, greedy, sample, stream

STARTS = torch.tensor([0, 1, 0, 2])


def listed(found: Decoded) -> list[list[int]]:
    return [row[:length] for row, length in zip(found.tokens.tolist(), found.lengths.tolist(), strict=True)]


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("prefixes", [[[]] * 4, [[], [0, 0, 0], [4], [1, 3]]])
@pytest.mark.parametrize("name", RULES)
def test_greedy_search_equals_a_loop(name: str, prefixes: list[list[int]], alpha: float) -> None:
    rules = {**RULES[name], "alpha": alpha}
    for seed in range(5):
        net = TableNet(5, seed)
        found = greedy(net, net.init_state(4), STARTS, 5, prefix=prefixes, **rules)
        for b, start in enumerate(STARTS.tolist()):
            written, tokens, each = Written(5, **rules, prefix=prefixes[b]), list[int](), list[float]()
            while not written.is_whole(tokens):
                log_probs = log_probs_of(net, 1000 * b, start, tokens)
                tokens.append(max((k for k in range(5) if written.may_follow(tokens, k)), key=log_probs.__getitem__))
                each.append(log_probs[tokens[-1]])
            assert listed(found)[b] == tokens
            assert found.scores[b].item() == pytest.approx(written.score(each), abs=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_what_is_drawn_keeps_the_rules(name: str) -> None:
    net = TableNet(4)
    written = Written(4, **RULES[name], prefix=[3])
    found = sample(net, torch.arange(200), torch.zeros(200).long(), 4, prefix=[3], **RULES[name])
    for tokens in listed(found):
        assert written.is_whole(tokens)
        assert all(written.may_follow(tokens[:t], token) for t, token in enumerate(tokens))
    assert len({tuple(tokens) for tokens in listed(found)}) > 4


SAMPLED: dict[str, dict[str, Any]] = {
    "plain": {},
    "filters": {"temperature": 0.8, "top_k": 9, "top_p": 0.9, "min_p": 0.01, "no_repeat_ngram": 3},
}


@pytest.mark.parametrize("options", SAMPLED.values(), ids=SAMPLED)
def test_a_sequence_does_not_depend_on_the_rest_of_the_batch(options: dict[str, Any]) -> None:
    net, starts, seeds = GRUNet().double(), torch.arange(16), list(range(100, 116))
    together = sample(net, net.init_state(16), starts, 30, end=3, seed=seeds, **options)
    one = greedy(net, net.init_state(16), starts, 30, end=3)
    assert together.lengths.float().std() > 1
    for b in range(16):
        alone = sample(net, net.init_state(1), starts[b : b + 1], 30, end=3, seed=seeds[b : b + 1], **options)
        assert listed(alone)[0] == listed(together)[b]
        assert alone.scores.item() == pytest.approx(together.scores[b].item(), abs=1e-12)
        assert listed(greedy(net, net.init_state(1), starts[b : b + 1], 30, end=3))[0] == listed(one)[b]


def test_a_seed_has_a_stream_for_each_sequence() -> None:
    net = TableNet(5)

    def drawn(count: int, seed: int, length: int = 80) -> Tensor:
        return sample(net, torch.zeros(count).long(), torch.zeros(count).long(), length, seed=seed).tokens

    few, many = drawn(3, 0), drawn(16, 0)
    assert torch.equal(few, many[:3])
    assert torch.equal(drawn(3, 0, 70), few[:, :70]), "the largest length changes no draw"
    assert torch.equal(drawn(3, 0), few)
    streams = [tuple(row) for row in [*many.tolist(), *drawn(16, 1).tolist()]]
    assert len(set(streams)) == 32, "neither a sequence of the batch nor another seed has the same draws"


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    sample(TableNet(5), torch.zeros(2).long(), torch.zeros(2).long(), 5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("options", SAMPLED.values(), ids=SAMPLED)
def test_a_state_equals_reading_all_again(options: dict[str, Any]) -> None:
    net, again = GRUNet().double(), Recomputing(GRUNet().double())
    for decode, chosen in ((greedy, {}), (sample, options)):
        cached, recomputed = (
            decode(owner, owner.init_state(16), torch.arange(16), 25, end=3, **chosen) for owner in (net, again)
        )
        assert torch.equal(cached.tokens, recomputed.tokens)
        torch.testing.assert_close(cached.scores, recomputed.scores, rtol=0, atol=1e-12)


# Distributions --------------------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """The same probabilities at each step."""

    def __init__(self, *p: float) -> None:
        super().__init__()
        self.logits = torch.tensor(p, dtype=torch.float64).log()

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.logits.expand(len(x_t), -1), state


def exact(
    p: list[float], temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None, min_p: float = 0.0
) -> list[float]:
    """What is left of probabilities, as the documentation says it."""

    def normalized(weights: dict[int, float]) -> dict[int, float]:
        total = sum(weights.values())
        return {k: w / total for k, w in weights.items()}

    left = normalized({k: x ** (1 / temperature) for k, x in enumerate(p)})
    order = sorted(left, key=lambda k: -left[k])
    left = normalized({k: left[k] for k in order[:top_k]})
    if top_p is not None:
        order, chosen = list(left), list[int]()
        while sum(left[k] for k in chosen) < top_p:
            chosen.append(order[len(chosen)])
        left = normalized({k: left[k] for k in chosen})
    left = normalized({k: x for k, x in left.items() if x >= min_p * max(left.values())})
    return [left.get(k, 0.0) for k in range(len(p))]


def p_value(counts: Tensor, p: Tensor) -> float:
    """Pearson's chi-square test; what is impossible must not have been drawn."""
    assert not counts[p == 0].any()
    counts, p = counts[p > 0].double(), p[p > 0]
    expected = p * counts.sum()
    statistic = ((counts - expected) ** 2 / expected).sum()
    return torch.special.gammaincc(torch.tensor((len(p) - 1) / 2).double(), statistic / 2).item()


P = [0.05, 0.3, 0.1, 0.35, 0.2]
COUNT = 10_000


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 3.0},
        {"top_k": 3},
        {"top_p": 0.7},
        {"top_p": 1.0},
        {"min_p": 0.5},
        {"temperature": 2.0, "top_k": 4, "top_p": 0.6},
        {"temperature": 0.7, "top_k": 4, "top_p": 0.95, "min_p": 0.3},
    ],
)
def test_tokens_are_drawn_with_their_probabilities(filters: dict[str, Any]) -> None:
    drawn = sample(Fixed(*P), None, torch.zeros(COUNT).long(), 1, **filters).tokens[:, 0]
    assert p_value(drawn.bincount(minlength=5), torch.tensor(exact(P, **filters)).double()) > 0.01


def test_sequences_are_drawn_with_their_probabilities() -> None:
    """Of a net whose next token depends on the history: three steps, with an end."""
    net, end = TableNet(3), 2
    found = sample(net, torch.zeros(COUNT).long(), torch.zeros(COUNT).long(), 3, end=end, seed=5)
    counts: dict[tuple[int, ...], int] = {}
    for tokens in listed(found):
        counts[tuple(tokens)] = counts.get(tuple(tokens), 0) + 1
    written, probability = Written(3, end=end), {}
    for length in (1, 2, 3):
        for tokens in itertools.product(range(3), repeat=length):
            if written.is_whole(list(tokens)) and end not in tokens[:-1]:
                each = [log_probs_of(net, 0, 0, tokens[:t])[k] for t, k in enumerate(tokens)]
                probability[tokens] = math.exp(sum(each))
    assert sum(probability.values()) == pytest.approx(1)
    assert len(probability) == 15
    drawn = torch.tensor([counts.get(tokens, 0) for tokens in probability])
    assert p_value(drawn, torch.tensor(list(probability.values())).double()) > 0.01


def test_what_is_excluded_leaves_the_others_their_share() -> None:
    drawn = sample(Fixed(*P), None, torch.zeros(COUNT).long(), 1, forbid=[3], end=1, min_length=1).tokens[:, 0]
    left = torch.tensor([0.05, 0.3, 0.1, 0, 0.2]).double() / 0.65
    assert p_value(drawn.bincount(minlength=5), left) > 0.01


def test_the_filters_apply_in_their_order() -> None:
    """Temperature, top_k, top_p: in another order another token would be possible."""
    zeros = torch.zeros(1000).long()
    assert not sample(Fixed(0.5, 0.3, 0.2), None, zeros, 1, temperature=0.5, top_p=0.6).tokens.any()
    assert not sample(Fixed(0.4, 0.3, 0.2, 0.1), None, zeros, 1, top_k=2, top_p=0.5).tokens.any()


@pytest.mark.parametrize(
    "filters", [{"top_k": 1}, {"temperature": 1e-300}, {"temperature": 1e-3}, {"top_p": 1e-9}, {"min_p": 0.9999999}]
)
def test_limits_are_greedy_search(filters: dict[str, Any]) -> None:
    net = GRUNet().double()
    one, drawn = (
        decode(net, net.init_state(16), torch.arange(16), 20, end=3, **options)
        for decode, options in ((greedy, {}), (sample, filters))
    )
    assert torch.equal(one.tokens, drawn.tokens)
    torch.testing.assert_close(one.scores, drawn.scores, rtol=0, atol=1e-12)  # the net's own, without temperature


def test_as_many_tokens_are_left_as_were_asked_for() -> None:
    """Also of equally probable ones; and more than there are is all."""
    zeros = torch.zeros(500).long()
    assert len(sample(Fixed(*[1 / 8] * 8), None, zeros, 1, top_k=3).tokens.unique()) == 3
    assert len(sample(Fixed(*[1 / 8] * 8), None, zeros, 1, top_k=99).tokens.unique()) == 8
    assert len(sample(Fixed(*[1 / 8] * 8), None, zeros, 1, top_p=0.5).tokens.unique()) == 4


# Results --------------------------------------------------------------------------------------------------------------


def test_padding_stands_after_the_end() -> None:
    net = TableNet(5)
    found = greedy(net, net.init_state(16), torch.zeros(16).long(), 8, end=2, padding=-100)
    after = torch.arange(found.tokens.shape[1]) >= found.lengths[:, None]
    assert after.any()
    assert (found.tokens[after] == -100).all()
    assert (found.tokens[~after] >= 0).all()
    assert found.tokens.shape[1] == found.lengths.max()
    by_default = greedy(net, net.init_state(16), torch.zeros(16).long(), 8, end=2)
    assert torch.equal(by_default.tokens, found.tokens.where(~after, 2))


def test_an_end_at_the_first_step() -> None:
    found = greedy(Fixed(0.1, 0.9), None, torch.zeros(3).long(), 5, end=1, alpha=2.0)
    assert (found.tokens.tolist(), found.lengths.tolist()) == ([[1]] * 3, [1] * 3)
    assert found.scores.tolist() == pytest.approx([math.log(0.9)] * 3)
    assert greedy(Fixed(0.1, 0.9), None, torch.zeros(3).long(), 5).lengths.tolist() == [5] * 3


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_score_is_that_of_the_net_alone(alpha: float) -> None:
    net = TableNet(5)
    options = {"temperature": 3.0, "top_k": 4, "min_length": 2, "prefix": [[4], [], [4, 4], [1]]}
    found = sample(net, net.init_state(4), STARTS, 6, end=2, alpha=alpha, **options)
    for b, tokens in enumerate(listed(found)):
        each = [log_probs_of(net, 1000 * b, int(STARTS[b]), tokens[:t])[k] for t, k in enumerate(tokens)]
        assert found.scores[b].item() == pytest.approx(sum(each) / len(each) ** alpha, abs=1e-12)


# Streams --------------------------------------------------------------------------------------------------------------


def test_a_stream_gives_what_is_sampled_as_it_comes() -> None:
    net = TableNet(5)
    options: dict[str, Any] = {"end": 2, "padding": 9, "seed": 3, "temperature": 2.0, "prefix": [[4], [], [3, 3], []]}
    whole = sample(net, net.init_state(4), STARTS, 6, **options)
    net.rows.clear()
    parts = stream(net, net.init_state(4), STARTS, 6, **options)
    assert net.rows == []
    for t, token in enumerate(parts):
        assert len(net.rows) == t + 1
        assert torch.equal(token, whole.tokens[:, t])
    assert t + 1 == whole.tokens.shape[1]


def test_between_two_tokens_all_is_as_before() -> None:
    class Watched(TableNet):
        def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            assert not self.training
            assert not torch.is_grad_enabled()
            return super().step(x_t, state)

    net = Watched(5)
    for count, _ in enumerate(stream(net, net.init_state(2), STARTS[:2], 4)):
        assert net.training
        assert torch.is_grad_enabled()
        if count == 2:
            break
    assert net.training
    assert torch.is_grad_enabled()


# Bad input ------------------------------------------------------------------------------------------------------------

BAD_FILTERS: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 0}, "temperature must be above 0, and finite, got 0; top_k=1 is its limit at 0"),
    ({"temperature": math.nan}, "temperature must be above 0"),
    ({"temperature": math.inf}, "temperature must be above 0"),
    ({"top_k": 0}, "top_k must be 1 or more, or None for all tokens, got 0"),
    ({"top_p": 0.0}, "top_p must be in (0, 1], got 0.0"),
    ({"top_p": 1.5}, "top_p must be in (0, 1], got 1.5"),
    ({"min_p": 1.0}, "min_p must be in [0, 1), got 1.0"),
    ({"min_p": -0.1}, "min_p must be in [0, 1), got -0.1"),
    ({"seed": [1]}, "seed must be one number, or one for each of the 2 sequences, got 1"),
]
BAD_RULES: list[tuple[dict[str, Any], str]] = [
    ({"max_length": 0}, "max_length must be 1 or more, got 0"),
    ({"min_length": 4}, "min_length must be in 0 .. 3, which is max_length, got 4"),
    ({"min_length": -1}, "min_length must be in 0 .. 3"),
    ({"alpha": -0.5}, "alpha must be 0 or more, and finite, got -0.5"),
    ({"alpha": math.nan}, "alpha must be 0 or more"),
    ({"no_repeat_ngram": 0}, "no_repeat_ngram must be 1 or more, or None for no such rule, got 0"),
    ({"prefix": [1, 1, 1, 1]}, "the prefix of sequence 0 has 4 tokens, max_length is 3"),
    ({"prefix": [[1], [1, 1, 1, 1]]}, "the prefix of sequence 1 has 4 tokens, max_length is 3"),
    ({"prefix": [[1]]}, "prefix must be one for all or one for each of the 2 sequences, got 1"),
    (
        {"prefix": [[1], [2, 1]], "end": 2},
        "the prefix of sequence 1 must hold tokens that others can follow, it has the end",
    ),
    ({"prefix": [[1], [-1, 1]]}, "the prefix of sequence 1 must hold tokens that others can follow, it has -1"),
    ({"prefix": [9]}, "prefix must be of the net's vocabulary, 0 .. 3, got 9"),
    ({"end": 4}, "end must be of the net's vocabulary, 0 .. 3, got 4"),
    ({"end": -1}, "end must be of the net's vocabulary, 0 .. 3, got -1"),
    ({"forbid": [5]}, "forbid must be of the net's vocabulary, 0 .. 3, got 5"),
    ({"forbid": range(4)}, "forbid excludes all 4 tokens of the vocabulary: leave one"),
    (
        {"forbid": [0, 1, 2], "end": 3, "min_length": 2},
        "nothing may follow at step 1 of sequence 0: forbid, min_length",
    ),
    ({"no_repeat_ngram": 1, "forbid": [0, 3]}, "nothing may follow at step 3 of sequence 0"),
    (
        {"start": torch.zeros(2, 1).long()},
        "start must be one token for each sequence, int64 (B,), got torch.int64 (2, 1)",
    ),
    ({"start": torch.zeros(2)}, "start must be one token for each sequence, int64 (B,), got torch.float32 (2,)"),
    ({"start": torch.zeros(0).long()}, "start must be one token for each sequence, int64 (B,), got torch.int64 (0,)"),
]


@pytest.mark.parametrize(("options", "message"), BAD_RULES)
@pytest.mark.parametrize("decode", [greedy, sample])
def test_bad_rules(decode: Any, options: dict[str, Any], message: str) -> None:
    net = TableNet(4)
    arguments = {"start": STARTS[:2], "max_length": 3, **options}
    with pytest.raises(ValueError, match=re.escape(message)):
        decode(net, net.init_state(2), **arguments)


@pytest.mark.parametrize(("options", "message"), BAD_FILTERS)
@pytest.mark.parametrize("decode", [sample, stream])
def test_bad_filters(decode: Any, options: dict[str, Any], message: str) -> None:
    """A stream says it when it is asked for, not at its first token."""
    net = TableNet(4)
    with pytest.raises(ValueError, match=re.escape(message)):
        decode(net, net.init_state(2), STARTS[:2], 3, **options)
    assert not net.rows


def test_arguments_are_the_same_everywhere() -> None:
    declared = inspect.signature(Rules).parameters
    assert list(declared) == ["start", "max_length", *RuleArguments.__annotations__]
    assert {n: p.annotation for n, p in declared.items() if n not in ("start", "max_length")} == (
        RuleArguments.__annotations__
    )
    one, other = (inspect.signature(function).parameters for function in (sample, stream))
    assert list(one.values()) == list(other.values())


def test_a_misspelled_rule() -> None:
    with pytest.raises(TypeError, match="no_repeat_ngrams"):
        greedy(TableNet(4), STARTS, STARTS, 3, no_repeat_ngrams=2)  # type: ignore[call-arg]


def test_logits_of_a_whole_series() -> None:
    class Whole(TableNet):
        def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            logits, state = super().step(x_t, state)
            return logits[:, None], state

    with pytest.raises(ValueError, match=r"step must return logits \(B, V\) of the next token, got \(4, 1, 5\)"):
        greedy(Whole(5), STARTS, STARTS, 3)
