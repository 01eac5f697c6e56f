"""Beam search equals the best of all sequences, a search for one sentence written out, and greedy search with one hypothesis."""

import copy
import re
from typing import Any, ClassVar

import pytest
import torch
from decoding_kit import RULES, GRUNet, Recomputing, TableNet, Written, all_sequences, beam_of_one
from torch import Tensor, nn

from zoo.decoding import Decoded, beam_search, greedy
from zoo.decoding.beam import _joined

STARTS = torch.tensor([0, 1, 0, 2])


def listed(found: Decoded, example: int) -> list[tuple[float, list[int]]]:
    """The hypotheses of an example: score and tokens."""
    return [
        (found.scores[example, n].item(), found.tokens[example, n, : found.lengths[example, n]].tolist())
        for n in range(found.scores.shape[1])
        if found.lengths[example, n]
    ]


def assert_same(got: list[tuple[float, list[int]]], wanted: list[tuple[float, list[int]]]) -> None:
    assert [tokens for _, tokens in got] == [tokens for _, tokens in wanted]
    assert [score for score, _ in got] == pytest.approx([score for score, _ in wanted], abs=1e-12)


def every(vocabulary: int, length: int, ends: bool) -> int:
    """A beam that holds all hypotheses."""
    others = vocabulary - ends
    return others ** (length - 1) * (others + ends)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize(("vocabulary", "length"), [(3, 5), (4, 4), (5, 3)])
@pytest.mark.parametrize("name", RULES)
def test_a_beam_that_holds_all_finds_the_best_of_all(name: str, vocabulary: int, length: int, alpha: float) -> None:
    rules = {**RULES[name], "alpha": alpha}
    net = TableNet(vocabulary, seed=vocabulary)
    forbidden = len(rules.get("forbid", ()))
    beam = every(vocabulary - forbidden, length, "end" in rules)
    found = beam_search(net, net.init_state(4), STARTS, length, beam=beam, best=min(5, beam), **rules)
    for b, start in enumerate(STARTS.tolist()):
        wanted = all_sequences(net, 1000 * b, start, Written(length, **rules))
        assert_same(listed(found, b), wanted[: min(5, beam)])


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("beam", [2, 3, 7])
@pytest.mark.parametrize("name", RULES)
def test_a_narrow_beam_equals_the_search_for_one_sentence(name: str, beam: int, alpha: float) -> None:
    """That one never stops early; several tables and sharp distributions, so that this search does."""
    rules = {**RULES[name], "alpha": alpha}
    for seed in range(4):
        net = TableNet(5, seed=seed, spread=1 + seed)
        found = beam_search(net, net.init_state(4), STARTS, 5, beam=beam, best=beam, **rules)
        for b, start in enumerate(STARTS.tolist()):
            assert_same(listed(found, b), beam_of_one(net, 1000 * b, start, Written(5, **rules), beam, beam))
        found = beam_search(net, net.init_state(4), STARTS, 5, beam=beam, **rules)
        for b, start in enumerate(STARTS.tolist()):
            assert_same(listed(found, b), beam_of_one(net, 1000 * b, start, Written(5, **rules), beam, 1))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_prefixes_of_different_lengths(alpha: float) -> None:
    """They are forced whatever the other rules say, and they count."""
    rules = {"end": 2, "alpha": alpha, "no_repeat_ngram": 2, "forbid": [0], "min_length": 3}
    prefixes = [[], [0, 0, 0], [4], [1, 3]]
    net = TableNet(5)
    for beam, best in ((3, 3), (36, 5)):
        found = beam_search(net, net.init_state(4), STARTS, 4, beam=beam, best=best, prefix=prefixes, **rules)
        for b, start in enumerate(STARTS.tolist()):
            written = Written(4, **rules, prefix=prefixes[b])
            assert_same(listed(found, b), beam_of_one(net, 1000 * b, start, written, beam, best))
            if beam == 36:
                assert_same(listed(found, b)[:1], all_sequences(net, 1000 * b, start, written)[:1])


def test_a_common_prefix_goes_through_the_net_once_an_example() -> None:
    net = TableNet(5)
    for prefix in ([3, 1, 1], torch.tensor([3, 1, 1]), torch.tensor([[3, 1, 1]] * 4)):
        net.rows.clear()
        found = beam_search(net, net.init_state(4), STARTS, 5, beam=4, prefix=prefix)
        assert net.rows == [4, 4, 4, 4, 16]
        assert found.tokens[:, 0, :3].tolist() == [[3, 1, 1]] * 4


