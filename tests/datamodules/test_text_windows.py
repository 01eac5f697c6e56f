"""A block of text in windows and in lanes: each token is a target once, and lanes go on from batch to batch."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules import Segment
from datamodules.samplers import EvaluationSampler, TrainingEpoch
from datamodules.text_file import LaneSampler
from datamodules.text_windows import TextBlock


def block(count: int, **options: Any) -> TextBlock:
    """A block of tokens that are all different, so that a token tells its place."""
    return TextBlock(torch.arange(count), **{"context": 4, **options})


def batches(examples: TextBlock, size: int, sampler: Any = None) -> list[tuple[Any, ...]]:
    indices = list(range(len(examples)) if sampler is None else sampler)
    return [examples.__getitems__(indices[i : i + size]) for i in range(0, len(indices), size)]


def counted(batch: tuple[Any, ...]) -> Tensor:
    """The targets that count, row by row."""
    _, y, *weight = batch
    return y[weight[0] > 0] if weight else y.flatten()


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 9, 17, 30, 31, 32, 33])
@pytest.mark.parametrize("size", [1, 3])
def test_in_evaluation_each_token_but_the_first_is_a_target_once(count: int, size: int) -> None:
    for examples in (block(count), block(count, order="lanes", lanes=size)):
        seen = torch.cat([counted(batch) for batch in batches(examples, size)])
        assert seen.sort().values.tolist() == list(range(1, count))
        for x, y, *weight in batches(examples, size):
            tokens = x.tokens if isinstance(x, Segment) else x
            counts = weight[0] > 0 if weight else torch.ones_like(y, dtype=torch.bool)
            assert tokens.dtype == y.dtype == torch.int64
            assert torch.equal(tokens[counts] + 1, y[counts])
            assert not weight or not bool(counts.all())


@pytest.mark.parametrize(("count", "lanes"), [(50, 3), (31, 5), (13, 4), (9, 8), (5, 6), (2, 3)])
@pytest.mark.parametrize("world", [1, 2])
def test_lanes_of_evaluation_go_on_and_are_cut_by_rank(count: int, lanes: int, world: int) -> None:
    """Lane b of all is row b // W of rank b % W; in each, a target is the token that is read next, up to the end of the block."""
    examples = block(count, order="lanes", lanes=lanes * world)
    whole = batches(examples, lanes * world)
    ranks = [
        batches(examples, lanes, EvaluationSampler(examples, lanes, num_replicas=world, rank=r)) for r in range(world)
    ]
    assert {len(parts) for parts in ranks} == {len(whole)}
    for r, parts in enumerate(ranks):
        for (x, y, *_), (all_x, all_y, *_) in zip(parts, whole, strict=True):
            assert torch.equal(x.tokens, all_x.tokens[r::world])
            assert torch.equal(x.starts, all_x.starts[r::world])
            assert torch.equal(y, all_y[r::world])
    assert [bool(x.starts.all()) for x, *_ in whole] == [True] + [False] * (len(whole) - 1)
    for (_, before, *_), (x, *_) in pairwise(whole):
        assert torch.equal(x.tokens[:, 0], before[:, -1])
        assert not x.starts.any()
    ends = [0]
    for row in range(lanes * world):
        lane = torch.cat(
            [counted((None, y[row : row + 1], *(w[row : row + 1] for w in weight))) for _, y, *weight in whole]
        )
        assert lane.tolist() == list(range(ends[-1] + 1, ends[-1] + 1 + len(lane)))  # the next part of the block
        ends.append(ends[-1] + len(lane))
    lengths = {end - start for start, end in pairwise(ends)}
    assert max(lengths) - min(lengths) <= 1


def test_training_lanes_are_full_and_go_on_from_segment_to_segment() -> None:
    examples = block(50, order="lanes", lanes=3).for_training(TrainingEpoch(0, 0))
    parts = batches(examples, 3)
    assert [x.tokens.shape for x, _ in parts] == [(3, 4)] * 4  # 49 targets: 4 segments of 3 x 4, and 1 is left out
    whole = torch.cat([x.tokens for x, _ in parts], dim=1)
    first = int(whole[0, 0])
    assert first in (0, 1)
    assert whole.flatten().tolist() == list(range(first, first + 48))
    assert torch.equal(torch.cat([y for _, y in parts], dim=1), whole + 1)
    assert [x.starts.tolist() for x, _ in parts] == [[True] * 3] + [[False] * 3] * 3


