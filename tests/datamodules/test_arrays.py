"""Tables from arrays: what becomes of them, splits, statistics, the same exactness as images, errors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import BatchRecorder, SaveOnce, assert_resumes, quiet_trainer, record_batches
from torch import Tensor

from datamodules import ArrayDataModule

RNG = np.random.default_rng(0)
X = RNG.normal(5, 3, (100, 3)).astype(np.float32)
LABELS = np.arange(100) % 4
AMOUNTS = RNG.normal(40, 8, 100)


def rows(x: Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in x.tolist()}


def test_what_can_be_asked_before_fit() -> None:
    data = ArrayDataModule(X, LABELS)
    assert (data.input_shape, data.num_classes, data.num_outputs, data.class_names) == ((3,), 4, 4, list("0123"))
    data = ArrayDataModule(X, AMOUNTS, kind="regression", feature_names=["a", "b", "c"])
    assert (data.input_shape, data.num_classes, data.num_outputs, data.class_names) == ((3,), None, 1, None)
    assert (data.feature_names, data.target_names) == (["a", "b", "c"], ["target"])


def test_every_row_is_in_one_split_with_its_own_target() -> None:
    data = ArrayDataModule(X, LABELS, val_fraction=0.25)
    data.setup()
    sizes = {name: len(part) for name, part in data._parts.items()}
    assert sizes == {"train": 60, "val": 20, "test": 20}
    assert [part.y.bincount().tolist() for part in data._parts.values()] == [[15] * 4, [5] * 4, [5] * 4]
    found = torch.cat([torch.cat([part.x, part.y[:, None]], 1) for part in data._parts.values()])
    assert rows(found) == rows(torch.from_numpy(np.c_[X, LABELS]).float())
    assert data.class_counts == [15] * 4


def test_the_split_seed_moves_validation_but_never_the_test_part() -> None:
    def parts(split_seed: int, run_seed: int) -> list[Tensor]:
        torch.manual_seed(run_seed)
        data = ArrayDataModule(X, AMOUNTS, kind="regression", split_seed=split_seed)
        data.setup()
        return [data._parts[name].x for name in ("val", "test")]

    (val, test), (other_val, other_test), (same_val, _) = parts(0, 0), parts(1, 0), parts(0, 1)
    assert torch.equal(test, other_test)
    assert not torch.equal(val, other_val)
    assert torch.equal(val, same_val)


def test_a_test_part_that_is_given_is_the_test_part() -> None:
    data = ArrayDataModule(X[:80], LABELS[:80], X[80:], LABELS[80:], val_fraction=0.0)
    data.setup()
    assert torch.equal(data._parts["train"].x, torch.from_numpy(X[:80]))
    assert torch.equal(data._parts["test"].x, torch.from_numpy(X[80:]))
    assert data._parts["test"].y.tolist() == LABELS[80:].tolist()


@pytest.mark.parametrize("form", [torch.from_numpy, np.asarray])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_that_change_later_do_not_change_the_data(form: Any, dtype: Any) -> None:
    parts = [part.astype(dtype) for part in (X[:80], AMOUNTS[:80], X[80:], AMOUNTS[80:])]
    data = ArrayDataModule(*map(form, parts), kind="regression")
    before = [t.clone() for part in (data.examples("train"), data.examples("test")) for t in (part.x, part.y)]
    for part in parts:
        part.fill(0)
    after = [t for part in (data.examples("train"), data.examples("test")) for t in (part.x, part.y)]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_statistics_are_of_the_training_rows_alone() -> None:
    x = X.copy()
    x[:, 1] = 7.1
    data = ArrayDataModule(x, np.c_[AMOUNTS, -2 * AMOUNTS], kind="regression")
    data.setup()
    train = data._parts["train"]
    assert (len(train), data.num_outputs) == (72, 2)
    wanted = train.x.double()
    torch.testing.assert_close(data.mean, wanted.mean(0).float())
    torch.testing.assert_close(
        data.std, torch.tensor([wanted[:, 0].std(correction=0), 1, wanted[:, 2].std(correction=0)]).float()
    )
    torch.testing.assert_close(data.target_mean, train.y.double().mean(0).float())
    torch.testing.assert_close(data.target_std, train.y.double().std(0, correction=0).float())
    assert (train.x.mean(0) - torch.from_numpy(x).mean(0))[0].abs() > 1e-3  # or the test would not tell


def test_numbers_far_from_zero_keep_their_spread() -> None:
    """In float32 the variance of years would be noise."""
    years = 1e6 + np.arange(100.0)[:, None]
    data = ArrayDataModule(years, LABELS, val_fraction=0.0, test_fraction=0.0)
    data.setup("fit")
    torch.testing.assert_close(data.std, torch.tensor([years.std()]).float())


@pytest.mark.parametrize("workers", [0, 2])
def test_batches(workers: int) -> None:
    data = ArrayDataModule(X, AMOUNTS, kind="regression", batch_size=16, num_workers=workers)
    net = record_batches(data, max_epochs=2)
    quiet_trainer().test(net, datamodule=data, verbose=False)
    x, y = net.seen["train"][0]
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((16, 3), torch.float32, (16, 1), torch.float32)
    assert len(net.seen["train"]) == 8  # 72 rows: four whole batches an epoch
    first, second = (torch.cat([batch[0] for batch in net.seen["train"][i : i + 4]]) for i in (0, 4))
    assert not torch.equal(first, second)
    assert len(rows(first)) == 64
    for part in ("val", "test"):
        seen = torch.cat([batch[0] for batch in net.seen[part][: 1 if part == "val" else None]])
        assert torch.equal(seen, data._parts[part].x)
    pairs = {(tuple(a), b) for a, b in zip(X.tolist(), torch.from_numpy(AMOUNTS).float().tolist(), strict=True)}
    assert {
        (tuple(a), b) for x, y in net.seen["train"] for a, b in zip(x.tolist(), y[:, 0].tolist(), strict=True)
    } <= pairs


def test_training_starts_again_in_mid_epoch(tmp_path: Path) -> None:
    assert len(assert_resumes(tmp_path, lambda: ArrayDataModule(X, LABELS, batch_size=8), step=13)) == 18


def test_resuming_on_other_data_is_refused(tmp_path: Path) -> None:
    record_batches(ArrayDataModule(X, LABELS, batch_size=8), SaveOnce(tmp_path / "a.ckpt", 3))
    for other in (ArrayDataModule(X + 1, LABELS, batch_size=8), ArrayDataModule(X, LABELS, batch_size=8, split_seed=1)):
        with pytest.raises(
            ValueError,
            match=r"saved on other data: fingerprint \w{16} \(72 train / 8 val\), now it is fingerprint .* resume with the same",
        ):
            record_batches(other, ckpt_path=tmp_path / "a.ckpt")
    other = ArrayDataModule(X, LABELS, batch_size=8, num_workers=2)
    assert len(record_batches(other, ckpt_path=tmp_path / "a.ckpt").seen["train"]) == 6
    quiet_trainer().test(
        BatchRecorder(), datamodule=ArrayDataModule(X + 1, LABELS), ckpt_path=tmp_path / "a.ckpt", verbose=False
    )


def test_double_precision_gets_doubles() -> None:
    x, y = record_batches(ArrayDataModule(X, AMOUNTS, kind="regression"), precision="64-true").seen["train"][0]
    assert (x.dtype, y.dtype) == (torch.float64, torch.float64)


def test_the_fingerprint_tells_data_and_split() -> None:
    def mark(x: Any = X, **kwargs: Any) -> str | None:
        data = ArrayDataModule(x, LABELS, **kwargs)
        data.setup("fit")
        return data.fingerprint

    changed = X.copy()
    changed[:, 1] = np.nextafter(changed[:, 1], np.float32(99))
    everything = {mark(), mark(changed), mark(split_seed=1), mark(val_fraction=0.2), mark(test_fraction=0.1)}
    assert len(everything) == 5
    assert mark() == mark(batch_size=7) == mark(X.tolist())


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        (["b", "a"], ["a", "b"], [1, 0]),
        ([1.0, 0.0], ["0", "1"], [1, 0]),
        ([True, False], ["0", "1"], [1, 0]),
        (torch.tensor([0, 1]), ["0", "1"], [0, 1]),
        ([[1], [0]], ["0", "1"], [1, 0]),
    ],
)
def test_labels_of_every_kind(labels: Any, names: list[str], ids: list[int]) -> None:
    many = labels.repeat(10) if isinstance(labels, Tensor) else labels * 10
    data = ArrayDataModule(X[:20], many, val_fraction=0.0, test_fraction=0.0)
    data.setup("fit")
    assert (data.class_names, data._parts["train"].y.tolist()) == (names, ids * 10)


def test_class_names_of_your_own_give_the_order() -> None:
    data = ArrayDataModule(
        X, np.array(list("abcd"))[LABELS], class_names=list("dcba"), val_fraction=0.0, test_fraction=0.0
    )
    data.setup("fit")
    assert data._parts["train"].y.tolist() == (3 - LABELS).tolist()


def spoilt(value: float) -> np.ndarray:
    x = X.astype(np.float64)
    x[7, 2] = value
    return x


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((spoilt(np.nan), LABELS), {}, "x has nan in row 7, column 2 .* fill or remove"),
        ((spoilt(np.inf), LABELS), {}, "x has inf in row 7"),
        ((spoilt(1e300), LABELS), {}, "x has 1e.300 in row 7"),
        ((X[:, 0], LABELS), {}, r"x must be a table .* got the shape \(100,\)"),
        ((X[:0], LABELS[:0]), {}, "x must be a table .* not empty"),
        ((np.zeros((2, 3, 4, 4)), [0, 1]), {}, "for images subclass ImageDataModule"),
        ((X, LABELS[:99]), {}, "100 rows and 99 targets"),
        ((X, np.zeros(100, int)), {}, r"two or more different classes, got \['0'\]"),
        ((X, LABELS + 1), {}, "must have all of the labels 0..K-1, got 1, 2, 3, 4: number"),
        ((X, AMOUNTS), {}, 'in row 0, which is not a class: .*kind="regression"'),
        ((X, np.where(LABELS == 1, np.nan, 0.0)), {}, "y has nan in row 1, which is not a class"),
        ((X, LABELS), {"class_names": ["a", "b", "c"]}, "the labels in y must lie in 0..2 .*, got 3 in row 3"),
        ((X, ["a", "b"] * 50), {"class_names": ["a", "c"]}, "y has the class 'b', which is not one of"),
        ((X, np.eye(4)[LABELS]), {}, r"one label for each row, \(N,\), got the shape \(100, 4\)"),
        ((X, LABELS, X), {}, "x_test and y_test must be given together"),
        ((X, LABELS, X[:, :2], LABELS), {}, "the test part must have 3 columns, .*, got 2"),
        (
            (X, AMOUNTS, X, np.c_[AMOUNTS, AMOUNTS]),
            {"kind": "regression"},
            "y_test must have as many targets in a row as y, 1, got 2",
        ),
        ((X, LABELS), {"kind": "ranking"}, 'kind must be "classification" or "regression"'),
        ((X, LABELS), {"feature_names": ["a", "b"]}, "feature_names must be 3 different names, one for each column"),
        ((X, LABELS), {"feature_names": ["a", "b", "a"]}, "must be 3 different names"),
        ((X, LABELS), {"test_fraction": 1.0}, r"test_fraction must be a share of all rows in \[0, 1\), got 1.0"),
        (
            (X, [0] * 99 + [1]),
            {},
            "test_fraction=0.2 of 100 examples cannot hold every class in both parts: a class has 1 example and needs 2",
        ),
    ],
)
def test_bad_input_is_refused_at_once(args: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArrayDataModule(*args, **kwargs)


@pytest.mark.parametrize("x", [[["a", "b"]], [[1.0], [2.0, 3.0]], [[None, 1.0]], None])
def test_what_is_no_table_of_numbers_is_refused(x: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"x must be numbers|x has nan|x must be a table"):
        ArrayDataModule(x, [0, 1])


def test_no_test_part_is_said() -> None:
    data = ArrayDataModule(X, LABELS, test_fraction=0.0)
    data.setup("fit")
    with pytest.raises(ValueError, match="there is no test part: give test_fraction > 0"):
        data.setup("test")


def test_without_a_test_part_a_setup_for_everything_still_works() -> None:
    data = ArrayDataModule([[0.0], [1.0]] * 10, [0, 1] * 10, test_fraction=0.0)
    data.setup()
    assert not data.has_test
    with pytest.raises(ValueError, match="there is no test part: give test_fraction"):
        data.setup("test")
