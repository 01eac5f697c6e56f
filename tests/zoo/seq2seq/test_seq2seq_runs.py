"""Fits of encoder-decoders: several processes, accumulated batches, runs that go on; what is learned, written, looked at."""

from pathlib import Path
from typing import Any

import pytest
import torch
from kit import Memory, SaveOnce, quiet_trainer
from lightning.pytorch import Callback, seed_everything
from torch import Tensor

import zoo
from callbacks import LRSchedule, RandomState
from datamodules import SymbolPairsDataModule
from zoo.decoding import greedy

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")

SAMPLED: dict[str, Any] = {"teacher_forcing": 0.9, "forcing_schedule": "inverse_sigmoid", "forcing_steps": 8.0}
MIDDLE = 8  # step of the second epoch


def data(batch_size: int = 8, **options: Any) -> SymbolPairsDataModule:
    """Strings of one to six letters that are to be reversed, 41 for training."""
    return SymbolPairsDataModule("reverse", 4, (1, 6), count=45, batch_size=batch_size, drop_last=False, **options)


def model(**options: Any) -> zoo.RecurrentSeq2Seq:
    torch.manual_seed(3)
    arguments = {"cell": "gru", "width": 8, "bidirectional": True, "attention": "additive", "lr": 0.02, **options}
    return zoo.RecurrentSeq2Seq(6, 6, 0, **arguments).double()


