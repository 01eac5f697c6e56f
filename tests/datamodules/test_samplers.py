"""The order of training is a pure function; evaluation shows every example once."""

from itertools import chain

import pytest
import torch

from datamodules import EvaluationSampler, Examples, TrainSampler
from datamodules.samplers import TrainingEpoch, generator_for
from datamodules.splits import digest


def batches(indices: list[int], size: int) -> list[list[int]]:
    return [indices[i : i + size] for i in range(0, len(indices), size)]


def test_an_epoch_is_a_permutation_without_the_last_incomplete_batch() -> None:
    order = list(TrainSampler(range(23), 5))
    assert len(order) == len(TrainSampler(range(23), 5)) == 20
    assert len(set(order)) == 20
    assert set(order) < set(range(23))
    assert order != sorted(order)


def test_order_depends_on_seed_and_epoch_only() -> None:
    def order(**kwargs: int) -> tuple[int, ...]:
        torch.manual_seed(kwargs.get("noise", 0))
        kwargs.pop("noise", None)
        return tuple(TrainSampler(range(40), 8, **kwargs))

    assert order(noise=1) == order(noise=2)
    assert len({order(seed=s, epoch=e) for s in range(3) for e in range(3)}) == 9
    assert order(seed=2**32 - 1) != order(seed=0)


def test_set_epoch_equals_a_sampler_of_that_epoch_and_ends_a_start() -> None:
    sampler = TrainSampler(range(40), 8, epoch=3, start=2)
    sampler.set_epoch(3)
    assert list(sampler) == list(TrainSampler(range(40), 8, epoch=3))[16:]
    assert len(sampler) == 40
    sampler.set_epoch(4)
    assert list(sampler) == list(TrainSampler(range(40), 8, epoch=4))


@pytest.mark.parametrize(("count", "world", "size"), [(101, 2, 8), (101, 4, 4), (64, 2, 8), (30, 4, 8), (7, 4, 8)])
def test_the_ranks_batches_together_are_those_of_one_process(count: int, world: int, size: int) -> None:
    ranks = [TrainSampler(range(count), size, seed=9, epoch=2, num_replicas=world, rank=r) for r in range(world)]
    together = [sorted(chain(*parts)) for parts in zip(*(batches(list(r), size) for r in ranks), strict=True)]
    one = list(TrainSampler(range(count), size * world, seed=9, epoch=2))
    assert len(one) == (count // (size * world) * size * world or count)
    one = one[: count // world * world]  # less than one global batch: a smaller one, of equal size on all ranks
    assert together == [sorted(batch) for batch in batches(one, size * world)]
    assert {len(r) for r in ranks} == {len(one) // world}


def test_position_in_the_global_batch_is_rank_first() -> None:
    one = list(TrainSampler(range(16), 8))
    assert [list(TrainSampler(range(16), 4, num_replicas=2, rank=r)) for r in (0, 1)] == [one[::2], one[1::2]]


@pytest.mark.parametrize("count", [1, 3, 7, 16, 17, 19, 23, 24])
@pytest.mark.parametrize(("world", "size"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_without_dropping_each_example_is_seen_once(count: int, world: int, size: int) -> None:
    """The last global batch is short; a rank without an example gets the index -1."""
    keys = {"seed": 9, "epoch": 2, "drop_last": False}
    one = list(TrainSampler(range(count), 8, **keys))
    assert sorted(one) == list(range(count))
    assert one[: count // 8 * 8] == list(TrainSampler(range(count), 8, seed=9, epoch=2))[: count // 8 * 8]
    ranks = [TrainSampler(range(count), size, num_replicas=world, rank=r, **keys) for r in range(world)]
    cut = [batches(list(sampler), size) for sampler in ranks]
    assert [len(sampler) for sampler in ranks] == [sum(map(len, parts)) for parts in cut]
    for k, wanted in enumerate(batches(one, 8)):
        for r, parts in enumerate(cut):
            assert parts[k] == (wanted[r::world] or [-1])
            start = TrainSampler(range(count), size, num_replicas=world, rank=r, start=k, **keys)
            assert batches(list(start), size) == parts[k:]
    assert {len(parts) for parts in cut} == {-(-count // 8)}


def test_the_number_of_batches_is_that_of_the_course() -> None:
    lengths = [len(TrainSampler(range(60000), 64, drop_last=drop)) for drop in (True, False)]
    assert [-(-length // 64) for length in lengths] == [937, 938]


def test_fewer_examples_than_processes_is_refused() -> None:
    with pytest.raises(ValueError, match="3 training examples are too few for 4 processes"):
        TrainSampler(range(3), 1, num_replicas=4)


@pytest.mark.parametrize("count", [0, 1, 3, 8, 9, 33, 101])
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 4, 16])
def test_evaluation_shows_each_example_once_in_equally_many_batches(count: int, world: int, size: int) -> None:
    ranks = [list(EvaluationSampler(range(count), size, num_replicas=world, rank=r)) for r in range(world)]
    assert sorted(i for indices in ranks for i in indices if i >= 0) == list(range(count))
    assert len({len(batches(indices, size)) for indices in ranks}) == 1
    for indices in ranks:
        assert indices == [i for i in indices if i >= 0] + [-1] * (-1 in indices)
        assert -1 not in indices or batches(indices, size)[-1] == [-1]  # never among examples that count


def test_generators_are_independent_of_each_other_and_of_the_global_one() -> None:
    before = torch.get_rng_state()
    keys = [(0, 1), (0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 0, 2), (0, 0, 0, 2), (0, 0, 1, 2)]
    assert len({torch.rand((), generator=generator_for(*key)).item() for key in keys}) == len(keys)
    assert torch.equal(before, torch.get_rng_state())


def test_a_digest_sees_types_shapes_and_borders() -> None:
    zeros = torch.zeros(2, 3)
    parts = [[zeros], [zeros.view(3, 2)], [zeros.view(6)], [zeros.int()], [zeros[:1], zeros[1:]], ["ab"], ["a", "b"]]
    assert len({digest(*each) for each in parts}) == len(parts)
    assert digest(zeros, "a") == digest(zeros.clone(), "a")


def test_a_copy_for_evaluation_leaves_the_training_one_alone() -> None:
    examples = Examples(torch.zeros(4, 2), torch.zeros(4))
    training = examples.for_training(TrainingEpoch(1, 2))
    assert training.for_evaluation().training is None
    assert training.training == TrainingEpoch(1, 2)
    assert examples.training is None
