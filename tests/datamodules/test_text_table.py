"""Texts with a class each, from a CSV file: tokens, padding, parts, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from kit import assert_resumes, record_batches
from torch import Tensor

from datamodules import TextTableDataModule
from datamodules.splits import held_out

pytestmark = pytest.mark.usefixtures("tmp_cwd")
REVIEWS = [("it was, well, long", "bad"), ("good", "good"), ('they say "fine"', "good"), ("no\nno", "bad")] * 10


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def written(rows: list[tuple[str, str]], name: str = "reviews.csv", encoding: str = "utf-8") -> str:
    lines = ["id,text,label", *(f"{i},{quoted(text)},{label}" for i, (text, label) in enumerate(rows))]
    Path(name).write_text("\n".join(lines) + "\n", encoding=encoding)
    return name


def made(rows: list[tuple[str, str]] = REVIEWS, **options: Any) -> TextTableDataModule:
    return TextTableDataModule(written(rows), **{"batch_size": 4, **options})


def texts_of(data: TextTableDataModule, x: Tensor) -> list[str]:
    names = data.vocabulary["tokens"]
    return ["".join(names[k] for k in row if k != data.padding) for row in x.tolist()]


def test_tokens_are_padded_to_the_longest_of_the_batch() -> None:
    data = made(similar_lengths=False)
    assert data.class_names == ["bad", "good"]
    assert data.num_classes == 2
    assert data.input_shape == (18,)
    assert data.padding == data.vocab_size - 1
    assert data.vocabulary["tokens"][-1] == "<pad>"
    known = {text: data.class_names.index(label) for text, label in REVIEWS}
    lengths = set()
    for x, y in record_batches(data).seen["train"]:
        assert x.dtype == torch.int64
        shown = texts_of(data, x)
        assert [known[text] for text in shown] == y.tolist()
        assert x.shape[1] == max(map(len, shown))
        for row, text in zip(x.tolist(), shown, strict=True):
            assert row[len(text) :] == [data.padding] * (x.shape[1] - len(text))  # at the end alone
        lengths.add(x.shape[1])
    assert len(lengths) > 1


def test_parts_are_stratified_and_hold_each_row_once() -> None:
    rows = [(f"text {i}", "ab"[i % 2]) for i in range(40)]
    data = made(rows, val_fraction=0.25)
    data.setup()
    parts = {part: texts_of(data, data._parts[part].x) for part in ("train", "val", "test")}
    assert sorted(text for texts in parts.values() for text in texts) == sorted(text for text, _ in rows)
    assert {part: len(texts) for part, texts in parts.items()} == {"train": 24, "val": 8, "test": 8}
    tests = held_out("test_fraction", 0.2, 40, 0, torch.arange(40) % 2)
    assert parts["test"] == [text for (text, _), chosen in zip(rows, tests.tolist(), strict=True) if chosen]
    assert data.class_counts == [12, 12]


def test_bpe_is_learned_from_the_training_rows_alone() -> None:
    """Of the held out rows, and of the test file, no pair is known."""
    rows = [("ab ab", "x"), ("ab ab", "y")] * 10
    tests = written([("yz yz", "x"), ("yz yz", "y")], "test.csv")
    data = made(rows, tokenizer="bpe", vocab_size=300, test=tests)
    merged = data.vocabulary["tokens"][256:]
    assert "ab" in merged
    assert not any("yz" in token for token in merged)
    held = held_out("val_fraction", 0.5, 20, 0, torch.arange(20) % 2).tolist()
    rows = [("cd cd" if is_held else "ab ab", label) for (_, label), is_held in zip(rows, held, strict=True)]
    data = made(rows, tokenizer="bpe", vocab_size=300, test=tests, val_fraction=0.5)
    assert not any("cd" in token for token in data.vocabulary["tokens"][256:])


def test_a_test_file_and_its_characters() -> None:
    tests = written([("gœœd", "good"), ("bäd", "bad")], "test.csv", "utf-8")
    data = made(test=tests, test_fraction=0.0)
    assert {"œ", "ä"} < set(data.vocabulary["tokens"])
    data.setup()
    assert texts_of(data, data._parts["test"].x) == ["gœœd", "bäd"]
    assert len(data._parts["train"]) + len(data._parts["val"]) == len(REVIEWS)


def test_latin_1_and_other_delimiters() -> None:
    Path("x.csv").write_bytes("text;label\nnaïve;a\nfaçade;b\n".encode("latin-1") * 1 + b"x;a\ny;b\n" * 8)
    data = TextTableDataModule("x.csv", encoding="latin-1", delimiter=";", tokenizer="bytes")
    assert (data.vocab_size, data.padding) == (257, 256)
    assert data.input_shape == (len("façade".encode()),)


def test_long_texts_are_cut_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="10 of 40 texts have more than max_length=15 tokens, up to 18, and are cut"):
        data = made(max_length=15)
    assert data.input_shape == (15,)
    data.setup()
    assert set(texts_of(data, data._parts["train"].x)) == {text[:15] for text, _ in REVIEWS}


def test_no_test_part() -> None:
    data = made(test_fraction=0.0)
    assert not data.has_test
    with pytest.raises(ValueError, match="there is no test part"):
        data.setup("test")


def test_training_goes_by_similar_lengths_and_resumes(tmp_path: Path) -> None:
    rows = [("x" * (i * 5 % 17) + f" {i}", "ab"[i % 2]) for i in range(60)]
    assert_resumes(tmp_path, lambda: made(rows), 4, max_epochs=2)
    wasted = {
        similar: sum(
            int((x == x.max()).sum()) for x, _ in record_batches(made(rows, similar_lengths=similar)).seen["train"]
        )
        for similar in (True, False)
    }
    assert wasted[True] < wasted[False]


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([*REVIEWS, ("", "bad"), (" ", "bad")], {}, ["line 52, column 'text': the text is empty in 2 of 42 rows"]),
        ([*REVIEWS, ("so", "")], {}, ["column 'label': the target is missing in 1 of 41 rows"]),
        ([("a", "one")] * 9, {}, ["has only one class, 'one'"]),
        (REVIEWS, {"text": "review"}, ["has no column 'review', only 'id', 'text', 'label'"]),
        (REVIEWS, {"text": "label"}, ["text and target must be different columns, got 'label' for both"]),
        (REVIEWS, {"max_length": 0}, ["max_length must be an integer >= 1"]),
        (REVIEWS, {"tokenizer": "words"}, ['tokenizer must be "characters", "bytes" or "bpe"']),
        (REVIEWS, {"test_fraction": 1.5}, ["test_fraction must be a share of all rows"]),
    ],
)
def test_bad_input(rows: list[tuple[str, str]], options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        made(rows, **options)
    for word in words:
        assert word in str(error.value)
