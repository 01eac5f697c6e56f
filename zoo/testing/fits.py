"""Checks of whole fits: accumulated batches and several processes make the steps of one batch on one process."""

import copy
import logging
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from zoo.internals import BATCH_NORMS
from zoo.optim.optimizers import CLOSURE_OPTIMIZERS
from zoo.testing.frozen_draws import FrozenDraws
from zoo.testing.parts import (
    NotApplicable,
    cast,
    counts_examples,
    gap_of,
    has_loss,
    loss_of,
    num_examples,
    select,
    size_of,
)

_STEPS = 3
_TOLERANCE = 1e-9
_LENGTH = 1e-3  # of a first step: errors of the gradient of one part in a million are seen
_TIMEOUT = timedelta(seconds=60)  # of processes that wait for each other

Batches = Callable[[int], list[Any]]  # those of a process, by its rank
Weights = dict[str, Tensor]


def check_accumulation(module: Any, batch: Any) -> None:
    """Accumulated batches of different sizes make the steps of the whole batch, to 1e-9 in float64.

    The third and last step is that of an incomplete window. A module that does not count what its loss is a mean over is trained on
    batches of equal sizes and complete windows: Lightning takes all batches of a window to count equally. The optimizer is SGD
    without more, which follows the gradient's size. Batch norms are in evaluation mode, with the statistics of the batch: in
    training mode they depend on how examples are cut into batches. Random draws are frozen.

    Raises:
        NotApplicable: Optimization by hand, an optimizer that evaluates a batch several times, or draws that cannot be frozen.
    """
    if not module.automatic_optimization:
        raise NotApplicable(
            "it is optimized by hand, and Lightning accumulates gradients in automatic optimization only"
        )
    if (name := module.hparams.get("optimizer")) in CLOSURE_OPTIMIZERS:
        raise NotApplicable(f"{name} evaluates the loss of a batch several times a step")
    subject = _Subject(module, batch)
    count = num_examples(batch)
    part = count // 3
    cuts: list[tuple[int, ...]] = [(count - part, part), (part, count - part), (count,)]
    if not counts_examples(module):
        cuts = [(count // 2, count // 2)] * _STEPS
        count -= count % 2
    whole = select(subject.batch, slice(count))
    parts = [select(whole, slice(sum(sizes[:i]), sum(sizes[: i + 1]))) for sizes in cuts for i in range(len(sizes))]

    def reference() -> Weights:
        return subject.fit(lambda rank: [whole] * _STEPS)[0]

    subject.compare("accumulated batches", reference, subject.fit(lambda rank: parts, accumulate=2)[0])


def check_processes(module: Any, batch: Any) -> None:
    """Two processes (``ddp``, forked), each with every other example, make the steps of one, to 1e-9 in float64.

    Optimizer and batch norms are as in :func:`check_accumulation`; a module that is optimized by hand has its own optimizers.
    Random draws are frozen, but those of a module that offers ``shared_random`` must be the same for two processes as for one.

    Raises:
        NotApplicable: Processes cannot be forked here, or draws that cannot be divided.
    """
    if (reason := why_no_processes()) is not None:
        raise NotApplicable(reason)
    subject = _Subject(module, batch, frozen=not hasattr(module, "shared_random"))
    count = num_examples(batch)
    whole = select(subject.batch, slice(count - count % 2))

    def reference() -> Weights:
        return subject.fit(lambda rank: [whole] * _STEPS)[0]

    try:
        first, second = subject.fit(lambda rank: [select(whole, slice(rank, None, 2))] * _STEPS, processes=2)
    except Exception as error:
        message = str(error).strip().splitlines() or [type(error).__name__]
        raise AssertionError(f"training on two processes fails: {message[-1]}") from error
    for name, value in first.items():
        assert torch.equal(value, second[name]), f"two processes end with different weights: {name}"
    subject.compare("two processes", reference, first)


def why_no_processes() -> str | None:
    """Return why this process cannot be forked for a distributed fit; None if it can."""
    if "fork" not in multiprocessing.get_all_start_methods():
        return "this system cannot fork processes"
    if torch.cuda.is_initialized():
        return "CUDA is initialized in this process, so it cannot be forked"
    if not (dist.is_available() and dist.is_gloo_available()):
        return "this build of torch has no gloo, by which processes talk to each other"
    if dist.is_initialized():
        return "this process is one of several already"
    if multiprocessing.current_process().daemon:
        return "a daemonic process cannot start others"
    return None


class _Subject:
    """A module in float64 and its batch, prepared so that its steps depend on the examples alone."""

    def __init__(self, module: Any, batch: Any, frozen: bool = True) -> None:
        self.module, self.batch, self.frozen = module.double().cpu(), cast(batch, torch.float64), frozen
        norms = [m for m in self.module.modules() if isinstance(m, BATCH_NORMS)]
        self.lr = 0.0
        if has_loss(module):
            with _momentum(norms, 1.0), FrozenDraws():
                loss_of(self.module, self.batch)  # the batch's own statistics
        for norm in norms:
            norm.eval()
            vars(norm)["train"] = lambda mode=True: None  # a fit of a task sets training mode
        if has_loss(module):
            self.lr = self._learning_rate()

    def _learning_rate(self) -> float:
        """That of a first step of a given length."""
        with FrozenDraws(watch=True) as draws:
            loss = loss_of(self.module, self.batch)
        if draws.missed:
            raise NotApplicable(
                f"it draws random numbers in {', '.join(sorted(draws.missed))}, which cannot be drawn for one example at a time"
            )
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        gradients = [g for g in torch.autograd.grad(loss, parameters, allow_unused=True) if g is not None]
        norm = torch.nn.utils.get_total_norm(gradients).item()
        assert 0 < norm < float("inf"), f"the gradient's norm is {norm}: there is nothing to train"
        return _LENGTH / norm

    def fit(self, batches: Batches, processes: int = 1, accumulate: int = 1) -> list[Weights]:
        """Train a copy, and return the weights of each process."""
        twin = copy.deepcopy(self.module)
        if twin.automatic_optimization:
            parameters = [p for p in twin.parameters() if p.requires_grad]
            twin.configure_optimizers = lambda: torch.optim.SGD(parameters, lr=self.lr)
        if self.frozen:
            twin.training_step = _with_frozen_draws(twin.training_step)
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder, quiet():
            keep = [_Keep(Path(folder))] if processes > 1 else []
            train(twin, batches, *keep, processes=processes, accumulate=accumulate)
            if not keep:
                return [_weights_of(twin)]
            return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(processes)]

    def compare(self, what: str, reference: Callable[[], Weights], got: Weights) -> None:
        """Compare weights with those of one process and whole batches."""
        wanted, start = reference(), dict(self.module.named_parameters())
        assert any(gap_of(wanted[name], start[name]) > 10 * _TOLERANCE for name in wanted), (
            "no weight changed in three steps"
        )
        worst, gap = _largest_gap(wanted, got)
        if gap <= _TOLERANCE:
            return
        if _largest_gap(wanted, reference())[1] > _TOLERANCE:
            raise NotApplicable("it draws random numbers that are not torch's, so that no two fits are equal")
        raise AssertionError(
            f"{what} train other weights than whole batches on one process: {worst} differs by {gap:.1e} after {_STEPS} steps; the "
            "loss must be a mean over what training_losses counts, and each example's random numbers its own"
        )


def _largest_gap(wanted: Weights, got: Weights) -> tuple[str, float]:
    gaps = {name: gap_of(value, got[name]) / size_of(value) for name, value in wanted.items()}
    return max(gaps.items(), key=lambda item: float("inf") if item[1] != item[1] else item[1])


def _weights_of(module: LightningModule) -> Weights:
    return {name: p.detach().cpu() for name, p in module.named_parameters()}


def _with_frozen_draws(step: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(step)
    def frozen_step(*args: Any, **kwargs: Any) -> Any:
        with FrozenDraws():
            return step(*args, **kwargs)

    return frozen_step


@contextmanager
def _momentum(norms: list[Any], momentum: float) -> Iterator[None]:
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = momentum
    try:
        yield
    finally:
        for norm, value in zip(norms, before, strict=True):
            norm.momentum = value


# Trainers ---------------------------------------------------------------------------------------------------------------


def train(module: Any, batches: Batches, *callbacks: Callback, processes: int = 1, accumulate: int = 1) -> Trainer:
    """Train a module on the CPU for one epoch, with nothing written, shown or validated."""
    module.train_dataloader = lambda: DataLoader(batches(module.global_rank), batch_size=None, collate_fn=_as_it_is)  # type: ignore[arg-type]
    off: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler"),
        False,
    )
    if processes > 1:
        off["strategy"] = DDPStrategy(start_method="fork", timeout=_TIMEOUT)
        off["plugins"] = [LightningEnvironment()]
    with tempfile.TemporaryDirectory() as folder, _own_environment():
        trainer = Trainer(
            accelerator="cpu",
            devices=processes,
            max_epochs=1,
            accumulate_grad_batches=accumulate,
            limit_val_batches=0,
            callbacks=list(callbacks),
            default_root_dir=folder,
            **off,
        )
        trainer.fit(module)
    del module.train_dataloader
    return trainer


def _as_it_is(batch: Any) -> Any:
    return batch


@contextmanager
def _own_environment() -> Iterator[None]:
    """One thread, as a process that is forked while others run would wait for them; and no port that stays in the environment."""
    threads, environment = torch.get_num_threads(), dict(os.environ)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


@contextmanager
def quiet() -> Iterator[None]:
    """Show neither warnings nor Lightning's messages."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


class _Keep(Callback):
    """Write the weights of each process when training ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save(_weights_of(pl_module), self.folder / f"{trainer.global_rank}.pt")
