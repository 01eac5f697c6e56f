"""Images as series: every pixel at its place, in the order that is asked for."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from fakes import Fake
from kit import record_batches
from torch import Tensor
from torchvision.datasets import MNIST

from datamodules import DigitsDataModule, DigitSequenceDataModule, ImageDataModule, SequentialMNISTDataModule
from datamodules.sequence_images import ImagesInOrder


def validated(data: Any) -> tuple[Tensor, Tensor]:
    batches = record_batches(data, limit_train_batches=1, limit_val_batches=1).seen["val"]
    x, y = zip(*batches, strict=True)
    return torch.cat(x), torch.cat(y)


def test_rows_and_pixels_are_those_of_the_image() -> None:
    images, labels = validated(DigitsDataModule())
    rows, y = validated(DigitSequenceDataModule())
    pixels, again = validated(DigitSequenceDataModule(order="pixels"))
    assert rows.shape == (len(images), 8, 8)
    assert pixels.shape == (len(images), 64, 1)
    for t in range(8):
        assert torch.equal(rows[:, t], images[:, 0, t])
        for column in range(8):
            assert torch.equal(pixels[:, 8 * t + column, 0], images[:, 0, t, column])
    assert torch.equal(y, labels)
    assert torch.equal(again, labels)


@pytest.mark.parametrize("order", ["rows", "pixels"])
def test_the_random_order_is_one_for_all(order: Literal["rows", "pixels"]) -> None:
    plain, permuted = (validated(DigitSequenceDataModule(order=order, permuted=each))[0] for each in (False, True))
    again = validated(DigitSequenceDataModule(order=order, permuted=True))[0]
    assert torch.equal(permuted, again)
    places = [
        [s for s in range(plain.shape[1]) if torch.equal(plain[:, s], permuted[:, t])] for t in range(plain.shape[1])
    ]
    chosen = [each[0] for each in places if len(each) == 1]  # pixels at the edge are always 0
    assert len(chosen) >= 0.8 * len(places)
    assert len(set(chosen)) == len(chosen)
    assert chosen != sorted(chosen)


class Colors(ImageDataModule):
    """Twenty images of 2 x 3 pixels with two channels; the value tells its place."""

    class_names = ["a", "b"]
    native_shape = (2, 2, 3)

    def read(self, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        return torch.arange(12).byte().view(1, 2, 2, 3).repeat(20, 1, 1, 1), torch.arange(20) % 2


class ColorSequences(ImagesInOrder, Colors):
    pass


def test_channels_stay_together_and_the_statistics_are_theirs() -> None:
    rows, pixels = ColorSequences(batch_size=4), ColorSequences(order="pixels", batch_size=4)
    x, _ = validated(rows)
    assert (x[0] * 255).round().tolist() == [[0, 6, 1, 7, 2, 8], [3, 9, 4, 10, 5, 11]]
    x, _ = validated(pixels)
    assert (x[0] * 255).round().tolist() == [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]
    assert (rows.input_shape, pixels.input_shape) == ((2, 6), (6, 2))
    torch.testing.assert_close(pixels.mean, torch.tensor([2.5, 8.5]) / 255)
    torch.testing.assert_close(rows.mean, torch.tensor([2.5, 8.5] * 3) / 255)
    assert rows.std is not None
    assert rows.std.shape == (6,)
    assert rows.preparation is None


def test_augmentation_and_size_are_those_of_images() -> None:
    data = DigitSequenceDataModule(size=16, shift=2)
    assert data.input_shape == (16, 16)
    x, _ = record_batches(data, limit_train_batches=1).seen["train"][0]
    assert x.shape == (64, 16, 16)


def test_mnist_comes_from_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(tmp_path, MNIST, monkeypatch)
    data = SequentialMNISTDataModule(root=str(tmp_path), order="pixels", val_fraction=0.5, batch_size=20)
    x, y = validated(data)
    assert x.shape == (20, 784, 1)
    images, labels = fake.wanted["train"]
    seen = {image.tobytes(): label for image, label in zip(images.reshape(40, 784), labels.tolist(), strict=True)}
    pixels = (x[:, :, 0] * 255).round().byte().numpy()
    assert [seen[row.tobytes()] for row in pixels] == y.tolist()


def test_another_order_is_refused() -> None:
    with pytest.raises(ValueError, match='order must be "rows" or "pixels", got \'columns\''):
        DigitSequenceDataModule(order="columns")  # type: ignore[arg-type]
