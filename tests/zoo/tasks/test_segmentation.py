"""Segmentation: losses and scores against numpy and torchmetrics, ignored pixels, batches and ranks, bad masks."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import quiet_trainer
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassJaccardIndex

from zoo.cnn import CIFARResNet
from zoo.segmentation import UNet, UNetEncoder
from zoo.tasks import SegmentationTask
from zoo.tasks.segmentation import scores

K, IGNORED = 4, 255


class Given(nn.Module):
    """Logits from outside: the first K channels of the image, times a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :K] * self.scale


def batch(count: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, K, 7, 5, generator=draw)
    y = torch.randint(K, (count, 7, 5), generator=draw)
    y[torch.rand(y.shape, generator=draw) < 0.3] = IGNORED
    return x, y


def oracle(x: Tensor, y: Tensor, weight: list[float], gamma: float) -> dict[str, float]:
    """The three losses by numpy, in float64, pixel by pixel."""
    logits = x.double().numpy().transpose(0, 2, 3, 1).reshape(-1, K)
    target = y.numpy().reshape(-1)
    logits, target = logits[target != IGNORED], target[target != IGNORED]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    pt = p[np.arange(len(target)), target]
    w = np.array(weight)[target]
    dice = []
    for k in np.unique(target):
        t = target == k
        dice.append(1 - 2 * p[t, k].sum() / (p[:, k].sum() + t.sum()))
    return {
        "cross_entropy": float((-np.log(pt) * w).mean()),
        "focal": float((-((1 - pt) ** gamma) * np.log(pt) * w).mean()),
        "dice": float(np.mean(dice)),
    }


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "dice", "focal", {"cross_entropy": 0.5, "dice": 2.0, "focal": 3.0}])
def test_losses_are_those_of_numpy(loss: Any, absent: bool) -> None:
    x, y = batch()
    if absent:
        y[y == 2] = 1
    weight = [0.5, 1.0, 2.0, 3.0]
    task = SegmentationTask(Given(), K, loss, class_weight=weight, focal_gamma=1.5)
    value, means, count = task.training_losses((x, y))
    wanted = oracle(x, y, weight, 1.5)
    terms = {loss: 1.0} if isinstance(loss, str) else loss
    assert value.item() == pytest.approx(sum(w * wanted[n] for n, w in terms.items()), rel=1e-5)
    assert int(count) == (y != IGNORED).sum()
    assert set(means) == {"loss", "acc"} | (set(terms) if len(terms) > 1 else set())
    for name in set(means) - {"loss", "acc"}:
        assert means[name].item() == pytest.approx(wanted[name], rel=1e-5)
    right = (x.argmax(1) == y).sum() / (y != IGNORED).sum()
    assert means["acc"].item() == pytest.approx(right.item())


@pytest.mark.parametrize("each_pixel", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "dice", "focal"])
def test_pixels_of_weight_zero_count_nowhere_in_training(loss: Any, each_pixel: bool) -> None:
    x, y = batch(4)
    weight = (torch.rand(y.shape) < 0.5).float() if each_pixel else torch.tensor([1.0, 0.0, 1.0, 0.0])
    task = SegmentationTask(Given(), K, loss)
    got, means, count = task.training_losses((x, y, weight))
    left_out = y.masked_fill(weight.view(4, *weight.shape[1:] or (1, 1)) == 0, IGNORED)
    assert got.item() == pytest.approx(oracle(x, left_out, [1.0] * K, 2.0)[loss], rel=1e-5)
    assert int(count) == (left_out != IGNORED).sum()
    assert means["acc"].item() == pytest.approx(((x.argmax(1) == left_out).sum() / count).item())


