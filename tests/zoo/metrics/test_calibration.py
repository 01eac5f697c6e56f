"""The calibration error against scikit-learn's calibration curve, and on bins by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from kit import quiet_trainer
from sklearn.calibration import calibration_curve
from torch import Tensor, nn
from torchmetrics import Metric

from datamodules import ArrayDataModule
from zoo.metrics import CalibrationError
from zoo.tasks import ClassificationTask

K = 4


def examples(count: int = 203) -> tuple[Tensor, Tensor]:
    """Logits ``(N, K)`` of a model that is too sure, and labels ``(N,)``."""
    generator = torch.Generator().manual_seed(5)
    y = torch.randint(K, (count,), generator=generator)
    return 3 * torch.randn(count, K, generator=generator) + 2 * nn.functional.one_hot(y, K), y


def by_curve(hits: Tensor, confidence: Tensor, bins: int) -> tuple[float, float]:
    """Expected and largest error by scikit-learn's curve, which gives filled bins, and counts of numpy."""
    right, sure = calibration_curve(hits.numpy(), confidence.double().numpy(), n_bins=bins)
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    counts = np.bincount(np.searchsorted(edges, confidence.double().numpy()), minlength=bins)
    gaps = np.abs(right - sure)
    return float((gaps * counts[counts > 0]).sum() / counts.sum()), float(gaps.max())


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_it_is_that_of_the_calibration_curve(bins: int) -> None:
    z, y = examples()
    p = z.softmax(dim=1)
    confidence, decided = p.max(dim=1)
    expected, largest = by_curve(decided == y, confidence, bins)
    assert expected > 0.05
    for kind, wanted in (("expected", expected), ("max", largest)):
        metric = CalibrationError(bins, kind)  # type: ignore[arg-type]
        for batch in zip(p.split(50), y.split(50), strict=True):
            metric.update(*batch)
        assert metric.compute().item() == pytest.approx(wanted, abs=1e-6)


def test_one_probability_is_of_two_classes() -> None:
    """A binary classifier gives the same by one probability and by two; labels of several count each by itself."""
    z, y = examples()
    p, y = z[:, 0].sigmoid(), y % 2
    one, two, several = CalibrationError(), CalibrationError(), CalibrationError()
    one.update(p, y)
    two.update(torch.stack([1 - p, p], dim=1), y)
    several.update(p[:200].view(50, 4), y[:200].view(50, 4))
    several.update(p[200:], y[200:])
    assert one.compute() == two.compute() == several.compute()
    hits = (p >= 0.5).long() == y
    assert one.compute().item() == pytest.approx(by_curve(hits, torch.maximum(p, 1 - p), 15)[0], abs=1e-6)


def test_bins_are_closed_above_and_keep_what_a_diagram_needs() -> None:
    confidence = torch.tensor([0.5, 0.75, 0.75, 0.8, 1.0])
    metric = CalibrationError(bins=4)
    metric.update(torch.stack([confidence, 1 - confidence], dim=1), torch.tensor([0, 1, 0, 0, -1]))
    bins = metric.reliability()
    assert bins.counts.tolist() == [0, 1, 2, 1]
    assert bins.accuracy[1:].tolist() == [1.0, 0.5, 1.0]
    torch.testing.assert_close(bins.confidence[1:], torch.tensor([0.5, 0.75, 0.8], dtype=torch.float64))
    assert bins.accuracy.isnan().tolist() == bins.confidence.isnan().tolist() == [True, False, False, False]
    assert metric.compute().item() == pytest.approx((0.5 + 2 * 0.25 + 0.2) / 4)


def test_nothing_that_counts_has_no_value() -> None:
    metric = CalibrationError()
    metric.update(torch.rand(3, 2).softmax(dim=1), torch.full((3,), -1))
    assert metric.compute().isnan()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bins": 0}, "bins must be 1 or more, got 0"),
        ({"kind": "mean"}, "kind must be 'expected' or 'max', got 'mean'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CalibrationError(**arguments)


def test_logits_and_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lie in \[0, 1\], got -1 to 2: .* not logits"):
        CalibrationError().update(torch.tensor([[2.0, -1.0]]), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"got nan to nan"):
        CalibrationError().update(torch.full((1, 2), float("nan")), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(3, 1\)"):
        CalibrationError().update(torch.full((3, 2), 0.5), torch.zeros(3, 1, dtype=torch.long))


class Calibrated(ClassificationTask):
    """Its input is its logits."""

    def __init__(self) -> None:
        net = nn.Linear(K, K, bias=False)
        nn.init.eye_(net.weight)
        super().__init__(net, K)

    def build_metrics(self) -> dict[str, Metric]:
        return {**super().build_metrics(), "ece": CalibrationError()}


@pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders")  # ours repeats no example
def test_processes_together_have_the_value_of_one() -> None:
    z, y = examples()
    data = ArrayDataModule(z, y, z, y, class_names=list("abcd"), batch_size=20)
    found = [
        quiet_trainer(ranks=ranks).test(Calibrated(), datamodule=data, verbose=False)[0]["test/ece"] for ranks in (1, 2)
    ]
    p = z.softmax(dim=1)
    assert found[0] == pytest.approx(by_curve(p.argmax(dim=1) == y, p.amax(dim=1), 15)[0], abs=1e-6)
    assert found[0] == pytest.approx(found[1], abs=1e-9)
