"""Runs that are sent to a service, a stand-in on this machine, which stays, dies or hangs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_kit import RECIPE, SHORT, Zoo, assert_one_line
from test_wandb import by_step, csv_rows
from wandb_kit import read_finished, wandb_files
from wandb_service import Service, serving

from recipes.cli.run.wandb_run import AXIS

RUN = Path("runs", RECIPE, "version_0")
FIT = ("fit", RECIPE, *SHORT, "--trainer.max_epochs=2", "--logger=wandb")
CHANGES = """
from lightning.pytorch import Callback
class Changes(Callback):
    what = None
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 4:
            type(self).what()
"""


@pytest.fixture
def service(tmp_cwd: Path) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch, serving(patch) as service:
        yield service


def numbers(rows: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """The numbers of the rows that the service got, by step."""
    return by_step([{k: v for k, v in row.items() if not k.startswith("_")} for row in rows])


def test_the_service_gets_what_is_in_the_file(zoo: Zoo, service: Service) -> None:
    result = zoo(*FIT)
    assert (result.code, result.err) == (0, "")
    assert numbers(service.rows) == csv_rows(RUN)
    assert all(AXIS in row for row in service.rows)
    assert service.exit_code == 0
    (path,) = wandb_files(RUN)
    assert path.parent.name.startswith("run-")
    assert by_step(read_finished(path).rows) == csv_rows(RUN)


@pytest.mark.parametrize("what", ["die", "hang"])
def test_a_service_that_is_lost_in_mid_run_costs_a_line_and_no_row(
    zoo: Zoo, service: Service, monkeypatch: pytest.MonkeyPatch, tmp_cwd: Path, what: str
) -> None:
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "2")
    name = f"changes_{tmp_cwd.name}"
    Path(f"{name}.py").write_text(CHANGES)
    monkeypatch.syspath_prepend(tmp_cwd)
    monkeypatch.setattr(f"{name}.Changes.what", getattr(service, what))
    result = zoo(*FIT, f"--trainer.callbacks+={name}.Changes")
    assert result.code == 0, result.err
    (line,) = result.err.splitlines()
    assert "W&B has not got all of the run" in line
    (path,) = wandb_files(RUN)
    assert f"`wandb sync {path.parent.resolve()}`" in line
    written = read_finished(path)
    assert by_step(written.rows) == csv_rows(RUN)
    assert (written.exit_code, written.summary["state"]) == (0, "done")
    assert service.exit_code is None


def test_a_service_that_does_not_answer_is_told_before_training(
    zoo: Zoo, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    service.hang()
    assert_one_line(zoo(*FIT), "W&B does not begin a run", "--logger wandb-offline", started=True)
    assert not Path("runs").exists()
