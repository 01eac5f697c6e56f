"""Both vocabularies come from the data and stay with the model; neither of another model takes their place."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import quiet_trainer

import zoo
from datamodules import SentencePairsDataModule

PAIRS = [("to be", "sein"), ("or not", "oder nicht"), ("that is", "das ist"), ("question", "die Frage")] * 4
OTHERS = {  # a word that is another one, and what the message says of it
    "target": (
        "Frage",
        "Grage",
        "vocabulary than the data, .*: 16 tokens, here 16: first difference at 3: 'F' and 'G'",
    ),
    "target, shorter": ("nicht", "nie", "vocabulary than the data, .*: 16 tokens, here 14: first difference at 5"),
    "source": (
        "question",
        "puestion",
        "source vocabulary than the data, .*: 15 tokens, here 15: first difference at 10: 'q' and 'p'",
    ),
    "source, shorter": (
        "question",
        "b",
        "source vocabulary than the data, .*: 15 tokens, here 13: first difference at 10",
    ),
}
KINDS = ("vocabulary", "source_vocabulary")


def data(old: str = "", new: str = "") -> SentencePairsDataModule:
    path = Path("pairs.tsv")
    path.write_text("".join(f"{a}\t{b}\n".replace(old, new) if old else f"{a}\t{b}\n" for a, b in PAIRS))
    return SentencePairsDataModule(str(path), batch_size=4, val_fraction=0.25, test_fraction=0.25)


def model(module: SentencePairsDataModule | None = None, **options: Any) -> zoo.RecurrentSeq2Seq:
    torch.manual_seed(0)
    sizes = (15, 16) if module is None else (module.source_vocab_size, module.vocab_size)
    return zoo.RecurrentSeq2Seq(*sizes, 0, "gru", 4, max_length=3, **options)


def fit(task: Any, module: Any, **options: Any) -> Any:
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=1)
    trainer.fit(task, datamodule=module, **options)
    return trainer


@pytest.fixture
def saved(tmp_cwd: Path) -> Path:
    task = model()
    trainer = fit(task, data())
    trainer.save_checkpoint("model.ckpt")
    task.save_pretrained("folder")
    return tmp_cwd


def test_they_are_saved_and_come_back(saved: Path) -> None:
    module = data()
    wanted = [dict(getattr(module, kind)) for kind in KINDS]
    assert wanted[0] != wanted[1]
    for twin in (
        zoo.load("folder"),
        zoo.load("model.ckpt"),
        zoo.RecurrentSeq2Seq.load_from_checkpoint("model.ckpt", weights_only=True),
        model(weights="folder"),
        zoo.create_model("gru_seq2seq", weights="model.ckpt"),
    ):
        assert [getattr(twin, kind) for kind in KINDS] == wanted
        assert len(twin.predict_step(twin.batch_of(["to be"]))["text"]) == 1
        with pytest.raises(ValueError, match="'d' at character 1, which is not in the vocabulary of 15 tokens"):
            twin.batch_of(["d"])  # a letter of the targets
    assert [json.loads(Path("folder/config.json").read_text())[kind] for kind in KINDS] == wanted
    fit(model(), module, ckpt_path="model.ckpt", weights_only=True)
    fit(zoo.load("folder"), module)


@pytest.mark.parametrize("other", OTHERS)
def test_others_are_refused(saved: Path, other: str) -> None:
    """At a fit, where a run goes on, in evaluation."""
    old, new, message = OTHERS[other]
    module = data(old, new)
    with pytest.raises(ValueError, match=f"the model has another {message}"):
        fit(zoo.load("folder"), module)
    with pytest.raises(ValueError, match=f"the model has another {message}"):
        quiet_trainer().test(zoo.load("folder"), datamodule=module, verbose=False)
    with pytest.raises(ValueError, match=f"the checkpoint has another {message}"):
        fit(model(module), module, ckpt_path="model.ckpt", weights_only=True)


def test_weights_of_other_numbers_of_tokens_are_refused(saved: Path) -> None:
    for sizes, which in (
        ((15, 13), "vocabulary has 16 tokens, here it has 13"),
        ((9, 16), "source vocabulary has 15 tokens, here it has 9"),
    ):
        with pytest.raises(ValueError, match=f"cannot be the weights of this RecurrentEncoderDecoder: their {which}"):
            zoo.RecurrentSeq2Seq(*sizes, 0, "gru", 4, weights="folder")


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_file_says_is_checked(saved: Path, kind: str) -> None:
    content = torch.load("model.ckpt", weights_only=True)
    for wrong, message in (
        ([1], rf"{kind} must be dict\[str, .*Any\] \| None, got \[1\]"),
        (
            {"kind": "characters", "tokens": ["a", "b"]},
            f"the {kind.replace('_', ' ')} has 2 tokens, the net is built for ",
        ),
    ):
        torch.save({**content, "zoo": {**content["zoo"], kind: wrong}}, "wrong.ckpt")
        with pytest.raises(ValueError, match=rf"wrong\.ckpt.*{message}"):
            zoo.load("wrong.ckpt")
    del content["zoo"][kind]
    torch.save(content, "older.ckpt")
    assert getattr(zoo.load("older.ckpt"), kind) is None
