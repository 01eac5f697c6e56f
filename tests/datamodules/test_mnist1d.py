"""MNIST-1D: the package's own data to the bit of float32, made without it."""

import mnist1d.data
import numpy as np
import pytest
import torch

from datamodules import MNIST1DDataModule


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
