"""The run folder: numbering, selection, truncation of metrics, removal."""

import csv
from pathlib import Path

import pytest

from recipes.cli.errors import UserError
from recipes.cli.run.folder import (
    CHECKPOINTS,
    CONFIG,
    Run,
    create_run,
    find_run,
    is_main_process,
    newer_runs,
    newest_run,
)
from recipes.cli.run.loggers import MetricsFile


def make(folder: Path, *checkpoints: str) -> Path:
    (folder / CHECKPOINTS).mkdir(parents=True)
    (folder / CONFIG).write_text("")
    for name in checkpoints:
        (folder / CHECKPOINTS / name).write_text("")
    return folder


def test_versions_count_up_by_number(tmp_cwd: Path) -> None:
    make(Path("runs/cnn/x/version_9"))
    make(Path("runs/cnn/x/version_10"))
    Path("runs/cnn/x/notes.txt").write_text("")
    assert create_run(Path("runs"), "cnn/x").folder == Path("runs/cnn/x/version_11")


def test_discard_removes_only_what_was_created(tmp_cwd: Path) -> None:
    make(Path("runs/cnn/other/version_0"))
    run = create_run(Path("runs"), "cnn/x")
    (run.folder / "log.txt").write_text("x")
    run.discard()
    assert not Path("runs/cnn/x").exists()
    assert Path("runs/cnn/other/version_0", CONFIG).exists()


def test_discard_keeps_a_folder_with_a_checkpoint_or_of_a_resumed_run(tmp_cwd: Path) -> None:
    run = create_run(Path("runs"), "x")
    (run.folder / CHECKPOINTS / "last.ckpt").write_text("")
    run.discard()
    assert run.folder.is_dir()
    resumed = Run(make(Path("runs/y/version_0")), "y")
    resumed.discard()
    assert resumed.folder.is_dir()


def test_discard_keeps_an_existing_root(tmp_cwd: Path) -> None:
    Path("mine").mkdir()
    create_run(Path("mine"), "x").discard()
    assert list(Path("mine").iterdir()) == []


def test_a_folder_that_cannot_be_created_is_an_error(tmp_cwd: Path) -> None:
    Path("runs").write_text("a file")
    with pytest.raises(UserError, match=r"cannot create a run folder in runs/x: .*--runs FOLDER"):
        create_run(Path("runs"), "x")
    Path("other").mkdir()
    Path("other/cnn").write_text("a file")
    with pytest.raises(UserError):
        create_run(Path("other"), "cnn/x")
    assert Path("other/cnn").read_text() == "a file"


def test_newest_is_by_number_and_has_a_checkpoint(tmp_cwd: Path) -> None:
    root = Path("runs")
    assert newest_run(root, "x") is None
    make(root / "x/version_0")
    assert newest_run(root, "x") is None
    assert newer_runs(root, "x", None) == [root / "x/version_0"]
    make(root / "x/version_2", "last.ckpt")
    make(root / "x/version_10", "best.ckpt")
    make(root / "x/version_11")
    (root / "x/version_12").mkdir()  # killed before its config.yaml
    newest = newest_run(root, "x")
    assert newest == root / "x/version_10"
    assert newer_runs(root, "x", newest) == [root / "x/version_11", root / "x/version_12"]


@pytest.mark.parametrize(
    "text", ["runs/a/x/version_0", "a/x/version_0", "version_0", "runs/a/x/version_0/checkpoints/last.ckpt"]
)
def test_find_takes_a_path_a_name_or_a_checkpoint(tmp_cwd: Path, text: str) -> None:
    folder = make(Path("runs/a/x/version_0"), "last.ckpt")
    assert find_run(text, Path("runs"), "a/x") == folder


def test_find_names_the_places_it_tried(tmp_cwd: Path) -> None:
    with pytest.raises(UserError, match=r"no run 'version_7': tried .*runs/x/version_7/config.yaml"):
        find_run("version_7", Path("runs"), "x")
    Path("a.ckpt").write_text("")
    with pytest.raises(UserError, match="is not in a run folder"):
        find_run("a.ckpt", Path("runs"), "x")


