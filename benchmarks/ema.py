"""What an update of ``callbacks.EMA`` costs, against ``torch.optim.swa_utils.AveragedModel`` with the same average."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import zoo
from benchmarks.harness import Row, alternate, clock, ratio, spread
from callbacks import EMA


def update_by_ours(module: zoo.Task) -> Callable[[int], None]:
    """The callback's own hook, as the trainer calls it after a step."""
    ema = EMA(0.999)

    def update(step: int) -> None:
        trainer: Any = SimpleNamespace(global_step=step)
        ema.on_train_batch_end(trainer, module)

    return update


def update_by_peer(module: zoo.Task, buffers: bool) -> Callable[[int], None]:
    """The usual way by hand, with the norms' statistics or without."""
    average = AveragedModel(module.net, multi_avg_fn=get_ema_multi_avg_fn(0.999), use_buffers=buffers)
    return lambda step: average.update_parameters(module.net)


def time_of(update: Callable[[int], None], steps: Iterator[int], times: int, device: str) -> float:
    """Seconds of an update."""
    started = clock(device)
    for _ in range(times):
        update(next(steps))
    return (clock(device) - started) / times


def run(device: str = "cpu") -> list[Row]:
    """All rows of this benchmark."""
    rows = []
    for name, width, updates_a_round in (("resnet18", 4, 30), ("resnet18", 64, 5)):
        module = zoo.create_model(name, num_classes=10, width=width).to(device)
        updates = {
            "ours": update_by_ours(module),
            "with": update_by_peer(module, True),
            "without": update_by_peer(module, False),
        }
        steps = count(1)
        measured = {
            which: partial(time_of, update, steps, updates_a_round, device) for which, update in updates.items()
        }
        times = alternate(measured, rounds=9)
        for which in ("with", "without"):
            slower = ratio(times["ours"], times[which])
            target = 1.1 if which == "with" else None
            rows.append(
                Row(
                    f"{name}, width {width}: an update of weights and statistics",
                    f"{1e3 * spread(times['ours']).median:.2f} ms",
                    f"{1e3 * spread(times[which]).median:.2f} ms by AveragedModel, {which} statistics",
                    f"{slower:.2f}x",
                    "<= 1.1x" if target else "",
                    slower.median <= target if target else None,
                )
            )
    return rows
