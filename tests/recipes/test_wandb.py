"""W&B runs of ``zoo fit``, read back from the file that they write."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_kit import RECIPE, SHORT, Zoo, assert_one_line
from PIL import Image
from wandb_kit import read_finished, read_run, read_wandb, wandb_files

from callbacks.writing import checked, log
from recipes.cli.run import loggers
from recipes.cli.run.folder import Run
from recipes.cli.run.wandb_run import AXIS
from recipes.cli.run.wandb_watch import Watch

RUN = Path("runs", RECIPE, "version_0")
FIT = ("fit", "-c", RECIPE, *SHORT, "--trainer.max_epochs=2", "--logger=wandb-offline")


@pytest.fixture
def pictures() -> None:
    """They are looked at."""


def built(folder: Path, **options: Any) -> Any:
    (logger,) = loggers.build("wandb-offline", Run(folder, "mine"), None, **options)
    return logger


def csv_rows(run: Path) -> dict[int, dict[str, float]]:
    """The values of metrics.csv by step."""
    rows = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    return {int(r["step"]): {k: float(v) for k, v in r.items() if v and k != "step"} for r in rows}


def by_step(rows: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """The numbers of W&B's rows by step."""
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        numbers = {k: v for k, v in row.items() if isinstance(v, int | float) and k != AXIS}
        found[row[AXIS]] = found.get(row[AXIS], {}) | numbers
    return {step: values for step, values in found.items() if values}


def test_all_of_a_run_is_in_its_file_on_one_axis_and_its_id_in_the_checkpoint(zoo: Zoo) -> None:
    assert zoo(*FIT, "--trainer.callbacks=callbacks.Samples").code == 0
    written = read_run(RUN)
    assert by_step(written.rows) == csv_rows(RUN)
    assert all(AXIS in row for row in written.rows)
    assert {axis for name, axis in written.axes.items()} == {AXIS}
    assert written.axes["*"] == AXIS
    assert written.steps_of["samples/examples"] == [2, 5]  # beside the metrics of the epochs
    shown = [row["samples/confusion"] for row in written.rows if "samples/confusion" in row]
    assert [picture["_type"] for picture in shown] == ["images/separated"] * 2
    for name in shown[-1]["filenames"]:
        assert next(RUN.glob(f"wandb/*run-*/files/{name}")).read_bytes().startswith(b"\x89PNG")
    # what was run, on what, with what
    config, environment = written.config, written.config["environment"]
    assert (config["recipe"], config["seed_everything"], config["trainer"]["max_epochs"]) == (RECIPE, 0, 2)
    assert config["model"]["init_args"]["in_features"] == 64  # the data's, not the class's
    assert config["data"]["class_path"] == "datamodules.DigitsDataModule"
    assert config["data_fingerprint"] in (RUN / "config.yaml").read_text()
    assert (config["parameters"], config["flops_per_example"]) == (64 * 10 + 10, 2 * 64 * 10)
    assert environment["torch"] == torch.__version__.partition("+")[0]
    # the end
    assert (written.exit_code, written.summary["state"], written.run.run_group) == (0, "done", "")
    assert written.run.display_name == f"{RECIPE}/version_0"
    checkpoint = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["wandb"]["id"] == written.run.run_id


@pytest.mark.parametrize(("verb", "metric"), [("test", "test/acc"), ("validate", "val/acc")])
def test_an_evaluation_has_the_config_of_its_run_and_its_checkpoint(
    zoo: Zoo, trained: Path, verb: str, metric: str
) -> None:
    result = zoo(verb, trained, "--logger=wandb-offline", "--trainer.devices=1")
    assert result.code == 0, result.err
    written = read_run(RUN.with_name("version_1"))
    (row,) = written.rows
    assert metric in row
    config, saved = written.config, torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    assert (config["recipe"], config["trainer"]["max_epochs"], config["model"]["init_args"]["in_features"]) == (
        RECIPE,
        2,
        64,
    )
    assert (config["parameters"], config["flops_per_example"]) == (64 * 10 + 10, 2 * 64 * 10)
    assert config["environment"]["torch"] == torch.__version__.partition("+")[0]
    assert config["data_fingerprint"] == saved["DigitsDataModule"]["data"]
    assert config["data_fingerprint"] in (trained / "config.yaml").read_text()
    path = str(trained / "checkpoints/best.ckpt")
    facts = {"path": path, "epoch": saved["epoch"], "global_step": saved["global_step"]}
    assert config["checkpoint"] == {**facts, "data_fingerprint": config["data_fingerprint"]}
    assert (written.exit_code, written.summary["state"]) == (0, "done")


