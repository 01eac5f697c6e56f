"""Adversarial training in every way a run can go: on two ranks, stopped and resumed, averaged, scheduled, clipped, in 16 bits."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import quiet_trainer
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from callbacks import EMA, GradNorm, LRSchedule, RandomState
from zoo.blocks import Adversaries, WithClass
from zoo.tasks import AdversarialTask

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")

BATCHES, SIZE = 5, 4
WASSERSTEIN = {"loss": "wasserstein", "gradient_penalty": 10.0}


def build(classes: int = 0, norm: bool = False, **task: Any) -> AdversarialTask:
    torch.manual_seed(0)
    extra = [nn.BatchNorm1d(5)] if norm else []
    generator = nn.Sequential(nn.Linear(2 + classes, 5), *extra, nn.Tanh(), nn.Linear(5, 3))
    discriminator = nn.Sequential(nn.Linear(3 + classes, 5), nn.Tanh(), nn.Linear(5, 1))
    net = Adversaries(WithClass(generator, classes), WithClass(discriminator, classes, ()), [3], 2, classes)
    return AdversarialTask(net, **{"optimizer": "Adam", "lr": 0.01, **task}).double()


class Data(LightningDataModule):
    """Always in this order; rank r of R has every R-th example, so the global batches are the same."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(3)
        self.x = torch.randn(BATCHES * SIZE, 3, generator=g, dtype=torch.float64).to(dtype)

    def train_dataloader(self) -> DataLoader:
        data = TensorDataset(self.x, torch.arange(len(self.x)) % 2)
        ranks = self.trainer.world_size
        sampler = DistributedSampler(data, ranks, self.trainer.global_rank, shuffle=False)
        return DataLoader(data, SIZE // ranks, sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        return self.train_dataloader()


def fit(
    task: LightningModule,
    *callbacks: Callback,
    ranks: int = 1,
    ckpt: Path | None = None,
    data: Data | None = None,
    **options: Any,
) -> Trainer:
    seed_everything(7 if ckpt is None else 8, verbose=False)
    trainer = quiet_trainer(*callbacks, ranks=ranks, **({"max_epochs": 2, "limit_val_batches": 0} | options))
    trainer.fit(task, datamodule=data or Data(), ckpt_path=ckpt, weights_only=True if ckpt else None)
    return trainer


class Keep(Callback):
    """Write what each rank ends with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
        end = {"state": pl_module.state_dict(), "logged": logged, "step": trainer.global_step}
        torch.save(end, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def gap(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    return max((one[name] - two[name]).abs().max().item() for name in one)


# Ranks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task", [{}, {**WASSERSTEIN, "n_critic": 2, "clip_grad": 0.5}, {"classes": 2, "n_critic": 5}], ids=str
)
def test_two_ranks_train_what_one_trains(tmp_path: Path, task: dict[str, Any]) -> None:
    for ranks in (1, 2):
        fit(build(**task), Keep(tmp_path), ranks=ranks)
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert gap(first["state"], second["state"]) == 0
    assert gap(one["state"], first["state"]) < 1e-9
    assert gap(one["state"], build(**task).state_dict()) > 1e-3
    assert one["step"] == first["step"] == second["step"] == 2 * BATCHES
    assert first["logged"] == pytest.approx(one["logged"], rel=1e-5, abs=1e-6)


def test_statistics_of_norms_stay_the_same_on_all_ranks(tmp_path: Path) -> None:
    fit(build(norm=True), Keep(tmp_path), ranks=2)
    first, second = (torch.load(tmp_path / f"2-{rank}.pt")["state"] for rank in (0, 1))
    assert gap(first, second) == 0
    assert first["net.generator.net.1.running_mean"].abs().min() > 0


class Stock(LightningModule):
    """A GAN as Lightning's documentation has it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = build().net
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        g, d = self.optimizers()
        fake = self.net.generator(torch.randn(len(batch[0]), 2, dtype=torch.float64))
        for optimizer in (g, d):
            self.toggle_optimizer(optimizer)
            loss = self.net.discriminator(fake).mean()
            if optimizer is d:
                loss = self.net.discriminator(batch[0]).mean() - self.net.discriminator(fake.detach()).mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net.generator, self.net.discriminator)]


def test_stock_lightning_fails_on_two_ranks() -> None:
    class NoValidation(Data):
        val_dataloader = LightningDataModule.val_dataloader

    with pytest.raises(Exception, match="parameters that were not used in producing"):
        fit(Stock(), ranks=2, data=NoValidation())


def test_other_strategies_are_refused() -> None:
    task = build()
    task._trainer = type(
        "T", (), {"world_size": 2, "strategy": object(), "datamodule": None, "accumulate_grad_batches": 1}
    )()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"on several devices wants --trainer.strategy ddp, got object"):
        task.setup("fit")


# Resuming -------------------------------------------------------------------------------------------------------------


