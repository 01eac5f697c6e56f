"""The comparison of optimizers: its runs against known answers, its choice of a rate, its table and its picture."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from recipes.cli.studies import optimizers

TINY = {"valley": 20, "moons": 1, "digits": 2}


@pytest.fixture
def pictures() -> None:
    """They are looked at."""


def test_a_tiny_comparison(tmp_path: Path) -> None:
    """Every method runs on what it fits; the table has its rows, and the picture is drawn."""
    methods = {name: replace(m, rates=m.rates[-1:]) for name, m in optimizers.METHODS.items()}
    results = optimizers.compare(methods, TINY, (0, 1))
    assert [*results["moons"]] == [*methods]
    assert {*methods} - {*results["valley"]} == {"AdamW", "MuonAdamW"}
    assert {*methods} - {*results["digits"]} == {"L-BFGS", "Newton"}
    _, runs = results["valley"]["Newton"]
    assert max(run.losses[-1] for run in runs) < 0.5 * min(run.losses[0] for run in runs)
    assert [runs[0].looks, results["moons"]["SAM"][1][0].looks, results["moons"]["Adam"][1][0].looks] == [5.0, 2.0, 1.0]
    first, second = runs
    assert first.path[0] != second.path[0]
    text = optimizers.table(results).splitlines()
    assert [line.split("  ")[0] for line in text[2:]] == [*methods]
    optimizers.draw(results, tmp_path / "picture.png", methods)
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (1210, 946)


def test_the_steps_along_the_valley_are_those_of_gradient_descent() -> None:
    sgd = optimizers.METHODS["SGD"]
    run = optimizers.measure("valley", sgd, 1e-3, seed=3, steps=20)
    x, y = run.path[0]
    for step in range(20):
        assert run.losses[step] == pytest.approx((1 - x) ** 2 + 20 * (y - x * x) ** 2)
        x, y = x - 1e-3 * (-2 * (1 - x) - 80 * x * (y - x * x)), y - 1e-3 * 40 * (y - x * x)
        assert run.path[step + 1] == pytest.approx((x, y), rel=1e-9)
    assert run.result == pytest.approx(((x - 1) ** 2 + (y - 1) ** 2) ** 0.5)
    assert optimizers.measure("valley", sgd, 1.0, seed=3, steps=20).final == float("inf")


def test_the_rate_is_the_one_with_the_smallest_mean_loss() -> None:
    finals = {0.1: (1.0, 3.0), 0.3: (1.5, 1.5), 1.0: (0.1, float("inf"))}

    def measure(problem: str, method: optimizers.Method, lr: float, seed: int, steps: int) -> optimizers.Run:
        return optimizers.Run([], finals[lr][seed], 10 * lr + seed, 1.0, [])

    methods = {"SGD": replace(optimizers.METHODS["SGD"], rates=tuple(finals))}
    results = optimizers.compare(methods, {"moons": 1}, (0, 1), measure)
    rate, runs = results["moons"]["SGD"]
    assert rate == 0.3
    assert [run.result for run in runs] == [3.0, 4.0]
    assert optimizers.table(results).splitlines()[-1].split("  ")[0] == "SGD"
    assert "0.3  3.5 (3-4)" in optimizers.table(results)


def test_digits_are_tested_on_what_was_not_trained() -> None:
    x, y, test_x, test_y = optimizers._examples("digits")
    assert x.shape[1] == test_x.shape[1] == 64
    assert x.mean().abs() < 1e-5
    assert x.std() == pytest.approx(1, abs=1e-5)
    assert torch.cdist(test_x[:50], x).amin() > 0
    assert len(y) > 2 * len(test_y)
