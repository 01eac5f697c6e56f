"""``zoo tune``: trials are the runs that would be trained alone, none is done twice or lost, none looks at the test data."""

import csv
import itertools
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pytest
import yaml
from cli_kit import RECIPE, SHORT, Zoo, assert_one_line, results

from recipes.cli.errors import UserError
from recipes.cli.many.space import Choices, Range, as_options, grid, read_space, values_of
from recipes.cli.many.study import Plan, create_study, ended, open_study, plan_of
from recipes.cli.many.sweep import sweep_text
from recipes.cli.many.trials import _take

QUICK = ("--trainer.max_epochs=2", *SHORT)
ROOT = Path(__file__).parents[2]
STUDY = Path("runs", RECIPE, "tune_0")


def space(text: str, name: str = "space.yaml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def trials(study: Path = STUDY) -> list[Any]:
    return open_study(study / "study.db").get_trials()


# The space ----------------------------------------------------------------------------------------------------------


def test_a_space_has_ranges_and_choices(tmp_cwd: Path) -> None:
    read = read_space(
        space(
            "model.lr: {low: 1e-3, high: 1, log: true}\nmodel.width: {low: 2, high: 8}\n"
            "model.widths: [[4], [8, 4], null, 1e-2, '32']\n"
        )
    )
    assert read == {
        "model.lr": Range(0.001, 1, log=True),
        "model.width": Range(2, 8),
        "model.widths": Choices(([4], [8, 4], None, 0.01, "32")),
    }
    assert [read[key].distribution().to_internal_repr(4) for key in ("model.lr", "model.width")] == [4.0, 4]
    assert read["model.width"].distribution() != Range(2.0, 8.0).distribution()
    for drawn, value in zip(read["model.widths"].points(), ([4], [8, 4], None, 0.01, "32"), strict=True):
        values = values_of({"model.widths": read["model.widths"]}, {"model.widths": drawn})
        assert values == {"model.widths": value}
        assert yaml.safe_load(as_options(values)[0].partition("=")[2]) == (32 if value == "32" else value)


def test_a_grid_has_each_point_once_and_equal_steps(tmp_cwd: Path) -> None:
    read = read_space(
        space("model.lr: {low: 1e-4, high: 1, log: true, steps: 5}\nmodel.width: {low: 1, high: 3, steps: 9}\n")
    )
    points = grid(read)
    assert sorted({point["model.lr"] for point in points}) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert {point["model.width"] for point in points} == {1, 2, 3}
    assert [*map(tuple, map(dict.values, points))] == [
        *itertools.product(dict.fromkeys(p["model.lr"] for p in points), (1, 2, 3))
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("must be a mapping",)),
        ("- model.lr", ("must be a mapping",)),
        ("model.lr: 0.1", ("model.lr must be {low", "got 0.1")),
        ("model.lr: []", ("model.lr is an empty list",)),
        ("model.lr: [0.1, 0.2, 1e-1]", ("model.lr has 0.1 twice",)),
        ("model.lr: [.inf]", ("not finite",)),
        ("model.lr: {low: 1, hihg: 2}", ("unknown key 'hihg'", "did you mean 'high'")),
        ("model.lr: {low: 1}", ("model.lr.high must be a number, got None",)),
        ("model.lr: {low: a, high: 2}", ("model.lr.low must be a number, got 'a'",)),
        ("model.lr: {low: 2, high: 1}", ("the range is empty", "low 2", "high 1")),
        ("model.lr: {low: 1, high: 1}", ("the range is empty",)),
        ("model.lr: {low: 0, high: 1, log: true}", ("must be above 0, got low 0",)),
        ("model.lr: {low: 0, high: 1, log: maybe}", ("log must be true or false, got 'maybe'",)),
        ("model.lr: {low: 0, high: 1, steps: 1}", ("steps", "got 1")),
        ("model.lr: {low: .nan, high: 1}", ("model.lr.low must be a number, got nan",)),
        ("lr: [1]", ("an option is model.NAME",)),
        ("seed_everything: [1, 2]", ("give --seeds K",)),
        ("data.val_fraction: [0.1, 0.2]", ("measured in other ways",)),
        ("data.init_args.split_seed: [1, 2]", ("measured in other ways",)),
        ("model.monitor: [val/loss, val/acc]", ("measured in other ways",)),
        ("trainer.limit_val_batches: [1, 2]", ("measured in other ways",)),
        ("model.lr: [1]\nmodel.lr: [2]", ("'model.lr' twice",)),
    ],
)
def test_a_bad_space_is_refused(zoo: Zoo, text: str, words: tuple[str, ...]) -> None:
    assert_one_line(zoo("tune", RECIPE, "--space", space(text)), "space.yaml", *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "args", "words"),
    [
        ("model.lrr: [0.1]", (), ("the space's model.lrr", "did you mean 'lr'?")),
        ("model.lr: [0.1, -1]", (), ("the space's model.lr", "lr must be")),
        ("model.lr: {low: -1, high: 1}", (), ("the space's model.lr", "lr must be")),
        ("trainer.logger: [true]", (), ("trainer.logger is set by --logger",)),
        ("model.lr: [0.1]", ("--model.lr=1",), ("--model.lr is in the space, too",)),
        ("model.lr: [0.1]", ("--model.init_args.lr=1",), ("--model.init_args.lr is in the space, too",)),
        ("model.lr: [0.1]", ("--logger=tensorboard",), ("zoo tune has no --logger",)),
        ("model.lr: [0.1]", ("--seeds=2", "--seed_everything=4294967295"), ("go beyond 4294967295",)),
        ("model.lr: {low: 1e-3, high: 1}", ("--method=grid",), ("a grid needs points", "steps: 5")),
        ("model.lr: [0.1]", ("--method=bayes",), ("--method must be one of grid, random, tpe",)),
        ("model.lr: [0.1]", ("--trials=0",), ("--trials must be 1 or more",)),
        ("model.lr: [0.1]", ("--seeds=0",), ("--seeds must be 1 or more",)),
        ("model.lr: [0.1]", ("--jobs=0",), ("--jobs must be 1 or more",)),
        ("model.lr: [0.1]", ("--trails=3",), ("--trails", "did you mean '--trials'?")),
        ("model.lr: [0.1]", ("--model.monitor=test/acc",), ("test/acc",)),
        ("model.lr: [0.1]", ("--model.monitor=train/loss",), ("train/loss",)),
        ("model.lr: [0.1]", ("--data.val_fraction=0",), ("no validation data",)),
        ("model.lr: [0.1]", ("--trainer.fast_dev_run=true",), ("fast_dev_run",)),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_anything_is_trained(
    zoo: Zoo, text: str, args: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_one_line(zoo("tune", RECIPE, "--space", space(text), *args), *words)
    assert not Path("runs").exists()


def test_space_and_recipe_must_be_given(zoo: Zoo) -> None:
    assert_one_line(zoo("tune", RECIPE), "--space FILE must be given")
    assert_one_line(zoo("tune", "--space", space("model.lr: [1]")), "no recipe given")
    assert_one_line(zoo("tune", RECIPE, "--space=none.yaml"), "no such space file: none.yaml")
    assert_one_line(zoo("tune", "--resume"), "no study given")
    assert_one_line(zoo("tune", RECIPE, "--resume"), "no study of linear/softmax_digits in runs")
    assert_one_line(zoo("tune", "--resume=nowhere"), "no study 'nowhere'")


# Trials -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a grid of two rates, each of two seeds."""
    from recipes.cli.__main__ import main

    folder = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["zoo"])
        space("data.batch_size: [32]\nmodel.lr: [0.0001, 0.1]\n")
        assert (
            main(["tune", RECIPE, "--space=space.yaml", "--method=grid", "--seeds=2", "--seed_everything=7", *QUICK])
            == 0
        )
    return folder


@pytest.fixture
def here(tuned: Path, tmp_cwd: Path) -> Path:
    shutil.copytree(tuned / "runs", tmp_cwd / "runs")
    shutil.copyfile(tuned / "space.yaml", tmp_cwd / "space.yaml")
    return tmp_cwd


def test_a_trial_is_the_mean_of_its_runs_and_each_is_that_of_zoo_fit(zoo: Zoo, here: Path) -> None:
    done = trials()
    assert [(t.params["model.lr"], t.params["data.batch_size"]) for t in done] == [
        (0.0001, 32),
        (0.1, 32),
    ]
    for trial in done:
        runs = [results(STUDY / f"trial_{trial.number}/seed_{seed}") for seed in (7, 8)]
        assert trial.value == fmean(run["best"]["value"] for run in runs)
        assert {run["best"]["name"] for run in runs} == {"val/loss"}
    options = ("--model.lr=0.1", "--data.batch_size=32", "--seed_everything=8")
    assert zoo("fit", RECIPE, *QUICK, *options).code == 0
    assert results(Path("runs", RECIPE, "version_0"))["best"] == results(STUDY / "trial_1/seed_8")["best"]


def test_the_best_recipe_reproduces_the_best_trial(zoo: Zoo, here: Path) -> None:
    best = min(trials(), key=lambda trial: trial.value)
    content = yaml.safe_load((STUDY / "best.yaml").read_text())
    assert content["model"]["init_args"]["lr"] == best.params["model.lr"] == 0.1
    assert content["data"]["init_args"]["batch_size"] == best.params["data.batch_size"]
    assert content["seed_everything"] == 7
    fitted = zoo("fit", STUDY / "best.yaml")
    assert fitted.code == 0, fitted.err
    run = results(Path("runs", RECIPE, "version_0"))
    assert run["best"] == results(STUDY / f"trial_{best.number}/seed_7")["best"]
    assert "test/acc" in run["metrics"]
    for text in (fitted.out, zoo("test", RECIPE).out):  # the bound is the recipe's, not that of another rate
        assert "model.lr" in text.partition("not compared, ")[2].splitlines()[0]


def test_no_trial_looks_at_the_test_data(here: Path) -> None:
    runs = [*STUDY.glob("trial_*/seed_*")]
    assert len(runs) == 4
    for run in runs:
        assert results(run)["metrics"] == {}
        header = (run / "metrics.csv").read_text().splitlines()[0]
        assert "val/loss" in header
        assert "test/" not in header + (run / "log.txt").read_text().replace("expected       test/acc", "")
        assert not [*run.rglob("*.ckpt")]


def test_the_table_has_the_best_first_with_seeds_and_spread(zoo: Zoo, here: Path) -> None:
    again = zoo("tune", RECIPE, "--resume")
    assert again.code == 0, again.err
    assert "2 trials" in again.out
    lines = again.out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("trial  mean (range) of 2 seeds"))
    order = sorted(trials(), key=lambda trial: trial.value)
    for line, trial in zip(lines[start + 2 :], order, strict=False):
        low, high = sorted(trial.user_attrs["measured"])
        assert line.split() == [
            str(trial.number),
            f"{trial.value:.4f}",
            f"({low:.4f}",
            "to",
            f"{high:.4f})",
            str(trial.params["data.batch_size"]),
            f"{trial.params['model.lr']:.4g}",
        ]
    assert (STUDY / "tune.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("linear/mlp_wine", "--resume", STUDY), ("is a study of linear/softmax_digits, not of linear/mlp_wine",)),
        ((RECIPE, "--resume", "--seeds=3"), ("--seeds 2, not 3",)),
        ((RECIPE, "--resume", "--method=tpe"), ("--method grid, not tpe",)),
        ((RECIPE, "--resume", "--space=other.yaml"), ("other.yaml is another space",)),
        ((RECIPE, "--resume", "--no-prune"), ("is a study that prunes",)),
        ((RECIPE, "--resume", "--model.weight_decay=1"), ("leave --model.weight_decay out",)),
    ],
)
def test_a_study_continues_as_it_is(zoo: Zoo, here: Path, args: tuple[str, ...], words: tuple[str, ...]) -> None:
    space("model.lr: [0.1]\n", "other.yaml")
    assert_one_line(zoo("tune", *args), *words)


