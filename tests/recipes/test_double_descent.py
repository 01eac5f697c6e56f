"""The study of double descent: a small sweep through its own fits, its table and its picture."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from recipes.cli.studies import double_descent
from recipes.cli.studies.comparison import run_quietly

COUNT = 50


@pytest.fixture
def pictures() -> None:
    """They are looked at."""


def test_a_small_sweep_has_its_peak_at_the_number_of_examples(tmp_path: Path) -> None:
    curves: dict[float, double_descent.Curve] = {}

    def measure(width: int, ridge: float, seed: int) -> dict[str, float]:
        return double_descent.measure(width, ridge, seed, count=COUNT)

    def work() -> None:
        curves.update(double_descent.sweep((10, 25, COUNT, 100, 800), (0.0, 0.1), (0, 1), measure))

    run_quietly(work)
    mean = {
        ridge: {width: sum(run["test/loss"] for run in runs) / len(runs) for width, runs in curve.items()}
        for ridge, curve in curves.items()
    }
    assert max(mean[0.0], key=mean[0.0].__getitem__) == COUNT
    assert mean[0.0][COUNT] > 5 * mean[0.0][100] > 5 * mean[0.0][800]
    assert mean[0.1][COUNT] < 1.2 * mean[0.1][25]
    assert max(curves[0.0], key=lambda width: curves[0.0][width][0]["norm"]) == COUNT
    for width, runs in curves[0.0].items():
        for run in runs:
            assert (run["train/loss"] < 1e-6) == (width >= COUNT)
            assert run["test/error"] > 0.5  # of right labels, of which it knows a few
    first, second = (run["test/loss"] for run in curves[0.0][25])
    assert first != second

    text = double_descent.table(curves).splitlines()
    assert text[0].split("  ")[0] == "features"
    assert [line.split()[0] for line in text[2:]] == ["10", "25", "50", "100", "800"]
    assert "ridge 0.1" in text[0]
    path = tmp_path / "curve.png"
    double_descent.draw(curves, path, COUNT)
    with Image.open(path) as picture:
        assert picture.size == (1200, 504)


def test_each_seed_has_its_own_series_labels_and_features(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[tuple[Any, Any]] = []

    def keep(model: Any, data: Any, epochs: int) -> dict[str, float]:
        fits.append((model, data))
        return dict.fromkeys(("train/acc", "train/loss", "test/acc", "test/loss"), 0.5)

    monkeypatch.setattr(double_descent, "fit_and_measure", keep)
    double_descent.sweep((30, 60), (0.0, 0.1), (0, 1))
    arguments = [(model.hparams["num_features"], model.hparams["ridge"], data.data_seed) for model, data in fits]
    assert arguments == [(width, ridge, seed) for ridge in (0.0, 0.1) for width in (30, 60) for seed in (0, 1)]
    assert {(data.count, data.label_noise, data.batch_size, data.val_fraction) for _, data in fits} == {
        (400, 0.15, 400, 0)
    }
    directions = [model.net.directions for model, _ in fits]
    assert not torch.equal(directions[0], directions[1])
    assert torch.equal(directions[0], directions[4])  # with and without a ridge the same


def test_the_table_shows_mean_and_range() -> None:
    runs = [
        {"train/error": 0.25, "test/error": e, "test/loss": v, "norm": 2.0}
        for e, v in ((0.5, 1.0), (0.7, 2000.0), (0.6, 3.0))
    ]
    lines = double_descent.table({0.0: {1000: runs}, 0.5: {1000: runs}}).splitlines()
    assert lines[0].split("  ")[0] == "features"
    assert "test error, ridge 0.5" in lines[0]
    assert lines[2].startswith("1,000     25.0 (25.0-25.0)  60.0 (50.0-70.0)  668 (1-2000)  2 (2-2)")


@pytest.mark.slow
def test_the_study_prints_its_table(
    tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(double_descent, "WIDTHS", (40, 400, 1600))
    run_quietly(double_descent.main)
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert {"40", "400", "1,600"} <= rows.keys()
    assert " 0.0 (0.0-0.0)" in rows["400"]
    assert Path("double_descent.png").is_file()


def test_a_study_leaves_the_log_as_it_was() -> None:
    """Otherwise later fits of the process say nothing."""
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    levels: list[int] = []
    run_quietly(lambda: levels.append(logger.level))
    assert levels == [logging.WARNING]
    assert logger.level == before != logging.WARNING
