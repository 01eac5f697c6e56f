"""Pairs of texts from files: tokens, ends, padding, parts, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from kit import assert_resumes, record_batches
from torch import Tensor

from datamodules import SentencePair, SentencePairsDataModule
from datamodules.pairs import TextPairDataModule

pytestmark = pytest.mark.usefixtures("tmp_cwd")
PAIRS = [(f"{'x' * (i % 7)}s{i}", f"{'y' * (i % 4)}t{i}") for i in range(40)]


def written(pairs: list[tuple[str, str]] = PAIRS, name: str = "pairs.tsv", encoding: str = "utf-8") -> str:
    Path(name).write_bytes("".join(f"{source}\t{target}\n" for source, target in pairs).encode(encoding))
    return name


def made(pairs: list[tuple[str, str]] = PAIRS, **options: Any) -> SentencePairsDataModule:
    return SentencePairsDataModule(written(pairs), **{"batch_size": 4, **options})


def words(rows: Tensor, vocabulary: Any) -> list[str]:
    """Rows of characters, with "." for the end and "_" for padding."""
    names = ["_", ".", *vocabulary["tokens"][2:]]
    return ["".join(names[k] for k in row) for row in rows.tolist()]


def pairs_of(data: TextPairDataModule, part: str) -> set[tuple[str, str]]:
    rows = data._parts[part]
    sides = ((rows.x, data.source_vocabulary), (rows.y, data.vocabulary))
    return set(zip(*([word.partition(".")[0] for word in words(*side)] for side in sides), strict=True))


def test_a_batch_has_the_source_with_its_end_what_is_read_and_what_is_written() -> None:
    data = made([("ab", "xyz"), ("c", "y")] * 2, val_fraction=0, test_fraction=0)
    data.setup("fit")
    x, y = data.collate(data._parts["train"].__getitems__([0, 1]))
    assert isinstance(x, SentencePair)
    assert words(x.source, data.source_vocabulary) == ["ab.", "c._"]
    assert words(x.target, data.vocabulary) == [".xyz", ".y__"]  # a decoder begins after an end, and reads none later
    assert words(y, data.vocabulary) == ["xyz.", "y.__"]
    assert all(tokens.dtype == torch.int64 for tokens in (*x, y))
    assert (data.input_shape, data.kind, data.padding) == ((3, 4), "translation", 0)


def test_batches_are_cut_to_their_longest_source_and_target() -> None:
    data = made(similar_lengths=False)
    shapes = set()
    for x, y in record_batches(data).seen["train"]:
        sources, targets = words(x.source, data.source_vocabulary), words(y, data.vocabulary)
        assert any(not text.endswith("_") for text in sources)
        assert any(not text.endswith("_") for text in targets)
        assert x.target.shape == y.shape
        shapes.add((x.source.shape[1], y.shape[1]))
    assert len(shapes) > 2


@pytest.mark.parametrize(
    ("tokenizer", "padding", "end", "size"), [("characters", 0, 1, 14), ("bytes", 256, 257, 258), ("bpe", 0, 1, 260)]
)
def test_padding_and_end_have_the_same_indices_in_both_vocabularies(
    tokenizer: Any, padding: int, end: int, size: int
) -> None:
    data = made(tokenizer=tokenizer, vocab_size=260 if tokenizer == "bpe" else None)
    for vocabulary in (data.vocabulary, data.source_vocabulary):
        assert (vocabulary["padding"], vocabulary["end"]) == (padding, end)
        assert vocabulary["tokens"] is None or vocabulary["tokens"][:2] == ["<pad>", "<end>"]
    assert data.vocab_size == size
    data.setup()
    rows = data._parts["train"]
    for tokens in (rows.x, rows.y):
        ends = (tokens == end).int()
        assert torch.equal(ends.sum(1), torch.ones(len(tokens)))
        after = torch.arange(tokens.shape[1]) > ends.argmax(1)[:, None]
        assert torch.equal(tokens == padding, after)


def test_a_text_that_names_a_special_token_does_not_mean_it() -> None:
    pairs = [("<pad> <end>" * 3, "<end>" * 9)] * 9
    data = made([*pairs, *PAIRS], tokenizer="bpe", vocab_size=400, test_fraction=0, val_fraction=0)
    source, target = data.examples("train").x[0], data.examples("train").y[0]
    for tokens, vocabulary in ((source, data.source_vocabulary), (target, data.vocabulary)):
        assert int((tokens == 1).sum()) == 1
        assert vocabulary["tokens"].count("<end>") == vocabulary["tokens"].count("<pad>") == 1


def test_a_source_with_several_targets_is_in_one_part_alone() -> None:
    pairs = [(f"s{i % 10}", f"t{i}") for i in range(60)]
    data = made(pairs, test_fraction=0.3, val_fraction=0.3)
    data.setup()
    parts = {name: pairs_of(data, name) for name in ("train", "val", "test")}
    assert set().union(*parts.values()) == set(pairs)
    sources = {name: {source for source, _ in part} for name, part in parts.items()}
    assert {name: len(names) for name, names in sources.items()} == {"train": 4, "val": 3, "test": 3}
    assert len(set().union(*sources.values())) == 10
    other = made(pairs, test_fraction=0.3, val_fraction=0.3, split_seed=2)
    other.setup()
    assert pairs_of(other, "test") == parts["test"]
    assert pairs_of(other, "val") != parts["val"]
    assert other.fingerprint != data.fingerprint


def test_other_files_are_validation_and_test_part() -> None:
    val, test = written([("sä", "tö")], "val.tsv"), written([("u", "v"), ("w", "ß")], "test.tsv")
    data = made(val=val, test=test)
    data.setup()
    assert {"ä", "u", "w"} < set(data.source_vocabulary["tokens"])
    assert {"ö", "ß"} < set(data.vocabulary["tokens"])
    assert pairs_of(data, "train") == set(PAIRS)
    assert pairs_of(data, "val") == {("sä", "tö")}
    assert pairs_of(data, "test") == {("u", "v"), ("w", "ß")}
    assert data.has_test


def test_test_sources_that_are_trained_on_are_counted() -> None:
    test = written([PAIRS[3], ("new", "t"), PAIRS[5]], "test.tsv")
    with pytest.warns(UserWarning, match="2 of the 3 sources of the test part are in the training part, too"):
        made(test=test)


def test_two_files_line_by_line() -> None:
    one, two = (list(side) for side in zip(*PAIRS, strict=True))
    Path("a.txt").write_text("\n".join(one))  # without a line feed at the end
    Path("b.txt").write_text("".join(f"{text}\r\n" for text in two), newline="")
    data = SentencePairsDataModule(["a.txt", "b.txt"], val_fraction=0, test_fraction=0)
    data.setup("fit")
    assert pairs_of(data, "train") == set(PAIRS)
    assert (data.preparation["first_column"], made().preparation["first_column"]) == (False, True)
    assert data.input_file == "a.txt"


def test_latin_1_and_marks_that_end_no_line() -> None:
    data = SentencePairsDataModule(
        written([("é\x85a", " ñ ")] * 3, encoding="latin-1"), encoding="latin-1", val_fraction=0, test_fraction=0
    )
    data.setup("fit")
    assert pairs_of(data, "train") == {("é\x85a", "ñ")}


def test_bpe_is_learned_from_the_training_pairs_alone() -> None:
    pairs, test = [("ab ab", "cd cd")] * 20, [("yz yz", "uv uv")] * 20
    data = made(pairs, tokenizer="bpe", vocab_size=300, test=written(test, "test.tsv"), val_fraction=0)
    merged = [vocabulary["tokens"][258:] for vocabulary in (data.source_vocabulary, data.vocabulary)]
    assert ["ab" in tokens for tokens in merged] == [True, False]
    assert ["cd" in tokens for tokens in merged] == [False, True]
    assert not any(word in token for word in ("yz", "uv") for tokens in merged for token in tokens)


@pytest.mark.parametrize("tokenizer", ["characters", "bpe"])
def test_a_shared_vocabulary_is_that_of_both_sides(tokenizer: Any) -> None:
    pairs = [("ab ab", "cd cd")] * 20
    data = made(pairs, tokenizer=tokenizer, shared_vocabulary=True, val_fraction=0, test_fraction=0)
    assert data.vocabulary == data.source_vocabulary
    known = {"ab", "cd"} if tokenizer == "bpe" else set("abcd")
    assert known < set(data.vocabulary["tokens"])


def test_long_pairs_are_left_out_with_a_warning() -> None:
    pairs = [*PAIRS, ("z" * 30, "z"), ("z", "z" * 40), ("z" * 19, "a" * 19)]
    test = written([("new", "t"), ("t", "u" * 20)], "test.tsv")
    words = r"3 of 45 pairs have more than max_length=20 tokens, up to 41, and are left out \(2 train, 1 test\)"
    with pytest.warns(UserWarning, match=words):
        data = made(pairs, max_length=20, test=test, val_fraction=0)
    data.setup()
    assert data.input_shape == (20, 20)
    assert pairs_of(data, "train") == {*PAIRS, ("z" * 19, "a" * 19)}
    assert pairs_of(data, "test") == {("new", "t")}
    with pytest.raises(ValueError, match="all 1 pairs of the test part have more than max_length=20 tokens"):
        made(max_length=20, test=written([("t", "u" * 20)], "test.tsv"))


def test_no_test_part() -> None:
    data = made(test_fraction=0.0)
    assert not data.has_test
    with pytest.raises(ValueError, match="there is no test part"):
        data.setup("test")


def test_the_fingerprint_tells_texts_with_the_same_tokens_apart() -> None:
    prints = []
    for letter in "ab":
        data = made([(letter, "x")] * 4, val_fraction=0, test_fraction=0)
        data.setup("fit")
        prints.append(data.fingerprint)
    assert prints[0] != prints[1]


def test_training_goes_by_similar_lengths_and_resumes(tmp_path: Path) -> None:
    pairs = [("x" * (i * 5 % 17) + f"{i}", "y" * (i * 7 % 13) + f"{i}") for i in range(80)]
    assert_resumes(tmp_path, lambda: made(pairs), 4, max_epochs=2)
    wasted = {
        similar: sum(
            int((tokens == 0).sum())
            for x, y in record_batches(made(pairs, similar_lengths=similar)).seen["train"]
            for tokens in (x.source, y)
        )
        for similar in (True, False)
    }
    assert wasted[True] < 0.8 * wasted[False]


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (
            ["a\tb", "a b"],
            {},
            "pairs.tsv, line 2: one column, 'a b', but a line must be a source, a tab, and its target",
        ),
        (["a\tb", "", "a\tb"], {}, "pairs.tsv, line 2: the line is empty"),
        (["a\tb"] * 3 + ["a\tb\tc"], {}, "pairs.tsv, line 4: 3 columns, but a line must be a source"),
        (["a\tb\t"], {}, "pairs.tsv, line 1: 3 columns"),
        (["a\tb", " \tb", "\tc"], {}, "pairs.tsv, line 2: the source is empty in 2 of 3 lines"),
        (["a\tb", "a\t "], {}, "pairs.tsv, line 2: the target is empty in 1 of 2 lines"),
        ([], {}, "pairs.tsv is empty"),
        (["a\tb"], {}, "test_fraction=0.2 of 1 different sources leaves none for the other part: add some, or"),
        (["a\tb"], {"path": ["pairs.tsv"]}, "in one file with two columns, or in two files, got 1 files"),
        (["a\tb"], {"tokenizer": "words"}, 'tokenizer must be "characters", "bytes" or "bpe"'),
        (["a\tb"], {"max_length": 1}, "max_length must be an integer >= 2"),
        (["a\tb"], {"test_fraction": 1.0}, "test_fraction must be a share of all sources"),
        (["a\tb"], {"encoding": "utf-7,5"}, "encoding must be one of Python's"),
    ],
)
def test_bad_input(lines: list[str], options: dict[str, Any], message: str) -> None:
    Path("pairs.tsv").write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(ValueError) as error:
        SentencePairsDataModule(**{"path": "pairs.tsv", **options})
    assert message in str(error.value)


def test_empty_lines_at_the_end_of_a_file_are_none() -> None:
    Path("pairs.tsv").write_text("a\tb\nc\td\n \n\n")
    data = SentencePairsDataModule("pairs.tsv", test_fraction=0.5, val_fraction=0.0)
    assert len(data.examples("train")) + len(data.examples("test")) == 2
    Path("a.txt").write_text("1\n2\n\n")
    Path("b.txt").write_text("3\n4")
    assert len(SentencePairsDataModule(["a.txt", "b.txt"], test_fraction=0.0, val_fraction=0.5).examples("train")) == 2


def test_two_files_of_different_length_are_both_named() -> None:
    Path("a.txt").write_text("1\n2\n3\n")
    Path("b.txt").write_text("1\n2\n")
    with pytest.raises(ValueError, match=r"a\.txt has 3 lines, but b\.txt has 2: the source and the target of a pair"):
        SentencePairsDataModule(["a.txt", "b.txt"])
    Path("b.txt").write_text("1\n\n3\n")
    with pytest.raises(ValueError, match=r"b\.txt, line 2: the text is empty in 1 of 3 lines"):
        SentencePairsDataModule(["a.txt", "b.txt"])
    with pytest.raises(FileNotFoundError, match=r"c\.txt is not a file"):
        SentencePairsDataModule(["a.txt", "c.txt"])