class Save(Callback):
    """A checkpoint after each epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.folder / f"epoch{trainer.current_epoch + 1}.ckpt")


def everything() -> list[Callback]:
    return [
        RandomState(),
        EMA(0.9),
        LRSchedule("cosine", optimizer=0, warmup=3),
        LRSchedule("exponential", gamma=0.9, optimizer=1),
    ]


def test_four_epochs_are_two_and_two_to_the_bit(tmp_path: Path) -> None:
    ends = []
    for ckpt in (None, tmp_path / "epoch2.ckpt"):
        task = build(n_critic=3, **WASSERSTEIN)
        trainer = fit(task, *everything(), *([Save(tmp_path)] if ckpt is None else []), ckpt=ckpt, max_epochs=4)
        moments = [o.state_dict()["state"] for o in trainer.optimizers]
        ends.append((task.state_dict(), moments, trainer.global_step, torch.rand(())))
    (one, one_moments, *one_rest), (two, two_moments, *two_rest) = ends
    assert gap(one, two) == 0
    assert one_rest == two_rest
    for ours, theirs in zip(one_moments, two_moments, strict=True):
        for key, state in ours.items():
            assert all(torch.equal(value, theirs[key][name]) for name, value in state.items())
    assert one_rest[0] == 4 * BATCHES
    # 20 batches: the generator stepped on the 3rd, 6th ... 18th, counted over the whole run
    assert {int(state["step"]) for state in one_moments[0].values()} == {6}


# What callbacks see ---------------------------------------------------------------------------------------------------


class Gradients(Callback):
    """The norm of each optimizer's gradient as its step uses it."""

    def __init__(self) -> None:
        self.used: dict[int, list[float]] = {0: [], 1: []}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for number, optimizer in enumerate(trainer.optimizers):
            optimizer.register_step_post_hook(lambda o, *_, number=number: self.used[number].append(norm(o)))


def norm(optimizer: Optimizer) -> float:
    return float(torch.nn.utils.get_total_norm([p.grad for p in optimizer.param_groups[0]["params"]]))


def columns(folder: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    with next(folder.rglob("metrics.csv")).open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value:
                    found.setdefault(name, {})[int(row["step"])] = float(value)
    return found


@pytest.mark.parametrize("clip", [None, 1e-3])
@pytest.mark.parametrize("half", [False, True])
def test_grad_norm_sees_each_gradient_unclipped(tmp_path: Path, clip: float | None, half: bool) -> None:
    """Under float16 too, where gradients are scaled by 65,536 until they are clipped."""
    gradients, options = Gradients(), {}
    task = build(n_critic=2, clip_grad=clip)
    if half:
        task.float()
        options = scaled()
    fit(task, GradNorm(every_n_steps=1), gradients, logger=CSVLogger(tmp_path), **options)
    seen = columns(tmp_path)
    assert [*seen["grad_norm/1"]] == [*range(2 * BATCHES)]
    assert [*seen["grad_norm/0"]] == [1, 3, 5, 7, 9]
    assert 1e-2 < min(seen["grad_norm/1"].values()) < max(seen["grad_norm/1"].values()) < 10
    for number, used in gradients.used.items():
        logged = [*seen[f"grad_norm/{number}"].values()]
        assert used == pytest.approx([clip] * len(used) if clip else logged, rel=2e-3)


def scaled() -> dict[str, Any]:
    return {
        "plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))],
        "data": Data(torch.float32),
    }


def test_a_fused_optimizer_is_clipped_as_any_other() -> None:
    """It unscales by itself, after the gradient was clipped."""
    ends = []
    for fused in (False, True):
        task = build(clip_grad=1e-3, optimizer="SGD", lr=1.0, optimizer_args={"fused": fused}).float()
        fit(task, **scaled())
        ends.append(task.state_dict())
    assert gap(ends[0], build().float().state_dict()) > 1e-3
    assert gap(*ends) < 1e-5


def test_checkpoints_come_every_so_many_batches(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
    fit(build(n_critic=3), keep, enable_checkpointing=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step=4.ckpt", "step=8.ckpt"]


def test_each_optimizer_may_have_its_schedule(tmp_path: Path) -> None:
    rates: list[list[float]] = []

    class Rates(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            rates.append([o.param_groups[0]["lr"] for o in trainer.optimizers])

    schedules = LRSchedule("linear", optimizer=0), LRSchedule("step", milestones=[5], optimizer=1)
    fit(build(discriminator_lr=0.02), *schedules, Rates())
    n = 2 * BATCHES
    assert [g for g, _ in rates] == pytest.approx([0.01 * (1 - i / n) for i in range(n)])
    assert [d for _, d in rates] == pytest.approx([0.02 if i < 5 else 0.002 for i in range(n)])


def test_the_averaged_generator_is_evaluated() -> None:
    """With callbacks.EMA validation samples from the average, training goes on from the weights, the end is the average."""
    made: dict[str, Tensor] = {}

    class Watch(Callback):
        def on_validation_batch_start(self, trainer: Trainer, module: Any, *_: Any) -> None:
            made["validated"] = module.sample(8)

        def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
            made["trained"] = module.sample(8)

    ema, task, twin = EMA(0.9), build(), build()
    fit(task, ema, Watch(), limit_val_batches=1, max_epochs=1)
    torch.testing.assert_close(made["validated"], task.sample(8))
    assert (made["trained"] - made["validated"]).abs().max() > 1e-3
    twin.load_state_dict(ema.average)  # after the fit it holds the weights that were trained
    torch.testing.assert_close(made["trained"], twin.sample(8))


def test_bfloat16_trains() -> None:
    for precision in ("bf16-mixed", "bf16-true"):
        task = build(**WASSERSTEIN, n_critic=2).float()
        fit(task, precision=precision, data=Data(torch.float32), max_epochs=1)
        assert all(p.isfinite().all() for p in task.parameters())


def test_a_frozen_generator_leaves_the_discriminator_to_learn() -> None:
    task = build()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    task.freeze(1)
    fit(task, max_epochs=1)
    moved = {name.split(".")[1] for name, value in task.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"discriminator"}
