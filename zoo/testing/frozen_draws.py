"""Random numbers that depend neither on the example nor on the batch, so that a batch can be compared with its parts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from zoo.internals import default_generator
from zoo.tasks.shared_random import SharedRandom

_CPU = torch.device("cpu")
_STEP = 16  # torch fills that many normal numbers at a time: a longer draw begins with the numbers of a shorter one


class FrozenDraws(SharedRandom):
    """While active, draws on the CPU by torch's own functions give each example the same numbers, in every call.

    Dropout drops, noise is added: training mode hides nothing. A longer series begins with the numbers of a shorter one. What
    torch draws inside an operation cannot be frozen, see :class:`~zoo.tasks.shared_random.SharedRandom`.

    Args:
        watch: Whether to note in ``missed`` which functions draw numbers all the same.

    Attributes:
        missed: Their names.
    """

    def __init__(self, watch: bool = False) -> None:
        super().__init__(batch_size=1, rank=0, world_size=1, seed=0)
        self.watch = watch
        self.missed: set[str] = set()

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.watch:
            return super().__torch_function__(func, types, args, kwargs)
        before = default_generator(_CPU).get_state()
        result = super().__torch_function__(func, types, args, kwargs)
        if not torch.equal(default_generator(_CPU).get_state(), before):
            self.missed.add(getattr(func, "__name__", str(func)))
        return result

    @override
    def _repeats(self, size: tuple[int, ...]) -> int | None:
        return 1

    @override
    def _rows(self, size: tuple[int, ...], draw: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        with _same_seed():
            if len(size) < 2:
                return draw((1,)).reshape([1] * len(size)).repeat(size)
            steps = -(-size[1] // _STEP) * _STEP
            return draw((1, steps, *size[2:]))[:, : size[1]].repeat(size[0], *[1] * (len(size) - 1))

    @override
    def _rows_of(self, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with _same_seed() as again:
            return torch.cat([again(partial(func, row, *args, **kwargs)) for row in x.split(1)])

    @override
    def _with_own_seed(self, func: Any, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)


@contextmanager
def _same_seed() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Draw from one seed, and put the generator's state back; gives a function that draws once more from that seed."""
    generator = default_generator(_CPU)
    state = generator.get_state()

    def again(draw: Callable[[], Any]) -> Any:
        generator.manual_seed(0)
        return draw()

    try:
        generator.manual_seed(0)
        yield again
    finally:
        generator.set_state(state)
