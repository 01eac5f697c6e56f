"""Vocabularies: reading and writing text, in pieces too, what cannot be read, and how two of them differ."""

import copy
import json
import pickle
import sys
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from zoo.blocks import Vocabulary
from zoo.blocks.vocabulary import BYTE_OF

TEXTS = ["", "a", "abba cab", "Grüße, 日本 😀!", "\n\n a\tb", "e\u0301 \ufffd <pad> <end>"]
BYTES = {"kind": "bytes", "padding": 256, "end": 257}


def characters(letters: str = "abc \n") -> dict[str, Any]:
    return {"kind": "characters", "tokens": ["<pad>", *letters], "padding": 0}


def tokenizer(merges: int = 20) -> Tokenizer:
    """Byte-level BPE, as GPT-2's."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=258 + merges,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["abba abba cab Grüße 日本 日本 日本 abcabc"] * 3, trainer)
    return bpe


def subwords(merges: int = 20) -> dict[str, Any]:
    bpe = tokenizer(merges)
    tokens = [bpe.id_to_token(i) for i in range(bpe.get_vocab_size())]
    return {"kind": "bpe", "tokens": tokens, "padding": 0, "end": 1, "tokenizer": bpe.to_str()}


ALL = {
    "characters": characters("".join(sorted(set("".join(TEXTS))))),
    "bytes": BYTES,
    "bpe": subwords(),
}


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back(kind: str, text: str) -> None:
    vocabulary = Vocabulary(ALL[kind])
    tokens = vocabulary.encode(text)
    assert vocabulary.decode(tokens) == text
    special = [index for index in (vocabulary.padding, vocabulary.end) if index is not None]
    assert not set(tokens) & set(special)  # a text that names a token does not mean it
    assert vocabulary.decode([*special, *tokens, *special]) == text
    numbers = vocabulary.num_bytes, vocabulary.num_characters
    assert [sum(n[token] for token in tokens) for n in numbers if n] == [len(text.encode()), len(text)]


def test_tokens_are_numbered_as_listed() -> None:
    assert Vocabulary(characters("ba")).encode("abb") == [2, 1, 1]
    assert Vocabulary(BYTES).encode("a\n€") == [97, 10, 0xE2, 0x82, 0xAC]
    symbols = Vocabulary({"kind": "symbols", "tokens": ["<end>", "one", "two", "\u00e9t\u00e9"], "end": 0})
    assert symbols.encode("  two one\ntwo") == [2, 1, 2]
    assert symbols.decode([2, 1, 3, 0]) == "two one \u00e9t\u00e9"
    assert [Vocabulary(v).size for v in (characters(), {"kind": "bytes"}, BYTES)] == [6, 256, 258]


def test_words_may_be_unknown() -> None:
    words = {"kind": "words", "tokens": ["<pad>", "<end>", "<unk>", "a", "dog"], "padding": 0, "end": 1, "unknown": 2}
    vocabulary = Vocabulary(words)
    assert vocabulary.encode(" a  big dog <unk> <end> dog") == [3, 2, 4, 2, 2, 4]
    assert vocabulary.decode([1, 3, 2, 4, 1, 0]) == "a <unk> dog"
    assert vocabulary.as_reference("a <unk> dog <unk>") == "a \ufffd dog \ufffd"
    assert Vocabulary(characters()).as_reference("<unk>") == "<unk>"
    assert list(vocabulary.stream([3, 4])) == ["a", " dog"]
    assert (vocabulary.num_bytes, vocabulary.num_characters) == (None, None)
    assert vocabulary.description == {**words, "tokenizer": None}
    known = Vocabulary({**words, "unknown": None})
    with pytest.raises(
        ValueError, match=r"the text has 'big' at character 3, which is not in the vocabulary of 5 tokens"
    ):
        known.encode("a big dog")
    assert known.description["unknown"] is None
    assert vocabulary.difference(known) == "5 tokens, here 5: the same, but unknown is 2 and None"


def test_a_description_of_before_words_stays_as_it_was() -> None:
    for description in ALL.values():
        assert "unknown" not in Vocabulary(description).description
        assert Vocabulary({**description, "unknown": None}).description == Vocabulary(description).description


def test_subwords_are_those_of_the_library() -> None:
    bpe, vocabulary = tokenizer(), Vocabulary(ALL["bpe"])
    bpe.encode_special_tokens = True
    for text in TEXTS:
        ids = bpe.encode(text, add_special_tokens=False).ids
        assert vocabulary.encode(text) == ids
        assert vocabulary.decode(ids) == bpe.decode(ids)
    assert len(vocabulary.encode("abba 日本")) < len("abba 日本".encode())
    assert set(BYTE_OF) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(BYTE_OF.values()) == list(range(256))


@pytest.mark.parametrize("kind", ALL)
def test_text_is_written_in_whole_characters(kind: str) -> None:
    vocabulary, text = Vocabulary(ALL[kind]), "".join(TEXTS)
    tokens = vocabulary.encode(text)
    pieces = list(vocabulary.stream(tokens))
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces).replace(TEXTS[-1], "")
    taken: list[int] = []

    def one_by_one() -> Any:
        for token in tokens:
            taken.append(token)
            yield token

    seen, sizes = "", vocabulary.num_bytes or []
    for piece in vocabulary.stream(one_by_one()):  # each piece comes as soon as it can
        seen += piece
        complete = b"".join([text.encode()])[: sum(sizes[token] for token in taken)].decode(errors="ignore")
        assert seen == complete


@pytest.mark.parametrize("tokens", [[0xE2, 0x82], [0xE2, 0x82, 0x41], [0xFF, 0x80, 0xE2], [0xF0, 0x9F, 0x41, 0x98]])
def test_bytes_that_are_no_text_are_replaced(tokens: list[int]) -> None:
    wanted = bytes(tokens).decode(errors="replace")
    assert Vocabulary(BYTES).decode(tokens) == wanted
    assert "".join(Vocabulary(BYTES).stream(iter([*tokens, 257, 256]))) == wanted


@pytest.mark.parametrize(
    ("description", "text", "message"),
    [
        (
            characters(),
            "abXc",
            r"the text has 'X' at character 3, which is not in the vocabulary of 6 tokens: .*'\\n abc'",
        ),
        (characters(), "ab\nca\u00e9", r"'\u00e9' \(U\+00E9\) at character 6, line 2, column 3"),
        (characters(), "<pad>", r"the text has '<' at character 1"),
        ({"kind": "symbols", "tokens": ["one", "two"]}, "two two three", r"the text has 'three' at character 9"),
        (BYTES, "a\udc80", r"half of a pair of surrogates at character 2"),
    ],
)
def test_a_text_that_cannot_be_read_is_named_with_its_place(description: Any, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(description).encode(text)


def test_a_tokenizer_without_all_bytes_says_what_it_loses() -> None:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.train_from_iterator(["abc abc"], trainers.BpeTrainer(vocab_size=9, show_progress=False))
    tokens = [bpe.id_to_token(i) for i in range(bpe.get_vocab_size())]
    vocabulary = Vocabulary({"kind": "bpe", "tokens": tokens, "tokenizer": bpe.to_str()})
    assert vocabulary.decode(vocabulary.encode("cab abc")) == "cab abc"
    with pytest.raises(ValueError, match=r"'x' at character 3, which is not in .* the tokenizer has no token for it"):
        vocabulary.encode("abxc")


def test_without_the_library_subwords_are_written_and_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    vocabulary = Vocabulary(ALL["bpe"])
    assert vocabulary.decode([vocabulary.tokens.index("a")] * 2) == "aa"
    with pytest.raises(ImportError, match=r"pip install 'lightning-zoo\[text\]'"):
        vocabulary.encode("a")


def test_numbers_that_are_no_tokens() -> None:
    for token in (-1, 258):
        with pytest.raises(ValueError, match=rf"tokens must lie in 0\.\.257, got {token}"):
            Vocabulary(BYTES).decode([65, token])


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"kind": "syllables"}, "kind must be one of characters, bytes, bpe, symbols, words, got 'syllables'"),
        ({"kind": "words", "tokens": ["a b"]}, "a token of words is a word without spaces, got 'a b'"),
        ({"kind": "words", "tokens": ["a"], "unknown": 1}, r"unknown must be one of the tokens 0\.\.0, .* got 1"),
        ({"kind": "words", "tokens": ["a"], "unknown": True}, "got True"),
        ({"kind": "words", "tokens": ["a", "b"], "end": 1, "unknown": 1}, "neither padding nor end, got 1"),
        (
            {"kind": "symbols", "tokens": ["a"], "unknown": 0},
            "words has a token for unknown ones, got unknown 0 for symbols",
        ),
        ({"kind": "bytes", "size": 3}, "got 'size'"),
        ({"kind": "bytes", "padding": 0}, "padding and end after the 256 bytes, got padding 0, end None"),
        ({"kind": "bytes", "tokens": ["a"]}, "got padding None, end None and tokens"),
        ({"kind": "bytes", "padding": "0"}, "must be indices of tokens, or None, got '0'"),
        ({"kind": "characters"}, "has a list of tokens, which are texts, got None"),
        ({"kind": "characters", "tokens": ["a", 1]}, "has a list of tokens"),
        ({"kind": "characters", "tokens": ["a", "b", "a"]}, "each token once, got 'a' twice"),
        ({"kind": "characters", "tokens": ["a", "bc"]}, "tokens of one character, but padding and end: got 'bc'"),
        ({"kind": "characters", "tokens": ["a", "\ud800"]}, "tokens of one character"),
        ({"kind": "characters", "tokens": ["a"], "padding": 1}, r"two of the tokens 0\.\.0, got padding 1, end None"),
        ({"kind": "characters", "tokens": ["a"], "padding": True}, "or None, got True"),
        ({"kind": "characters", "tokens": ["a", "b"], "padding": 1, "end": 1}, "got padding 1, end 1"),
        ({"kind": "symbols", "tokens": ["a b"]}, "a token of symbols is a word without spaces, got 'a b'"),
        ({"kind": "symbols", "tokens": ["a"], "tokenizer": "{}"}, "others have none: got a str for symbols"),
        ({"kind": "bpe", "tokens": ["a"]}, "its tokenizer as JSON, others have none: got a NoneType for bpe"),
        (
            {"kind": "bpe", "tokens": ["a", "\u2581b"], "tokenizer": "{}"},
            "each spelled as one character of 256, got '\u2581'",
        ),
    ],
)
def test_a_description_that_is_none_is_refused(description: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(description)


def test_a_damaged_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="tokenizer is damaged"):
        Vocabulary({**ALL["bpe"], "tokenizer": "{}"}).encode("a")
    with pytest.raises(ValueError, match="has other tokens than the vocabulary"):
        Vocabulary({**ALL["bpe"], "tokens": ALL["bpe"]["tokens"][::-1]}).encode("a")


@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},  # when it is read
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},  # when it is used
    ],
)
def test_a_panic_of_the_library_is_an_error_of_one_line(part: dict[str, Any]) -> None:
    damaged = json.dumps({**json.loads(ALL["bpe"]["tokenizer"]), **part})
    with pytest.raises(ValueError, match=r"^the vocabulary's tokenizer is damaged: .+$"):
        Vocabulary({**ALL["bpe"], "tokenizer": damaged}).encode("a b")


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        (characters("ab"), characters("ab"), None),
        (characters("ab"), characters("ba"), "3 tokens, here 3: first difference at 1: 'a' and 'b'"),
        (characters("ab"), characters("abc"), "3 tokens, here 4: first difference at 3: nothing and 'c'"),
        (characters("ab"), BYTES, "3 tokens, here 258: characters and bytes"),
        (BYTES, {**BYTES, "padding": 257, "end": 256}, "258 tokens, here 258: the same, but padding is 256 and 257"),
        (BYTES, {"kind": "bytes"}, "258 tokens, here 256: first difference at 256: '<100>' and nothing"),
        (
            ALL["bpe"],
            {**ALL["bpe"], "tokenizer": ALL["bpe"]["tokenizer"] + " "},
            f"{258 + 20} tokens, here {258 + 20}: the same, but the tokenizer joins them in another way",
        ),
    ],
)
def test_two_vocabularies_are_compared(one: Any, other: Any, difference: str | None) -> None:
    assert Vocabulary(one).difference(Vocabulary(other)) == difference


@pytest.mark.parametrize("kind", ALL)
def test_a_vocabulary_is_plain_data_and_is_copied(kind: str) -> None:
    vocabulary = Vocabulary(ALL[kind])
    vocabulary.encode("abba")  # with the library's object
    for twin in (
        Vocabulary(json.loads(json.dumps(vocabulary.description))),
        copy.deepcopy(vocabulary),
        pickle.loads(pickle.dumps(vocabulary)),
    ):
        assert vocabulary.difference(twin) is None
        assert twin.encode("abba <pad>") == vocabulary.encode("abba <pad>") if kind != "characters" else True
