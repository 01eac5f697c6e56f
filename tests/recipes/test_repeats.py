"""``zoo fit --seeds`` and ``--folds``, and ``zoo compare``: each run is the one that would be trained by itself."""

import csv
import json
import math
import re
import shutil
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from cli_kit import RECIPE, SHORT, Zoo, assert_one_line, results
from PIL import Image
from scipy import stats

from recipes.cli.many import one
from recipes.cli.many.comparison import number, paired_test
from recipes.cli.many.curves import draw as draw_curves
from recipes.cli.run.lock import Lock
from recipes.cli.verbs.compare import _short

QUICK = ("--trainer.max_epochs=2", *SHORT)
SEEDS, FOLDS = Path("runs", RECIPE, "seeds_0"), Path("runs", RECIPE, "folds_0")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def rows(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


def table(text: str) -> dict[str, dict[str, float]]:
    """The numbers of a printed table, by row and column, where the columns are of runs and metrics."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("run "))
    lines = lines[: next((i for i in range(start, len(lines)) if not lines[i]), len(lines))]
    edges = [i for i, c in enumerate(lines[start + 1]) if c == "-" and (i == 0 or lines[start + 1][i - 1] == " ")]
    cut = [[line[a:b].strip() for a, b in zip(edges, [*edges[1:], None], strict=True)] for line in lines[start:]]
    names = cut[0][1:]
    return {row[0]: dict(zip(names, map(float, row[1:]), strict=True)) for row in cut[2:] if row[0]}


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three seeds from 4 on, and three folds."""
    from recipes.cli.__main__ import main

    folder = tmp_path_factory.mktemp("repeated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["zoo"])
        assert main(["fit", RECIPE, "--seeds", "3", "--seed_everything=4", *QUICK]) == 0
        assert main(["fit", RECIPE, "--folds=3", *QUICK]) == 0
    return folder


@pytest.fixture
def here(repeated: Path, tmp_cwd: Path) -> Path:
    shutil.copytree(repeated / "runs", tmp_cwd / "runs")
    return tmp_cwd


def test_each_seed_is_the_run_that_is_trained_by_itself(zoo: Zoo, here: Path) -> None:
    assert [path.name for path in sorted(SEEDS.iterdir())] == ["seed_4", "seed_5", "seed_6"]
    assert zoo("fit", RECIPE, "--seed_everything=5", *QUICK).code == 0
    alone = Path("runs", RECIPE, "version_0")
    assert same(weights(SEEDS / "seed_5"), weights(alone))
    assert not same(weights(SEEDS / "seed_4"), weights(alone))
    assert results(SEEDS / "seed_5")["metrics"] == results(alone)["metrics"]
    assert rows(SEEDS / "seed_5") == rows(alone)
    configs = [yaml.safe_load((run / "config.yaml").read_text()) for run in (SEEDS / "seed_5", alone)]
    assert configs[0] == configs[1]


def test_the_table_has_each_run_and_the_spread(zoo: Zoo, here: Path) -> None:
    printed = table(zoo("compare", SEEDS).out)
    for metric in ("test/acc", "test/loss"):
        values = [results(SEEDS / f"seed_{seed}")["metrics"][metric] for seed in (4, 5, 6)]
        assert [printed[f"seed_{seed}"][metric] for seed in (4, 5, 6)] == pytest.approx(values, abs=5e-5)
        spread = {"mean": fmean(values), "std": stdev(values), "min": min(values), "max": max(values)}
        assert {name: printed[name][metric] for name in spread} == pytest.approx(spread, abs=5e-5)
    best = [results(SEEDS / f"seed_{seed}")["best"] for seed in (4, 5, 6)]
    assert {each["name"] for each in best} == {"val/loss"}
    assert printed["mean"]["best val/loss"] == pytest.approx(fmean(each["value"] for each in best), abs=5e-5)


def test_folds_are_validated_once_each_and_the_test_part_stays(zoo: Zoo, here: Path) -> None:
    headers = [(FOLDS / f"fold_{k}" / "config.yaml").read_text() for k in (1, 2, 3)]
    for k, header in enumerate(headers, start=1):
        assert f"#   fold    {k} of 3\n" in header
        assert "(958 train / 479 val)" in header
        assert "seed_everything: 0\n" in header
        assert "#   changed trainer." in header
        assert ", data.val_fraction\n" in header
    assert len({header.partition("fingerprint ")[2][:16] for header in headers}) == 3
    count = 360  # of the official test part
    for k in (1, 2, 3):
        right = results(FOLDS / f"fold_{k}")["metrics"]["test/acc"] * count
        assert right == pytest.approx(round(right), abs=1e-3), "a share of the whole official test part"
    means = [weights(FOLDS / f"fold_{k}")["mean"].item() for k in (1, 2, 3)]
    assert len(set(means)) == 3, "of its own training part"


def test_a_fold_is_validated_and_resumed_on_its_own_data(zoo: Zoo, here: Path) -> None:
    run = FOLDS / "fold_2"
    before = results(run)
    again = zoo("validate", run)
    assert again.code == 0
    assert ["val/loss", f"{before['best']['value']:.4f}"] in [line.split() for line in again.out.splitlines()]
    longer = zoo("fit", "--resume", run, "--trainer.max_epochs=3")
    assert longer.code == 0, longer.err
    assert results(run)["epochs"] == 3
    assert "fold    2 of 3" in (run / "config.yaml").read_text()


STOPPER = """
import os, signal
from lightning.pytorch import Callback

class StopIn(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if os.environ.get("STOP_IN") == f"{os.path.basename(trainer.default_root_dir)} {trainer.global_step}":
            os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize("kind", ["seeds", pytest.param("folds", marks=pytest.mark.slow)])
def test_resume_goes_on_at_the_first_that_is_unfinished(
    zoo: Zoo, repeated: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The second is stopped in its second epoch; of the third there is what a kill before the first checkpoint leaves."""
    group, options = {"seeds": (SEEDS, ("--seed_everything=4",)), "folds": (FOLDS, ())}[kind]
    names = [path.name for path in sorted((repeated / group).iterdir())]
    Path("stopper_of_many.py").write_text(STOPPER)
    monkeypatch.setenv("STOP_IN", f"{names[1]} 4")
    stopped = zoo("fit", RECIPE, f"--{kind}=3", *options, *QUICK, "--trainer.callbacks+=stopper_of_many.StopIn")
    assert stopped.code == 143
    assert f"stopped in {names[1]} of 3 {kind}; continue with: zoo fit --resume {group}" in stopped.out
    stamp = (group / names[0] / "checkpoints/last.ckpt").stat().st_mtime_ns
    shutil.copyfile(group / names[0] / "metrics.csv", group / names[2] / "metrics.csv")
    (group / names[2] / "checkpoints").mkdir()
    monkeypatch.delenv("STOP_IN")
    done = zoo("fit", RECIPE, "--resume", f"--{kind}=3")
    assert done.code == 0, done.err
    assert f"{names[0]}, 1 of 3: done before" in done.out
    assert f"{RECIPE} resumes at step 5" in done.out
    assert (group / names[0] / "checkpoints/last.ckpt").stat().st_mtime_ns == stamp
    for name in names:
        assert same(weights(group / name), weights(repeated / group / name)), name
        assert results(group / name)["metrics"] == results(repeated / group / name)["metrics"]
        assert rows(group / name) == rows(repeated / group / name)


def test_a_run_that_stops_says_how_to_go_on(zoo: Zoo, here: Path) -> None:
    (SEEDS / "seed_5" / "results.json").unlink()
    for name in ("best.ckpt", "last.ckpt"):
        (SEEDS / "seed_5" / "checkpoints" / name).write_bytes(b"no checkpoint")
    stopped = zoo("fit", "--resume", SEEDS)
    assert_one_line(stopped, "last.ckpt", started=True)
    assert f"stopped in seed_5 of 3 seeds; continue with: zoo fit --resume {SEEDS}" in stopped.out
    compared = zoo("compare", SEEDS)
    assert "A  runs/linear/softmax_digits/seeds_0: 2 of 3 seeds of linear/softmax_digits" in compared.out
    assert "seed_5 has not ended: its metrics are left out" in compared.out
    assert f"zoo fit --resume {SEEDS / 'seed_5'} goes on" in compared.out


def test_a_setup_that_fails_leaves_no_folder(zoo: Zoo, tmp_cwd: Path) -> None:
    Path("few.csv").write_text("a,label\n" + "".join(f"{i},{'xxxxxy'[i % 6]}\n" for i in range(18)))
    data = ("--data=datamodules.CSVDataModule", "--data.path=few.csv", "--data.target=label", "--data.test_fraction=0")
    refused = zoo("fit", "linear/mlp_wine", "--folds=5", *data)
    assert_one_line(refused, "5 folds need 5 examples of class 'y', and there are 3", started=True)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--seeds=1",), ("--seeds must be 2 or more, got 1",)),
        (("--folds=0",), ("--folds must be 2 or more, got 0",)),
        (("--seeds=x",), ("--seeds must be a whole number, got x",)),
        (("--seeds=2", "--folds=2"), ("give one of the two",)),
        (("--seeds=2", "--modle.lr=1"), ("--modle.lr",)),
        (("--seeds=2", "--trainer.fast_dev_run=true"), ("fast_dev_run",)),
        (("--seeds=2", "--seed_everything=4294967295"), ("go beyond 4294967295",)),
        (("--seeds=2", "--find-lr"), ("leave --seeds out",)),
        (("--seeds=2", "--resume"), ("no seeds of", "leave --resume out")),
        (("--folds=2", "--resume=runs"), ("no group of runs 'runs'",)),
    ],
)
def test_bad_input_is_one_line(zoo: Zoo, args: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line(zoo("fit", RECIPE, *args), *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((RECIPE, "--seeds=2", "--resume", SEEDS), ("has 3 seeds, not 2 seeds",)),
        ((RECIPE, "--folds=3", "--resume", SEEDS), ("has 3 seeds, not 3 folds",)),
        (("linear/mlp_wine", "--resume", SEEDS), ("is of linear/softmax_digits, not of linear/mlp_wine",)),
        (("--resume", SEEDS, "--model.lr=1"), ("leave --model.lr out",)),
        (("--resume", SEEDS, "--logger=tensorboard"), ("leave --logger out",)),
        (("-c", FOLDS / "fold_1/config.yaml", "--folds=3"), ("is the configuration of one fold",)),
    ],
)
def test_a_group_continues_as_it_is(zoo: Zoo, here: Path, args: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line(zoo("fit", *args), *words)


def test_a_launcher_of_several_processes_is_refused(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert_one_line(zoo("fit", RECIPE, "--seeds=2"), "run zoo without a launcher")


def test_data_without_folds_are_refused(zoo: Zoo, tmp_cwd: Path) -> None:
    refused = zoo("fit", "recurrent/gru_austen", "--folds=2", "--trainer.limit_train_batches=1")
    assert_one_line(refused, "AustenDataModule has no folds", started=True)
    assert not Path("runs").exists()


@pytest.mark.slow
def test_folds_on_two_processes_are_those_on_one(zoo: Zoo, here: Path) -> None:
    assert (
        zoo(
            "fit",
            RECIPE,
            "--folds=3",
            *QUICK,
            "--trainer.devices=2",
            "--trainer.strategy=ddp_fork",
            "--data.batch_size=32",
        ).code
        == 0
    )
    for k in (1, 3):
        one, two = (weights(folder / f"fold_{k}") for folder in (FOLDS, FOLDS.with_name("folds_1")))
        for key in one:
            assert torch.allclose(one[key], two[key], atol=1e-6), key
        metrics = [results(folder / f"fold_{k}")["metrics"] for folder in (FOLDS, FOLDS.with_name("folds_1"))]
        assert metrics[0] == pytest.approx(metrics[1], abs=1e-6)


def test_a_run_in_its_own_process_wants_no_optuna(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra, for tuning alone."""
    for name in [name for name in sys.modules if name.startswith(("optuna", "recipes.cli.many.study"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    before = results(SEEDS / "seed_5")["metrics"]
    (SEEDS / "seed_5/results.json").unlink()
    assert one.main([str(SEEDS / "seed_5")]) == 0
    assert results(SEEDS / "seed_5")["metrics"] == before


@pytest.mark.slow
def test_seeds_on_two_processes_of_their_own_are_those_on_one(zoo: Zoo, here: Path) -> None:
    """With the strategy ddp a run calls the program again, for its second process."""
    two = (*QUICK, "--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=32")
    done = zoo("fit", RECIPE, "--seeds=2", "--seed_everything=4", *two)
    assert done.code == 0, done.err
    for seed in (4, 5):
        one, other = (weights(folder / f"seed_{seed}") for folder in (SEEDS, SEEDS.with_name("seeds_1")))
        for key in one:
            assert torch.allclose(one[key], other[key], atol=1e-6), key


# zoo compare --------------------------------------------------------------------------------------------------------


def test_the_paired_test_is_students() -> None:
    one, two = np.array([0.91, 0.93, 0.90, 0.95]), np.array([0.93, 0.94, 0.93, 0.96])
    test = paired_test([*(two - one)], folds=False)
    expected = stats.ttest_rel(two, one)
    interval = expected.confidence_interval(0.95)
    assert test.p == pytest.approx(float(expected.pvalue), rel=1e-9)
    assert (test.low, test.high) == pytest.approx((float(interval.low), float(interval.high)), rel=1e-9)
    assert (test.mean, test.pairs) == (pytest.approx(0.0175), 4)


def test_of_folds_the_variance_is_corrected() -> None:
    """Nadeau and Bengio: t = mean / sqrt((1 / k + validation / training) s^2), here 1 / 5 + 1 / 4."""
    differences = [0.01, 0.03, 0.02, 0.00, 0.04]
    t = np.mean(differences) / math.sqrt((1 / 5 + 1 / 4) * np.var(differences, ddof=1))
    assert paired_test(differences, folds=True).p == pytest.approx(2 * float(stats.t.sf(t, 4)), rel=1e-9)
    assert paired_test(differences, folds=True).p > paired_test(differences, folds=False).p
    assert math.isnan(paired_test([0.5, 0.5], folds=False).p)


def copied(group: Path, name: str) -> Path:
    """A group like another one."""
    shutil.copytree(group, group.with_name(name))
    return group.with_name(name)


def test_two_groups_are_compared_pair_by_pair(zoo: Zoo, here: Path) -> None:
    other = copied(SEEDS, "seeds_1")
    for seed, more in ((4, 0.03), (5, -0.01), (6, 0.05)):
        content = results(other / f"seed_{seed}")
        content["metrics"]["test/loss"] += more
        (other / f"seed_{seed}/results.json").write_text(json.dumps(content))
    compared = zoo("compare", SEEDS, other)
    assert compared.code == 0
    test = paired_test([0.03, -0.01, 0.05], folds=False)
    line = next(
        line
        for line in compared.out.splitlines()
        if line.startswith("test/loss") and " to " in line and line.endswith("3")
    )
    assert line.split() == [
        "test/loss",
        f"{test.mean:.4f}",
        f"{test.low:.4f}",
        "to",
        f"{test.high:.4f}",
        number(test.p),
        "3",
    ]
    values = [results(other / f"seed_{seed}")["metrics"]["test/loss"] for seed in (4, 5, 6)]
    assert f"{fmean(values):.4f} ({min(values):.4f} to {max(values):.4f})" in compared.out
    three = zoo("compare", SEEDS, other, FOLDS, SEEDS / "seed_4")
    assert "C - A  not tested: one has seeds, the other folds" in three.out
    assert "D - A  not tested: a single run has no spread" in three.out


def test_what_runs_differ_in_is_said(zoo: Zoo, here: Path) -> None:
    config = SEEDS / "seed_5/config.yaml"
    config.write_text(config.read_text().replace("max_epochs: 2", "max_epochs: 3"))
    out = zoo("compare", SEEDS).out
    assert "its runs differ in trainer.max_epochs" in out
    assert f"3 seeds of {RECIPE}, other than the recipe in " in out


def test_numbers_that_are_not_finite_are_shown(zoo: Zoo, here: Path) -> None:
    for name, value in (("seed_4", "Infinity"), ("seed_5", "NaN")):
        text = (SEEDS / name / "results.json").read_text()
        changed = re.sub(r'"test/loss": [\d.]+', f'"test/loss": {value}', text)
        assert changed != text
        (SEEDS / name / "results.json").write_text(changed)
    assert {"inf", "nan"} <= set(zoo("compare", SEEDS).out.split())
    shutil.copytree(SEEDS, "other")
    assert zoo("compare", SEEDS, "other").code == 0


def test_where_a_single_run_is_wanted_a_group_is_named(zoo: Zoo, here: Path) -> None:
    for words in (
        ("test", SEEDS),
        ("validate", SEEDS),
        ("predict", SEEDS, SEEDS / "seed_4/config.yaml"),
        ("test", RECIPE),
    ):
        assert_one_line(zoo(*words), "is a group of 3 runs: give one of them, such as ")


def test_a_group_is_found_by_its_name(zoo: Zoo, here: Path) -> None:
    for words in (
        ("--resume", f"{RECIPE}/seeds_0"),
        (RECIPE, "--resume", "seeds_0"),
        ("-c", RECIPE, "--resume=folds_0"),
    ):
        done = zoo("fit", *words)
        assert done.code == 0, done.err
        assert "3 of 3: done before" in done.out


def test_a_fold_is_not_validated_on_examples_that_it_was_trained_on(zoo: Zoo, here: Path) -> None:
    refused = zoo("validate", RECIPE, "--ckpt", FOLDS / "fold_1")
    assert_one_line(refused, "trained on the other folds than 1 of 3", f"leave {RECIPE} out")
    assert zoo("test", RECIPE, "--ckpt", FOLDS / "fold_1").code == 0


def test_groups_of_other_data_are_not_tested(zoo: Zoo, here: Path) -> None:
    other = copied(SEEDS, "seeds_1")
    config = other / "seed_6/config.yaml"
    config.write_text(re.sub(r"fingerprint \w+", "fingerprint 0123456789abcdef", config.read_text()))
    out = zoo("compare", SEEDS, other).out
    assert "B - A  not tested: they were trained on other data: fingerprint " in out
    assert "and fingerprint 0123456789abcdef (" in out


def test_what_cannot_be_compared_is_one_line(zoo: Zoo, here: Path) -> None:
    assert_one_line(zoo("compare", "runs"), "runs is no run and no group of runs")
    assert_one_line(zoo("compare", SEEDS, SEEDS), "a run is given twice")
    (SEEDS / "seed_4/results.json").write_text("{")
    assert_one_line(zoo("compare", SEEDS), "results.json is damaged")
    (SEEDS / "seed_4/results.json").write_text('{"metrics": {}, "best": 3}')
    assert_one_line(zoo("compare", SEEDS), "results.json is damaged")


def test_in_what_runs_were_made_otherwise(zoo: Zoo, here: Path) -> None:
    other = copied(SEEDS, "seeds_1")
    for path in other.glob("seed_*/config.yaml"):
        text = path.read_text().replace("lr: 0.03", "lr: 0.5").replace("schedule: cosine", "schedule: linear")
        path.write_text(re.sub(r"fingerprint \w+", "fingerprint 0123456789abcdef", text))
    for path in other.glob("seed_*/run.json"):
        record = json.loads(path.read_text())
        record["environment"] |= {"torch": "1.0", "git_commit": "abc"}
        path.write_text(json.dumps(record))
    lines = [line.split() for line in zoo("compare", SEEDS, other, "--png", "a.png").out.splitlines()]
    for row in (
        ["model.lr", "0.03", "0.5"],
        ["trainer.callbacks.LRSchedule.schedule", "cosine", "linear"],
        ["torch", torch.__version__.partition("+")[0], "1.0"],
    ):
        assert row in lines
    assert any(line[:1] == ["data"] and "0123456789abcdef" in line for line in lines)
    assert any(line[:1] == ["git_commit"] for line in lines)
    assert not any("seed_everything" in line for line in lines)
    three = [line.split() for line in zoo("compare", SEEDS, other, SEEDS / "seed_4").out.splitlines()]
    assert ["model.lr", "0.03", "0.5", "0.03"] in three
    assert "all were made alike" in zoo("compare", SEEDS, SEEDS / "seed_5").out  # but for the seed
    single = zoo("compare", SEEDS / "seed_4", SEEDS / "seed_5").out.splitlines()
    assert ["seed_everything", "4", "5"] in [line.split() for line in single]


def test_options_of_other_classes_are_each_ones_own(zoo: Zoo, here: Path) -> None:
    """A third run differs from the first in a rate; the second one, of another class, has a rate of its own."""
    second, third = copied(SEEDS / "seed_4", "second"), copied(SEEDS / "seed_4", "third")
    config = (SEEDS / "seed_4/config.yaml").read_text()
    assert "lr: 0.03" in config
    assert "zoo.SoftmaxRegressionClassifier" in config
    other = config.replace("zoo.SoftmaxRegressionClassifier\n  init_args:\n", "my.Net\n  init_args:\n    own: 5\n")
    assert other.count("own: 5") == 1
    (second / "config.yaml").write_text(other.replace("lr: 0.03", "lr: 0.2"))
    (third / "config.yaml").write_text(config.replace("lr: 0.03", "lr: 0.5"))
    rows = [line.split() for line in zoo("compare", SEEDS / "seed_4", second, third).out.splitlines()]
    assert ["model.lr", "0.03", "0.2", "0.5"] in rows
    assert any(row[:1] == ["model"] and row[2] == "my.Net" for row in rows)
    assert ["model.lr", "0.03", "0.2"] in [
        line.split() for line in zoo("compare", SEEDS / "seed_4", second).out.splitlines()
    ]
    assert not any(row[:1] == ["model.own"] for row in rows)  # the others have no such option
    assert any(
        line.startswith("B, C - A  not tested: a single run")
        for line in zoo("compare", SEEDS, second, third).out.splitlines()
    )


def test_long_values_are_not_shown_alike(zoo: Zoo, here: Path) -> None:
    other, older = copied(SEEDS / "seed_4", "other"), copied(SEEDS / "seed_4", "older")
    for run, last in ((SEEDS / "seed_4", "one"), (other, "two")):
        record = json.loads((run / "run.json").read_text())
        record["environment"]["system"] = f"{'long ' * 20}{last}"
        (run / "run.json").write_text(json.dumps(record))
    (older / "run.json").unlink()  # of a version that wrote none: nothing is known to differ
    lines = zoo("compare", SEEDS / "seed_4", other, older).out.splitlines()
    (row,) = [line for line in lines if line.startswith("system")]
    assert row.split() == ["system", "…long", "long", "one", "…long", "long", "two"]
    assert not any(line.startswith("torch") for line in lines)
    assert _short(["a" * 50 + "1", "a" * 50 + "2", "b"]) == ["a" * 50 + "1", "a" * 50 + "2", "b"]


def test_where_the_picture_is_and_what_it_leaves_out(
    zoo: Zoo, here: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    away = tmp_path_factory.mktemp("away") / "run"
    shutil.copytree(SEEDS / "seed_4", away)
    lines = (away / "metrics.csv").read_text().splitlines()
    names, losses = lines[0].split(","), 0
    for i, line in enumerate(lines[1:], start=1):
        cells = line.split(",")
        if cells[names.index("val/loss")]:
            losses += 1
            cells[names.index("val/loss")] = "nan" if losses == 2 else "0.5"
            lines[i], step = ",".join(cells), cells[0]
    assert losses == 2
    (away / "metrics.csv").write_text("\n".join(lines) + "\n")
    out = zoo("compare", SEEDS / "seed_4", away).out
    assert f"it has values that no curve shows, nan or infinite: val/loss (1 of 2, first at step {step})\n" in out
    assert out.endswith("\ncurves  compare.png\n")  # not in a folder above the current one
    assert Path("compare.png").is_file()


def test_the_legend_of_many_runs(zoo: Zoo, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters stand before long paths, and no two runs have the same color."""
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    colors: list[str] = []
    labels: list[str] = []
    plot, legend = Axes.plot, Figure.legend

    def plotted(self: Any, *args: Any, **kwargs: Any) -> Any:
        colors.append(kwargs["color"])
        return plot(self, *args, **kwargs)

    def written(self: Any, handles: Any, texts: list[str], **kwargs: Any) -> Any:
        labels.extend(texts)
        return legend(self, handles, texts, **kwargs)

    monkeypatch.setattr(Axes, "plot", plotted)
    monkeypatch.setattr(Figure, "legend", written)
    runs = [copied(SEEDS / "seed_4", f"{'long_' * 10}{i}") for i in range(9)]
    assert zoo("compare", *runs).code == 0
    assert [label[:4] for label in labels] == [f"{letter}  …" for letter in "ABCDEFGHI"]
    assert [label[-1] for label in labels] == [*"012345678"]
    assert len({*colors}) == len(runs)


def test_runs_that_have_not_ended_are_compared_as_far_as_they_are(zoo: Zoo, here: Path) -> None:
    other = copied(SEEDS / "seed_4", "going")
    (other / "results.json").unlink()
    lock = Lock(other)
    result = zoo("compare", other, SEEDS / "seed_5")
    lock.release()
    assert result.code == 0, result.err
    assert "it is running: its metrics are left out, its curves are as they are now" in result.out
    assert f"curves  {SEEDS / 'compare.png'}" in result.out
    with Image.open(SEEDS / "compare.png") as picture:
        assert picture.size[0] > 500
    alone = zoo("compare", other)
    assert "it has not ended: its metrics are left out" in alone.out
    record = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps({**record, "state": "failed", "message": "ValueError: no"}))
    assert "it has not ended, failed (ValueError: no): " in zoo("compare", other).out
    (other / "metrics.csv").write_text("step,epoch,train/loss\n0,0,nan\n")  # nothing to draw
    (SEEDS / "compare.png").unlink()
    assert "curves" not in zoo("compare", other).out
    assert_one_line(zoo("compare", SEEDS, FOLDS, "--png", "no/such.png"), "cannot write no/such.png", started=True)


def test_what_a_picture_of_several_runs_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group: the mean in a band; nan and what only few of its runs have are left out."""
    from matplotlib.axes import Axes

    texts = ("0,1.0\n9,3.0\n19,nan\n29,7.0\n", "0,2.0\n9,5.0\n19,6.0\n", "0,6.0\n9,inf\n19,8.0\n")
    for i, text in enumerate(texts):
        (tmp_path / str(i)).mkdir()
        lines = "".join(f"{line.partition(',')[0]},0,{line.partition(',')[2]}\n" for line in text.split())
        (tmp_path / f"{i}/metrics.csv").write_text(f"step,epoch,val/loss\n{lines}")
    drawn, bands = [], []
    monkeypatch.setattr(Axes, "plot", _watched(Axes.plot, drawn))
    monkeypatch.setattr(Axes, "fill_between", _watched(Axes.fill_between, bands))
    assert draw_curves({"A": [tmp_path / str(i) for i in range(3)], "B $x$": [tmp_path / "1"]}, tmp_path / "out.png")
    assert drawn == [([0, 9, 19], [3.0, 4.0, 7.0]), ([0, 9, 19], [2.0, 5.0, 6.0])]
    assert bands == [([0, 9, 19], [1.0, 3.0, 6.0])]  # of one run, there is none
    assert not draw_curves({"A": [tmp_path]}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def _watched(function: Any, seen: list[Any]) -> Any:
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((args[0], args[1]))
        return function(self, *args, **kwargs)

    return watched