def test_a_validation_on_other_data_tells_both_fingerprints(zoo: Zoo, trained: Path) -> None:
    assert zoo("validate", trained, "--logger=wandb-offline", "--data.split_seed=1").code == 0
    config = read_run(RUN.with_name("version_1")).config
    assert config["checkpoint"]["data_fingerprint"] in (trained / "config.yaml").read_text()
    assert config["data_fingerprint"] != config["checkpoint"]["data_fingerprint"]
    assert config["data_fingerprint"] in (trained.with_name("version_1") / "config.yaml").read_text()


@pytest.mark.slow
def test_the_commit_is_in_the_config_of_a_run_in_a_repository(zoo: Zoo) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    Path("file").write_text("1")
    for words in (("init", "-q"), ("add", "file"), (*who, "commit", "-q", "-m", "first")):
        subprocess.run(["git", *words], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    Path("file").write_text("2")
    assert zoo(*FIT[:-2], "--trainer.max_epochs=1", FIT[-1]).code == 0
    environment = read_run(RUN).config["environment"]
    assert (environment["git_commit"], environment["git_dirty"]) == (commit, "yes")


@pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 3)])
def test_the_summary_is_that_of_the_best_validation(tmp_path: Path, mode: str, best: int) -> None:
    logger = built(tmp_path, monitor=("val/loss", mode))
    values = [math.nan, 0.5, 0.25, 0.75, math.nan, 0.5]
    for step, value in enumerate(values):
        logger.log_metrics({"val/loss": value, "val/acc": step / 8, "lr": step}, step)
        logger.log_metrics({"train/loss": value}, step)
    logger.log_metrics({"test/loss": 9.0}, 6)
    logger.finish("done", "")
    summary = read_run(tmp_path).summary
    assert (summary["val/loss"], summary["val/acc"], summary["best_step"]) == (values[best], best / 8, best)
    assert (summary["lr"], summary["train/loss"], summary["test/loss"]) == (5, 0.5, 9.0)  # the last ones


def test_masks_are_overlays_and_texts_and_tables_are_tables(tmp_path: Path) -> None:
    logger = built(tmp_path)
    images, masks = torch.zeros(2, 3, 4, 5, dtype=torch.uint8), torch.arange(40, dtype=torch.uint8).reshape(2, 4, 5) % 3
    shown = {"images": images, "masks": {"true": masks, "predicted": masks.flip(0)}, "class_names": ["a", "b", "c"]}
    for name, value in {
        "overlays": shown,
        "text": "to be",
        "table": [["word", "count"], ["be", 1], ["or", "-"]],
    }.items():
        log(logger, name, checked(name, value), 3)
    logger.finish("done", "")
    written = read_run(tmp_path)
    files = next(tmp_path.glob("wandb/*run-*/files"))
    overlay = next(row["overlays"] for row in written.rows if "overlays" in row)
    assert (overlay["_type"], overlay["count"]) == ("images/separated", 2)
    assert len(overlay["all_masks"]) == 2
    for i, kinds in enumerate(overlay["all_masks"]):
        for name, tensor in (("true", masks), ("predicted", masks.flip(0))):
            picture = np.asarray(Image.open(files / kinds[name]["path"]))
            assert np.array_equal(picture, tensor[i].numpy())
    labels = [value for key, value in written.config["_wandb"].items() if "mask" in json.dumps(value)]
    assert '"a"' in json.dumps(labels)
    for name, cells in (("text", [["to be"]]), ("table", [["be", 1], ["or", "-"]])):
        entry = next(row[name] for row in written.rows if name in row)
        table = json.loads((files / entry["path"]).read_text())
        assert (table["data"], entry["_type"]) == (cells, "table-file")
    assert {step for steps in written.steps_of.values() for step in steps} == {3}


def test_names_that_collide_and_numbers_that_are_none_are_kept(tmp_path: Path) -> None:
    logger = built(tmp_path)
    logger.log_metrics({"a": 1.0, "a/b": 2.0, "a.b": 3.0, AXIS: 4.0, "_step": 5.0}, 7)
    logger.log_metrics({"a": math.nan, "a/b": math.inf, "a.b": torch.tensor(6.0)}, 8)
    logger.log_table("table", columns=["x"], data=[["text"], [1.5]], step=9)
    logger.finish("done", "")
    written = read_run(tmp_path)
    first, second, third = written.rows
    assert first == {"a": 1.0, "a/b": 2.0, "a.b": 3.0, f"metric/{AXIS}": 4.0, "metric/_step": 5.0, AXIS: 7}
    assert math.isnan(second.pop("a"))
    assert second == {"a/b": math.inf, "a.b": 6.0, AXIS: 8}
    assert (third[AXIS], third["table"]["nrows"]) == (9, 2)
    assert written.summary["metric/_step"] == 5.0


