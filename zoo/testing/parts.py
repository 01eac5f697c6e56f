"""What the checks take from a module and a batch: inputs, loss, outputs; a batch's parts may be tensors, NamedTuples, tokens."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.internals import tree_leaves, tree_map
from zoo.protocol import EncoderDecoder, Incremental
from zoo.tasks.base import input_of


class NotApplicable(Exception):
    """A check cannot be made for this module; the message is the reason, which stands in the report."""


# Batches ----------------------------------------------------------------------------------------------------------------


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Apply a function to all tensors of a nested value; what has no axis, and what is no tensor, stays."""
    return tree_map(lambda x: function(x) if isinstance(x, Tensor) and x.ndim else x, value)


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors of a nested value that have an axis."""
    return [x for x in tree_leaves(value) if isinstance(x, Tensor) and x.ndim]


def num_examples(batch: Any) -> int:
    """Return the number of examples of a batch."""
    return len(tensors_of(batch)[0])


def select(batch: Any, index: slice) -> Any:
    """Return some examples of a batch."""
    return map_tensors(lambda x: x[index], batch)


def cast(batch: Any, dtype: torch.dtype) -> Any:
    """Return a batch on the CPU with its floats in another type; tokens, labels and pixels in uint8 keep theirs."""
    return map_tensors(lambda x: x.to("cpu", dtype) if x.is_floating_point() else x.cpu(), batch)


def lengths_of(inputs: Any) -> set[int]:
    """Return the lengths of the series in a module's input: of all tokens ``(B, T)``; without any, of its first part."""
    parts = [x for x in tensors_of(inputs) if x.ndim > 1]
    tokens = {x.shape[1] for x in parts if x.ndim == 2 and not x.is_floating_point()}
    return tokens or {x.shape[1] for x in parts[:1]}


def is_series(x: Tensor, lengths: set[int]) -> bool:
    """Return whether a tensor has a time axis, axis 1."""
    return x.ndim > 1 and x.shape[1] in lengths


def captions_of(inputs: tuple[Any, ...]) -> Tensor | None:
    """Return the captions of images, int64 ``(B, R, T)``, whose time axis is the last; None of other inputs."""
    captions: Tensor | None = getattr(inputs[0], "caption", None)
    return captions


# Modules ----------------------------------------------------------------------------------------------------------------


def inputs_of(module: Any, batch: Any) -> tuple[Any, ...]:
    """Return what ``module.forward`` takes of a batch."""
    return module.forward_args(batch) if hasattr(module, "forward_args") else (input_of(batch),)


def has_loss(module: Any) -> bool:
    """Return whether a module gives its loss without a trainer."""
    return hasattr(module, "training_losses") or module.automatic_optimization


def counts_examples(module: Any) -> bool:
    """Return whether a module says what its loss is a mean over, so that batches of several sizes can be weighted."""
    return hasattr(module, "training_losses")


def loss_of(module: Any, batch: Any) -> Tensor:
    """Return the training loss of a batch, without a trainer.

    Raises:
        NotApplicable: The module is optimized by hand, in its training step, which needs a trainer.
        AssertionError: There is no loss.
    """
    if not has_loss(module):
        raise NotApplicable(
            f"{type(module).__name__} is optimized by hand, so its training_step needs a trainer: offer training_losses(batch)"
        )
    if hasattr(module, "training_losses"):
        loss = module.training_losses(batch)[0]
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # self.log without a trainer
            output = module.training_step(batch, 0)
        loss = output.get("loss") if isinstance(output, Mapping) else output
    one_number = isinstance(loss, Tensor) and loss.numel() == 1
    assert one_number, f"the loss must be a tensor of one number, got {loss!r:.200}"
    return loss


def outputs_of(module: Any, *inputs: Any) -> list[Tensor]:
    """Return the parts ``(B, ...)`` of what a module gives in evaluation; a part without the batch in front is left out.

    Raises:
        AssertionError: No part is left.
    """
    module.eval()
    with torch.no_grad():
        output = module(*inputs)
    return batched(output, num_examples(inputs))


def batched(output: Any, count: int) -> list[Tensor]:
    """Return the parts of an output whose first axis is the batch."""
    parts = [x for x in tensors_of(output) if len(x) == count]
    shapes = [tuple(x.shape) for x in tensors_of(output)]
    assert parts, f"no part of the output has the batch of {count} examples as its first axis, got {shapes}"
    return parts


def row_of(parts: list[Tensor]) -> Tensor:
    """Return several outputs as one: ``(B, ...)`` each -> ``(B, D)``."""
    rows = [x.reshape(len(x), -1) for x in parts]
    return torch.cat([x if x.is_floating_point() else x.float() for x in rows], dim=1)


def series_of(parts: list[Tensor], length: int) -> Tensor:
    """Return those parts that have a time axis, as one: ``(B, T, ...)`` each -> ``(B, T, D)``.

    Raises:
        AssertionError: No part has one.
    """
    series = [x.reshape(*x.shape[:2], -1) for x in parts if x.ndim > 1 and x.shape[1] == length]
    shapes = [tuple(x.shape) for x in parts]
    assert series, f"no output has a time axis, axis 1, of the input's {length} steps: got {shapes}"
    return torch.cat([x if x.is_floating_point() else x.float() for x in series], dim=2)


def stepwise_part(module: Any) -> Any:
    """Return what goes through series step by step: the module or its net; None if neither does, or the module is not causal."""
    if getattr(module, "causal", True) is False:  # its step is for other arguments of the same class
        return None
    owners = (module, getattr(module, "net", None))
    return next((owner for owner in owners if isinstance(owner, Incremental | EncoderDecoder)), None)


def gap_of(one: Tensor, two: Tensor) -> float:
    """Return the largest difference between two tensors, nan if there is one; 0 if they are empty."""
    return (one - two).abs().max().item() if one.numel() else 0.0


def size_of(x: Tensor) -> float:
    """Return the largest absolute value, or 1 if it is smaller: what a difference is compared with."""
    return max(1.0, x.abs().max().item()) if x.numel() else 1.0
