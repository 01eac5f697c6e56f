"""Captioning: loss, penalty and metrics against sums written out, several captions of an image, what is written, what cannot be."""

import math
from typing import Any

import pytest
import torch
from kit import quiet_trainer
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

import zoo
from zoo import CaptionedImage
from zoo.blocks import Vocabulary, reorder_rows
from zoo.metrics.captions import caption_metrics
from zoo.tasks import CaptioningTask

WORDS = {
    "kind": "words",
    "tokens": ["<pad>", "<end>", "<unk>", "red", "blue", "dot"],
    "padding": 0,
    "end": 1,
    "unknown": 2,
}
V, CELLS = 6, 6


class Look(nn.Module):
    """Logits that depend on the last token and on the cells that it looks at, so that all is known; a pixel is a cell."""

    has_attention = True
    in_channels = 2

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(387)  # captions of the images below differ, and some end
        self.table = nn.Parameter(2 * torch.randn(V, V, generator=g))
        self.query = nn.Parameter(4 * torch.randn(V, 2, generator=g))
        self.seen = nn.Parameter(12 * torch.randn(2, V, generator=g))
        self.encoded = 0

    def encode(self, image: Tensor) -> Tensor:
        self.encoded += 1
        return image.flatten(2).transpose(1, 2)  # (B, 2, h, w) -> (B, h w, 2)

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.read(tokens[:, None], state)[0][:, 0], state

    def reorder_state(self, state: Tensor, index: Tensor) -> Tensor:
        return reorder_rows(state, index)

    def read(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        weights = (self.query[tokens] @ state.transpose(1, 2)).softmax(dim=2)  # (N, T, S)
        return self.table[tokens] + weights @ state @ self.seen, weights

    def _all(self, x: CaptionedImage) -> tuple[Tensor, Tensor]:
        images, captions, _ = x.caption.shape
        state = self.encode(x.image).repeat_interleave(captions, dim=0)
        logits, weights = self.read(x.caption.flatten(0, 1), state)
        return logits.unflatten(0, (images, captions)), weights.unflatten(0, (images, captions))

    def forward(self, x: CaptionedImage) -> Tensor:
        return self._all(x)[0]

    def attention(self, x: CaptionedImage) -> Tensor:
        return self._all(x)[1]


def task(net: nn.Module | None = None, **options: Any) -> CaptioningTask:
    model = CaptioningTask(net or Look(), V, 0, **options)
    model.vocabulary = dict(WORDS)
    return model.double().eval().requires_grad_(False)


def batch_of(*captions: tuple[str, ...]) -> tuple[CaptionedImage, Tensor]:
    """Images of 2 x 3 pixels with these captions each; those that an image lacks are padding."""
    words = Vocabulary(WORDS)
    rows = [[[*words.encode(text), 1] for text in texts] for texts in captions]
    most, length = max(map(len, rows)), max(len(row) for texts in rows for row in texts)
    y = torch.zeros(len(rows), most, length, dtype=torch.long)
    caption = torch.zeros_like(y)
    for b, texts in enumerate(rows):
        for r, row in enumerate(texts):
            y[b, r, : len(row)] = torch.tensor(row)
            caption[b, r, : len(row)] = torch.tensor([1, *row[:-1]])
    image = torch.rand(len(rows), 2, 2, 3, generator=torch.Generator().manual_seed(len(rows)), dtype=torch.float64)
    return CaptionedImage(image, caption), y


CAPTIONS = (("red dot", "dot"), ("blue",), ("red red blue dot", "", "dot red"), ("blue dot blue",))


def batches() -> list[tuple[Any, ...]]:
    """With weights of images, of tokens, and with one that counts nothing; images with one to three captions."""
    x, y = batch_of(*CAPTIONS)
    g = torch.Generator().manual_seed(1)
    return [
        (x, y),
        batch_of(*CAPTIONS[:2]),
        (x, y, torch.tensor([1.0, 0.0, 0.5, 1.0])),
        (x, y, (torch.rand(y.shape, generator=g) < 0.5).double()),
        (x, y, torch.zeros(4)),
    ]


def looks_by_hand(net: Look, image: Tensor, token: int) -> list[float]:
    """How much each pixel is looked at after a token."""
    cells = [[float(image[c, i, j]) for c in range(2)] for i in range(2) for j in range(3)]
    scores = [sum(float(net.query[token, c]) * cell[c] for c in range(2)) for cell in cells]
    total = math.fsum(math.exp(s) for s in scores)
    return [math.exp(s) / total for s in scores]


def logits_by_hand(net: Look, image: Tensor, token: int) -> list[float]:
    looks = looks_by_hand(net, image, token)
    seen = [math.fsum(a * float(v) for a, v in zip(looks, image[c].flatten(), strict=True)) for c in range(2)]
    return [float(net.table[token, k]) + sum(seen[c] * float(net.seen[c, k]) for c in range(2)) for k in range(V)]


def weight_of(batch: tuple[Any, ...], b: int, r: int, t: int) -> float:
    if len(batch) == 2:
        return 1.0
    w = batch[2]
    return float(w[b] if w.ndim == 1 else w[b, r, t])


def by_hand(net: Look, batch: tuple[Any, ...], smoothing: float = 0.0) -> list[tuple[float, float, bool]]:
    """Loss in nats, weight, and whether it is the most probable, of each target that counts."""
    x, y = batch[:2]
    found = []
    for b, r, t in ((b, r, t) for b in range(len(y)) for r in range(y.shape[1]) for t in range(y.shape[2])):
        if (true := int(y[b, r, t])) == 0 or not (w := weight_of(batch, b, r, t)):
            continue
        logits = logits_by_hand(net, x.image[b], int(x.caption[b, r, t]))
        total = math.log(math.fsum(math.exp(v) for v in logits))
        nats = [total - v for v in logits]
        loss = (1 - smoothing) * nats[true] + smoothing * math.fsum(nats) / V
        found.append((loss, w, logits[true] == max(logits)))
    return found


def penalty_by_hand(net: Look, batch: tuple[Any, ...]) -> float:
    """Xu et al. 2015, eq. 14, without lambda: the sum over captions, each with the mean weight of its tokens."""
    x, y = batch[:2]
    total = []
    for b, r in ((b, r) for b in range(len(y)) for r in range(y.shape[1])):
        real = [t for t in range(y.shape[2]) if y[b, r, t] != 0]
        if not real:
            continue
        looks = [looks_by_hand(net, x.image[b], int(x.caption[b, r, t])) for t in real]
        share = math.fsum(weight_of(batch, b, r, t) for t in real) / len(real)
        total.append(share * math.fsum((1 - math.fsum(row[i] for row in looks)) ** 2 for i in range(CELLS)))
    return math.fsum(total)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_the_loss_is_the_mean_over_tokens_that_count(smoothing: float, penalty: float) -> None:
    model = task(label_smoothing=smoothing, attention_penalty=penalty)
    for batch in batches():
        rows = by_hand(model.net, batch, smoothing)
        tokens = math.fsum(w for _, w, _ in rows)
        wanted = math.fsum(n * w for n, w, _ in rows) / max(tokens, 1e-300)
        added = penalty * penalty_by_hand(model.net, batch) / max(tokens, 1e-300)
        loss, means, count = model.training_losses(batch)
        assert float(loss) == pytest.approx(wanted + added, abs=1e-12)
        assert float(count) == pytest.approx(tokens, abs=1e-12)
        assert means["loss"] is loss
        assert float(means.get("penalty", 0.0)) == pytest.approx(added, abs=1e-12)
        assert ("penalty" in means) == bool(penalty)
    floor = float(torch.special.entr(torch.tensor([1 - smoothing + smoothing / V] + [smoothing / V] * (V - 1))).sum())
    assert (model.loss_floor(), model.expected_initial_loss()) == (pytest.approx(floor, abs=1e-6), math.log(V))


def written_by_hand(net: Look, image: Tensor, most: int) -> list[int]:
    """The most probable tokens, one after another, up to the end; never padding or the unknown word."""
    row, last = [], 1
    while len(row) < most:
        logits = logits_by_hand(net, image, last)
        last = max((1, 3, 4, 5), key=lambda k: logits[k])
        row.append(last)
        if last == 1:
            break
    return row


def test_metrics_are_quotients_of_sums_over_the_whole_evaluation() -> None:
    """Labels are smoothed and attention is held in training alone; a caption of a weight of 0 is no reference."""
    model = task(label_smoothing=0.3, attention_penalty=2.0, max_length=5)
    metrics, rows, right = model.build_metrics(), [], []
    x, y = batch_of(*CAPTIONS)
    own = model.predict_step(x.image)["text"]
    known = batch_of(*[(text, "dot") for text in own])  # the first is what it writes
    without = torch.ones_like(known[1]).double()
    without[:2, 0] = 0
    for batch in (*batches(), (*known, torch.tensor([1.0, 1.0, 1.0, 0.0])), (*known, without)):
        model.update_metrics(metrics, batch)
        rows += by_hand(model.net, batch)
        x, y = batch[:2]
        for b in range(len(y)):
            texts = [
                [k for k in y[b, r].tolist() if k > 1]
                for r in range(y.shape[1])
                if any(weight_of(batch, b, r, t) for t in range(y.shape[2]) if y[b, r, t] != 0)
            ]
            if texts:
                made = written_by_hand(model.net, x.image[b], 5)
                right.append([k for k in made if k != 1] in texts)
    nats = math.fsum(n for n, _, _ in rows)
    wanted = {
        "loss": nats / len(rows),
        "perplexity": math.exp(nats / len(rows)),
        "acc": sum(hit for _, _, hit in rows) / len(rows),
        "exact": sum(right) / len(right),
    }
    assert 0 < sum(right) < len(right)
    got = {name: float(metric.compute()) for name, metric in metrics.items()}
    assert got.keys() == {*wanted, *(f"bleu{n}" for n in (1, 2, 3, 4)), "ciderd"}
    assert {name: got[name] for name in wanted} == pytest.approx(wanted, rel=1e-6)
    assert (model.monitor, model.reads, model.makes, model.samples) == (("val/loss", "min"), "image", "text", None)
    assert (model.learns, model.predict_options) == (("captioning",), ("beam", "best", "attention"))


def test_padding_and_captions_that_an_image_lacks_change_nothing() -> None:
    model = task(attention_penalty=0.5).requires_grad_(True)
    x, y = batch_of(*CAPTIONS)
    longer = [torch.cat([part, part.new_zeros(4, 3, 2)], dim=2) for part in (x.caption, y)]
    more = [torch.cat([part, part.new_zeros(4, 2, 5)], dim=1) for part in (x.caption, y)]
    wanted, gradients = None, {}
    for caption, target in ((x.caption, y), longer, more):
        model.zero_grad()
        loss, _, count = model.training_losses((x._replace(caption=caption), target))
        loss.backward()
        got = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        wanted, gradients = wanted or float(loss.detach()), gradients or got
        assert float(loss.detach()) == pytest.approx(wanted, abs=1e-12)
        assert int(count) == int((y != 0).sum())
        for name, gradient in got.items():
            torch.testing.assert_close(gradient, gradients[name], rtol=0, atol=1e-12)


def test_an_image_is_encoded_once_for_all_of_its_captions() -> None:
    for options in (
        {},
        {"teacher_forcing": 0.5},
        {"attention_penalty": 1.0},
        {"attention_penalty": 1.0, "teacher_forcing": 0.5},
    ):
        model = task(**options)
        model.training_losses(batch_of(*CAPTIONS))
        assert model.net.encoded == 1, options


# Scheduled sampling -----------------------------------------------------------------------------------------------------


def test_the_decoder_reads_what_it_would_write() -> None:
    """With a ratio of 0 logits and looks are those along the most probable words, of each caption as often as it is long."""
    net, (x, y) = Look(), batch_of(*CAPTIONS)
    net.table.data[:, 0] += 9  # padding and the unknown word are the most probable, and are never read
    net.table.data[:, 2] += 9
    model = task(net)
    free = torch.zeros(*y.shape, V, dtype=torch.float64)
    read = torch.zeros_like(y)
    for b, r in ((b, r) for b in range(4) for r in range(3)):
        last = int(x.caption[b, r, 0])
        for t in range(y.shape[2]):
            read[b, r, t] = last
            logits = logits_by_hand(net, x.image[b], last)
            free[b, r, t] = torch.tensor(logits, dtype=torch.float64)
            last = max((1, 3, 4, 5), key=lambda k: logits[k])
    torch.testing.assert_close(model._sampled(x, 0.0), free, rtol=0, atol=1e-12)
    torch.testing.assert_close(model._sampled(x, 1.0), model(x), rtol=0, atol=1e-12)
    assert not torch.allclose(free, model(x))
    loss = float(task(net, teacher_forcing=0.0).training_losses((x, y))[0])
    assert loss == pytest.approx(float(nn.functional.cross_entropy(free[y != 0], y[y != 0])), abs=1e-12)
    held = task(net, teacher_forcing=0.0, attention_penalty=0.7).training_losses((x, y))
    added = 0.7 * penalty_by_hand(net, (x._replace(caption=read), y)) / float(held[2])
    assert float(held[1]["penalty"]) == pytest.approx(added, abs=1e-12)
    assert float(held[0]) == pytest.approx(loss + added, abs=1e-12)


def test_each_caption_has_draws_of_its_own_whatever_else_is_in_the_batch() -> None:
    """Drawn of each image, so that neither padding, other captions nor other images change them; the share is the ratio."""
    model = task()
    x = CaptionedImage(torch.zeros(400, 2, 1, 1), torch.ones(400, 3, 9, dtype=torch.long))

    def drawn(x: CaptionedImage) -> Tensor:
        torch.manual_seed(0)
        return model._true(x, 0.7).view(x.caption.shape)

    true = drawn(x)
    assert true.double().mean() == pytest.approx(0.7, abs=0.01)
    assert torch.equal(drawn(x._replace(caption=x.caption[:, :2, :5])), true[:, :2, :5])
    for one, other in ((true[:, 0], true[:, 1]), (true[:-1], true[1:]), (true[..., :-1], true[..., 1:])):
        assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]).double())[0, 1].abs() < 0.04


