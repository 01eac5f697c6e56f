"""What the callbacks need of Lightning and PyTorch beyond their documented interfaces.

Only this file of the package reaches for private names, training loops and the trainer's state, so a new version of either library
can break the callbacks here and nowhere else.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map

# The run ---------------------------------------------------------------------------------------------------------------


def run_folder(trainer: Trainer) -> Path | None:
    """Return the folder of the run's files, or None for ``fast_dev_run``. Collective: every rank must call it."""
    folder = trainer.log_dir or trainer.default_root_dir  # log_dir is broadcast from the first rank
    return None if getattr(trainer, "fast_dev_run", False) else Path(folder)


def folder_after_fit(trainer: Trainer) -> Path | None:
    """Return the folder of the run that this trainer has trained; None without a fit. Collective: every rank must call it."""
    return run_folder(trainer) if trained_batches(trainer) else None


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return the trainer's callbacks in the order in which they run."""
    return trainer.callbacks  # type: ignore[attr-defined]


def set_callbacks(trainer: Trainer, callbacks: Sequence[Callback]) -> None:
    """Replace the trainer's callbacks."""
    trainer.callbacks = list(callbacks)  # type: ignore[attr-defined]


def is_fitting(trainer: Trainer) -> bool:
    """Whether ``trainer.fit`` is running, its validation and sanity check included."""
    return trainer.state.fn == TrainerFn.FITTING


def is_fit_validation(trainer: Trainer) -> bool:
    """Whether a validation that is running belongs to a fit and is not its sanity check."""
    return is_fitting(trainer) and not trainer.sanity_checking


def is_validate_call(trainer: Trainer) -> bool:
    """Whether ``trainer.validate`` is running."""
    return trainer.state.fn == TrainerFn.VALIDATING


def gather_objects(trainer: Trainer, value: Any) -> list[Any]:
    """Return ``value`` of each rank, in the order of the ranks. Collective."""
    if trainer.world_size == 1:
        return [value]
    values: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def mean_over_ranks(trainer: Trainer, value: Tensor) -> float:
    """Return the mean of ``value`` over the ranks, on which all of them can decide. Collective."""
    return float(trainer.strategy.reduce(value, reduce_op="mean"))


def sum_over_ranks(trainer: Trainer, value: Tensor) -> Tensor:
    """Return the sum of ``value`` over the ranks, on its device. Collective."""
    return value if trainer.world_size == 1 else trainer.strategy.reduce(value.clone(), reduce_op="sum")


def largest_over_ranks(trainer: Trainer, value: Tensor) -> Tensor:
    """Return the largest ``value`` of the ranks, on its device. Collective."""
    return value if trainer.world_size == 1 else trainer.strategy.reduce(value.clone(), reduce_op="max")


# Progress --------------------------------------------------------------------------------------------------------------


def logged_step(trainer: Trainer) -> int:
    """Return the step that loggers get for the batch being trained: batches at whose end an optimizer stepped, from 0."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def row_is_due(trainer: Trainer) -> bool:
    """Whether the trainer writes a row of metrics at the end of this batch (``log_every_n_steps``)."""
    return trainer._logger_connector.should_update_logs


def log_every_n_steps(trainer: Trainer) -> int:
    """Return the trainer's argument of this name; 0 turns logging of steps off."""
    return int(getattr(trainer, "log_every_n_steps"))  # noqa: B009 (set outside the class, mypy does not see it)


def is_window_end(trainer: Trainer) -> bool:
    """Whether this batch is the last of its accumulation window; without accumulation, each batch is."""
    return not trainer.fit_loop.epoch_loop._should_accumulate()


def finished_epochs(trainer: Trainer) -> int:
    """Return the number of epochs whose batches are all trained."""
    loop: Any = trainer.fit_loop
    return loop.epoch_progress.current.processed


def completed_epochs(trainer: Trainer) -> int:
    """Return the number of epochs whose last hook has run, too."""
    return trainer.fit_loop.epoch_progress.current.completed


def trained_batches(trainer: Trainer) -> int:
    """Return the number of batches of the whole fit that are trained."""
    loop: Any = trainer.fit_loop
    return loop.epoch_loop.batch_progress.total.processed


def fetched_batches(trainer: Trainer) -> int:
    """Return the number of batches of the whole fit that have been fetched."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.ready


def fetched_batches_of_epoch(trainer: Trainer) -> int:
    """Return the number of batches of this epoch that have been fetched."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def is_last_batch(trainer: Trainer) -> bool:
    """Whether the batch being trained, or trained last, is the last one of its epoch."""
    return trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


