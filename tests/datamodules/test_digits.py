"""The bundled digits: the split everybody compares on, and what the pixels are."""

import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from datamodules import DigitsDataModule


def test_sizes_and_shapes() -> None:
    data = DigitsDataModule(size=32)
    data.setup()
    parts = data._parts
    assert {name: len(part) for name, part in parts.items()} == {"train": 1293, "val": 144, "test": 360}
    assert parts["train"].x.shape[1:] == data.input_shape == (1, 32, 32)
    assert (data.num_classes, data.class_names) == (10, list("0123456789"))
    assert all(35 <= count <= 37 for count in parts["test"].y.bincount())


def test_pixels_are_the_seventeen_levels_spread_over_a_byte() -> None:
    images, labels = DigitsDataModule().read("train")
    raw, numbers = load_digits(return_X_y=True)
    levels = torch.tensor([round(k * 255 / 16) for k in range(17)])
    assert set(images.unique().tolist()) == set(levels.tolist())
    both = torch.cat([images, DigitsDataModule().read("test")[0]]).flatten(1)
    everything = levels[torch.from_numpy(raw).long()]
    assert torch.equal(both.unique(dim=0).long(), everything.unique(dim=0))
    first = (both.long() == everything[0]).all(1).nonzero()[0, 0]
    assert torch.cat([labels, DigitsDataModule().read("test")[1]])[first] == numbers[0]


def test_the_test_part_is_that_of_the_published_comparison() -> None:
    """3-nearest-neighbors reach 0.986 on it: the number that recipes are compared with."""
    train, y = DigitsDataModule().read("train")
    test, wanted = DigitsDataModule().read("test")
    knn = KNeighborsClassifier(3).fit(train.flatten(1).numpy(), y.numpy())
    assert round(knn.score(test.flatten(1).numpy(), wanted.numpy()), 3) == 0.986


def test_split_and_statistics_are_the_same_everywhere() -> None:
    """Constants: whoever finds others has other digits, or split them in another way."""
    data = DigitsDataModule(num_workers=2, batch_size=7)
    data.setup("fit")
    assert data.data_identity == "fingerprint 91bfa8273a03feee (1293 train / 144 val)"
    torch.testing.assert_close(
        torch.cat([data.mean, data.std]), torch.tensor([0.30523255, 0.37591821]), atol=1e-7, rtol=0
    )