# Writing ----------------------------------------------------------------------------------------------------------------


def test_captions_are_written_of_images_and_of_batches() -> None:
    model = task(max_length=5)
    x, y = batch_of(*CAPTIONS)
    made = model.predict_step((x, y))
    rows = [written_by_hand(model.net, image, 5) for image in x.image]
    assert len({tuple(row) for row in rows}) > 1
    assert made["text"] == [model.tokenizer.decode([k for k in row if k != 1]) for row in rows]
    for given in (x, x.image, [x, y], (x, y, torch.ones(4))):
        assert model.predict_step(given)["tokens"].equal(made["tokens"])
    for beam, best in ((1, 1), (3, 2), (9, 4)):
        together = model.predict_step(x.image, beam=beam, best=best)
        assert together["scores"].shape == (4, best)
        assert (together["scores"][:, 0] >= made["scores"][:, 0] - 1e-12).all()  # greedy is among them
        for i in range(4):  # what is written of an image does not depend on others
            alone = model.predict_step(x.image[i : i + 1], beam=beam, best=best)
            assert alone["texts"][0] == together["texts"][i]
            torch.testing.assert_close(alone["scores"][0], together["scores"][i], rtol=0, atol=1e-12)
    assert "<unk>" not in " ".join(text for texts in model.predict_step(x, beam=40, best=40)["texts"] for text in texts)
    assert not any(word in " ".join(made["text"]) for word in ("<unk>", "<pad>", "<end>"))


