"""The list of checks, and the function that makes them."""

import copy
from collections.abc import Callable, Collection
from typing import Any

import torch
from lightning.pytorch import LightningModule

from zoo.spelling import suggest
from zoo.testing.files import (
    check_checkpoint,
    check_folder,
    check_hyperparameters,
    why_no_folder,
    why_not_rebuilt,
)
from zoo.testing.fits import check_accumulation, check_processes
from zoo.testing.parts import NotApplicable, num_examples, stepwise_part
from zoo.testing.programs import check_compile, check_export, check_export_length
from zoo.testing.series import check_causality, check_incremental, check_padding
from zoo.testing.training import check_bf16, check_gradients, check_independence, check_memorization

CHECKS: dict[str, Callable[..., None]] = {
    "gradients": check_gradients,
    "independence": check_independence,
    "causality": check_causality,
    "padding": check_padding,
    "incremental": check_incremental,
    "memorization": check_memorization,
    "hyperparameters": check_hyperparameters,
    "checkpoint": check_checkpoint,
    "folder": check_folder,
    "bf16": check_bf16,
    "export": check_export,
    "export_length": check_export_length,
    "compile": check_compile,
    "accumulation": check_accumulation,
    "processes": check_processes,
}


def _undeclared(module: Any) -> dict[str, str]:
    """What a module would declare so that a check applies to it, by the check's name."""
    causal, pads = bool(getattr(module, "causal", False)), getattr(module, "padding", None) is not None
    declared = {
        "causality": (causal, "causal = True"),
        "padding": (pads, "padding"),
        "incremental": (stepwise_part(module) is not None, "init_state and step, or encode and step"),
        "export_length": (causal or pads, "causal = True or padding"),
    }
    return {name: what for name, (is_declared, what) in declared.items() if not is_declared}


def check_module(
    module: LightningModule,
    batch: Any,
    *,
    lr: float = 3e-3,
    export_tolerance: float = 1e-5,
    skip: dict[str, str] | None = None,
    only: Collection[str] | None = None,
) -> dict[str, str]:
    """Hold a module against the contract; the module itself is not changed.

    Any LightningModule can be checked. What it may offer for it, all optional, is listed in :mod:`zoo.protocol`.

    The checks, by name:

    - ``gradients``: every trainable parameter gets a finite gradient from one batch.
    - ``independence``: in evaluation, no example's output depends on another example of its batch.
    - ``causality`` (a module with ``causal``): outputs before a time do not see the input from that time on.
    - ``padding`` (a module with ``padding``): padded steps at the end change neither outputs, nor the loss, nor a gradient; nor do
      captions of padding alone.
    - ``incremental`` (a module or net with ``init_state`` and ``step``, or ``encode`` and ``step``): going step by step equals the
      forward pass, and ``reorder_state``, if there is one, gives the rows that it is asked for.
    - ``memorization``: one batch is learned by heart: below a tenth of its first loss (or ``module.loss_floor()`` and 5%) within
      200 Adam steps.
    - ``hyperparameters``: ``type(module)(**module.hparams)`` builds the same architecture.
    - ``checkpoint``: a Lightning checkpoint comes back under ``weights_only=True`` with equal outputs.
    - ``folder``: so does a ``save_pretrained`` folder, built on the meta device with no tensor left there (registered classes).
    - ``bf16``: one training step under bfloat16 autocast has a finite loss and finite gradients.
    - ``export``: ``torch.export`` gives equal outputs at two batch sizes.
    - ``export_length`` (a module with ``causal`` or ``padding``): and at two lengths; of captions at two numbers of them, too.
    - ``compile``: ``module.net.compile()`` (``module.compile()`` without a net) leaves the state-dict keys as they are.
    - ``accumulation``: accumulated batches of different sizes train the weights that whole batches train.
    - ``processes``: two processes train the weights that one trains; about half a second.

    A check that the module declares nothing for is left out of the report. One that cannot be made is skipped with the reason.

    Args:
        module: Any LightningModule, with any weights.
        batch: What ``training_step`` takes, at least four examples; the input first. Its parts may be nested.
        lr: Learning rate of the memorization.
        export_tolerance: Largest absolute difference of the exported program's outputs.
        skip: Checks to skip, each with the reason why it is impossible.
        only: Names of the checks to make; None: all.

    Returns:
        "ok" or "skipped: <reason>" for each check.

    Raises:
        AssertionError: The first check that fails, and how.
        ValueError: A check to skip that does not exist or has no reason, one to make that does not exist or that the module does
            not declare anything for, or a batch of fewer than four examples.
    """
    skip = dict(skip or {})
    for name in (*skip, *(only or ())):
        if name not in CHECKS:
            raise ValueError(f"no such check: {name}{suggest(name, CHECKS)}; there are {', '.join(CHECKS)}")
    if empty := [name for name, reason in skip.items() if not reason]:
        raise ValueError(f"say why {empty[0]!r} is impossible for this module")
    if (count := num_examples(batch)) < 4:
        raise ValueError(f"the batch must hold four examples or more, got {count}")
    undeclared = _undeclared(module)
    if asked := sorted(undeclared.keys() & set(only or ())):
        raise ValueError(f"{asked[0]} is checked of a module that declares {undeclared[asked[0]]}")
    reasons = {
        "hyperparameters": why_not_rebuilt(module),
        "checkpoint": why_not_rebuilt(module),
        "folder": why_no_folder(module),
    }
    reasons |= skip
    options = {"memorization": lr, "export": export_tolerance, "export_length": export_tolerance}
    report = {}
    for name, check in CHECKS.items():
        if (only is not None and name not in only) or (name in undeclared and name not in skip):
            continue
        reason = reasons.get(name)
        if reason is None:
            reason = _why_skipped(check, module, batch, *([options[name]] if name in options else []))
        report[name] = "ok" if reason is None else f"skipped: {reason}"
    return report


def _why_skipped(check: Callable[..., None], module: LightningModule, batch: Any, *options: float) -> str | None:
    """Make a check of a copy, with the same random numbers every time; return why it is not applicable, None if it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        twin: Any = copy.deepcopy(module)
        twin.trainer = None
        try:
            check(twin.train(), batch, *options)
        except NotApplicable as reason:
            return str(reason)
    return None