def test_a_resumed_run_is_the_same_run_without_its_folder_too(zoo: Zoo) -> None:
    assert zoo(*FIT).code == 0
    first = read_run(RUN)
    shutil.rmtree(RUN / "wandb")
    result = zoo("fit", "--resume", RUN, "--trainer.max_epochs=3")
    assert result.code == 0, result.err
    second = read_run(RUN)
    assert second.run.run_id == first.run.run_id
    assert second.run.resume
    assert by_step(second.rows) == {step: row for step, row in csv_rows(RUN).items() if step > 5}
    assert second.summary["val/loss"] == min(r["val/loss"] for r in csv_rows(RUN).values() if "val/loss" in r)


def test_a_resumed_run_that_finds_nothing_better_keeps_its_best(tmp_path: Path) -> None:
    first = built(tmp_path / "first", monitor=("val/acc", "max"))
    first.log_metrics({"val/acc": 0.75, "val/loss": 0.5}, 3)
    first.finish("stopped", "by SIGTERM")
    again = built(tmp_path / "again", monitor=("val/acc", "max"), wandb=first.state())
    again.log_metrics({"val/acc": 0.5, "val/loss": 0.25}, 7)
    again.finish("done", "")
    summary = read_run(tmp_path / "again").summary
    assert (summary["val/acc"], summary["val/loss"], summary["best_step"]) == (0.75, 0.5, 3)


def test_runs_of_a_group_are_runs_of_their_own_in_the_group(zoo: Zoo) -> None:
    assert zoo("fit", RECIPE, *SHORT, "--trainer.max_epochs=1", "--logger=wandb-offline", "--seeds=2").code == 0
    one, two = (read_run(Path("runs", RECIPE, "seeds_0", f"seed_{i}")) for i in (0, 1))
    assert one.run.run_group == two.run.run_group == f"{RECIPE}/seeds_0"
    assert one.run.run_id != two.run.run_id
    assert (one.run.display_name, one.config["seed_everything"]) == (f"{RECIPE}/seeds_0/seed_0", 0)
    assert (two.run.display_name, two.config["seed_everything"]) == (f"{RECIPE}/seeds_0/seed_1", 1)
    assert one.exit_code == two.exit_code == 0
    assert by_step(one.rows) != by_step(two.rows)