def test_a_prefix_may_be_the_whole_sequence() -> None:
    net = TableNet(5)
    found = beam_search(net, net.init_state(4), STARTS, 3, end=2, prefix=[[3, 1, 1], [2], [3, 2], [4, 4, 2]])
    assert [found.tokens[b, 0, :k].tolist() for b, k in enumerate(found.lengths[:, 0])] == [
        [3, 1, 1],
        [2],
        [3, 2],
        [4, 4, 2],
    ]


@pytest.mark.parametrize(
    "rules",
    [{"end": 3}, {"end": 3, "alpha": 0.0}, {}, {"end": 3, "min_length": 4, "no_repeat_ngram": 2, "prefix": [1, 1]}],
)
def test_a_beam_of_one_is_greedy_search(rules: dict[str, Any]) -> None:
    net = GRUNet().double()
    starts = torch.arange(16)
    one = greedy(net, net.init_state(16), starts, 20, **rules)
    beam = beam_search(net, net.init_state(16), starts, 20, beam=1, **rules)
    assert torch.equal(beam.tokens[:, 0], one.tokens)
    assert torch.equal(beam.lengths[:, 0], one.lengths)
    torch.testing.assert_close(beam.scores[:, 0], one.scores, rtol=0, atol=1e-12)
    if rules:
        assert one.lengths.min() < one.lengths.max(), "the sequences should end at different times"


def test_with_the_greedy_sequence_no_score_is_below_its() -> None:
    """Without it some are; with it the beam's own stay, each once, and the best of both come first."""
    worse = better = joined = 0
    for seed in range(15):
        net = TableNet(6, seed=seed, spread=1 + seed % 3)
        starts = torch.arange(20) % 6
        given: Any = {"end": 2, "forbid": [0], "padding": 0}
        one = greedy(net, net.init_state(20), starts, 8, **given)
        plain = beam_search(net, net.init_state(20), starts, 8, beam=2, best=2, **given)
        both = beam_search(net, net.init_state(20), starts, 8, beam=2, best=2, with_greedy=True, **given)
        assert (both.scores[:, 0] >= one.scores).all()
        worse += int((plain.scores[:, 0] < one.scores - 1e-9).sum())
        better += int((both.scores[:, 0] > one.scores + 1e-9).sum())
        for b in range(20):
            known = {tuple(tokens): score for score, tokens in listed(plain, b)}
            length = int(one.lengths[b])
            joined += tuple(one.tokens[b, :length].tolist()) not in known
            known.setdefault(tuple(one.tokens[b, :length].tolist()), one.scores[b].item())
            wanted = sorted(((score, list(tokens)) for tokens, score in known.items()), reverse=True)
            assert_same(listed(both, b), wanted[:2])
        assert both.tokens.shape[2] == both.lengths.max()
    assert worse > 0
    assert better > 40
    assert joined > 10


def test_the_greedy_sequence_takes_the_place_of_a_longer_one() -> None:
    found = Decoded(torch.tensor([[[3, 4, 3, 2]]]), torch.tensor([[4]]), torch.tensor([[-2.0]]))
    one = Decoded(torch.tensor([[4, 2]]), torch.tensor([2]), torch.tensor([-1.0]))
    for first, wanted in ((one, one), (one._replace(scores=torch.tensor([-3.0])), None)):
        tokens, lengths, scores = _joined(found, first, padding=0)
        assert tokens.tolist() == [found.tokens[0].tolist() if wanted is None else [[4, 2]]]
        assert (lengths.item(), scores.item()) == ((4, -2.0) if wanted is None else (2, -1.0))


@pytest.mark.parametrize("rules", [{"end": 3, "alpha": 0.0}, {"end": 3, "no_repeat_ngram": 2}])
def test_a_sentence_does_not_depend_on_the_rest_of_the_batch(rules: dict[str, Any]) -> None:
    net = GRUNet().double()
    prefixes = [[k % 3] * (k % 4) for k in range(16)]
    together = beam_search(net, net.init_state(16), torch.arange(16), 12, beam=5, best=3, prefix=prefixes, **rules)
    for b in range(16):
        alone = beam_search(
            net, net.init_state(1), torch.tensor([b]), 12, beam=5, best=3, prefix=[prefixes[b]], **rules
        )
        assert_same(listed(alone, 0), listed(together, b))


