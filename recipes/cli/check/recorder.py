"""What each batch of a run meets, as digests: two runs that make the same steps are compared with it."""

import dis
import hashlib
import os
import pickle
import random
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from callbacks import LearningCurves, RandomState
from recipes.cli.run.internals import batch_number

EPOCHS = 2  # that are recorded, unless the time is up before
_LARGE = 2**20  # numbers of an attribute above which some of them stand for all
_LONG = 200  # entries of a list
_DEPTH = 5
# packages whose objects either save all that matters, or have none of it
_KNOWN = {
    *("callbacks", "datamodules", "recipes", "zoo"),
    *("builtins", "collections", "functools", "lightning", "lightning_fabric", "numpy", "pathlib", "pytorch_lightning"),
    *("torch", "torchmetrics", "torchvision", "weakref"),
}

# kind -> name -> digest: "examples", "generator", "weight", "optimizer", "schedule", "loss"; "saved" is the rest of a checkpoint;
# "model", "callback", "data": attributes of the user's objects, as pairs of a digest and how it is shown
Record = dict[str, dict[str, Any]]


def is_users(thing: object) -> bool:
    """Return whether an object is of a class of the user's."""
    return type(thing).__module__.partition(".")[0] not in _KNOWN


class Recorder(Callback):
    """Record what each batch meets, write it to a file, and stop the run as a scheduler does, by SIGTERM.

    Args:
        folder: Folder of the file ``record_<rank>.pkl``.
        stop: Number of the batch, counted from 0 over the whole run, at whose end the signal is sent; None: the last batch of the
            second epoch, or the first one after ``seconds``.
        batches: Number of batches after which it is sent in any case; None: no such number.
        seconds: See ``stop``.
    """

    def __init__(self, folder: Path, stop: int | None, batches: int | None, seconds: float) -> None:
        self.folder, self.stop, self.batches, self.seconds = folder, stop, batches, seconds
        self.records: dict[int, Record] = {}
        self.steps: dict[int, int] = {}  # optimizer steps that are done at the end of a batch
        self.epochs: dict[int, int] = {}  # the epoch of a batch
        self.end: Record = {}
        self._begin: float | None = None

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._begin = self._begin or time.monotonic()
        number = batch_number(trainer)
        self.epochs[number] = trainer.current_epoch
        self.records[number] = {
            "examples": {"": digest(batch)},
            "generator": _generators(pl_module.device),
            **_attributes(trainer, pl_module),
            "weight": {name: digest(value) for name, value in pl_module.state_dict().items()},
            **_optimizers(trainer, pl_module),
        }

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self._begin is not None
        number = batch_number(trainer)
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        self.records[number]["loss"] = {"": digest(loss)} if isinstance(loss, Tensor) else {}
        self.steps[number] = trainer.global_step
        ends = trainer.current_epoch == EPOCHS - 1 and trainer.is_last_batch
        late = time.monotonic() - self._begin > self.seconds or number + 1 == self.batches
        if trainer.is_global_zero and (number == self.stop if self.stop is not None else ends or late):
            os.kill(os.getpid(), signal.SIGTERM)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        rest = {key: value for key, value in checkpoint.items() if key not in ("state_dict", "optimizer_states")}
        rest.pop(RandomState.KEY, None)
        states = {str(key).partition("{")[0]: state for key, state in rest.get("callbacks", {}).items()}
        states.pop(
            LearningCurves.__name__, None
        )  # a picture: it lacks the point of the step after which a run is stopped
        if stock := states.get("ModelCheckpoint"):
            states["ModelCheckpoint"] = {
                **stock,
                "current_score": None,
            }  # Lightning does not restore it, nothing reads it
        rest["callbacks"] = states
        folder = trainer.default_root_dir
        self.end = {
            "weight": {name: digest(value) for name, value in checkpoint["state_dict"].items()},
            **_optimizers(trainer, pl_module),
            "generator": _generators(pl_module.device),
            "saved": {_without(path, folder): digest(_without(value, folder)) for path, value in _leaves(rest)},
        }
        self._write(trainer)  # a process that Lightning forks may be ended after its last save

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if self.records:
            content = pickle.dumps((self.records, self.steps, self.epochs, self.end))
            (self.folder / f"record_{trainer.global_rank}.pkl").write_bytes(content)


def _generators(device: torch.device) -> dict[str, Any]:
    states: dict[str, Any] = {
        "torch": digest(torch.get_rng_state()),
        "NumPy": digest(np.random.get_state()),  # noqa: NPY002 (the global generator is meant)
        "Python": digest(random.getstate()),
    }
    if device.type == "cuda":
        states["CUDA"] = digest(torch.cuda.get_rng_state(device))
    return states


def _optimizers(trainer: Trainer, pl_module: LightningModule) -> Record:
    """Return the state of the optimizers by the names of their parameters, and the options of their groups."""
    names = {id(parameter): name for name, parameter in pl_module.named_parameters()}
    states, groups = dict[str, Any](), dict[str, Any]()
    for i, optimizer in enumerate(trainer.optimizers):
        for j, group in enumerate(optimizer.param_groups):
            which = f" of optimizer {i}" if len(trainer.optimizers) > 1 else ""
            where = f"group {group.get('name', j)}{which}"
            groups |= {f"{key} of {where}": digest(value) for key, value in group.items() if key != "params"}
            for parameter in group["params"]:
                state = optimizer.state.get(parameter) or {}
                name = names.get(id(parameter), "a parameter that the model does not have")
                states |= {f"{key} of {name}": digest(value) for key, value in state.items()}
    return {"optimizer": states, "schedule": groups}


