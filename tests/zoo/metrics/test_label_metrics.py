"""Metrics of labels against scikit-learn and torchmetrics, and what they cost where there are many classes."""

from typing import Any

import numpy as np
import pytest
import torch
from kit import quiet_trainer
from sklearn import metrics as sk
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Metric
from torchmetrics import classification as tm

from callbacks import Samples, WrongExamples
from datamodules import ArrayDataModule
from zoo.metrics import Accuracy, ConfusionMatrix, LabelConfusion, MacroF1, TopKAccuracy
from zoo.tasks import ClassificationTask

K = 7  # class 5 occurs and is predicted nowhere, 2 is only predicted, 6 only true


def examples() -> tuple[Tensor, Tensor]:
    """Probabilities ``(61, K)`` and labels ``(61,)``, some of which do not count."""
    generator = torch.Generator().manual_seed(3)
    y = torch.tensor([0, 1, 3, 4, 6, 0, 0])[torch.randint(7, (61,), generator=generator)]
    z = torch.randn(61, K, generator=generator) + 2 * nn.functional.one_hot(y, K)
    z[:, [5, 6]] -= 20
    y[::9] = -1
    return z.softmax(1), y


def several() -> tuple[Tensor, Tensor]:
    """Probabilities and 0 or 1 ``(61, K)``, some of which do not count; label 5 is never given and never decided."""
    generator = torch.Generator().manual_seed(4)
    p, y = torch.rand(61, K, generator=generator), torch.randint(2, (61, K), generator=generator)
    p[:, 5], y[:, 5] = 0.1, 0
    y[torch.rand(61, K, generator=generator) < 0.2] = -1
    return p, y


def value(metric: Metric, *parts: Tensor) -> Tensor:
    """The value after batches of 1, 20, 30 and 10 examples."""
    for batch in zip(*(part.split([1, 20, 30, 10]) for part in parts), strict=True):
        metric.update(*batch)
    return metric.compute()


def test_one_label_an_example() -> None:
    p, y = examples()
    decided, counts = p.argmax(1), y >= 0
    true, guess = y[counts], decided[counts]
    assert {2} <= set(guess.tolist()) - set(true.tolist())
    assert {6} <= set(true.tolist()) - set(guess.tolist())
    assert value(Accuracy(), decided, y).item() == pytest.approx(sk.accuracy_score(true, guess))
    assert value(MacroF1(K), decided, y).item() == pytest.approx(sk.f1_score(true, guess, average="macro"))
    assert np.array_equal(value(ConfusionMatrix(K), decided, y), sk.confusion_matrix(true, guess, labels=range(K)))
    for k in (2, 3):
        wanted = sk.top_k_accuracy_score(true, p[counts].double(), k=k, labels=range(K))
        assert value(TopKAccuracy(k), p, y).item() == pytest.approx(wanted)


def test_several_labels_an_example() -> None:
    p, y = several()
    decided = p >= 0.4
    kwargs: dict[str, Any] = {"num_labels": K, "threshold": 0.4, "ignore_index": -1}
    assert value(Accuracy(), decided, y) == value(tm.MultilabelAccuracy(average="micro", **kwargs), p, y)
    f1 = value(tm.MultilabelF1Score(average="none", **kwargs), p, y)
    torch.testing.assert_close(value(MacroF1(K), decided, y), f1[[0, 1, 2, 3, 4, 6]].mean())
    assert torch.equal(value(LabelConfusion(K), decided, y), value(tm.MultilabelConfusionMatrix(**kwargs), p, y))


def test_nothing_that_counts_has_no_value() -> None:
    p, y = examples()
    for metric, given in ((Accuracy(), p.argmax(1)), (MacroF1(K), p.argmax(1)), (TopKAccuracy(2), p)):
        assert value(metric, given, torch.full_like(y, -1)).isnan()


def test_a_value_stays_as_it_was_when_more_comes() -> None:
    p, y = examples()
    for metric in (Accuracy(), MacroF1(K), ConfusionMatrix(K), LabelConfusion(K)):
        first = value(metric, p.argmax(1), y)
        kept = first.clone()
        assert not torch.equal(value(metric, torch.zeros_like(y), y), kept)
        assert torch.equal(first, kept)


