"""Text as numbers: reading files, vocabularies, encoding."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from datamodules.checks import check_integer

Tokenization = Literal["characters", "bytes", "bpe"]
PADDING, END = "<pad>", "<end>"  # the token after the end of a text, and that at its end
_ASCII_WORD = re.compile("[a-z0-9]+(?:'[a-z0-9]+)*")
UNKNOWN = "<unk>"  # the word that stands for all that a vocabulary of words lacks


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
    text = decoded(path.read_bytes(), encoding, str(path))
    if not text.strip():
        raise ValueError(f"{path} is empty: it must hold a text to learn from")
    return text


def decoded(content: bytes, encoding: str, name: str) -> str:
    """Return the text of the bytes of a file, without a byte order mark, with line feeds at the ends of lines.

    Args:
        content: The bytes.
        encoding: Their encoding, by Python's name.
        name: Name of the file, for messages.

    Raises:
        ValueError: They are not a text in this encoding; the message names the byte.
    """
    try:
        text = content.decode(encoding)
    except LookupError as error:
        raise ValueError(f"encoding must be one of Python's, such as utf-8 or latin-1, got {encoding!r}") from error
    except UnicodeDecodeError as error:
        raise _not_a_text(name, content, error.start, f"is not valid {encoding}") from error
    except UnicodeError as error:
        raise ValueError(f"{name} is not {encoding}: {error}: give the file's encoding") from error
    if (at := content.find(b"\0")) >= 0 and "\0" in text:
        raise _not_a_text(name, content, at, f"is a null character in {encoding}, which no text has")
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _not_a_text(name: str, content: bytes, at: int, why: str) -> ValueError:
    line = content.count(b"\n", 0, at) + 1
    return ValueError(
        f"{name}, byte {at} (line {line}): 0x{content[at]:02x} {why}: give the file's encoding, such as latin-1 or utf-16"
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
    tokenizer: Tokenization,
    texts: Iterable[str],
    train: Iterable[str],
    vocab_size: int | None = None,
    padded: bool = False,
    ended: bool = False,
) -> dict[str, Any]:
    """Return the vocabulary of texts as plain data, which a model keeps.

    Args:
        tokenizer: What a token is. Characters: the different ones of all texts, sorted. Bytes: all 256. BPE: bytes, and pairs of
            tokens that are joined because they are the most frequent ones in the training texts (Sennrich et al. 2016,
            arXiv:1508.07909, with the bytes and the words of GPT-2).
        texts: All texts.
        train: Those of the training part.
        vocab_size: Most tokens of BPE, with that for padding, > 257 (default 1000); without effect for others.
        padded: Whether there is one token more, the last one, for padding.
        ended: Whether there are two tokens more, for padding and for the end of a text: the first two, of bytes the last two. So
            vocabularies of different sizes have them at the same indices.

    Returns:
        "kind", the tokenizer; "tokens", the tokens in order, None for bytes; "padding" and "end", the index of the token for it,
        or None; "tokenizer", for BPE the tokenizer of the library ``tokenizers`` as JSON.
    """
    tokens: list[str] | None = None
    trained = None
    first, last = [PADDING, END] if ended else [], [PADDING] if padded and not ended else []
    if tokenizer == "characters":
        tokens = [*first, *sorted(set().union(*texts)), *last]
    elif tokenizer == "bpe":
        trained = _trained_bpe(train, (vocab_size or 1000) - len(last), first)
        trained.add_special_tokens(last)
        index = trained.get_vocab()
        tokens = sorted(index, key=index.__getitem__)
    special: dict[str, int | None] = {"padding": None, "end": None}
    if ended:
        special = {"padding": 0, "end": 1} if tokens is not None else {"padding": 256, "end": 257}
    elif padded:
        special["padding"] = 256 if tokens is None else len(tokens) - 1
    json = None if trained is None else trained.to_str()
    return {"kind": tokenizer, "tokens": tokens, **special, "tokenizer": json}


def words_of(texts: Iterable[str], min_count: int = 1, unknown: bool = True) -> dict[str, Any]:
    """Return the vocabulary of the words in texts, which are what is between spaces, as plain data, which a model keeps.

    Args:
        texts: The training texts.
        min_count: How often a word must occur in them.
        unknown: Whether there is a token for all other words.

    Returns:
        As :func:`vocabulary_of`, with padding, end and the unknown word as the first tokens, then the words, sorted; and "unknown",
        the index of the token for unknown words, or None.
    """
    counts = Counter(word for text in texts for word in text.split())
    first = [PADDING, END, *[UNKNOWN] * unknown]
    words = sorted(word for word, count in counts.items() if count >= min_count and word not in first)
    special = {"padding": 0, "end": 1, "tokenizer": None, "unknown": 2 if unknown else None}
    return {"kind": "words", "tokens": [*first, *words], **special}


def plain_words(text: str) -> str:
    """Return the words of a text, lower-cased, with one space between them and without punctuation.

    Letters, their marks and digits make words, and an apostrophe within one ("it's"); all else is between them. So a hyphen
    separates two words, and a script without spaces has one word between two punctuation marks.

    Example:
        >>> plain_words("Two dogs' toys, a well-worn ball... It's NOT theirs!")
        "two dogs toys a well worn ball it's not theirs"
    """
    if text.isascii():
        return " ".join(_ASCII_WORD.findall(text.lower()))  # the same, in a tenth of the time
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())
    read = [char for char in text if unicodedata.category(char) != "Cf"]  # all but soft hyphens, joiners and the like
    is_part = [unicodedata.category(char)[0] in "LMN" for char in read]
    words = "".join(_separated(read, is_part)).split()
    return " ".join(word for word in words if any(map(str.isalnum, word)))  # what follows an emoji is a mark alone


def _separated(chars: Sequence[str], is_part: Sequence[bool]) -> Iterator[str]:
    """Yield the characters of words, apostrophes within them as "'", and spaces for all others."""
    inner = [False, *(before and after for before, after in zip(is_part, is_part[2:], strict=False)), False]
    for char, of_word, within in zip(chars, is_part, inner, strict=False):
        yield char if of_word else "'" if within and char in "'\u2019" else " "


def size_of(vocabulary: Mapping[str, Any]) -> int:
    """Return the number of tokens of a vocabulary, with those for padding and end."""
    tokens = vocabulary["tokens"]
    return len(tokens) if tokens is not None else 256 + len(_special(vocabulary))


def _special(vocabulary: Mapping[str, Any]) -> list[int]:
    """Return the indices of the tokens that stand for no text."""
    return [index for index in (vocabulary["padding"], vocabulary["end"]) if index is not None]


def encode(texts: Iterable[str], vocabulary: Mapping[str, Any]) -> list[Tensor]:
    """Return each text as tokens, indices in a vocabulary: ``(N,)``, of the smallest type that holds them.

    Raises:
        ValueError: The vocabulary lacks a character, or a word and has none for those that it lacks; the message names it and its
            place.
    """
    size = size_of(vocabulary)
    dtype = torch.uint8 if size <= 2**8 else torch.int16 if size <= 2**15 else torch.int32
    if vocabulary["kind"] == "bytes":
        tokens: Iterable[Any] = (np.frombuffer(text.encode(), np.uint8) for text in texts)
    elif vocabulary["kind"] == "bpe":
        tokenizer = _library().Tokenizer.from_str(vocabulary["tokenizer"])
        tokenizer.encode_special_tokens = True  # a text that has "<pad>" in it does not mean the token
        with _one_thread():
            tokens = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    else:
        index = {token: i for i, token in enumerate(vocabulary["tokens"]) if i not in _special(vocabulary)}
        if vocabulary["kind"] == "words":
            tokens = (_words(text, index, vocabulary["unknown"]) for text in texts)
        else:
            tokens = (_indices(text, index) for text in texts)
    return [torch.tensor(each, dtype=dtype) for each in tokens]


def _indices(text: str, index: Mapping[str, int]) -> list[int]:
    try:
        return [index[character] for character in text]
    except KeyError as error:
        character = error.args[0]
        at = text.index(character)
        line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
        raise ValueError(
            f"character {character!r} (line {line}, column {column}) is not one of the {len(index)} characters of the vocabulary: "
            "leave it out, or train on a text that has it"
        ) from None


def _words(text: str, index: Mapping[str, int], unknown: int | None) -> list[int]:
    tokens = [index.get(word, unknown) for word in text.split()]
    if None in tokens:
        raise ValueError(
            f"the word {text.split()[tokens.index(None)]!r} of {text!r} is not one of the {len(index)} words of the vocabulary, "
            "which has none for others"
        )
    return [token for token in tokens if token is not None]


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ModuleNotFoundError(
            'tokenizer="bpe" needs the library tokenizers: pip install "lightning-zoo[text]"'
        ) from error
    return tokenizers


def _trained_bpe(texts: Iterable[str], vocab_size: int, special: Sequence[str] = ()) -> Any:
    """Return a tokenizer whose first tokens are ``special``, which no text is made of: no pair joins letters and marks."""
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, special_tokens=list(special), show_progress=False
    )
    with _one_thread():
        tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let the library start no threads: a process that has some cannot be forked safely, as loading workers are."""
    name = "TOKENIZERS_PARALLELISM"
    given = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if given is None:
            del os.environ[name]
        else:
            os.environ[name] = given


