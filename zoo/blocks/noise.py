"""Random numbers as a function of the example: the same in each evaluation, whatever the batches and processes.

Equal examples get equal numbers.
"""

import math

import torch
from torch import Tensor

_STEP, _FIRST, _SECOND = (
    -0x61C8864680B583EB,
    -0x40A7B892E31B1A47,
    -0x6B2FB644ECCEEE15,
)  # the constants of splitmix64, as signed integers


def uniform_of(x: Tensor, count: int, seed: int = 0) -> Tensor:
    """Return uniform random numbers in (0, 1), computed from a hash of each example; the global generators are not used.

    Args:
        x: Examples.
        count: Number N of random numbers an example.
        seed: Seed.

    Shape:
        ``(B, ...)`` -> ``(B, N)``, of the same type.
    """
    return _uniform(x, count, seed).to(x.dtype)


def normal_of(x: Tensor, count: int, seed: int = 0) -> Tensor:
    """Return standard normal random numbers, see :func:`uniform_of` (Box and Muller 1958)."""
    radius, angle = _uniform(x, 2 * count, seed).chunk(2, dim=1)
    return ((-2 * radius.log()).sqrt() * (2 * math.pi * angle).cos()).to(x.dtype)


def _uniform(x: Tensor, count: int, seed: int) -> Tensor:
    """Return uniform random numbers ``(B, N)`` in float32 at least: half precision has too few digits."""
    values = x.detach().float().flatten(1).contiguous().view(torch.int32).long()  # (B, ...) -> (B, D): the bits
    places = torch.arange(values.shape[1], device=x.device)
    keys = _mix(values + _mix(places + (seed << 32))).sum(dim=1, keepdim=True)  # (B, 1); wraps around
    bits = _mix(keys + torch.arange(1, count + 1, device=x.device) * _STEP)
    return (_shift_right(bits, 41).to(torch.promote_types(x.dtype, torch.float32)) + 0.5) / 2**23


def _mix(key: Tensor) -> Tensor:
    """Apply the finalizer of splitmix64 (Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators")."""
    key = (key ^ _shift_right(key, 30)) * _FIRST
    key = (key ^ _shift_right(key, 27)) * _SECOND
    return key ^ _shift_right(key, 31)


def _shift_right(key: Tensor, places: int) -> Tensor:
    """Shift to the right, filling with zeros."""
    return (key >> places) & ((1 << (64 - places)) - 1)