def test_what_is_no_study_is_one_line(zoo: Zoo, here: Path) -> None:
    (STUDY / "recipe.yaml").unlink()
    assert_one_line(zoo("tune", "--resume", STUDY), "lacks the study's recipe.yaml: put it back")
    (STUDY / "recipe.yaml").write_text("model: {}\n")
    (STUDY / "study.db").write_bytes(b"no database at all")
    assert_one_line(zoo("tune", "--resume", STUDY), "study.db is not the database of a study", "begin a new study")


def test_the_space_of_a_study_stays_what_it_was(zoo: Zoo, here: Path) -> None:
    """The file in its folder is a copy."""
    space("model.lr: [SGD]\n", str(STUDY / "space.yaml"))
    assert zoo("tune", RECIPE, "--resume").code == 0


STOPPER = """
import os, signal
from lightning.pytorch import Callback

class StopIn(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        trial, seed = trainer.default_root_dir.split(os.sep)[-2:]
        if os.environ.get("STOP_IN") == f"{trial} {seed} {trainer.global_step}":
            os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize("method", ["random", pytest.param("tpe", marks=pytest.mark.slow)])
def test_a_stopped_study_ends_as_one_that_was_not(zoo: Zoo, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Also the draws are those of the uninterrupted study, and the trial that was stopped goes on where it was."""
    Path("stopper_of_trials.py").write_text(STOPPER)
    wide = space("model.lr: {low: 1e-3, high: 1, log: true}\ndata.batch_size: {low: 16, high: 64}\n")
    args = (
        RECIPE,
        "--space",
        wide,
        f"--method={method}",
        "--trials=3",
        *QUICK,
        "--trainer.callbacks+=stopper_of_trials.StopIn",
    )
    assert zoo("tune", *args, "--runs=whole").code == 0
    monkeypatch.setenv("STOP_IN", "trial_0 seed_0 2")
    assert zoo("tune", *args).code == 143, "in the first run of all"
    monkeypatch.setenv("STOP_IN", "trial_1 seed_0 4")
    stopped = zoo("tune", RECIPE, "--resume")
    assert stopped.code == 143
    assert f"stopped; continue with: zoo tune --resume {STUDY}" in stopped.out
    monkeypatch.delenv("STOP_IN")
    assert zoo("tune", RECIPE, "--resume").code == 0
    whole, resumed = trials(Path("whole", RECIPE, "tune_0")), trials()
    assert [(t.number, t.params, t.values, t.state) for t in resumed] == [
        (t.number, t.params, t.values, t.state) for t in whole
    ]
    assert len({t.params["model.lr"] for t in resumed}) == 3
    assert "resumes at step" in (STUDY / "trial_1/seed_0/log.txt").read_text()
    more = zoo("tune", RECIPE, "--resume", "--trials=4")
    assert more.code == 0
    assert len(trials()) == 4
    assert len({t.params["model.lr"] for t in trials()}) == 4, "a new draw, not the first one again"


