"""The image base: splits, statistics, batches, errors."""

import gc
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from kit import assert_resumes, quiet_trainer, record_batches, same_batches
from lightning.pytorch import seed_everything
from torch import Tensor

from datamodules import DigitsDataModule, ImageDataModule


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


class Shapes(ImageDataModule):
    """200 training and 20 test images of 12 x 10 pixels; example i of class i % 4."""

    class_names = ["circle", "square", "star", "cross"]
    native_shape = (3, 12, 10)

    def read(self, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        count = 200 if part == "train" else 20
        g = torch.Generator().manual_seed(count)
        return torch.randint(0, 256, (count, 3, 12, 10), generator=g, dtype=torch.uint8), torch.arange(count) % 4


def test_what_can_be_asked_before_fit() -> None:
    data = Shapes()
    assert (data.num_classes, data.input_shape, data.mean) == (4, (3, 12, 10), None)
    assert Shapes(size=16).input_shape == (3, 16, 16)


def test_validation_is_a_stratified_part_of_the_training_part_only() -> None:
    data = Shapes(val_fraction=0.2)
    data.setup("fit")
    train, val = data._parts["train"], data._parts["val"]
    assert (len(train), len(val)) == (160, 40)
    assert val.y.bincount().tolist() == [10] * 4
    assert data.class_counts == [40] * 4
    both = torch.cat([train.x, val.x]).flatten(1)
    assert torch.equal(both.unique(dim=0), data.read("train")[0].flatten(1).unique(dim=0))
    assert "test" not in data._parts


def test_the_split_depends_on_its_own_seed_only() -> None:
    def held_out(split_seed: int, run_seed: int) -> Tensor:
        seed_everything(run_seed, verbose=False)
        data = Shapes(split_seed=split_seed)
        data.setup("fit")
        return data._parts["val"].x

    assert torch.equal(held_out(0, 1), held_out(0, 2))
    assert not torch.equal(held_out(0, 1), held_out(1, 1))


def test_mean_and_std_are_those_of_the_training_split() -> None:
    data = Shapes(val_fraction=0.3)
    data.setup("fit")
    x = data._parts["train"].x.double() / 255
    assert data.mean is not None
    assert data.std is not None
    torch.testing.assert_close(data.mean, x.mean((0, 2, 3)).float())
    torch.testing.assert_close(data.std, x.std((0, 2, 3), correction=0).float())


def test_a_constant_channel_has_std_one() -> None:
    class Dark(Shapes):
        def read(self, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
            images, labels = super().read(part)
            images[:, 1] = 0
            return images, labels

    data = Dark()
    data.setup("fit")
    assert data.std is not None
    assert data.std[1] == 1


def test_resizing_is_bilinear_and_done_once() -> None:
    from torchvision.transforms.v2.functional import resize

    data = Shapes(size=7, val_fraction=0.0)
    data.setup("fit")
    wanted = resize(data.read("train")[0], [7, 7], antialias=True)
    assert (data._parts["train"].x.int() - wanted.int()).abs().max() <= 1  # torchvision rounds in fixed point


def test_binarizing_is_done_once_to_every_split_after_resizing() -> None:
    plain, data = Shapes(size=7), Shapes(size=7, binarize=0.5)
    for each in (plain, data):
        each.setup("fit")
        each.setup("test")
    for part in ("train", "val", "test"):
        wanted = (plain._parts[part].x > 128) * 255  # half of 255, rounded as gray levels are
        assert torch.equal(data._parts[part].x.int(), wanted.int())
    assert data.mean is not None
    assert torch.allclose(data.mean, data._parts["train"].x.float().mean(dim=(0, 2, 3)) / 255)


def test_half_of_the_gray_levels_of_the_digits_are_dark() -> None:
    """A pixel of 8 of 16 is 0, one of 9 is 1."""
    plain, data = DigitsDataModule(), DigitsDataModule(binarize=0.5)
    for each in (plain, data):
        each.setup("test")
    levels = (plain._parts["test"].x.float() * 16 / 255).round()
    assert torch.equal(data._parts["test"].x == 255, levels > 8)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_floats_in_0_1_and_evaluation_is_never_augmented(workers: int) -> None:
    data = Shapes(batch_size=32, val_fraction=0.2, num_workers=workers, crop=2, flip=True, cutout=4, mixup=1.0)
    net = record_batches(data)
    quiet_trainer().test(net, datamodule=data, verbose=False)
    for part, count in (("val", 40), ("test", 20)):
        x, y = (torch.cat([batch[i] for batch in net.seen[part]]) for i in (0, 1))
        assert torch.equal(x, data._parts[part].x / 255)
        assert torch.equal(y, data._parts[part].y)
        assert len(y) == count
    assert len(net.seen["train"]) == 5
    raw = {image.numpy().tobytes() for image in data._parts["train"].x / 255}
    x = torch.cat([batch[0] for batch in net.seen["train"]])
    assert x.dtype == torch.float32
    assert 0 <= x.min() < 0.01 < 0.99 < x.max() <= 1
    assert sum(image.numpy().tobytes() in raw for image in x) < 8


def test_workers_do_not_change_a_bit() -> None:
    args = {"batch_size": 32, "shift": 2, "flip": True, "mixup": 0.4, "cutmix": 1.0}
    none, two = (record_batches(Shapes(num_workers=n, **args), max_epochs=2).seen["train"] for n in (0, 2))
    assert same_batches(none, two)


@pytest.mark.parametrize("args", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0, "crop": 2}])
def test_training_with_everything_on_starts_again_in_mid_epoch(tmp_path: Path, args: dict[str, Any]) -> None:
    seen = assert_resumes(tmp_path, lambda: Shapes(batch_size=20, **args), step=13)
    assert len(seen) == 18
    for _, y in seen:
        assert (y.shape, y.dtype) == ((20, 4), torch.float32)
        torch.testing.assert_close(y.sum(1), torch.ones(20))
    assert len({tuple(y.unique().tolist()) for _, y in seen}) > 12  # other shares in each batch


