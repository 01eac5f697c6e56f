"""Generated series whose answer lies a known number of steps back: the adding problem, copying from memory, an echo."""

from typing import Any

import numpy as np
from typing_extensions import override

from datamodules.checks import check_integer
from datamodules.sequence import SequenceDataModule


class ToySequences(SequenceDataModule):
    """Random series. A subclass sets ``input_shape`` and defines :meth:`draw`.

    Args:
        count: Number of series; a fifth of them is the test part (``test_fraction``).
        data_seed: Seed of the data, which do not depend on the run's seed.
        **sequence: Arguments of :class:`~datamodules.SequenceDataModule`.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument has another type.
    """

    def __init__(self, count: int = 10000, data_seed: int = 0, **sequence: Any) -> None:
        super().__init__(**sequence)
        check_integer("count", count, 1)
        check_integer("data_seed", data_seed, 0)
        self.count = count
        self.data_seed = data_seed

    @override
    def sequences(self) -> tuple[np.ndarray, np.ndarray]:
        x, y = self.draw(np.random.default_rng(self.data_seed))
        return x.astype(np.float32), y

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return ``count`` series and their targets."""
        raise TypeError(f"{type(self).__name__} must define draw(rng), which returns its series and targets")


class AddingDataModule(ToySequences):
    """The adding problem: the sum of two of T random numbers, which are marked (Hochreiter and Schmidhuber 1997, section 5.4).

    In the form of Arjovsky et al. 2016 (arXiv:1511.06464, section 4.2): the first number at each time is uniform in [0, 1), the
    second is 1 at two times, uniform in the first and in the second half, and 0 at the others; the target is the sum of the two
    marked numbers. Who always answers 1 has a mean squared error of 1/6. (In the paper of 1997, the numbers are uniform in [-1, 1],
    the length varies, the first and the last time have the mark -1, both marked times lie in the first half, and the sum is scaled
    to [0, 1].)

    Args:
        steps: Number of times T, >= 2.
        **toy: Arguments of :class:`~datamodules.sequence_toys.ToySequences`.

    Example:
        >>> data = AddingDataModule(steps=50)
        >>> data.input_shape, data.num_outputs
        ((50, 2), 1)
    """

    kind = "regression"
    target_names = ["sum"]

    def __init__(self, steps: int = 50, **toy: Any) -> None:
        super().__init__(**toy)
        check_integer("steps", steps, 2)
        self.input_shape = (steps, 2)

    @override
    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        steps = self.input_shape[0]
        values = rng.uniform(0, 1, (self.count, steps))
        first = rng.integers(0, steps // 2, self.count)
        second = rng.integers(steps // 2, steps, self.count)
        each = np.arange(self.count)
        marks = np.zeros_like(values)
        marks[each, first] = marks[each, second] = 1
        return np.stack([values, marks], axis=2), values[each, first] + values[each, second]


class CopyMemoryDataModule(ToySequences):
    """Copying from memory: symbols are shown, and are to be named again after a pause (Hochreiter and Schmidhuber 1997).

    In the form of Arjovsky et al. 2016 (arXiv:1511.06464, section 4.1): ``length`` random symbols, ``delay - 1`` blanks,
    a mark, and ``length`` blanks, each as a one-hot vector; the target at each time is blank until the mark has been read, then the
    symbols in their order. Who answers blank and then guesses has a loss of ``length log(symbols) / (delay + 2 length)`` nats.

    Args:
        delay: Number of times between the last symbol and the first answer, >= 1.
        length: Number of symbols to remember, >= 1; 10 in the paper.
        symbols: Number of different symbols, >= 2; 8 in the paper.
        **toy: Arguments of :class:`~datamodules.sequence_toys.ToySequences`.

    Example:
        >>> data = CopyMemoryDataModule(delay=30)
        >>> data.input_shape, data.num_classes
        ((50, 10), 9)
    """

    in_step = True

    def __init__(self, delay: int = 30, length: int = 10, symbols: int = 8, **toy: Any) -> None:
        super().__init__(**toy)
        check_integer("delay", delay, 1)
        check_integer("length", length, 1)
        check_integer("symbols", symbols, 2)
        self.delay, self.length, self.symbols = delay, length, symbols
        self.class_names = [*map(str, range(symbols)), "blank"]
        self.input_shape = (delay + 2 * length, symbols + 2)

    @override
    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        shown = rng.integers(0, self.symbols, (self.count, self.length))
        blank, mark = self.symbols, self.symbols + 1
        x = np.full((self.count, self.input_shape[0]), blank)
        y = x.copy()
        x[:, : self.length] = shown
        x[:, self.length + self.delay - 1] = mark
        y[:, self.length + self.delay :] = shown
        return np.eye(self.symbols + 2)[x], y  # (N, T) -> (N, T, symbols + 2)


class EchoDataModule(ToySequences):
    """An echo: random bits, each of which is the target ``delay`` times later; before the first one the target is 0.

    Args:
        delay: Number of times, >= 0, from a bit to its echo.
        steps: Number of times T, > delay.
        **toy: Arguments of :class:`~datamodules.sequence_toys.ToySequences`.

    Example:
        >>> data = EchoDataModule(delay=1, steps=4, count=1)
        >>> x, y = data.sequences()
        >>> x[0, :3, 0].tolist() == y[0, 1:].tolist()
        True
    """

    class_names = ["0", "1"]
    in_step = True

    def __init__(self, delay: int = 5, steps: int = 20, **toy: Any) -> None:
        super().__init__(**toy)
        check_integer("delay", delay, 0)
        check_integer("steps", steps, delay + 1)
        self.delay = delay
        self.input_shape = (steps, 1)

    @override
    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        steps = self.input_shape[0]
        bits = rng.integers(0, 2, (self.count, steps))
        echo = np.zeros_like(bits)
        echo[:, self.delay :] = bits[:, : steps - self.delay]
        return bits[:, :, None], echo
