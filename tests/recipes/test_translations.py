"""zoo predict and zoo sample with a model that reads one text and writes another: texts, scores, pictures, what is refused."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_kit import Zoo, assert_one_line
from PIL import Image

import zoo as package
from recipes.cli.verbs import predict, written
from zoo import decoding

SOURCE = {"kind": "characters", "tokens": ["<pad>", "<end>", *" abcdé"], "padding": 0, "end": 1, "tokenizer": None}
TARGET = {"kind": "characters", "tokens": ["<pad>", "<end>", *"xyzß\n"], "padding": 0, "end": 1, "tokenizer": None}


def saved(name: str, seed: int = 5, preparation: dict[str, Any] | None = None, **options: Any) -> Any:
    """An untrained translator in a folder."""
    torch.manual_seed(seed)
    model = package.RecurrentSeq2Seq(8, 7, cell="gru", width=8, max_length=6, **options)
    known = {"input_shape": (9, 6), "vocabulary": TARGET, "source_vocabulary": SOURCE, "preparation": preparation}
    model.describe_data(known)
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter.mul_(3)  # so that what is written depends on what is read
    model.save_pretrained(name)
    return package.load(name)


@pytest.fixture
def translator(tmp_cwd: Path) -> Any:
    return saved("translator", attention="general")


def best_of(model: Any, text: str, beam: int, best: int) -> list[tuple[str, float]]:
    """The best texts and their scores, straight from the decoder."""
    source = model.batch_of([text])
    with torch.no_grad():
        state = model.net.encode(source)
    found = decoding.beam_search(
        model.net, state, torch.tensor([1]), 6, beam=beam, best=best, end=1, padding=0, forbid=[0], with_greedy=True
    )
    texts = [model.tokenizer.decode(row) for row in found.tokens[0].tolist()]
    return list(zip(texts, found.scores[0].tolist(), strict=True))


def test_the_best_texts_and_their_scores(zoo: Zoo, translator: Any) -> None:
    """Without --beam the most probable token at each step; with it as many texts as are followed, unless --best says less."""
    texts = ["ab", "dcba é", "a"]
    rows = json.loads(zoo("predict", "translator", *texts, "--json").out)
    assert [row["source"] for row in rows] == texts
    for row in rows:
        assert row.keys() == {"source", "text", "score"}
        (wanted,) = best_of(translator, row["source"], 1, 1)
        assert (row["text"], row["score"]) == (wanted[0], pytest.approx(wanted[1], abs=1e-5))
    assert len({row["text"] for row in rows}) == 3, "the texts should differ"
    for options, best in ((["--beam", 4], 4), (["--beam", 4, "--best", 2], 2), (["--beam", 4, "--best", 1], 1)):
        rows = json.loads(zoo("predict", "translator", *texts, *options, "--json", "--batch-size", 2).out)
        for row, text in zip(rows, texts, strict=True):
            wanted = best_of(translator, text, 4, best)
            found = row.get("best", [row])
            assert [each["text"] for each in found] == [text for text, _ in wanted]
            assert [each["score"] for each in found] == pytest.approx([score for _, score in wanted], abs=1e-5)
            assert (row["text"], row["score"]) == (found[0]["text"], found[0]["score"])
            assert ("best" in row) == (best > 1)


def test_the_table(zoo: Zoo, translator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = best_of(translator, "ab", 3, 3)
    lines = zoo("predict", "translator", "ab", "dc", "--beam", 3).out.splitlines()
    assert lines[0].split() == ["source", "rank", "score", "text"]
    assert [line.split()[:2] for line in lines[2:]] == [
        [text, str(rank)] for text in ("ab", "dc") for rank in (1, 2, 3)
    ]
    assert lines[2].split()[2] == f"{wanted[0][1]:.4f}"
    for line, (text, _) in zip(lines[2:5], wanted, strict=True):
        assert line.split(maxsplit=3)[3:] == ([text.replace("\n", "\\n")] if text else [])
    long = "abcd " * 12
    lines = zoo("predict", "translator", long).out.splitlines()
    assert lines[2].startswith(long[:27] + "...")
    assert lines[0].split() == ["source", "score", "text"]
    monkeypatch.setattr(predict, "_SHOWN", 4)
    (row,) = zoo("predict", "translator", "a" * 9).out.splitlines()[2:]
    assert row.split()[0] == "a..."
    assert row.split()[2] == best_of(translator, "a" * 9, 1, 1)[0][0]  # in full


def test_a_model_trained_to_write_with_a_beam_does_so(zoo: Zoo, translator: Any) -> None:
    model = saved("beam", attention="general", beam=4)
    (row,) = json.loads(zoo("predict", "beam", "dcba é", "--json").out)
    assert "best" not in row
    assert row["text"] == best_of(model, "dcba é", 4, 1)[0][0]
    (row,) = json.loads(zoo("predict", "beam", "dcba é", "--best", 3, "--json").out)
    assert [each["text"] for each in row["best"]] == [text for text, _ in best_of(model, "dcba é", 4, 3)]


def test_a_beam_wider_than_the_vocabulary(zoo: Zoo, translator: Any) -> None:
    """Works as long as there are as many texts: they are told apart by more than one token."""
    (row,) = json.loads(zoo("predict", "translator", "ab", "--beam", 20, "--json").out)
    assert len({each["text"] for each in row["best"]}) == 20
    short = saved("short")
    short.hparams["max_length"] = 1
    short.save_pretrained("short")
    (row,) = json.loads(zoo("predict", "short", "ab", "--beam", 6, "--json").out)
    assert sorted(each["text"] for each in row["best"]) == ["", "\n", "x", "y", "z", "ß"]
    assert_one_line(zoo("predict", "short", "ab", "--beam", 7), "beam must be in 1 .. 6, the number of sequences")


def test_texts_of_files(zoo: Zoo, translator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pairs the first column, as a datamodule of pairs reads it."""
    Path("pairs.tsv").write_text(" ab \tzz\n\nc\t\n d a\n", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é\tx\tz\n".encode())))
    rows = json.loads(zoo("predict", "translator", "pairs.tsv", "-", "--json").out)
    assert [(row["file"], row["line"], row["source"]) for row in rows] == [
        ("pairs.tsv", 1, "ab"),
        ("pairs.tsv", 3, "c"),
        ("pairs.tsv", 4, "d a"),
        ("-", 1, "é"),
    ]
    saved("latin", preparation={"encoding": "latin-1", "first_column": False})
    Path("lines.txt").write_text("éa", encoding="latin-1")
    (row,) = json.loads(zoo("predict", "latin", "lines.txt", "--json").out)
    assert row["source"] == "éa"
    Path("tab.txt").write_text("a\tb", encoding="utf-8")
    assert_one_line(zoo("predict", "latin", "tab.txt"), "tab.txt, line 1: the text has '\\t'")  # trained on two files


def test_attention_is_drawn_for_the_best_texts(zoo: Zoo, translator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    original = package.Seq2SeqTask.draw_attention
    monkeypatch.setattr(
        package.Seq2SeqTask, "draw_attention", lambda self, *args: drawn.append(args) or original(self, *args)
    )
    monkeypatch.setitem(written.DRAWN, "text", 3)
    result = zoo("predict", "translator", "ab", "a", "--beam", 4, "--attention", "new/looks.png")
    assert result.out.endswith("attention in new/looks.png\n")
    assert not result.err
    with Image.open("new/looks.png") as image:
        assert image.mode == "RGB"
        assert image.width > 200
    source, tokens = drawn[0]
    assert source.tolist() == translator.batch_of(["ab", "a"]).tolist()
    wanted = [best_of(translator, text, 4, 1)[0][0] for text in ("ab", "a")]
    assert [translator.tokenizer.decode(row) for row in tokens.tolist()] == wanted
    assert wanted[1] != best_of(translator, "a", 1, 1)[0][0], "the beam should find a better one"
    result = zoo("predict", "translator", *"abcda", "--batch-size", 1, "--attention", "looks.PNG", "--json")
    assert len(json.loads(result.out)) == 5
    assert result.err == "note: looks.PNG shows the first 3 of 5 texts\n"
    assert len(drawn[1][0]) == 3


def test_samples_are_drawn_translations_of_the_prompt(zoo: Zoo, translator: Any) -> None:
    wanted = translator.sample(5, seed=3, prompt="ab", temperature=0.5)
    result = zoo("sample", "translator", "--prompt", "ab", "-n", 5, "--seed", 3, "--temperature", 0.5)
    assert result.code == 0, result.err
    assert Path("samples.txt").read_text() == "\n\n".join(wanted) + "\n"
    assert "samples.txt: 5 texts from RecurrentSeq2Seq" in result.out
    shown = zoo("sample", "translator", "--prompt", "ab", "-n", 5, "--seed", 3, "--temperature", 0.5, "-o", "o.txt").out
    assert all(text in shown for text in wanted)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["predict", "translator", "ab", "--beam", 0], ["--beam must be 1 or more, got 0"]),
        (["predict", "translator", "ab", "--best", 0], ["--best must be 1 or more, got 0"]),
        (
            ["predict", "translator", "ab", "--best", 2],
            ["--best 2 asks for more texts than the 1", "give --beam 2 or more"],
        ),
        (
            ["predict", "translator", "ab", "--beam", 2, "--best", 3],
            ["than the 2 that are followed: give --beam 3 or more"],
        ),
        (
            ["predict", "translator", "ab", "--attention", "a.jpg"],
            ["--attention a.jpg: give the name of a file that ends in .png"],
        ),
        (
            ["predict", "translator", "ab", "--attention", "translator"],
            ["--attention translator: give the name of a file"],
        ),
        (
            ["predict", "translator", "ab", "--attention", "translator/config.json/a.png"],
            ["cannot write translator/config.json/a.png", "give another place with --attention"],
        ),
        (
            ["predict", "plain", "ab", "--attention", "a.png"],
            ["RecurrentSeq2Seq has no attention", "--model.attention=additive"],
        ),
        (
            ["predict", "lenet5_digits", "a.png", "--attention", "a.png"],
            ["LeNetClassifier has no attention", "leave it out"],
        ),
        (
            ["predict", "lenet5_digits", "a.png", "--beam", 4],
            ["--beam is for translators and captioners", "LeNetClassifier is not one"],
        ),
        (
            ["predict", "lenet5_digits", "a.png", "--best", 4],
            ["--best is for translators and captioners", "LeNetClassifier is not one"],
        ),
        (["predict", "translator", "ab", "--top", 3], ["--top is for classifiers"]),
        (
            ["predict", "translator", "ab", "-o", "out"],
            ["-o is for models of images, and RecurrentSeq2Seq reads texts"],
        ),
        (["predict", "translator", "ab q"], ["the text has 'q' at character 4", "leave it out or replace it"]),
        (["predict", "translator", ""], ["the text is empty"]),
        (["predict", "translator", "bad.tsv"], ["bad.tsv, line 2: the source is empty"]),
        (["predict", "translator", "odd.tsv"], ["odd.tsv, line 1: the text has 'q' at character 1"]),
        (["predict", "translator", "a.tsv"], ["no such file: a.tsv"]),
        (["sample", "translator"], ["there is nothing to translate: give a text as the prompt"]),
        (["sample", "translator", "--prompt", "q"], ["the text has 'q' at character 1"]),
        (["sample", "translator", "--prompt", "a", "--tokens", 0], ["tokens must be 1 or more", "tokens=0"]),
        (["sample", "translator", "--prompt", "a", "--temperature", 0], ["temperature must be above 0"]),
        (["sample", "translator", "--prompt", "a", "--beam", 4], ["RecurrentSeq2Seq has no option --beam", "--top-k"]),
        (
            ["sample", "translator", "--prompt", "a", "-o", "a.png"],
            ["-o a.png: the model makes texts: give a .txt file"],
        ),
    ],
)
def test_what_cannot_be_is_refused(zoo: Zoo, translator: Any, args: list[Any], words: list[str]) -> None:
    saved("plain")
    Image.new("L", (8, 8)).save("a.png")
    Path("bad.tsv").write_text("a\tx\n\tx\n")
    Path("odd.tsv").write_text("q\tx\n")
    assert_one_line(zoo(*args), *words)
    assert not Path("samples.txt").exists()


def test_texts_that_a_beam_has_not_found_are_left_out() -> None:
    output = {
        "texts": [["x", "y", ""], ["z", "", ""]],
        "scores": torch.tensor([[-1.0, -2.0, -3.0], [-0.5, *[-torch.inf] * 2]]),
    }
    rows = written.written_texts(output)
    assert [len(row["best"]) for row in rows] == [3, 1]
    assert rows[1] == {"text": "z", "score": -0.5, "best": [{"text": "z", "score": -0.5}]}
