"""A model's vocabulary comes from its data and stays with it: in checkpoints, folders and weights; no other one takes its place."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import quiet_trainer
from lightning.pytorch import Trainer

import zoo
from datamodules import DigitsDataModule, TextDataModule
from datamodules.texts import encode
from zoo.blocks import Vocabulary
from zoo.pretrained.sources import find

TEXT = "to be or not to be, that is the question; " * 8
OTHERS = {  # by what they differ
    "letter": (TEXT.replace("q", "z"), {}, "15 tokens, here 15: first difference at 10: 'q' and 'r'"),
    "size": (TEXT.replace("q", ""), {}, "15 tokens, here 14: first difference at 10: 'q' and 'r'"),
    "kind": (TEXT, {"tokenizer": "bytes"}, "15 tokens, here 256: characters and bytes"),
}


def data(text: str = TEXT, **options: Any) -> TextDataModule:
    return TextDataModule(text, context=8, batch_size=4, **options)


def model(size: int = 15, **options: Any) -> zoo.RecurrentLanguageModel:
    torch.manual_seed(0)
    return zoo.RecurrentLanguageModel(size, "gru", width=8, **options)


def fit(task: Any, module: Any, **options: Any) -> Trainer:
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=1)
    trainer.fit(task, datamodule=module, **options)
    return trainer


def evaluate(task: Any, module: Any, checkpoint: Path) -> None:
    quiet_trainer().test(task, datamodule=module, ckpt_path=checkpoint, weights_only=True, verbose=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and a folder of one model."""
    root, task = tmp_path_factory.mktemp("saved"), model()
    trainer = fit(task, data())
    trainer.save_checkpoint(root / "model.ckpt")
    task.save_pretrained(root / "folder")
    return root


def test_it_comes_from_the_data_as_plain_data() -> None:
    task, module = model(), data()
    assert task.vocabulary is None
    fit(task, module)
    assert task.vocabulary == dict(module.vocabulary)
    assert json.loads(json.dumps(task.vocabulary)) == task.vocabulary


def test_both_sides_read_text_alike() -> None:
    text = "Grüße aus 日本 😀\n\tto be <pad>"
    for tokenizer in ("characters", "bytes", "bpe"):
        module = data(TEXT + text, tokenizer=tokenizer)
        vocabulary = Vocabulary(module.vocabulary)
        assert vocabulary.size == module.vocab_size
        assert vocabulary.encode(text) == encode([text], module.vocabulary)[0].tolist()
        assert vocabulary.decode(encode([text], module.vocabulary)[0].tolist()) == text


def test_checkpoint_and_folder_keep_it(saved: Path) -> None:
    wanted = dict(data().vocabulary)
    assert json.loads((saved / "folder/config.json").read_text())["vocabulary"] == wanted
    assert torch.load(saved / "model.ckpt", weights_only=True)["zoo"]["vocabulary"] == wanted
    for twin in (
        zoo.load(saved / "model.ckpt"),
        zoo.load(saved / "folder"),
        zoo.RecurrentLanguageModel.load_from_checkpoint(saved / "model.ckpt", weights_only=True),
        model(weights=str(saved / "folder")),
        zoo.create_model("gru_lm", weights=saved / "model.ckpt"),
    ):
        assert twin.vocabulary == wanted
        assert twin.sample(1, seed=1, prompt="to be", tokens=5)[0].startswith("to be")
    with pytest.raises(ValueError, match=r"'z' at character 4, which is not in the vocabulary of 15 tokens"):
        zoo.load(saved / "folder").sample(1, prompt="to z")