ENDS = """
import os, signal
from lightning.pytorch import Callback
class Ends(Callback):
    def __init__(self, how: str = "") -> None:
        self.how = how
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 4 and self.how == "error":
            raise RuntimeError("the net\\nis broken")
        if trainer.global_step == 4 and self.how == "ctrl-c":
            raise KeyboardInterrupt
        if trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize(
    ("how", "code", "state", "exit_code", "message"),
    [
        ("error", 1, "failed", 1, "RuntimeError: the net is broken"),
        ("term", 143, "stopped", 143, "by SIGTERM"),
        pytest.param("ctrl-c", 130, "stopped", 255, "by Ctrl-C", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_fails_or_is_stopped_is_not_finished(
    zoo: Zoo, tmp_cwd: Path, how: str, code: int, state: str, exit_code: int, message: str
) -> None:
    name = f"ends_{tmp_cwd.name}"
    Path(f"{name}.py").write_text(ENDS)
    added = (f"--trainer.callbacks+={name}.Ends", f"--trainer.callbacks.how={how}")
    assert zoo(*FIT, *added).code == code
    written = read_run(RUN)
    assert (written.summary["state"], written.exit_code, written.preempting) == (state, exit_code, how == "term")
    assert written.summary["message"].startswith(message)
    assert by_step(written.rows) == csv_rows(RUN) != {}


def test_a_run_that_is_refused_leaves_no_run_at_all(zoo: Zoo) -> None:
    result = zoo(*FIT, "--trainer.callbacks+=callbacks.LearningCurves", "--model.lr=-1")
    assert result.code == 2, result.err
    assert not Path("runs").exists()


@pytest.mark.parametrize("kinds", [pytest.param("best", marks=pytest.mark.slow), "best+last"])
def test_checkpoints_are_artifacts_where_it_is_asked_for(zoo: Zoo, monkeypatch: pytest.MonkeyPatch, kinds: str) -> None:
    monkeypatch.delenv("WANDB_DATA_DIR")  # of the tests
    assert zoo(*FIT, "--wandb-artifacts", kinds).code == 0
    written = read_run(RUN)
    assert [(a.name, a.type) for a in written.artifacts] == [(f"model-{written.run.run_id}", "model")] * len(
        kinds.split("+")
    )
    assert [sorted(a.aliases) for a in written.artifacts] == [[kind, "latest"] for kind in kinds.split("+")]
    for kind, artifact in zip(kinds.split("+"), written.artifacts, strict=True):
        (entry,) = artifact.manifest.contents
        assert entry.path == f"{kind}.ckpt"
        copy = Path(entry.local_path)
        assert copy.is_relative_to(RUN.resolve() / "wandb")  # it may be uploaded when the checkpoint is another
        assert copy.read_bytes() == (RUN / f"checkpoints/{kind}.ckpt").read_bytes()
    assert json.loads(written.artifacts[0].metadata)["val/loss"] == written.summary["val/loss"]
    assert f"#   logger  wandb-offline, artifacts {kinds}\n" in (RUN / "config.yaml").read_text()
    assert zoo("fit", "--resume", RUN, "--trainer.max_epochs=3").code == 0  # it remembers
    assert len(read_finished(wandb_files(RUN)[-1]).artifacts) == len(kinds.split("+"))


@pytest.mark.slow
def test_no_checkpoint_is_one_otherwise(zoo: Zoo) -> None:
    assert zoo("fit", RECIPE, *SHORT, "--trainer.max_epochs=1", "--logger=wandb-offline", "--seeds=2").code == 0
    assert [read_run(Path("runs", RECIPE, "seeds_0", f"seed_{i}")).artifacts for i in (0, 1)] == [[], []]
    more = ("--logger=wandb-offline", "--wandb-artifacts=best")
    assert zoo("fit", RECIPE, *SHORT, "--trainer.max_epochs=1", *more, "--seeds=2").code == 0
    runs = [read_run(Path("runs", RECIPE, "seeds_1", f"seed_{i}")) for i in (0, 1)]
    assert [[sorted(a.aliases) for a in run.artifacts] for run in runs] == [[["best", "latest"]]] * 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--logger=wandb-offline", "--wandb-artifacts=bset"], ["none, best, best+last", "did you mean 'best'?"]),
        (["--wandb-artifacts=best"], ["give --logger wandb"]),
        (["--logger=csv", "--wandb-artifacts=best"], ["give --logger wandb"]),
        (["--seeds=2", "--wandb-artifacts=best"], ["give --logger wandb"]),
    ],
)
def test_artifacts_without_wandb_or_of_another_kind_are_refused(zoo: Zoo, options: list[str], words: list[str]) -> None:
    assert_one_line(zoo("fit", RECIPE, *options), *words)


KILLS = """
import os, signal, subprocess, time
from lightning.pytorch import Callback
class Kills(Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 4:
            time.sleep(PAUSE)
            for line in subprocess.run(["ps", "-eo", "pid,ppid,comm"], capture_output=True, text=True).stdout.splitlines():
                pid, parent, name = line.split(None, 2)
                if name.startswith("wandb-core") and parent == str(os.getpid()):
                    os.kill(int(pid), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    "pause", [0.0, pytest.param(1.5, marks=pytest.mark.slow)]
)  # before its file has a row, and after
def test_a_run_goes_on_when_the_process_of_wandb_is_killed(zoo: Zoo, tmp_cwd: Path, pause: float) -> None:
    name = f"kills_{tmp_cwd.name.replace('.', '_')}"
    Path(f"{name}.py").write_text(KILLS.replace("PAUSE", str(pause)))
    result = zoo(*FIT, f"--trainer.callbacks+={name}.Kills")
    assert result.code == 0, result.err
    (line,) = result.err.splitlines()
    assert "W&B's process has ended" in line
    assert "wandb sync" in line
    before, after = wandb_files(RUN)
    first, second = read_wandb(before), read_finished(after)
    assert bool(first.rows) == (pause > 0)
    assert by_step([*first.rows, *second.rows]) == csv_rows(RUN)
    assert before.name == after.name == f"run-{second.run.run_id}.wandb"
    assert second.config["parameters"] == 650
    assert (first.exit_code, second.exit_code, second.summary["state"]) == (None, 0, "done")


def cores() -> list[int]:
    """The processes of W&B's that this one has begun."""
    lines = subprocess.run(["ps", "-eo", "pid,ppid,stat,comm"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 3) for line in lines.splitlines()]
    ours = [
        (int(pid), state) for pid, parent, state, name in rows if parent == str(os.getpid()) and name[:5] == "wandb"
    ]
    return [pid for pid, state in ours if state[0] != "Z"]  # those that were killed


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(2, id="seen at the end"),
        pytest.param(2000, id="seen when the buffers are full", marks=pytest.mark.slow),
    ],
)
def test_a_process_of_wandb_that_is_frozen_is_ended_and_no_row_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    for name in ("_FROZEN", "_UPLOAD"):
        monkeypatch.setattr(f"recipes.cli.run.wandb_run.{name}", 1)
    said: list[str] = []
    logger = built(tmp_path, say=said.append)
    logger.describe({"lr": 0.1})
    for step in range(5):
        logger.log_metrics({"train/loss": step / 8}, step)
    (path,) = wandb_files(tmp_path)
    while not read_wandb(path).rows:
        time.sleep(0.1)
    (core,) = cores()
    os.kill(core, signal.SIGSTOP)
    for step in range(5, 5 + rows):
        logger.log_metrics({"train/loss": step / 8}, step)
        time.sleep(1.2 if step == 5 else 0)
    logger.finish("done", "")
    assert core not in cores()
    (line,) = said
    assert "W&B's process took nothing any more and was killed: the run goes on offline" in line
    assert "wandb sync" in line
    before, after = wandb_files(tmp_path)
    first, second = read_wandb(before), read_finished(after)
    assert by_step([*first.rows, *second.rows]) == {step: {"train/loss": step / 8} for step in range(5 + rows)}
    assert (first.exit_code, second.exit_code, second.summary["state"]) == (None, 0, "done")
    assert second.config["lr"] == 0.1


