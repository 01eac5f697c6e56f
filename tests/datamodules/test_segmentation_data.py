"""Images with masks: both move together, masks keep their values, and a run continues exactly."""

import copy
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from kit import assert_resumes, quiet_trainer, record_batches, same_batches
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from datamodules import SegmentationDataModule, ShapesDataModule, TrainSampler, segmentation
from datamodules.samplers import TrainingEpoch, seed_all
from datamodules.segmentation import Pairs, nearest

MOVES = [
    {"flip": True},
    {"resized_crop": 0.3},
    {"color_jitter": 0.5},
    {"flip": True, "resized_crop": 0.2, "color_jitter": 0.3},
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


class Marked(SegmentationDataModule):
    """Black images with one white pixel, at the place where the mask has class 1; the rest is class 0, with a frame of 255."""

    class_names = ["ground", "mark"]

    def __init__(self, count: int = 40, own: tuple[int, int] = (24, 32), **kwargs: Any) -> None:
        super().__init__(**{"size": [24, 32], "batch_size": 10, **kwargs})
        self.count, self.own = count, own

    def examples(self, part: Literal["train", "test"]) -> Pairs:
        g = torch.Generator().manual_seed(1)
        height, width = self.own
        x = torch.zeros(self.count, 3, height, width, dtype=torch.uint8)
        y = torch.zeros(self.count, height, width, dtype=torch.uint8)
        rows = torch.randint(2, height - 2, (self.count,), generator=g)
        columns = torch.randint(2, width - 2, (self.count,), generator=g)
        every = torch.arange(self.count)
        x[every, :, rows, columns] = 255
        y[every, rows, columns] = 1
        y[:, 0], y[:, -1] = 255, 255
        return Pairs(x, y)


def middle(weight: Tensor) -> Tensor:
    """Row and column of the center of mass."""
    return (
        torch.stack(
            [weight.sum(1) @ torch.arange(len(weight)).float(), weight.sum(0) @ torch.arange(weight.shape[1]).float()]
        )
        / weight.sum()
    )


@pytest.mark.parametrize("moves", MOVES)
@pytest.mark.parametrize("size", [[24, 32], [48, 40]])
def test_a_marked_pixel_stays_together(moves: dict[str, Any], size: list[int]) -> None:
    """Under every transform, and enlarging too: the white of the image lies where the mask says, to half a pixel."""
    data = Marked(size=size, **moves)
    seen = record_batches(data, max_epochs=2).seen["train"]
    x, y = (torch.cat([batch[i] for batch in seen]) for i in (0, 1))
    assert (y.dtype, y.shape[1:]) == (torch.int64, tuple(size))
    assert set(y.unique().tolist()) <= {0, 1, 255}  # never between two classes
    kept = [i for i in range(len(y)) if (y[i, 1:-1, 1:-1] == 1).any() and not (y[i] == 1)[[0, -1]].any()]
    kept = [i for i in kept if not (y[i] == 1)[:, [0, -1]].any()]  # whole, not cut by the border
    assert len(kept) > 20
    places = set()
    for i in kept:
        white = x[i].mean(0)
        ground = white[y[i] != 1]
        white = (white - ground.median()).clamp(min=0)
        found, wanted = middle(white), middle((y[i] == 1).float())
        assert (found - wanted).abs().max() < 0.5, (found, wanted)
        assert white.flatten()[(y[i] == 1).flatten()].max() == white.max()
        places.add(tuple(wanted.tolist()))
    assert len(places) > 10


def test_what_moves_is_what_was_asked_for() -> None:
    """A mirrored image is mirrored, one with changed colors stays where it is."""
    part = Marked().examples("train")
    whole = {
        (tuple(x.flatten().tolist()), tuple(y.flatten().tolist())) for x, y in zip(part.x, part.y.int(), strict=True)
    }

    def train(**kwargs: Any) -> list[tuple[Tensor, Tensor]]:
        data = Marked(val_fraction=0.0, **kwargs)
        data.setup("fit")
        return [(x, y) for batch in data.train_dataloader() for x, y in zip(*batch, strict=True)]

    def known(x: Tensor, y: Tensor) -> bool:
        return (tuple(x.flatten().tolist()), tuple(y.flatten().int().tolist())) in whole

    assert all(known(x, y) for x, y in train())
    flipped = train(flip=True)
    assert all(known(x, y) or known(x.flip(-1), y.flip(-1)) for x, y in flipped)
    assert 10 < sum(known(x, y) for x, y in flipped) < 30
    jittered = train(color_jitter=1.0)
    assert all(any(torch.equal(y, mask) for mask in part.y) for _, y in jittered)
    assert sum(known(x, y) for x, y in jittered) < 10


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("moves", MOVES[-1:])
def test_training_continues_exactly_whatever_the_workers(tmp_path: Path, workers: int, moves: dict[str, Any]) -> None:
    def make(workers: int = workers, batch_size: int = 4) -> ShapesDataModule:
        return ShapesDataModule(20, 16, val_fraction=0.4, num_workers=workers, batch_size=batch_size, **moves)

    seen = assert_resumes(tmp_path, make, step=4)
    assert same_batches(seen, record_batches(make(0), max_epochs=2).seen["train"])
    one, whole = (
        torch.cat([x for x, _ in batches])
        for batches in (seen, record_batches(make(0, 12), max_epochs=2).seen["train"])
    )
    assert torch.equal(one, whole)  # whatever the batch
    assert len(one.flatten(1).unique(dim=0)) == 24  # each epoch draws anew


def test_two_processes_see_what_one_with_their_global_batch_does() -> None:
    data = ShapesDataModule(20, 16, val_fraction=0.0, **MOVES[-1])
    data.setup("fit")

    def batches(size: int, ranks: int, rank: int) -> list[tuple[Tensor, ...]]:
        part = copy.copy(data._parts["train"])
        order = torch.tensor(list(TrainSampler(part, size, seed=3, epoch=1, num_replicas=ranks, rank=rank)))
        return [part.for_training(TrainingEpoch(3, 1)).__getitems__(some.tolist()) for some in order.split(size)]

    ranks = [batches(5, 2, rank) for rank in (0, 1)]
    together = [
        tuple(torch.stack(pair, 1).flatten(0, 1) for pair in zip(*step, strict=True))
        for step in zip(*ranks, strict=True)
    ]
    assert same_batches(together, batches(10, 1, 0))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_pair_once_and_whole(workers: int) -> None:
    data = ShapesDataModule(30, 16, val_fraction=0.5, num_workers=workers, batch_size=7, **MOVES[-1])
    net = record_batches(data)
    quiet_trainer().test(net, datamodule=data, verbose=False)
    for part in ("val", "test"):
        x, y = (torch.cat([batch[i] for batch in net.seen[part]]) for i in (0, 1))
        assert torch.equal(x, data._parts[part].x / 255)
        assert torch.equal(y, data._parts[part].y.long())
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


def test_rows_that_do_not_count_have_weight_zero() -> None:
    data = Marked()
    data.setup("fit")
    x, y, weight = data._parts["val"].__getitems__([0, -1])
    assert (x.shape, y.shape, weight.tolist()) == ((2, 3, 24, 32), (2, 24, 32), [1.0, 0.0])


def test_the_transforms_leave_the_global_generators_alone() -> None:
    data = Marked(**MOVES[-1])
    data.setup("fit")
    before = torch.get_rng_state()
    assert len(list(data.train_dataloader())) == 3
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("own", [(24, 32), (25, 61), (96, 128)])
@pytest.mark.parametrize("moves", [{}, *MOVES])
def test_each_image_is_what_its_own_seed_and_transforms_make_of_it(own: tuple[int, int], moves: dict[str, Any]) -> None:
    """Whether a batch is transformed at once or one by one, it holds the bytes of single images, here by torchvision."""
    data = Marked(own=own, val_fraction=0.0, **moves)
    data.setup("fit")
    part = data._parts["train"]
    part.x = torch.randint(256, part.x.shape, dtype=torch.uint8)
    part.y = torch.randint(3, part.y.shape, dtype=torch.uint8)
    index = torch.tensor([7, 0, 31, 7])
    jitter = v2.ColorJitter(*[data.color_jitter] * 3)
    for training in (False, True):
        pairs = []
        for i in index.tolist():
            x, y = tv_tensors.Image(part.x[i]), tv_tensors.Mask(part.y[i])
            if training:
                seed_all(3, 2, i, 4)
            if training and data.resized_crop:
                box = v2.RandomResizedCrop([24, 32], (data.resized_crop, 1.0)).make_params([x])
                x, y = v2.functional.crop(x, **box), v2.functional.crop(y, **box)
            x, y = v2.functional.resize(x, [24, 32], antialias=True), nearest(y.as_subclass(Tensor), (24, 32))
            if training and data.flip:
                x, y = v2.RandomHorizontalFlip()(x, tv_tensors.Mask(y))
            pairs.append((jitter(x) if training and data.color_jitter else x, y))
        used = part.for_training(TrainingEpoch(3, 2)) if training else part
        assert same_batches([used.batch(index)], [tuple(torch.stack(some) for some in zip(*pairs, strict=True))])


def test_where_nothing_is_drawn_nothing_is_seeded_and_a_batch_is_one_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    for name, module in (("seed", Pairs), ("pair", Pairs), ("isolate_rng", segmentation)):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, f=original, n=name, **k: (seen.append(n), f(*a, **k))[1])
    for data in (Marked(batch_size=6), Marked(batch_size=6, own=(50, 30), flip=True)):
        data.setup()
        train, val, test = (list(getattr(data, f"{part}_dataloader")()) for part in ("train", "val", "test"))
        assert (len(train), len(val), len(test)) == (6, 1, 7)
        assert seen == ([] if not data.flip else ["isolate_rng", *["seed", "pair"] * 6] * 6)


