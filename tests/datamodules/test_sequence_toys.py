"""Generated series obey their formula, their seed is their own, and what who knows nothing reaches is as stated."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules import AddingDataModule, CopyMemoryDataModule, EchoDataModule


def drawn(data: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = data.sequences()
    return np.asarray(x, np.float64), np.asarray(y)


@pytest.mark.parametrize("steps", [2, 7, 50])
def test_the_sum_of_one_marked_number_in_each_half(steps: int) -> None:
    data = AddingDataModule(steps=steps, count=3000)
    x, y = drawn(data)
    assert x.shape == (3000, *data.input_shape)
    values, marks = x[:, :, 0], x[:, :, 1]
    assert 0 <= values.min() < 0.01 < 0.99 < values.max() < 1
    assert set(np.unique(marks)) <= {0, 1}
    np.testing.assert_allclose((values * marks).sum(1), y, atol=1e-6)
    for half in (marks[:, : steps // 2], marks[:, steps // 2 :]):
        assert (half.sum(1) == 1).all()
        assert half.mean(0).max() < 1.3 / half.shape[1] or half.shape[1] > 5
    assert marks.any(0).all()  # every time is marked at times
    assert ((y - 1) ** 2).mean() == pytest.approx(1 / 6, abs=0.01)


@pytest.mark.parametrize("delay", [1, 4])
def test_memory_is_copied_after_the_pause(delay: int) -> None:
    data = CopyMemoryDataModule(delay=delay, length=3, symbols=5, count=400)
    x, y = drawn(data)
    assert x.shape == (400, delay + 6, 7)
    assert ((x == 1).sum(2) == 1).all()
    symbol = x.argmax(2)
    shown = symbol[:, :3]
    assert set(np.unique(shown)) == set(range(5))
    assert (symbol[:, 3 : 2 + delay] == 5).all()
    assert (symbol[:, 2 + delay] == 6).all()  # the mark comes right before the first answer
    assert (symbol[:, 3 + delay :] == 5).all()
    assert (y[:, : 3 + delay] == 5).all()
    assert (y[:, 3 + delay :] == shown).all()


def test_the_loss_of_who_does_not_remember() -> None:
    data = CopyMemoryDataModule(delay=5, length=2, symbols=4, count=4000)
    _, y = drawn(data)
    p = np.zeros((9, 5))
    p[:7, 4] = 1
    p[7:, :4] = 1 / 4
    loss = -np.log(p[np.arange(9), y]).mean()
    assert loss == pytest.approx(2 * math.log(4) / 9)


@pytest.mark.parametrize(("delay", "steps"), [(0, 3), (2, 9), (8, 9)])
def test_an_echo_is_the_bit_of_before(delay: int, steps: int) -> None:
    x, y = drawn(EchoDataModule(delay=delay, steps=steps, count=500))
    for t in range(steps):
        assert (y[:, t] == (x[:, t - delay, 0] if t >= delay else 0)).all()
    assert abs(x.mean() - 0.5) < 0.05


@pytest.mark.parametrize("cls", [AddingDataModule, CopyMemoryDataModule, EchoDataModule])
def test_only_the_data_seed_changes_the_data_and_parts_share_nothing(cls: Any) -> None:
    def parts(seed: int, **options: Any) -> tuple[str | None, list[Tensor]]:
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        data = cls(count=200, **options)
        data.setup()
        return data.fingerprint, [data._parts[name].x for name in ("train", "val", "test")]

    one, x = parts(0)
    two, again = parts(1)
    assert one == two
    assert all(torch.equal(a, b) for a, b in zip(x, again, strict=True))
    assert one != parts(0, data_seed=1)[0]
    assert [len(part) for part in x] == [144, 16, 40]
    rows = [{row.numpy().tobytes() for row in part} for part in x]
    assert not rows[0] & rows[2]
    assert x[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: AddingDataModule(steps=1), ValueError, "steps must be an integer >= 2, got 1"),
        (lambda: AddingDataModule(count=0), ValueError, "count must be an integer >= 1, got 0"),
        (lambda: AddingDataModule(data_seed=-1), ValueError, "data_seed must be an integer >= 0, got -1"),
        (lambda: CopyMemoryDataModule(delay=0), ValueError, "delay must be an integer >= 1, got 0"),
        (lambda: CopyMemoryDataModule(symbols=1), ValueError, "symbols must be an integer >= 2, got 1"),
        (lambda: CopyMemoryDataModule(length=1.0), TypeError, "length must be an integer >= 1, got 1.0"),
        (lambda: EchoDataModule(delay=5, steps=5), ValueError, "steps must be an integer >= 6, got 5"),
    ],
)
def test_bad_arguments(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
