"""Penalties in a recipe and on the command line: the run, its log, its folder."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cli_kit import SHORT, Zoo

RECIPE = Path(__file__).parents[2] / "recipes/cnn/lenet_digits.yaml"
ONE = (*SHORT, "--trainer.max_epochs=1", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1")
ACTIVITY = {"activity_l1": {"weight": 0.1, "layers": ["fc1", "fc2"]}}


@pytest.mark.parametrize("where", ["recipe", "options"])
def test_penalties_of_a_run(zoo: Zoo, where: str) -> None:
    given: dict[str, Any] = {"l2": 0.01, **(ACTIVITY if where == "recipe" else {})}
    recipe = yaml.safe_load(RECIPE.read_text())
    del recipe["trainer"]["callbacks"]
    if where == "recipe":
        recipe["model"]["init_args"]["penalties"] = given
    Path("mine.yaml").write_text(yaml.safe_dump(recipe))
    result = zoo("fit", "-c", "mine.yaml", *ONE, *(["--model.penalties.l2=0.01"] if where == "options" else []))
    assert result.code == 0, result.err
    run = Path("runs/mine/version_0")
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["penalties"] == given
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert saved["hyper_parameters"]["penalties"] == given
    rows = [row for row in csv.DictReader((run / "metrics.csv").read_text().splitlines()) if row["train/loss_step"]]
    assert len(rows) == 3
    for row in rows:
        assert {key for key in row if "penalty" in key and row[key]} >= {f"train/penalty_{name}_step" for name in given}
        assert all(float(row[f"train/penalty_{name}_step"]) > 0 for name in given)
