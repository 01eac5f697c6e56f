"""What W&B costs: a row of metrics, without a network and with a service that was lost, against the steps between two rows."""

import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

import zoo
from benchmarks.harness import Row, Spread, quiet, spread, time_fit
from callbacks import Histograms
from recipes.cli.run.folder import Run
from recipes.cli.run.wandb_run import WandbRun

EVERY = 50  # steps from one row to the next
HISTOGRAMS_EVERY = 500  # the default of Histograms
ROWS, PAUSE = 100, 0.01  # rows of a round, and seconds between them: W&B's threads work then
ROUNDS = 5
WAIT = 8.0  # seconds after which W&B's process has noticed that the service is lost


def run(device: str = "cpu") -> list[Row]:
    """Rows for W&B offline, with a service that died or hangs, and for histograms."""
    quiet()
    torch.set_num_threads(1)
    step = spread(time_fit(*lenet(), 100, device=device, log_every_n_steps=EVERY) for _ in range(ROUNDS))
    rows = [
        _row("offline", step, measured(None)),
        _row("whose service (a stand-in at 127.0.0.1) has died", step, measured("die")),
        _row("whose service takes requests and never answers", step, measured("hang")),
    ]
    each = histograms()
    share = each.median / (HISTOGRAMS_EVERY * step.median)
    what = f"Histograms() of LeNet-5 to W&B, one time of those every {HISTOGRAMS_EVERY} steps"
    steps = f"{1e3 * step.median:.2f} ms a step"
    return [
        *rows,
        Row(what, f"{1e3 * each.median:.1f} ms", steps, f"{share:.2%} of {HISTOGRAMS_EVERY} steps", "", None),
    ]


def _row(what: str, step: Spread, each: Spread) -> Row:
    share = each.median / (EVERY * step.median)
    return Row(
        f"LeNet-5, batch 64: a row of metrics to W&B {what}, CPU time of all threads of this process",
        f"{1e6 * each.median:.0f} ({1e6 * each.low:.0f} to {1e6 * each.high:.0f}) us",
        f"{1e3 * step.median:.2f} ms a step",
        f"{share:.2%} of {EVERY} steps",
        "<= 2%",
        share <= 0.02,
    )


def lenet() -> tuple[zoo.Task, tuple[torch.Tensor, torch.Tensor]]:
    """LeNet-5 and a batch."""
    torch.manual_seed(0)
    return zoo.create_model("lenet5"), (torch.rand(64, 1, 32, 32), torch.randint(10, (64,)))


def measured(loss: str | None) -> Spread:
    """CPU seconds a row; ``loss`` is what happens to the service before: it may "die" or "hang", None: offline."""
    if loss is None:
        return _measured(offline=True, ready=lambda: None)
    with stand_in() as service:

        def ready() -> None:
            getattr(service, loss)()
            time.sleep(WAIT)

        return _measured(offline=False, ready=ready)


def _measured(offline: bool, ready: Callable[[], None]) -> Spread:
    with tempfile.TemporaryDirectory() as folder:
        logger = WandbRun(Run(Path(folder), "benchmark"), offline, say=lambda text: None)
        for step in range(ROWS):  # one that does not count
            logger.log_metrics({"train/loss_step": 1.0, "train/acc_step": 0.5, "epoch": 1}, step)
        ready()
        rounds = []
        for turn in range(1, ROUNDS + 1):
            begin = time.process_time()
            for step in range(turn * ROWS, (turn + 1) * ROWS):
                logger.log_metrics({"train/loss_step": 1.0, "train/acc_step": 0.5, "epoch": 1}, step)
                time.sleep(PAUSE)
            rounds.append((time.process_time() - begin) / ROWS)
        logger.finish("done", "")
    return spread(rounds)


def histograms() -> Spread:
    """CPU seconds of sending all histograms once."""
    model, _ = lenet()
    optimizer = torch.optim.SGD(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    callback, seconds = Histograms(1), []
    with tempfile.TemporaryDirectory() as folder:
        logger = WandbRun(Run(Path(folder), "benchmark"), offline=True, say=lambda text: None)
        trainer = Trainer(accelerator="cpu", logger=logger, enable_checkpointing=False, enable_model_summary=False)
        for _ in range(ROUNDS + 1):
            begin = time.process_time()
            callback.on_before_optimizer_step(trainer, model, optimizer)
            time.sleep(0.2)
            seconds.append(time.process_time() - begin)
        logger.finish("done", "")
    return Spread(statistics.median(seconds[1:]), min(seconds[1:]), max(seconds[1:]))


@contextmanager
def stand_in() -> Iterator[Any]:
    """The service of the tests."""
    path = Path(__file__).parents[1] / "tests/wandb_service.py"
    spec = importlib.util.spec_from_file_location("wandb_service", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    import pytest

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_FINISH_TIMEOUT", "1")
        with module.serving(patch) as service:
            yield service


os.environ.setdefault("WANDB_SILENT", "true")