# Stopping and resuming -------------------------------------------------------------------------------------------------


def can_resume_after_batch(trainer: Trainer) -> bool:
    """Whether a checkpoint saved at the end of this batch resumes exactly.

    It does where the optimizer has stepped, no validation is due (a resumed run would skip it) and the epoch goes on.
    """
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return not (loop._should_accumulate() or loop._is_training_done or loop._should_check_val_fx(fetcher))


def can_resume_after_validation(trainer: Trainer) -> bool:
    """Whether a checkpoint saved at the end of this validation of a fit resumes exactly: in mid-epoch, between two windows."""
    loop = trainer.fit_loop.epoch_loop
    return is_fit_validation(trainer) and not (loop._should_accumulate() or loop._is_training_done)


def is_ending(trainer: Trainer) -> bool:
    """Whether training is about to end, because of early stopping for instance."""
    return trainer.should_stop and trainer.fit_loop._can_stop_early


def go_on_with_next_epoch(trainer: Trainer) -> None:
    """Let a run that resumes from the end of an epoch begin the next one.

    With ``max_steps``, Lightning takes an epoch that was saved at its end for an unfinished one: it would run the end once more
    and skip the next epoch.
    """
    loop = trainer.fit_loop
    if loop.restarted_on_epoch_end:
        loop.epoch_progress.increment_completed()
        _Loop.restarting.fset(loop, False)  # type: ignore[attr-defined]  # the loop's own setter refuses
        loop.reset_restart_stage()
        loop.epoch_loop.reset_restart_stage()


# Loading ---------------------------------------------------------------------------------------------------------------


def watch_fetches(trainer: Trainer, before: Callable[[], None], after: Callable[[], None]) -> Callable[[], None]:
    """Call ``before`` and ``after`` around each wait for a training batch, until the function returned is called."""
    loop: Any = trainer.fit_loop.epoch_loop
    held = {name: vars(loop).get(name) for name in ("_on_before_fetch", "_on_after_fetch")}
    start, stop = loop._on_before_fetch, loop._on_after_fetch

    def fetch_begins() -> None:
        start()
        before()

    def fetch_ends() -> None:
        after()
        stop()

    def end() -> None:
        for name, function in held.items():
            vars(loop).pop(name, None)
            if function is not None:
                setattr(loop, name, function)

    loop._on_before_fetch, loop._on_after_fetch = fetch_begins, fetch_ends
    return end


def reload_training_batches(trainer: Trainer) -> None:
    """Have the next epoch ask for its training batches anew."""
    trainer.fit_loop._combined_loader = None


def limited(trainer: Trainer, batches: int) -> int:
    """Return how many batches of an epoch the trainer takes (``limit_train_batches``)."""
    limit: Any = getattr(trainer, "limit_train_batches")  # noqa: B009 (set outside the class, mypy does not see it)
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


# Modules and batches ---------------------------------------------------------------------------------------------------


@contextmanager
def keeping_modes(module: nn.Module) -> Iterator[None]:
    """Put back the training mode of each submodule at the end."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def evaluating(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Make trainer and module those of a validation step, without gradients; at the end they are as they were."""
    stage = trainer.state.stage
    with keeping_modes(module), torch.no_grad():
        try:
            trainer.validating = True
            module.eval()
            yield
        finally:
            trainer.state.stage = stage


def forward_context(trainer: Trainer) -> AbstractContextManager[Any]:
    """Return the context in which the trainer runs steps: autocast, the default dtype."""
    return trainer.precision_plugin.forward_context()