@pytest.mark.slow
def test_a_process_that_works_is_not_ended(tmp_path: Path) -> None:
    ended: list[bool] = []
    file = tmp_path / "file"
    watch = Watch(file, lambda: ended.append(True))
    with watch.waiting(2):  # slow, but it takes something
        for i in range(8):
            time.sleep(0.5)
            file.write_bytes(b"x" * i)
    time.sleep(3)  # nothing waits for it
    assert (ended, watch.acted) == ([], False)
    with watch.waiting(2):
        time.sleep(3.5)
    watch.stop()
    assert (ended, watch.acted) == ([True], True)


@pytest.mark.slow
def test_a_run_goes_on_when_the_process_of_wandb_is_killed_twice(tmp_cwd: Path) -> None:
    Path("twice.py").write_text(KILLS.replace("PAUSE", "0").replace("global_step == 4", "global_step in (2, 4)"))
    command = [sys.executable, "-m", "recipes.cli", *FIT, "--trainer.callbacks+=twice.Kills"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stderr.splitlines()  # nothing when the process ends
    assert "W&B's process has ended" in first
    assert second.endswith("again: nothing more is sent to it")
    assert {0, 5} <= csv_rows(RUN).keys()


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_its_rows(tmp_cwd: Path) -> None:
    Path("killed.py").write_text(
        KILLS.replace("PAUSE", "3").replace("time.sleep(3)", "time.sleep(3); os.kill(os.getpid(), 9)")
    )
    command = [sys.executable, "-m", "recipes.cli", *FIT, "--trainer.callbacks+=killed.Kills"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    (path,) = wandb_files(RUN)
    for _ in range(50):  # its own process sees it a moment later
        if "train/loss_step" in read_wandb(path).steps_of:
            break
        time.sleep(0.1)
    written = read_wandb(path)
    assert written.steps_of["train/loss_step"] == [0, 1, 2]  # that of the last step is written after the callbacks
    assert written.steps_of["val/loss"] == [2]
    assert written.exit_code is None
    assert written.config["recipe"] == RECIPE


@pytest.mark.slow
def test_of_two_processes_the_first_alone_writes(tmp_cwd: Path) -> None:
    command = [sys.executable, "-m", "recipes.cli", *FIT, "--trainer.devices=2", "--trainer.accelerator=cpu"]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "PYTHONSAFEPATH": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert by_step(read_run(RUN).rows) == csv_rows(RUN)
    assert not Path("wandb").exists()
