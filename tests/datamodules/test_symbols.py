"""Strings to copy, to reverse or to sort: only the answer counts, and it is that of the string."""

from typing import Any

import numpy as np
import pytest
import torch
from kit import record_batches

from datamodules import SymbolPairsDataModule, SymbolsDataModule
from datamodules.symbols import ANSWER, END, PADDING


@pytest.mark.parametrize("task", ["copy", "reverse", "sort"])
def test_the_answer_is_the_string_in_its_order(task: Any) -> None:
    data = SymbolsDataModule(task, symbols=4, lengths=(1, 5), count=300)
    x, y = (part.numpy() for part in (data.examples("train").x, data.examples("train").y))
    assert x.shape == y.shape == (300, 11)
    lengths = (x == ANSWER).argmax(1)
    assert set(lengths.tolist()) == {1, 2, 3, 4, 5}
    for row, target, n in zip(x, y, lengths, strict=True):
        shown = row[:n]
        assert ((shown > ANSWER) & (shown < data.vocab_size)).all()
        answer = {"copy": shown, "reverse": shown[::-1], "sort": sorted(shown)}[task]
        assert target.tolist() == [*[PADDING] * n, *answer, END, *[PADDING] * (10 - 2 * n)]
        assert row.tolist() == [*shown, ANSWER, *answer, *[PADDING] * (10 - 2 * n)]
    assert set(x[:, 0].tolist()) == {3, 4, 5, 6}


def test_the_vocabulary_is_plain_and_spells_a_string() -> None:
    data = SymbolsDataModule(symbols=3, lengths=(2, 2), count=1)
    assert data.vocabulary == {
        "kind": "symbols",
        "tokens": ["<pad>", "<end>", ":", "a", "b", "c"],
        "padding": 0,
        "end": 1,
        "tokenizer": None,
    }
    assert (data.vocab_size, data.num_classes, data.input_shape, data.kind) == (6, None, (5,), "text")


def test_the_test_part_may_be_longer_and_shares_no_draw() -> None:
    data = SymbolsDataModule(lengths=(1, 3), test_lengths=(4, 6), count=200)
    data.setup()
    parts = {name: data._parts[name].x for name in ("train", "val", "test")}
    assert {name: len(x) for name, x in parts.items()} == {"train": 180, "val": 20, "test": 40}
    spans = {name: (x == ANSWER).int().argmax(1) for name, x in parts.items()}
    assert (int(spans["train"].max()), int(spans["test"].min()), int(spans["test"].max())) == (3, 4, 6)
    same, other = (
        SymbolsDataModule(lengths=(1, 3), count=200),
        SymbolsDataModule(lengths=(1, 3), count=200, data_seed=1),
    )
    for each in (same, other):
        torch.manual_seed(3)
        each.setup()
    assert same.fingerprint == data.fingerprint != other.fingerprint
    assert torch.equal(same._parts["train"].x, parts["train"])
    lengths = [(same.examples(part).x[:40] == ANSWER).int().argmax(1) for part in ("train", "test")]
    assert not torch.equal(*lengths)


def test_batches_are_of_similar_length_and_cut() -> None:
    seen = record_batches(SymbolsDataModule(lengths=(1, 9), count=400, batch_size=10)).seen["train"]
    spans = [(x == ANSWER).int().argmax(1) for x, _ in seen]
    assert max(int(span.max() - span.min()) for span in spans) <= 2
    assert all(x.shape == y.shape == (10, 2 * int(span.max()) + 1) for (x, y), span in zip(seen, spans, strict=True))
    assert np.ptp([x.shape[1] for x, _ in seen]) > 10


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"task": "add"}, ValueError, 'task must be "copy", "reverse" or "sort", got \'add\''),
        ({"symbols": 27}, ValueError, r"symbols must be an integer in 2..26, got 27"),
        ({"lengths": (3, 2)}, ValueError, "the largest of lengths must be an integer >= 3, got 2"),
        ({"lengths": (0, 2)}, ValueError, "the smallest of lengths must be an integer >= 1, got 0"),
        (
            {"test_lengths": [4]},
            ValueError,
            r"test_lengths must be a smallest and a largest number of letters, got \[4\]",
        ),
        ({"count": 1.5}, TypeError, "count must be an integer >= 1, got 1.5"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    for module in (SymbolsDataModule, SymbolPairsDataModule):
        with pytest.raises(error, match=message):
            module(**options)


@pytest.mark.parametrize("task", ["copy", "reverse", "sort"])
def test_pairs_are_the_strings_of_the_language_model(task: Any) -> None:
    options: dict[str, Any] = {"symbols": 4, "lengths": (1, 3), "test_lengths": (6, 6), "count": 90}
    pairs, texts = SymbolPairsDataModule(task, **options), SymbolsDataModule(task, **options)
    assert pairs.vocabulary == pairs.source_vocabulary
    assert pairs.vocabulary["tokens"] == ["<pad>", "<end>", "a", "b", "c", "d"]
    assert (pairs.kind, pairs.input_shape, pairs.vocab_size) == ("translation", (7, 7), 6)
    names = pairs.vocabulary["tokens"]
    for part in ("train", "test"):
        rows = pairs.examples(part)
        x, y = rows.batch(torch.arange(len(rows)))
        assert x.source.shape == x.target.shape == y.shape == (len(rows), 4 if part == "train" else 7)
        shown = [" ".join(names[k] for k in row if k != PADDING) for row in x.source.tolist()]
        answers = [" ".join(names[k] for k in row if k != PADDING) for row in y.tolist()]
        read = [" ".join(names[k] for k in row if k != PADDING) for row in x.target.tolist()]
        whole = [
            " ".join(texts.vocabulary["tokens"][k] for k in row if k != PADDING)
            for row in texts.examples(part).x.tolist()
        ]
        assert all(text.endswith(" <end>") for text in [*shown, *answers])
        both = zip(shown, answers, strict=True)
        assert whole == [f"{one.removesuffix(' <end>')} : {other.removesuffix(' <end>')}" for one, other in both]
        assert all(one == f"<end> {other.removesuffix(' <end>')}" for one, other in zip(read, answers, strict=True))


def test_pairs_split_and_batch_like_other_pairs() -> None:
    data = SymbolPairsDataModule("reverse", lengths=(1, 9), count=400, batch_size=10)
    seen = record_batches(data).seen["train"]
    assert all(x.source.shape == x.target.shape == y.shape for x, y in seen)
    assert np.ptp([y.shape[1] for _, y in seen]) > 5
    assert [len(data._parts[name]) for name in ("train", "val")] == [360, 40]
