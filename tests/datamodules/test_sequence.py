"""Series: batches of similar length are a pure function cut by rank; padding is 0, cut, and in no statistic."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import assert_resumes, record_batches
from torch import Tensor

from datamodules import SequenceDataModule, Series, SimilarLengthSampler, TrainSampler

N, T = 130, 12
LENGTHS = 1 + torch.arange(N) * 5 % T
PAST = torch.arange(T) >= LENGTHS[:, None]


class Numbered(SequenceDataModule):
    """Series of 1 to 12 pairs of numbers, of which the first one is the index of the series; the padding holds 99."""

    class_names = ["short", "long"]
    input_shape = (T, 2)

    def sequences(self) -> tuple[Any, Any]:
        values = torch.stack([torch.arange(N)[:, None].expand(N, T), torch.arange(T).expand(N, T) / 8], dim=2)
        return Series(values.masked_fill(PAST[:, :, None], 99), LENGTHS), (LENGTHS > T // 2).long()


class InStep(Numbered):
    """The class of a time is whether it is odd."""

    class_names = ["even", "odd"]
    in_step = True

    def sequences(self) -> tuple[Any, Any]:
        return super().sequences()[0], (torch.arange(T) % 2).expand(N, T)


class Amounts(Numbered):
    """Two numbers at each time: its index, and 10 times that of the series; the padding holds 99."""

    class_names = None
    kind = "regression"
    in_step = True
    target_names = ["time", "series"]

    def sequences(self) -> tuple[Any, Any]:
        y = torch.stack([torch.arange(T).expand(N, T), 10 * torch.arange(N)[:, None].expand(N, T)], dim=2)
        return super().sequences()[0], y.masked_fill(PAST[:, :, None], 99)


def indices(batch: Any) -> list[int]:
    return batch[0].values[:, 0, 0].long().tolist()


# Order ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("drop_last", [True, False])
def test_an_epoch_holds_the_examples_of_the_plain_order_cut_by_rank(world: int, drop_last: bool) -> None:
    keys: dict[str, Any] = {"seed": 3, "epoch": 2, "drop_last": drop_last}
    one = list(SimilarLengthSampler(LENGTHS, 8, **keys))
    assert sorted(one) == sorted(TrainSampler(range(N), 8, **keys))
    assert len(one) == (128 if drop_last else N)
    for rank in range(world):
        for start in (0, 5, 15):
            place = {"num_replicas": world, "rank": rank, "start": start}
            share = list(SimilarLengthSampler(LENGTHS, 8 // world, **keys, **place))
            batches = [one[8 * k : 8 * k + 8] for k in range(start, -(-len(one) // 8))]
            assert share == [i for batch in batches for i in batch[rank::world] or [-1]]


def test_batches_are_of_similar_length_in_random_order_and_differ_by_epoch() -> None:
    orders = [torch.tensor(list(SimilarLengthSampler(LENGTHS, 8, epoch=epoch))) for epoch in range(4)]
    for order in orders:
        batches = LENGTHS[order].view(16, 8)
        assert (batches.amax(dim=1) - batches.amin(dim=1)).max() <= 1
        means = batches.double().mean(dim=1)
        assert 0.2 < (means.diff() > 0).double().mean() < 0.8  # neither growing nor falling
    assert len({tuple(sorted(batch)) for order in orders for batch in order.view(16, 8).tolist()}) > 48


def test_lengths_are_sorted_in_pools_so_that_neighbors_change() -> None:
    lengths = torch.arange(1000)
    order = torch.tensor(list(SimilarLengthSampler(lengths, 4)))
    spread = (order.view(250, 4).amax(dim=1) - order.view(250, 4).amin(dim=1)).double().mean()
    assert 10 < spread < 30  # of 200 in a pool: 3 gaps of 5


def test_a_dataset_smaller_than_a_batch_and_too_few_for_all_processes() -> None:
    assert sorted(SimilarLengthSampler(LENGTHS[:5], 8)) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="3 training examples are too few for 4 processes"):
        SimilarLengthSampler(LENGTHS[:3], 1, num_replicas=4)


@pytest.mark.parametrize("kind", [Numbered, InStep])
def test_a_run_resumes_in_mid_epoch(kind: type[Numbered], tmp_path: Path) -> None:
    whole = assert_resumes(tmp_path, lambda: kind(batch_size=8), 5)
    assert all(int(x.lengths.max()) - int(x.lengths.min()) <= 2 for x, _ in whole)


# Batches ----------------------------------------------------------------------------------------------------------------


def test_the_padding_is_0_and_cut_to_the_longest_of_the_batch() -> None:
    seen = record_batches(InStep(batch_size=8, similar_lengths=False)).seen
    for x, y, *_ in (*seen["train"], *seen["val"]):
        longest = int(x.lengths.max())
        past = torch.arange(longest) >= x.lengths[:, None]
        assert x.values.shape == (len(y), longest, 2)
        assert y.shape == (len(y), longest)
        assert x.values.dtype == torch.float32
        assert not x.values[past].any()
        assert not y[past].any()
        assert torch.equal(x.lengths, LENGTHS[x.values[:, 0, 0].long()])
    assert len({x.values.shape[1] for x, *_ in seen["val"]}) > 1


def test_without_similar_lengths_the_order_is_the_plain_one() -> None:
    plain = record_batches(Numbered(batch_size=8, similar_lengths=False), max_epochs=1).seen["train"]
    data = Numbered(batch_size=8)
    similar = record_batches(data, max_epochs=1).seen["train"]
    assert sorted(i for batch in plain for i in indices(batch)) == sorted(i for b in similar for i in indices(b))
    assert max(int(x.lengths.max() - x.lengths.min()) for x, _ in plain) > 6


def test_statistics_are_of_the_times_of_the_training_split() -> None:
    data = Amounts()
    data.setup()
    train = data._parts["train"]
    rows = [(x[:n], y[:n]) for x, n, y in zip(train.x.values, train.x.lengths.tolist(), train.y, strict=True)]
    x, y = (np.concatenate([row[k].double() for row in rows]) for k in (0, 1))
    for got, wanted in (
        (data.mean, x.mean(0)),
        (data.std, x.std(0)),
        (data.target_mean, y.mean(0)),
        (data.target_std, y.std(0)),
    ):
        assert isinstance(got, Tensor)
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert (data.num_outputs, data.num_classes, data.class_counts) == (2, None, None)


def test_classes_are_counted_by_series_or_by_time_and_stratified_by_series() -> None:
    series, times = Numbered(), InStep()
    for data in (series, times):
        data.setup()
    y = series._parts["train"].y
    assert series.class_counts == [int((y == k).sum()) for k in (0, 1)]
    lengths = times._parts["train"].x.lengths
    assert times.class_counts == [int(((lengths + 1) // 2).sum()), int((lengths // 2).sum())]
    assert series._parts["test"].y.double().mean() == pytest.approx(float((LENGTHS > 6).double().mean()), abs=0.03)
    assert len(series._parts["test"]) == 26
    assert series.fingerprint != times.fingerprint


class Equal(Numbered):
    """All series are equally long."""

    def sequences(self) -> tuple[Any, Any]:
        x, y = super().sequences()
        return np.asarray(x.values), y


class OneShorter(Equal):
    """One series of the test part alone is shorter."""

    def test_sequences(self) -> tuple[Any, Any]:
        return Series(torch.ones(3, T, 2), torch.tensor([T, 2, T])), [0, 1, 1]


def test_equally_long_series_are_a_plain_tensor_unless_the_test_part_has_others() -> None:
    equal, other = Equal(batch_size=8), OneShorter(batch_size=8)
    for data in (equal, other):
        data.setup()
    assert next(iter(equal.train_dataloader()))[0].shape == (8, T, 2)
    assert [type(part.x) for part in other._parts.values()] == [Series] * 3
    assert len(other._parts["test"]) == 3
    assert len(other._parts["train"]) + len(other._parts["val"]) == N


# Errors -----------------------------------------------------------------------------------------------------------------


class Given(SequenceDataModule):
    """What a test gives."""

    class_names = ["a", "b"]
    input_shape = (3, 1)

    def __init__(self, x: Any, y: Any, **options: Any) -> None:
        super().__init__(**options)
        self.given = x, y

    def sequences(self) -> tuple[Any, Any]:
        return self.given


OBJECTS = np.array([np.ones(2), np.ones(3)], dtype=object)
ONES = torch.ones(2, 3, 1)


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (
            OBJECTS,
            [0, 1],
            TypeError,
            "got an array of dtype object: pad shorter series with 0 at the end, and give their lengths",
        ),
        (ONES + 1j, [0, 1], TypeError, "got an array of dtype torch.complex64"),
        (torch.ones(2, 3), [0, 1], ValueError, r"got \(2, 3\): one number at each time is x\[:, :, None\]"),
        (torch.ones(0, 3, 1), [], ValueError, r"not empty, got \(0, 3, 1\)"),
        (
            Series(ONES, torch.tensor([3, 0])),
            [0, 1],
            ValueError,
            r"in 1..3, got 0 in row 1: remove the series, which is empty",
        ),
        (Series(ONES, torch.tensor([4, 1])), [0, 1], ValueError, r"in 1..3, got 4 in row 0: correct it"),
        (Series(ONES, torch.tensor([3])), [0, 1], ValueError, r"one for each of 2, got the shape \(1,\)"),
        (Series(ONES, torch.tensor([3.0, 1.0])), [0, 1], TypeError, "must be integers, got torch.float32"),
        (
            ONES * torch.tensor([[1.0], [2.0], [float("nan")]]),
            [0, 1],
            ValueError,
            r"nan in row 0, time 2, column 0 \(of 2 values",
        ),
        (ONES, [0, 1, 1], ValueError, r"targets of shape \(2,\), one for each series, got \(3,\)"),
        (ONES[:, :2], [0, 1], ValueError, r"input_shape \(3, 1\), got \(2, 1\)"),
    ],
)
def test_series_that_cannot_be_learned_from(x: Any, y: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Given(x, y).setup("fit")


def test_values_beyond_the_end_may_be_anything() -> None:
    x = Series(torch.tensor([[[1.0], [2.0], [float("nan")]]] * 9), torch.tensor([2, *[1] * 8]))
    data = Given(x, [0, 1] * 4 + [0], test_fraction=0.0, val_fraction=0.0, batch_size=2)
    data.setup("fit")
    assert data._parts["train"].x.values.sum() == 9 + 2
    with pytest.raises(ValueError, match="there is no test part: give test_fraction > 0, or test series"):
        data.setup("test")


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"test_fraction must be a share of all series in \[0, 1\), got 1"):
        Numbered(test_fraction=1)
    with pytest.raises(TypeError, match="SequenceDataModule must define sequences"):
        SequenceDataModule().setup("fit")
