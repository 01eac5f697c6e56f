"""Floating-point operations of a net, counted on the meta device: without its memory, and without a random number."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from recipes.cli.run.internals import tree_map


def multiply_adds(net: nn.Module, inputs: list[Any]) -> int:
    """Return the multiplications with an addition of a forward pass: those of convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        net(*inputs)
    return counter.get_total_flops() // 2


def flops_per_example(module: Any) -> int | None:
    """Return twice the multiply-adds of a forward pass of one example; None for a module that does not say what it takes."""
    if not hasattr(module, "example_inputs") or not isinstance(net := getattr(module, "net", None), nn.Module):
        return None
    try:
        inputs = [tree_map(_on_meta, example) for example in module.example_inputs()]
        # a copy whose tensors are those of the meta device, so that none is copied
        memo = {id(t): _on_meta(t) for t in [*net.parameters(), *net.buffers()]}
        with torch.no_grad():
            return 2 * multiply_adds(copy.deepcopy(net, memo).eval(), inputs)
    except Exception:  # a net that reads values, say: W&B's config goes without
        return None


def _on_meta(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    meta = value.detach().to("meta")
    return nn.Parameter(meta, value.requires_grad) if isinstance(value, nn.Parameter) else meta
