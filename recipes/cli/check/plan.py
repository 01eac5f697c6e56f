"""Checks of the plan of a run: its schedule against the real number of steps; time, memory and disk."""

import math
import os
import shutil
import statistics
from pathlib import Path
from typing import Any

from callbacks import LRSchedule
from recipes.cli.check.rows import Row, not_applicable
from recipes.cli.check.start import Start

_LONG = 24 * 3600  # seconds of a run that is worth a warning
_WARM = 0.5  # share of a run in warm-up


def check_schedule(start: Start) -> Row:
    """The rate's schedule, and its warm-up, fit into the steps that the run really makes."""
    name, steps = "schedule", start.steps
    if start.schedule_error:
        return Row(
            name, "fail", start.schedule_error, "change the schedule, or the length of the run (trainer.max_epochs)"
        )
    of = f"{steps:,.0f} steps" if steps < math.inf else "steps without an end"
    epochs = f" ({start.epochs:g} epochs of {start.epoch_batches:g} batches)" if start.epochs < math.inf else ""
    many = (
        ""
        if start.devices in (1, "1", None)
        else f"; measured for one process, the recipe asks for devices={start.devices}"
    )
    problems = [problem for schedule in start.schedules for problem in _problems(schedule, start)]
    problems += [problem for config in start.schedulers for problem in _problems_of_torch(config, start)]
    if problems:
        (text, cure), *others = problems
        return Row(
            name, "warn", "; ".join([text, *(other for other, _ in others)]) + f"; the run has {of}{epochs}{many}", cure
        )
    if not start.schedules and not start.schedulers:
        return Row(name, "pass", f"a constant rate for {of}{epochs}{many}")
    kinds: list[str] = [schedule.schedule for schedule in start.schedules]
    kinds += [type(config.scheduler).__name__ for config in start.schedulers]
    return Row(name, "pass", f"{', '.join(kinds)} over {of}{epochs}{many}")


def _length(start: Start, interval: str) -> float:
    return start.steps if interval == "step" else start.epochs


def _problems(schedule: LRSchedule, start: Start) -> list[tuple[str, str]]:
    """Return what is wrong with a schedule, each with its cure."""
    length, unit = _length(start, schedule.interval), f"{schedule.interval}s"
    found = []
    warmup = schedule.warmup if schedule.warmup < 1 else schedule.warmup / length
    if warmup > _WARM:
        found.append(
            (f"warm-up takes {warmup:.0%} of the run", "a shorter warm-up such as warmup=0.1, or a longer run")
        )
    late = [time for time in schedule.options.get("milestones", []) if time >= 1 and time >= length]
    if late:
        found.append(
            (f"milestone {late[0]:g} is never reached in {length:g} {unit}", "milestones as shares: 0.5, 0.75")
        )
    if schedule.schedule == "plateau":
        patience = schedule.options["patience"]
        if start.validations < math.inf and patience >= start.validations:
            text = f"plateau waits for {patience} validations, and there are {start.validations:g}"
            found.append((text, "a smaller patience, or a longer run"))
    return found


def _problems_of_torch(config: Any, start: Start) -> list[tuple[str, str]]:
    """The same of a scheduler of torch's, which is told the length of the run."""
    length, scheduler = _length(start, config.interval), config.scheduler
    planned = getattr(scheduler, "total_steps", None) or getattr(scheduler, "T_max", None)
    if not planned or math.isinf(length) or abs(planned * (config.frequency or 1) / length - 1) <= 0.1:
        return []
    text = f"{type(scheduler).__name__} is made for {planned} {config.interval}s, the run has {length:g}"
    return [(text, "its length from trainer.estimated_stepping_batches, or callbacks.LRSchedule, which asks for it")]


def estimate(start: Start) -> list[Row]:
    """Return the rows of time, memory and disk."""
    return [_time(start), _memory(start), _disk(start)]


def _time(start: Start) -> Row:
    # the first batch sets up what all others use
    batch = statistics.mean(start.seconds[1:] or start.seconds) if start.seconds else math.nan
    if not start.seconds:
        return not_applicable("time", "no batch was trained")
    if math.isinf(start.epochs) and math.isinf(start.steps):
        return not_applicable("time", f"{batch * 1e3:.1f} ms a batch; the run has no end")
    batches = start.steps if math.isinf(start.epochs) else start.epochs * start.epoch_batches
    val = min(start.val_seconds, default=0.0) * start.val_batches * start.validations
    total = batches * batch + val
    detail = f"about {duration(total)}: {batches:,.0f} batches of {batch * 1e3:.1f} ms"
    detail += f", {start.validations:,.0f} validations" if start.validations else ""
    if total > _LONG:
        cure = "an accelerator, a smaller model or input, fewer epochs; zoo fit --resume goes on where it stopped"
        return Row("time", "warn", detail, cure, {"seconds": total})
    return Row("time", "pass", detail, more={"seconds": total})


def duration(seconds: float) -> str:
    """Return a time in its largest unit.

    Example:
        >>> duration(0.4), duration(90), duration(5400), duration(200000)
        ('1 s', '2 min', '1.5 h', '2.3 days')
    """
    for size, unit in ((86400, "days"), (3600, "h")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{math.ceil(seconds / 60)} min" if seconds >= 60 else f"{max(1, math.ceil(seconds))} s"


def _memory(start: Start) -> Row:
    import torch

    from callbacks.peak_memory import peak_memory

    if start.peak_bytes is not None:
        peak, there = start.peak_bytes, torch.cuda.get_device_properties(start.device).total_memory
        what = "of the accelerator"
    else:
        used = peak_memory(torch.device("cpu"))
        if used is None or not hasattr(os, "sysconf"):
            return not_applicable("memory", "this system does not tell what a process uses")
        peak, there = used, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        what = "of this machine"
    detail = f"{size(peak)} at most so far, {size(there)} {what}"
    if peak > 0.8 * there:
        return Row(
            "memory", "warn", detail, "a smaller data.batch_size with trainer.accumulate_grad_batches", {"bytes": peak}
        )
    return Row("memory", "pass", detail, more={"bytes": peak})


def _disk(start: Start) -> Row:
    needed = 3 * start.state_bytes  # best, last, and one that is being written
    if not start.state_bytes:
        return not_applicable("disk", "no batch was trained, so the size of a checkpoint is not known")
    free = shutil.disk_usage(Path.cwd()).free
    detail = f"checkpoints of {size(start.state_bytes)}, best and last and one being written; {size(free)} free"
    if needed > free:
        return Row("disk", "fail", detail, "free some space, or --runs on another disk", {"bytes": needed})
    if needed > free / 2:
        return Row("disk", "warn", detail, "free some space, or --runs on another disk", {"bytes": needed})
    return Row("disk", "pass", detail, more={"bytes": needed})


def size(count: float) -> str:
    """Return a number of bytes in its unit.

    Example:
        >>> size(1200), size(5 * 2**20), size(3.5 * 2**30)
        ('1.2 KiB', '5.0 MiB', '3.5 GiB')
    """
    unit = next((unit for unit, power in (("GiB", 30), ("MiB", 20)) if count >= 2**power), "KiB")
    return f"{count / 2 ** {'GiB': 30, 'MiB': 20, 'KiB': 10}[unit]:.1f} {unit}"
