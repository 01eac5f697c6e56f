"""``zoo calibrate``, and what ``zoo predict`` says of its certainty: numbers by hand from the run's own splits, and refusals."""

import hashlib
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cli_kit import RECIPE, SHORT, Result, Zoo, assert_one_line
from page_kit import Page
from scipy.optimize import minimize_scalar
from torch import Tensor

import datamodules
import zoo as package
from recipes.cli.errors import UserError
from recipes.cli.run.lock import Lock
from recipes.cli.verbs.calibration import RunData, calibrate, check_model
from recipes.cli.verbs.examples import BUNDLED


def table(result: Result) -> dict[str, list[str]]:
    """The cells of the printed table, by the name of the row."""
    assert result.code == 0, result.err
    rows = [re.split(r"  +", line.strip()) for line in result.out.split("\n\n")[1].splitlines()]
    assert rows[0] == ["accuracy", "NLL", "ECE", "Brier", "coverage", "set size"]
    return {name: cells for name, *cells in rows[2:]}


def predicted(run: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Logits in float64 and labels of the validation split and the test part, without the command line."""
    model: Any = package.load(run / "checkpoints" / "best.ckpt")
    data = datamodules.DigitsDataModule()
    data.setup("fit")
    data.setup("test")
    found = {}
    for name, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        with torch.no_grad():
            logits = torch.cat([model(x.float() / 255) for x, *_ in loader])
        found[name] = logits.double().numpy(), torch.cat([y for _, y, *_ in loader]).numpy()
    return found


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def nll(z: np.ndarray, y: np.ndarray) -> float:
    return float(-np.log(softmax(z)[np.arange(len(y)), y]).mean())


def by_hand(val: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], alpha: float) -> list[str]:
    """The row of the table that logits have."""
    (z_val, y_val), (z, y) = val, test
    p, n = softmax(z), len(y_val)
    scores = np.sort(1 - softmax(z_val)[np.arange(n), y_val])
    sets = 1 - p <= scores[math.ceil((n + 1) * (1 - alpha)) - 1] + 1e-7  # the command line computes p in float32
    right, confidence = p.argmax(1) == y, p.max(1)
    bins = np.ceil(15 * confidence) - 1
    gaps = [abs(right[bins == i].sum() - confidence[bins == i].sum()) for i in range(15)]
    squares = ((p - np.eye(10)[y]) ** 2).sum(1)
    numbers = [right.mean(), nll(z, y), sum(gaps) / len(y), squares.mean(), sets[np.arange(len(y)), y].mean()]
    return [f"{number:.4f}" for number in (*numbers, sets.sum(1).mean())]


def test_a_run_is_measured_on_its_test_part_and_fitted_on_its_validation_split(zoo: Zoo, trained: Path) -> None:
    result = zoo("calibrate", trained, "--conformal", "0.2")
    parts = predicted(trained)
    best = minimize_scalar(lambda t: nll(parts["val"][0] / t, parts["val"][1]), bounds=(0.01, 10), method="bounded")
    rows = table(result)
    assert list(rows) == ["as trained", f"temperature {best.x:.3f}"]
    assert rows["as trained"] == by_hand(parts["val"], parts["test"], 0.2)
    scaled = {name: (z / best.x, y) for name, (z, y) in parts.items()}
    found = [float(cell) for cell in rows[f"temperature {best.x:.3f}"]]
    assert found == pytest.approx([float(cell) for cell in by_hand(scaled["val"], scaled["test"], 0.2)], abs=2e-4)
    assert rows[f"temperature {best.x:.3f}"][0] == rows["as trained"][0]
    assert float(rows[f"temperature {best.x:.3f}"][1]) < float(rows["as trained"][1])
    assert "fitted on 144 validation examples, measured on 360 of the test part" in result.out
    assert "with a probability of 0.8 or more" in result.out
    tested = zoo("test", trained).out
    assert [re.search(rf"test/{name} +([\d.]+)", tested)[1] for name in ("acc", "loss")] == rows["as trained"][:2]  # type: ignore[index]
    kept = json.loads((trained / "calibration.json").read_text())
    z, y = parts["val"]
    assert kept["scores"] == pytest.approx(np.sort(1 - softmax(z)[np.arange(len(y)), y]), abs=1e-6)
    assert kept["temperature"] == pytest.approx(best.x, rel=1e-4)
    assert kept["sha256"] == hashlib.sha256((trained / "checkpoints" / "best.ckpt").read_bytes()).hexdigest()
    assert kept["data"] in (trained / "config.yaml").read_text()
    assert kept["checkpoint"] == "best.ckpt"
    assert (trained / "reliability.png").read_bytes()[:4] == b"\x89PNG"


@pytest.fixture(scope="module")
def runs_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of an MLP with dropout, and one of another split."""
    from recipes.cli.__main__ import main

    folder = tmp_path_factory.mktemp("uncertain")
    small = ["--model.widths=[16]", "--trainer.max_epochs=1", "--trainer.callbacks=null", *SHORT]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["zoo"])
        for options in (["--seed_everything=0"], ["--seed_everything=1"], ["--data.split_seed=7"]):
            assert main(["fit", "-c", "linear/mlp_digits", *small, *options]) == 0
    return folder


