"""Faults that are planted are found, and nothing is said of healthy runs: a short form of docs/diagnostics.md."""

import json
from collections import Counter
from pathlib import Path

import pytest
from cli_kit import Zoo

from callbacks.diagnoses import NAMES
from recipes.cli import catalog
from recipes.cli.studies.planted_faults import FAULTS, SEEDS, Fault, Result, measure, table

# recipes that show what does not work, or that stop too late, and say so; the best checkpoint is what counts
TRUE = {"recurrent/rnn_adding": ["underfit"], "recurrent/lstm_sunspots": ["overfit"]}
MEASURED = [recipe.name for recipe in catalog.shipped() if recipe.bound]


def test_each_diagnosis_has_three_faults() -> None:
    assert Counter(fault.name for fault in FAULTS) == dict.fromkeys(NAMES, 3)
    assert len({(fault.name, fault.family) for fault in FAULTS}) == 3 * len(NAMES)


def test_one_fault_is_found_and_shown() -> None:
    (fault,) = [fault for fault in FAULTS if (fault.name, fault.family) == ("not finite", "mlp")]
    result = measure(fault, 2)
    assert result.found == ("not finite",)
    assert result.evidence == "the output of net.layers.1.linear is the first that is not finite"


def test_the_table_counts() -> None:
    one, two = (Fault("overfit", family, FAULTS[0].build) for family in ("mlp", "vit"))
    results = [
        Result(one, 0, ("overfit", "underfit"), "", 1.0),
        Result(one, 1, ("underfit",), "", 1.0),
        Result(two, 0, ("overfit",), "", 1.0),
    ]
    _, _, row, whole = table(results).splitlines()
    assert row.split() == ["overfit", "2", "of", "3", "mlp", "1", "underfit", "2"]
    assert whole.split() == ["all", "2", "of", "3", "(67%)"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_fault_of_each_kind_is_found(name: str) -> None:
    fault = next(fault for fault in FAULTS if fault.name == name)
    assert name in measure(fault, 2).found


def said_of(zoo: Zoo, recipe: str, folder: Path) -> list[str]:
    result = zoo("fit", "-c", recipe, "--runs", str(folder), "--trainer.callbacks+=callbacks.TrainingDiagnostics")
    assert result.code == 0, result.err
    return [each["name"] for path in folder.rglob("diagnoses.json") for each in json.loads(path.read_text())]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["linear/mlp_digits", "autoencoder/vae8_digits", "recurrent/gru_adding"])
def test_nothing_is_said_of_a_healthy_run(zoo: Zoo, recipe: str, tmp_path: Path) -> None:
    assert said_of(zoo, recipe, tmp_path) == []


@pytest.mark.evidence
def test_four_of_five_faults_are_found() -> None:
    results = [measure(fault, seed) for fault in FAULTS for seed in SEEDS]
    print(table(results))
    assert sum(result.fault.name in result.found for result in results) >= 0.8 * len(results)


@pytest.mark.evidence
@pytest.mark.parametrize("recipe", MEASURED)
def test_nothing_is_said_of_any_healthy_recipe(zoo: Zoo, recipe: str, tmp_path: Path) -> None:
    assert said_of(zoo, recipe, tmp_path) == TRUE.get(recipe, [])
