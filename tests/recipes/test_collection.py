"""``zoo runs``: the table of all runs, sorted, written, and runs removed."""

import csv
import json
import math
import os
import re
import shutil
import sys
from io import StringIO
from pathlib import Path

import pytest
from cli_kit import RECIPE, SHORT, Zoo, assert_one_line

from recipes.cli import collection
from recipes.cli.collection import find_runs, lower_is_better, natural, runs_below, size_of
from recipes.cli.pages import listing
from recipes.cli.run.lock import Lock
from recipes.cli.run.record import begun, read_record, write_record

RUN = Path("runs", RECIPE, "version_0")


def table(text: str) -> list[dict[str, str]]:
    """The rows of the printed table."""
    lines = text.splitlines()
    edges = [match.start() for match in re.finditer(r"-+", lines[1])]
    rows = lines[: next((i for i, line in enumerate(lines) if not line), len(lines))]
    cut = [[line[a:b].strip() for a, b in zip(edges, [*edges[1:], None], strict=True)] for line in rows]
    return [dict(zip(cut[0], row, strict=True)) for row in cut[2:]]


def more(trained: Path, name: str, recipe: str | None = None, **changes: float) -> Path:
    """Another run like the trained one, with other results."""
    folder = Path("runs", recipe or RECIPE, name)
    shutil.copytree(trained, folder)
    if recipe:
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace(f"#   recipe  {RECIPE}", f"#   recipe  {recipe}"))
    results = json.loads((folder / "results.json").read_text())
    for metric, value in changes.items():
        results["metrics"][metric.replace("_", "/")] = value
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def state(folder: Path, state: str, message: str = "") -> None:
    record = read_record(folder)
    assert record is not None
    write_record(folder, type(record)(**{**vars(record), "state": state, "message": message}))


def test_a_run_as_it_stands_in_its_files(zoo: Zoo, trained: Path) -> None:
    results = json.loads((trained / "results.json").read_text())
    printed = zoo("runs")
    assert printed.code == 0, printed.err
    (row,) = table(printed.out)
    assert (row["recipe"], row["run"], row["state"], row["seed"]) == (RECIPE, "version_0", "done", "0")
    assert row["best"] == f"val/loss {results['best']['value']:.4f}"
    assert row["test"] == f"test/acc {results['metrics']['test/acc']:.4f}"  # of the recipe's bound, not of the monitor
    size = sum(path.stat().st_size for path in trained.rglob("*") if path.is_file())
    assert row["size"] == f"{size / 1000:.0f} kB"
    record = json.loads((trained / "run.json").read_text())
    assert row["time"] == f"{record['seconds']:.1f} s"


def test_runs_of_groups_and_of_deep_folders_are_found_in_order(trained: Path) -> None:
    for name in ("version_10", "version_2", "seeds_0/seed_1", "folds_0/fold_3"):
        more(trained, name)
    more(trained, "version_0", "aaa")
    Path("runs", RECIPE, "seeds_0/seed_2").mkdir()  # of a group, not begun
    Path("runs", RECIPE, "seeds_0/seed_2/config.yaml").write_text("seed_everything: 2\n")
    names = [path.relative_to("runs").as_posix() for path in find_runs(Path("runs"))]
    of_recipe = ("folds_0/fold_3", "seeds_0/seed_1", "version_0", "version_2", "version_10")
    assert names == ["aaa/version_0", *(f"{RECIPE}/{name}" for name in of_recipe)]
    assert natural("version_2") < natural("version_10") < natural("version_11a")