@pytest.mark.parametrize("own", [(96, 128), (24, 32), (25, 61)])
def test_statistics_are_those_of_the_images_as_the_net_sees_them(own: tuple[int, int]) -> None:
    data = Marked(own=own, val_fraction=0.5)
    data.setup("fit")
    x, y = data._parts["train"].batch(torch.arange(20))
    torch.testing.assert_close(data.mean, (x.double() / 255).mean((0, 2, 3)).float())
    assert data.class_counts == [int((y == k).sum()) for k in (0, 1)]
    assert data.class_counts[0] < 20 * 24 * 32  # ignored pixels are not counted
    assert data.input_shape == (3, 24, 32)


def test_masks_are_resized_to_the_nearest_pixel_without_a_shift() -> None:
    """torchvision's own way takes the top left corner of each block, half a pixel off the image."""
    blocks = torch.arange(9).view(3, 3)
    mask = blocks.repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert torch.equal(nearest(mask, (3, 3)), blocks)
    assert torch.equal(nearest(blocks, (12, 12)), mask)
    ramp = torch.arange(100).expand(100, 100)
    assert nearest(ramp, (10, 10))[0].tolist() == list(range(5, 100, 10))
    stock = v2.functional.resize(tv_tensors.Mask(ramp), [10, 10])
    assert stock[0].tolist() == list(range(0, 100, 10))


def test_pillow_images_and_tensors_are_resized_alike() -> None:
    data = Marked(size=[10, 14])
    pixels = torch.randint(0, 256, (3, 24, 32), dtype=torch.uint8)
    mask = torch.randint(0, 2, (24, 32), dtype=torch.uint8)

    class Photos(Pairs):
        def pair(self, index: int, crop: Any) -> Any:
            image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
            return image.resize((14, 10), Image.Resampling.BILINEAR), nearest(mask, self.size)

    photos, memory = (data.ready(kind(pixels[None], mask[None])) for kind in (Photos, Pairs))
    (x, y), (a, b) = photos.batch(torch.tensor([0])), memory.batch(torch.tensor([0]))
    assert (x.int() - a.int()).abs().max() <= 1
    assert torch.equal(y, b)
    assert type(x) is type(y) is type(a) is type(b) is Tensor


@pytest.mark.parametrize(
    ("size", "message"),
    [([8], "one number, or height and width"), (0, "size must be an integer >= 1"), ([4, 0], "size must")],
)
def test_a_size_that_is_none(size: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Marked(size=size)