@pytest.mark.parametrize("loss", ["cross_entropy", "dice", "focal"])
def test_ignored_pixels_have_no_say(loss: str) -> None:
    x, y = batch()
    task = SegmentationTask(Given(), K, loss, focal_gamma=0.5)
    x.requires_grad_()
    value = task.training_losses((x, y))[0]
    value.backward()
    assert x.grad is not None
    assert not x.grad[(y == IGNORED).unsqueeze(1).expand_as(x)].any()
    assert x.grad[(y != IGNORED).unsqueeze(1).expand_as(x)].all()
    # perfect and hopeless pixels: no root's slope, no logarithm of zero
    sure = 200 * torch.nn.functional.one_hot(y.where(y != IGNORED, 0), K).movedim(-1, 1).float()
    for sign in (1, -1):
        task.net.scale.grad = None
        value = task.training_losses((sign * sure, y))[0]
        value.backward()
        assert value.isfinite()
        assert task.net.scale.grad.isfinite()


@pytest.mark.parametrize("loss", ["cross_entropy", "dice", "focal", {"cross_entropy": 1.0, "dice": 1.0}])
def test_a_batch_of_ignored_pixels_teaches_nothing(loss: Any) -> None:
    task = SegmentationTask(UNet(UNetEncoder(3, 2, 1), K), K, loss)
    value, means, count = task.training_losses((torch.rand(2, 3, 8, 8), torch.full((2, 8, 8), IGNORED)))
    value.backward()
    assert value.item() == int(count) == means["acc"].item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in task.parameters())


def evaluated(task: SegmentationTask, batches: list[Any]) -> dict[str, float]:
    trainer = quiet_trainer()
    return dict(trainer.test(task, DataLoader(batches, batch_size=None), verbose=False)[0])  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:The 'test_dataloader' does not have many workers")
def test_evaluation_is_exact_however_the_batches_are_cut() -> None:
    x, y = batch(7)
    y[0] = IGNORED
    y[y == 3] = 0
    task = SegmentationTask(Given(), K, {"cross_entropy": 1.0, "dice": 1.0})
    task.class_names = ["road", "sky", "cat", "tree"]
    found = evaluated(task, [(x, y)])
    wanted = oracle(x, y, [1.0] * K, 2.0)
    assert found["test/loss"] == pytest.approx(wanted["cross_entropy"] + wanted["dice"], rel=1e-5)
    assert found["test/dice"] == pytest.approx(wanted["dice"], rel=1e-5)
    p = x.argmax(1)
    each = MulticlassJaccardIndex(K, average="none", ignore_index=IGNORED)(p, y)
    assert [found[f"test/iou/{n}"] for n in task.class_names] == pytest.approx(each.tolist())
    assert found["test/miou"] == pytest.approx(each.mean().item())
    assert found["test/acc"] == pytest.approx(((p == y).sum() / (y != IGNORED).sum()).item())
    filled = torch.cat([x, torch.randn(2, K, 7, 5)]), torch.cat([y, torch.zeros(2, 7, 5).long()])
    weight = torch.tensor([1.0] * 7 + [0.0] * 2)
    cut = [tuple(part[a:b] for part in (*filled, weight)) for a, b in ((0, 1), (1, 5), (5, 9))]
    assert evaluated(task, cut) == pytest.approx(found, rel=1e-6)


