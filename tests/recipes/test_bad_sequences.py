"""Texts and series that cannot be learned from, through the command line: one line, exit code 2."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_kit import Zoo, assert_one_line

MONTHS = [f"2020-{month:02d}-01,{month}" for month in range(1, 13)] + [
    f"2021-{month:02d}-01,{month}" for month in range(1, 13)
]
RECIPE = """seed_everything: 0
model: {{class_path: zoo.{model}, init_args: {{width: 4}}}}
data: {{class_path: datamodules.{data}, init_args: {{path: {path}, batch_size: 2}}}}
trainer: {{max_epochs: 1}}
"""
KINDS = {
    "txt": ("RecurrentLanguageModel", "TextFileDataModule"),
    "csv": ("RecurrentForecaster", "TimeSeriesDataModule"),
    "npz": ("SequenceClassifier", "SequenceTableDataModule"),
}


def with_arrays(**arrays: Any) -> None:
    np.savez("a.npz", **{"x": np.ones((6, 4, 1)), "y": np.arange(6) % 2, **arrays})


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (b"", [], ["a.txt is empty"]),
        (b" \n\n", [], ["a.txt is empty"]),
        (b"to be or not", [], ["fewer than one window of context=64", "give a longer text, or a smaller context"]),
        (b"caf\xe9" * 40, [], ["a.txt, byte 3 (line 1): 0xe9 is not valid utf-8", "encoding"]),
        (b"abc" * 40, ["--data.encoding=latin-99"], ["encoding must be one of Python's", "latin-99"]),
        (b"abc" * 40, ["--data.context=0"], ["context must be", "0"]),
    ],
)
def test_texts(zoo: Zoo, content: bytes, options: list[str], words: list[str]) -> None:
    refused(zoo, "txt", content, options, words)


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([*MONTHS[:5], MONTHS[3], *MONTHS[5:]], [], ["a.csv, line 7", "2020-04-01"]),
        ([*MONTHS[:5], MONTHS[4], *MONTHS[5:]], [], ["a.csv, line 7", "2020-05-01"]),
        (MONTHS, ["--data.horizon=30"], ["horizon"]),
        (MONTHS[:3], [], ["horizon"]),
        ([], [], ["a.csv"]),
    ],
)
def test_time_series(zoo: Zoo, rows: list[str], options: list[str], words: list[str]) -> None:
    columns = ["--data.time=month", "--data.targets=[sales]", "--data.context=4", "--data.horizon=2", *options]
    refused(zoo, "csv", "\n".join(["month,sales", *rows]).encode(), columns, words)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"lengths": [4, 0, 4, 4, 4, 4]}, ["a.npz", "length"]),
        ({"lengths": [4, 5, 4, 4, 4, 4]}, ["a.npz", "length", "5"]),
        ({"x": np.ones((6, 0, 1))}, ["a.npz"]),
    ],
)
def test_series(zoo: Zoo, arrays: dict[str, Any], words: list[str]) -> None:
    with_arrays(**arrays)
    refused(zoo, "npz", None, [], words)


def refused(zoo: Zoo, kind: str, content: bytes | None, options: list[str], words: list[str]) -> None:
    model, data = KINDS[kind]
    if content is not None:
        Path(f"a.{kind}").write_bytes(content)
    Path("bad.yaml").write_text(RECIPE.format(model=model, data=data, path=f"a.{kind}"))
    assert_one_line(zoo("fit", "-c", "bad.yaml", *options), *words)
    assert not Path("runs").exists()
