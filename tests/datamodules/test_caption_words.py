"""The words of captions: what counts as one, which are known, and their numbers."""

import pytest

from datamodules.texts import encode, plain_words, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man, riding a horse.", "a man riding a horse"),
        ('  Two   dogs\tand "one"\ncat!  ', "two dogs and one cat"),
        ("It's the dogs' ball; they don\u2019t mind", "it's the dogs ball they don't mind"),
        ("'quoted' and ''twice''", "quoted and twice"),
        ("a black-and-white photo_2 (3.5 m)", "a black and white photo 2 3 5 m"),
        ("Ein KÖTER überquert die Straße", "ein köter überquert die straße"),
        ("cafe\u0301 = caf\u00e9", "caf\u00e9 caf\u00e9"),  # two ways to write it
        ("कुत्ता दौड़ता है।", "कुत्ता दौड़ता है"),  # vowel signs are marks, which belong to a word
        ("soft\u00adhyphen zero\u200bwidth \ufeffmark", "softhyphen zerowidth mark"),
        ("a 🐶 & a ❤\ufe0f for $5", "a a for 5"),
        ("...", ""),
        ("<end> of <unk>", "end of unk"),  # no text names a token
    ],
)
def test_what_is_a_word(text: str, words: str) -> None:
    assert plain_words(text) == words
    assert plain_words(words) == words


def test_words_are_counted_in_the_training_texts() -> None:
    texts = ["a dog and a cat", "a cat"]
    assert words_of(texts) == {
        "kind": "words",
        "tokens": ["<pad>", "<end>", "<unk>", "a", "and", "cat", "dog"],
        "padding": 0,
        "end": 1,
        "tokenizer": None,
        "unknown": 2,
    }
    assert words_of(texts, min_count=2)["tokens"] == ["<pad>", "<end>", "<unk>", "a", "cat"]
    assert words_of(texts, min_count=3, unknown=False)["tokens"] == ["<pad>", "<end>", "a"]


def test_unknown_words_are_one_token_or_refused() -> None:
    texts = ["a dog and a cat", "a cat"]
    tokens = encode(["a bird and a dog", "<unk> a"], words_of(texts, min_count=2))
    assert [each.tolist() for each in tokens] == [[3, 2, 2, 3, 2], [2, 3]]
    with pytest.raises(ValueError, match="the word 'bird' of 'a bird' is not one of the 4 words of the vocabulary"):
        encode(["a bird"], words_of(texts, unknown=False))
