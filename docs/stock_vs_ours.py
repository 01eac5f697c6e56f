"""The table "stock against ours" of docs/transfer.md, measured: ``python docs/stock_vs_ours.py``, a minute on 2 CPU cores.

A row is a trap: both sides do the same small training, and what comes out is printed.
"""

import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import BackboneFinetuning, EMAWeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from callbacks import EMA, LayerFreezing, LRSchedule, RandomState
from datamodules import EvaluationSampler, ImageDataModule
from zoo import ClassificationTask, SegmentationTask, Task

EPOCHS, BATCHES = 4, 5
State = dict[str, Tensor]


class Patterns(ImageDataModule):
    """69 images of 6 x 6: five batches of 12, and some to validate."""

    class_names = list("abc")
    native_shape = (1, 6, 6)

    def read(self, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        """Noise with a bright pixel that tells the class."""
        images = torch.randint(0, 120, (69, 1, 6, 6), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
        images[torch.arange(69), 0, torch.arange(69) % 3 * 2, 2] = 255
        return images, torch.arange(69) % 3


class Net(nn.Sequential):
    """Two convolutions with norm and dropout, and a head."""

    def __init__(self, norm: bool = True) -> None:
        def layer(channels: int) -> list[nn.Module]:
            return [
                nn.Conv2d(channels, 4, 3, padding=1),
                *[nn.BatchNorm2d(4)] * norm,
                nn.ReLU(),
                nn.Dropout(0.2 * norm),
            ]

        super().__init__(nn.Sequential(*layer(1), *layer(4)), nn.Flatten(), nn.Linear(144, 3))

    def layer_groups(self) -> list[list[str]]:
        """The two layers and the head."""
        inner = [f"0.{name}" for name, _ in self[0].named_children()]
        return [inner[: len(inner) // 2], inner[len(inner) // 2 :], ["2"]]


class Ours(ClassificationTask):
    """A task of the zoo."""

    def __init__(self, norm: bool = True, **task: Any) -> None:
        super().__init__(Net(norm), 3, **{"optimizer": "SGD", "lr": 0.1, "monitor": "val/loss", **task})


class Stock(LightningModule):
    """The same as a plain LightningModule, as Lightning's documentation shows it."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.backbone, self.flatten, self.head = Net(norm)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(self.head(self.flatten(self.backbone(batch[0]))), batch[1])

    def configure_optimizers(self) -> Any:
        """The documented way: what is free at the start."""
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


def finetuning(**options: Any) -> BackboneFinetuning:
    """The stock callback: the backbone free from the second epoch on."""
    return BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.1, verbose=False, **options)


class Keep(Callback):
    """Weights after each epoch (a file a rank), checkpoints after each epoch or step."""

    def __init__(self, folder: Path, checkpoints: Literal["epoch", "step", ""] = "") -> None:
        self.folder, self.checkpoints = folder, checkpoints

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """A checkpoint."""
        if self.checkpoints == "step":
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Weights, and a checkpoint."""
        torch.save(pl_module.state_dict(), self.folder / f"{trainer.current_epoch}-{trainer.global_rank}.pt")
        if self.checkpoints == "epoch":
            trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


def fit(
    module: LightningModule, *callbacks: Callback, devices: int = 1, ckpt: Path | None = None, **options: Any
) -> None:
    """Train for four epochs; always the same data."""
    strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=60)) if devices > 1 else "auto"
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        callbacks=list(callbacks),
        **{"max_epochs": EPOCHS, "logger": False, "enable_checkpointing": False, "limit_val_batches": 0, **options},
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=Patterns(batch_size=12 // devices, shift=1), ckpt_path=ckpt, weights_only=True)


def build(cls: Callable[..., Any], *args: Any) -> Any:
    """A module with always the same fresh weights."""
    seed_everything(5, verbose=False)
    return cls(*args)


def worst(one: State, two: State) -> float:
    """The largest difference of any weight."""
    return max(float((value.float() - two[name].float()).abs().max()) for name, value in one.items())


def last(folder: Path, rank: int = 0) -> State:
    """The weights at the end."""
    return torch.load(folder / f"{EPOCHS - 1}-{rank}.pt", weights_only=True)


# The rows ---------------------------------------------------------------------------------------------------------------


def processes(folder: Path) -> tuple[str, str]:
    """Two processes unfreeze after an epoch: largest difference between their weights at the end"""
    found = []
    for name, module, callback in (
        ("stock", build(Stock, False), finetuning()),
        ("ours", build(Ours, False), LayerFreezing("head", milestones={1: "all"})),
    ):
        (folder / name).mkdir()
        fit(module, callback, Keep(folder / name), devices=2)
        found.append(f"{worst(last(folder / name, 0), last(folder / name, 1)):.2g}")
    return found[0], found[1]


def resuming(folder: Path) -> tuple[str, str]:
    """Resumed after the unfreezing: difference of the lower layers from the run that was never stopped"""
    found = []
    for name, cls, callback in (
        ("stock", Stock, finetuning),
        ("ours", Ours, lambda: LayerFreezing("head", milestones={1: "all"})),
    ):
        for part in ("whole", "resumed"):
            (folder / name / part).mkdir(parents=True)
        fit(build(cls, False), RandomState(), callback(), Keep(folder / name / "whole", "epoch"))
        ckpt = folder / name / "whole" / "1.ckpt"
        fit(build(cls, False), RandomState(), callback(), Keep(folder / name / "resumed"), ckpt=ckpt)
        lower = [
            {k: v for k, v in last(folder / name / p).items() if ".0." in k or k.startswith("backbone")}
            for p in ("whole", "resumed")
        ]
        found.append(f"{worst(*lower):.2g}")
    return found[0], found[1]


def statistics(folder: Path) -> tuple[str, str]:
    """The frozen norm's running mean moves, with train_bn=False, by"""
    stock, ours = build(Stock), build(Ours)
    before = [m.backbone[1].running_mean.clone() for m in (stock,)] + [ours.net[0][1].running_mean.clone()]
    frozen = BackboneFinetuning(unfreeze_backbone_at_epoch=99, train_bn=False, verbose=False)
    fit(stock, frozen)
    fit(ours, LayerFreezing("head"))
    after = stock.backbone[1].running_mean, ours.net[0][1].running_mean
    x = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    found = []
    for low, old, new in ((stock.backbone, before[0], after[0]), (ours.net[0], before[1], after[1])):
        moved = "none is kept" if new is None else f"{float((new - old).abs().max()):.2g}"
        norm = low[1]
        with torch.no_grad():
            inner = low[0](x)
            differs = float((norm.train(norm.training)(inner) - norm.eval()(inner)).abs().max())
        found.append(f"{moved}; its output in training is off by {differs:.2g}")
    return found[0], found[1]


def undone(folder: Path) -> tuple[str, str]:
    """freeze(), then train() as after each validation: modules of the lower layers in training mode"""
    stock, ours = build(Stock), build(Ours)
    stock.freeze()
    ours.freeze(-1)
    return tuple(  # type: ignore[return-value]
        f"{sum(part.training for part in low.children())} of {len(list(low.children()))}"
        for low in (stock.train().backbone, ours.train().net[0])
    )


def schedules(folder: Path) -> tuple[str, str]:
    """Unfreezing under each of torch's schedules, ours under each of LRSchedule's: how many fail"""
    from torch.optim import lr_scheduler as torchs

    made: dict[str, Callable[[Any], Any]] = {
        "OneCycleLR": lambda o: torchs.OneCycleLR(o, 0.1, total_steps=EPOCHS * BATCHES),
        "LambdaLR": lambda o: torchs.LambdaLR(o, lambda n: 1 / (1 + n)),
        "CosineAnnealingWarmRestarts": lambda o: torchs.CosineAnnealingWarmRestarts(o, 5),
        "CosineAnnealingLR": lambda o: torchs.CosineAnnealingLR(o, EPOCHS * BATCHES),
        "StepLR": lambda o: torchs.StepLR(o, 7),
    }
    failed = []
    for name, make in made.items():

        class Scheduled(Stock):
            def configure_optimizers(self, make: Any = make) -> Any:
                """With a schedule a step."""
                optimizer = super().configure_optimizers()
                return {"optimizer": optimizer, "lr_scheduler": {"scheduler": make(optimizer), "interval": "step"}}

        try:
            fit(build(Scheduled), finetuning())
        except Exception as error:
            failed.append(f"{name} {type(error).__name__}")
    needed: dict[str, Any] = {
        "one_cycle": {},
        "inverse_sqrt": {},
        "cosine": {},
        "step": {"milestones": [7]},
        "linear": {},
    }
    ours = 0
    for schedule, options in needed.items():
        try:
            fit(build(Ours), LayerFreezing("head", milestones={1: "all"}), LRSchedule(schedule, **options))
        except Exception:
            ours += 1
    return f"{len(failed)} of {len(made)}: {', '.join(failed)}", f"{ours} of {len(needed)}"


def average(folder: Path) -> tuple[str, str]:
    """EMA whose start is never reached: how far the weights after the fit are from the initial ones"""
    found = []
    for cls, callback in (
        (Stock, EMAWeightAveraging(decay=0.9, update_starting_at_step=10_000)),
        (Ours, EMA(0.9, start_step=10_000)),
    ):
        module = build(cls, False)
        start = {name: value.clone() for name, value in module.state_dict().items() if name not in ("mean", "std")}
        fit(module, callback)
        found.append(f"{worst(start, module.state_dict()):.2g}")
    return found[0], found[1]


def padding(folder: Path) -> tuple[str, str]:
    """101 examples, all but the first right, evaluated by two processes: accuracy (100/101 = 0.9901)"""
    right = torch.tensor([0.0] + [1.0] * 100)
    data = TensorDataset(right)
    found = []
    for sampler in (
        lambda rank: DistributedSampler(data, 2, rank, shuffle=False),
        lambda rank: EvaluationSampler(data, 10, num_replicas=2, rank=rank),
    ):
        seen = [i for rank in (0, 1) for i in sampler(rank) if i >= 0]
        found.append(f"{float(right[seen].mean()):.4f}")
    return found[0], found[1]


def stopping(folder: Path) -> tuple[str, str]:
    """Stopped in the middle of an epoch and resumed: difference from the run that was never stopped"""

    class Plain(Patterns):
        """Stock loaders."""

        def train_dataloader(self) -> DataLoader:
            """Shuffled by the global generator."""
            part = self._parts["train"]
            return DataLoader(TensorDataset(part.x, part.y), 12, shuffle=True, drop_last=True)

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            """Floats."""
            return batch[0].float() / 255, batch[1]

    found = []
    for name, cls, data, helpers in (("stock", Stock, Plain, []), ("ours", Ours, Patterns, [RandomState()])):
        (folder / name).mkdir()
        states = []
        for ckpt in (None, folder / name / "7.ckpt"):
            module = build(cls)
            trainer = Trainer(
                accelerator="cpu",
                max_epochs=EPOCHS,
                callbacks=[*helpers, Keep(folder / name, "" if ckpt else "step")],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                limit_val_batches=0,
            )
            trainer.fit(module, datamodule=data(batch_size=12), ckpt_path=ckpt, weights_only=True)
            states.append(module.state_dict())
        found.append(f"{worst(*states):.2g}")
    return found[0], found[1]


class Fixed(LightningDataModule):
    """16 images of one channel, in steps of four examples; rank r takes every W-th one, a batch is ``size`` of them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        g = torch.Generator().manual_seed(3)
        self.x = torch.rand(16, 1, 4, 4, generator=g)
        share = (torch.arange(16) % 4 * 0.3)[:, None, None]  # of ignored pixels: 0, 0.3, 0.6, 0.9
        self.y = torch.randint(3, (16, 4, 4), generator=g).masked_fill(torch.rand(16, 4, 4, generator=g) < share, 255)

    def train_dataloader(self) -> DataLoader:
        """Always in the same order."""
        ranks, rank = self.trainer.world_size, self.trainer.global_rank
        mine = (
            torch.arange(16).view(4, 4)[:, rank::ranks].flatten()
        )  # (16,) -> (steps, 4) -> (steps, 4 / W) -> (16 / W,)
        return DataLoader(TensorDataset(self.x[mine], self.y[mine]), self.size)


class StockPixels(LightningModule):
    """Cross-entropy over the pixels that count, as torch has it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(1, 3, 3, padding=1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The mean over the batch's own pixels."""
        return F.cross_entropy(self.net(batch[0]), batch[1], ignore_index=255)

    def configure_optimizers(self) -> Any:
        """Plain steps."""
        return torch.optim.SGD(self.parameters(), lr=0.5)


class StockNoise(StockPixels):
    """A denoising net."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Noise from the global generator, which is the same on all processes."""
        return (self.net(batch[0] + torch.randn_like(batch[0])) - batch[0]).square().mean()


class OurNoise(Task):
    """The same as a task."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 3, 3, padding=1), optimizer="SGD", lr=0.5)

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int]:
        """The mean squared error."""
        loss = (self.net(batch[0] + torch.randn_like(batch[0])) - batch[0]).square().mean()
        return loss, {"loss": loss}, len(batch[0])


def our_pixels() -> SegmentationTask:
    """The same net as a task."""
    return SegmentationTask(nn.Conv2d(1, 3, 3, padding=1), 3, optimizer="SGD", lr=0.5)


def cut(stock: Callable[[], Any], ours: Callable[[], Any], size: int, devices: int = 1) -> tuple[str, str]:
    """Differences of the weights after steps that are cut into batches or over processes from those of whole steps."""
    found = []
    for cls in (stock, ours):
        ends = []
        for batch, ranks in ((4, 1), (size, devices)):
            with tempfile.TemporaryDirectory() as folder:
                trainer = Trainer(
                    accelerator="cpu",
                    devices=ranks,
                    strategy=DDPStrategy(start_method="fork", timeout=timedelta(seconds=60)) if ranks > 1 else "auto",
                    accumulate_grad_batches=4 // batch // ranks,
                    callbacks=Keep(Path(folder)),
                    max_epochs=EPOCHS,
                    logger=False,
                    enable_checkpointing=False,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                    use_distributed_sampler=False,
                )
                trainer.fit(build(cls), datamodule=Fixed(batch))
                ends.append(last(Path(folder)))
        value = worst(*({k: v for k, v in end.items() if k.startswith("net.")} for end in ends))
        found.append(f"{value:.2g}" if value > 1e-6 else "under 1e-6")
    return found[0], found[1]


def accumulating(folder: Path) -> tuple[str, str]:
    """Some pixels are ignored, a step is accumulated from four batches: difference from the weights of whole steps"""
    return cut(StockPixels, our_pixels, 1)


def counting(folder: Path) -> tuple[str, str]:
    """Some pixels are ignored, two processes: difference from the weights of one"""
    return cut(StockPixels, our_pixels, 2, devices=2)


def drawing(folder: Path) -> tuple[str, str]:
    """Noise is drawn in each step, two processes: difference from the weights of one"""
    return cut(StockNoise, OurNoise, 2, devices=2)


ROWS = (
    processes,
    resuming,
    statistics,
    undone,
    schedules,
    average,
    padding,
    stopping,
    accumulating,
    counting,
    drawing,
)


def measure(row: Callable[[Path], tuple[str, str]]) -> tuple[str, str, str]:
    """What the row is about, stock, ours."""
    with tempfile.TemporaryDirectory() as folder:
        return (row.__doc__ or "", *row(Path(folder)))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for noisy in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    print("| | stock | ours |\n| --- | --- | --- |")
    for row in ROWS:
        print("| " + " | ".join(measure(row)) + " |", flush=True)