def test_seeds_that_have_not_begun_are_told_and_are_not_counted(zoo: Zoo, trained: Path) -> None:
    group = Path("runs", RECIPE, "seeds_0")
    for i in range(5):
        if i < 2:
            more(trained, f"seeds_0/seed_{i}", test_acc=0.5 + i / 4)
        else:  # as zoo fit --seeds 5 makes them before the first one is trained
            (group / f"seed_{i}").mkdir()
            shutil.copy(trained / "config.yaml", group / f"seed_{i}")
    told = f"{RECIPE}/seeds_0: 2 of 5 seeds have begun"
    printed = zoo("runs").out
    assert [line for line in printed.splitlines() if "seeds have begun" in line] == [told]
    assert [row["run"] for row in table(printed)] == ["seeds_0/seed_0", "seeds_0/seed_1", "version_0"]
    assert "have begun" not in zoo("runs", "version_0").out  # none of the group is listed
    assert f">{told}</p>" in listing.body_of(runs_below(Path("runs").resolve()), Path("runs").resolve(), "runs")
    lines = zoo("compare", group).out.splitlines()
    assert (
        lines[0] == f"A  {group}: 2 of 5 seeds of {RECIPE}, other than the recipe in {lines[0].rpartition(' in ')[2]}"
    )
    assert lines[1] == f"   seed_2, seed_3, seed_4 have not begun: zoo fit --resume {group} goes on"
    assert not any("has not ended" in line for line in lines)
    assert next(line.split()[-2] for line in lines if line.startswith("mean")) == "0.6250"
    for i in range(2, 5):
        shutil.rmtree(group / f"seed_{i}")
        more(trained, f"seeds_0/seed_{i}")
    assert "have begun" not in zoo("runs").out
    assert zoo("compare", group).out.startswith(f"A  {group}: 5 seeds of {RECIPE}")


@pytest.mark.parametrize("name", ["curves.pdf", "curves", "curves.png.jpg"])
def test_a_picture_of_another_kind_is_refused(zoo: Zoo, trained: Path, name: str) -> None:
    assert_one_line(zoo("compare", trained, "--png", name), f"got {name}", "give a name that ends in .png")
    assert not Path(name).exists()
    assert zoo("compare", trained, "--png", "CURVES.PNG").code == 0
    assert Path("CURVES.PNG").read_bytes().startswith(b"\x89PNG")


def test_foreign_files_and_what_is_inside_a_run_are_passed_over(zoo: Zoo, trained: Path, tmp_path: Path) -> None:
    inside = trained / "wandb/run-1/files"  # W&B keeps a config.yaml of its own there
    inside.mkdir(parents=True)
    (inside / "config.yaml").write_text("{}")
    (inside / "metrics.csv").write_text("")
    shutil.copytree(trained, tmp_path / "copy", ignore=shutil.ignore_patterns("wandb"))
    shutil.copytree(tmp_path / "copy", trained / "samples/kept")  # a run in a run is a part of it
    Path("runs/notes.txt").write_text("\0")
    Path("runs/mine").mkdir()
    Path("runs/mine/config.yaml").write_text("a: [")
    outside = tmp_path / "outside"
    shutil.copytree(trained, outside)
    Path("runs/link").symlink_to(outside)
    assert find_runs(Path("runs")) == [trained]
    assert zoo("runs").code == 0