# Attributes of the user's objects -----------------------------------------------------------------------------------


def _attributes(trainer: Any, pl_module: LightningModule) -> Record:
    """Return the attributes of the user's model, callbacks and data that no checkpoint may hold."""
    model, callbacks = dict[str, Any](), dict[str, Any]()
    for prefix, module in pl_module.named_modules():
        if is_users(module):
            model |= {f"{prefix}.{name}".lstrip("."): value for name, value in _state_of(module)}
    for callback in trainer.callbacks:
        if is_users(callback):
            callbacks |= {f"{type(callback).__name__}.{name}": value for name, value in _state_of(callback)}
    data = trainer.datamodule
    has_data = data is not None and is_users(data)
    return {"model": model, "callback": callbacks, "data": dict(_state_of(data)) if has_data else {}}


def _state_of(thing: Any) -> Iterator[tuple[str, tuple[str, str]]]:
    """Iterate over the attributes of an object of the user's that are plain data, arrays or generators."""
    bases = [cls for cls in type(thing).__mro__ if cls.__module__.partition(".")[0] in _KNOWN]
    of_bases = {name for cls in bases for name in _names_set_by(cls)}
    for name, value in vars(thing).items():
        if name not in of_bases and (plain := _plain(value)) is not _NOTHING:
            short = isinstance(value, bool | int | float | str | None) and len(repr(value)) < 40
            yield name, (_hash(repr(plain)), repr(value) if short else "")


def _names_set_by(cls: type) -> set[str]:
    """Return the names of the attributes that the methods of a class set."""
    names = {"training"} if cls is nn.Module else set[str]()
    for method in vars(cls).values():
        function = getattr(method, "fset", None) or getattr(method, "__func__", method)
        if isinstance(function, FunctionType):
            names |= {str(step.argval) for step in dis.get_instructions(function) if step.opname == "STORE_ATTR"}
            # nn.Module sets its own by name
            names |= {text for text in function.__code__.co_consts if isinstance(text, str) and cls is nn.Module}
    return names


_NOTHING = object()


def _plain(value: Any, depth: int = 0) -> Any:
    """Return nested lists of texts that tell the state of a value; ``_NOTHING`` if it has none that can be told."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, Tensor):
        flat = value.detach().reshape(-1)
        return digest(flat[:: len(flat) // _LARGE + 1])
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return _NOTHING
        flat_array = value.reshape(-1)
        return digest(flat_array[:: len(flat_array) // _LARGE + 1])
    if isinstance(value, np.generic):
        return repr(value)
    if isinstance(value, np.random.Generator):
        return _plain(value.bit_generator.state, depth)
    if isinstance(value, np.random.RandomState):
        return _plain(value.get_state(), depth)
    if isinstance(value, torch.Generator):
        return digest(value.get_state())
    if isinstance(value, random.Random):
        return _hash(repr(value.getstate()))
    if depth >= _DEPTH:
        return _NOTHING
    if isinstance(value, list | tuple | deque):
        entries = [*value] if len(value) <= _LONG else [len(value), *list(value)[:_LONG], *list(value)[-_LONG:]]
        return [plain for entry in entries if (plain := _plain(entry, depth + 1)) is not _NOTHING]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value)) if all(isinstance(x, bool | int | float | str) for x in value) else _NOTHING
    if isinstance(value, Mapping):
        items = list(value.items())[:_LONG]
        return [len(value), *([repr(key), _told(_plain(entry, depth + 1))] for key, entry in items)]
    # an object of its own, such as one that augments; not what has a life of its own
    others = (nn.Module, Trainer, LightningDataModule, Callback)
    if hasattr(value, "__dict__") and is_users(value) and not isinstance(value, others):
        return _plain(vars(value), depth + 1)
    return _NOTHING


def _told(plain: Any) -> Any:
    return "" if plain is _NOTHING else plain


# Digests ------------------------------------------------------------------------------------------------------------


def digest(value: Any) -> str:
    """Return a text that differs if a bit of a tensor, array, number or text differs, also within lists, tuples and mappings.

    Example:
        >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.tensor([0.0, -0.0])})
        False
    """
    sha = hashlib.sha1(usedforsecurity=False)
    for path, leaf in _leaves(value):
        sha.update(path.encode())
        if isinstance(leaf, Tensor):
            sha.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
            dense = leaf.detach().cpu()
            dense = (dense.to_dense() if dense.layout != torch.strided else dense).contiguous()
            sha.update(dense.reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(leaf, np.ndarray) and leaf.dtype != object:
            sha.update(f"{leaf.dtype} {leaf.shape}".encode())
            sha.update(np.ascontiguousarray(leaf).tobytes())
        elif leaf is None or isinstance(leaf, bool | int | float | complex | str | bytes | np.generic):
            sha.update(repr(leaf).encode())
    return sha.hexdigest()


def _hash(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Iterate over what is within nested mappings, lists and tuples, each with its path."""
    items: Iterable[tuple[Any, Any]]
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        yield path, value
        return
    for key, entry in items:
        yield from _leaves(entry, f"{path}.{key}" if path else str(key))


def _without(value: Any, folder: str) -> Any:
    """Return a value; of a path in the run folder, which is another one for each run, the rest."""
    return value.replace(folder, "RUN") if isinstance(value, str) else value