def pairs_of(data: Shapes) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Images and labels of each batch, with and without what ``data`` mixes."""
    mixed, plain = record_batches(data).seen["train"], record_batches(Shapes(batch_size=20)).seen["train"]
    return [(x, y, clean, labels) for (x, y), (clean, labels) in zip(mixed, plain, strict=True)]


def test_mixup_blends_images_and_labels_alike() -> None:
    shares = []
    for x, y, clean, labels in pairs_of(Shapes(batch_size=20, mixup=1.0)):
        step = (clean.roll(1, 0) - clean).flatten()
        share = 1 - ((x - clean).flatten() @ step / (step @ step)).item()
        torch.testing.assert_close(x, share * clean + (1 - share) * clean.roll(1, 0))
        hot = torch.eye(4)[labels]
        torch.testing.assert_close(y, share * hot + (1 - share) * hot.roll(1, 0), atol=1e-5, rtol=0)
        shares.append(share)
    assert max(shares) - min(shares) > 0.2


def test_cutmix_pastes_a_box_and_counts_its_pixels() -> None:
    for x, y, clean, labels in pairs_of(Shapes(batch_size=20, cutmix=1.0)):
        kept, pasted = ((x == source).all(1) for source in (clean, clean.roll(1, 0)))  # (B, H, W)
        assert (kept | pasted).all()
        share = kept[0].float().mean()
        hot = torch.eye(4)[labels]
        torch.testing.assert_close(y, share * hot + (1 - share) * hot.roll(1, 0))


def test_with_both_a_coin_chooses_mixup_or_cutmix() -> None:
    pasted = [
        bool(((x == clean) | (x == clean.roll(1, 0))).all())
        for x, _, clean, _ in pairs_of(Shapes(batch_size=20, mixup=1.0, cutmix=1.0))
    ]
    assert 0 < sum(pasted) < len(pasted)


def test_every_epoch_and_every_seed_has_its_own_order_and_augmentation() -> None:
    class Same(Shapes):
        """The order alone cannot be told from these images, so what differs is the augmentation."""

        def read(self, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
            images, labels = super().read(part)
            return images[:1].expand_as(images), labels

    def batches(seed: int) -> list[bytes]:
        seen = record_batches(Same(batch_size=60, crop=3), seed=seed, max_epochs=2).seen["train"]
        return [x.numpy().tobytes() for x, _ in seen]

    assert len({*batches(0), *batches(1)}) == 12
    assert batches(0) == batches(0)


def test_the_run_seed_follows_torch_without_seed_everything() -> None:
    def order(seed: int) -> list[int]:
        torch.manual_seed(seed)
        data = Shapes(batch_size=60)
        data.setup("fit")
        return torch.cat([y for _, y in data.train_dataloader()]).tolist()

    assert "PL_GLOBAL_SEED" not in os.environ
    assert order(1) == order(1)
    assert order(1) != order(2)


def test_neither_a_loader_nor_the_augmentation_touches_the_global_generators() -> None:
    """So that what a net draws does not depend on the data, nor on how often a loader was started."""
    with_them = record_batches(Shapes(flip=True, mixup=0.4, cutmix=1.0))
    after = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    seed_everything(0, verbose=False)
    assert len(with_them.seen["train"]) == 2
    assert torch.equal(after[0], torch.get_rng_state())
    assert after[1] == np.random.get_state()[1].tolist()  # noqa: NPY002


def test_double_precision_gets_doubles() -> None:
    assert record_batches(Shapes(), precision="64-true").seen["train"][0][0].dtype == torch.float64


def test_no_validation_is_no_noise() -> None:
    net = record_batches(Shapes(val_fraction=0.0))
    assert (len(net.seen["train"]), len(net.seen["val"])) == (3, 0)


@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_overfit_batches_sees_the_same_batch_again() -> None:
    net = record_batches(Shapes(batch_size=16), overfit_batches=1, max_epochs=2)
    assert torch.equal(net.seen["train"][0][1], net.seen["train"][1][1])


def test_a_second_fit_of_the_same_datamodule_begins_anew() -> None:
    data = Shapes(batch_size=32, flip=True)
    first, second = record_batches(data).seen["train"], record_batches(data).seen["train"]
    assert same_batches(first, second)
    assert not torch.equal(first[0][0], record_batches(data, seed=1).seen["train"][0][0])


def test_workers_outlive_signals_to_the_whole_process_group() -> None:
    data = Shapes(batch_size=8, num_workers=2)
    data.setup("fit")
    loader = iter(data.train_dataloader())
    for worker in loader._workers:  # type: ignore[attr-defined]
        for signum in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker.pid, signum)  # they have only just been started
    assert sum(len(y) for _, y in loader) == 176
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGINT, signal.SIGTERM}


def test_a_loader_left_in_the_middle_is_collected_in_peace(monkeypatch: pytest.MonkeyPatch) -> None:
    data, wrong = Shapes(batch_size=8, num_workers=2), []
    data.setup("fit")
    iterator: Any = iter(data.train_dataloader())
    workers = iterator._workers
    iterator.itself = iterator  # as a traceback holds it: the collector takes another path than a count of zero
    monkeypatch.setattr(sys, "unraisablehook", wrong.append)
    del iterator
    gc.collect()
    assert not wrong
    for worker in workers:
        worker.join(60)  # a loaded machine takes its time
    assert not any(worker.is_alive() for worker in workers)


left_open: list[Any] = []


def _leave_a_loader_open() -> None:
    data = Shapes(batch_size=8, num_workers=2)
    data.setup("fit")
    left_open.append(iter(data.train_dataloader()))
    os.kill(left_open[0]._workers[0].pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_process_with_workers_ends() -> None:
    process = multiprocessing.get_context("fork").Process(target=_leave_a_loader_open)
    process.start()
    process.join(timeout=60)
    if process.exitcode is None:  # it waits for the worker that is left
        process.kill()
    assert process.exitcode == 0


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"size": 0}, ValueError, "size must be an integer >= 1, got 0"),
        ({"size": "8"}, TypeError, "size must be an integer >= 1, got '8'"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer >= 1, got 0"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an integer"),
        ({"num_workers": -1}, ValueError, "num_workers must be an integer >= 0, got -1"),
        ({"num_workers": True}, TypeError, "num_workers must be an integer"),
        ({"val_fraction": 1.0}, ValueError, r"share of the training part in \[0, 1\), got 1.0"),
        ({"val_fraction": -0.1}, ValueError, r"share of the training part in \[0, 1\), got -0.1"),
        ({"split_seed": -1}, ValueError, "split_seed must be an integer in 0..4294967295, got -1"),
        ({"shift": 10}, ValueError, "shift must be an integer in 0..9, got 10"),
        ({"crop": -1}, ValueError, "crop must be an integer in 0..9, got -1"),
        ({"cutout": 9, "size": 8}, ValueError, "cutout must be an integer in 0..8, got 9"),
        ({"mixup": -1.0}, ValueError, r"mixup must be alpha >= 0 of a Beta distribution .* got -1.0"),
        ({"cutmix": float("nan")}, ValueError, "cutmix must be alpha >= 0 .* got nan"),
        (
            {"binarize": 1.0},
            ValueError,
            r"binarize must be a share of the maximum in \(0, 1\), or None \(off\), got 1.0",
        ),
        ({"shift": 1, "crop": 1}, ValueError, "give one of them"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Shapes(**kwargs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y + 1), r"labels must lie in 0..3 .* has 4 at example 3"),
        (lambda x, y: (x, y - 1), r"labels must lie in 0..3 .* has -1 at example 0"),
        (lambda x, y: (x.float(), y), r"must be uint8 of shape \(N, 3, H, W\), got torch.float32"),
        (lambda x, y: (x[:, :1], y), r"must be uint8 of shape \(N, 3, H, W\), got torch.uint8 \(200, 1, 12, 10\)"),
        (lambda x, y: (x, y[:-1]), r"one int64 label for each image, got torch.int64 \(199,\) for 200 images"),
        (lambda x, y: (x, y.int()), r"one int64 label for each image, got torch.int32"),
        (lambda x, y: (x[:0], y[:0]), r"one int64 label for each image, got .* for 0 images"),
        (lambda x, y: (x[:5], y[:5]), r"val_fraction=0.1 of 5 examples cannot hold every class in both parts"),
    ],
)
def test_bad_data(monkeypatch: pytest.MonkeyPatch, change: Any, message: str) -> None:
    read = Shapes.read
    monkeypatch.setattr(Shapes, "read", lambda self, part: change(*read(self, part)))
    with pytest.raises(ValueError, match=message):
        Shapes().setup("fit")


def test_a_subclass_that_reads_nothing_is_told_so() -> None:
    class Empty(ImageDataModule):
        class_names = list("ab")
        native_shape = (1, 2, 2)

    with pytest.raises(TypeError, match=r"Empty must define read\(part\), which returns its images"):
        Empty().setup("fit")
