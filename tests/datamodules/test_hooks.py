"""What a subclass may decide: the order of training, the form of a batch, what counts as a class; and parts of several tensors."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch
from kit import BatchRecorder, assert_resumes, quiet_trainer, record_batches, same_batches
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.utils.data import BatchSampler, Sampler

from datamodules import DataModule, Examples, TrainSampler
from datamodules.samplers import generator_for

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


class Series(NamedTuple):
    """Padded with -1."""

    values: Tensor
    lengths: Tensor


class Bounds(NamedTuple):
    lower: Tensor
    upper: Tensor


N, T = 50, 12


class SeriesData(DataModule):
    """50 series of 1 to 12 numbers; the first one is the series' index, so that a batch tells which examples it holds."""

    class_names = ["short", "long"]
    input_shape = (T,)

    def examples(self, part: Literal["train", "test"]) -> Examples:
        lengths = 1 + torch.arange(N) * 5 % T
        values = torch.arange(N, dtype=torch.float32)[:, None] + torch.arange(T) / 100
        values[torch.arange(T) >= lengths[:, None]] = -1
        return Examples(Series(values, lengths), (lengths > T // 2).long())

    def collate(self, batch: Any) -> Any:
        """Cut the padding to the longest of the batch."""
        x, *rest = batch
        return (Series(x.values[:, : int(x.lengths.max())], x.lengths), *rest)


class WeightedOrder(TrainSampler):
    """Draws with replacement, the long series more often."""

    def order(self) -> Tensor:
        weights = self.dataset.x.lengths.double() ** 2  # type: ignore[attr-defined]
        return torch.multinomial(weights, len(weights), True, generator=generator_for(self.seed, self.epoch, 1))


class WeightedData(SeriesData):
    def make_sampler(self, dataset: Examples, **place: int) -> Sampler:
        return WeightedOrder(dataset, self.batch_size, **place)


class Buckets(BatchSampler):
    """Batches of similar length, of at most ``budget`` numbers with their padding, in a random order.

    Global batches are made of fours, so that any number of processes that divides 4 shares them equally.
    """

    def __init__(
        self, lengths: Tensor, budget: int, *, seed: int, epoch: int, start: int, num_replicas: int, rank: int
    ) -> None:
        generator = generator_for(seed, epoch, 1)
        shuffled = torch.randperm(len(lengths), generator=generator)
        ordered = shuffled[lengths[shuffled].argsort(stable=True)]
        batches: list[Tensor] = []
        for four in ordered[: len(ordered) // 4 * 4].split(4):
            if batches and (len(batches[-1]) + 4) * int(lengths[four].max()) <= budget:
                batches[-1] = torch.cat([batches[-1], four])
            else:
                batches.append(four)
        self.batches = [batches[k].tolist() for k in torch.randperm(len(batches), generator=generator)]
        self.start, self.share = start, slice(rank, None, num_replicas)

    def __iter__(self) -> Iterator[list[int]]:
        return iter([batch[self.share] for batch in self.batches[self.start :]])

    def __len__(self) -> int:
        return len(self.batches)


class BucketData(SeriesData):
    """Every epoch in buckets of a global budget of 60 numbers."""

    def make_sampler(self, dataset: Examples, **place: int) -> Sampler:
        return Buckets(dataset.x.lengths, 60, **place)


class Stream(Sampler[int]):
    """Examples without end."""

    def __init__(
        self, count: int, batch_size: int, *, seed: int, epoch: int, start: int, num_replicas: int, rank: int
    ) -> None:
        self.count, self.size, self.key, self.start = count, batch_size * num_replicas, (seed, epoch), start
        self.share = slice(rank, None, num_replicas)

    def __iter__(self) -> Iterator[int]:
        k = self.start
        while True:
            draws = torch.randint(self.count, (self.size,), generator=generator_for(*self.key, k, 1))
            yield from draws[self.share].tolist()
            k += 1


class StreamData(SeriesData):
    def make_sampler(self, dataset: Examples, **place: int) -> Sampler:
        return Stream(len(dataset), self.batch_size, **place)


SAMPLED = [WeightedData, BucketData, StreamData]
LENGTH = {"max_epochs": -1, "max_steps": 12}  # of a stream


def options(kind: type[SeriesData]) -> dict[str, Any]:
    return LENGTH if kind is StreamData else {"max_epochs": 2}


def indices(batch: Any) -> list[int]:
    return batch[0].values[:, 0].long().tolist()


# The order of training --------------------------------------------------------------------------------------------------


class WriteBatches(Callback):
    """Each rank writes the indices of its batches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, BatchRecorder)
        torch.save([indices(batch) for batch in pl_module.seen["train"]], self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.parametrize("kind", [SeriesData, *SAMPLED])
def test_two_ranks_batches_together_are_those_of_one_process(kind: type[SeriesData], tmp_path: Path) -> None:
    one = [indices(batch) for batch in record_batches(kind(batch_size=8), **options(kind)).seen["train"]]
    record_batches(kind(batch_size=4), WriteBatches(tmp_path), ranks=2, **options(kind))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert len(first) == len(second) == len(one) >= 10
    for whole, *shares in zip(one, first, second, strict=True):
        assert shares == [whole[0::2], whole[1::2]]


@pytest.mark.parametrize("step", [3, 7])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", SAMPLED)
def test_any_sampler_resumes_in_mid_epoch(kind: type[SeriesData], workers: int, step: int, tmp_path: Path) -> None:
    assert_resumes(tmp_path, lambda: kind(batch_size=8, num_workers=workers), step, **options(kind))


def test_weighted_draws_prefer_what_weighs_more_and_differ_by_epoch() -> None:
    seen = record_batches(WeightedData(batch_size=8), max_epochs=40).seen["train"]
    lengths = torch.cat([x.lengths for x, _ in seen]).double()
    every = (1 + torch.arange(N) * 5 % T).double()
    assert lengths.mean() > 1.3 * every.mean()
    assert len({tuple(indices(batch)) for batch in seen}) == len(seen)


def test_a_batch_sampler_gives_batches_of_any_size() -> None:
    data = BucketData(val_fraction=0.0)
    seen = record_batches(data, max_epochs=2).seen["train"]
    per_epoch = len(seen) // 2
    sizes = [len(y) for _, y in seen]
    assert len(set(sizes)) > 2
    assert all(x.values.numel() <= 60 for x, _ in seen)
    for epoch in (seen[:per_epoch], seen[per_epoch:]):
        shown = [index for batch in epoch for index in indices(batch)]
        assert len(shown) == len(set(shown)) == N // 4 * 4
    assert [indices(batch) for batch in seen[:per_epoch]] != [indices(batch) for batch in seen[per_epoch:]]


def test_the_trainer_knows_the_number_of_batches_of_a_batch_sampler_and_none_of_a_stream() -> None:
    lengths = {}
    for kind in (BucketData, StreamData):
        trainer = quiet_trainer(max_epochs=1, limit_train_batches=3 if kind is StreamData else None)
        data = kind(batch_size=8)
        trainer.fit(BatchRecorder(), datamodule=data)
        lengths[kind] = trainer.num_training_batches
    data = StreamData(batch_size=8)
    data.setup("fit")
    with pytest.raises(TypeError, match="'Stream' has no len"):
        len(data.train_dataloader())
    batches = record_batches(BucketData(batch_size=8)).seen["train"]
    assert lengths == {BucketData: len(batches), StreamData: 3}


def test_the_sampler_is_asked_for_once_an_epoch() -> None:
    asked: list[tuple[int, int]] = []

    class Asked(WeightedData):
        def make_sampler(self, dataset: Examples, **place: int) -> Sampler:
            asked.append((place["epoch"], place["start"]))
            return super().make_sampler(dataset, **place)

    record_batches(Asked(batch_size=8), max_epochs=3)
    assert asked == [(0, 0), (1, 0), (2, 0)]


def test_epochs_of_different_lengths_are_refused_where_the_trainer_would_cut_them() -> None:
    class Growing(SeriesData):
        def make_sampler(self, dataset: Examples, **place: int) -> Sampler:
            return Buckets(dataset.x.lengths[: 20 + 10 * place["epoch"]], 60, **place)

    with pytest.raises(ValueError, match="a sampler of length 5 in epoch 1, of 4 before: the Trainer counts"):
        record_batches(Growing(batch_size=8), max_epochs=2)
    seen = record_batches(Growing(batch_size=8), max_epochs=2, reload_dataloaders_every_n_epochs=1).seen["train"]
    assert len(seen) == 4 + 5


@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_overfitting_takes_the_first_batches_whatever_the_sampler() -> None:
    seen = record_batches(BucketData(batch_size=8), max_epochs=2, overfit_batches=1).seen["train"]
    assert same_batches(seen[:1], seen[1:])
    assert len(indices(seen[0])) == 8


# The form of a batch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_collate_forms_every_batch_also_in_workers(workers: int) -> None:
    class Where(SeriesData):
        def collate(self, batch: Any) -> Any:
            x, y, *rest = super().collate(batch)
            assert self.trainer is None
            assert not self._parts
            return x, torch.full_like(y, os.getpid()), *rest

    data = Where(batch_size=8, num_workers=workers)
    recorder = record_batches(data)
    quiet_trainer().test(recorder, datamodule=data, verbose=False)
    for part, count in (("train", 5), ("val", 1), ("test", 7)):
        assert len(recorder.seen[part]) == count
        for x, pid in recorder.seen[part]:
            assert x.values.shape[1] == x.lengths.max()
            assert bool((pid == os.getpid()).all()) == (workers == 0)


def test_workers_change_no_bit_of_named_parts() -> None:
    none, two = (record_batches(SeriesData(batch_size=8, num_workers=n), max_epochs=2).seen["train"] for n in (0, 2))
    assert same_batches(none, two)


def test_named_parts_reach_the_step_in_the_trainers_precision() -> None:
    (x, y), *_ = record_batches(SeriesData(batch_size=8), precision="64-true").seen["train"]
    assert isinstance(x, Series)
    assert (x.values.dtype, x.lengths.dtype, y.dtype) == (torch.float64, torch.int64, torch.int64)


def test_a_rank_without_examples_gets_one_of_weight_0_in_named_parts(tmp_path: Path) -> None:
    class WriteTest(Callback):
        def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert isinstance(pl_module, BatchRecorder)
            last = pl_module.seen["test"][-1]
            torch.save([type(last[0]).__name__, *last[1:]], tmp_path / f"{trainer.global_rank}.pt")

    trainer = quiet_trainer(WriteTest(), ranks=2)
    trainer.test(BatchRecorder(), datamodule=SeriesData(batch_size=8), verbose=False)  # 25 for each: no rest
    trainer = quiet_trainer(WriteTest(), ranks=2)
    trainer.test(BatchRecorder(), datamodule=OddTest(batch_size=8), verbose=False)  # 9 and 8: a batch of one is missing
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert len(one) == 2
    assert two[0] == "Series"
    assert two[2].tolist() == [0.0]


class OddTest(SeriesData):
    def examples(self, part: Literal["train", "test"]) -> Examples:
        return super().examples(part).subset(torch.arange(N) < 17)


# Parts of several tensors -----------------------------------------------------------------------------------------------


def pairs() -> Examples:
    return Examples(torch.arange(10.0)[:, None], Bounds(torch.arange(10.0), torch.arange(10.0) + 1))


def test_named_targets_are_indexed_like_named_inputs() -> None:
    examples = pairs()
    assert len(examples) == 10
    x, y = examples[3]
    assert (x.tolist(), y) == ([3.0], Bounds(torch.tensor(3.0), torch.tensor(4.0)))
    x, y, weight = examples.__getitems__([2, -1])
    assert isinstance(y, Bounds)
    assert (y.upper[0].item(), weight.tolist()) == (3.0, [1.0, 0.0])
    half = examples.subset(torch.arange(10) % 2 == 1)
    assert isinstance(half.y, Bounds)
    assert half.y.lower.tolist() == [1.0, 3.0, 5.0, 7.0, 9.0]


def test_the_fingerprint_sees_every_tensor_and_every_name() -> None:
    class Limits(NamedTuple):
        lower: Tensor
        top: Tensor

    none = torch.zeros(10, dtype=torch.bool)
    first = pairs().fingerprint(none)
    assert pairs().fingerprint(none) == first
    changed, renamed, other = pairs(), pairs(), none.clone()
    changed.y.upper[7] += 1
    renamed.y = Limits(*renamed.y)
    other[0] = True
    assert len({first, changed.fingerprint(none), renamed.fingerprint(none), pairs().fingerprint(other)}) == 4


def test_named_parts_are_split_and_identified() -> None:
    data = SeriesData(val_fraction=0.2)
    data.setup("fit")
    assert (len(data._parts["train"]), len(data._parts["val"])) == (40, 10)
    assert isinstance(data._parts["val"].x, Series)
    assert data.data_identity is not None
    assert data.data_identity.endswith("(40 train / 10 val)")


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ((torch.zeros(3), torch.zeros(3)), TypeError, "x must be a tensor or a NamedTuple of tensors, got tuple: name"),
        ([1, 2, 3], TypeError, "x must be a tensor or a NamedTuple of tensors, got list"),
        (
            Series(torch.zeros(3, 2), torch.zeros(4)),
            ValueError,
            r"all tensors of x must hold equally many examples, got values \(3, 2\), lengths \(4,\)",
        ),
    ],
)
def test_parts_that_are_no_examples(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Examples(x, torch.zeros(3))


# Classes ----------------------------------------------------------------------------------------------------------------


class Targets(DataModule):
    """100 examples with given targets."""

    input_shape = (1,)

    def __init__(self, y: Any, class_names: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**{"val_fraction": 0.2, **kwargs})
        self.y, self.class_names = y, class_names

    def examples(self, part: Literal["train", "test"]) -> Examples:
        return Examples(torch.arange(100.0)[:, None], self.y)


RARE = (torch.arange(100) % 10 == 0).long()  # ten of class 1


def counts(data: DataModule) -> list[int] | None:
    data.setup("fit")
    return data.class_counts


def test_integer_targets_are_classes_if_there_are_class_names() -> None:
    assert counts(Targets(RARE, ["no", "yes"])) == [72, 8]  # stratified
    assert counts(Targets(RARE.int(), ["no", "yes"])) == [72, 8]
    assert counts(Targets(RARE)) is None
    assert counts(Targets(RARE.float(), ["no", "yes"])) is None


def test_targets_that_are_no_classes_are_not_counted() -> None:
    vocabulary = [str(k) for k in range(30)]
    tokens = torch.arange(2000).view(100, 20) % 30
    assert counts(Targets(tokens, vocabulary)) is None
    assert counts(Targets(torch.arange(3000).view(100, 30) % 30, vocabulary)) is None  # T happens to be K
    assert counts(Targets(Bounds(torch.zeros(100), torch.ones(100)), ["a", "b"])) is None


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_several_labels_are_counted_each(dtype: torch.dtype) -> None:
    y = torch.stack([torch.ones(100), torch.zeros(100), torch.arange(100) >= 0], dim=1).to(dtype)
    assert counts(Targets(y, list("abc"))) == [80, 0, 80]


class Lengths(Targets):
    """The targets are lengths; the class is in the examples' order."""

    def labels(self, examples: Examples) -> Tensor:
        return RARE[examples.x[:, 0].long()]


def test_a_subclass_says_what_is_stratified_and_counted() -> None:
    lengths = 1 + torch.arange(100) % 50
    with pytest.raises(ValueError, match="a class has 1 example"):
        Targets(torch.arange(100), [str(k) for k in range(100)]).setup("fit")
    assert counts(Lengths(lengths, ["no", "yes"])) == [72, 8]
    stratified = Lengths(lengths)  # without names: split by, and not counted
    assert counts(stratified) is None
    assert int(RARE[stratified._parts["val"].x[:, 0].long()].sum()) == 2


@pytest.mark.parametrize("wrong", [RARE.float(), RARE[:50], RARE - 1, RARE[:, None]])
def test_labels_that_are_none(wrong: Tensor) -> None:
    class Wrong(Targets):
        def labels(self, examples: Examples) -> Tensor:
            return wrong

    with pytest.raises(
        ValueError, match=r"labels\(\) of Wrong must be int64 classes >= 0 of shape \(100,\), or None, got"
    ):
        Wrong(RARE).setup("fit")


def test_the_run_seed_decides_a_users_order() -> None:
    def order(seed: int) -> list[int]:
        seed_everything(seed, verbose=False)
        data = WeightedData(batch_size=8)
        data.setup("fit")
        return [index for batch in data.train_dataloader() for index in indices(batch)]

    assert order(0) == order(0) != order(1)
