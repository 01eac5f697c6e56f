"""A user's own text on the command line: tokenizers, two files; and what is refused in one line."""

import re
import sys
from pathlib import Path

import pytest
import torch
from cli_kit import Zoo, assert_one_line

TEXT = "".join(f"{i} times {i % 7} is {i * (i % 7)}, said the tutor.\n" for i in range(40))
TINY = ("--model.width=8", "--model.dropout=0", "--data.context=8", "--data.batch_size=4", "--trainer.max_epochs=1")
RUN = Path("runs/recurrent/text_file/version_0")


@pytest.fixture(autouse=True)
def _text(tmp_cwd: Path) -> None:
    Path("text.txt").write_text(TEXT)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (("--data.path=[text.txt, more.txt]", "--data.order=shuffled"), len(set(TEXT + "é!"))),
        (("--data.tokenizer=bpe", "--data.vocab_size=270"), 270),
    ],
)
def test_a_model_keeps_the_vocabulary_of_its_text(zoo: Zoo, options: tuple[str, ...], size: int) -> None:
    Path("more.txt").write_bytes(("\ufeff" + "é!\r\n" * 30).encode())
    result = zoo("fit", "-c", "recurrent/text_file", *TINY, *options, "--trainer.limit_train_batches=3")
    assert (result.code, result.err) == (0, "")
    checkpoint = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["vocab_size"] == size
    vocabulary = checkpoint["zoo"]["vocabulary"]
    assert len(vocabulary["tokens"]) == size
    assert "\r" not in vocabulary["tokens"]
    assert "\ufeff" not in vocabulary["tokens"]
    again = zoo("test", "--ckpt", RUN)
    assert again.code == 0, again.err
    assert re.findall(r"test/loss +(\S+)", again.out) == re.findall(r"test/loss +(\S+)", result.out)


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (None, ("--data.path=none.txt",), ("none.txt is not a file",)),
        (b"", (), ("text.txt is empty",)),
        (b"caf\xe9 " * 99, (), ("text.txt, byte 3 (line 1): 0xe9 is not valid utf-8", "latin-1")),
        (b"too short", (), ("the training part of the text has 7 tokens, fewer than one window of context=8",)),
        (TEXT.encode(), ("--data.context=0",), ("context", "an integer >= 1, got 0")),
        (TEXT.encode(), ("--data.batch_size=400",), ("too few for 400 lanes", "a smaller batch_size or context")),
        (TEXT.encode(), ("--model.vocab_size=3",), ("--model.vocab_size 3 contradicts the data", "leave it out")),
        (TEXT.encode(), ("--model=zoo.MLPClassifier",), ("does not continue texts", "zoo.RecurrentLanguageModel")),
        (TEXT.encode(), ("--trainer.accumulate_grad_batches=2",), ("accumulate_grad_batches is 2",)),
    ],
)
def test_what_is_refused(zoo: Zoo, content: bytes | None, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    if content is not None:
        Path("text.txt").write_bytes(content)
    result = zoo("fit", "-c", "recurrent/text_file", *TINY, *options)
    assert_one_line(result, *words, started="lanes" in words[0] or "accumulate" in words[0])


def test_the_library_of_bpe_is_named(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    result = zoo("fit", "-c", "recurrent/text_file", *TINY, "--data.tokenizer=bpe")
    assert_one_line(result, 'pip install "lightning-zoo[text]"')
