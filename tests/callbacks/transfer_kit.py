"""What the tests of freezing and averaging share: a small task, its data, and fits of it."""

from pathlib import Path
from typing import Any, Literal

import torch
from fits import SaveEverywhere, make_trainer
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn

from callbacks import RandomState
from datamodules import ImageDataModule
from zoo import ClassificationTask


class Patterns(ImageDataModule):
    """69 training images of 6 x 6: five batches of 12, and some to validate."""

    class_names = list("abc")
    native_shape = (1, 6, 6)

    def read(self, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(3)
        images = torch.randint(0, 120, (69, 1, 6, 6), generator=g, dtype=torch.uint8)
        images[torch.arange(69), 0, torch.arange(69) % 3 * 2, 2] = 255
        return images, torch.arange(69) % 3


BATCHES = 5


def data(batch_size: int = 12, **kwargs: Any) -> Patterns:
    return Patterns(batch_size=batch_size, **kwargs)


class Net(nn.Sequential):
    """Three groups below the head: convolutions with a norm and dropout."""

    def __init__(self, norm: bool = True, dropout: float = 0.2) -> None:
        def layer(channels: int, width: int) -> list[nn.Module]:
            middle = [nn.BatchNorm2d(width)] if norm else []
            return [nn.Conv2d(channels, width, 3, padding=1), *middle, nn.ReLU(), nn.Dropout(dropout)]

        super().__init__(*layer(1, 4), *layer(4, 4), *layer(4, 4), nn.Flatten(), nn.Linear(144, 3))


class Task(ClassificationTask):
    """The task of the tests; ``rates`` are those that every step used."""

    def __init__(self, norm: bool = True, dropout: float = 0.2, num_classes: int = 3, **task: Any) -> None:
        super().__init__(
            Net(norm, dropout), num_classes, **{"lr": 0.01, "weight_decay": 0.1, "monitor": "val/loss", **task}
        )
        self.rates: list[dict[str, float]] = []
        self.weights: list[dict[str, Tensor]] = []

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None) -> None:
        self.rates.append({group.get("name", "added later"): float(group["lr"]) for group in optimizer.param_groups})
        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        self.weights.append({name: value.clone() for name, value in self.state_dict().items()})


def fit(
    *callbacks: Callback,
    task: Task | None = None,
    epochs: int = 4,
    ckpt: Path | None = None,
    seed: int = 5,
    **options: Any,
) -> tuple[Task, Trainer]:
    seed_everything(seed, verbose=False)
    task = task or Task()
    trainer = make_trainer(RandomState(), *callbacks, max_epochs=epochs, **{"limit_val_batches": 1.0, **options})
    trainer.fit(task, datamodule=data(shift=1), ckpt_path=ckpt, weights_only=True)
    return task, trainer


def same(one: LightningModule, two: LightningModule) -> bool:
    return all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


__all__ = ["BATCHES", "Net", "Patterns", "SaveEverywhere", "Task", "data", "fit", "same"]
