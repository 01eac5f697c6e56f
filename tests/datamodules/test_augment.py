"""Whole-batch augmentation equals what a loop over the images does, and each image has its own draw."""

import pytest
import torch
import torch.nn.functional as F
from kit import quiet_trainer
from torch import Tensor

from datamodules import Augmentation, DigitsDataModule


def images(count: int = 6, channels: int = 3, height: int = 7, width: int = 9) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (count, channels, height, width), generator=g, dtype=torch.uint8)


def one_by_one(augmentation: Augmentation, x: Tensor, draws: dict[str, Tensor]) -> Tensor:
    """The same, image by image, written with loops."""
    out = []
    pad = augmentation.shift or augmentation.crop
    for i, image in enumerate(x):
        if "flip" in draws and draws["flip"][i]:
            image = image.flip(-1)
        if "corner" in draws:
            row, column = draws["corner"][i].tolist()
            image = F.pad(image, (pad,) * 4)[:, row : row + x.shape[2], column : column + x.shape[3]]
        if "center" in draws:
            image = image.clone()
            row, column = (int(c) - augmentation.cutout // 2 for c in draws["center"][i])
            image[
                :,
                max(row, 0) : max(row + augmentation.cutout, 0),
                max(column, 0) : max(column + augmentation.cutout, 0),
            ] = 0
        out.append(image)
    return torch.stack(out)


CASES = [
    Augmentation(),
    Augmentation(shift=1),
    Augmentation(crop=4),
    Augmentation(flip=True),
    Augmentation(cutout=1),
    Augmentation(cutout=4),
    Augmentation(cutout=7),
    Augmentation(crop=2, flip=True, cutout=3),
]


@pytest.mark.parametrize("augmentation", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_batch_at_once_equals_image_by_image(augmentation: Augmentation, dtype: torch.dtype) -> None:
    x = images(40).to(dtype)
    before = x.clone()
    draws = augmentation.draw(40, (7, 9), torch.Generator().manual_seed(1))
    out = augmentation.apply(x, draws)
    assert out.dtype == dtype
    assert torch.equal(out, one_by_one(augmentation, x, draws))
    assert torch.equal(x, before)


def test_a_transposed_batch_is_understood() -> None:
    x = images(5, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    augmentation = Augmentation(crop=2, flip=True)
    draws = augmentation.draw(5, (8, 8), torch.Generator().manual_seed(1))
    assert torch.equal(augmentation.apply(x, draws), one_by_one(augmentation, x, draws))


@pytest.mark.parametrize(
    ("augmentation", "outcomes"),
    [
        (Augmentation(shift=1), 9),
        (Augmentation(crop=2), 25),
        (Augmentation(flip=True), 2),
        (Augmentation(cutout=2), 63),
    ],
    ids=str,
)
def test_each_image_has_its_own_draw_and_all_outcomes_are_about_as_likely(
    augmentation: Augmentation, outcomes: int
) -> None:
    count = 200 * outcomes
    x = images(1).expand(count, -1, -1, -1)
    out = augmentation.apply(x, augmentation.draw(count, (7, 9), torch.Generator().manual_seed(2)))
    _, times = out.flatten(1).unique(dim=0, return_counts=True)
    assert len(times) == outcomes
    assert 120 < times.min() <= times.max() < 290  # 200 +- 14 each


def test_what_a_batch_of_one_kind_of_draw_shows_for_all_images_alike_is_not_ours() -> None:
    """torchvision's v2 transforms draw once for a batch (trap 25): the test above would see a single outcome."""
    from torchvision.transforms import v2

    torch.manual_seed(0)
    x = images(1).expand(64, -1, -1, -1)
    out = v2.RandomCrop((7, 9), padding=2)(x)
    assert len(out.flatten(1).unique(dim=0)) == 1


def test_a_shift_moves_by_whole_pixels_and_fills_with_zeros() -> None:
    x = torch.zeros(50, 1, 5, 5, dtype=torch.uint8)
    x[:, 0, 2, 2] = 255
    augmentation = Augmentation(shift=2)
    out = augmentation.apply(x, augmentation.draw(50, (5, 5), torch.Generator().manual_seed(0)))
    assert (out.sum((1, 2, 3)) == 255).all()  # it never leaves the image
    corner = torch.ones(50, 1, 5, 5, dtype=torch.uint8)
    kept = augmentation.apply(corner, augmentation.draw(50, (5, 5), torch.Generator().manual_seed(0))).sum((1, 2, 3))
    assert kept.min() == 9
    assert kept.max() == 25


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"shift": -1}, "shift must be a number of pixels >= 0"),
        ({"crop": -2}, "crop must be a number of pixels >= 0"),
        ({"cutout": -1}, "cutout must be a number of pixels >= 0"),
        ({"shift": 1, "crop": 4}, "give one of them"),
    ],
)
def test_bad_arguments(kwargs: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**kwargs)


@pytest.mark.parametrize("name", ["shift", "crop", "flip", "cutout"])
def test_it_is_active_where_anything_is_switched_on(name: str) -> None:
    assert Augmentation(**{name: 1}).active
    assert not Augmentation().active


def test_training_batches_without_augmentation_draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw costs more than the batch of a small dataset."""
    draws: list[int] = []
    monkeypatch.setattr(Augmentation, "draw", lambda self, count, size, generator: draws.append(count) or {})
    for flip in (False, True):
        data = DigitsDataModule(flip=flip)
        data.trainer = quiet_trainer()
        data.trainer.training = True
        data.setup("fit")
        x, _ = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
        assert (x.shape, x.dtype) == ((64, 1, 8, 8), torch.float32)
    assert draws == [64]