@pytest.fixture
def runs(runs_template: Path, tmp_cwd: Path) -> list[Path]:
    shutil.copytree(runs_template / "runs", tmp_cwd / "runs")
    (tmp_cwd / "three.png").write_bytes((BUNDLED / "three.png").read_bytes())
    return [Path("runs", "linear", "mlp_digits", f"version_{n}") for n in range(3)]


def test_the_report_of_the_run_is_made_again_with_the_diagram(zoo: Zoo, trained: Path) -> None:
    report = trained / "report.html"
    before = report.read_text()
    lock = Lock(trained)  # another process trains it, and writes its report when it ends
    assert zoo("calibrate", trained).code == 0
    lock.release()
    assert report.read_text() == before
    assert zoo("calibrate", trained).code == 0
    page = Page(report.read_text())
    assert (trained / "reliability.png").read_bytes() in page.pictures
    assert f"{RECIPE}/version_0 done" in page.text


def test_several_runs_are_an_ensemble_with_the_spread_of_its_members(zoo: Zoo, runs: list[Path]) -> None:
    result = zoo("calibrate", *runs[:2], "--mc-dropout", 20)
    rows = table(result)
    assert [re.sub(r"[\d.]+$", "", name) for name in rows] == [
        "as trained",
        "temperature ",
        "MC dropout, 20 masks",
        "ensemble of ",
        "its members, mean",
        "its members, range",
    ]
    one, two = (predicted(run) for run in runs[:2])
    each = [by_hand(part["val"], part["test"], 0.1) for part in (one, two)]
    assert rows["as trained"] == each[0]
    ranges = ["-".join(sorted(pair, key=float)) for pair in zip(*each, strict=True)]
    assert rows["its members, range"] == ranges
    means = [sum(map(float, pair)) / 2 for pair in zip(*each, strict=True)]
    assert [float(cell) for cell in rows["its members, mean"]] == pytest.approx(means, abs=1e-4)
    mean = {
        name: (np.log((softmax(one[name][0]) + softmax(two[name][0])) / 2), one[name][1]) for name in ("val", "test")
    }
    assert rows["ensemble of 2"] == by_hand(mean["val"], mean["test"], 0.1)
    assert rows["MC dropout, 20 masks"] != rows["as trained"]
    assert (runs[0] / "calibration.json").is_file()
    assert not (runs[1] / "calibration.json").exists()


