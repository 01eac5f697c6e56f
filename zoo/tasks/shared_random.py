"""Random numbers of several processes as the rows of one stream: they draw what one process with the global batch would.

Processes train with equal generators, so without more they would all draw the same numbers: the same noise and the same dropout
for different examples. Here a draw for a batch is made for the examples of all processes, on each of them alike, and each takes
the rows of its own examples, ``rank::world_size``, the order of the training sampler.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor
from typing_extensions import override

from zoo.internals import TorchFunctionMode, default_generator, tree_leaves

_FACTORIES = (torch.rand, torch.randn)
_LIKE: dict[Any, Callable[..., Tensor]] = {torch.rand_like: torch.rand, torch.randn_like: torch.randn}
_IN_PLACE = (
    Tensor.bernoulli_,
    Tensor.cauchy_,
    Tensor.exponential_,
    Tensor.geometric_,
    Tensor.log_normal_,
    Tensor.normal_,
    Tensor.random_,
    Tensor.uniform_,
)
_BY_EXAMPLE = (torch.bernoulli, torch.multinomial, torch.poisson, Tensor.bernoulli, Tensor.multinomial)
_MAP_DROPOUT = (F.dropout1d, F.dropout2d, F.dropout3d)
_INSIDE = (
    F.alpha_dropout,
    F.feature_alpha_dropout,
    F.fractional_max_pool2d_with_indices,
    F.fractional_max_pool3d_with_indices,
    F.gumbel_softmax,
    F.multi_head_attention_forward,
    F.rrelu,
    F.scaled_dot_product_attention,
    torch.gru,
    torch.lstm,
    torch.rnn_relu,
    torch.rnn_tanh,
)


class SharedRandom(TorchFunctionMode):
    """While active, draws by torch's own functions are this process's part of what all processes together draw.

    - A draw whose first dimension is the batch, or a multiple of it (``(B T, ...)``), is this process's rows of a draw for the
      examples of all processes. So are the masks of ``dropout`` and ``dropout1d``, ``2d``, ``3d``.
    - Another draw (one number a step) is the same on all processes.
    - What torch draws inside an operation cannot be split: dropout between the layers of ``nn.LSTM``, ``nn.GRU``, ``nn.RNN``,
      that of ``scaled_dot_product_attention`` and ``nn.MultiheadAttention``, alpha dropout, ``gumbel_softmax``, ``rrelu``,
      fractional pooling, dropout of a tensor that is not batch-first, and on a GPU the fused kernel of ``dropout``. There each
      process has a seed of its own: the draws differ between processes, and from those of one process.
    - A call with a ``generator`` of its own is left alone.

    Processes hold equally many examples, but for the last batch of an epoch: there the first ones may have one more, and a process
    without any holds one that does not count, for which it draws what no other does.

    Args:
        batch_size: Examples of this process.
        rank, world_size: Of this process.
        seed: Of what is drawn inside of operations, another one on each process and in each step.
        total: Examples of all processes that count; None: as many on each.
    """

    def __init__(self, batch_size: int, rank: int, world_size: int, seed: int, total: int | None = None) -> None:
        super().__init__()
        self.batch_size, self.rank, self.world_size, self.seed = batch_size, rank, world_size, seed
        self.total = batch_size * world_size if total is None else total
        self.lacks = rank >= self.total  # has only an example that does not count
        self._own: dict[torch.device, Tensor] = {}  # states of this process's generators

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        if func in _FACTORIES:
            size = kwargs.pop("size", args[0] if args and not isinstance(args[0], int) else args)
            return self._rows(tuple(size), lambda whole: func(whole, **kwargs))
        if func is torch.randint:
            *bounds, size = args if "size" not in kwargs else (*args, kwargs.pop("size"))
            draw: Any = func
            return self._rows(tuple(size), lambda whole: draw(*bounds, size=whole, **kwargs))
        if func is torch.randint_like:
            x, *bounds = args
            like: dict[str, Any] = {"dtype": x.dtype, "device": x.device, **kwargs}
            integers: Any = torch.randint
            return self._rows(tuple(x.shape), lambda whole: integers(*bounds, size=whole, **like))
        if func is torch.normal:
            return self._normal(*args, **kwargs)
        if func in _LIKE:
            x, like = args[0], {"dtype": args[0].dtype, "device": args[0].device, **kwargs}
            like.pop("memory_format", None)
            return self._rows(tuple(x.shape), lambda whole: _LIKE[func](whole, **like))
        if func in _IN_PLACE:
            x, rest = args[0], args[1:]
            if rest and isinstance(rest[0], Tensor):  # bernoulli_ with a probability for each value
                return x.copy_(self._rows_of(torch.bernoulli, rest[0].expand_as(x)))
            return x.copy_(self._rows(tuple(x.shape), lambda whole: func(x.new_empty(whole), *rest, **kwargs)))
        if func in _BY_EXAMPLE:
            return self._rows_of(func, *args, **kwargs)
        if func is F.dropout or func in _MAP_DROPOUT:
            return self._dropout(func, *args, **kwargs)
        if func in _INSIDE:
            return self._with_own_seed(func, args, kwargs)
        return func(*args, **kwargs)

    def _repeats(self, size: tuple[int, ...]) -> int | None:
        """Rows of the first dimension that belong to one example; None if it is not the batch."""
        if not size or size[0] == 0 or size[0] % self.batch_size:
            return None
        if self.batch_size == 1 and size[0] != 1 and self.total != 1:  # it need not be the batch
            return None
        return size[0] // self.batch_size

    def _mine(self, whole: Tensor, repeats: int) -> Tensor:
        """This process's rows: ``(N r, ...)``, N examples of all -> ``(B r, ...)``."""
        examples = whole.unflatten(0, (-1, repeats))  # (N r, ...) -> (N, r, ...)
        return (examples[:1] if self.lacks else examples[self.rank :: self.world_size]).flatten(0, 1)

    def _rows(self, size: tuple[int, ...], draw: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        repeats = self._repeats(size)
        return draw(size) if repeats is None else self._mine(draw((self.total * repeats, *size[1:])), repeats)

    def _rows_of(self, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """A draw whose parameters are given for each example: the rows of others are filled with ones."""
        repeats = self._repeats(tuple(x.shape))
        if repeats is None:
            return func(x, *args, **kwargs)
        whole = x.new_ones(self.total, repeats, *x.shape[1:])
        if not self.lacks:
            whole[self.rank :: self.world_size] = x.unflatten(0, (-1, repeats))
        return self._mine(func(whole.flatten(0, 1), *args, **kwargs), repeats)

    def _normal(self, mean: Any, std: Any = 1.0, size: Any = None, **kwargs: Any) -> Tensor:
        """``torch.normal``: of a size, or one number for each mean and each deviation."""
        if size is not None:
            return self._rows(tuple(size), lambda whole: torch.normal(mean, std, size=whole, **kwargs))
        unit = torch.as_tensor(mean) + torch.as_tensor(std)
        return mean + std * self._rows(tuple(unit.shape), lambda whole: unit.new_empty(whole).normal_())

    def _dropout(self, func: Any, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        size = tuple(x.shape) if func is F.dropout else (*x.shape[:2], *[1] * (x.ndim - 2))
        if not training or not 0 < p < 1:
            return func(x, p, training, inplace)
        if self._repeats(size) is None or (x.is_cuda and func is F.dropout):
            return self._with_own_seed(func, (x, p, training, inplace), {})
        keep = self._rows(size, lambda whole: x.new_empty(whole).bernoulli_(1 - p)).div_(1 - p)
        return x.mul_(keep) if inplace else x * keep

    def _with_own_seed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call with this process's own state of the global generator, and put the common one back."""
        device = next(part.device for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor))
        generator = default_generator(device)
        common = generator.get_state()
        if device in self._own:
            generator.set_state(self._own[device])
        else:
            generator.manual_seed(self.seed)
        try:
            return func(*args, **kwargs)
        finally:
            self._own[device] = generator.get_state()
            generator.set_state(common)


@contextmanager
def shared_random(trainer: Trainer, batch: Any, batch_idx: int) -> Iterator[None]:
    """Share what is drawn in one step of a trainer with several processes."""
    sizes = (len(part) for part in tree_leaves(batch) if isinstance(part, Tensor) and part.ndim)
    size, total = next(sizes, 1), None
    step = (trainer.current_epoch << 32) + batch_idx
    seed = hash((torch.initial_seed(), trainer.global_rank, step)) % 2**63
    if trainer.is_last_batch:  # processes may hold different numbers of examples
        held = torch.tensor(size * counts(batch), device=trainer.strategy.root_device)
        total = int(trainer.strategy.reduce(held, reduce_op="sum"))
    with SharedRandom(size, trainer.global_rank, trainer.world_size, seed, total or None):
        yield
    if trainer.is_last_batch:  # where a draw could not be divided, processes have drawn different numbers
        share_generators(trainer, generator_states(trainer))


def counts(batch: Any) -> bool:
    """Return whether a batch holds an example that counts: one process may have got one of weight 0 alone."""
    several = type(batch) in (tuple, list) and len(batch) > 2
    return not several or bool((batch[2] > 0).any())


def generator_states(trainer: Trainer) -> dict[str, Tensor]:
    """Return the states of the global generators of the CPU and of the device that is trained on."""
    generators = {d.type: default_generator(d) for d in (torch.device("cpu"), trainer.strategy.root_device)}
    return {name: generator.get_state() for name, generator in generators.items() if generator is not None}


def share_generators(trainer: Trainer, states: dict[str, Tensor]) -> None:
    """Give the global generators of all processes the states of the first process."""
    set_generators(trainer, trainer.strategy.broadcast(states))


def set_generators(trainer: Trainer, states: dict[str, Tensor]) -> None:
    """Put the global generators of this process into the states that :func:`generator_states` has returned."""
    for device in (torch.device("cpu"), trainer.strategy.root_device):
        if device.type in states:
            default_generator(device).set_state(states[device.type])
