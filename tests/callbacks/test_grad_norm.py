"""The norms that arrive at the logger, against gradients known by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import Memory, SaveEverywhere, quiet_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, Optimizer
from torch.utils.data import DataLoader

from callbacks import GradNorm
from callbacks.internals import each_norm

BATCHES = 6
DATA = torch.randn(BATCHES, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).float()


class Known(LightningModule):
    """The loss is ``w[:3] . x[:3] + v . x[3:]`` (mean over the batch), so the gradient is the mean x, whatever w is."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3))
        self.inner = nn.Module()
        self.inner.v = nn.Parameter(torch.zeros(2))
        self.unused = nn.Parameter(torch.zeros(7))

    def loss(self, x: Tensor) -> Tensor:
        return (x[:, :3] * self.w).sum(1).mean() + (x[:, 3:] * self.inner.v).sum(1).mean()

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.1)


def norm(x: Tensor, p: float = 2.0) -> float:
    x = x.double().abs()
    return float(x.max()) if math.isinf(p) else float(x.pow(p).sum() ** (1 / p))


def fit(callback: GradNorm, module: LightningModule | None = None, *more: Callback, **options: Any) -> Memory:
    logger, ckpt = Memory(), options.pop("ckpt", None)
    trainer = quiet_trainer(callback, *more, **({"max_epochs": 1, "logger": logger} | options))
    trainer.fit(module or Known(), DataLoader(DATA, batch_size=1), ckpt_path=ckpt, weights_only=True if ckpt else None)
    return logger


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, math.inf])
def test_every_step_before_clipping(p: float) -> None:
    logger = fit(GradNorm(p), gradient_clip_val=1e-3)
    assert logger.values("grad_norm") == [(i, pytest.approx(norm(x, p), rel=1e-6)) for i, x in enumerate(DATA)]


def test_accumulation_gives_the_gradient_of_the_window() -> None:
    logger = fit(GradNorm(), accumulate_grad_batches=4)
    windows = [DATA[:4].sum(0) / 4, DATA[4:].sum(0) / 4]  # Lightning divides the last, shorter window by 4 too
    assert logger.values("grad_norm") == [(i, pytest.approx(norm(x), rel=1e-6)) for i, x in enumerate(windows)]


def test_each_layer_by_its_parameters_name() -> None:
    logger = fit(GradNorm(per_layer=True))
    assert set().union(*(row for _, row in logger.rows)) == {"grad_norm", "grad_norm/w", "grad_norm/inner.v"}
    assert logger.values("grad_norm/w") == [(i, pytest.approx(norm(x[:3]), rel=1e-6)) for i, x in enumerate(DATA)]
    assert logger.values("grad_norm/inner.v") == [(i, pytest.approx(norm(x[3:]), rel=1e-6)) for i, x in enumerate(DATA)]
    assert [value for _, value in logger.values("grad_norm")] == [pytest.approx(norm(x), rel=1e-6) for x in DATA]


@pytest.mark.parametrize(
    ("every", "log_every", "measured", "came_at"),
    [
        (None, 2, [1, 3, 5, 7, 9, 11], [2, 4, 6, 8, 10, 12]),  # with the trainer's rows
        (
            1,
            5,
            list(range(12)),
            [5] * 5 + [10] * 5 + [12] * 2,
        ),  # each step's own, read when a row is due or training ends
        (3, 2, [2, 5, 8, 11], [4, 6, 10, 12]),
        (1, 0, [], []),  # logging is off
        (None, 0, [], []),
    ],
)
def test_when_it_measures_and_when_it_reads(every: int | None, log_every: int, measured: Any, came_at: Any) -> None:
    logger = fit(GradNorm(every_n_steps=every), max_epochs=2, log_every_n_steps=log_every)
    wanted = [(step, pytest.approx(norm(DATA[step % BATCHES]), rel=1e-6)) for step in measured]
    assert logger.values("grad_norm") == wanted
    assert [at for (_, row), at in zip(logger.rows, logger.logged_at, strict=True) if "grad_norm" in row] == came_at


def test_what_was_measured_is_not_lost_when_training_breaks() -> None:
    class Breaks(Known):
        def on_train_batch_end(self, *_: Any) -> None:
            if self.trainer.global_step == 4:
                raise OSError("disk")

    logger, seen = Memory(), []
    trainer = quiet_trainer(GradNorm(every_n_steps=1), max_epochs=1, logger=logger, log_every_n_steps=3)
    with pytest.raises(OSError, match="disk"):
        trainer.fit(Breaks(), DataLoader(DATA, batch_size=1))
    seen = [step for step, _ in logger.values("grad_norm")]
    assert seen == [0, 1, 2, 3]
    assert float(trainer.callback_metrics["grad_norm"]) == pytest.approx(norm(DATA[3]), rel=1e-6)


