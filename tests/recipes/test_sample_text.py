"""zoo sample of language models: texts that appear as they are written, the model's own options, and what cannot be asked for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Zoo, assert_one_line

import zoo as package
from zoo.tasks import LanguageModelTask


def test_a_text_appears_as_it_is_written(zoo: Zoo, lm: Any) -> None:
    result = zoo("sample", "lm", "--prompt", "ab", "--tokens", 20, "--seed", 4)
    (text,) = lm.sample(1, seed=4, prompt="ab", tokens=20)
    assert (result.code, result.err) == (0, "")
    assert result.out == f"{text}\n\nsamples.txt: 1 text from RecurrentLanguageModel\n"
    assert text.startswith("ab")
    assert len(text) == 22
    assert Path("samples.txt").read_text() == text + "\n"


def test_texts_are_those_of_a_file(zoo: Zoo, lm: Any) -> None:
    """One after another on the terminal, all at once for a file: the same."""
    args = ("sample", "lm", "--prompt", "a", "--tokens", 9, "--temperature", 0.7, "--top-k", 3, "-n", 3)
    texts = lm.sample(3, prompt="a", tokens=9, temperature=0.7, top_k=3)
    assert len(set(texts)) == 3
    shown = "".join(f"--- {i} of 3\n{text}\n\n" for i, text in enumerate(texts, start=1))
    assert zoo(*args).out == f"{shown}samples.txt: 3 texts from RecurrentLanguageModel\n"
    assert zoo(*args, "-o", "deep/er.txt").out.endswith("deep/er.txt: 3 texts from RecurrentLanguageModel\n")
    assert Path("deep/er.txt").read_text() == Path("samples.txt").read_text() == "\n\n".join(texts) + "\n"


def test_an_interrupted_text_is_kept(zoo: Zoo, lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Any, **options: Any) -> Iterator[str]:
        yield from ("a", "b")
        raise KeyboardInterrupt

    monkeypatch.setattr(LanguageModelTask, "stream", interrupted)
    result = zoo("sample", "lm", "-n", 2)
    assert (result.code, result.err) == (130, "")
    assert result.out == "--- 1 of 2\nab\n\nsamples.txt: 1 text from RecurrentLanguageModel\n"
    assert Path("samples.txt").read_text() == "ab\n"


def test_help_tells_the_options_of_a_model(zoo: Zoo, lm: Any) -> None:
    package.VAE((1, 4, 4), 2, [8]).save_pretrained("vae")
    package.Autoencoder((1, 4, 4), 2, [8]).save_pretrained("autoencoder")
    text = zoo("sample", "lm", "--help").out
    assert text.startswith("zoo sample MODEL")
    *_, own = text.split("Options of lm, a RecurrentLanguageModel:\n")
    options = [line.split(maxsplit=1) for line in own.splitlines()]
    assert dict(options) == {
        "--prompt": "default: none",
        "--temperature": "default: 1.0",
        "--top-k": "default: none",
        "--top-p": "default: none",
        "--min-p": "default: none",
        "--tokens": "default: none",  # 200, or what the net can still read
    }
    assert "--latent-grid\n" in zoo("sample", "vae", "-h").out.split("Options of vae, a VAE:")[1]
    assert "--temperature" not in zoo("sample", "vae", "-h").out.split("Options of vae, a VAE:")[1]
    assert zoo("sample", "autoencoder", "-h").out.count("--interpolate\n") == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--prompt", "aCb"], ["'C' at character 2", "not in the vocabulary of 5 tokens"]),
        (["--temperature", "0"], ["temperature must be above 0", "got 0.0"]),
        (["--temperature", "-1"], ["temperature must be above 0", "got -1.0"]),
        (["--temperature", "nan"], ["temperature must be above 0", "got nan"]),
        (["--top-p", "1.5"], ["top_p must be in (0, 1], got 1.5"]),
        (["--top-p", "0"], ["top_p must be in (0, 1], got 0.0"]),
        (["--top-k", "0"], ["top_k must be 1 or more"]),
        (["--min-p", "1"], ["min_p must be in [0, 1), got 1.0"]),
        (["--tokens", "0"], ["tokens must be 1 or more, got"]),
        (["--tokens", "many"], ["--tokens must be a whole number, got many"]),
        (["--temprature", "1"], ["no option --temprature, did you mean '--temperature'?", "it has --prompt"]),
        (["--label", "1"], ["--label is for conditional models"]),
        (["--latent-grid"], ["RecurrentLanguageModel has no latent grid"]),
        (["-o", "text.png"], ["the model makes texts: give a .txt file"]),
    ],
)
def test_what_cannot_be_asked_for(zoo: Zoo, lm: Any, args: list[str], words: list[str]) -> None:
    assert_one_line(zoo("sample", "lm", *args), *words)
    assert not Path("samples.txt").exists()


def test_a_prompt_longer_than_the_net_reads(zoo: Zoo, lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(lm.net), "max_length", 8, raising=False)
    assert_one_line(zoo("sample", "lm", "--prompt", "a" * 8, "--tokens", 1), "9 tokens, and the net reads 8 at most")