def test_images_are_standardized_for_all_that_the_net_does() -> None:
    plain, model = task(), task()
    model.set_standardization([0.2, 0.4], [0.5, 0.25])
    x, _ = batch_of(*CAPTIONS)
    image = (x.image - torch.tensor([0.2, 0.4])[:, None, None]) / torch.tensor([0.5, 0.25])[:, None, None]
    seen = x._replace(image=image.double())
    torch.testing.assert_close(model(x), plain(seen), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.attention(x), plain.attention(seen), rtol=1e-6, atol=1e-6)
    assert model.predict_step(x)["text"] == plain.predict_step(seen)["text"] != plain.predict_step(x)["text"]
    torch.testing.assert_close(model._sampled(x, 0.0), plain._sampled(seen, 0.0), rtol=1e-6, atol=1e-6)
    outputs = model.outputs(x)
    torch.testing.assert_close(outputs["log_probabilities"], plain(seen).log_softmax(dim=-1), rtol=1e-6, atol=1e-6)


def test_an_unknown_word_of_a_caption_is_one_word_to_every_metric() -> None:
    """As if a word stood there that the net does not write."""
    model = task(max_length=5)
    captions = ("red bird dot dot", "blue dot"), ("blue bird",), ("bird red red dot bird",), ("red red bird",)
    x, y = batch_of(*captions)
    assert (y == 2).sum() == 5
    metrics, expected = model.build_metrics(), caption_metrics(None)
    model.update_metrics(metrics, (x, y))
    made = model.predict_step(x.image)["text"]
    assert len({*" ".join(made).split()} - {"dot"}) > 0
    texts = [[text.replace("bird", "zzz") for text in of_image] for of_image in captions]
    for name, metric in expected.items():
        metric.update(made, texts)
        assert metrics[name].compute() == metric.compute(), name
    assert expected["bleu1"].compute() > 0