def test_prediction_with_a_set_is_calibrated_once(zoo: Zoo, runs: list[Path]) -> None:
    first = zoo("predict", runs[0], "three.png", "--conformal", 0.05)
    assert first.code == 0, first.err
    assert "calibration.json is made from the 144 validation examples" in first.err
    assert "set: holds the true label with a probability of 0.95 or more" in first.out
    kept = json.loads((runs[0] / "calibration.json").read_text())["scores"]
    again = zoo("predict", runs[0], "three.png", "--conformal", 0.05)
    assert (again.out, again.err) == (first.out, "")
    (row,) = json.loads(zoo("predict", runs[0], "three.png", "--conformal", 0.05, "--top", 10, "--json").out)
    threshold = kept[math.ceil(145 * 0.95) - 1]
    assert row["set"] == [pair["label"] for pair in row["top"] if 1 - pair["probability"] <= threshold]
    # another checkpoint has another hash
    other = runs[0] / "checkpoints" / "best.ckpt"
    shutil.copy(runs[1] / "checkpoints" / "best.ckpt", other)
    assert "is made from" in zoo("predict", runs[0], "three.png", "--conformal", 0.05).err
    assert json.loads((runs[0] / "calibration.json").read_text())["scores"] != kept
    (runs[0] / "calibration.json").write_text("{")
    assert "is made from" in zoo("predict", runs[0], "three.png", "--conformal", 0.05).err


def test_a_set_may_be_empty_or_hold_all(zoo: Zoo, runs: list[Path]) -> None:
    few = zoo("predict", runs[0], "three.png", "--conformal", 0.001, "--json")
    assert "144 calibration examples are too few for alpha=0.001, which takes 999 or more" in few.err
    assert sorted(json.loads(few.out)[0]["set"]) == list("0123456789")
    most = zoo("predict", runs[0], "three.png", "--conformal", 0.99)
    assert re.search(r"three.png +\d +[\d.]+ +none", most.out), most.out


def test_prediction_of_an_ensemble_and_of_monte_carlo_dropout(zoo: Zoo, runs: list[Path]) -> None:
    alone = [json.loads(zoo("predict", run, "three.png", "--top", 10, "--json").out)[0] for run in runs[:2]]
    both = zoo("predict", runs[0], "three.png", "--ensemble", runs[1], "--top", 10, "--conformal", 0.1, "--json")
    (row,) = json.loads(both.out)
    p = [{pair["label"]: pair["probability"] for pair in each["top"]} for each in (*alone, row)]
    mean = {label: (p[0][label] + p[1][label]) / 2 for label in p[0]}
    assert p[2] == pytest.approx(mean, abs=1e-6)
    entropies = [-sum(v * math.log(v) for v in each.values()) for each in (*p[:2], mean)]
    assert row["entropy"] == pytest.approx(entropies[2], abs=1e-5)
    assert row["disagreement"] == pytest.approx(entropies[2] - (entropies[0] + entropies[1]) / 2, abs=1e-5)
    assert row["label"] == max(mean, key=lambda label: mean[label])
    (one, y), (two, _) = (predicted(run)["val"] for run in runs[:2])
    scores = np.sort(1 - (softmax(one) + softmax(two))[np.arange(len(y)), y] / 2)
    assert set(row["set"]) == {label for label in mean if 1 - mean[label] <= scores[math.ceil(145 * 0.9) - 1] + 1e-7}
    assert not (runs[0] / "calibration.json").exists()  # which is of the model alone
    dropped = zoo("predict", runs[0], "three.png", "--mc-dropout", 7)
    assert dropped.out.split("\n")[0].split() == ["file", "label", "probability", "entropy", "disagreement"]
    assert dropped.out == zoo("predict", runs[0], "three.png", "--mc-dropout", 7).out


def test_what_calibrate_refuses(zoo: Zoo, runs: list[Path]) -> None:
    one, two, other = runs
    identity = [re.search(r"fingerprint \w+", (run / "config.yaml").read_text())[0] for run in runs]  # type: ignore[index]
    assert_one_line(zoo("calibrate", one, other), "runs on the same data", identity[0], identity[2])
    assert_one_line(zoo("predict", one, "three.png", "--ensemble", other), "same data", identity[0], identity[2])
    assert_one_line(zoo("calibrate", one, one), "a run is given twice")
    assert_one_line(zoo("calibrate", one, "--conformal", 1), "above 0 and below 1", "got 1")
    assert_one_line(zoo("calibrate", one, "--mc-dropout", 0), "1 or more, got 0")
    assert_one_line(zoo("calibrate"), "RUN must be given")
    assert_one_line(zoo("calibrate", "lenet5_digits"), "lenet5_digits has no run folder beside it", "give a run folder")
    # the data have changed since
    config = two / "config.yaml"
    config.write_text(config.read_text().replace(identity[1], "fingerprint 0123456789abcdef"))
    assert_one_line(zoo("calibrate", two), "no longer those it was trained on", "0123456789abcdef", identity[1])
    # there is no validation split
    text = (one / "config.yaml").read_text()
    (one / "config.yaml").write_text(
        re.sub(r"#   data .*\n", "", text).replace("val_fraction: 0.1", "val_fraction: 0.0")
    )
    assert_one_line(zoo("calibrate", one), "without a validation split", "--data.val_fraction 0.1")
    assert_one_line(zoo("predict", one, "three.png", "--conformal", 0.1), "without a validation split")


