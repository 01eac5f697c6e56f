"""Vocabularies: what a model of texts keeps of its data, so that it reads and writes text by itself."""

import codecs
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

KINDS = ("characters", "bytes", "bpe", "symbols", "words")
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
# The alphabet of byte-level BPE: a character for each byte (Radford et al. 2019, "Language Models are Unsupervised Multitask
# Learners"; the authors' encoder.py).
BYTE_OF = {**{chr(byte): byte for byte in _PRINTABLE}, **{chr(256 + i): byte for i, byte in enumerate(_OTHERS)}}
_SHOWN = 100  # characters of the vocabulary that a message shows


class Vocabulary:
    """Tokens of a text: their numbers, and the text that they stand for.

    A datamodule gives the description as ``vocabulary``, plain data, and a model keeps it (:attr:`zoo.Model.vocabulary`).

    Args:
        description: A dict with

            - ``kind``: "characters", "bytes" (of UTF-8), "bpe" (byte-level byte pair encoding: Sennrich et al. 2016,
              arXiv:1508.07909, over bytes), "symbols" (words between spaces) or "words" (the same, of a language: some may be
              unknown).
            - ``tokens``: The tokens, index by index, each once; None for bytes, whose tokens are 0..255. Those of "bpe" are spelled
              with a character for each byte, as its tokenizer does.
            - ``padding``, ``end``: Indices of the tokens that stand for no text: what comes after the end of a text, and what ends
              it; None where there is none. Of bytes they are 256 and 257, in any order.
            - ``tokenizer``: The tokenizer of the library ``tokenizers`` as JSON, for "bpe" alone. Only :meth:`encode` needs the
              library.
            - ``unknown``: Index of the token that stands for every word which is none of the tokens, for "words" alone; None where
              there is none, so that such a word is refused.

    Raises:
        ValueError: A description that is none.

    Example:
        >>> letters = Vocabulary({"kind": "characters", "tokens": ["<pad>", "a", "b"], "padding": 0})
        >>> letters.encode("abba"), letters.decode([1, 2, 2, 1, 0, 0]), letters.size
        ([1, 2, 2, 1], 'abba', 3)
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        self.kind: Any
        self.padding: int | None
        self.end: int | None
        self.tokenizer: Any
        self.unknown: int | None
        keys = ("kind", "tokens", "padding", "end", "tokenizer", "unknown")
        if unknown := [key for key in description if key not in keys]:
            raise ValueError(f"a vocabulary has {', '.join(keys)}, got {unknown[0]!r}")
        self.kind, tokens, self.padding, self.end, self.tokenizer, self.unknown = (description.get(key) for key in keys)
        if self.kind not in KINDS:
            raise ValueError(f"a vocabulary's kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        special = [index for index in (self.padding, self.end) if index is not None]
        if wrong := [index for index in special if isinstance(index, bool) or not isinstance(index, int) or index < 0]:
            raise ValueError(f"padding and end of a vocabulary must be indices of tokens, or None, got {wrong[0]!r}")
        if self.kind == "bytes":
            if tokens is not None or sorted(special) != list(range(256, 256 + len(special))):
                raise ValueError(
                    f"a vocabulary of bytes has no list of tokens, and padding and end after the 256 bytes, got padding "
                    f"{self.padding}, end {self.end}" + ("" if tokens is None else " and tokens")
                )
            tokens = [f"<{i:02x}>" for i in range(256 + len(special))]
        if not isinstance(tokens, list | tuple) or not tokens or not all(isinstance(token, str) for token in tokens):
            raise ValueError(f"a vocabulary of {self.kind} has a list of tokens, which are texts, got {tokens!r:.60}")
        self.tokens: list[str] = list(tokens)
        if len(set(tokens)) < len(tokens):
            twice = next(token for token in tokens if tokens.count(token) > 1)
            raise ValueError(f"a vocabulary has each token once, got {twice!r} twice")
        if len(set(special)) < len(special) or max(special, default=0) >= len(tokens):
            raise ValueError(
                f"padding and end must be two of the tokens 0..{len(tokens) - 1}, got padding {self.padding}, end {self.end}"
            )
        self._check_unknown(special)
        if (self.kind == "bpe") != isinstance(self.tokenizer, str) or (
            self.kind != "bpe" and self.tokenizer is not None
        ):
            raise ValueError(
                f"a vocabulary of bpe has its tokenizer as JSON, others have none: got a {type(self.tokenizer).__name__} for "
                f"{self.kind}"
            )
        self._pieces = [b"" if i in special else self._piece(i, token) for i, token in enumerate(self.tokens)]

    def _check_unknown(self, special: Sequence[int]) -> None:
        if self.unknown is None:
            return
        if self.kind != "words":
            raise ValueError(
                f"a vocabulary of words has a token for unknown ones, got unknown {self.unknown!r} for {self.kind}"
            )
        known = isinstance(self.unknown, int) and not isinstance(self.unknown, bool)
        if not known or not 0 <= self.unknown < len(self.tokens) or self.unknown in special:
            raise ValueError(
                f"unknown must be one of the tokens 0..{len(self.tokens) - 1}, and neither padding nor end, got {self.unknown!r}"
            )

    def _piece(self, index: int, token: str) -> bytes:
        """The bytes of the text that a token stands for."""
        if self.kind == "bytes":
            return bytes([index])
        if self.kind in ("symbols", "words"):
            if not token or token.split() != [token]:
                raise ValueError(f"a token of {self.kind} is a word without spaces, got {token!r}")
            return b" " + token.encode()
        if self.kind == "characters":
            if len(token) != 1 or "\ud800" <= token <= "\udfff":
                raise ValueError(
                    f"a vocabulary of characters has tokens of one character, but padding and end: got {token!r}"
                )
            return token.encode()
        if not token or (wrong := [char for char in token if char not in BYTE_OF]):
            raise ValueError(
                f"bpe is over bytes, each spelled as one character of 256, got {(wrong or [''])[0]!r} in {token!r}"
            )
        return bytes(BYTE_OF[char] for char in token)

    @property
    def description(self) -> dict[str, Any]:
        """The description that it was made of, complete: plain data."""
        tokens = None if self.kind == "bytes" else list(self.tokens)
        special = {"padding": self.padding, "end": self.end}
        more = (
            {"unknown": self.unknown} if self.kind == "words" else {}
        )  # others have none, and are as they were before words
        return {"kind": self.kind, "tokens": tokens, **special, "tokenizer": self.tokenizer, **more}

    @property
    def size(self) -> int:
        """Number of tokens V."""
        return len(self.tokens)

    @property
    def num_bytes(self) -> list[int] | None:
        """Number of UTF-8 bytes that each token stands for; None for symbols and words, whose texts are not spelled out."""
        return None if self._is_spaced else [len(piece) for piece in self._pieces]

    @property
    def num_characters(self) -> list[int] | None:
        """Number of characters that each token stands for, so that their sum is that of a text; None for symbols and words.

        A token that holds a part of a character counts it if it has the first byte.
        """
        first = [sum(byte & 0xC0 != 0x80 for byte in piece) for piece in self._pieces]
        return None if self._is_spaced else first

    @property
    def _is_spaced(self) -> bool:
        """Whether a token is a word between spaces."""
        return self.kind in ("symbols", "words")

    # Reading --------------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without padding and end.

        Raises:
            ValueError: A character, symbol or word that no token stands for; the message says which one and where.
            ImportError: The library that "bpe" needs is not installed.
        """
        place = next((i for i, char in enumerate(text) if "\ud800" <= char <= "\udfff"), None)
        if place is not None:
            raise ValueError(f"the text is no valid Unicode: half of a pair of surrogates at character {place + 1}")
        if self.kind == "bytes":
            return list(text.encode())
        if self.kind == "bpe":
            library = self._library
            with _naming_damage():
                tokens: list[int] = library.encode(text, add_special_tokens=False).ids
            if (lost := _first_difference(text, self.decode(tokens))) is not None:
                raise self._unknown(text, lost, text[lost : lost + 1], "the tokenizer has no token for it")
            return tokens
        parts = [(i, char) for i, char in enumerate(text)] if self.kind == "characters" else _words(text)
        for place, part in parts:
            if part not in self._indices and self.unknown is None:
                known = "".join(sorted(self._indices)) if self.kind == "characters" else " ".join(self._indices)
                raise self._unknown(text, place, part, f"the vocabulary has {known[:_SHOWN]!r}")
        return [
            self._indices[part] if self.unknown is None else self._indices.get(part, self.unknown) for _, part in parts
        ]

    @cached_property
    def _indices(self) -> dict[str, int]:
        special = (self.padding, self.end, self.unknown)
        return {token: i for i, token in enumerate(self.tokens) if i not in special}

    def _unknown(self, text: str, place: int, part: str, why: str) -> ValueError:
        line, column = text.count("\n", 0, place) + 1, place - text.rfind("\n", 0, place)
        where = f"character {place + 1}" + (f", line {line}, column {column}" if "\n" in text else "")
        code = f" (U+{ord(part):04X})" if len(part) == 1 and not " " <= part <= "~" else ""
        return ValueError(
            f"the text has {part!r}{code} at {where}, which is not in the vocabulary of {self.size} tokens: leave it out or "
            f"replace it; {why}"
        )

    @cached_property
    def _library(self) -> Any:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ImportError(
                "text is read in subwords by the library tokenizers: pip install 'lightning-zoo[text]'"
            ) from error
        with _naming_damage():
            tokenizer = Tokenizer.from_str(self.tokenizer)
        if [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())] != self.tokens:
            raise ValueError("the vocabulary's tokenizer has other tokens than the vocabulary")
        tokenizer.encode_special_tokens = True  # a text that names one does not mean it
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    # Writing --------------------------------------------------------------------------------------------------------

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens; padding and end stand for none, bytes that are no UTF-8 become U+FFFD.

        Raises:
            ValueError: A number that is no token.
        """
        return "".join(self.stream(tokens))

    def stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Yield the text of tokens piece by piece, as soon as a character is complete; together they are :meth:`decode`'s.

        Raises:
            ValueError: A number that is no token.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        first = True
        for token in tokens:
            if not 0 <= token < len(self._pieces):
                raise ValueError(f"tokens must lie in 0..{self.size - 1}, got {token}")
            if text := decoder.decode(self._pieces[token]):
                yield text.removeprefix(" ") if first and self._is_spaced else text
                first = False
        if text := decoder.decode(b"", final=True):
            yield text

    # Comparing ------------------------------------------------------------------------------------------------------

    def as_reference(self, text: str) -> str:
        """Return a decoded text to compare others with: an unknown word is U+FFFD, one word that equals none that is written.

        As it is decoded, ``<unk>`` would be three words to the metrics of texts, and a match where the same is written.
        """
        return text if self.unknown is None else text.replace(self.tokens[self.unknown], "\ufffd")

    def difference(self, other: "Vocabulary") -> str | None:
        """Return how another vocabulary ("here") differs, with both sizes and the first difference; None if it does not."""
        if self.description == other.description:
            return None
        sizes = f"{self.size} tokens, here {other.size}"
        if self.kind != other.kind:
            return f"{sizes}: {self.kind} and {other.kind}"
        if (place := _first_difference(self.tokens, other.tokens)) is not None:
            one, two = (v.tokens[place] if place < v.size else None for v in (self, other))
            shown = [token if token is None else repr(token) for token in (one, two)]
            return f"{sizes}: first difference at {place}: {shown[0] or 'nothing'} and {shown[1] or 'nothing'}"
        for name in ("padding", "end", "unknown"):
            if (one := getattr(self, name)) != (two := getattr(other, name)):
                return f"{sizes}: the same, but {name} is {one} and {two}"
        return f"{sizes}: the same, but the tokenizer joins them in another way"

    def __reduce__(self) -> Any:  # without the library's object, which loses settings when it is copied
        return type(self), (self.description,)


@contextmanager
def _naming_damage() -> Iterator[None]:
    """Say of an error of the library that the tokenizer is damaged; a panic of its Rust code is no ``Exception``."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"the vocabulary's tokenizer is damaged: {' '.join(str(error).split())}") from error


def _words(text: str) -> list[tuple[int, str]]:
    """The words of a text, each with the place where it begins."""
    found, place = [], 0
    for word in text.split():
        place = text.index(word, place)
        found.append((place, word))
        place += len(word)
    return found


def _first_difference(one: Sequence[Any], other: Sequence[Any]) -> int | None:
    """The first place where two sequences differ; None if they are equal."""
    if one == other:
        return None
    shorter = min(len(one), len(other))
    return next((i for i in range(shorter) if one[i] != other[i]), shorter)