def test_without_a_vocabulary_tokens_are_numbers_and_the_end_is_what_captions_begin_after() -> None:
    model = task(max_length=5)
    model.vocabulary = None
    x, y = batch_of(*CAPTIONS)
    y[0], x.caption[0] = 0, 0  # the first image has no caption at all
    assert model._first(x.caption).tolist() == [1] * 4
    net = model.net
    net.table.data[:, 2] -= 99  # no unknown word is known
    rows = [written_by_hand(net, image, 5) for image in x.image]
    assert model.predict_step(x)["text"] == [" ".join(str(k) for k in row if k != 1) for row in rows]
    metrics = model.build_metrics()
    model.update_metrics(metrics, (x, y))
    assert int(metrics["exact"].texts) == 3
    with pytest.raises(
        ValueError, match="this CaptioningTask has no vocabulary, so it can neither read nor write text"
    ):
        model.predict_step(x.image)


def test_how_long_a_caption_may_be() -> None:
    model = task()
    assert (model.longest(), model.example_inputs(2)[0].caption.shape) == (100, (2, 1, 16))
    model.net.max_length = 9
    assert (model.longest(), model.example_inputs(2)[0].caption.shape) == (9, (2, 1, 9))
    model.caption_length = 4
    assert (model.longest(), model.example_inputs(2)[0].caption.shape) == (8, (2, 1, 4))
    assert (task(max_length=5).longest(), model.longest(3)) == (5, 3)
    with pytest.raises(ValueError, match="max_length is 10, and the net reads 9 tokens of a target at most: lower it"):
        model.longest(10)
    model.input_shape = (2, 5, 7)
    x = model.example_inputs(3)[0]
    assert (x.image.shape, x.image.dtype, x.caption.dtype) == ((3, 2, 5, 7), torch.float64, torch.int64)
    assert set(x.caption.flatten().tolist()) == {1}
    twin = task()
    twin.describe_data(model.data_description())
    assert (twin.caption_length, twin.input_shape) == (4, (2, 5, 7))


