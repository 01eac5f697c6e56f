"""A user's own pairs of texts on the command line: fit, predict files of them, and what is refused in one line."""

import io
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from cli_kit import Zoo, assert_one_line

from datamodules.sentence_pairs import read_pairs

PAIRS = [(f"{'ab' * (i % 3)}c{i % 10}", f"x{i % 10}{'yz' * (i % 3)}") for i in range(30)]
TINY = ("--model.width=8", "--data.batch_size=4", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2")
RUN = Path("runs/seq2seq/pairs/version_0")
PAGE = (Path(__file__).parents[2] / "docs/own_data.md").read_text()


@pytest.fixture(autouse=True)
def _pairs(tmp_cwd: Path) -> None:
    Path("pairs.tsv").write_bytes("".join(f"{one}\t{other}é\n" for one, other in PAIRS).encode("latin-1"))


def test_a_model_of_pairs_keeps_both_vocabularies_and_reads_sources(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    result = zoo("fit", "-c", "seq2seq/pairs", *TINY, "--data.encoding=latin-1")
    assert (result.code, result.err) == (0, "")
    checkpoint = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)
    known = checkpoint["zoo"]
    assert known["source_vocabulary"]["tokens"] == ["<pad>", "<end>", *sorted(set("abc0123456789"))]
    assert known["vocabulary"]["tokens"] == ["<pad>", "<end>", *sorted(set("xyz0123456789é"))]
    assert known["preparation"] == {"encoding": "latin-1", "first_column": True}
    rows = json.loads(zoo("predict", RUN, "pairs.tsv", "abc", "--json").out)
    assert [(row.get("file"), row.get("line"), row["source"]) for row in rows] == [
        *(("pairs.tsv", i, source) for i, (source, _) in enumerate(PAIRS, start=1)),
        (None, None, "abc"),
    ]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc \tno matter\n\nab\n")))
    rows = json.loads(zoo("predict", RUN, "-", "--json").out)
    assert [(row["line"], row["source"]) for row in rows] == [(1, "abc"), (3, "ab")]
    Path("bad.tsv").write_text("abc\tx\n\tx\n")
    assert_one_line(zoo("predict", RUN, "bad.tsv"), "bad.tsv, line 2: the source is empty")
    Path("bad.tsv").write_text("abc\tx\nabd\tx\n")
    assert_one_line(zoo("predict", RUN, "bad.tsv"), "bad.tsv, line 2: ", "'d' at character 3")


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("a\tb\na\n", (), ("pairs.tsv, line 2: one column, 'a'",)),
        ("a\tb\na\tb\tc\n", (), ("pairs.tsv, line 2: 3 columns",)),
        ("a\tb\n \tb\n", (), ("pairs.tsv, line 2: the source is empty in 1 of 2 lines",)),
        ("", (), ("pairs.tsv is empty",)),
        (None, ("--data.path=none.tsv",), ("none.tsv is not a file",)),
        (None, (), ("pairs.tsv, byte", "is not valid utf-8", "latin-1")),
        ("a\tb\n" * 9, ("--data.path=[pairs.tsv, other.txt]",), ("other.txt is not a file",)),
        ("a\tb\n", ("--data.test_fraction=0.5",), ("test_fraction=0.5 of 1 different sources",)),
        (
            "a\tb\nb\tc\nc\td\n",
            ("--model.vocab_size=3",),
            ("--model.vocab_size 3 contradicts the data", "leave it out"),
        ),
    ],
)
def test_what_is_refused(zoo: Zoo, content: str | None, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    if content is not None:
        Path("pairs.tsv").write_text(content)
    assert_one_line(zoo("fit", "-c", "seq2seq/pairs", *TINY, *options), *words)


@pytest.mark.parametrize(
    ("side", "old", "new", "argument"), [("target", "x", "w", "vocab_size"), ("source", "c", "d", "source_vocab_size")]
)
def test_vocabularies_of_another_checkpoint_are_refused(zoo: Zoo, side: str, old: str, new: str, argument: str) -> None:
    """Of targets and of sources: where it is evaluated, resumed, and where its weights are used."""
    assert zoo("fit", "-c", "seq2seq/pairs", *TINY, "--data.encoding=latin-1").code == 0
    what = f"another {'source ' if side == 'source' else ''}vocabulary than the data"
    difference = f"first difference at {14 if side == 'source' else 12}: {old!r} and {new!r}"
    weights = f"--model.weights={RUN}/checkpoints/last.ckpt"

    def write(added: str = "") -> None:
        texts = [[one, f"{other}é"] for one, other in PAIRS]
        for pair in texts:
            pair[side == "target"] = pair[side == "target"].replace(old, new) + added
        Path("pairs.tsv").write_bytes("".join(f"{one}\t{other}\n" for one, other in texts).encode("latin-1"))

    write()
    assert_one_line(zoo("test", "--ckpt", RUN), f"the checkpoint has {what}", old, new)
    again = zoo("fit", "--resume", RUN, "--trainer.max_epochs=2")
    assert_one_line(again, f"the checkpoint has {what}", difference, started=True)
    fresh = zoo("fit", "-c", "seq2seq/pairs", *TINY, "--data.encoding=latin-1", weights)
    assert_one_line(fresh, f"the model has {what}", difference, started=True)
    write("!")
    assert_one_line(zoo("test", "--ckpt", RUN), f"the checkpoint's {argument}", "contradicts")
    sizes = zoo("fit", "-c", "seq2seq/pairs", *TINY, "--data.encoding=latin-1", weights)
    assert_one_line(
        sizes, f"their {'source ' * (side == 'source')}vocabulary has", "first difference at 2: ", started=True
    )


def test_the_lines_that_the_page_shows_are_pairs() -> None:
    (shown,) = re.findall(r"```text\n([^`]*\t[^`]*)```", PAGE)
    Path("shown.tsv").write_text(shown)
    assert read_pairs("shown.tsv") == (["3 March 2021", "Sep 9, 1999"], ["2021-03-03", "1999-09-09"])