@pytest.mark.parametrize("other", OTHERS)
def test_another_vocabulary_is_refused(saved: Path, other: str) -> None:
    text, options, difference = OTHERS[other]
    module = data(text, **options)
    message = f"has another vocabulary than the data, so its tokens would stand for something else: {difference}"
    for start in (zoo.load(saved / "folder"), model(weights=str(saved / "folder"))):
        with pytest.raises(ValueError, match=f"the model {message}"):
            fit(start, module)
    with pytest.raises(ValueError, match=f"the checkpoint {message}"):
        fit(model(module.vocab_size), module, ckpt_path=saved / "model.ckpt", weights_only=True)
    with pytest.raises(ValueError, match=f"the model {message}"):
        quiet_trainer().validate(zoo.load(saved / "folder"), datamodule=module, verbose=False)
    with pytest.raises(ValueError, match=f"the checkpoint {message}"):
        evaluate(model(module.vocab_size), module, saved / "model.ckpt")


def test_the_same_vocabulary_goes_on(saved: Path) -> None:
    again = data(TEXT[::-1])  # another text of the same letters
    for task in (zoo.load(saved / "folder"), model(weights=str(saved / "folder"))):
        before = task.vocabulary
        fit(task, again)
        assert task.vocabulary == before == again.vocabulary
    evaluate(model(), again, saved / "model.ckpt")
    fit(model(), data(), ckpt_path=saved / "model.ckpt", weights_only=True)


def test_weights_for_another_number_of_tokens_are_refused(saved: Path) -> None:
    message = "cannot be the weights of this RecurrentLM: their vocabulary has 15 tokens, here it has 14"
    with pytest.raises(ValueError, match=message):
        model(14, weights=str(saved / "folder"))
    with pytest.raises(ValueError, match=message):
        zoo.create_model("gru_lm", weights=saved / "model.ckpt", vocab_size=14)
    torch.save(
        dict(model().net.state_dict()), saved / "alone.pt"
    )  # tensors that bring no vocabulary: no embedding is drawn anew in silence
    with pytest.raises(ValueError, match=r"embedding.weight is \(15, 8\) there and \(14, 8\) here"):
        model(14, weights=str(saved / "alone.pt"))
    assert model(15, weights=str(saved / "alone.pt")).vocabulary is None


def test_files_without_a_vocabulary_load_as_before(saved: Path) -> None:
    content = torch.load(saved / "model.ckpt", weights_only=True)
    del content["zoo"]["vocabulary"]
    torch.save(content, saved / "old.ckpt")
    assert zoo.load(saved / "old.ckpt").vocabulary is None
    task = model()
    fit(task, data(), ckpt_path=saved / "old.ckpt", weights_only=True)
    assert task.vocabulary == dict(data().vocabulary)
    digits = zoo.create_model("lenet5")
    assert "vocabulary" not in digits.data_description()
    fit(digits, DigitsDataModule(size=32))
    assert digits.vocabulary is None


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ([1], r"vocabulary must be dict\[str, .*Any\] \| None, got \[1\]"),
        ({"kind": "lines"}, "kind must be one of characters, bytes, bpe, symbols, words, got 'lines'"),
        ({"kind": "characters", "tokens": ["a", "b"]}, "the vocabulary has 2 tokens, the net is built for 15"),
        ({"kind": "characters", "tokens": ["a", 3.5]}, "has a list of tokens, which are texts"),
        ({"kind": "bytes", "padding": {"x": 1}}, r"must be indices of tokens, or None, got \{'x': 1\}"),
    ],
)
def test_what_a_file_says_is_checked(saved: Path, tmp_path: Path, vocabulary: Any, message: str) -> None:
    content = torch.load(saved / "model.ckpt", weights_only=True)
    content["zoo"]["vocabulary"] = vocabulary
    torch.save(content, tmp_path / "wrong.ckpt")
    with pytest.raises(ValueError, match=rf"wrong\.ckpt.*{message}"):
        zoo.load(tmp_path / "wrong.ckpt")
    if message.startswith("the vocabulary has"):
        message = "their vocabulary has 2 tokens, here it has 15"
    with pytest.raises(ValueError, match=rf"wrong\.ckpt.*{message}"):
        model(weights=str(tmp_path / "wrong.ckpt"))
    assert find(str(saved / "folder"), None).data["vocabulary"]["kind"] == "characters"