# What cannot be ---------------------------------------------------------------------------------------------------------


class Blind(Look):
    has_attention = False


class Forward(nn.Module):
    def forward(self, x: CaptionedImage) -> Tensor:
        return torch.zeros(*x.caption.shape, V)


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        (Look, {"vocab_size": 1, "padding": 0}, "vocab_size must be 2 or more, got 1"),
        (Look, {"padding": 6}, r"padding must be a token, 0\.\.5 for vocab_size=6, got 6"),
        (Look, {"attention_penalty": -0.1}, "attention_penalty must be 0 or more, got -0.1"),
        (
            Blind,
            {"attention_penalty": 1.0},
            "attention_penalty is 1, and this Blind has no attention, which it would hold",
        ),
        (Forward, {"attention_penalty": 1.0}, "and this Forward has no attention"),
        (Forward, {"teacher_forcing": 0.5}, "for which Forward needs encode, see zoo.EncoderDecoder"),
        (Look, {"teacher_forcing": 1.5}, r"teacher_forcing is a probability in \[0, 1\], got 1.5"),
        (Look, {"beam": 0}, "beam must be 1 or more, got 0"),
    ],
)
def test_arguments_out_of_their_range(net: type[nn.Module], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CaptioningTask(net(), **{"vocab_size": V, "padding": 0, **options})


def test_a_net_that_only_reads_is_trained_and_measured_without_texts() -> None:
    model = CaptioningTask(Forward(), V, 0)
    x, y = batch_of(*CAPTIONS)
    metrics = model.build_metrics()
    model.update_metrics(metrics, (x, y))
    assert {name: float(m.compute()) for name, m in metrics.items()} == {
        "loss": pytest.approx(math.log(V)),
        "perplexity": pytest.approx(V),
        "acc": 0.0,
    }
    assert (model.has_attention, model.predict_options) == (False, ("beam", "best"))
    with pytest.raises(TypeError, match="to write text, Forward needs encode"):
        model.predict_step((x, y))
    with pytest.raises(TypeError, match="this Forward has no attention that could be shown"):
        model.attention(x)


class Data(LightningDataModule):
    """Four images with their captions, in batches of two."""

    def __init__(self, change: Any = None, **told: Any) -> None:
        super().__init__()
        self.vocabulary: dict[str, Any] = dict(WORDS)
        self.caption_length, self.input_shape, self.change = 5, (2, 2, 3), change
        vars(self).update(told)

    def rows(self) -> DataLoader:
        x, y = batch_of(*CAPTIONS)
        batch: Any = (x._replace(image=x.image.float()), y)
        return DataLoader([self.change(*batch) if self.change else batch], batch_size=None)

    train_dataloader = val_dataloader = test_dataloader = rows


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (
            Data(caption_length=9),
            ValueError,
            r"caption of Data has 9 tokens with its end, and Look reads 8 at most: build it for more \(max_positions=9 of",
        ),
        (
            Data(vocabulary=WORDS | {"end": None}),
            ValueError,
            "the vocabulary of Data has no end token, after which a text begins",
        ),
        (
            Data(vocabulary=WORDS | {"tokens": ["<end>", "<pad>", *WORDS["tokens"][2:]], "padding": 1, "end": 0}),
            ValueError,
            "padding is 0, but the vocabulary of Data has 1: leave padding out on the command line",
        ),
        (
            Data(vocabulary=WORDS | {"tokens": [*WORDS["tokens"], "green"]}),
            ValueError,
            "vocab_size is 6, but Data has a vocabulary of 7",
        ),
        (Data(lambda x, y: (x.image, y)), TypeError, "must be a zoo.CaptionedImage of image and caption, got a Tensor"),
        (
            Data(lambda x, y: (x._replace(caption=x.caption[:, 0]), y[:, 0])),
            ValueError,
            r"of one shape, \(B, R, T\): R captions of",
        ),
        (Data(lambda x, y: (x, y[:, :2])), ValueError, r"got \(4, 3, 5\) and \(4, 2, 5\)"),
        (Data(lambda x, y: (x, y + 1)), ValueError, r"tokens of y must lie in 0\.\.5 for vocab_size=6, got 1\.\.6"),
        (
            Data(lambda x, y: (x._replace(caption=x.caption - 1), y)),
            ValueError,
            r"tokens of caption must lie in 0\.\.5 .* got -1\.\.4",
        ),
    ],
)
def test_data_that_cannot_be_learned(data: Data, error: type[Exception], message: str) -> None:
    model = CaptioningTask(Look(), V, 0)
    model.net.max_length = 8
    with pytest.raises(error, match=message):
        quiet_trainer(max_epochs=1).fit(model, data)