def test_scores_count_the_classes_that_occur() -> None:
    """By hand: 3 of class 0 right, one taken for 1; class 2 only predicted (IoU 0), class 3 nowhere."""
    confusion = torch.tensor([[3, 1, 1, 0], [0, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    found = scores(confusion, ["a", "b", "c", "d"])
    assert found["iou/a"] == 3 / 5
    assert found["iou/b"] == 4 / 5
    assert found["iou/c"] == 0
    assert found["iou/d"].isnan()
    assert found["miou"].item() == pytest.approx((3 / 5 + 4 / 5 + 0) / 3)
    assert found["acc"].item() == pytest.approx(7 / 9)
    assert scores(torch.zeros(2, 2, dtype=torch.long), ["a", "b"])["miou"].isnan()


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*have no `val_dataloader`")
def test_training_logs_the_mean_over_valid_pixels() -> None:
    """Batches of different numbers of valid pixels, one of none; a rate so small that nothing moves."""
    x, y = batch(6)
    y[4:] = IGNORED
    task = SegmentationTask(Given(), K, optimizer="SGD", lr=1e-12)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(task, DataLoader([(x[:1], y[:1]), (x[1:4], y[1:4]), (x[4:], y[4:])], batch_size=None))  # type: ignore[arg-type]
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(
        oracle(x, y, [1.0] * K, 2)["cross_entropy"], rel=1e-5
    )
    only = quiet_trainer(max_epochs=1, log_every_n_steps=1)
    only.fit(task, DataLoader([(x[4:], y[4:])], batch_size=None))  # type: ignore[arg-type]
    assert "train/loss" not in only.callback_metrics


def ranks(folder: Path, count: int) -> dict[str, float]:
    torch.manual_seed(0)
    x, y = batch(5)
    y[3] = IGNORED
    task = SegmentationTask(nn.Conv2d(K, K, 1), K, {"cross_entropy": 1.0, "dice": 1.0}, optimizer="SGD", lr=1e-12)
    path = folder / f"{count}.json"

    def loader() -> DataLoader:  # ranks of 3 and of 2 images, of other numbers of valid pixels
        own = slice(None) if count == 1 else (slice(0, 3), slice(3, 5))[task.global_rank]
        return DataLoader(TensorDataset(x[own], y[own]), 5 if count == 1 else 3)

    def keep() -> None:
        if task.global_rank == 0:
            path.write_text(json.dumps({k: v.item() for k, v in task.trainer.callback_metrics.items()}))

    task.train_dataloader = task.val_dataloader = loader  # type: ignore[method-assign]
    task.on_train_end = keep  # type: ignore[method-assign]
    strategy = "ddp_fork" if count > 1 else "auto"
    quiet_trainer(
        max_epochs=1, devices=count, strategy=strategy, num_sanity_val_steps=0, use_distributed_sampler=False
    ).fit(task)
    return json.loads(path.read_text())


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:The number of training batches")
def test_two_ranks_tell_what_one_tells(tmp_path: Path) -> None:
    one, two = ranks(tmp_path, 1), ranks(tmp_path, 2)
    assert {"val/loss", "val/dice", "val/miou", "val/iou/0", "train/cross_entropy", "train/acc"} <= one.keys()
    for name in one.keys() - {"train/loss", "train/dice"} - {n for n in one if n.endswith("_step")}:
        assert two[name] == pytest.approx(one[name], rel=1e-5), name  # in training, Dice is that of a batch
    assert one["train/dice"] != two["train/dice"]


class Data(LightningDataModule):
    """Tells what datamodules tell."""

    def __init__(self, y: Tensor, num_classes: int = K, channels: int = 3) -> None:
        super().__init__()
        self.y, self.num_classes, self.input_shape = y, num_classes, (channels, *y.shape[1:])
        self.class_names = [f"class {k}" for k in range(num_classes)]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(torch.rand(len(self.y), *self.input_shape), self.y), 2)

    val_dataloader = train_dataloader


def small(**arguments: Any) -> SegmentationTask:
    return SegmentationTask(UNet(UNetEncoder(3, 2, 1), K), K, **arguments)


@pytest.mark.parametrize("when", ["train", "val"])
@pytest.mark.parametrize(
    ("y", "message"),
    [
        (
            torch.full((2, 8, 8), 4),
            r"classes 0..3 as whole numbers, or ignore_index=255, got torch.int64 with 4: set num_cl",
        ),
        (torch.full((2, 8, 8), -1), "with -1"),
        (torch.full((2, 8, 8), 0.5), "got torch.float32 with 0.5"),
        (torch.zeros(2, 8, 9).long(), r"masks must have shape \(2, 8, 8\).* got \(2, 8, 9\): resize"),
        (torch.zeros(2, 1, 8, 8).long(), r"got \(2, 1, 8, 8\)"),
    ],
)
def test_bad_masks(y: Tensor, message: str, when: str) -> None:
    task, x = small(), torch.rand(2, 3, 8, 8)
    task.trainer = quiet_trainer()

    def train() -> None:
        task.on_train_batch_start((x, y), 0)
        task.training_losses((x, y))

    def validate() -> None:
        task.update_metrics(task.build_metrics(), (x, y))

    with pytest.raises(ValueError, match=message):
        train() if when == "train" else validate()


@pytest.mark.parametrize(
    ("net", "data", "message"),
    [
        (
            UNet(UNetEncoder(3, 2, 1), K),
            Data(torch.zeros(2, 8, 8).long(), 7),
            "num_classes is 4, but Data has 7 classes",
        ),
        (
            UNet(UNetEncoder(3, 2, 1), 3),
            Data(torch.zeros(2, 8, 8).long()),
            r"\(3, 8, 8\) an example.* wants \(4, 8, 8\)",
        ),
        (nn.Conv2d(3, K, 3), Data(torch.zeros(2, 8, 8).long()), r"gives \(4, 6, 6\) an example"),
        (CIFARResNet(8, K, 3, 2), Data(torch.zeros(2, 8, 8).long()), r"gives \(4,\) an example"),
        (UNet(UNetEncoder(3, 2, 4), K), Data(torch.zeros(2, 8, 8).long()), "16x16 pixels or more, got 8x8"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_training(net: nn.Module, data: Data, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quiet_trainer(max_epochs=1).fit(SegmentationTask(net, K), datamodule=data)


def test_outputs_of_another_size_are_refused_without_a_datamodule() -> None:
    with pytest.raises(ValueError, match=r"Conv2d gives \(2, 4, 6, 6\) for images \(2, 3, 8, 8\)"):
        SegmentationTask(nn.Conv2d(3, K, 3), K).training_losses((torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8).long()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "an object and its background are two classes"),
        ({"loss": "jaccard"}, "loss must be one of cross_entropy, dice, focal"),
        ({"loss": {"dice": 0.0}}, "weights above 0"),
        ({"loss": {}}, "weights above 0"),
        ({"class_weight": [1.0]}, "class_weight wants 4 weights"),
        ({"focal_gamma": -1.0}, "focal_gamma must be 0 or more"),
        ({"monitor": "miou"}, "monitor names a logged metric"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentationTask(Given(), **{"num_classes": K, **arguments})


def test_expected_initial_loss_and_monitor() -> None:
    x, y = torch.zeros(2, K, 4, 4), torch.randint(K, (2, 4, 4))
    for loss in ("cross_entropy", "focal", {"cross_entropy": 1.0, "focal": 2.0}):
        task = SegmentationTask(Given(), K, loss)
        assert task.training_losses((x, y))[0].item() == pytest.approx(task.expected_initial_loss(), rel=1e-5)
    assert SegmentationTask(Given(), K).expected_initial_loss() == math.log(K)
    assert SegmentationTask(Given(), K, "dice").expected_initial_loss() is None
    modes = {
        name: SegmentationTask(Given(), K, monitor=name).monitor[1] for name in ("val/miou", "val/loss", "val/iou/cat")
    }
    assert modes == {"val/miou": "max", "val/loss": "min", "val/iou/cat": "max"}


def test_prediction_is_a_mask_and_its_probability() -> None:
    x, _ = batch()
    found = SegmentationTask(Given(), K).predict_step(x)
    p = x.softmax(1)
    assert found["mask"].dtype == torch.uint8
    assert torch.equal(found["mask"].long(), p.argmax(1))
    torch.testing.assert_close(found["probability"], p.amax(1))


def test_masks_of_any_whole_number_type_are_taken() -> None:
    x, y = batch()
    task = SegmentationTask(Given(), K)
    assert torch.equal(task.training_losses((x, y))[0], task.training_losses((x, y.byte()))[0])


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:The number of training batches")
def test_what_is_shown(tmp_path: Path) -> None:
    task = small()
    data = Data(torch.randint(K, (4, 8, 8)))
    quiet_trainer(max_epochs=1).fit(task, datamodule=data)
    assert task.class_names == data.class_names
    found = task.render((torch.rand(10, 3, 8, 8), torch.randint(K, (10, 8, 8))))
    assert set(found) == {"masks", "confusion", "overlays"}
    del found["overlays"]
    assert all(image.dtype == torch.uint8 and image.shape[0] == 3 for image in found.values())
    assert set(small().render((torch.rand(2, 3, 8, 8), torch.randint(K, (2, 8, 8))))) == {"masks", "overlays"}