def ended(texts: Sequence[Tensor], length: int, vocabulary: Mapping[str, Any]) -> Tensor:
    """Return the tokens of each text in a row, its end, and padding: ``(N, length)``."""
    rows = torch.full((len(texts), length), vocabulary["padding"], dtype=texts[0].dtype)
    for row, tokens in zip(rows, texts, strict=True):
        row[: len(tokens)] = tokens
        row[len(tokens)] = vocabulary["end"]
    return rows


def short_enough(lengths: Mapping[str, Sequence[int]], most: int, things: str) -> dict[str, list[bool]]:
    """Return which texts have at most ``most`` tokens with their end, and warn of those that have more.

    Args:
        lengths: Of each part, the number of tokens of each text, without the end.
        most: The argument ``max_length``.
        things: What the texts are, for messages.

    Raises:
        ValueError: A part has none that are short enough.
    """
    fits = {name: [length < most for length in part] for name, part in lengths.items()}
    left = {name: len(fit) - sum(fit) for name, fit in fits.items()}
    if sum(left.values()):
        longest, count = 1 + max(map(max, lengths.values())), sum(map(len, lengths.values()))
        cure = f"give max_length={longest}, or shorter {things}"
        if gone := [name for name, fit in fits.items() if not any(fit)]:
            raise ValueError(
                f"all {len(fits[gone[0]])} {things} of the {gone[0]} part have more than max_length={most} tokens: {cure}"
            )
        of_parts = ", ".join(f"{number} {name}" for name, number in left.items() if number)
        rank_zero_warn(
            f"{sum(left.values())} of {count} {things} have more than max_length={most} tokens, up to {longest}, and are left out "
            f"({of_parts}): {cure}"
        )
    return fits
