"""The model card, README.md, that stands beside saved weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.blocks.vocabulary import Vocabulary
from zoo.pretrained.folder import save_folder
from zoo.recurrent import RecurrentLanguageModel, SequenceClassifier

LETTERS = {"kind": "characters", "tokens": ["<pad>", "<end>", *'`a\n"é'], "padding": 0, "end": 1}
BYTES = {"kind": "bytes", "tokens": None, "padding": 256, "end": 257}
MANY = {"kind": "characters", "tokens": [chr(200 + i) for i in range(129)]}
SYMBOLS = {"kind": "symbols", "tokens": ["left", "right"]}


def card(model: Any, folder: Path, **training: Any) -> str:
    return (model.save_pretrained(folder, training) / "README.md").read_text(encoding="utf-8")


def writer(vocabulary: dict[str, Any]) -> RecurrentLanguageModel:
    model = RecurrentLanguageModel(vocab_size=len(vocabulary["tokens"] or range(258)), width=2)
    model.describe_data({"vocabulary": vocabulary, "input_shape": [7]})
    return model


@pytest.mark.parametrize(
    ("vocabulary", "line"),
    [
        (LETTERS, 'Vocabulary: 7 characters, those for padding and end among them: `` `a\\n"é ``'),
        (BYTES, "Vocabulary: 258 bytes, those for padding and end among them"),
        (MANY, "Vocabulary: 129 characters"),
        ({**MANY, "tokens": MANY["tokens"][:128]}, f"Vocabulary: 128 characters: `{''.join(MANY['tokens'][:128])}`"),
        (SYMBOLS, "Vocabulary: 2 symbols"),
    ],
)
def test_a_model_of_texts_tells_its_tokens(tmp_path: Path, vocabulary: dict[str, Any], line: str) -> None:
    lines = card(writer(vocabulary), tmp_path).splitlines()
    assert f"- {line}" in lines
    assert "- Input: text, shape [7] in tokens" in lines
    assert not [line for line in lines if "standardized" in line or "Classes" in line]


def test_a_classifier_of_texts_tells_its_classes_too(tmp_path: Path) -> None:
    model = SequenceClassifier(vocab_size=2, num_classes=2, width=2)
    model.describe_data({"vocabulary": SYMBOLS, "class_names": ["up", "down"]})
    text = card(model, tmp_path)
    assert "- Vocabulary: 2 symbols\n- Classes: up, down\n" in text


def test_a_model_of_images_tells_how_they_are_standardized(tmp_path: Path) -> None:
    text = card(zoo.create_model("lenet5", width=1), tmp_path)
    assert (
        "- Input: shape None, standardized by the model itself with mean [0.0] and\n  standard deviation [1.0]\n"
        in text
    )
    assert "- Classes: not named\n" in text


def test_a_forecaster_tells_of_no_classes(tmp_path: Path) -> None:
    text = card(zoo.RecurrentForecaster(width=2), tmp_path)
    assert "- Input: shape None, standardized by the model itself" in text
    assert "Classes" not in text


def test_a_captioner_tells_how_its_images_are_standardized_and_its_words(tmp_path: Path) -> None:
    words = {"kind": "words", "tokens": ["<pad>", "<end>", "a", "red"], "padding": 0, "end": 1, "unknown": None}
    facts = {"class": "a.B", "net": "C", "source": "", "parameters": 1, "reads": "image", "makes": "text"}
    config = {"model": "b", "hparams": {}, "zoo_version": "0", "input_shape": [3, 8, 8]}
    state = {"mean": torch.zeros(3), "std": torch.ones(3)}
    save_folder(tmp_path, config, state, {**facts, "vocabularies": {"vocabulary": Vocabulary(words)}})
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "- Input: shape [3, 8, 8], standardized by the model itself with mean [0.0, 0.0, 0.0]" in text
    assert "\n- Vocabulary: 4 words, those for padding and end among them\n" in text
    assert "Classes" not in text


def test_what_is_said_of_the_training(tmp_path: Path) -> None:
    text = card(
        writer(BYTES), tmp_path, recipe="a/b", seeds={"0": 0.5, "1": 1}, example="a command\n\n  what it\nprints\n"
    )
    assert (
        "- Recipe: `a/b`\n- Seeds: 0 0.5, 1 1\n- Example:\n\n  ```text\n  a command\n\n    what it\n  prints\n  ```\n"
        in text
    )
