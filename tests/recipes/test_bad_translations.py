"""Pairs of texts and nets that do not fit, through the command line: one line that names the cure, exit code 2."""

from pathlib import Path

import pytest
from cli_kit import Zoo, assert_one_line

import zoo as package

RECIPE = """seed_everything: 0
model:
  class_path: zoo.{model}
  init_args: {{width: 8}}
data: {{class_path: datamodules.SentencePairsDataModule, init_args: {{path: pairs.tsv, batch_size: 2}}}}
trainer: {{max_epochs: 1}}
"""
TRANSFORMER = ("--model.num_layers=1", "--model.num_heads=2", "--model.hidden_dim=8")


@pytest.fixture(autouse=True)
def _files(tmp_cwd: Path) -> None:
    for name, letters in (("pairs", "abxy"), ("targets", "abxz"), ("sources", "acxy")):
        lines = [f"{letters[:2] * (i % 3 + 1)}\t{letters[2:] * (i % 4 + 1)}\n" for i in range(24)]
        Path(f"{name}.tsv").write_text("".join(lines))
    Path("transformer.yaml").write_text(RECIPE.format(model="TransformerSeq2Seq"))
    Path("recurrent.yaml").write_text(RECIPE.format(model="RecurrentSeq2Seq"))
    Path("lm.yaml").write_text(RECIPE.format(model="TransformerLanguageModel"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.num_heads=3"], ["num_heads must be a divisor of the width", "3 heads", "width of 8"]),
        (
            ["--model.width=12", "--model.num_heads=4", "--model.positions=rotary"],
            ["rotary positions turn pairs of features", "must be even, got 3", "set another width or num_heads"],
        ),
        (["--model.num_kv_heads=3"], ["num_kv_heads must be a divisor of num_heads"]),
        (["--model.positions=learned", "--model.max_positions=null"], ["learned positions", "set max_positions"]),
        (["--model.positions=rope"], ["model.positions must be one of sinusoidal, learned, rotary, got rope"]),
        (["--model.feed_forward=swish"], ["model.feed_forward must be one of", "swiglu", "got swish"]),
        (["--model.vocab_size=9"], ["--model.vocab_size 9 contradicts the data, which has 4: leave it out"]),
        (["--model.source_vocab_size=9"], ["--model.source_vocab_size 9 contradicts the data", "leave it out"]),
        (["--model.padding=1"], ["--model.padding 1 contradicts the data, which has 0: leave it out"]),
        (["--model.beam=0"], ["beam must be 1 or more, got 0"]),
        (["--model.label_smoothing=1"], ["label_smoothing must lie in [0, 1), got 1"]),
        (["--model.teacher_forcing=2"], ["teacher_forcing is a probability in [0, 1], got 2"]),
        (["--data.tokenizer=words"], ["data.tokenizer must be one of characters, bytes, bpe, got words"]),
        (["--data.max_length=1"], ["max_length must be an integer >= 2, got 1"]),
        (["--data.max_length=2"], ["max_length=2 tokens", "or shorter pairs"]),
    ],
)
def test_transformers(zoo: Zoo, options: list[str], words: list[str]) -> None:
    assert_one_line(zoo("fit", "-c", "transformer.yaml", *TRANSFORMER, *options), *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.attention=dot", "--model.bidirectional=true"], ["attention='dot'", "set bidirectional=False"]),
        (["--model.attention=cosine"], ["model.attention", "additive", "cosine"]),
        (["--model.input_feeding=true"], ["input_feeding=True", "set attention"]),
    ],
)
def test_recurrent_nets(zoo: Zoo, options: list[str], words: list[str]) -> None:
    assert_one_line(zoo("fit", "-c", "recurrent.yaml", *options), *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_texts_longer_than_the_positions(zoo: Zoo, positions: str) -> None:
    """Before a step is made; the message tells what there is without a limit, and that it is no remedy."""
    options = [*TRANSFORMER, f"--model.positions={positions}", "--model.max_positions=5"]
    words = ["a text of 7 tokens is longer than the 5 positions of the net", "max_positions=7", "max_positions=None"]
    assert_one_line(zoo("fit", "-c", "transformer.yaml", *options), *words, started=True)
    assert not list(Path().rglob("*.ckpt"))


def saved() -> None:
    """The folder of a model that knows the vocabularies of pairs.tsv, untrained."""
    from datamodules import SentencePairsDataModule

    data = SentencePairsDataModule("pairs.tsv")
    model = package.TransformerSeq2Seq(
        data.source_vocab_size, data.vocab_size, width=8, num_layers=1, num_heads=2, max_positions=9
    )
    known = ("input_shape", "vocabulary", "source_vocabulary", "preparation")
    model.describe_data({name: getattr(data, name) for name in known})
    model.save_pretrained("saved")


def test_what_a_trained_model_cannot_read_or_write(zoo: Zoo) -> None:
    saved()
    long = "ab" * 5
    assert_one_line(
        zoo("predict", "saved", long), "the text has 10 tokens, and the net reads 8 at most", "give a shorter one"
    )
    Path("long.tsv").write_text(f"ab\tx\n{long}\tx\n")
    assert_one_line(zoo("predict", "saved", "long.tsv"), "long.tsv, line 2: the text has 10 tokens")
    assert_one_line(zoo("predict", "saved", "abc"), "the text has 'c' at character 3", "leave it out or replace it")
    assert_one_line(zoo("sample", "saved", "--prompt", long), "the text has 10 tokens")
    result = zoo("sample", "saved", "--prompt", "ab", "--tokens", 50)
    assert_one_line(result, "max_length is 50, and the net reads 9 tokens of a target at most: lower it")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("targets.tsv", ["has another vocabulary than the data", "first difference at 3: 'y' and 'z'"]),
        ("sources.tsv", ["has another source vocabulary than the data", "first difference at 3: 'b' and 'c'"]),
    ],
)
def test_vocabularies_of_another_model(zoo: Zoo, file: str, words: list[str]) -> None:
    saved()
    options = [
        *TRANSFORMER,
        "--model.hidden_dim=null",
        "--model.weights=saved",
        f"--data.path={file}",
        "--model.max_positions=9",
    ]
    result = zoo("fit", "-c", "transformer.yaml", *options)
    assert_one_line(result, *words, "give the data that it was trained on, or train a new model", started=True)


def test_other_models_and_verbs(zoo: Zoo) -> None:
    words = ["TransformerLanguageModel continues texts", "SentencePairsDataModule has no text to continue"]
    assert_one_line(zoo("fit", "-c", "lm.yaml", "--model.num_heads=2"), *words)
    words = ["--target NAME", "if its lines are pairs of texts, zoo fit -c seq2seq/pairs --data.path pairs.tsv"]
    assert_one_line(zoo("finetune", "pairs.tsv"), *words)