def test_a_resumed_metrics_file_keeps_the_rows_before_the_step(tmp_cwd: Path) -> None:
    path = Path("metrics.csv")
    text = "step,epoch,a\n0,0,1\n9,0,2\n10,1,3\n200,2,4\n"
    path.write_text(text)
    file = MetricsFile(path, before=10)
    file.save()
    assert path.read_text() == text  # nothing is written before a row is added
    assert (file.kept, file.rows, file.damaged, file.missing) == (2, 2, 0, False)
    file.add({"a": 5.0}, 10)
    file.save()
    assert path.read_text().split() == ["step,epoch,a", "0,0,1", "9,0,2", "10,,5.0"]
    assert file.rows == 3
    file = MetricsFile(path, before=0)
    file.add({"b": 5.0}, 0)
    file.save()
    assert path.read_text().split() == ["step,epoch,a,b", "0,,,5.0"]
    assert MetricsFile(Path("none.csv"), before=3).missing
    assert not Path("none.csv").exists()


@pytest.mark.parametrize(
    ("text", "kept", "damaged"),
    [
        ("step,epoch,a,b\n0,0,1.5,2\n1,0,1.25,0.1", ["0,0,1.5,2"], 1),  # half a number
        ("step,epoch,a,b\n0,0,1.5,2\n1,0,1.25", ["0,0,1.5,2"], 1),
        ("step,epoch,a,b\n0,0,1.5,2\n1,0,1.25\n2,0,3,4\n", ["0,0,1.5,2", "2,0,3,4"], 1),
        ("step,epoch,a,b\n0,0,1.5,2\n,0,1,2\n\0\0\0\n", ["0,0,1.5,2"], 2),
        ("step,epo", [], 1),
        ("", [], 0),
    ],
)
def test_damaged_lines_are_left_out_and_counted(tmp_cwd: Path, text: str, kept: list[str], damaged: int) -> None:
    path = Path("metrics.csv")
    path.write_text(text)
    file = MetricsFile(path, before=9)
    assert (file.kept, file.damaged) == (len(kept), damaged)
    file.add({"a": 5.0, "b": 6.0}, 9)
    file.save()
    assert path.read_text().split() == ["step,epoch,a,b", *kept, "9,,5.0,6.0"]


def test_names_of_columns_may_be_of_any_script(tmp_cwd: Path) -> None:
    """Offsets in the file are of bytes."""
    path = Path("metrics.csv")
    file = MetricsFile(path)
    for step in range(3):
        file.add({"val/iou/größe": 0.5}, step)
        file.save()
    file.add({"neu": 1.0}, 2)
    file.save()
    lines = path.read_text(encoding="utf-8").split()
    assert lines == ["step,epoch,neu,val/iou/größe", "0,,,0.5", "1,,,0.5", "2,,1.0,0.5"]


def test_metrics_file_has_one_row_per_step_and_is_continued(tmp_cwd: Path) -> None:
    path = Path("metrics.csv")
    file = MetricsFile(path)
    file.add({"epoch": 0, "b": 1.0}, 4)
    file.save()
    file.add({"a": 2.0}, 4)  # a new column joins the row of its step
    file.add({"a": 3.0, "epoch": 1}, 5)
    file.save()
    file = MetricsFile(path)
    file.add({"c": 5.0}, 5)
    file.add({"a": 4.0}, 6)
    file.save()
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [list(row.values()) for row in rows] == [
        ["4", "0", "2.0", "1.0", ""],
        ["5", "1", "3.0", "", "5.0"],
        ["6", "", "4.0", "", ""],
    ]
    assert list(rows[0]) == ["step", "epoch", "a", "b", "c"]
    assert [p.name for p in Path().iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize(
    ("variables", "main"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "4", "LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"NODE_RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_rank_zero_is_detected_before_training(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], main: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_main_process() is main
