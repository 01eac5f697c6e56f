"""Language models: loss and metrics against sums written out, texts that are drawn, continued and judged, and what cannot be."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from kit import quiet_trainer
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

import zoo
from zoo.blocks import Vocabulary
from zoo.tasks import LanguageModelTask

LETTERS = {"kind": "characters", "tokens": ["<pad>", "<end>", *"abé\n"], "padding": 0, "end": 1, "tokenizer": None}
PLAIN = {"kind": "characters", "tokens": [*"abé\n"], "padding": None, "end": None, "tokenizer": None}
NO_LINES = {**PLAIN, "tokens": [*"abé "]}


class Bigram(nn.Module):
    """Logits that depend on the last token alone, so that all is known."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(size, size, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return self.table[x]

    def init_state(self, batch_size: int) -> Tensor:
        return torch.zeros(batch_size, 1)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.table[x_t], state


def task(vocabulary: dict[str, Any] | None = LETTERS, **options: Any) -> LanguageModelTask:
    size = 6 if vocabulary is None else Vocabulary(vocabulary).size
    model = LanguageModelTask(Bigram(size), size, **options)
    model.vocabulary = vocabulary
    return model.double().eval().requires_grad_(False)


def batches() -> list[tuple[Tensor, ...]]:
    """Of different sizes and lengths; padded, with weights of examples, of tokens, and with one that counts nothing."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.randint(1, 6, (2, 5, 7), generator=g)
    y[0, 3:], y[1, 1:] = 0, 0
    return [
        (x, y),
        (x[:2, :3], y[2:4, :3]),
        (x, y, torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])),
        (x[:, 1:], y[:, 1:], (torch.rand(5, 6, generator=g) < 0.5).double()),
        (x, y, torch.zeros(5)),
    ]


def by_hand(table: Tensor, batch: tuple[Tensor, ...]) -> list[tuple[float, int, bool]]:
    """Loss in nats of each target that counts, the target, and whether it is the most probable."""
    x, y, *weight = batch
    found = []
    for b in range(len(x)):
        for t in range(x.shape[1]):
            counts = float((weight[0][b] if weight[0].ndim == 1 else weight[0][b, t]) if weight else 1)
            if y[b, t] == 0 or not counts:
                continue
            logits = [float(v) for v in table[x[b, t]]]
            total = math.fsum(math.exp(v) for v in logits)
            target = int(y[b, t])
            found.append((math.log(total) - logits[target], target, logits[target] == max(logits)))
    return found


def test_the_loss_is_the_mean_over_tokens_that_count() -> None:
    model = task()
    for batch in batches():
        nats = [n for n, _, _ in by_hand(model.net.table, batch)]
        loss, means, count = model.training_losses(batch)
        assert float(loss) == pytest.approx(math.fsum(nats) / max(len(nats), 1), abs=1e-12)
        assert means["loss"] is loss
        assert int(count) == len(nats)
    assert task(PLAIN).padding is None
    assert int(task(PLAIN).training_losses((torch.zeros(2, 3, dtype=torch.long),) * 2)[2]) == 6  # 0 is a letter there


def test_metrics_are_quotients_of_sums_over_the_whole_evaluation() -> None:
    model = task()
    metrics, rows = model.build_metrics(), []
    for batch in batches():
        model.update_metrics(metrics, batch)
        rows += by_hand(model.net.table, batch)
    nats = math.fsum(n for n, _, _ in rows)
    text = Vocabulary(LETTERS).decode(target for _, target, _ in rows)
    assert any(target == 1 for _, target, _ in rows)  # an end costs nats, and is no character
    wanted = {
        "loss": nats / len(rows),
        "perplexity": math.exp(nats / len(rows)),
        "acc": sum(right for _, _, right in rows) / len(rows),
        "bpc": nats / len(text) / math.log(2),
        "bpb": nats / len(text.encode()) / math.log(2),
    }
    assert {name: float(metric.compute()) for name, metric in metrics.items()} == pytest.approx(wanted, rel=1e-6)
    assert wanted["bpb"] < wanted["bpc"]


def test_bits_for_a_character_do_not_depend_on_the_tokens() -> None:
    """A text of two letters, each as probable as the other, costs one bit a letter, read one at a time or two at once."""
    text = "abbaabba" * 4
    single = {"kind": "characters", "tokens": ["a", "b"]}
    pairs = {"kind": "bpe", "tokens": ["aa", "ab", "ba", "bb"], "tokenizer": "{}"}
    y = {2: torch.tensor([["ab".index(c) for c in text]]), 4: torch.tensor([[1, 3, 0, 3, 2] * 2])}
    for vocabulary, size in ((single, 2), (pairs, 4)):
        model = LanguageModelTask(Bigram(size), size).eval()
        model.net.table.data.zero_()
        model.vocabulary = vocabulary
        metrics = model.build_metrics()
        model.update_metrics(metrics, (y[size], y[size]))
        assert float(metrics["bpc"].compute()) == pytest.approx(1)
        assert float(metrics["bpb"].compute()) == pytest.approx(1)
        assert float(metrics["loss"].compute()) == pytest.approx(math.log(size))


def test_without_a_text_that_is_spelled_out_there_are_no_bits() -> None:
    symbols = {"kind": "symbols", "tokens": list("012345")}
    assert set(task(symbols).build_metrics()) == set(task(None).build_metrics()) == {"loss", "perplexity", "acc"}


def test_what_is_declared() -> None:
    model = task()
    assert (model.reads, model.makes, model.samples, model.monitor) == ("text", "text", "text", ("val/loss", "min"))
    assert model.expected_initial_loss() == math.log(6)
    assert model.example_inputs(3)[0].shape == (3, 16)
    model.input_shape = (5,)
    assert model.example_inputs(3)[0].shape == (3, 5)
    logs = model.outputs(torch.tensor([[2, 3]]))["log_probabilities"]
    torch.testing.assert_close(logs, model.net.table[[2, 3]][None].log_softmax(dim=-1))


# Writing text -----------------------------------------------------------------------------------------------------------


def test_a_text_begins_with_the_prompt_and_ends_with_the_end() -> None:
    model = task()
    texts = model.sample(50, seed=3, prompt="aé\n", tokens=30)
    assert all(text.startswith("aé\n") and len(text) <= 33 for text in texts)
    assert min(map(len, texts)) < 33  # some have ended
    assert len(set(texts)) > 25
    assert texts == model.sample(50, seed=3, prompt="aé\n", tokens=30)
    assert texts != model.sample(50, seed=4, prompt="aé\n", tokens=30)
    assert set("".join(model.sample(20, seed=5, tokens=30))) == set("abé\n")


def test_draws_follow_the_model() -> None:
    """The first token after a prompt, without the padding, which is never written."""
    model, count = task(), 4000
    texts = model.sample(count, prompt="b", tokens=1, temperature=0.7)
    p = (model.net.table[3].detach()[1:] / 0.7).softmax(dim=0)
    seen = torch.tensor([texts.count("b" + letter) / count for letter in ("", *"abé\n")])
    assert (seen - p).abs().max() < 5 * (0.25 / count) ** 0.5
    best = "abé\n"[int(model.net.table[3, 2:].argmax())]
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 0.999}, {"temperature": 1e-4}):
        found = set(model.sample(9, prompt="b", tokens=1, **narrow))
        assert found in ({"b" + best}, {"b"} if p.argmax() == 0 else {"b" + best})


def test_text_is_streamed_as_it_is_written() -> None:
    for model in (task(), task(PLAIN)):
        for seed in range(5):
            pieces = list(model.stream(seed=seed, prompt="éa", tokens=20, top_k=3))
            assert "".join(pieces) == model.sample(1, seed=seed, prompt="éa", tokens=20, top_k=3)[0]
            assert pieces[:2] == ["é", "a"]
            assert all(len(piece) == 1 for piece in pieces)
    data = task({"kind": "bytes"})
    with torch.no_grad():  # a euro sign after another
        data.net.table.fill_(-1e9)
        for one, other in zip("€".encode(), [*"€".encode()[1:], "€".encode()[0]], strict=True):
            data.net.table[one, other] = 0
    assert list(data.stream(prompt="€", tokens=6)) == ["€"] * 3
    assert list(data.stream(prompt="€", tokens=4)) == ["€", "€", "\ufffd"]


def test_without_a_prompt_a_text_begins_after_its_end_or_as_a_new_line() -> None:
    for vocabulary, first in ((LETTERS, 1), (PLAIN, 3)):
        model = task(vocabulary)
        best = int(model.net.table[first].argmax())
        assert model.sample(1, tokens=1, top_k=1) == [Vocabulary(vocabulary).decode([best])]
    with pytest.raises(ValueError, match="neither an end token nor a line feed to begin after: give a prompt"):
        task({"kind": "characters", "tokens": ["a", "b"]}).sample(1)
    with pytest.raises(ValueError, match="give a prompt"):
        task({"kind": "symbols", "tokens": ["a", "b"]}).sample(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "abX"}, r"the text has 'X' at character 3, which is not in the vocabulary of 6 tokens"),
        ({"tokens": 0}, "count and tokens must be 1 or more, got count=2, tokens=0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"top_k": 0}, "top_k must be 1 or more"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\]"),
        ({"min_p": 1.0}, r"min_p must be in \[0, 1\)"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task().sample(2, **options)
    if "tokens" not in options:
        with pytest.raises(ValueError, match=message):
            next(task().stream(**options))


def test_a_text_longer_than_the_net_reads_is_refused() -> None:
    model = task()
    model.net.max_length = 5
    assert len(model.sample(1, prompt="ab", tokens=3)) == 1
    with pytest.raises(ValueError, match="the text would have 6 tokens, and the net reads 5 at most"):
        model.sample(1, prompt="ab", tokens=4)
    with pytest.raises(ValueError, match="would have 7 tokens"):
        model.batch_of(["a" * 7])


def test_a_model_without_vocabulary_or_state_says_so() -> None:
    with pytest.raises(ValueError, match="LanguageModelTask has no vocabulary, so it can neither read nor write text"):
        task(None).sample(1)
    model = LanguageModelTask(nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6)), 6)
    model.vocabulary = LETTERS
    with pytest.raises(TypeError, match=r"Sequential needs init_state, see zoo\.Incremental"):
        model.sample(1)
    assert model.render((torch.zeros(2, 3, dtype=torch.long),) * 2) == {}
    assert "continuation" not in model.predict_step(model.batch_of(["ab"]))


def test_render_shows_how_a_text_of_the_batch_goes_on() -> None:
    model = task()
    x = torch.tensor([[2, 3, 4, 5]])
    texts = model.render((x, x))["text"].split("abé\n|")
    assert texts[0] == ""
    assert len(texts) == 3
    assert texts[1] != texts[2]
    x = torch.tensor([[1, 2, 3, 1, 0, 0]])  # a short text, after whose end there is nothing to go on with
    assert model.render((x, x))["text"].startswith("ab|")


# Judging text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vocabulary", "opening"), [(LETTERS, [1]), (PLAIN, [3]), (NO_LINES, [])])
def test_a_text_is_as_probable_as_its_tokens(vocabulary: dict[str, Any], opening: list[int]) -> None:
    """The first token counts, too: it comes after the end token, or after a line feed; without any of them it is given."""
    model, texts = task(vocabulary), ["abéa", "ba", f"{vocabulary['tokens'][-1] * 3}b"]
    found = model.predict_step(model.batch_of(texts))
    table = model.net.table.log_softmax(dim=1)
    for i, text in enumerate(texts):
        tokens = [*opening, *Vocabulary(vocabulary).encode(text)]
        wanted = sum(float(table[a, b]) for a, b in pairwise(tokens))
        count = len(tokens) - 1
        assert float(found["log_probability"][i]) == pytest.approx(wanted)
        assert int(found["tokens"][i]) == count
        assert float(found["perplexity"][i]) == pytest.approx(math.exp(-wanted / count))
        assert float(found["bits_per_character"][i]) == pytest.approx(-wanted / count / math.log(2))
        token, more = tokens[-1], []
        while len(more) < 40:
            row = model.net.table[token].clone()
            if vocabulary is LETTERS:
                row[0] = -math.inf  # padding is never written
            token = int(row.argmax())
            if vocabulary is LETTERS and token == 1:
                break
            more.append(token)
        assert found["continuation"][i] == Vocabulary(vocabulary).decode(more)


def test_a_batch_of_the_data_is_judged_as_it_is() -> None:
    model = task()
    for batch in batches()[:3]:
        found = model.predict_step(batch)
        rows = [by_hand(model.net.table, tuple(part[b : b + 1] for part in batch)) for b in range(len(batch[0]))]
        wanted = [-math.fsum(nats for nats, _, _ in row) for row in rows]
        assert found["log_probability"].tolist() == pytest.approx(wanted)
        assert found["tokens"].tolist() == [len(row) for row in rows]
    tokens = torch.tensor([[2, 3, 4, 5], [5, 2, 0, 0]])
    alone, pair = model.predict_step(tokens), model.predict_step((tokens[:, :-1], tokens[:, 1:]))
    assert alone["log_probability"].tolist() == pair["log_probability"].tolist()
    assert alone["continuation"] == pair["continuation"]


@pytest.mark.parametrize(("text", "what"), [("", "empty"), ("a", "a single token")])
def test_a_text_without_anything_to_predict_is_refused(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=f"text 2 is {what}: there is nothing to predict in it"):
        task(NO_LINES).batch_of(["ab", text])


# Fitting ----------------------------------------------------------------------------------------------------------------


class Pairs(LightningDataModule):
    """Some batches, for training and validation."""

    def __init__(self, *batches: Any, vocabulary: dict[str, Any] | None = LETTERS) -> None:
        super().__init__()
        self.batches, self.vocabulary, self.input_shape = batches, vocabulary, (7,)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(list(self.batches), batch_size=None)  # type: ignore[arg-type]

    val_dataloader = test_dataloader = train_dataloader


def test_a_fit_logs_what_it_says() -> None:
    model = LanguageModelTask(Bigram(6), 6, lr=0.1)
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(model, Pairs(*batches()[:3]))
    names = {"loss", "perplexity", "acc", "bpc", "bpb"}
    assert {f"val/{name}" for name in names} | {"train/loss"} <= trainer.callback_metrics.keys()
    assert float(trainer.callback_metrics["val/perplexity"]) == pytest.approx(
        math.exp(float(trainer.callback_metrics["val/loss"])), rel=1e-5
    )
    assert model.vocabulary == LETTERS


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (6, 2, r"tokens must lie in 0\.\.5 for vocab_size=6, got 2\.\.6"),
        (2, -1, r"targets must lie in 0\.\.5 for vocab_size=6, got -1\.\.2"),
    ],
)
def test_tokens_out_of_range_are_refused(x: int, y: int, message: str) -> None:
    wrong = [torch.tensor([[2, 2, n]]) for n in (x, y)]
    with pytest.raises(ValueError, match=message):
        quiet_trainer(max_epochs=1, limit_val_batches=0).fit(LanguageModelTask(Bigram(6), 6), Pairs(tuple(wrong)))


def test_a_vocabulary_of_one_token_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size must be 2 or more, got 1"):
        LanguageModelTask(Bigram(1), 1)
    with pytest.raises(
        ValueError, match=r"vocab_size is 5, but Pairs has a vocabulary of 6 tokens: leave vocab_size out"
    ):
        quiet_trainer(max_epochs=1).fit(LanguageModelTask(Bigram(5), 5), Pairs(batches()[0]))


def test_it_is_public() -> None:
    assert zoo.LanguageModelTask is LanguageModelTask