def test_another_vocabulary_is_refused_wherever_data_meet_a_model() -> None:
    model = CaptioningTask(Look(), V, 0)
    quiet_trainer(max_epochs=1).fit(model, Data())
    assert (model.vocabulary, model.caption_length) == (Vocabulary(WORDS).description, 5)
    other = Data(vocabulary=WORDS | {"tokens": [*WORDS["tokens"][:3], "blue", "red", "dot"]})
    for verb in ("fit", "test", "validate"):
        with pytest.raises(ValueError, match="the model has another vocabulary than the data"):
            getattr(quiet_trainer(max_epochs=1), verb)(model, other)


def test_attributes_of_the_data_are_measured() -> None:
    model = CaptioningTask(Look(), V, 0, max_length=5)
    data = Data(attributes={"color": ["red", "blue"], "shape": ["dot"]})
    assert "test/color" not in quiet_trainer(max_epochs=1).test(model, data)[0]  # it writes numbers
    model.vocabulary = dict(WORDS)
    (measured,) = quiet_trainer(max_epochs=1).test(model, data)
    own = model.predict_step(batch_of(*CAPTIONS)[0].image.float())["text"]
    right = [
        any(
            [w for w in text.split() if w in ("red", "blue")] == [w for w in true.split() if w in ("red", "blue")]
            for true in texts
        )
        for text, texts in zip(own, CAPTIONS, strict=True)
    ]
    assert measured["test/color"] == pytest.approx(sum(right) / 4)
    assert {"test/shape", "test/ciderd", "test/exact", "test/bleu4"} <= measured.keys()
    assert "test/color" not in quiet_trainer(max_epochs=1).test(model, Data())[0]


def test_names_are_public() -> None:
    assert zoo.CaptioningTask is CaptioningTask
