"""SIGKILL at any moment, within writes, too: the run goes on, has lost the interval at most, and ends with the same bits."""

import itertools
import random
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from killed import session
from resume_kit import RECIPES, differing, rows_of, write_recipes

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
INTERVAL = 2  # optimizer steps between two saves
SAVING = ("--save-every", f"{INTERVAL}steps", "--keep", "2")
WRITES = [  # what is written, and up to how often in a session
    *(("last.ckpt", 6, how) for how in ("half", "before", "after")),
    *(("best.ckpt", 2, how) for how in ("half", "before")),
    *(("metrics.csv", 12, how) for how in ("half",)),
    *(("metrics.csv", 2, how) for how in ("before", "after")),
    *(("config.yaml", 2, how) for how in ("half", "before", "after")),
    *(("results.json", 1, how) for how in ("half", "before")),
    *(("run.json", 2, how) for how in ("half", "before")),
    *(("report.html", 1, how) for how in ("half",)),
]


def moments(seed: int) -> Iterator[str]:
    """Draw moments, two thirds of them within writes."""
    rng = random.Random(seed)
    while True:
        if rng.random() < 1 / 3:
            yield f"time:{rng.uniform(0.0, 2.5):.3f}"
        else:
            name, most, how = rng.choice(WRITES)
            yield f"write:{name}:{rng.randint(1, most)}:{how}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each recipe that is not stopped."""
    folder = tmp_path_factory.mktemp("whole")
    write_recipes(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in RECIPES:
            done = session("never", "fit", "-c", f"{name}.yaml", *SAVING)
            assert done.code == 0, done.err
    return folder


def runs(name: str) -> list[Path]:
    folder = Path("runs", name)
    return sorted(folder.iterdir(), key=lambda path: int(path.name.partition("_")[2])) if folder.is_dir() else []


def saved_step(run: Path) -> int:
    path = run / "checkpoints/last.ckpt"
    return int(torch.load(path, weights_only=True)["global_step"]) if path.is_file() else 0


def survive(name: str, drawn: list[str], whole: Path, log: list[str]) -> None:
    """Train a recipe whose sessions are killed at one of ``drawn`` after the other until it has ended."""
    done = Path("done.txt")
    done.unlink(missing_ok=True)
    left, begun, told = [*drawn], len(runs(name)), ""
    while True:
        before = runs(name)[begun:]
        resumable = bool(before) and any((before[-1] / "checkpoints").glob("*.ckpt"))
        if before and not resumable:  # killed before the first checkpoint: --resume says so, and does not trip
            refused = session("never", "fit", "-c", f"{name}.yaml", "--resume", "--runs", "runs")
            if begun == 0:
                assert refused.code == 2, refused
                assert re.fullmatch(r"zoo: error: no run of \S+ with a checkpoint in runs .*\n", refused.err), refused
            begun = len(runs(name))
        args = ("fit", "-c", f"{name}.yaml", *(("--resume",) if resumable else SAVING))
        moment = left.pop(0) if left else "never"
        done.unlink(missing_ok=True)
        ended = session(moment, *args)
        told += ended.err
        log.append(f"{name:<8}{moment:<32}{'resumed' if resumable else 'begun':<9}{ended.code}")
        if ended.code == 0:
            break
        assert ended.code == -signal.SIGKILL, f"{moment}: {ended}"
        last = runs(name)[-1:]
        steps = int(done.read_text().split()[-1]) if done.is_file() else 0
        if last and steps:
            assert steps - saved_step(last[0]) <= INTERVAL, f"{moment}: {steps} steps, saved at {saved_step(last[0])}"
    run = runs(name)[-1]
    theirs = whole / "runs" / name / "version_0"
    assert set(differing(run, theirs)) <= {"/metrics_rows"}, "\n".join(log)
    # a kill may take the row that is written a moment after a save within an epoch, as a whole, which is told
    wanted = {row["step"]: row for row in rows_of(theirs)}
    rows = {row["step"]: row for row in rows_of(run)}
    assert all(row == wanted[step] for step, row in rows.items()), "\n".join(log)
    assert rows.keys() == wanted.keys() or "are lost" in told, "\n".join(log)
    assert sum(rows.get(step) != row for step, row in wanted.items()) <= len(drawn), "\n".join(log)
    assert [path.name for path in run.rglob("*") if path.name.endswith(".tmp")] == [], "\n".join(log)
    assert {path.name for path in run.iterdir()} == {path.name for path in theirs.iterdir()}, "\n".join(log)


def kills(count: int, seed: int, whole: Path, patch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """Kill runs of all recipes in turn, each up to three times, ``count`` times in all; return the moments and how it went."""
    drawn, log = moments(seed), list[str]()
    for i, name in enumerate(itertools.cycle(RECIPES)):
        killed = sum(line.endswith("-9") for line in log)
        if killed >= count and i >= len(RECIPES):
            return log
        place = folder / str(i)
        place.mkdir()
        write_recipes(place)
        patch.chdir(place)
        survive(name, list(itertools.islice(drawn, 3)), whole, log)
    raise AssertionError


@pytest.mark.slow
def test_kills(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = kills(6, 0, whole, monkeypatch, tmp_path)
    assert any("write:" in line for line in log if line.endswith("-9"))


@pytest.mark.evidence
def test_fifty_kills(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = kills(50, 1, whole, monkeypatch, tmp_path)
    print("\n".join(log))
    assert sum("write:" in line for line in log if line.endswith("-9")) >= 12