def test_a_state_equals_reading_all_again() -> None:
    net = GRUNet().double()
    for rules in ({"end": 3}, {"end": 3, "alpha": 0.0, "prefix": [1, 5]}):
        cached, recomputed = (
            beam_search(owner, owner.init_state(6), torch.arange(6), 12, beam=5, best=4, **rules)
            for owner in (net, Recomputing(net))
        )
        assert torch.equal(cached.tokens, recomputed.tokens)
        torch.testing.assert_close(cached.scores, recomputed.scores, rtol=0, atol=1e-12)


class Fixed(nn.Module):
    """Given probabilities at each step, whatever was read."""

    def __init__(self, *probabilities: list[float]) -> None:
        super().__init__()
        self.p = torch.tensor(probabilities, dtype=torch.float64)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.p[state].log(), state + 1

    def reorder_state(self, state: Tensor, index: Tensor) -> Tensor:
        return state[index]


def zeros(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.long)


def test_a_vocabulary_smaller_than_the_beam() -> None:
    net = Fixed([0.7, 0.3], [0.6, 0.4], [0.9, 0.1])
    found = beam_search(net, zeros(2), zeros(2), 3, beam=8, best=8, alpha=0.0)
    assert found.tokens[1, :3].tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0]]
    torch.testing.assert_close(found.scores.exp().sum(dim=1), torch.ones(2).double())


def test_all_hypotheses_end_at_once() -> None:
    net = Fixed([0.6, 0.4, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0])
    found = beam_search(net, zeros(2), zeros(2), 3, beam=2, best=2, end=2)
    assert found.tokens.tolist() == [[[0, 2], [1, 2]]] * 2
    assert found.lengths.tolist() == [[2, 2]] * 2


def test_an_end_at_the_first_step() -> None:
    net = Fixed([0.05, 0.05, 0.9], [0.5, 0.4, 0.1], [0.5, 0.4, 0.1])
    found = beam_search(net, zeros(2), zeros(2), 3, beam=2, end=2, padding=7)
    assert (found.tokens.tolist(), found.lengths.tolist()) == ([[[2]]] * 2, [[1]] * 2)
    several = beam_search(net, zeros(1), zeros(1), 3, beam=2, best=2, end=2, padding=7)
    assert several.tokens[0, 0].tolist() == [2, 7, 7]
    only = Fixed([0.0, 0.0, 1.0])
    found = beam_search(only, zeros(1), zeros(1), 4, beam=3, best=3, end=2, padding=7)  # there is but one sequence
    assert (found.tokens.tolist(), found.lengths.tolist()) == ([[[2], [7], [7]]], [[1, 0, 0]])
    assert found.scores.tolist() == [[0.0, -torch.inf, -torch.inf]]


def test_a_longer_hypothesis_passes_one_that_was_set_aside() -> None:
    """With the mean, the bound of an open hypothesis is its sum by the largest length: a search that compares it by its own
    length of now would stop at the first that ends."""
    net = Fixed([0.45, 0.0, 0.55], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0])
    found = beam_search(net, zeros(1), zeros(1), 4, beam=2, end=2)
    assert found.tokens.tolist() == [[[0, 0, 0, 2]]]
    assert beam_search(net, zeros(1), zeros(1), 4, beam=2, end=2, alpha=0.0).tokens.tolist() == [[[2]]]


def test_sequences_that_do_not_end_are_kept_as_they_are() -> None:
    net = Fixed([0.6, 0.4, 0.0], [0.5, 0.4, 0.1], [0.5, 0.4, 0.1])
    found = beam_search(net, zeros(1), zeros(1), 3, beam=3, best=3, end=2, alpha=1.0)
    assert found.tokens[0, 0].tolist() == [0, 0, 0]
    assert found.scores[0, 0].item() == pytest.approx(torch.tensor([0.6, 0.5, 0.5]).double().log().mean().item())


