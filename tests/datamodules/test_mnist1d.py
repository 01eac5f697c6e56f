"""MNIST-1D: the package's own data to the bit of float32, made without it; fewer of them, and wrong labels."""

from typing import Any

import mnist1d.data
import numpy as np
import pytest
import torch

from datamodules import MNIST1DDataModule
from datamodules.label_noise import plant


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_data_are_those_of_the_package(shuffled: bool) -> None:
    args = mnist1d.data.get_dataset_args()
    args.shuffle_seq = shuffled
    wanted = mnist1d.data.make_dataset(args)
    data = MNIST1DDataModule(shuffled=shuffled)
    data.setup()
    for name, (x, y) in (("_test", data.test_sequences()), ("", data.sequences())):
        np.testing.assert_allclose(x[:, :, 0], wanted[f"x{name}"], rtol=0, atol=1e-6)
        assert y.tolist() == wanted[f"y{name}"].tolist()
    assert [len(data._parts[part]) for part in ("train", "val", "test")] == [3600, 400, 1000]
    assert torch.equal(data._parts["test"].x, data.test_sequences()[0])


def test_the_shuffled_data_are_the_same_numbers_in_another_order() -> None:
    plain, shuffled = (MNIST1DDataModule(shuffled=each) for each in (False, True))
    (x, y), (other, labels) = plain.sequences(), shuffled.sequences()
    assert torch.equal(y, labels)
    assert torch.equal(x.sort(dim=1)[0], other.sort(dim=1)[0])
    columns = [next(t for t in range(40) if torch.equal(x[:, t], other[:, k])) for k in range(40)]
    assert sorted(columns) == list(range(40)) != columns
    for data in (plain, shuffled):
        data.setup("fit")
    assert plain.fingerprint != shuffled.fingerprint


def test_a_draw_of_the_training_part_is_of_its_series_with_their_labels() -> None:
    x, y = MNIST1DDataModule().sequences()
    drawn = {}
    for seed in (0, 1):
        some, labels = MNIST1DDataModule(count=400, data_seed=seed).sequences()
        places = [int((x == one).all(dim=(1, 2)).nonzero()) for one in some]
        assert labels.tolist() == y[places].tolist()
        assert len(set(places)) == 400
        drawn[seed] = places
    assert len(set(drawn[0]) & set(drawn[1])) < 80  # 40 are expected
    assert drawn[0] == sorted(drawn[0])
    assert max(drawn[0]) > 3900
    data = MNIST1DDataModule(count=400, val_fraction=0)
    data.setup("fit")
    assert (len(data._parts["train"]), sum(data.class_counts or [])) == (400, 400)
    assert data.mean is not None
    torch.testing.assert_close(data.mean, MNIST1DDataModule(count=400).sequences()[0].mean(dim=(0, 1)))


def test_label_noise_is_an_exact_share_of_other_classes() -> None:
    clean = MNIST1DDataModule(count=400)
    noisy = [MNIST1DDataModule(count=400, label_noise=0.15, data_seed=seed) for seed in (0, 0, 1)]
    (x, y), (same, first) = clean.sequences(), noisy[0].sequences()
    assert torch.equal(x, same)
    assert int((first != y).sum()) == 60  # 15% of 400, none of which kept its class
    assert torch.equal(first, noisy[1].sequences()[1])
    other, labels = noisy[2].sequences()
    right = MNIST1DDataModule(count=400, data_seed=1).sequences()[1]
    assert int((labels != right).sum()) == 60
    assert ((labels != right) & (first != y)).sum() < 30  # of the places: another draw
    for data in (clean, noisy[0]):
        data.setup()
    assert torch.equal(clean._parts["test"].y, noisy[0]._parts["test"].y)
    assert clean.fingerprint != noisy[0].fingerprint
    assert not torch.equal(x, other)


def test_the_new_classes_are_any_of_the_others() -> None:
    y = torch.arange(5).repeat(1000)
    noisy, planted = plant(y, 0.5, seed=3, num_classes=5)
    assert int(planted.sum()) == 2500
    assert torch.equal(noisy[~planted], y[~planted])
    shifts = torch.bincount((noisy - y)[planted] % 5, minlength=5)
    assert shifts[0] == 0
    assert (shifts[1:] - 625).abs().max() < 100  # standard deviation 22


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"count": 0}, ValueError, r"count must be an integer in 1..4000, got 0"),
        ({"count": 4001}, ValueError, r"count must be an integer in 1..4000, got 4001"),
        ({"count": 1.5}, TypeError, r"count must be an integer in 1..4000, got 1.5"),
        (
            {"label_noise": 1.0},
            ValueError,
            r"label_noise must be a share of the labels of the training part in \[0, 1\)",
        ),
        ({"label_noise": -0.1}, ValueError, "label_noise must be a share"),
        ({"data_seed": -1}, ValueError, "data_seed must be an integer"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MNIST1DDataModule(**arguments)
