"""The largest batch that fits into memory, and how fast each size is."""

import gc
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from typing_extensions import override

from callbacks import BatchSizeSchedule
from callbacks.peak_memory import peak_memory
from recipes.cli.errors import UserError, message, one_line
from recipes.cli.run.building import RecipeCLI
from recipes.cli.run.trying import Enough, Trial, callbacks_of, check_has_data, copied, quiet_trainer
from zoo.testing.parts import num_examples

SHARE = 0.8  # of the memory that may be used
_FEWEST, _MOST, _SECONDS = 4, 20, 1.0  # batches of each size: at least, and at most if they take less than a second


@dataclass(frozen=True)
class Tried:
    """A batch size that was tried.

    Args:
        size: Examples in a batch.
        bytes: Most memory that was in use; nan if no step was made.
        speed: Examples a second of training steps, loading not included; nan if no step was made.
        problem: Why it is too large; empty if it is not.
    """

    size: int
    bytes: float
    speed: float
    problem: str = ""

    @property
    def fits(self) -> bool:
        """Whether it stays below the limit."""
        return not self.problem


class Clock(Trial):
    """Times the steps and ends training."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.examples: list[int] = []
        self._then = 0.0

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.examples.append(num_examples(batch))  # the last batch of an epoch may be smaller
        self._then = time.perf_counter()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self.seconds.append(time.perf_counter() - self._then)
        # a batch after the first step: the states of the optimizer and the activations together
        needed = max(_FEWEST, 2 * trainer.accumulate_grad_batches)
        if len(self.seconds) >= (needed if sum(self.seconds) >= _SECONDS else max(needed, _MOST)):
            raise Enough

    @property
    def speed(self) -> float:
        """Examples a second of the fastest batch: others wait for what else the machine does."""
        return max(examples / seconds for examples, seconds in zip(self.examples, self.seconds, strict=True))


class Memory:
    """The memory of the accelerator or, on the CPU, of this process and of the machine."""

    def begin(self, device: torch.device) -> None:
        """Forget the peak so far, where the system can."""
        gc.collect()  # a trainer and its module refer to each other
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with suppress(OSError):  # Linux alone; elsewhere a peak stays, and the search ends lower than it could
                Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")

    def used(self, device: torch.device) -> float:
        """Return the bytes that were in use at most.

        Raises:
            UserError: The system does not tell.
        """
        if device.type == "cuda":
            return float(torch.cuda.max_memory_reserved(device))
        if (peak := peak_memory(torch.device("cpu"))) is None:
            raise UserError("this system does not tell what a process uses, so --find-batch-size finds no end")
        return float(peak)

    def there(self, device: torch.device) -> float:
        """Return the bytes that there are: of a container, those that it may use."""
        if device.type == "cuda":
            return float(torch.cuda.get_device_properties(device).total_memory)
        whole = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        with suppress(OSError, ValueError):  # no such file, or "max"
            return min(whole, float(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
        return whole


def next_size(tried: Mapping[int, Tried], largest: int, limit: float) -> int | None:
    """Return the size to try next: twice the largest that fits, or as much as memory should allow; None at the end.

    What a size needs is foretold by the line through the two largest sizes that fit (through zero, if there is one), because a
    process that takes more than there is may be killed. Between a size that fits and one that does not, the middle is tried,
    as long as it is an eighth above the former.

    Args:
        tried: The sizes that were tried.
        largest: The largest size that makes sense, the number of examples.
        limit: Bytes that may be used.

    Example:
        >>> tried = {8: Tried(8, 100.0, 1.0), 16: Tried(16, 140.0, 1.0)}
        >>> next_size(tried, 1000, 300.0), next_size(tried, 1000, 200.0), next_size(tried, 1000, 145.0), next_size(tried, 20, 300.0)
        (32, 28, None, 20)
    """
    good = sorted(size for size, each in tried.items() if each.fits)
    bad = min((size for size, each in tried.items() if not each.fits), default=math.inf)
    if not good:
        return int(bad) // 2 if 1 < bad < math.inf else None
    most = good[-1]
    wanted = min(2 * most, largest) if math.isinf(bad) else (most + int(bad)) // 2
    used = tried[most].bytes
    slope = (used - tried[good[-2]].bytes) / (most - good[-2]) if len(good) > 1 else used / most
    if slope > 0:
        wanted = min(wanted, most + int((limit - used) / slope))
    return wanted if wanted - most >= max(1, most // 8) or most < wanted == largest else None


def find(cli: RecipeCLI, memory: Memory | None = None) -> Iterator[Tried]:
    """Train a few steps of copies of a recipe's model, with one batch size after the other, and give each as it is done.

    All is trained, also what ``callbacks.LayerFreezing`` would thaw later on.

    Args:
        cli: The recipe, whose model and data are not touched.
        memory: Tells what is in use.

    Raises:
        UserError: The recipe has no data, or data without a batch size that could be changed, or without an end; or it has a
            schedule of the batch size.
    """
    check_has_data(cli)
    data: Any = cli.datamodule
    if not isinstance(getattr(data, "batch_size", None), int):
        raise UserError(
            f"--find-batch-size sets data.batch_size, and {'the module' if data is None else type(data).__name__} has none"
        )
    if growth := [callback for callback in callbacks_of(cli) if isinstance(callback, BatchSizeSchedule)]:
        times = growth[0].factor ** len(growth[0].milestones)
        raise UserError(
            f"--find-batch-size finds one size, and BatchSizeSchedule grows it by {times} in the end: leave the callback out, and "
            f"divide what is found by {times}"
        )
    largest = _number_of_examples(cli)
    tried: dict[int, Tried] = {}
    size: int | None = min(data.batch_size, largest)
    while size is not None:
        tried[size], limit = _try(cli, size, memory or Memory(), first=not tried)
        yield tried[size]
        size = next_size(tried, largest, limit)


def _number_of_examples(cli: RecipeCLI) -> int:
    with copied(cli) as (_, data):
        data.prepare_data()
        data.setup("fit")
        try:
            return len(data.train_dataloader().dataset)
        except (TypeError, AttributeError):
            raise UserError(
                "--find-batch-size needs to know how many training examples there are, and these have no end"
            ) from None


def _try(cli: RecipeCLI, size: int, memory: Memory, first: bool) -> tuple[Tried, float]:
    """Return what a size needs, and the bytes that may be used."""
    clock = Clock()
    with copied(cli) as (module, data):
        data.batch_size = size
        trainer = quiet_trainer(
            cli,
            clock,
            keep=(GradientAccumulationScheduler,),
            max_epochs=-1,
            max_steps=1000,  # never reached; without an end, a module's own schedule could not be built
            limit_val_batches=0,
            num_sanity_val_steps=0,
            log_every_n_steps=0,
        )
        device = trainer.strategy.root_device
        limit = SHARE * memory.there(device)
        memory.begin(device)
        try:
            trainer.fit(module, datamodule=data)
        except Enough:
            pass
        except Exception as error:
            if is_out_of_memory(error):
                return Tried(size, math.nan, math.nan, "out of memory"), limit
            if isinstance(error, ValueError) and not first:  # such as more lanes than a text has
                return Tried(size, math.nan, math.nan, f"refused: {one_line(message(error))}"), limit
            raise
        if max(clock.examples) < size:
            raise UserError(
                f"--find-batch-size sets data.batch_size, and {type(data).__name__} makes batches of {max(clock.examples)} "
                f"whatever it says (now {size}): let train_dataloader read self.batch_size"
            )
        used = memory.used(device)
    return Tried(size, used, clock.speed, "" if used <= limit else f"above {SHARE:.0%} of the memory"), limit


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is one of memory that ran out, of Python, of the CPU, or of an accelerator."""
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
    )
