"""The contract that every registered model meets, as a kit for modules of your own too.

Example:
    >>> import torch, zoo
    >>> from zoo.testing import check_module
    >>> batch = torch.rand(8, 1, 32, 32), torch.arange(8)
    >>> check_module(zoo.create_model("lenet5"), batch)["gradients"]
    'ok'
"""

import copy
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.create import load
from zoo.internals import reset_compiler, tree_leaves
from zoo.registry import arguments_of, name_of
from zoo.tasks import Task

Batch = tuple[Tensor, ...]


def check_module(
    module: Task, batch: Batch, *, lr: float = 3e-3, export_tolerance: float = 1e-5, skip: dict[str, str] | None = None
) -> dict[str, str]:
    """Hold a module against the contract; the module itself is not changed.

    The checks, by name:

    - ``gradients``: every trainable parameter gets a finite gradient from one batch.
    - ``independence``: in evaluation, no example's output depends on another example of its batch.
    - ``memorization``: one batch is learned by heart: below a tenth of its first loss (or ``module.loss_floor()`` and 5%) within
      200 Adam steps.
    - ``hyperparameters``: ``type(module)(**module.hparams)`` builds the same architecture.
    - ``checkpoint``: a Lightning checkpoint comes back under ``weights_only=True`` with equal outputs.
    - ``folder``: so does a ``save_pretrained`` folder, built on the meta device with no tensor left there (registered classes).
    - ``bf16``: one training step under bfloat16 autocast has a finite loss and finite gradients.
    - ``export``: ``torch.export`` gives equal outputs at two batch sizes.
    - ``compile``: ``module.net.compile()`` leaves the state-dict keys as they are.

    Args:
        module: the module, with any weights.
        batch: what ``training_step`` takes, at least four examples; the input first.
        lr: learning rate of the memorization.
        export_tolerance: largest absolute difference of the exported program's outputs.
        skip: checks to leave out, each with the reason why it is impossible.

    Returns:
        "ok" or "skipped: <reason>" for each check.

    Raises:
        AssertionError: the first check that fails, and how.
        ValueError: a check to skip that does not exist or has no reason, or a batch of fewer than four examples.
    """
    skip = dict(skip or {})
    if unknown := set(skip) - set(CHECKS):
        raise ValueError(f"no such check: {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}")
    if empty := [name for name, reason in skip.items() if not reason]:
        raise ValueError(f"say why {empty[0]!r} is impossible for this module")
    if len(batch[0]) < 4:
        raise ValueError(f"the batch must hold four examples or more, got {len(batch[0])}")
    if name_of(module) is None:
        skip.setdefault("folder", f"{type(module).__name__} is not registered")
    if "net" in arguments_of(type(module)):
        for name in ("hyperparameters", "checkpoint", "folder"):
            skip.setdefault(name, "the net was given from outside: only its owner can rebuild it")
    report = {}
    options = {"memorization": lr, "export": export_tolerance}
    for name, check in CHECKS.items():
        if name in skip:
            report[name] = f"skipped: {skip[name]}"
            continue
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            twin = _copy(module)
            check(twin, batch, options[name]) if name in options else check(twin, batch)
        report[name] = "ok"
    return report


def _copy(module: Task) -> Task:
    twin = copy.deepcopy(module)
    twin.trainer = None
    return twin.train()


def _outputs(module: Task, *inputs: Any) -> Tensor:
    """What the module gives in evaluation; of several outputs, all in one row an example."""
    module.eval()
    with torch.no_grad():
        return _row(module(*inputs))


def _row(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    return torch.cat([part.flatten(1).float() for part in tree_leaves(output)], dim=1)


def _gradients_are_finite(module: Task) -> None:
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} gets no gradient: it takes no part in the loss"
            assert parameter.grad.isfinite().all(), f"{name} gets a gradient that is not finite"


def check_gradients(module: Task, batch: Batch) -> None:
    """Every trainable parameter gets a finite gradient."""
    module.training_losses(batch)[0].backward()
    _gradients_are_finite(module)


def check_independence(module: Task, batch: Batch) -> None:
    """Changing all other examples leaves an example's output as it is, up to rounding."""
    inputs = [x.float() if x.is_floating_point() else x for x in module.forward_args(batch)]
    others = [torch.cat([x[:1], x.flip(0)[1:]]) for x in inputs]
    before, after = _outputs(module, *inputs), _outputs(module, *others)
    gap = (before[0] - after[0]).abs().max().item()
    assert gap <= 1e-5 * max(1.0, before.abs().max().item()), f"examples of a batch leak into each other: {gap:.1e}"