@pytest.mark.slow
def test_a_killed_study_ends_as_one_that_was_not(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL in the second epoch of a trial, of a real process."""
    Path("stopper_of_trials.py").write_text(STOPPER.replace("SIGTERM", "SIGKILL"))
    wide = space("model.lr: {low: 1e-3, high: 1, log: true}\n")
    args = (
        "--space",
        str(wide),
        "--method=random",
        "--trials=2",
        *QUICK,
        "--trainer.callbacks+=stopper_of_trials.StopIn",
    )
    assert zoo("tune", RECIPE, *args, "--runs=whole").code == 0
    environment = {**os.environ, "STOP_IN": "trial_0 seed_0 5", "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-m", "recipes.cli", "tune", RECIPE, *args], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [t.state.name for t in trials()] == ["RUNNING"]
    assert (STUDY / "trial_0/seed_0/checkpoints/last.ckpt").is_file()
    assert zoo("tune", RECIPE, "--resume").code == 0
    whole = trials(Path("whole", RECIPE, "tune_0"))
    assert [(t.params, t.values, t.state) for t in trials()] == [(t.params, t.values, t.state) for t in whole]
    assert [t.intermediate_values for t in trials()] == [t.intermediate_values for t in whole]


def add_trials(loss: float, count: int = 5) -> None:
    """Add trials that have ended, each with this loss in all epochs."""
    study = open_study(STUDY / "study.db")
    first = study.get_trials()[0]
    for _ in range(count):
        study.add_trial(
            optuna.trial.create_trial(
                value=loss,
                params=first.params,
                distributions=first.distributions,
                intermediate_values=dict.fromkeys(range(3), loss),
                user_attrs={"measured": [loss]},
            )
        )


def test_a_hopeless_trial_is_pruned(zoo: Zoo) -> None:
    """Worse than the median of five others after its first epoch; its second run is not trained."""
    rates = space("model.lr: {low: 1e-3, high: 1e-2, log: true}\n")
    options = ("--method=random", "--seeds=2", "--trials=1", "--trainer.max_epochs=3", *SHORT)
    assert zoo("tune", RECIPE, "--space", rates, *options).code == 0
    lines = (STUDY / "trial_0/seed_0/metrics.csv").read_text().splitlines()
    values = [float(row["val/loss"]) for row in csv.DictReader(lines) if row["val/loss"]]
    assert [*trials()[0].intermediate_values.values()] == pytest.approx(values, rel=1e-6), "epoch by epoch"
    add_trials(loss=0.01)
    pruned = zoo("tune", RECIPE, "--resume", "--trials=7")
    assert pruned.code == 0, pruned.err
    assert trials()[-1].state.name == "PRUNED"
    assert results(STUDY / "trial_6/seed_0")["epochs"] == 1
    assert not (STUDY / "trial_6/seed_1").exists()
    assert "trial 6   pruned at val/loss" in pruned.out
    assert "7 trials, 1 pruned" in pruned.out


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "option"), [(99.0, ()), (0.01, ("--no-prune",))])
def test_a_trial_that_is_not_hopeless_is_not_pruned(zoo: Zoo, loss: float, option: tuple[str, ...]) -> None:
    rates = space("model.lr: {low: 1e-3, high: 1e-2, log: true}\n")
    assert zoo("tune", RECIPE, "--space", rates, "--method=random", "--trials=1", *option, *QUICK).code == 0
    add_trials(loss)
    assert zoo("tune", RECIPE, "--resume", "--trials=7").code == 0
    assert trials()[-1].state.name == "COMPLETE"
    assert results(STUDY / "trial_6/seed_0")["epochs"] == 2


def test_no_trial_is_pruned_in_the_first_fifth_of_its_epochs(zoo: Zoo) -> None:
    """Ten epochs, of which the rate grows in the first: the last chance to be spared is after the second."""
    rates = space("model.lr: {low: 1e-3, high: 1e-2, log: true}\n")
    options = ("--method=random", "--trials=1", "--trainer.max_epochs=10", "--trainer.limit_train_batches=1")
    assert zoo("tune", RECIPE, "--space", rates, *options, "--trainer.log_every_n_steps=1").code == 0
    add_trials(loss=0.01)
    assert zoo("tune", RECIPE, "--resume", "--trials=7").code == 0
    assert trials()[-1].state.name == "PRUNED"
    assert results(STUDY / "trial_6/seed_0")["epochs"] == 3


def test_trials_that_fail_are_told_and_left_out(zoo: Zoo) -> None:
    """A rate at which the loss is no number; and when the first three fail, it ends."""
    fails = "model.lr: [1e+30, 0.1]\n"
    tuned = zoo("tune", RECIPE, "--space", space(fails), "--method=grid", *QUICK, "--model.optimizer=SGD")
    assert tuned.code == 0, tuned.err
    assert [t.state.name for t in trials()] == ["FAIL", "COMPLETE"]
    assert "trial 0   failed: " in tuned.out
    assert "1 failed" in tuned.out
    assert yaml.safe_load((STUDY / "best.yaml").read_text())["model"]["init_args"]["lr"] == 0.1
    all_fail = space("model.lr: [1e+30, 1e+31, 1e+32, 1e+33]\n")
    ended_early = zoo(
        "tune", RECIPE, "--space", all_fail, "--method=grid", *QUICK, "--model.optimizer=SGD", "--runs=other"
    )
    assert_one_line(ended_early, "the first 3 trials have all failed", started=True)


BROKEN = """
from zoo import SoftmaxRegressionClassifier

class Broken(SoftmaxRegressionClassifier):
    def __init__(self, fails: str = "", **task):
        super().__init__(**task)
    def training_step(self, batch, batch_idx=0):
        if self.hparams["fails"]:
            raise {"key": KeyError, "run": RuntimeError}[self.hparams["fails"]]("in the first step")
        return super().training_step(batch, batch_idx)
"""


def test_a_trial_that_breaks_down_does_not_end_the_study(zoo: Zoo) -> None:
    """Whatever the error, also in the first step."""
    Path("broken_model.py").write_text(BROKEN)
    fails = space("model.fails: [key, run, '']\n")
    model = ("--model=broken_model.Broken", "--model.lr=0.01", "--model.monitor=val/loss")
    tuned = zoo("tune", RECIPE, "--space", fails, "--method=grid", *model, *QUICK)
    assert tuned.code == 0, tuned.err
    assert [t.state.name for t in trials()] == ["FAIL", "FAIL", "COMPLETE"]
    assert "trial 1   failed: RuntimeError: in the first step" in tuned.out


def test_a_trial_of_the_same_values_is_not_trained_again(zoo: Zoo, here: Path) -> None:
    study = open_study(STUDY / "study.db")
    study.set_user_attr("method", "random")
    more = zoo("tune", RECIPE, "--resume", "--trials=5")
    assert more.code == 0, more.err
    values: dict[Any, Any] = {}
    for trial in trials():
        assert values.setdefault(trial.params["model.lr"], trial.value) == trial.value
    assert len(values) == 2
    assert more.out.count("has the values of trial") == 3
    assert not [*(STUDY / "trial_4").glob("seed_*")]


def test_a_fold_is_not_tuned(zoo: Zoo, here: Path) -> None:
    text = (STUDY / "recipe.yaml").read_text()
    Path("fold.yaml").write_text("#   fold    1 of 3\n" + text)
    refused = zoo("tune", "fold.yaml", "--space", space("model.lr: [0.1]\n"))
    assert_one_line(refused, "is the configuration of one fold")


def test_a_value_that_is_no_number_fails_its_trial(zoo: Zoo, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric of one's own may be."""
    from recipes.cli.many import trials as module

    broken = {"best": {"name": "val/loss", "value": math.nan, "mode": "min"}}
    monkeypatch.setattr(module, "run_one", lambda *_, **__: broken)
    rates = space("model.lr: [0.1]\n")
    assert_one_line(
        zoo("tune", RECIPE, "--space", rates, "--method=grid"), "no trial of", "has ended with a value", started=True
    )
    assert trials(STUDY.with_name("tune_1"))[0].state.name == "FAIL"


def test_a_trial_that_is_measured_by_something_else_fails(
    zoo: Zoo, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models of several classes may monitor other metrics."""
    from recipes.cli.many import trials as module

    other = {"best": {"name": "val/acc", "value": 0.5, "mode": "max"}}
    monkeypatch.setattr(module, "run_one", lambda *_, **__: other)
    tuned = zoo("tune", RECIPE, "--space", space("model.lr: [0.1]\n"), "--method=grid")
    assert_one_line(tuned, "no trial of", started=True)
    assert "failed: the run is measured by val/acc, the others by val/loss" in tuned.out


# Several processes, and what optuna is asked ------------------------------------------------------------------------


def study_of(folder: Path, method: Any, text: str, count: int) -> Any:
    folder.mkdir()
    space(text, str(folder / "space.yaml"))
    create_study(folder, Plan(method, count, 1, 3, "val/loss", "min", False, 0), text)
    return open_study(folder / "study.db")


@pytest.mark.parametrize("method", ["grid", "random", "tpe"])
def test_two_processes_never_take_the_same_trial(tmp_cwd: Path, method: Any) -> None:
    """Each opens the study by itself; a lock that is held is that of a process that lives."""
    text = "model.lr: {low: 1e-3, high: 1, log: true, steps: 3}\nmodel.init: [a, b]\n"
    study_of(Path("study"), method, text, 6)
    read = read_space(Path("study/space.yaml"))
    taken = []
    for _ in range(6):
        found = _take(open_study(Path("study/study.db")), Path("study"), read)
        assert found is not None
        taken.append(found)
    assert _take(open_study(Path("study/study.db")), Path("study"), read) is None
    points = [tuple(trial.params.values()) for trial, _ in taken]
    assert len(set(points)) == 6
    if method == "grid":
        assert sorted(points) == sorted(tuple(point.values()) for point in grid(read))
    taken[4][1].release()  # it is killed
    again = _take(open_study(Path("study/study.db")), Path("study"), read)
    assert again is not None
    assert (again[0].number, again[0].params) == (taken[4][0].number, taken[4][0].params)
    for _, lock in [*taken, again]:
        lock.release()


@pytest.mark.slow
def test_tpe_looks_where_it_has_been_good(tmp_cwd: Path) -> None:
    """Of a parabola in log(lr) around 0.01, later trials are nearer to it than random ones."""
    distances = {}
    for method in ("tpe", "random"):
        study = study_of(Path(method), method, "model.lr: {low: 1e-6, high: 100, log: true}\n", 40)
        read = read_space(Path(method, "space.yaml"))
        while (taken := _take(study, Path(method), read)) is not None:
            trial, lock = taken
            study.tell(trial, (math.log10(trial.params["model.lr"]) + 2) ** 2)
            lock.release()
        late = [abs(math.log10(t.params["model.lr"]) + 2) for t in study.get_trials()[20:]]
        distances[method] = fmean(late)
        assert plan_of(study).method == method
        assert ended(study)[0].value == min(t.value for t in study.get_trials())
    assert distances["tpe"] < 0.75 * distances["random"], distances


@pytest.mark.slow
def test_importance_is_that_of_the_option_that_matters(tmp_cwd: Path) -> None:
    from recipes.cli.many.pictures import draw, importances_of

    text = "model.a: {low: 0.0, high: 1.0}\nmodel.b: {low: 0.0, high: 1.0}\nmodel.c: [x, y]\n"
    study = study_of(Path("study"), "random", text, 30)
    read = read_space(Path("study/space.yaml"))
    while (taken := _take(study, Path("study"), read)) is not None:
        trial, lock = taken
        value = 10 * trial.params["model.b"] + trial.params["model.a"]
        trial.set_user_attr("measured", [value - 1, value + 1])
        study.tell(trial, value)
        lock.release()
    shares = importances_of(study)
    assert next(iter(shares)) == "model.b"
    assert shares["model.b"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    assert draw(study, read, Path("tune.png")) == shares
    assert Path("tune.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_jobs_share_a_study(zoo: Zoo) -> None:
    """Real processes: each trial is trained once, and its values are those of one process."""
    rates = space("model.lr: [0.2, 0.1, 0.05]\n")
    args = (RECIPE, "--space", rates, "--method=grid", "--no-prune", *QUICK)
    assert zoo("tune", *args, "--runs=one").code == 0
    assert zoo("tune", *args, "--jobs=2").code == 0
    one, two = trials(Path("one", RECIPE, "tune_0")), trials()
    assert [(t.params, t.values, t.state) for t in two] == [(t.params, t.values, t.state) for t in one]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp"])
def test_trials_on_two_processes_are_those_on_one(zoo: Zoo, strategy: str) -> None:
    """The hopeless one is pruned by what rank zero is told, on all ranks; with ddp, each run is a process of its own."""
    rates = space("model.lr: {low: 1e-3, high: 1e-2, log: true}\n")
    args = (RECIPE, "--space", rates, "--method=random", "--trials=1", *QUICK)
    assert zoo("tune", *args, "--runs=one").code == 0
    two = zoo("tune", *args, "--trainer.devices=2", f"--trainer.strategy={strategy}", "--data.batch_size=32")
    assert two.code == 0, two.err
    one, other = trials(Path("one", RECIPE, "tune_0"))[0], trials()[0]
    assert other.user_attrs["measured"] == pytest.approx(one.user_attrs["measured"], rel=1e-5)
    assert other.intermediate_values == pytest.approx(one.intermediate_values, rel=1e-5)
    assert len(one.intermediate_values) == 2
    add_trials(loss=0.01)
    assert zoo("tune", RECIPE, "--resume", "--trials=7").code == 0
    assert trials()[-1].state.name == "PRUNED"
    assert results(STUDY / "trial_6/seed_0")["epochs"] == 1


# W&B sweeps ---------------------------------------------------------------------------------------------------------


def commands(sweep: dict[str, Any]) -> list[list[str]]:
    """The commands that `wandb agent` would launch: all points of a grid, else both ends of each range."""
    axes = {}
    for key, entry in sweep["parameters"].items():
        axes[key] = entry.get("values") or [entry["min"], entry["max"]]
    made = []
    for point in itertools.product(*axes.values()):
        args = [f"--{key}={value}" for key, value in zip(axes, point, strict=True)]  # as the agent writes ${args}
        words: list[str] = []
        for word in sweep["command"]:
            words += args if word == "${args}" else [sweep["program"] if word == "${program}" else word]
        made.append(words)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grid", "tpe"])
def test_each_command_of_a_sweep_runs(zoo: Zoo, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    steps = ", steps: 2" * (method == "grid")
    wide = space(f"model.lr: {{low: 1e-3, high: 1, log: true{steps}}}\nmodel.optimizer: [SGD, AdamW]\n")
    args = (RECIPE, "--space", wide, f"--method={method}", "--trials=4", "--trainer.max_epochs=1", *SHORT)
    written = zoo("tune", *args, "--wandb-sweep=sweeps/sweep.yaml")
    assert written.code == 0, written.err
    assert not Path("runs").exists()
    sweep = yaml.safe_load(Path("sweeps/sweep.yaml").read_text())
    assert sweep["method"] == {"grid": "grid", "tpe": "bayes"}[method]
    assert sweep["metric"] == {"name": "val/loss", "goal": "minimize"}
    assert sweep["run_cap"] == 4
    launched = commands(sweep)
    assert len(launched) == 4
    for i, (program, *words) in enumerate(launched):
        assert program == "zoo"
        result = zoo(*words)
        assert result.code == 0, result.err
        run = Path("runs", RECIPE, f"version_{i}")
        assert results(run)["best"]["name"] == "val/loss"
        assert results(run)["metrics"] == {}, "the test data are not looked at"
        given = dict(word.removeprefix("--").split("=") for word in words if word.startswith("--model."))
        arguments = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]
        assert {f"model.{key}": str(arguments[key]) for key in ("lr", "optimizer")} == {
            key: str(float(value)) if key == "model.lr" else value for key, value in given.items()
        }


def test_a_sweep_has_the_distribution_of_the_space() -> None:
    entries = {
        "model.a": Range(0.1, 1.0, log=True),
        "model.b": Range(0.1, 1.0),
        "model.c": Range(2, 8, log=True),
        "model.d": Range(2, 8),
        "model.e": Choices(("x", None)),
    }
    made = yaml.safe_load(sweep_text(entries, "random", 3, "val/acc", "max", ["-c", "r"]))
    assert made["metric"]["goal"] == "maximize"
    assert made["command"][:4] == ["${program}", "fit", "-c", "r"]
    assert "--trainer.limit_test_batches=0" in made["command"]
    assert [entry.get("distribution") for entry in made["parameters"].values()] == [
        "log_uniform_values",
        "uniform",
        "q_log_uniform_values",
        "int_uniform",
        None,
    ]
    assert made["parameters"]["model.e"] == {"values": ["x", None]}


@pytest.mark.parametrize("option", ["--resume", "--seeds=2"])
def test_a_sweep_has_no_seeds_and_no_study(zoo: Zoo, option: str) -> None:
    args = ("--space", space("model.lr: [0.1]"), "--wandb-sweep=sweep.yaml", option)
    assert_one_line(zoo("tune", RECIPE, *args), "leave", option.partition("=")[0])
    assert not Path("sweep.yaml").exists()


def test_a_missing_optuna_is_told(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "optuna" else find(name))
    assert_one_line(zoo("tune", RECIPE, "--space", space("model.lr: [0.1]")), "pip install 'lightning-zoo[tune]'")
    with pytest.raises(UserError, match="no such space file"):
        read_space(Path("missing.yaml"))
