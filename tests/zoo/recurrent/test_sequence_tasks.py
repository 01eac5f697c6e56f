"""Classifiers and regressors of sequences: what counts, against each sequence by itself, float64 formulas, and the contract kit."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import quiet_trainer
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

import zoo
from zoo.blocks import Series, real_steps
from zoo.losses import weighted_mean
from zoo.testing import check_module

LENGTHS = torch.tensor([6, 2, 5, 1, 6, 4, 3, 6])
REAL = real_steps(LENGTHS, 6)


def series(dtype: torch.dtype = torch.float32) -> Series:
    return Series(torch.randn(8, 6, 3, dtype=dtype).masked_fill(~REAL[..., None], 0), LENGTHS)


def text(dtype: torch.dtype = torch.long) -> Tensor:
    """Tokens 1..9, and 0 beyond the end."""
    return torch.randint(1, 10, (8, 6), dtype=dtype).masked_fill(~REAL, 0)


def classifier(**arguments: Any) -> zoo.SequenceClassifier:
    return zoo.SequenceClassifier(**{"num_classes": 4, "input_size": 3, "width": 8, **arguments})


def regressor(**arguments: Any) -> zoo.SequenceRegressor:
    return zoo.SequenceRegressor(**{"num_outputs": 2, "input_size": 3, "width": 8, **arguments})


def fitted(task: Any) -> Any:
    """In float64, with weights that leave the linear range and statistics that are not those of the start."""
    task = task.double()
    for p in task.net.parameters():
        nn.init.normal_(p, std=0.6)
    if task.reads != "text":
        task.set_standardization([0.3, -1.0, 2.0], [0.5, 2.0, 1.0])
    return task


def loss_and_gradients(task: Any, batch: Any) -> tuple[Tensor, list[Tensor]]:
    loss, _, count = task.training_losses(batch)
    return torch.as_tensor(count), [loss.detach(), *torch.autograd.grad(loss, list(task.net.parameters()))]


# Steps that count -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("form", ["many_to_one", "many_to_one_mean", "many_to_many"])
@pytest.mark.parametrize("make", [classifier, regressor])
def test_a_padded_batch_is_its_sequences_one_by_one(make: Any, form: str, bidirectional: bool, cell: str) -> None:
    """Loss, count and gradient: the mean over all steps (or sequences) of all, each read alone."""
    task = fitted(make(form=form, bidirectional=bidirectional, cell=cell, num_layers=2))
    x, by_step = series(torch.float64), form == "many_to_many"
    shape = (8, 6) if by_step else (8,)
    y = torch.randint(0, 4, shape) if make is classifier else torch.randn(*shape, 2, dtype=torch.float64)
    count, got = loss_and_gradients(task, (x, y))
    alone = [
        loss_and_gradients(task, (x.values[b : b + 1, :n], y[b : b + 1, :n] if by_step else y[b : b + 1]))
        for b, n in enumerate(LENGTHS.tolist())
    ]
    assert int(count) == sum(int(n) for n, _ in alone) == (LENGTHS.sum() if by_step else 8)
    for k, value in enumerate(got):
        wanted = sum(n * parts[k] for n, parts in alone) / count
        torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-12)


def test_the_loss_of_steps_is_the_formulas() -> None:
    task = fitted(classifier(form="many_to_many", label_smoothing=0.1, class_weight=[1.0, 2.0, 0.5, 1.0]))
    x, y, weight = series(torch.float64), torch.randint(0, 4, (8, 6)), torch.rand(8, 6)
    logits, total, hits = task(x).detach(), 0.0, 0.0
    for b in range(8):
        for t in range(int(LENGTHS[b])):
            target = 0.9 * F.one_hot(y[b, t], 4) + 0.1 / 4
            loss = -(target * logits[b, t].log_softmax(0)).sum() * task.class_weight[y[b, t]]
            total, hits = total + weight[b, t] * loss, hits + weight[b, t] * (logits[b, t].argmax() == y[b, t])
    count = (weight * REAL).sum()
    loss, means, denominator = task.training_losses((x, y, weight))
    torch.testing.assert_close(loss, total / count, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(means["acc"].double(), hits.double() / count, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(denominator.double(), count.double())


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 0, 1, 1, 1, 0, 1, 1])])
def test_metrics_of_steps(weight: Tensor | None) -> None:
    x = series(torch.float64)
    more = [] if weight is None else [weight]
    counts = REAL if weight is None else REAL & (weight > 0)[:, None]

    task, y = fitted(classifier(form="many_to_many")), torch.randint(0, 4, (8, 6))
    metrics = task.build_metrics()
    for part in (slice(3), slice(3, 8)):  # of two batches
        batch = (Series(x.values[part], x.lengths[part]), y[part], *(w[part] for w in more))
        task.update_metrics(metrics, batch)
    logits = task(x).detach()[counts]
    assert float(metrics["loss"].compute()) == pytest.approx(float(F.cross_entropy(logits, y[counts])), rel=1e-5)
    assert float(metrics["acc"].compute()) == pytest.approx(float((logits.argmax(1) == y[counts]).double().mean()))
    assert metrics["confusion"].compute().sum() == counts.sum()

    numbers, z = fitted(regressor(form="many_to_many")), torch.randn(8, 6, 2, dtype=torch.float64)
    numbers.target_mean, numbers.target_std = torch.tensor([5.0, -1.0]).double(), torch.tensor([2.0, 0.5]).double()
    metrics = numbers.build_metrics()
    numbers.update_metrics(metrics, (x, z, *more))
    errors = (numbers(x).detach() - z)[counts]
    assert float(metrics["rmse"].compute()) == pytest.approx(float(errors.square().mean().sqrt()), rel=1e-5)
    assert float(metrics["mae"].compute()) == pytest.approx(float(errors.abs().mean()), rel=1e-5)
    standardized = errors / numbers.target_std
    assert float(metrics["loss"].compute()) == pytest.approx(float(standardized.square().mean()), rel=1e-5)


def test_of_weight_0_nothing_counts() -> None:
    """Nor do labels beyond the end have to be labels, such as the padding of texts."""
    task, y = fitted(classifier(form="many_to_many", vocab_size=10, padding=9)), torch.randint(0, 4, (8, 6))
    x = text().clamp(max=8).where(REAL, 9)
    y = y.where(REAL, 9)
    weight = torch.tensor([1.0, 0, 1, 1, 1, 0, 1, 1])
    loss, _, count = task.training_losses((x, y, weight))
    kept = weight > 0
    wanted, _, kept_count = task.training_losses((x[kept], y[kept]))
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-9)
    assert count == kept_count == LENGTHS[kept].sum()
    metrics = task.build_metrics()
    task.update_metrics(metrics, (x, y, weight))
    assert metrics["confusion"].compute().sum() == LENGTHS[kept].sum()


def test_a_text_is_the_series_of_its_embedded_tokens() -> None:
    reads, x = fitted(classifier(vocab_size=10, padding=0, cell="gru")), text()
    y = torch.randint(0, 4, (8,))
    wanted = reads.net.net(Series(reads.net.embedding(x), LENGTHS))
    torch.testing.assert_close(reads(x), wanted, rtol=1e-12, atol=1e-12)
    assert reads.training_losses((x, y))[2] == 8


def test_labels_of_steps_written_after_reading() -> None:
    """All of them count, however long the series was."""
    task = fitted(classifier(form="many_to_many_after", num_steps=3))
    x, y = series(torch.float64), torch.randint(0, 4, (8, 3))
    loss, _, count = task.training_losses((x, y))
    assert count == 24
    torch.testing.assert_close(loss, F.cross_entropy(task(x).flatten(0, 1), y.flatten()), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [classifier, regressor])
def test_one_step_is_a_row(make: Any) -> None:
    task = make(form="one_to_many", num_steps=4)
    assert (task.reads, task.example_shape, task.padding, task.causal) == ("row", (3,), None, False)
    y = torch.randint(0, 4, (8, 4)) if make is classifier else torch.randn(8, 4, 2)
    assert check_module(task, (torch.randn(8, 3), y), only=["gradients", "independence", "hyperparameters"])
    assert task.training_losses((torch.randn(8, 3), y))[2] == 32


# The contract of forms that the registered models do not have -----------------------------------------------------------

UNROLLED = {"export_length": "torch.export unrolls torch's recurrent layers"}
QUICK = ("gradients", "independence", "causality", "padding", "incremental", "memorization", "hyperparameters")


@pytest.mark.parametrize(
    ("make", "arguments", "by_text"),
    [
        (classifier, {"form": "many_to_many", "cell": "lstm", "num_layers": 2}, False),
        (regressor, {"form": "many_to_many", "cell": "gru", "initial_state": "learned"}, False),
        (classifier, {"form": "many_to_many", "cell": "gru", "vocab_size": 10, "padding": 0}, True),
    ],
)
def test_contract_in_step(make: Any, arguments: dict[str, Any], by_text: bool) -> None:
    task = make(width=48, **arguments)
    y = torch.randint(0, 4, (8, 6)) if make is classifier else torch.randn(8, 6, 2)
    y = y.masked_fill(~REAL.view(8, 6, *[1] * (y.ndim - 2)), 0)
    report = check_module(task, (text() if by_text else series(), y), lr=0.01, only=QUICK)
    assert report == dict.fromkeys(QUICK, "ok")


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (classifier, {"bidirectional": True, "num_layers": 2, "form": "many_to_many", "dropout": 0.2}),
        (classifier, {"form": "many_to_one_mean", "initial_state": "random", "cell": "rnn_relu"}),
        (regressor, {"form": "many_to_many_after", "num_steps": 3, "num_outputs": 1}),
    ],
)
def test_contract_of_other_forms(make: Any, arguments: dict[str, Any]) -> None:
    task, shape = make(**arguments), {"many_to_many": (8, 6), "many_to_many_after": (8, 3)}.get(arguments["form"], (8,))
    y = torch.randint(0, 4, shape) if make is classifier else torch.randn(shape)
    report = check_module(
        task, (series(), y), only=["gradients", "independence", "padding", "checkpoint", "accumulation", "processes"]
    )
    assert set(report.values()) == {"ok"}
    assert not task.causal  # so that nobody goes through it step by step
    with pytest.raises(ValueError, match="causality is checked of a module that declares causal"):
        check_module(task, (series(), y), only=["causality"])


def test_the_kit_tells_that_series_without_lengths_have_no_padding() -> None:
    report = check_module(classifier(), (torch.randn(8, 6, 3), torch.arange(8) % 4), only=["padding"])
    assert report == {
        "padding": "skipped: series of numbers without lengths are not padded: give a batch whose lengths differ"
    }


# Data, predictions, pictures --------------------------------------------------------------------------------------------


class Data(LightningDataModule):
    """One batch, and what it says of itself."""

    def __init__(self, batch: Any, **attributes: Any) -> None:
        super().__init__()
        self.batch = batch
        for name, value in attributes.items():
            setattr(self, name, value)

    def train_dataloader(self) -> DataLoader:
        return DataLoader([self.batch], batch_size=None)  # type: ignore[arg-type]

    val_dataloader = train_dataloader


SYMBOLS = {"kind": "symbols", "tokens": list("abcdefghij"), "padding": 9, "end": None, "tokenizer": None}


def fit(task: Any, data: Any, tmp_path: Any) -> Any:
    trainer = quiet_trainer(default_root_dir=tmp_path, max_epochs=2)
    trainer.fit(task, datamodule=data)
    return trainer


def test_a_fit_standardizes_the_values_of_a_step(tmp_path: Any) -> None:
    task = classifier(form="many_to_many")
    data = Data((series(), torch.randint(0, 4, (8, 6))), mean=[1.0, 2, 3], std=[1.0, 2, 4], input_shape=(6, 3))
    trainer = fit(task, data, tmp_path)
    assert task.mean.tolist() == [1, 2, 3]
    x = series()
    torch.testing.assert_close(task.standardize(x).values, (x.values - task.mean) / task.std)
    assert task.standardize(x).lengths is x.lengths
    assert trainer.callback_metrics["val/loss"] > 0
    assert task.example_inputs(2)[0].shape == (2, 6, 3)


@pytest.mark.parametrize(
    ("task", "data", "message"),
    [
        (
            classifier(vocab_size=10, padding=0),
            Data((text(), torch.arange(8) % 4), vocabulary=SYMBOLS),
            "padding is 0, but the data pad their texts with 9: leave padding out on the command line",
        ),
        (classifier(), Data((series(), torch.randint(0, 4, (8, 6))), input_shape=(6, 2)), "cannot take the data's input of shape"),
        (
            classifier(),
            Data((series(), torch.randint(0, 4, (8, 6))), in_step=True),
            "Data has a target for each step, and form='many_to_one' gives one output a sequence: build the model with form=",
        ),
        (classifier(form="many_to_many"), Data((series(), torch.arange(8) % 4)), r"must have shape \(B, 6, \.\.\.\), got \(8,\)"),
        (classifier(form="many_to_many"), Data((series(), torch.full((8, 6), 4))), r"labels must lie in 0\.\.3"),
    ],
)  # fmt: skip
def test_data_that_do_not_fit_are_refused(task: Any, data: Any, message: str, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=message):
        fit(task, data, tmp_path)


def test_padding_needs_tokens() -> None:
    with pytest.raises(ValueError, match="padding=0 is a token, and this net reads numbers: set vocab_size"):
        classifier(padding=0)


def test_weights_of_labels_of_steps_are_not_counted() -> None:
    with pytest.raises(ValueError, match="give a list of weights"):
        classifier(form="many_to_many", mode="multilabel", class_weight="balanced")


def test_predictions_end_with_their_sequence() -> None:
    task, x = classifier(form="many_to_many"), series()
    task.class_names = ["a", "b", "c", "d"]
    found = task.eval().predict_step((x, None))
    p = task(x).softmax(dim=2)
    torch.testing.assert_close(found["probabilities"], p)
    torch.testing.assert_close(found["probability"], p.amax(dim=2))
    assert [len(names) for names in found["label"]] == LENGTHS.tolist()
    assert found["label"][1] == ["abcd"[k] for k in p[1, :2].argmax(dim=1)]
    numbers = regressor(form="many_to_many", num_outputs=1).eval()
    found = numbers.predict_step((x, None))
    assert found["value"].shape == (8, 6)
    assert found["lengths"].tolist() == LENGTHS.tolist()
    assert regressor().eval().predict_step(x)["value"].shape == (8, 2)


@pytest.mark.parametrize("mode", ["binary", "multilabel"])
def test_other_modes_of_steps(mode: Any) -> None:
    classes = 2 if mode == "binary" else 3
    task, x = fitted(classifier(mode=mode, num_classes=classes, form="many_to_many")), series(torch.float64)
    y = torch.randint(0, 2, (8, 6) if mode == "binary" else (8, 6, 3)).double()
    logits = task(x)
    losses = F.binary_cross_entropy_with_logits(logits[..., 0] if mode == "binary" else logits, y, reduction="none")
    losses = losses if mode == "binary" else losses.mean(dim=2)
    loss, _, count = task.training_losses((x, y))
    assert count == REAL.sum()
    torch.testing.assert_close(loss, losses[REAL].mean(), rtol=1e-9, atol=1e-12)
    assert task.predict_step((x, y))["probabilities"].shape == (8, 6, classes)
    assert task.render((x, y)).keys() == {"states", "confusion"}


@pytest.mark.parametrize("form", ["many_to_one", "many_to_many", "many_to_many_after"])
def test_pictures(form: str) -> None:
    steps = {"many_to_one": (), "many_to_many": (6,), "many_to_many_after": (3,)}[form]
    more = {"num_steps": 3} if steps == (3,) else {}
    shown = classifier(form=form, **more).eval().render((series(), torch.randint(0, 4, (8, *steps))))
    assert shown.keys() == {"states", "confusion"}
    shown |= regressor(form=form, **more).eval().render((series(), torch.randn(8, *steps, 2)))
    assert shown.keys() == {"states", "confusion", "scatter"}
    for image in shown.values():
        assert image.dtype == torch.uint8
        assert image.shape[0] == 3


def test_a_fresh_net_knows_nothing() -> None:
    assert classifier(form="many_to_many").expected_initial_loss() == pytest.approx(math.log(4))
    assert classifier(vocab_size=5, padding=0).example_inputs(2)[0].tolist() == [[1] * 16] * 2
    assert weighted_mean(torch.ones(2))[1] == 2