def check_memorization(module: Task, batch: Batch, lr: float = 3e-3) -> None:
    """One batch is learned by heart in 200 Adam steps."""
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=lr)
    first, loss = 0.0, 0.0
    for step in range(200):
        optimizer.zero_grad()
        value = module.training_losses(batch)[0]
        value.backward()
        optimizer.step()
        loss = value.item()
        first = first if step else loss
        if loss < max(0.1 * first, 1.05 * module.loss_floor()):
            return
    raise AssertionError(
        f"one batch is not learned by heart: loss {first:.3f} -> {loss:.3f} nats in 200 steps at lr={lr}"
    )


def check_hyperparameters(module: Task, batch: Batch) -> None:
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


def check_checkpoint(module: Task, batch: Batch) -> None:
    """A Lightning checkpoint made by a Trainer comes back with equal outputs."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            default_root_dir=folder,
            max_steps=1,
            logger=False,
            accelerator="cpu",
            devices=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader([batch], batch_size=None))  # type: ignore[arg-type]
        path = Path(folder) / "module.ckpt"
        trainer.save_checkpoint(path)
        content = torch.load(path, weights_only=True)
        assert content["state_dict"].keys() == module.state_dict().keys(), (
            "the checkpoint has other keys than the module"
        )
        twins = [type(module).load_from_checkpoint(path, weights_only=True)]
        if name_of(module) is not None:
            twins.append(load(path))
    for twin in twins:
        _assert_same(module, twin, batch, "checkpoint")


def check_folder(module: Task, batch: Batch) -> None:
    """A ``save_pretrained`` folder comes back with equal outputs and nothing left on the meta device."""
    with tempfile.TemporaryDirectory() as folder:
        module.save_pretrained(folder)
        twin = load(folder)
    left = [name for name, tensor in twin.state_dict(keep_vars=True).items() if tensor.is_meta]
    left += [name for name, buffer in twin.named_buffers() if buffer.is_meta]
    assert not left, f"left on the meta device: {', '.join(left)}"
    _assert_same(module, twin, batch, "folder")


def _assert_same(module: Task, twin: Task, batch: Batch, what: str) -> None:
    assert twin.hparams == module.hparams, f"the {what} came back with other hyperparameters"
    wanted, got = module.state_dict(), twin.state_dict()
    for name in wanted:
        assert torch.equal(wanted[name], got[name]), f"the {what} came back with other values of {name}"
    inputs = module.forward_args(batch)
    output = _outputs(module, *inputs)
    gap = (output - _outputs(twin, *inputs)).abs().max().item()  # other memory, other kernels: not to the bit
    assert gap <= 1e-6 * max(1.0, output.abs().max().item()), f"the {what} came back with other outputs: {gap:.1e}"


def check_bf16(module: Task, batch: Batch) -> None:
    """A training step under bfloat16 autocast is finite."""
    with torch.autocast(batch[0].device.type, dtype=torch.bfloat16):
        loss = module.training_losses(batch)[0]
    assert loss.isfinite(), f"the loss under bfloat16 is {loss.item()}"
    loss.backward()
    _gradients_are_finite(module)


def check_export(module: Task, batch: Batch, tolerance: float = 1e-5) -> None:
    """``torch.export`` with a dynamic batch: equal outputs at two batch sizes."""
    inputs = module.forward_args(batch)
    fewer = tuple(x[:3] for x in inputs)
    wanted = [_outputs(module, *inputs), _outputs(module, *fewer)]
    dynamic = tuple({0: torch.export.Dim.AUTO} for _ in inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, inputs, dynamic_shapes=dynamic).module()
    for parts, output in zip((inputs, fewer), wanted, strict=True):
        try:
            gap = (_row(program(*parts)) - output).abs().max().item()
        except (AssertionError, RuntimeError) as error:
            raise AssertionError(f"the exported program does not take batch size {len(parts[0])}: {error}") from error
        assert gap <= tolerance, f"the exported program differs by {gap:.1e} at batch size {len(parts[0])}"


def check_compile(module: Task, batch: Batch) -> None:
    """Compiling in place changes neither keys nor outputs (the eager backend: what is checked is the capture, not the code)."""
    inputs = module.forward_args(batch)
    keys, wanted = list(module.state_dict()), _outputs(module, *inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.net.compile(backend="eager")
        got = _outputs(module, *inputs)
    reset_compiler()
    assert list(module.state_dict()) == keys, "compiling in place changed the state-dict keys"
    assert (got - wanted).abs().max().item() <= 1e-5, "the compiled net has other outputs"


CHECKS: dict[str, Callable[..., None]] = {
    "gradients": check_gradients,
    "independence": check_independence,
    "memorization": check_memorization,
    "hyperparameters": check_hyperparameters,
    "checkpoint": check_checkpoint,
    "folder": check_folder,
    "bf16": check_bf16,
    "export": check_export,
    "compile": check_compile,
}