def test_the_search_stops_for_each_example_when_nothing_can_pass() -> None:
    """Its rows are left out of the steps that follow."""

    class Countdown(nn.Module):
        """Each example ends almost for certain after as many steps as its state says."""

        rows: ClassVar[list[int]] = []

        def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            self.rows.append(len(x_t))
            p = torch.where((state == 0)[:, None], torch.tensor([1e-9, 1e-9, 1.0]), torch.tensor([0.6, 0.4, 1e-9]))
            return p.double().log(), state - 1

        def reorder_state(self, state: Tensor, index: Tensor) -> Tensor:
            return state[index]

    net = Countdown()
    found = beam_search(net, torch.tensor([3, 0, 1]), zeros(3), 100, beam=2, end=2, alpha=0.0)
    assert found.lengths.tolist() == [[4], [1], [2]]
    assert net.rows == [3, 4, 2, 2]


def test_a_state_may_be_nested() -> None:
    class Nested(TableNet):
        def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
            logits, row = super().step(x_t, state[0]["row"])
            return logits, ({"row": row, "unused": state[0]["unused"]}, state[1] + 1)

    net, plain = Nested(4), TableNet(4)
    state = ({"row": net.init_state(2), "unused": torch.zeros(2, 3, 1)}, 0)
    nested, wanted = (
        beam_search(owner, s, STARTS[:2], 5, beam=3, best=3, end=1)
        for owner, s in ((net, state), (plain, plain.init_state(2)))
    )
    assert torch.equal(nested.tokens, wanted.tokens)


def test_nothing_of_the_net_is_changed() -> None:
    net = nn.Sequential(GRUNet(), nn.Dropout())
    model = net[0]
    model.train()
    model.gru.eval()  # frozen
    before = copy.deepcopy(model.state_dict())
    state = model.init_state(2)
    found = beam_search(model, state, torch.tensor([1, 2]), 5, end=3)
    assert model.training
    assert not model.gru.training
    assert torch.is_grad_enabled()
    assert not found.scores.requires_grad
    assert not state.any()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_the_net_is_evaluated_meanwhile() -> None:
    class Watched(TableNet):
        def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            assert not self.training
            assert not torch.is_grad_enabled()
            return super().step(x_t, state)

    net = Watched(4)
    for decode in (beam_search, greedy):
        decode(net, net.init_state(2), STARTS[:2], 3)


def test_half_precision_is_summed_in_float32() -> None:
    net = GRUNet().bfloat16()
    assert beam_search(net, net.init_state(2), torch.tensor([1, 2]), 5).scores.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, "beam must be 1 or more, got 0"),
        ({"beam": 65}, "beam must be in 1 .. 64, the number of sequences that there are, got 65"),
        ({"beam": 49, "end": 3}, "beam must be in 1 .. 36, the number of sequences that there are, got 49"),
        ({"beam": 5, "prefix": [[1, 1], [2, 2]]}, "beam must be in 1 .. 4, the number"),
        ({"beam": 3, "best": 4}, "best must be in 1 .. 3, which is beam, got 4"),
        ({"beam": 3, "best": 0}, "best must be in 1 .. 3, which is beam, got 0"),
        ({"no_repeat_ngram": 1, "forbid": [0, 1]}, "nothing may follow at step 3 of sequence 0: forbid, min_length"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    net = TableNet(4)
    with pytest.raises(ValueError, match=re.escape(message)):
        beam_search(net, net.init_state(2), STARTS[:2], 3, **options)


def test_a_beam_that_holds_what_a_prefix_leaves() -> None:
    net = TableNet(4)
    found = beam_search(net, net.init_state(2), STARTS[:2], 3, beam=4, best=4, prefix=[[1, 1], [2, 2]])
    assert sorted(found.tokens[1, :, 2].tolist()) == [0, 1, 2, 3]


def test_a_net_that_cannot_reorder() -> None:
    with pytest.raises(TypeError, match=r"beam search needs Sequential.reorder_state\(state, index\)"):
        beam_search(nn.Sequential(), None, STARTS, 3)  # type: ignore[arg-type]


def test_logits_that_are_nan() -> None:
    net = TableNet(4)
    net.table[:] = torch.nan
    for decode in (beam_search, greedy):
        with pytest.raises(ValueError, match="logits are nan or inf at step 1"):
            decode(net, net.init_state(2), STARTS[:2], 3)