def test_what_predict_refuses(zoo: Zoo, trained: Path, runs_template: Path) -> None:
    Path("three.png").write_bytes((BUNDLED / "three.png").read_bytes())
    predict = ("predict", trained, "three.png")
    assert_one_line(zoo(*predict, "--conformal", 0), "above 0 and below 1", "got 0")
    assert_one_line(zoo(*predict, "--mc-dropout", 5), "this SoftmaxRegressionClassifier has none", "--ensemble RUN")
    assert_one_line(zoo(*predict, "--mc-dropout", 0), "1 or more, got 0")
    assert_one_line(zoo(*predict, "--mc-dropout", 5, "--ensemble", trained), "leave one of the two out")
    assert_one_line(zoo(*predict, "--conformal", 0.1, "--features"), "leave one of the two out")
    assert_one_line(zoo(*predict, "--ensemble", "nothing"), "no model 'nothing'")
    assert_one_line(zoo(*predict, "--ensemble", "mnist1d_fcn"), "must have the same")
    assert_one_line(zoo("predict", "lenet5_digits", "three.png", "--conformal", 0.1), "has no run folder beside it")
    assert_one_line(zoo("predict", "vae_digits", "three.png", "--conformal", 0.1), "VAE is not one")


def test_one_label_an_example() -> None:
    steps = package.SequenceClassifier(form="many_to_many")
    several = package.MLPClassifier(in_features=3, num_classes=2, mode="multilabel")
    for model, word in ((steps, "one for each step"), (several, r"several \(mode: multilabel\)")):
        with pytest.raises(UserError, match=word):
            check_model(model, "x")
    with pytest.raises(UserError, match="MLPRegressor is not one"):
        check_model(package.MLPRegressor(in_features=3), "x")


def test_a_validation_split_without_a_mistake_has_no_temperature_but_scores(tmp_path: Path) -> None:
    checkpoint = tmp_path / "best.ckpt"
    checkpoint.write_bytes(b"any")
    z = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    model = package.MLPClassifier(in_features=3, num_classes=2)
    found, why = calibrate(model, z, torch.tensor([0, 1]), checkpoint, "")
    assert found.temperature is None
    assert "each of the 2 examples is classified right" in why
    assert found.scores == pytest.approx([1 / (1 + math.e**2), 1 / (1 + math.e)])


def test_data_without_a_test_part() -> None:
    data: Any = SimpleNamespace(run=Path("run"), data=SimpleNamespace(has_test=False))
    with pytest.raises(UserError, match="the data of run have no test part"):
        RunData.test(data)


def test_a_binary_classifier(zoo: Zoo, tmp_cwd: Path) -> None:
    fit = zoo("fit", "-c", "linear/logistic_breast_cancer", "--trainer.max_epochs=3", "--trainer.callbacks=null")
    assert fit.code == 0, fit.err
    run = Path("runs", "linear", "logistic_breast_cancer", "version_0")
    rows = table(zoo("calibrate", run))
    accuracy, loss = (re.search(rf"test/{name} +([\d.]+)", fit.out)[1] for name in ("acc", "loss"))  # type: ignore[index]
    assert rows["as trained"][:2] == [accuracy, loss]
    model: Tensor | Any = package.load(run / "checkpoints" / "best.ckpt")
    assert model.mode == "binary"
