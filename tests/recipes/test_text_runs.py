"""Texts on the command line: train, write, go on, and what another text does to a run that has begun."""

from pathlib import Path

import pytest
from cli_kit import Zoo, assert_one_line

RECIPE = """# A few lines.
#   run     zoo fit -c lines.yaml
#   expect  test/loss <= 9 (measured 2, 2-2 over 3 seeds)
#   takes   about 1 s on 2 CPU cores
seed_everything: 0
model:
  class_path: zoo.RecurrentLanguageModel
  init_args: {cell: gru, width: 8}
data:
  class_path: datamodules.TextFileDataModule
  init_args: {path: lines.txt, context: 8, batch_size: 4, order: lanes}
trainer:
  max_epochs: 2
  callbacks:
    - class_path: callbacks.Samples
"""
TEXT = "to be or not to be,\nthat is the question\n" * 20
RUN = "runs/lines/version_0"


@pytest.fixture
def text(tmp_cwd: Path) -> Path:
    (tmp_cwd / "lines.yaml").write_text(RECIPE)
    (tmp_cwd / "lines.txt").write_text(TEXT)
    return tmp_cwd / "lines.txt"


def test_a_text_is_learned_written_and_gone_on_with(zoo: Zoo, text: Path) -> None:
    done = zoo("fit", "-c", "lines.yaml")
    assert done.code == 0, done.err
    assert "test/bpc" in done.out
    (shown, *_) = sorted(Path(RUN, "samples").glob("*.txt"))
    assert len(shown.read_text()) > 100
    for seed in (0, 0, 1):
        assert (
            zoo("sample", RUN, "-n", 2, "--prompt", "to be", "--tokens", 9, "--seed", seed, "-o", f"{seed}.txt").code
            == 0
        )
    first, second = (Path(f"{seed}.txt").read_text() for seed in (0, 1))
    assert first.startswith("to be")
    assert first.count("to be") >= 2
    assert first != second
    more = zoo("fit", "--resume", RUN, "--trainer.max_epochs=3")
    assert more.code == 0, more.err
    bad = ("sample", RUN, "-n", 1)
    assert_one_line(zoo(*bad, "--prompt", "to zee"), "the text has 'z' at character 4", "the vocabulary of 15 tokens")
    assert_one_line(zoo(*bad, "--temperature", 0), "temperature must be above 0")
    assert_one_line(zoo(*bad, "--top-p", 2), "top_p must be in (0, 1]")
    assert_one_line(zoo(*bad, "--tokens", 0), "tokens must be 1 or more")
    assert_one_line(
        zoo("fit", "-c", "lines.yaml", "--trainer.accumulate_grad_batches=2"),
        "batches continue each other",
        started=True,
    )
    text.write_text(TEXT.replace("q", "z"))
    other = "first difference at 10: 'q' and 'r'"
    assert_one_line(zoo("fit", "--resume", RUN, "--trainer.max_epochs=4"), f"15 tokens, here 15: {other}", started=True)
    assert_one_line(zoo("test", "--ckpt", RUN), f"15 tokens, here 15: {other}", started=True)
    weights = zoo("fit", "-c", "lines.yaml", "--model.weights", Path(RUN, "checkpoints/last.ckpt"))
    assert_one_line(weights, f"15 tokens, here 15: {other}", started=True)
    text.write_text(TEXT.replace("q", ""))
    assert_one_line(
        zoo("fit", "--resume", RUN, "--trainer.max_epochs=4"),
        f"the checkpoint's vocab_size 15 contradicts the data, which has 14 (15 tokens, here 14: {other})",
    )
    weights = zoo("fit", "-c", "lines.yaml", "--model.weights", Path(RUN, "checkpoints/last.ckpt"))
    assert_one_line(weights, "their vocabulary has 15 tokens, here it has 14", f"(15 tokens, here 14: {other})")