def as_step_gets_it(trainer: Trainer, batch: Any) -> Any:
    """Return a batch as a step gets it: converted to the trainer's precision, through the batch hooks, on the device."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def has_whole_parameters(trainer: Trainer) -> bool:
    """Whether each process has all parameters, whole, and can run the net by itself."""
    return isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)


def is_compiled(module: nn.Module) -> bool:
    """Whether a module or a part of it is compiled."""
    return any(
        getattr(part, "_compiled_call_impl", None) is not None or hasattr(part, "_orig_mod")
        for part in module.modules()
    )


def rebuild_ddp(trainer: Trainer) -> None:
    """Rebuild the DDP wrapper of the module, which synchronizes only the parameters that were trained when it was built."""
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and isinstance(strategy.model, DistributedDataParallel):
        strategy.model = strategy._setup_model(trainer.lightning_module)
        strategy._register_ddp_hooks()


def leaves(tree: Any) -> list[Any]:
    """Return what nested lists, tuples and dicts hold, such as dataloaders or the tensors of a batch."""
    return tree_leaves(tree)


def map_leaves(function: Callable[..., Any], *trees: Any) -> Any:
    """Apply ``function`` to what nested lists, tuples (named ones, too) and dicts hold; their types stay.

    For several trees of the same structure, it gets one argument from each.
    """
    return tree_map(function, *trees)


# Gradients -------------------------------------------------------------------------------------------------------------


def grad_scale(trainer: Trainer, optimizer: Optimizer) -> Tensor | float:
    """Return the factor that gradients still have: a fused optimizer divides by float16's loss scale in its own step."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler._get_scale_async() if scaler and getattr(optimizer, "_step_supports_amp_scaling", False) else 1.0


def is_skipped(optimizer: Optimizer) -> Tensor | None:
    """Return whether float16's scaler skips this step of a fused optimizer, on its device; None if it does not say so.

    Such an optimizer is called all the same, and looks by itself; any other is not called.
    """
    found = getattr(optimizer, "found_inf", None)
    return None if found is None else found > 0


def norms(tensors: list[Tensor], p: float, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Return the p-norm of each tensor, computed in few kernels."""
    return list(torch._foreach_norm(tensors, p, dtype=dtype))


@torch.no_grad()
def each_norm(tensors: list[Tensor], p: float = 2.0) -> Tensor:
    """Return the p-norm of each tensor, in float32 or float64, on one device: ``(number of tensors,)``."""
    tensors = [t.coalesce().values() if t.is_sparse else t for t in tensors]
    half = any(t.dtype in (torch.float16, torch.bfloat16) for t in tensors)
    each = norms(tensors, p, torch.float32 if half else None)
    stacked = torch.stack([norm.to(tensors[0].device) for norm in each])
    return stacked.full_tensor() if hasattr(stacked, "full_tensor") else stacked  # sharded: a DTensor (FSDP2)


def subtract_(tensors: list[Tensor], others: list[Tensor]) -> None:
    """Subtract tensors from others in place, in few kernels."""
    torch._foreach_sub_(tensors, others)


def add_(tensors: list[Tensor], others: list[Tensor]) -> None:
    """Add tensors to others in place, in few kernels."""
    torch._foreach_add_(tensors, others)


def has_grad_scaler(trainer: Trainer) -> bool:
    """Whether float16's scaler looks after gradients that are not finite."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


class StateTensors:
    """The tensors of a module's state dict, by key; building it takes longer than many an update of them.

    What is kept is where each tensor is found, not the tensor: buffers may be assigned anew at any time, and parameters moved.
    """

    def __init__(self) -> None:
        self._module: nn.Module | None = None

    def of(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the tensors as they are now."""
        if module is not self._module or self._has_changed():
            self._look(module)
        if self._places is None:
            return _state_tensors(module)
        return {key: held[name] for key, (held, name) in self._places.items()}

    def _has_changed(self) -> bool:
        return any(len(held) != count for held, count in self._sizes) or any(
            held.get(name) is not child for held, name, child in self._children
        )

    def _look(self, module: nn.Module) -> None:
        self._module = module
        holders = [held for part in module.modules() for held in (part._modules, part._parameters, part._buffers)]
        self._sizes = [(held, len(held)) for held in holders]
        self._children = [(m._modules, name, child) for m in module.modules() for name, child in m._modules.items()]
        found: dict[str, tuple[dict[str, Any], str]] = {}
        for prefix, part in module.named_modules(remove_duplicate=False):
            for held in (part._parameters, part._buffers):
                found |= {f"{prefix}.{name}".lstrip("."): (held, name) for name in held}
        wanted = _state_tensors(module)
        known = all(key in found and _is_same(found[key][0][found[key][1]], wanted[key]) for key in wanted)
        self._places = (
            {key: found[key] for key in wanted} if known else None
        )  # None: the module makes its own state dict


def _state_tensors(module: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}


def _is_same(tensor: Tensor | None, other: Tensor) -> bool:
    return tensor is not None and tensor.data_ptr() == other.data_ptr() and tensor.shape == other.shape