class Given(nn.Module):
    """Gives its input back as logits."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def validated(task: ClassificationTask, x: Tensor, y: Tensor) -> dict[str, float]:
    return quiet_trainer().validate(task, DataLoader(TensorDataset(x, y), 7), verbose=False)[0]


@pytest.mark.parametrize("mode", ["multiclass", "multilabel"])
def test_the_state_grows_with_the_classes_not_with_their_square(mode: Any) -> None:
    """Up to 2,000 classes there is a confusion matrix; 2 x 2 for each label always."""
    for k, matrix in ((2000, True), (2001, False)):
        kept = ClassificationTask(Given(), k, mode, **({"top_k": 5} if mode == "multiclass" else {})).build_metrics()
        numbers = {name: sum(state.numel() for state in metric.metric_state.values()) for name, metric in kept.items()}
        has_matrix = mode == "multiclass" and matrix
        assert numbers.pop("confusion", 0) == (k * k if has_matrix else 4 * k if mode == "multilabel" else 0)
        assert sum(numbers.values()) <= 4 * k + 10


class Unscaled(ArrayDataModule):
    """Has no statistics, so that nothing is standardized."""

    def describe(self, train: Any) -> None: ...


def test_more_classes_than_a_matrix_is_kept_for(tmp_path: Any) -> None:
    k = 2003
    y = torch.arange(20) * 100 + 7
    guess = torch.where(torch.arange(20) < 15, y, 2001)
    x = 9.0 * nn.functional.one_hot(guess, k)
    x[15:18].scatter_(1, y[15:18, None], 5.0)  # the second best
    names = [f"n{i}" for i in range(k)]
    data = Unscaled(x.repeat(5, 1), y.repeat(5), x, y, class_names=names, val_fraction=0.2, batch_size=7)
    task = ClassificationTask(Given(), k, top_k=2, optimizer="SGD", lr=1e-12)
    trainer = quiet_trainer(Samples(), WrongExamples(), max_epochs=1, default_root_dir=tmp_path)
    trainer.fit(task, datamodule=data)
    got = trainer.test(task, datamodule=data, verbose=False)[0]
    assert got["test/acc"] == pytest.approx(0.75)
    assert got["test/acc_top2"] == pytest.approx(0.9)
    assert got["test/f1"] == pytest.approx(sk.f1_score(y, guess, average="macro"))
    assert "confusion" not in task.metrics
    assert task.render((x, y)) == {}
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"wrong_examples.csv"}
    assert len((tmp_path / "wrong_examples.csv").read_text().splitlines()) == 6


@pytest.mark.parametrize(("mode", "width"), [("binary", 1), ("multilabel", 3)])
def test_what_is_at_the_threshold_counts_as_it_is_predicted(mode: Any, width: int) -> None:
    """The logits of an untrained model may all be 0."""
    y = torch.ones(5, width).long().squeeze(1)
    task = ClassificationTask(Given(), max(width, 2), mode)
    assert validated(task, torch.zeros(5, width), y)["val/acc"] == 1
    assert task.training_losses((torch.zeros(5, width), y))[1]["acc"] == 1
    assert task.predict_step(torch.zeros(5, width))["label"] == (
        ["1"] * 5 if mode == "binary" else [["0", "1", "2"]] * 5
    )


class Ranked(ClassificationTask):
    """Logs a metric of torchmetrics, too."""

    def build_metrics(self) -> dict[str, Metric]:
        own = {"multiclass": tm.MulticlassAUROC(3, ignore_index=-1), "binary": tm.BinaryAUROC(ignore_index=-1)}
        own["multilabel"] = tm.MultilabelAUROC(3, ignore_index=-1)
        return super().build_metrics() | {"auroc": own[self.mode]}


@pytest.mark.parametrize("mode", ["multiclass", "binary", "multilabel"])
def test_a_metric_of_your_own_gets_probabilities(mode: Any) -> None:
    z = torch.randn(40, 1 if mode == "binary" else 3)
    y = (torch.rand(40, 3) < 0.4).long() if mode == "multilabel" else torch.arange(40) % (2 if mode == "binary" else 3)
    p = z.softmax(1) if mode == "multiclass" else z.sigmoid()
    wanted = sk.roc_auc_score(y, p.double(), multi_class="ovr")
    assert validated(Ranked(Given(), 2 if mode == "binary" else 3, mode), z, y)["val/auroc"] == pytest.approx(wanted)