class Manual(Known):
    """One optimizer on every batch, one on every second; ``clip``: where the module clips by itself, if at all."""

    def __init__(self, clip: str | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.clip = clip

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        for i, optimizer in enumerate(self.optimizers()):
            if i == 0 or batch_idx % 2 == 0:
                optimizer.zero_grad()
                self.manual_backward(self.loss(batch), inputs=optimizer.param_groups[0]["params"])
                if self.clip == "step":
                    self.clip_gradients(optimizer, gradient_clip_val=1e-3, gradient_clip_algorithm="norm")
                optimizer.step()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.clip == "hook":
            self.clip_gradients(optimizer, gradient_clip_val=1e-3, gradient_clip_algorithm="norm")

    def configure_optimizers(self) -> Any:
        return SGD([self.w], lr=0.1), SGD([self.inner.v], lr=0.1)


@pytest.mark.parametrize("clip", [None, "hook"])
def test_several_optimizers_in_manual_optimization(clip: str | None) -> None:
    module = Manual(clip)
    logger = fit(GradNorm(per_layer=True), module)
    first = [(i, pytest.approx(norm(x[:3]), rel=1e-6)) for i, x in enumerate(DATA)]
    second = [(i, pytest.approx(norm(x[3:]), rel=1e-6)) for i, x in enumerate(DATA) if i % 2 == 0]
    assert logger.values("grad_norm/0") == logger.values("grad_norm/w") == first
    assert logger.values("grad_norm/1") == logger.values("grad_norm/inner.v") == second
    assert "grad_norm" not in set().union(*(row for _, row in logger.rows))
    moved = norm(module.w.detach())
    assert moved <= 6 * 0.1 * 1e-3 + 1e-7 if clip else moved > 0.01  # the clipping did take place


def test_a_module_that_clips_inside_its_step_shows_the_clipped_norm() -> None:
    logger = fit(GradNorm(), Manual("step"))
    assert [value for _, value in logger.values("grad_norm/0")] == pytest.approx([1e-3] * BATCHES, rel=1e-3)


@pytest.mark.parametrize("fused", [False, True])
def test_float16_gives_unscaled_norms_and_infinity_where_the_step_is_skipped(fused: bool) -> None:
    class Overflows(Known):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * 3e38 if batch_idx == 3 else loss

        def configure_optimizers(self) -> Any:
            return Adam(self.parameters(), lr=0.1, fused=fused)

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    logger = fit(GradNorm(), Overflows(), plugins=MixedPrecision("16-mixed", "cpu", scaler))
    values = dict(logger.values("grad_norm"))
    assert not math.isfinite(values.pop(3))
    assert values == {i: pytest.approx(norm(x), rel=1e-6) for i, x in enumerate(DATA) if i != 3}


def test_an_optimizer_that_calls_its_closure_again_gives_one_value_a_step() -> None:
    class Closure(Known):
        def loss(self, x: Tensor) -> Tensor:
            return super().loss(x) + 0.5 * self.w.square().sum() + 0.5 * self.inner.v.square().sum()

        def configure_optimizers(self) -> Any:
            return LBFGS([self.w, self.inner.v], lr=0.5, max_iter=3)

    logger = fit(GradNorm(), Closure())
    assert [step for step, _ in logger.values("grad_norm")] == list(range(BATCHES))


def test_half_precision_gradients_are_summed_in_float32() -> None:
    grads = [torch.full((100,), 1e4, dtype=torch.float16), torch.full((100,), 1e4)]
    assert each_norm(grads, 2.0).tolist() == pytest.approx([1e5, 1e5], rel=1e-3)  # float16 ends at 65504
    double = each_norm([torch.full((3,), 1 / 3, dtype=torch.float64)], 1.0)
    assert double.item() == pytest.approx(1.0, abs=1e-15)


def test_sparse_gradients_count_each_row_once() -> None:
    embedding = nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1, 1, 3])).sum().backward()
    assert each_norm([embedding.weight.grad], 2.0).tolist() == pytest.approx([math.sqrt(2 * 4 + 2 * 1)])


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_parameters_without_gradient_and_of_another_module() -> None:
    class Foreign(Known):
        def configure_optimizers(self) -> Any:
            self.__dict__["free"] = torch.zeros((), requires_grad=True)
            return SGD([*self.parameters(), self.free], lr=0.1)

        def loss(self, x: Tensor) -> Tensor:
            return super().loss(x) + self.free

    logger = fit(GradNorm(per_layer=True), Foreign())
    assert set(logger.rows[0][1]) == {"grad_norm", "grad_norm/w", "grad_norm/inner.v", "grad_norm/unnamed2"}
    assert logger.values("grad_norm/unnamed2") == [(i, 1.0) for i in range(BATCHES)]

    class Nothing(Known):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            return None

    assert not fit(GradNorm(), Nothing()).values("grad_norm")


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_a_resumed_run_logs_at_the_steps_of_the_whole(tmp_path: Path) -> None:
    whole = fit(GradNorm(), None, SaveEverywhere(tmp_path), max_epochs=2, log_every_n_steps=2)
    for name, n in (("step-6", 6), ("epoch-6", 6)):
        rest = fit(GradNorm(), ckpt=tmp_path / f"{name}.ckpt", max_epochs=2, log_every_n_steps=2)
        assert rest.values("grad_norm") == [(step, value) for step, value in whole.values("grad_norm") if step >= n], (
            name
        )


def _sharded(rank: int, folder: str) -> None:
    import torch.distributed as dist
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    whole = [torch.randn(7, 3, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    sharded = [distribute_tensor(g, init_device_mesh("cpu", (2,)), [Shard(0)]) for g in whole]
    for p in (1.0, 2.0, math.inf):
        torch.testing.assert_close(each_norm(sharded, p), each_norm(whole, p))
    dist.destroy_process_group()


def test_sharded_gradients_give_the_norm_of_the_whole(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(_sharded, (str(tmp_path),), nprocs=2, start_method="fork")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm_type": 0}, "norm_type must be > 0 .*, got 0"),
        ({"norm_type": -math.inf}, "norm_type must be > 0"),
        ({"norm_type": math.nan}, "norm_type must be > 0"),
        ({"every_n_steps": 0}, "every_n_steps must be >= 1, got 0"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradNorm(**arguments)


def test_it_works_beside_a_trainer_without_logger() -> None:
    trainer: Trainer = quiet_trainer(GradNorm(), max_epochs=1)
    trainer.fit(Known(), DataLoader(DATA, batch_size=1))
    assert float(trainer.callback_metrics["grad_norm"]) == pytest.approx(norm(DATA[-1]), rel=1e-6)
