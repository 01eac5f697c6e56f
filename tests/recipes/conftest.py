"""The command line, called in this process, and a trained run."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_kit import LETTERS, RECIPE, SHORT, Result, Zoo
from matplotlib.figure import Figure

from recipes.cli.__main__ import main


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, but not drawn, which takes a third of a short run: their files are blank.

    What they show is tested where each is made, in tests/callbacks and tests/zoo/drawing.
    """
    monkeypatch.setattr(Figure, "draw", lambda *_: None)


@pytest.fixture(autouse=True)
def pictures(blank_pictures: None) -> None:
    """Files of tests that look at pictures have a fixture of this name that does nothing."""


@pytest.fixture
def zoo(tmp_cwd: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Zoo:
    """Call the command line in an empty folder: ``zoo("fit", "-c", RECIPE)``."""
    monkeypatch.setattr(sys, "argv", ["zoo"])

    def run(*args: object) -> Result:
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def run_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two epochs of three steps."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["zoo"])
        assert main(["fit", "-c", RECIPE, "--trainer.max_epochs=2", *SHORT]) == 0
    return folder


@pytest.fixture
def trained(run_template: Path, tmp_cwd: Path) -> Path:
    """A copy of the trained run folder in the test's current folder."""
    shutil.copytree(run_template / "runs", tmp_cwd / "runs")
    return Path("runs", RECIPE, "version_0")


@pytest.fixture
def lm(tmp_cwd: Path) -> Any:
    """A language model, untrained, in the folder "lm"."""
    import torch

    import zoo as package

    torch.manual_seed(0)
    model = package.RecurrentLanguageModel(vocab_size=5, cell="gru", width=8)
    model.describe_data({"input_shape": (6,), "vocabulary": LETTERS})
    model.save_pretrained("lm")
    return package.load("lm")
