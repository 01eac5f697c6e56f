"""zoo predict of texts and of series: where they come from, what is told of them, and what cannot be read."""

import io
import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_kit import LETTERS, Zoo, assert_one_line

import zoo as package
from datamodules import SequenceTableDataModule, TextTableDataModule


def log_probability(model: Any, text: str) -> float:
    """The sum over all characters, one at a time; the first comes after a line feed."""
    tokens = [LETTERS["tokens"].index(letter) for letter in f"\n{text}"]
    state, total = model.net.init_state(1), 0.0
    for this, following in pairwise(tokens):
        logits, state = model.net.step(torch.tensor([this]), state)
        total += float(logits.double().log_softmax(dim=1)[0, following])
    return total


def test_what_a_language_model_says_of_texts(zoo: Zoo, lm: Any) -> None:
    Path("lines.txt").write_bytes("ab é\r\n\n  \nba\n".encode())
    rows = json.loads(zoo("predict", "lm", "lines.txt", "abba", "--json", "--batch-size", 2).out)
    places = [{key: row.get(key) for key in ("file", "line", "text")} for row in rows]
    assert places == [
        {"file": "lines.txt", "line": 1, "text": "ab é"},
        {"file": "lines.txt", "line": 4, "text": "ba"},
        {"file": None, "line": None, "text": "abba"},
    ]
    for row in rows:
        with torch.no_grad():
            nats, count = -log_probability(lm, row["text"]), len(row["text"])
        assert row["log_probability"] == pytest.approx(-nats, rel=1e-5)
        assert row["tokens"] == count
        assert row["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-5)
        assert row["bits_per_character"] == pytest.approx(nats / count / math.log(2), rel=1e-5)
        assert len(row["continuation"]) == 40
    table = zoo("predict", "lm", "lines.txt", "abba").out.splitlines()
    assert table[0].split()[:3] == ["file", "line", "text"]
    assert [line.split()[:2] for line in table[2:4]] == [["lines.txt", "1"], ["lines.txt", "4"]]
    one = dict(line.split("  ", 1) for line in zoo("predict", "lm", "ab").out.splitlines())
    assert list(one)[:2] == ["text", "log probability"]
    assert one["tokens"].strip() == "2"
    assert json.loads(zoo("predict", "lm", "a", "--json").out)[0]["tokens"] == 1


def test_the_standard_input(zoo: Zoo, lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def given(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    given(b"ab\nba")
    rows = json.loads(zoo("predict", "lm", "-", "--json").out)
    assert [(row["file"], row["line"], row["text"]) for row in rows] == [("-", 1, "ab"), ("-", 2, "ba")]
    given("aé".encode("latin-1"))
    assert_one_line(zoo("predict", "lm", "-"), "the standard input, byte 1 (line 1): 0xe9 is not valid utf-8")
    given("aé".encode("latin-1"))
    assert '"aé"' in zoo("predict", "lm", "-", "--json", "--encoding", "latin-1").out
    given(b"\n \n")
    assert_one_line(zoo("predict", "lm", "-"), "the standard input is empty")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([""], ["the text is empty", "in quotes"]),
        (["  "], ["the text is empty"]),
        (["abCa"], ["'C' at character 3", "not in the vocabulary of 5 tokens"]),
        (["ab", "bad.txt"], ["bad.txt, line 2: ", "'C' at character 2"]),
        (["latin.txt"], ["latin.txt, byte 1 (line 1): 0xe9 is not valid utf-8"]),
        (["empty.txt"], ["empty.txt is empty"]),
        (["nothing.txt"], ["no such file: nothing.txt"]),
        (["."], [". is a folder"]),
        (["ab", "-o", "out"], ["-o is for models of images", "reads texts"]),
        (["ab", "--top", "2"], ["--top is for classifiers"]),
        (["ab", "--features"], ["--features: RecurrentLM has no head to remove"]),
    ],
)
def test_what_cannot_be_read(zoo: Zoo, lm: Any, words: list[str], message: list[str]) -> None:
    Path("bad.txt").write_text("ab\naC\n")
    Path("latin.txt").write_bytes("aé".encode("latin-1"))
    Path("empty.txt").write_bytes(b"")
    assert_one_line(zoo("predict", "lm", *words), *message)


def test_a_text_longer_than_the_net_reads(zoo: Zoo, lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(lm.net), "max_length", 4, raising=False)
    assert_one_line(zoo("predict", "lm", "ababab"), "6 tokens, and the net reads 4 at most")


def test_a_text_that_has_nothing_to_begin_after(zoo: Zoo, tmp_cwd: Path) -> None:
    """Without a line feed in the vocabulary the first character is given, and nothing is left of a single one."""
    model = package.RecurrentLanguageModel(vocab_size=2, cell="gru", width=4)
    model.describe_data({"input_shape": (6,), "vocabulary": {"kind": "characters", "tokens": ["a", "b"]}})
    model.save_pretrained("letters")
    assert json.loads(zoo("predict", "letters", "ab", "--json").out)[0]["tokens"] == 1
    assert_one_line(zoo("predict", "letters", "a"), "the text is a single token")


def test_a_model_without_a_vocabulary(zoo: Zoo, tmp_cwd: Path) -> None:
    package.RecurrentLanguageModel(vocab_size=5, width=4).save_pretrained("fresh")
    assert_one_line(zoo("predict", "fresh", "ab"), "has no vocabulary")
    assert_one_line(zoo("sample", "fresh"), "has no vocabulary")


def test_labels_of_texts(zoo: Zoo, tmp_cwd: Path) -> None:
    """From the column of a CSV file, cut as in training, and from the command line."""
    rows = ["stars;review", *["5; a good one", '1;"bad, very bad indeed"'] * 20]
    Path("reviews.csv").write_text("\n".join(rows))
    with pytest.warns(UserWarning, match="are cut"):
        data = TextTableDataModule("reviews.csv", "review", "stars", delimiter=";", max_length=12)
    torch.manual_seed(0)
    model = package.SequenceClassifier(2, 4, 8, vocab_size=data.vocab_size, padding=data.padding)
    model.describe_data(
        {
            "class_names": data.class_names,
            "input_shape": data.input_shape,
            "preparation": data.preparation,
            "vocabulary": data.vocabulary,
        }
    )
    model.save_pretrained("texts")
    Path("new.csv").write_text("review;id\nbad, very bad indeed;1\n a good one ;2\n")
    rows = json.loads(zoo("predict", "texts", "new.csv", "a good one", "--json", "--top", 2).out)
    assert [(r.get("row"), r["text"]) for r in rows] == [
        (1, "bad, very bad indeed"),
        (2, "a good one"),
        (None, "a good one"),
    ]
    index = {letter: i for i, letter in enumerate(data.vocabulary["tokens"])}
    for row in rows:
        tokens = torch.tensor([[index[letter] for letter in row["text"][:12]]])
        p = package.load("texts")(tokens).softmax(dim=1)[0].detach()
        assert row["probability"] == pytest.approx(float(p.max()), rel=1e-5)
        assert row["label"] == data.class_names[int(p.argmax())]
        assert len(row["top"]) == 2
    assert zoo("predict", "texts", "bad", "good").out.splitlines()[0].split() == ["text", "label", "probability"]
    Path("other.csv").write_text("text;id\nbad;1\n")
    assert_one_line(zoo("predict", "texts", "other.csv"), "other.csv", "review")
    assert_one_line(zoo("predict", "texts", "ß"), "'ß'", "at character 1")


def test_series_of_files(zoo: Zoo, tmp_cwd: Path) -> None:
    """Of a class each, from a CSV file; of a number at each step, from an .npz file with lengths."""
    Path("series.csv").write_text("t0,t1,t2,y\n" + "1,2,3,up\n3,2,,down\n" * 20)
    data = SequenceTableDataModule("series.csv")
    torch.manual_seed(0)
    model = package.SequenceClassifier(2, 1, 4)
    model.describe_data({"class_names": data.class_names, "input_shape": (3, 1), "preparation": data.preparation})
    model.save_pretrained("labels")
    Path("new.csv").write_text("t0,t1\n1,\n2,3\n")
    rows = json.loads(zoo("predict", "labels", "new.csv", "--json").out)
    for row, series in zip(rows, ([1.0], [2.0, 3.0]), strict=True):
        p = model(torch.tensor(series)[None, :, None]).softmax(dim=1)[0].detach()
        label, probability = data.class_names[int(p.argmax())], pytest.approx(float(p.max()), rel=1e-5)
        assert row == {"file": "new.csv", "row": len(series), "label": label, "probability": probability}
    Path("even.csv").write_text("t0,t1\n1,2\n2,3\n3,1\n")  # of one length
    rows = json.loads(zoo("predict", "labels", "even.csv", "--json", "--batch-size", 2).out)
    p = model(torch.tensor([[1.0, 2], [2, 3], [3, 1]])[..., None]).softmax(dim=1).detach()
    assert [row["label"] for row in rows] == [data.class_names[k] for k in p.argmax(dim=1)]
    assert [row["probability"] for row in rows] == pytest.approx(p.amax(dim=1).tolist(), rel=1e-5)
    assert [row["row"] for row in rows] == [1, 2, 3]
    steps = package.SequenceRegressor(1, 2, 4, form="many_to_many")
    steps.describe_data({"input_shape": (3, 2)})
    steps.save_pretrained("steps")
    x = np.random.default_rng(0).normal(size=(3, 4, 2))
    np.savez("x.npz", x=x, lengths=[4, 1, 2])
    rows = json.loads(zoo("predict", "steps", "x.npz", "--json", "--batch-size", 2).out)
    for row, length in zip(rows, (4, 1, 2), strict=True):
        wanted = steps(torch.from_numpy(x[row["row"] - 1, :length]).float()[None])[0, :, 0].tolist()
        assert row["value"] == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    assert zoo("predict", "steps", "x.npz").out.splitlines()[0].split() == ["file", "row", "value"]
    assert_one_line(zoo("predict", "steps", "new.csv"), "1 numbers at a time, the model reads 2")
    assert_one_line(zoo("predict", "steps", "nothing.npz"), "no such file or folder: nothing.npz")
    assert_one_line(zoo("predict", "steps", ""), "no such file or folder")
    Path("gap.csv").write_text("t0,t1\n1,2\n,\n")
    assert_one_line(zoo("predict", "labels", "gap.csv"), "gap.csv, line 3", "has no number")
    np.savez("none.npz", x=x, lengths=[4, 0, 2])
    assert_one_line(zoo("predict", "steps", "none.npz"), "none.npz", "length")


def test_how_well_an_autoencoder_gives_series_back(zoo: Zoo, tmp_cwd: Path) -> None:
    """It makes series, as a forecaster does, and is asked as other autoencoders are."""
    torch.manual_seed(0)
    model = package.RecurrentAutoencoder([4, 2], width=4).eval()
    model.describe_data({"input_shape": (4, 2)})
    model.save_pretrained("back")
    x = np.random.default_rng(0).normal(size=(2, 4, 2))
    np.savez("x.npz", x=x, lengths=[4, 3])
    rows = json.loads(zoo("predict", "back", "x.npz", "--json").out)
    for row, length in zip(rows, (4, 3), strict=True):
        series = torch.from_numpy(x[row["row"] - 1, :length]).float()[None]
        wanted = (model(series) - series).square().mean().item()
        assert row == {"file": "x.npz", "row": row["row"], "error": pytest.approx(wanted, rel=1e-4)}
