"""Series of one's own: what a file holds is what is trained on, and what cannot be learned from is named with its place."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules import SequenceTableDataModule, Series
from datamodules.sequence_table import read_series

OPTIONS: dict[str, Any] = {"test_fraction": 0.0, "val_fraction": 0.0}
VALUES = np.arange(24, dtype=np.float32).reshape(4, 3, 2)


def table(*rows: str, name: str = "series.csv") -> str:
    Path(name).write_text("\n".join(rows) + "\n")
    return name


def arrays(**parts: Any) -> str:
    np.savez("series.npz", **parts)
    return "series.npz"


def train(data: SequenceTableDataModule) -> tuple[Any, Tensor]:
    data.setup("fit")
    return data._parts["train"].x, data._parts["train"].y


# CSV --------------------------------------------------------------------------------------------------------------------


def test_a_row_is_a_series_that_ends_in_empty_cells(tmp_cwd: Path) -> None:
    path = table("name,t1,t0,y,t2", "a,2,1,up,3", "b,-1,0.5,down,", "c,,7,up,", "d,NA,8,down,NA")
    data = SequenceTableDataModule(path, **OPTIONS)
    x, y = train(data)
    assert x.lengths.tolist() == [3, 2, 1, 1]
    assert x.values.tolist() == [[[1], [2], [3]], [[0.5], [-1], [0]], [[7], [0], [0]], [[8], [0], [0]]]
    assert (data.class_names, y.tolist(), data.input_shape) == (["down", "up"], [1, 0, 1, 0], (3, 1))
    assert data.input_file == path
    read = read_series(path, data.preparation)
    assert isinstance(read, Series)
    assert torch.equal(read.values.float(), x.values)
    assert torch.equal(read.lengths, x.lengths)


def test_columns_that_no_series_reaches_are_left_out_and_equal_lengths_are_a_tensor(tmp_cwd: Path) -> None:
    path = table("t0,t1,t2,y", "1,2,,0.5", "3,4,,1.5")
    data = SequenceTableDataModule(path, kind="regression", **OPTIONS)
    x, y = train(data)
    assert (x.tolist(), y.tolist()) == ([[[1], [2]], [[3], [4]]], [[0.5], [1.5]])
    assert (data.num_outputs, data.target_names, data.input_shape) == (1, ["y"], (2, 1))
    assert torch.equal(read_series(path, data.preparation).float(), x)


def test_how_it_is_written_and_a_test_file_with_longer_series(tmp_cwd: Path) -> None:
    path = table("t0;t1;class", "1,5;-;b", "2;3;a", "4;-;b")
    test = table("class;t0;t1;t2", "a;1;2;3", name="test.csv")
    options: dict[str, Any] = {
        "target": "class",
        "delimiter": ";",
        "decimal": ",",
        "missing": ["-"],
        "val_fraction": 0.0,
    }
    data = SequenceTableDataModule(path, test=test, **options)
    data.setup()
    parts = {name: data._parts[name] for name in ("train", "test")}
    assert parts["train"].x.values[:, :, 0].tolist() == [[1.5, 0, 0], [2, 3, 0], [4, 0, 0]]
    assert parts["test"].x.values[:, :, 0].tolist() == [[1, 2, 3]]
    assert (parts["train"].y.tolist(), parts["test"].y.tolist()) == ([1, 0, 1], [0])
    assert torch.equal(read_series(test, data.preparation).float(), parts["test"].x.values)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ["t0,t1,y", "1,2,a", ",,b"],
            "series.csv, line 3: the series has no number, and needs one or more: remove the row",
        ),
        (["t0,t1,t2,y", "1,2,3,a", "1,,3,b"], "line 3, column 't1' is empty, and a later time is not: only the end"),
        (["t0,t1,y", ",2,a", "1,2,b"], "line 2, column 't0' is empty, and a later time is not"),
        (
            ["t0,t2,y", "1,2,a"],
            "series.csv has no column 't1', but has t2: name the columns of the numbers t0, t1, t2 ...",
        ),
        (["a,b", "1,2"], "has no column 't0', only 'a', 'b': name the columns"),
        (["t0,t1,z", "1,2,a"], "series.csv has no column 'y', only 't0', 't1', 'z'"),
        (["t0,t1,y", "1,two,a"], "line 2, column 't1' must be a finite number, got 'two'"),
        (["t0,y", "1,a", "2,"], "line 3, column 'y': the target is missing in 1 of 2 rows"),
        (["t0,y", "1,a", "2,a"], "the target 'y' has only one class, 'a'"),
        (["t0,y", "1,0.5", "2,0.7"], "line 2, column 'y': '0.5' is an amount, not a class: give kind=\"regression\""),
    ],
)
def test_a_csv_file_that_cannot_be_learned_from(rows: list[str], message: str, tmp_cwd: Path) -> None:
    path = table(*rows)
    with pytest.raises(ValueError) as error:
        SequenceTableDataModule(path)
    assert message in str(error.value)


# Arrays -----------------------------------------------------------------------------------------------------------------


def test_arrays_with_lengths_are_cut_to_the_longest_and_padded_with_0(tmp_cwd: Path) -> None:
    path = arrays(x=VALUES, lengths=[1, 2, 2, 1], y=["b", "a", "c", "a"])
    data = SequenceTableDataModule(path, **OPTIONS)
    x, y = train(data)
    assert x.values.tolist() == [[[0, 1], [0, 0]], [[6, 7], [8, 9]], [[12, 13], [14, 15]], [[18, 19], [0, 0]]]
    assert (x.lengths.tolist(), y.tolist(), data.class_names) == ([1, 2, 2, 1], [1, 0, 2, 0], ["a", "b", "c"])
    assert data.input_shape == (2, 2)
    read = read_series(path, {})
    assert torch.equal(read.values.float(), x.values)


@pytest.mark.parametrize(
    ("y", "names", "shape"),
    [([1.0, 2, 3, 4], ["y"], (4, 1)), (np.arange(8.0).reshape(4, 2), ["y0", "y1"], (4, 2))],
)
def test_numbers_of_whole_series(y: Any, names: list[str], shape: tuple[int, ...], tmp_cwd: Path) -> None:
    data = SequenceTableDataModule(arrays(x=VALUES, y=y), kind="regression", **OPTIONS)
    x, target = train(data)
    assert torch.equal(x, torch.from_numpy(VALUES))
    assert torch.equal(target, torch.tensor(np.asarray(y)).float().view(shape))
    assert data.target_names == names


def test_classes_and_numbers_of_each_time(tmp_cwd: Path) -> None:
    lengths = [3, 1, 2, 2]
    labels = np.array([["up", "up", "on"], ["on", "?", "?"], ["up", "on", "?"], ["on", "on", "?"]])
    data = SequenceTableDataModule(arrays(x=VALUES, lengths=lengths, y=labels), in_step=True, **OPTIONS)
    x, y = train(data)
    assert data.class_names == ["on", "up"]  # what is beyond the end is no class
    assert y.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert data.class_counts == [5, 3]
    for numbers in (VALUES[:, :, 0], VALUES):
        y = numbers.copy()
        y[np.arange(3) >= np.array(lengths)[:, None]] = np.nan
        path = arrays(x=VALUES, lengths=lengths, y=y)
        data = SequenceTableDataModule(path, kind="regression", in_step=True, **OPTIONS)
        x, y = train(data)
        assert data.num_outputs == (1 if numbers.ndim == 2 else 2)
        assert torch.equal(y, x.values[:, :, : data.num_outputs])


OBJECTS = np.array([np.ones(2), np.ones(3)], dtype=object)
Y = [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("parts", "options", "error", "message"),
    [
        (
            {"x": OBJECTS, "y": [0, 1]},
            {},
            TypeError,
            "series.npz: x is an array of dtype object, not of numbers: pad series",
        ),
        ({"x": VALUES, "y": OBJECTS}, {}, TypeError, "series.npz: y is an array of dtype object"),
        ({"y": Y}, {}, ValueError, "series.npz has no array 'x', only 'y': write it with numpy.savez"),
        ({"x": VALUES}, {}, ValueError, "series.npz has no array 'y' to predict, only x"),
        ({"x": VALUES[:, :, 0], "y": Y}, {}, ValueError, "got (4, 3): one number at each time is x[:, :, None]"),
        (
            {"x": VALUES, "y": Y, "lengths": [3, 0, 1, 1]},
            {},
            ValueError,
            "series.npz: x has 3 times, so lengths must lie in 1..3, got 0 in row 1: remove",
        ),
        ({"x": VALUES, "y": Y, "lengths": [3, 3, 3, 4]}, {}, ValueError, "got 4 in row 3: correct it"),
        ({"x": VALUES, "y": Y, "lengths": [3, 3]}, {}, ValueError, "must be one for each of 4, got the shape (2,)"),
        ({"x": VALUES, "y": Y[:3]}, {}, ValueError, "series.npz: y must have the shape (4,), got (3,)"),
        ({"x": VALUES, "y": VALUES[:, :, 0]}, {}, ValueError, "got (4, 3): or give in_step, if each time has one"),
        ({"x": VALUES, "y": Y}, {"in_step": True}, ValueError, "y must have the shape (4, 3), got (4,)"),
        (
            {"x": VALUES, "y": Y},
            {"in_step": True, "kind": "regression"},
            ValueError,
            "the shape (4, 3) or (4, 3, K), got (4,)",
        ),
        (
            {"x": VALUES, "y": [0, 2, 0, 2]},
            {},
            ValueError,
            "series.npz: y must have all of the labels 0..K-1, got 0, 2",
        ),
        (
            {"x": VALUES, "y": [0, 1, 0, float("nan")]},
            {"kind": "regression"},
            ValueError,
            "series.npz: y has nan in row 3",
        ),
        ({"x": np.full((4, 3, 2), np.inf), "y": Y}, {}, ValueError, "series.npz: x has inf in row 0, time 0, column 0"),
    ],
)
def test_arrays_that_cannot_be_learned_from(
    parts: dict[str, Any], options: dict[str, Any], error: type[Exception], message: str, tmp_cwd: Path
) -> None:
    path = arrays(**parts)
    with pytest.raises(error) as raised:
        SequenceTableDataModule(path, **options)
    assert message in str(raised.value)


def test_files_that_cannot_be_read(tmp_cwd: Path) -> None:
    np.save("one.npy", VALUES)
    Path("one.npy").rename("one.npz")
    whole = Path(arrays(x=VALUES, y=Y)).read_bytes()
    Path("half.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("one.npz", "half.npz"):
        with pytest.raises(
            ValueError, match=rf"{name} cannot be read as an .npz file \(.+\): write it with numpy.savez"
        ):
            SequenceTableDataModule(name)
    for name in ("none.npz", "none.csv"):
        with pytest.raises(FileNotFoundError, match=rf"{name} is not a file"):
            SequenceTableDataModule(name)
    with pytest.raises(
        ValueError, match=r"in_step is for .npz files, which have a target for each time, not for a.csv"
    ):
        SequenceTableDataModule("a.csv", in_step=True)
    with pytest.raises(ValueError, match='kind must be "classification" or "regression", got \'text\''):
        SequenceTableDataModule("a.csv", kind="text")  # type: ignore[arg-type]


def test_a_test_file_must_be_like_the_other(tmp_cwd: Path) -> None:
    path = arrays(x=VALUES, y=Y)
    np.savez("test.npz", x=VALUES[:, :, :1], y=Y)
    with pytest.raises(ValueError, match=r"test.npz must be like series.npz: 2 numbers at a time .* got 1 and"):
        SequenceTableDataModule(path, test="test.npz")
    np.savez("test.npz", x=VALUES, y=[0, 1, 2, 1])
    with pytest.raises(
        ValueError, match=r"the labels in test.npz: y must lie in 0..1 for \['0', '1'\], got 2 in row 2"
    ):
        SequenceTableDataModule(path, test="test.npz")