class Keep(Callback):
    """Write each process's weights after the last step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        torch.save((pl_module.state_dict(), trainer.callback_metrics), self.folder / f"{trainer.global_rank}.pt")


def run(
    folder: Path, *callbacks: Callback, ranks: int = 1, ckpt: Path | None = None, **options: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights after two epochs, and what was logged of training and validation."""
    folder.mkdir(exist_ok=True)
    seed_everything(7, verbose=False)
    trainer = quiet_trainer(RandomState(), Keep(folder), *callbacks, ranks=ranks, max_epochs=2, logger=Memory())
    resumed = {"ckpt_path": ckpt, "weights_only": True if ckpt else None}
    trainer.fit(model(**options), datamodule=data(8 // ranks), **resumed)
    kept = [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]
    for other, _ in kept[1:]:
        assert all(torch.equal(kept[0][0][name], other[name]) for name in other)
    return kept[0]


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("options", [{}, {**SAMPLED, "label_smoothing": 0.1}, {"teacher_forcing": 0.0}])
def test_two_processes_train_and_judge_as_one(tmp_path: Path, options: dict[str, Any]) -> None:
    """Batches of the processes are of other lengths, and the last of an epoch holds one example; all metrics are equal."""
    (one, logged), (two, others) = (run(tmp_path / f"{ranks}", ranks=ranks, **options) for ranks in (1, 2))
    assert gap(one, two) < 1e-9
    names = {"loss", "perplexity", "acc", "exact", "bleu1", "bleu2", "bleu3", "bleu4", "chrf"}
    assert {name for name in logged if name.startswith("val/")} == {f"val/{name}" for name in names}
    for name in ("train/loss", *(f"val/{name}" for name in names)):
        assert float(logged[name]) == pytest.approx(float(others[name]), rel=1e-6), name
    assert gap(one, run(tmp_path / "again", teacher_forcing=0.3)[0]) > 1e-4


@pytest.mark.parametrize("options", [SAMPLED, {"label_smoothing": 0.1}])
def test_accumulated_batches_train_as_whole_ones(options: dict[str, Any]) -> None:
    """A step's batches have different numbers of tokens."""
    ends = []
    for cut in (1, 2):
        seed_everything(7, verbose=False)
        task = model(**options)
        trainer = quiet_trainer(max_epochs=2, accumulate_grad_batches=cut, limit_val_batches=0)
        trainer.fit(task, datamodule=data(8 // cut, similar_lengths=False))
        ends.append(task.state_dict())
    assert gap(*ends) < 1e-9


def test_scheduled_sampling_goes_on_to_the_bit(tmp_path: Path) -> None:
    """In the middle of an epoch: the ratio is that of the step, and the draws are those that would have come."""
    whole, _ = run(tmp_path / "whole", SaveOnce(tmp_path / "middle.ckpt", MIDDLE), **SAMPLED)
    assert gap(whole, run(tmp_path / "rest", ckpt=tmp_path / "middle.ckpt", **SAMPLED)[0]) == 0
    content = torch.load(tmp_path / "middle.ckpt", weights_only=True)
    assert 6 < content["global_step"] < 12
    assert (content["zoo"]["vocabulary"], content["zoo"]["source_vocabulary"]) == (data().vocabulary,) * 2


def test_the_ratio_follows_the_optimizer_and_not_the_batches() -> None:
    seen: list[tuple[int, float]] = []

    class Watched(zoo.RecurrentSeq2Seq):
        def forcing_ratio(self, step: int) -> float:
            seen.append((step, super().forcing_ratio(step)))
            return seen[-1][1]

    torch.manual_seed(0)
    task = Watched(6, 6, 0, "gru", 4, forcing_schedule="linear", forcing_steps=4.0)
    quiet_trainer(max_epochs=1, accumulate_grad_batches=2).fit(task, datamodule=data())
    assert seen == [(0, 1.0), (0, 1.0), (1, 0.75), (1, 0.75), (2, 0.5)]


@pytest.fixture(scope="module")
def trained() -> zoo.RecurrentSeq2Seq:
    """A net that has learned to reverse strings of one to four of three letters, in seconds."""
    seed_everything(0, verbose=False)
    module = SymbolPairsDataModule("reverse", 3, (1, 4), count=1200, batch_size=64)
    task = zoo.RecurrentSeq2Seq(5, 5, 0, "gru", 24, bidirectional=True, attention="additive", lr=0.03)
    trainer = quiet_trainer(LRSchedule("cosine"), max_epochs=11, gradient_clip_val=1.0, limit_val_batches=0)
    trainer.fit(task, datamodule=module)
    (result,) = trainer.test(task, datamodule=module, verbose=False)
    assert result["test/exact"] > 0.98, result
    assert result["test/chrf"] > 0.99
    assert result["test/acc"] > 0.99
    return task.eval()


def test_it_looks_at_the_letter_that_it_writes(trained: zoo.RecurrentSeq2Seq, tmp_path: Path) -> None:
    """From the last to the first; the end is somewhere else."""
    source = trained.batch_of(["a b c", "c c a b", "b"])
    made = trained.predict_step(source)
    assert made["text"] == ["c b a", "b a c c", "b"]
    target = torch.cat([torch.ones(3, 1, dtype=torch.long), made["tokens"][:, 0, :-1]], dim=1)
    weights = trained.attention(zoo.SentencePair(source, target))
    for b, length in enumerate((3, 4, 1)):
        assert (weights[b, :, length + 1 :] == 0).all()
        looks = weights[b, :length].argmax(dim=1) - torch.arange(length).flip(0)
        assert looks.abs().max() <= 1, looks  # states of both directions know their neighbors, too
    image = trained.draw_attention(source, made["tokens"][:, 0])
    assert image.dtype == torch.uint8
    rendered = trained.render((zoo.SentencePair(source, target), target))
    assert torch.equal(rendered["attention"], image)
    assert [row[2] for row in rendered["texts"][1:]] == made["text"]


def test_a_picture_has_a_row_for_each_written_token(
    trained: zoo.RecurrentSeq2Seq, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(zoo.tasks.seq2seq, "attention_maps", lambda *parts: drawn.append(parts) or torch.zeros(3, 1, 1))
    source = trained.batch_of(["a b b c", "c"])
    written = torch.tensor([[3, 1, 0, 0], [4, 2, 1, 0]])  # not what it would write
    trained.draw_attention(source, written)
    ((maps, sources, targets),) = drawn
    assert sources == [["a", "b", "b", "c", "<end>"], ["c", "<end>"]]
    assert targets == [["b", "<end>"], ["c", "a", "<end>"]]
    read = torch.tensor([[1, 3, 0, 0], [1, 4, 2, 0]])
    weights = trained.attention(zoo.SentencePair(source, read))
    for b, (rows, columns) in enumerate(((2, 5), (3, 2))):
        torch.testing.assert_close(maps[b], weights[b, :rows, :columns])


def test_folders_and_checkpoints_keep_both_vocabularies(trained: zoo.RecurrentSeq2Seq, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path / "folder")
    twin = zoo.load(tmp_path / "folder")
    assert twin.vocabulary == trained.vocabulary
    assert twin.source_vocabulary == trained.source_vocabulary
    assert twin.predict_step(twin.batch_of(["a b c"]))["text"] == ["c b a"]
    assert trained.sample(3, prompt="a b c", temperature=0.1) == ["c b a"] * 3


def test_a_beam_finds_what_is_as_good_as_greedy_search_on_a_trained_net(trained: zoo.RecurrentSeq2Seq) -> None:
    """Without the greedy sequence too, on 99 of 100 examples."""
    module = SymbolPairsDataModule("reverse", 3, (1, 8), count=1500)  # longer ones than it knows
    batch = module.examples("test").batch(torch.arange(300))
    given = trained._arguments(batch[0].source, batch[0].target[:, 0])
    one = greedy(**given)
    plain = zoo.decoding.beam_search(**given, beam=4)
    assert (plain.scores[:, 0] >= one.scores - 1e-6).double().mean() >= 0.99
    assert (trained.predict_step(batch, beam=4)["scores"][:, 0] >= one.scores).all()


@pytest.mark.parametrize("seed", range(5))
def test_no_beam_is_worse_than_greedy_search(seed: int) -> None:
    """Of 40 random nets each: scores are at least those of the most probable tokens, one by one."""
    torch.manual_seed(seed)
    ends = torch.ones(6, 1, dtype=torch.long)
    pair = zoo.SentencePair(torch.cat([torch.randint(2, 6, (6, 3)), ends], dim=1), ends)
    for _ in range(40):
        net = zoo.RecurrentSeq2Seq(6, 6, 0, "gru", 6, attention="dot", max_length=7).eval()
        for p in net.parameters():
            p.data.mul_(4)
        found = net.predict_step(pair, beam=4, best=2)
        one = net.predict_step(pair, beam=1)
        assert (found["scores"][:, 0] >= one["scores"][:, 0]).all()