@pytest.mark.parametrize("name", ["config.yaml", "results.json", "run.json", "metrics.csv"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\0", b"[1, 2]", b'{"metrics": 3, "best": {}}'])
def test_damaged_files_leave_the_others_readable(zoo: Zoo, trained: Path, name: str, content: bytes) -> None:
    more(trained, "version_1")
    (trained / name).write_bytes(content)
    result = zoo("runs", "--sort", "test/acc")
    assert result.code == 0, result.err
    assert {row["run"] for row in table(result.out)} >= {"version_1"}
    assert len(runs_below(Path("runs"))) == 2


@pytest.mark.parametrize("value", [None, 3, 1e400, "x", [], {"a": 1}, True], ids=repr)
@pytest.mark.parametrize(
    "key", ["started", "message", "seconds", "pid", "monitor", "commands", "environment", "host", "state"]
)
def test_a_record_of_other_kinds_is_damaged(trained: Path, key: str, value: object) -> None:
    """So that tables can sort by what it holds, and count with it."""
    record = json.loads((trained / "run.json").read_text())
    (trained / "run.json").write_text(json.dumps({**record, key: value}))
    texts, lists, numbers = ("started", "message", "host"), ("monitor", "commands"), ("seconds", "pid")
    right = [*((name, "x") for name in texts), *((name, []) for name in lists)]
    right += [(name, number) for name in numbers for number in (3, True)]
    assert (read_record(trained) is not None) == ((key, value) in right)
    (row,) = runs_below(Path("runs"))
    assert isinstance(row.started, str)
    assert isinstance(row.message, str)
    results = json.loads((trained / "results.json").read_text())
    (trained / "results.json").write_text(json.dumps({**results, "seconds": value}))
    (trained / "run.json").unlink()
    (row,) = runs_below(Path("runs"))
    assert math.isfinite(row.seconds) == isinstance(value, int)


def test_a_terminal_obeys_nothing_of_a_file(zoo: Zoo, trained: Path) -> None:
    state(trained, "failed", "no\x1b[2J\nruns removed")
    results = json.loads((trained / "results.json").read_text())
    results["best"]["name"] = "val/loss\r\x1b[31m"
    (trained / "results.json").write_text(json.dumps(results))
    out = zoo("runs").out
    assert "failed, no\ufffd[2J\ufffdruns removed" in out
    assert all(letter.isprintable() or letter == "\n" for letter in out)
    assert len(table(out)) == 1


def test_a_run_that_is_removed_while_it_is_read_is_left_out(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = more(trained, "version_1")

    def remove(folder: Path) -> int:
        if folder == trained:
            shutil.rmtree(folder)
        return size_of(folder)

    monkeypatch.setattr(collection, "size_of", remove)
    assert [row.folder for row in runs_below(Path("runs"))] == [other]


def test_states(zoo: Zoo, trained: Path) -> None:
    """Those that have not ended tell their best so far."""
    for name in ("version_1", "version_2", "version_3"):
        (more(trained, name) / "results.json").unlink()
    state(RUN.with_name("version_1"), "failed", "ValueError: the loss is nan")
    state(RUN.with_name("version_2"), "running")  # its process is gone
    lock = Lock(RUN.with_name("version_3"))
    out = zoo("runs").out
    lock.release()
    rows = table(out)
    assert [row["state"] for row in rows] == ["done", "failed", "stopped", "running"]
    assert len({row["best"] for row in rows}) == 1
    assert rows[0]["best"]
    assert [row["test"] for row in rows[1:]] == ["", "", ""]
    assert f"{RECIPE}/version_1: failed, ValueError: the loss is nan" in out
    assert f"{RECIPE}/version_2: stopped, its process was killed" in out


def test_sorted_by_a_metric_the_best_comes_first_and_nan_last(zoo: Zoo, trained: Path) -> None:
    for i, (accuracy, loss) in enumerate([(0.5, 3.0), (math.nan, 0.1), (0.55, math.nan)], start=1):
        more(trained, f"version_{i}", test_acc=accuracy, test_loss=loss)
    own = json.loads((trained / "results.json").read_text())["metrics"]
    assert 0.55 < own["test/acc"] < 1
    assert 0.1 < own["test/loss"] < 3

    def order(column: str) -> list[str]:
        return [row["run"] for row in table(zoo("runs", "--sort", column).out)]

    assert order("test/acc") == ["version_0", "version_3", "version_1", "version_2"]
    assert order("test/loss") == ["version_2", "version_0", "version_1", "version_3"]
    assert order("test") == order("test/acc")
    assert "nan" in zoo("runs", "--sort=test/loss").out
    (trained.with_name("version_2") / "big").write_bytes(bytes(3_000_000))
    assert order("size")[0] == "version_2"
    assert order("run") == ["version_0", "version_1", "version_2", "version_3"]
    for column in ("recipe", "state", "best", "seed", "time", "started", "val/loss"):
        assert len(order(column)) == 4
    assert_one_line(zoo("runs", "--sort", "tset/acc"), "'tset/acc'", "did you mean 'test/acc'")


def test_a_pattern_is_text_or_a_shell_pattern_or_a_path(zoo: Zoo, trained: Path) -> None:
    more(trained, "version_1")
    more(trained, "version_0", "cnn/lenet_digits")

    def found(pattern: object) -> list[str]:
        return [f"{row['recipe']}/{row['run']}" for row in table(zoo("runs", pattern).out)]

    assert found("lenet") == ["cnn/lenet_digits/version_0"]
    assert found("linear/*_1") == [f"{RECIPE}/version_1"]
    assert found(trained) == [f"{RECIPE}/version_0"]
    assert_one_line(zoo("runs", "LINEAR/*_1"), "no run in runs matches")  # shell patterns are exact
    assert_one_line(zoo("runs", "lenett"), "no run in runs matches 'lenett'")


def test_no_runs(zoo: Zoo, tmp_cwd: Path) -> None:
    assert_one_line(zoo("runs"), "there is no folder runs")
    Path("runs").mkdir()
    assert zoo("runs").out == "no runs in runs\n"
    assert zoo("runs", "anything").out == "no runs in runs\n"


def test_a_file_with_every_metric(zoo: Zoo, trained: Path) -> None:
    other = more(trained, "version_1", test_acc=math.nan)
    results = json.loads((other / "results.json").read_text())
    results["metrics"]["test/extra"] = 1.5
    (other / "results.json").write_text(json.dumps(results))
    assert zoo("runs", "--csv", "all.csv").code == 0
    one, two = csv.DictReader(Path("all.csv").read_text().splitlines())
    assert (one["run"], two["run"]) == (f"{RECIPE}/version_0", f"{RECIPE}/version_1")
    assert one["test/extra"] == ""
    assert float(two["test/extra"]) == 1.5
    assert math.isnan(float(two["test/acc"]))
    assert int(one["bytes"]) == size_of(trained)
    assert (one["epochs"], one["steps"], one["best_name"]) == ("2", "6", "val/loss")
    assert_one_line(zoo("runs", "--csv", "no/such/all.csv"), "cannot write no/such/all.csv")


def test_trials_are_listed_where_they_are_asked_for(zoo: Zoo, trained: Path) -> None:
    more(trained, "tune_0/trial_0")
    Path("runs", RECIPE, "tune_0/study.db").write_bytes(b"")
    out = zoo("runs").out
    assert [row["run"] for row in table(out)] == ["version_0"]
    assert "1 trial of zoo tune not listed: zoo runs tune_" in out
    assert [row["run"] for row in table(zoo("runs", "tune_").out)] == ["tune_0/trial_0"]


@pytest.mark.parametrize(
    ("metric", "low"), [("test/acc", False), ("test/loss", True), ("val/rmse", True), ("test/f1", False), ("fid", True)]
)
def test_what_is_best(metric: str, low: bool) -> None:
    assert lower_is_better([], metric) is low


# Removing -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A terminal where these words are typed."""
    words: list[str] = []

    class Typed(StringIO):
        def isatty(self) -> bool:
            return True

        def readline(self, *_: object) -> str:
            return f"{words.pop(0)}\n"

    monkeypatch.setattr(sys, "stdin", Typed())
    return words


def test_the_end_of_input_is_no_yes(zoo: Zoo, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = StringIO()
    monkeypatch.setattr(closed, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", closed)
    result = zoo("runs", RECIPE, "--delete")
    assert (result.code, result.err) == (0, "")
    assert result.out.endswith("nothing was removed\n")
    assert trained.is_dir()


@pytest.mark.parametrize("change", ["run", "folder", "other", "gone"])
def test_what_has_changed_while_the_question_stood_is_not_removed(
    zoo: Zoo, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """A link in place of the run, or of a folder above it, leads to another run; another folder is there by now."""
    outside = tmp_path / "outside/version_0"
    shutil.copytree(trained, outside)

    class Typed(StringIO):
        def isatty(self) -> bool:
            return True

        def readline(self, *_: object) -> str:
            place = trained.parent if change == "folder" else trained
            shutil.rmtree(place)
            if change in ("run", "folder"):
                place.symlink_to(outside if change == "run" else outside.parent)
            elif change == "other":
                place.mkdir()
                (place / "thesis.tex").write_text("mine")
            return "y\n"

    monkeypatch.setattr(sys, "stdin", Typed())
    result = zoo("runs", RECIPE, "--delete")
    assert (outside / "checkpoints/last.ckpt").is_file()
    if change == "gone":
        assert result.code == 0, result.err
        assert os.listdir("runs") == []
    else:
        assert_one_line(result, "has changed since it was listed", started=True)
        assert trained.exists()


@pytest.mark.parametrize("word", ["y", "Yes"])
def test_runs_are_removed_after_a_question(zoo: Zoo, trained: Path, terminal: list[str], word: str) -> None:
    more(trained, "version_1")
    other = more(trained, "version_0", "cnn/lenet_digits")
    terminal += ["n", "", word]
    for _ in range(2):
        result = zoo("runs", "linear", "--delete")
        assert result.code == 0, result.err
        assert "Remove 2 runs, " in result.out
        assert "nothing was removed" in result.out
    assert trained.is_dir()
    assert "removed 2 runs" in zoo("runs", "linear", "--delete").out
    assert os.listdir("runs") == ["cnn"]  # and the folders that are empty then
    assert other.is_dir()


def test_a_name_removes_that_run_alone(zoo: Zoo, trained: Path) -> None:
    for name in ("version_1", "version_10"):
        more(trained, name)
    (trained.parent / "notes.txt").write_text("mine")
    assert zoo("runs", trained.with_name("version_1"), "--delete", "--yes").code == 0
    assert sorted(os.listdir(trained.parent)) == ["notes.txt", "version_0", "version_10"]
    shutil.copytree(trained, "alone/version_0")
    assert zoo("runs", "version_0", "--delete", "--yes", "--runs", "alone").code == 0
    assert os.listdir("alone") == []  # the folder of all runs stays
    result = zoo("runs", RECIPE, "--delete", "--yes")
    assert f"{trained.parent} stays, with notes.txt" in result.out
    assert os.listdir(trained.parent) == ["notes.txt"]


def test_a_part_of_a_name_removes_nothing(zoo: Zoo, trained: Path) -> None:
    """A command that is given twice does not remove version_10 after version_1, nor another recipe that begins alike."""
    for name in ("version_1", "version_10"):
        more(trained, name)
    more(trained, "version_0", "cnn/lenet")
    more(trained, "version_0", "cnn/lenet_digits")
    names = [path.relative_to("runs").as_posix() for path in find_runs(Path("runs"))]
    for word, gone in ((trained.with_name("version_1"), f"{RECIPE}/version_1"), ("cnn/lenet", "cnn/lenet/version_0")):
        assert zoo("runs", word, "--delete", "--yes").code == 0
        names.remove(gone)
        refused = zoo("runs", word, "--delete", "--yes")
        assert_one_line(
            refused, "is called", "it is a part of the names of 1: to remove it, give the whole name, or '*"
        )
        assert [path.relative_to("runs").as_posix() for path in find_runs(Path("runs"))] == names
    assert_one_line(zoo("runs", "version_", "--delete", "--yes"), "the names of 3: to remove them")
    assert zoo("runs", "*version_10*", "--delete", "--yes").code == 0
    assert len(find_runs(Path("runs"))) == 2


def test_several_are_listed_and_removed(zoo: Zoo, trained: Path) -> None:
    """As a shell gives them for version_*; one that means no run stops all."""
    paths = [trained, *(more(trained, name) for name in ("version_1", "version_2"))]
    rows = table(zoo("runs", paths[2], paths[0], paths[0].resolve(), "--sort", "run").out)
    assert [row["run"] for row in rows] == ["version_0", "version_2"]
    assert_one_line(zoo("runs", *paths, "nothing", "--delete", "--yes"), "no run in runs matches 'nothing'")
    assert find_runs(Path("runs")) == paths
    assert "removed 2 runs" in zoo("runs", "--delete", "--yes", *paths[:2]).out
    assert find_runs(Path("runs")) == paths[2:]


def test_a_run_of_another_program_is_none(zoo: Zoo, trained: Path) -> None:
    """Lightning's own command line writes a config.yaml beside checkpoints and metrics, too."""
    folder = Path("runs/version_0")
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("# lightning.pytorch==2.6.6\nseed_everything: 3\n#   recipe  x\n")
    (folder / "metrics.csv").write_text("epoch,step,val_loss\n0,1,2.0\n")
    assert zoo("runs", "*", "--delete", "--yes").code == 0
    assert [path.name for path in folder.iterdir() if path.is_file()]
    assert not trained.exists()
    (trained / "checkpoints").mkdir(parents=True)
    (trained / "config.yaml").write_text(f"# Some.\n#   recipe  {RECIPE}\n")  # killed before it had a record
    assert find_runs(Path("runs")) == [trained]


def test_nothing_outside_and_nothing_that_is_no_run_is_removed(zoo: Zoo, trained: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.copytree(trained, outside)
    Path("runs/link").symlink_to(outside)
    (trained / "data").symlink_to(outside)  # inside a run: the link goes, what it leads to stays
    Path("runs/foreign").mkdir()
    Path("runs/foreign/config.yaml").write_text("a: 1")
    for pattern in ("../outside", "link", "foreign", outside):
        assert zoo("runs", pattern, "--delete", "--yes").code == 2
    assert zoo("runs", "*", "--delete", "--yes").code == 0
    assert (outside / "checkpoints/last.ckpt").is_file()
    assert Path("runs/foreign/config.yaml").is_file()
    assert Path("runs/link").is_symlink()
    assert not trained.exists()


def test_a_running_run_is_not_removed(zoo: Zoo, trained: Path) -> None:
    more(trained, "version_1")
    lock = Lock(trained)
    assert_one_line(zoo("runs", "linear", "--delete", "--yes"), "version_0 is running", "nothing was removed")
    lock.release()
    assert len(find_runs(Path("runs"))) == 2


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--delete",), ("--delete needs to know which runs",)),
        (("nothing", "--delete"), ("no run in runs matches 'nothing'",)),
        (("linear", "--delete"), ("no terminal to ask: give --yes", "nothing was removed")),
        (("--yes",), ("--yes answers the question of --delete",)),
        (("--sorted", "x"), ("unknown option --sorted", "--sort")),
        (("linear", "two"), ("no run in runs matches 'two'",)),
        (("linear", "--delete", "--yes", "--csv", "a.csv"), ("--delete goes without --sort and --csv",)),
        (("--runs", "elsewhere"), ("there is no folder elsewhere",)),
    ],
    ids=str,
)
def test_bad_arguments(zoo: Zoo, trained: Path, args: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line(zoo("runs", *args), *words)
    assert trained.is_dir()


def test_a_real_run_that_trains_is_running(zoo: Zoo, tmp_cwd: Path) -> None:
    """Its record says what decides: the best so far is shown."""
    name = f"looks_{tmp_cwd.name}".replace("-", "_")
    Path(f"{name}.py").write_text(
        "from lightning.pytorch import Callback\n"
        "from pathlib import Path\n"
        "from recipes.cli.collection import runs_below\n"
        "class Look(Callback):\n"
        "    def on_train_batch_start(self, trainer, *args):\n"
        "        if trainer.global_step == 5:\n"
        "            (row,) = runs_below(Path('runs'))\n"
        "            print('seen', row.state, row.best[0], row.seconds > 0, row.test)\n"
    )
    result = zoo("fit", RECIPE, "--trainer.max_epochs=2", *SHORT, f"--trainer.callbacks+={name}.Look")
    assert "seen running val/loss True None" in result.out
    record = read_record(RUN)
    assert record is not None
    assert record.monitor == ["val/loss", "min"]
    assert begun(record, ["fit"], {}, ("val/acc", "max")).monitor == ["val/acc", "max"]
