"""Text as numbers: reading files, vocabularies, encoding."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.checks import check_integer

Tokenization = Literal["characters", "bytes", "bpe"]
PADDING = "<pad>"  # the token after the end of a text


def read_texts(paths: str | Sequence[str], encoding: str = "utf-8") -> str:
    """Return the text of one file, or of several one after another, with a line feed at the end of each that lacks it.

    A byte order mark is left out, and a line ends with a line feed, whatever the file has (``\\r\\n``, ``\\r``).

    Args:
        paths: The files.
        encoding: Encoding of all of them, by Python's name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is empty, or not a text in this encoding; the message names the byte.
    """
    names = [paths] if isinstance(paths, str) else list(paths)
    if not names:
        raise ValueError("path must name one text file or more, got an empty list")
    texts = [_read(Path(name).expanduser(), encoding) for name in names]
    return "".join(text if text.endswith("\n") else text + "\n" for text in texts[:-1]) + texts[-1]


def _read(path: Path, encoding: str) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path.absolute()} is not a file: give the path of a text file")
    content = path.read_bytes()
    try:
        text = content.decode(encoding)
    except LookupError as error:
        raise ValueError(f"encoding must be one of Python's, such as utf-8 or latin-1, got {encoding!r}") from error
    except UnicodeDecodeError as error:
        raise _not_a_text(path, content, error.start, f"is not valid {encoding}") from error
    except UnicodeError as error:
        raise ValueError(f"{path} is not {encoding}: {error}: give the file's encoding") from error
    if (at := content.find(b"\0")) >= 0 and "\0" in text:
        raise _not_a_text(path, content, at, f"is a null character in {encoding}, which no text has")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise ValueError(f"{path} is empty: it must hold a text to learn from")
    return text


def _not_a_text(path: Path, content: bytes, at: int, why: str) -> ValueError:
    line = content.count(b"\n", 0, at) + 1
    return ValueError(
        f"{path}, byte {at} (line {line}): 0x{content[at]:02x} {why}: give the file's encoding, such as latin-1 or utf-16"
    )


# Vocabularies -----------------------------------------------------------------------------------------------------------


def check_tokenizer(tokenizer: str, vocab_size: int | None) -> None:
    """Check the arguments of a vocabulary.

    Raises:
        ValueError: Another tokenizer, or a size that is out of its range or has no meaning.
        TypeError: The size is no integer.
    """
    if tokenizer not in ("characters", "bytes", "bpe"):
        raise ValueError(f'tokenizer must be "characters", "bytes" or "bpe", got {tokenizer!r}')
    if vocab_size is None:
        return
    if tokenizer != "bpe":
        raise ValueError(f'vocab_size is for tokenizer="bpe", got {vocab_size} for {tokenizer!r}: leave it out')
    check_integer("vocab_size", vocab_size, 258, 2**20)


def vocabulary_of(
    tokenizer: Tokenization, text: str, train: str, vocab_size: int | None = None, padded: bool = False
) -> dict[str, Any]:
    """Return the vocabulary of a text as plain data, which a model keeps.

    Args:
        tokenizer: What a token is. Characters: the different ones of the whole text, sorted. Bytes: all 256. BPE: bytes, and pairs
            of tokens that are joined as they are the most frequent ones in the training part (Sennrich et al. 2016,
            arXiv:1508.07909, with the bytes and the words of GPT-2).
        text: All of the text.
        train: Its training part.
        vocab_size: Most tokens of BPE, with that for padding, > 257 (default 1000); without effect for others.
        padded: Whether there is one token more, the last one, for padding.

    Returns:
        "kind", the tokenizer; "tokens", the tokens in order, None for bytes; "padding", the index of the token for padding, or
        None; "end", None; "tokenizer", for BPE the tokenizer of the library ``tokenizers`` as JSON.
    """
    tokens: list[str] | None = None
    trained = None
    special = [PADDING] if padded else []
    if tokenizer == "characters":
        tokens = [*sorted(set(text)), *special]
    elif tokenizer == "bpe":
        trained = _trained_bpe(train, (vocab_size or 1000) - len(special))
        trained.add_special_tokens(special)
        index = trained.get_vocab()
        tokens = sorted(index, key=index.__getitem__)
    return {
        "kind": tokenizer,
        "tokens": tokens,
        "padding": (256 if tokens is None else len(tokens) - 1) if padded else None,
        "end": None,
        "tokenizer": None if trained is None else trained.to_str(),
    }


def size_of(vocabulary: Mapping[str, Any]) -> int:
    """Return the number of tokens of a vocabulary, with that for padding."""
    tokens = vocabulary["tokens"]
    return len(tokens) if tokens is not None else 256 + (vocabulary["padding"] is not None)


def encode(text: str, vocabulary: Mapping[str, Any]) -> Tensor:
    """Return a text as tokens, indices in a vocabulary: ``(N,)``, of the smallest type that holds them.

    Raises:
        ValueError: The vocabulary lacks a character; the message names it and its place.
    """
    if vocabulary["kind"] == "bytes":
        tokens = np.frombuffer(text.encode(), np.uint8)
    elif vocabulary["kind"] == "bpe":
        tokenizer = _library().Tokenizer.from_str(vocabulary["tokenizer"])
        tokenizer.encode_special_tokens = True  # a text that has "<pad>" in it does not mean the token
        tokens = np.array(tokenizer.encode(text).ids)
    else:
        tokens = _encode_characters(text, vocabulary)
    size = size_of(vocabulary)
    return torch.from_numpy(tokens.astype(np.uint8 if size <= 2**8 else np.int16 if size <= 2**15 else np.int32))


def _encode_characters(text: str, vocabulary: Mapping[str, Any]) -> np.ndarray:
    known = {ord(token): i for i, token in enumerate(vocabulary["tokens"]) if i != vocabulary["padding"]}
    codes = np.array(sorted(known), np.uint32)
    indices = np.array([known[int(code)] for code in codes])
    found = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    places = np.searchsorted(codes, found).clip(max=len(codes) - 1)
    if len(unknown := np.flatnonzero(codes[places] != found)):
        at = int(unknown[0])
        raise ValueError(
            f"character {text[at]!r} (line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}) is not one "
            f"of the {len(codes)} characters of the vocabulary: leave it out, or train on a text that has it"
        )
    return indices[places]


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ModuleNotFoundError(
            'tokenizer: bpe needs the library tokenizers: pip install "lightning-zoo[text]"'
        ) from error
    return tokenizers


def _trained_bpe(text: str, vocab_size: int) -> Any:
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    trainer = library.trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer
