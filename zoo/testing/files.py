"""Checks of what is written: hyperparameters, checkpoints, folders."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from zoo.create import load
from zoo.registry import arguments_of, name_of
from zoo.testing.fits import quiet, train
from zoo.testing.parts import gap_of, inputs_of, outputs_of, row_of, size_of


def why_not_rebuilt(module: Any) -> str | None:
    """Return why a module cannot be rebuilt from its hyperparameters; None if it can."""
    arguments = arguments_of(type(module))
    if "net" in arguments and getattr(module, "net_by_name", None) is None:
        return "the net was given from outside: only its owner can rebuild it"
    if not module.hparams and any(p.kind is not p.VAR_POSITIONAL for p in arguments.values()):
        return f"{type(module).__name__} keeps no hyperparameters: call save_hyperparameters() in its constructor"
    return None


def why_no_folder(module: Any) -> str | None:
    """Return why a module has no folder that can be read again; None if it has."""
    if not hasattr(module, "save_pretrained"):
        return f"{type(module).__name__} offers no save_pretrained(folder)"
    if name_of(module) is None:
        return f"{type(module).__name__} is not registered"
    return why_not_rebuilt(module)


def check_hyperparameters(module: Any, batch: Any) -> None:
    """The hyperparameters are plain data and rebuild the module."""
    _assert_plain(dict(module.hparams), "hparams")
    twin = type(module)(**module.hparams)
    wanted, got = module.state_dict(), twin.state_dict()
    assert {k: v.shape for k, v in got.items() if k not in ("mean", "std")} == {
        k: v.shape for k, v in wanted.items() if k not in ("mean", "std")
    }, f"{type(module).__name__}(**hparams) is another architecture"


def _assert_plain(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _assert_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _assert_plain(item, f"{where}[{i}]")
    else:
        plain = value is None or type(value) in (str, int, float, bool)
        assert plain, f"{where} is a {type(value).__name__}, not plain data: its checkpoint will not load"


def check_checkpoint(module: Any, batch: Any) -> None:
    """A Lightning checkpoint made by a Trainer comes back with equal outputs."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "module.ckpt"
        train(module, lambda rank: [batch]).save_checkpoint(path)
        content = torch.load(path, weights_only=True)
        assert content["state_dict"].keys() == module.state_dict().keys(), (
            "the checkpoint has other keys than the module"
        )
        twins = [type(module).load_from_checkpoint(path, weights_only=True)]
        if name_of(module) is not None:
            twins.append(load(path))
    for twin in twins:
        _assert_same(module, twin, batch, "checkpoint")


def check_folder(module: Any, batch: Any) -> None:
    """A ``save_pretrained`` folder comes back with equal outputs and nothing left on the meta device."""
    with tempfile.TemporaryDirectory() as folder:
        module.save_pretrained(folder)
        twin = load(folder)
    left = [name for name, tensor in twin.state_dict(keep_vars=True).items() if tensor.is_meta]
    left += [name for name, buffer in twin.named_buffers() if buffer.is_meta]
    assert not left, f"left on the meta device: {', '.join(left)}"
    _assert_same(module, twin, batch, "folder")


def _assert_same(module: Any, twin: Any, batch: Any, what: str) -> None:
    assert twin.hparams == module.hparams, f"the {what} came back with other hyperparameters"
    wanted, got = module.state_dict(), twin.state_dict()
    for name in wanted:
        assert torch.equal(wanted[name], got[name]), f"the {what} came back with other values of {name}"
    inputs = inputs_of(module, batch)
    output = row_of(outputs_of(module, *inputs))
    gap = gap_of(output, row_of(outputs_of(twin, *inputs)))  # other memory, other kernels: not to the bit
    assert gap <= 1e-6 * size_of(output), f"the {what} came back with other outputs: {gap:.1e}"