def test_a_lane_sampler_starts_where_it_is_told_and_takes_every_lane_of_its_rank() -> None:
    examples = block(101, order="lanes", lanes=6).for_training(TrainingEpoch(0, 0))
    one = batches(examples, 6, LaneSampler(examples, 6))
    assert len(one) == len(examples) // 6 == 4
    for start in range(5):
        for r in (0, 1, 2):
            sampler = LaneSampler(examples, 2, start=start, num_replicas=3, rank=r, seed=7, epoch=2)
            assert len(sampler) == 8
            for (x, y), (all_x, all_y) in zip(batches(examples, 2, sampler), one[start:], strict=True):
                assert torch.equal(x.tokens, all_x.tokens[r::3])
                assert torch.equal(y, all_y[r::3])


@pytest.mark.parametrize("order", ["shuffled", "lanes"])
def test_what_is_left_out_is_a_function_of_seed_and_epoch(order: Any) -> None:
    examples = block(60, order=order, lanes=2)

    def first(seed: int, epoch: int) -> int:
        return int(counted(examples.for_training(TrainingEpoch(seed, epoch)).__getitems__([0]))[0])

    assert len({first(0, epoch) for epoch in range(100)}) == 60 - len(examples.for_training(TrainingEpoch(0, 0))) * 4
    assert [first(3, epoch) for epoch in range(9)] == [first(3, epoch) for epoch in range(9)]
    assert [first(3, epoch) for epoch in range(9)] != [first(4, epoch) for epoch in range(9)]


@pytest.mark.parametrize("count", [5, 6, 8, 9, 12, 13, 40])
def test_training_windows_lie_one_after_another_inside_the_block(count: int) -> None:
    for epoch in range(20):
        examples = block(count).for_training(TrainingEpoch(0, epoch))
        ((x, y),) = batches(examples, len(examples))
        assert x.shape == (len(examples), 4)
        assert len(examples) == max(1, (count - 1) // 4 - 1)
        assert torch.equal(y, x + 1)
        assert torch.equal(x[:, 0], x[0, 0] + 4 * torch.arange(len(examples)))
        assert int(x[0, 0]) >= 0
        assert int(y[-1, -1]) < count


@pytest.mark.parametrize("order", ["shuffled", "lanes"])
def test_without_dropping_training_sees_each_token_too(order: Any) -> None:
    examples = block(31, order=order, lanes=4, drop_last=False).for_training(TrainingEpoch(0, 3))
    seen = torch.cat([counted(batch) for batch in batches(examples, 4)])
    assert seen.sort().values.tolist() == list(range(1, 31))


def test_an_index_of_minus_one_stands_for_a_window_that_does_not_count() -> None:
    x, y, weight = block(17).__getitems__([1, -1])
    assert x.shape == y.shape == weight.shape == (2, 4)
    assert weight.tolist() == [[1.0] * 4, [0.0] * 4]
    _, _, weight = block(16).__getitems__([3, -1])
    assert weight.tolist() == [[0.0, 1.0, 1.0, 1.0], [0.0] * 4]


def test_too_few_tokens_to_train_are_refused_with_their_number() -> None:
    with pytest.raises(
        ValueError, match=r"the training part has 12 tokens, too few for 3 lanes .* context=4, .*\(13\)"
    ):
        block(12, order="lanes", lanes=3).for_training(TrainingEpoch(0, 0))
    assert len(block(13, order="lanes", lanes=3).for_training(TrainingEpoch(0, 0))) == 3
    with pytest.raises(
        ValueError, match=r"has 4 tokens, too few for one window of context=4, .*\(5\): .* a smaller context$"
    ):
        block(4).for_training(TrainingEpoch(0, 0))


def test_a_single_example_has_no_batch_axis() -> None:
    x, y = block(17)[1]
    assert (x.tolist(), y.tolist()) == ([4, 5, 6, 7], [5, 6, 7, 8])
    x, _ = block(17, order="lanes", lanes=2)[1]
    assert (x.tokens.tolist(), bool(x.starts)) == ([8, 9, 10, 11], True)
    assert len(block(17)[[0, 1]][1]) == 2


def test_the_fingerprint_sees_tokens_their_meaning_and_the_split() -> None:
    none = torch.zeros(9, dtype=torch.bool)
    other = none.clone()
    other[-1] = True
    first = block(9).fingerprint(none)
    assert block(9, context=3).fingerprint(none) == first
    others = [block(9).fingerprint(other), block(9, vocabulary={"tokens": ["a"]}).fingerprint(none)]
    others.append(TextBlock(torch.arange(9).roll(1), 4).fingerprint(none))
    assert len({first, *others}) == 4
