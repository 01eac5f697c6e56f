"""Sequence to sequence: loss and metrics against sums written out, scheduled sampling, texts that are written, what cannot be."""

import math
from typing import Any

import pytest
import torch
from kit import quiet_trainer
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

import zoo
from zoo import SentencePair
from zoo.blocks import Vocabulary, reorder_rows
from zoo.tasks import Seq2SeqTask, seq2seq
from zoo.tasks.seq2seq import uniform_rows

SOURCE = {"kind": "characters", "tokens": ["<pad>", "<end>", *"abc"], "padding": 0, "end": 1, "tokenizer": None}
TARGET = {"kind": "characters", "tokens": ["<pad>", "<end>", *"xyz\n"], "padding": 0, "end": 1, "tokenizer": None}


class Bag(nn.Module):
    """Logits that depend on the last token and on which tokens are in the source, so that all is known."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(2 * torch.randn(6, 6, generator=g))
        self.source = nn.Parameter(torch.randn(5, 6, generator=g))

    def encode(self, source: Tensor) -> Tensor:
        return (self.source[source] * (source != 0)[..., None]).sum(dim=1)

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.table[tokens] + state, state

    def reorder_state(self, state: Tensor, index: Tensor) -> Tensor:
        return reorder_rows(state, index)

    def forward(self, x: SentencePair) -> Tensor:
        return self.table[x.target] + self.encode(x.source)[:, None]


def task(net: nn.Module | None = None, **options: Any) -> Seq2SeqTask:
    model = Seq2SeqTask(net or Bag(), 5, 6, 0, **options)
    model.vocabulary, model.source_vocabulary = dict(TARGET), dict(SOURCE)
    return model.double().eval().requires_grad_(False)


def pair(*texts: tuple[str, str]) -> tuple[SentencePair, Tensor]:
    """A batch of sources and targets."""
    readers = Vocabulary(SOURCE), Vocabulary(TARGET)
    sources = [[*readers[0].encode(source), 1] for source, _ in texts]
    targets = [readers[1].encode(target) for _, target in texts]
    s, t = (max(map(len, rows)) for rows in (sources, targets))
    pad = lambda row, size: [*row, *[0] * (size - len(row))]  # noqa: E731
    x = SentencePair(
        torch.tensor([pad(row, s) for row in sources]), torch.tensor([pad([1, *row], t + 1) for row in targets])
    )
    return x, torch.tensor([pad([*row, 1], t + 1) for row in targets])


PAIRS = (("ab", "xyz"), ("c", "z"), ("abcab", ""), ("cc", "yyxx"), ("a", "x\nz"))


def batches() -> list[tuple[Any, ...]]:
    """Of different sizes and lengths; padded, with weights of examples, of tokens, and with one that counts nothing."""
    x, y = pair(*PAIRS)
    g = torch.Generator().manual_seed(1)
    return [
        (x, y),
        pair(*PAIRS[:2]),
        (x, y, torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])),
        (x, y, (torch.rand(y.shape, generator=g) < 0.5).double()),
        (x, y, torch.zeros(5)),
    ]


def by_hand(net: Bag, batch: tuple[Any, ...], smoothing: float = 0.0) -> list[tuple[float, bool]]:
    """Loss in nats of each target that counts, and whether it is the most probable."""
    x, y, *weight = batch
    found = []
    for b in range(len(y)):
        for t in range(y.shape[1]):
            counts = float((weight[0][b] if weight[0].ndim == 1 else weight[0][b, t]) if weight else 1)
            if y[b, t] == 0 or not counts:
                continue
            of_source = [sum(float(net.source[s, k]) for s in x.source[b] if s != 0) for k in range(6)]
            logits = [float(net.table[x.target[b, t], k]) + of_source[k] for k in range(6)]
            total = math.log(math.fsum(math.exp(v) for v in logits))
            nats = [total - v for v in logits]
            true = int(y[b, t])
            loss = (1 - smoothing) * nats[true] + smoothing * math.fsum(nats) / 6
            found.append((loss, logits[true] == max(logits)))
    return found


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_mean_over_tokens_that_count(smoothing: float) -> None:
    model = task(label_smoothing=smoothing)
    for batch in batches():
        nats = [n for n, _ in by_hand(model.net, batch, smoothing)]
        loss, means, count = model.training_losses(batch)
        assert float(loss) == pytest.approx(math.fsum(nats) / max(len(nats), 1), abs=1e-12)
        assert means["loss"] is loss
        assert int(count) == len(nats)
    target = torch.tensor([0.8 + 0.2 / 6] + [0.2 / 6] * 5)
    entropy = float(torch.special.entr(target).sum())
    assert (task().loss_floor(), task(label_smoothing=0.2).loss_floor()) == (0, pytest.approx(entropy, abs=1e-6))


def written_by_hand(net: Bag, source: list[int], most: int) -> list[int]:
    """The most probable tokens, one after another, up to the end; never padding."""
    row, last = [], 1
    while len(row) < most:
        logits = net.table[last] + sum(net.source[s] for s in source if s != 0)
        last = 1 + int(logits[1:].argmax())
        row.append(last)
        if last == 1:
            break
    return row


def test_metrics_are_quotients_of_sums_over_the_whole_evaluation() -> None:
    """Labels are smoothed in training alone."""
    model = task(label_smoothing=0.3, max_length=7)
    metrics, rows, right = model.build_metrics(), [], []
    known = [("abc", model.predict_step(model.batch_of(["abc"]))["text"][0]), ("c", "x")]  # one that it writes
    half = torch.tensor([[1.0], [0.0]]).expand(2, len(known[0][1]) + 1).clone()
    half[0, 0] = 0  # a token that does not count; the text does
    for batch in (*batches(), (*pair(*known), half)):
        model.update_metrics(metrics, batch)
        rows += by_hand(model.net, batch)
        x, y, *weight = batch
        for b in range(len(y)):
            counts = weight[0].reshape(len(y), -1)[b] * (y[b] != 0) if weight else y[b] != 0
            if counts.any():
                made = written_by_hand(model.net, x.source[b].tolist(), 7)
                right.append([k for k in made if k != 1] == [k for k in y[b].tolist() if k > 1])
    nats = math.fsum(n for n, _ in rows)
    wanted = {
        "loss": nats / len(rows),
        "perplexity": math.exp(nats / len(rows)),
        "acc": sum(right for _, right in rows) / len(rows),
        "exact": sum(right) / len(right),
    }
    assert 0 < sum(right) < len(right)
    got = {name: float(metric.compute()) for name, metric in metrics.items()}
    assert got.keys() == {*wanted, *(f"bleu{n}" for n in (1, 2, 3, 4)), "chrf"}
    assert {name: got[name] for name in wanted} == pytest.approx(wanted, rel=1e-6)
    assert model.monitor == ("val/loss", "min")
    assert model.expected_initial_loss() == math.log(6)


# Scheduled sampling -----------------------------------------------------------------------------------------------------


def test_ratios_are_those_of_the_published_schedules() -> None:
    """Bengio et al. 2015, section 2.4: max(e, k - c i), k ** i, k / (k + exp(i / k))."""
    for i in (0, 1, 30, 100, 5000):
        for name, wanted in (
            ("constant", 0.9),
            ("linear", max(0.2, 0.9 - 0.7 / 40 * i)),
            ("exponential", 0.2 + 0.7 * math.exp(-1 / 40) ** i),
            ("inverse_sigmoid", 0.2 + 0.7 * 40 / (40 + math.exp(i / 40))),
        ):
            model = task(teacher_forcing=0.9, forcing_schedule=name, forcing_end=0.2, forcing_steps=40.0)
            assert model.forcing_ratio(i) == pytest.approx(wanted, abs=1e-12), (name, i)
    assert task(forcing_schedule="inverse_sigmoid", forcing_steps=1.0).forcing_ratio(10**9) < 1e-300


def test_the_decoder_reads_what_it_would_write() -> None:
    """With a ratio of 0 the logits are those along the most probable tokens; with 1, those of the targets."""
    net, (x, y) = Bag(), pair(*PAIRS)
    net.table.data[:, 0] += 9  # padding is the most probable, and is never read
    model = task(net)
    free = model.net.table.new_zeros(*y.shape, 6)
    for b in range(len(y)):
        last = 1
        for t in range(y.shape[1]):
            free[b, t] = model.net.table[last] + model.net.encode(x.source)[b]
            last = 1 + int(free[b, t, 1:].argmax())
    torch.testing.assert_close(model._sampled(x, 0.0), free, rtol=0, atol=1e-12)
    torch.testing.assert_close(model._sampled(x, 1.0), model(x), rtol=0, atol=1e-12)
    assert not torch.allclose(free, model(x))
    mixed = model._sampled(x, 0.5)
    torch.testing.assert_close(mixed[:, 0], model(x)[:, 0])
    for ratio, wanted in ((0.0, free), (1.0, model(x)), (0.5, None)):
        loss, _, count = task(net, teacher_forcing=ratio).training_losses((x, y))
        assert int(count) == int((y != 0).sum())
        if wanted is not None:
            counts = y != 0
            torch.testing.assert_close(loss, nn.functional.cross_entropy(wanted[counts], y[counts]))


def test_the_share_of_true_tokens_is_the_ratio() -> None:
    """A net that tells what it reads: true tokens are all 2, its own all 3."""

    class Reader(Bag):
        def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            read.append(tokens)
            return torch.eye(6)[torch.full_like(tokens, 3)], state

    read: list[Tensor] = []
    x = SentencePair(torch.ones(500, 1, dtype=torch.long), torch.full((500, 9), 2))
    task(Reader())._sampled(x, 0.7)
    assert (read[0] == 2).all()
    share = (torch.stack(read[1:]) == 2).double().mean()
    assert share == pytest.approx(0.7, abs=0.03)
    assert set(torch.stack(read[1:]).flatten().tolist()) == {2, 3}
    mixed = torch.stack(read[1:]).amin(dim=0) != torch.stack(read[1:]).amax(dim=0)  # each token has a draw of its own
    assert mixed.double().mean() == pytest.approx(1 - 0.7**8 - 0.3**8, abs=0.04)


def test_draws_depend_neither_on_padding_nor_on_other_examples() -> None:
    seeds = torch.tensor([3, 2**62 - 1, 0, 3])
    u = uniform_rows(seeds, 9)
    assert torch.equal(uniform_rows(seeds[:2], 4), u[:2, :4])
    assert torch.equal(u[0], u[3])
    many = uniform_rows(torch.arange(4000), 50).double()
    assert 0 <= many.min() < many.max() < 1
    assert many.mean() == pytest.approx(0.5, abs=0.005)
    assert many.var() == pytest.approx(1 / 12, abs=0.002)
    for one, other in ((many[:-1], many[1:]), (many[:, :-1], many[:, 1:])):
        assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1].abs() < 0.02
    # SplitMix64 of the seed 0: the first outputs of Vigna's reference implementation, their uppermost 24 bits
    wanted = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert uniform_rows(torch.tensor([0]), 3)[0].tolist() == [(n >> 40) / 2**24 for n in wanted]


# Writing ----------------------------------------------------------------------------------------------------------------


def test_the_best_text_of_all_is_written_by_a_beam_that_holds_all() -> None:
    """Of at most three tokens there are 4 + 16 + 64 + ... ended and open ones: the search finds the most probable."""
    model = task(max_length=3)
    source = model.batch_of(["ab", "c"])
    made = model.predict_step(source, beam=50, best=3)
    assert made["scores"].shape == (2, 3)
    state = model.net.encode(source)
    for b in range(2):
        found = []
        for row in all_texts(3):
            log_probs = [
                (model.net.table[last] + state[b]).log_softmax(dim=0)[token]
                for last, token in zip([1, *row], row, strict=False)
            ]
            found.append((float(sum(log_probs)) / len(row), row))
        best = sorted(found, reverse=True)[:3]
        assert made["scores"][b].tolist() == pytest.approx([score for score, _ in best], abs=1e-9)
        assert made["texts"][b] == [model.tokenizer.decode(row) for _, row in best]
        assert made["text"][b] == made["texts"][b][0]


def all_texts(most: int) -> list[list[int]]:
    """All texts of up to so many tokens, with their end if they have one."""
    rows: list[list[int]] = [[]]
    found = []
    for length in range(1, most + 1):
        rows = [[*row, k] for row in rows for k in range(1, 6)]
        found += [row for row in rows if row[-1] == 1 or length == most]
        rows = [row for row in rows if row[-1] != 1]
    return found


def test_texts_are_read_and_written() -> None:
    model = task(max_length=6)
    batch = model.batch_of(["abc", "b"])
    assert batch.tolist() == [[2, 3, 4, 1], [3, 1, 0, 0]]
    made = model.predict_step(batch)
    wanted = [written_by_hand(model.net, row, 6) for row in batch.tolist()]
    assert made["text"] == [model.tokenizer.decode(row) for row in wanted]
    assert made["texts"] == [[text] for text in made["text"]]
    x, y = pair(("abc", "x"), ("b", "yy"))
    assert model.predict_step((x, y))["text"] == model.predict_step(x)["text"] == made["text"]
    (rows,) = model.render((x, y)).values()
    assert rows[:2] == [["source", "target", "written"], ["abc", "x", made["text"][0]]]
    drawn = model.sample(40, seed=1, prompt="abc", temperature=2.0)
    assert len(set(drawn)) > 10
    assert drawn == model.sample(40, seed=1, prompt="abc", temperature=2.0)
    assert "".join(model.stream(seed=1, prompt="abc", temperature=2.0, index=3)) == drawn[3]
    assert all(len(text) <= 2 for text in model.sample(20, prompt="a", tokens=2))


def test_how_long_a_text_may_be() -> None:
    model = task()
    assert model.longest() == 100
    model.input_shape = (9, 7)
    assert (model.longest(), model.longest(3), task(max_length=5).longest()) == (14, 3, 5)
    model.net.max_length = 8
    assert model.longest() == 8
    with pytest.raises(ValueError, match="max_length is 9, and the net reads 8 tokens of a target at most: lower it"):
        model.longest(9)
    assert [part.shape for part in model.example_inputs(2)[0]] == [(2, 9), (2, 7)]
    assert [part.shape for part in task().example_inputs(2)[0]] == [(2, 16), (2, 16)]
    assert {int(n) for part in model.example_inputs()[0] for n in part.flatten()} == {1}
    assert int(Seq2SeqTask(Bag(), 5, 6, padding=3).example_inputs()[0].source.max()) == 0


def test_without_vocabularies_tokens_are_numbers() -> None:
    model = Seq2SeqTask(Bag(), 5, 6, 0, max_length=4).eval()
    x, y = pair(*PAIRS)
    metrics = model.build_metrics()
    model.update_metrics(metrics, (x, y))
    for text, row in zip(model.predict_step((x, y))["text"], x.source.tolist(), strict=True):
        assert text == " ".join(str(k) for k in written_by_hand(model.net, row, 4) if k != 1)
    assert model.render((x, y))["texts"][1] == ["2 3", "2 3 4", model.predict_step((x, y))["text"][0]]
    with pytest.raises(ValueError, match="this Seq2SeqTask has no source vocabulary, so it can neither read nor write"):
        model.batch_of(["abc"])


# What cannot be ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 1, "padding": 0}, "vocab_size must be 2 or more, got 1"),
        ({"padding": 5}, r"padding must be a token of both texts, 0\.\.4 for source_vocab_size=5, got 5"),
        ({"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\), got 1.0"),
        ({"teacher_forcing": 1.5}, r"teacher_forcing is a probability in \[0, 1\], got 1.5"),
        ({"forcing_schedule": "cosine"}, "one of constant, linear, exponential, inverse_sigmoid, got 'cosine'"),
        (
            {"forcing_schedule": "linear", "teacher_forcing": 0.5, "forcing_end": 0.6},
            r"forcing_end must lie in 0\.\.teacher_forcing, which is 0.5, got 0.6",
        ),
        ({"forcing_steps": 0.0}, "forcing_steps must be above 0, got 0.0"),
        ({"beam": 0}, "beam must be 1 or more, got 0"),
        ({"max_length": 0}, "max_length must be 1 or more, or None, got 0"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Seq2SeqTask(Bag(), **{"source_vocab_size": 5, "vocab_size": 6, "padding": 0, **options})


def test_a_net_that_only_reads_pairs_is_trained_and_judged_but_writes_nothing() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = Bag()

        def forward(self, x: SentencePair) -> Tensor:
            return self.bag(x)

    model = task(Whole())
    metrics = model.build_metrics()
    assert set(metrics) == {"loss", "perplexity", "acc"}
    model.update_metrics(metrics, pair(*PAIRS))
    assert model.render(pair(*PAIRS)) == {}
    with pytest.raises(TypeError, match=r"to write text, Whole needs encode, see zoo\.EncoderDecoder"):
        model.predict_step(pair(*PAIRS))
    with pytest.raises(ValueError, match="scheduled sampling goes step by step, for which Whole needs encode"):
        task(Whole(), teacher_forcing=0.5)
    with pytest.raises(TypeError, match="this Whole has no attention that could be shown"):
        model.attention(pair(*PAIRS)[0])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["ab", ""], "text 2 is empty: there is nothing to read in it"),
        (["abX"], "the text has 'X' at character 3, which is not in the vocabulary of 5 tokens"),
        (["abcab"], "the text has 5 tokens, and the net reads 4 at most, and the end: give a shorter one"),
    ],
)
def test_texts_that_cannot_be_read(texts: list[str], message: str) -> None:
    model = task()
    model.net.max_source_length = 5
    with pytest.raises(ValueError, match=message):
        model.batch_of(texts)
    assert model.batch_of(["abca"]).shape == (1, 5)


def test_there_must_be_something_to_translate() -> None:
    with pytest.raises(ValueError, match="there is nothing to translate: give a text as the prompt"):
        task().sample(1)
    with pytest.raises(ValueError, match="count and tokens must be 1 or more, got count=0, tokens=None"):
        task().sample(0, prompt="a")


def test_a_text_may_begin_after_another_token_than_its_end() -> None:
    """Such as one for its language; the end is that of the vocabulary."""
    model, (x, y) = task(max_length=6), pair(*PAIRS)
    x = x._replace(target=torch.cat([torch.tensor([[2], [3], [4], [2], [3]]), x.target[:, 1:]], dim=1))
    found = model.predict_step((x, y))["tokens"][:, 0]
    for b in range(5):
        row, last = [], int(x.target[b, 0])
        while len(row) < 6 and row[-1:] != [1]:
            last = 1 + int((model.net.table[last] + model.net.encode(x.source)[b])[1:].argmax())
            row.append(last)
        assert found[b].tolist()[: len(row)] == row
    metrics = model.build_metrics()
    model.update_metrics(metrics, (x, y))
    assert float(metrics["exact"].compute()) == sum(
        model.text_of(one) == model.text_of(other) for one, other in zip(found.tolist(), y.tolist(), strict=True)
    ) / len(y)


class Data(LightningDataModule):
    def __init__(self, batch: Any, vocabulary: Any = TARGET, source_vocabulary: Any = SOURCE) -> None:
        super().__init__()
        self.batch, self.vocabulary, self.source_vocabulary = batch, vocabulary, source_vocabulary

    def train_dataloader(self) -> Any:
        return DataLoader([self.batch], batch_size=None)  # type: ignore[arg-type]

    val_dataloader = test_dataloader = train_dataloader


def test_tokens_out_of_range_are_refused_before_they_are_read() -> None:
    x, y = pair(*PAIRS)
    for name, batch, message in (
        ("source", (x._replace(source=x.source + 3), y), r"0\.\.4 for source_vocab_size=5, got 3\.\.7"),
        ("target", (x._replace(target=x.target + 2), y), r"0\.\.5 for vocab_size=6, got 2\.\.7"),
        ("y", (x, y - 1), r"0\.\.5 for vocab_size=6, got -1\.\.4"),
    ):
        model = Seq2SeqTask(Bag(), 5, 6, 0)
        with pytest.raises(ValueError, match=f"tokens of {name} must lie in {message}"):
            quiet_trainer(max_epochs=1, num_sanity_val_steps=0).fit(model, datamodule=Data(batch))
    with pytest.raises(TypeError, match=r"x of a batch must be a zoo\.SentencePair of source and target, got a Tensor"):
        quiet_trainer(max_epochs=1).fit(Seq2SeqTask(Bag(), 5, 6, 0), datamodule=Data((x.target, y)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"vocabulary": {**TARGET, "padding": 2}}, "padding is 0, but the vocabulary of Data has 2: leave padding out"),
        ({"source_vocabulary": {**SOURCE, "padding": 2}}, "padding is 0, but the source vocabulary of Data has 2"),
        ({"source_vocabulary": {**SOURCE, "end": None}}, "the source vocabulary of Data has no end token, after which"),
        (
            {"source_vocabulary": {**SOURCE, "tokens": [*SOURCE["tokens"], "d"]}},
            "source_vocab_size is 5, but Data has a source vocabulary of 6 tokens: leave source_vocab_size out",
        ),
        (
            {"vocabulary": {**TARGET, "tokens": TARGET["tokens"][:-1]}},
            "vocab_size is 6, but Data has a vocabulary of 5 tokens: leave vocab_size out",
        ),
    ],
)
def test_data_that_do_not_fit_the_model(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quiet_trainer(max_epochs=1).fit(Seq2SeqTask(Bag(), 5, 6, 0), datamodule=Data(pair(*PAIRS), **data))


def test_what_is_declared() -> None:
    model = task()
    assert (model.reads, model.makes, model.samples, model.learns) == ("text", "text", "text", ("translation",))
    assert (model.causal, model.padding, model.vocab_size, model.source_vocab_size) == ("target", 0, 6, 5)
    assert isinstance(model.net, zoo.EncoderDecoder)
    assert model.predict_options == ("beam", "best")
    x, _ = pair(*PAIRS)
    torch.testing.assert_close(model.outputs(x)["log_probabilities"], model(x).log_softmax(dim=-1))


class Looking(Bag):
    """Looks at each source token as long as the target token that it reads is large."""

    def attention(self, x: SentencePair) -> Tensor:
        scores = x.target[..., None] * torch.arange(1.0, 1 + x.source.shape[1]) - 1e9 * (x.source == 0)[:, None]
        return scores.softmax(dim=-1)


def test_attention_is_drawn_over_what_is_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each text has its own tokens, with the end, and no padding; the rows are those of the tokens that they lead to."""
    drawn: list[Any] = []
    original = seq2seq.attention_maps
    monkeypatch.setattr(seq2seq, "attention_maps", lambda *args: drawn.append(args) or original(*args))
    model = task(Looking(), max_length=5)
    assert "attention" in model.predict_options
    assert "attention" not in task().predict_options
    x, y = pair(*PAIRS)
    image = model.render((x, y))["attention"]
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3
    (maps, sources, targets), made = drawn[0], model.predict_step(x)["tokens"][:, 0]
    assert sources == [[*source, "<end>"] for source, _ in PAIRS[:4]]
    for i in range(4):
        row = [token for token in made[i].tolist() if token]
        assert targets[i] == ["<end>" if token == 1 else model.tokenizer.decode([token]) for token in row]
        read = SentencePair(x.source[i : i + 1, : len(sources[i])], torch.tensor([[1, *row[:-1]]]))
        assert maps[i].shape == (len(targets[i]), len(sources[i]))
        assert torch.allclose(maps[i], model.net.attention(read)[0].float())
    assert len({len(row) for row in targets}) > 1, "the texts should have different lengths"
    model.draw_attention(model.batch_of([source for source, _ in PAIRS[:4]]), made[:4])
    assert drawn[1][1:] == drawn[0][1:]
    model.vocabulary = model.source_vocabulary = None
    model.draw_attention(x, made)
    assert drawn[2][1][0] == ["2", "3", "1"]
    with pytest.raises(TypeError, match="this Bag has no attention that could be shown"):
        task().draw_attention(x, made)


@pytest.mark.parametrize(("beam", "best"), [(0, 1), (2, 3), (1, 2), (2, 0), (-1, 1)])
def test_a_beam_that_cannot_be(beam: int, best: int) -> None:
    with pytest.raises(ValueError, match=rf"best in 1\.\.beam, got beam={beam}, best={best}"):
        task().predict_step(pair(*PAIRS)[0], beam=beam, best=best)
