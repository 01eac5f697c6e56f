"""Random numbers that are a function of the example: evaluation repeats them, however batches are cut, on any process.

Equal examples get equal numbers.
"""

import math

import torch
from torch import Tensor

_STEP, _FIRST, _SECOND = (
    -0x61C8864680B583EB,
    -0x40A7B892E31B1A47,
    -0x6B2FB644ECCEEE15,
)  # splitmix64's, as signed numbers


def uniform_of(x: Tensor, count: int, seed: int = 0) -> Tensor:
    """Numbers drawn evenly from (0, 1), by a hash of the example's values: nothing of the global generators is used.

    Args:
        x: the examples.
        count: numbers N an example.
        seed: another one gives other numbers.

    Shape:
        ``(B, ...)`` -> ``(B, N)``, of the same type.
    """
    return _drawn(x, count, seed).to(x.dtype)


def normal_of(x: Tensor, count: int, seed: int = 0) -> Tensor:
    """Numbers drawn from the standard normal, likewise (Box and Muller 1958): ``(B, ...)`` -> ``(B, N)``."""
    radius, angle = _drawn(x, 2 * count, seed).chunk(2, dim=1)
    return ((-2 * radius.log()).sqrt() * (2 * math.pi * angle).cos()).to(x.dtype)


def _drawn(x: Tensor, count: int, seed: int) -> Tensor:
    """Evenly drawn ones ``(B, N)``, in float32 at least: half precision has too few digits for them."""
    values = x.detach().float().flatten(1).contiguous().view(torch.int32).long()  # (B, ...) -> (B, D): the bits
    places = torch.arange(values.shape[1], device=x.device)
    keys = _mixed(values + _mixed(places + (seed << 32))).sum(dim=1, keepdim=True)  # (B, 1); wraps around
    bits = _mixed(keys + torch.arange(1, count + 1, device=x.device) * _STEP)
    return (_shifted(bits, 41).to(torch.promote_types(x.dtype, torch.float32)) + 0.5) / 2**23


def _mixed(key: Tensor) -> Tensor:
    """The finalizer of splitmix64 (Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators")."""
    key = (key ^ _shifted(key, 30)) * _FIRST
    key = (key ^ _shifted(key, 27)) * _SECOND
    return key ^ _shifted(key, 31)


def _shifted(key: Tensor, places: int) -> Tensor:
    """To the right, zeros come in."""
    return (key >> places) & ((1 << (64 - places)) - 1)
