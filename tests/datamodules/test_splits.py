"""Splits and fingerprints: those of scikit-learn and of the bytes, also of what is large."""

import hashlib

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split

from datamodules import ArrayDataModule, TrainSampler
from datamodules.arrays import column_statistics, held_by_float32
from datamodules.splits import digest, held_out


def test_splits_are_those_of_scikit_learn() -> None:
    rng, refused = np.random.default_rng(0), 0
    for i in range(100):
        count, classes, seed = (int(number) for number in rng.integers(1, (200, 12, 1000)))
        fraction = float(rng.choice([0.1, 0.25, 1 / 3, 0.9, rng.random()]))
        labels = None if i % 4 == 0 else torch.from_numpy(3 * rng.integers(classes, size=count))
        stratify = None if labels is None else labels.numpy()
        try:
            _, wanted = train_test_split(range(count), test_size=fraction, random_state=seed, stratify=stratify)
        except ValueError:
            refused += 1
            what = "leaves none for the other part" if labels is None else "cannot hold every class in both parts"
            with pytest.raises(ValueError, match=f"share=.* of {count} examples {what}: "):
                held_out("share", fraction, count, seed, labels)
        else:
            chosen = held_out("share", fraction, count, seed, labels)
            assert chosen.nonzero()[:, 0].tolist() == sorted(wanted)
    assert 5 < refused < 60


@pytest.mark.parametrize(
    "part", [torch.arange(6.0).view(2, 3).T, torch.zeros(0, 3), torch.tensor(3), torch.ones(2, 2, 2)]
)
def test_a_fingerprint_is_that_of_the_bytes(part: torch.Tensor) -> None:
    content = part.numpy().tobytes()  # in the order of rows
    text = f"{part.dtype} {tuple(part.shape)} {len(content)}\n".encode() + content
    assert digest(part) == hashlib.blake2b(text, digest_size=8).hexdigest()


def test_large_tables_are_looked_at_in_parts() -> None:
    """Statistics, dtype and order of more rows than a part has."""
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(3, 2, 150_000), rng.normal(1.7e9, 500, 150_000), np.full(150_000, 0.1)], 1)
    x[100_000:, 0] += 5
    mean, std = column_statistics(torch.from_numpy(x))
    np.testing.assert_allclose(mean, [*x[:, :2].mean(0), 0.1], rtol=1e-12)
    np.testing.assert_allclose(std, [*x[:, :2].std(0), 1], rtol=1e-9)
    assert [held_by_float32(torch.from_numpy(x[:, i : i + 1])) for i in range(3)] == [True, False, True]
    x[-1, 2] = 0.2
    assert column_statistics(torch.from_numpy(x))[1][2] < 1  # no longer constant, by its last row
    for dtype, kept in ((np.float32, torch.float32), (np.float64, torch.float64)):
        data = ArrayDataModule(x[:, :2].astype(dtype), np.arange(150_000) % 2)
        data.setup("fit")
        assert data._parts["train"].x.dtype == torch.float64  # float32 would lose the second column's mean
        assert data.table()[0].dtype == kept
        assert data.table()[0].numpy().tobytes() == x[:, :2].astype(dtype).tobytes()


def test_the_order_of_a_large_epoch() -> None:
    sampler = TrainSampler(range(40_001), batch_size=10, epoch=3, drop_last=False)
    assert list(sampler) == sampler.order().tolist()
    later = TrainSampler(range(40_001), batch_size=10, epoch=3, start=3999, drop_last=False)
    assert list(later) == sampler.order().tolist()[39_990:]
