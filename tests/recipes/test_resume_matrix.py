"""Resume over all pairs of family, place of the stop, workers, processes and accumulation: the bits of a run without a stop."""

import itertools
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from killed import session
from resume_kit import RECIPES, differing, rows_of, write_recipes

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")

FACTORS: dict[str, tuple[Any, ...]] = {
    "family": tuple(RECIPES),
    "place": ("end", "middle"),
    "workers": (0, 2),
    "ranks": (1, 2),
    "accumulate": (1, 2),
}


def pairs_of(case: tuple[Any, ...]) -> set[tuple[tuple[int, Any], ...]]:
    return set(itertools.combinations(enumerate(case), 2))


def covering(cases: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return few of the cases that have all pairs of values: one after the other, the one with the most that are missing.

    Of several, the one with the fewest processes.
    """
    missing = set().union(*map(pairs_of, cases))
    chosen = []
    while missing:
        best = max(cases, key=lambda case: (len(pairs_of(case) & missing), -(1 + case[2]) * case[3]))
        chosen.append(best)
        missing -= pairs_of(best)
    return chosen


REFUSED = {("gan", 2), ("lm", 2)}  # two losses, and carried states, are not accumulated
ALL = [case for case in itertools.product(*FACTORS.values()) if (case[0], case[4]) not in REFUSED]
FEW = covering(ALL)


def test_few_cases_have_all_pairs() -> None:
    assert len(FEW) <= 12
    for (i, one), (j, two) in itertools.combinations(enumerate(FACTORS.values()), 2):
        missing = {*itertools.product(one, two)} - {(case[i], case[j]) for case in FEW}
        assert missing == (REFUSED if (i, j) == (0, 4) else set())


# sends the first process SIGTERM, once
STOP = """
import os
import signal
from lightning.pytorch import Callback

class Stop(Callback):
    def __init__(self, at: int = -1): self.at = at
    def on_train_batch_end(self, trainer, *args):
        if trainer.fit_loop.total_batch_idx == self.at and trainer.is_global_zero: os.kill(os.getpid(), signal.SIGTERM)
"""
_whole: dict[tuple[Any, ...], Path] = {}  # a run without a stop for all places of one


def options(family: str, workers: int, ranks: int, accumulate: int) -> list[str]:
    several = [f"--trainer.devices={ranks}", "--trainer.strategy=ddp_fork"] if ranks > 1 else []
    return [
        *several,
        f"--data.num_workers={workers}",
        f"--trainer.accumulate_grad_batches={accumulate}",
        "--trainer.max_epochs=2",
    ]


def fit(folder: Path, code: int, *args: str) -> None:
    folder.mkdir(exist_ok=True)
    write_recipes(folder)
    (folder / "stop.py").write_text(STOP)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ended = session("never", "fit", *args)
    assert ended.code == code, ended


def resumed(case: tuple[Any, ...], root: Path) -> None:
    """Stop a run, resume it and compare; six batches make an epoch."""
    family, place, *rest = case
    args = ["-c", f"{family}.yaml", *options(family, *rest), "--trainer.callbacks+=stop.Stop"]
    run = Path("runs", family, "version_0")
    key = (family, *rest)
    if key not in _whole:
        _whole[key] = root / "_".join(map(str, key))
        fit(_whole[key], 0, *args)
    folder = root / "_".join(map(str, case))
    fit(folder, 128 + signal.SIGTERM, *args, f"--trainer.callbacks.at={5 if place == 'end' else 3}")
    assert not list((folder / run).rglob(".*.tmp"))
    fit(folder, 0, "--resume", str(run), "--trainer.callbacks.at=-1")
    one, two = folder / run, _whole[key] / run
    assert differing(one, two) == []
    assert rows_of(one) == rows_of(two)
    lines = re.findall(r"(?m)^epoch \d/2 .* ([\d.]+) s$", (one / "log.txt").read_text())
    assert len(lines) == 2
    assert max(map(float, lines)) < 600  # of an epoch, not since the machine was started


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.mark.slow
@pytest.mark.parametrize("case", FEW, ids=lambda case: "-".join(map(str, case)))
def test_pairs(case: tuple[Any, ...], root: Path) -> None:
    resumed(case, root)


@pytest.mark.evidence
@pytest.mark.parametrize("case", random.Random(0).sample(ALL, 40), ids=lambda case: "-".join(map(str, case)))
def test_many(case: tuple[Any, ...], root: Path) -> None:
    resumed(case, root)
