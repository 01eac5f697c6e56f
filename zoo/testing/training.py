"""Checks of one batch: gradients, examples that do not see each other, learning by heart, bfloat16."""

from typing import Any

import torch

from zoo.testing.parts import gap_of, inputs_of, loss_of, map_tensors, outputs_of, row_of, size_of, tensors_of


def check_gradients(module: Any, batch: Any) -> None:
    """Every trainable parameter gets a finite gradient."""
    loss_of(module, batch).backward()
    _assert_finite_gradients(module)


def _assert_finite_gradients(module: Any) -> None:
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} gets no gradient: it takes no part in the loss"
            assert parameter.grad.isfinite().all(), f"{name} gets a gradient that is not finite"


def check_independence(module: Any, batch: Any) -> None:
    """An example's output is the same, up to rounding, if all other examples of the batch are copies of it."""
    inputs = inputs_of(module, batch)
    others = map_tensors(
        lambda x: x[:1].expand_as(x).clone(), inputs
    )  # no mere reordering, which a batch's mean survives
    before, after = row_of(outputs_of(module, *inputs)), row_of(outputs_of(module, *others))
    gap = gap_of(before[0], after[0])
    assert gap <= 1e-5 * size_of(before), f"examples of a batch leak into each other: {gap:.1e}"


def check_memorization(module: Any, batch: Any, lr: float = 3e-3) -> None:
    """One batch is learned by heart in 200 Adam steps."""
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=lr)
    floor = module.loss_floor() if hasattr(module, "loss_floor") else 0.0
    first, loss = 0.0, 0.0
    for step in range(200):
        optimizer.zero_grad()
        value = loss_of(module, batch)
        value.backward()
        optimizer.step()
        loss = value.item()
        first = first if step else loss
        if loss < max(0.1 * first, 1.05 * floor):
            return
    raise AssertionError(
        f"one batch is not learned by heart: loss {first:.3f} -> {loss:.3f} nats in 200 steps at lr={lr}"
    )


def check_bf16(module: Any, batch: Any) -> None:
    """A training step under bfloat16 autocast is finite."""
    with torch.autocast(tensors_of(batch)[0].device.type, dtype=torch.bfloat16):
        loss = loss_of(module, batch)
    assert loss.isfinite(), f"the loss under bfloat16 is {loss.item()}"
    loss.backward()
    _assert_finite_gradients(module)
