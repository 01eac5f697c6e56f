"""The rates that steps really use, against torch's schedulers, in every way a Trainer counts, and after resume."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import Memory, SaveEverywhere, quiet_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
)
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer, lr_scheduler
from torch.utils.data import DataLoader, IterableDataset

from callbacks import LRSchedule

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

LR, BATCHES, EPOCHS = 0.1, 5, 4
N = BATCHES * EPOCHS


class Line(LightningModule):
    """One parameter in each of two groups; remembers what every step used. ``script``: the validation losses to come."""

    def __init__(self, optimizer: Callable[[Any], Optimizer] = SGD, script: list[float] | None = None) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        self.optimizer, self.script = optimizer, script
        self.used: list[list[dict[str, Any]]] = []  # step -> group -> its settings

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return ((self.a + self.b) * batch).mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/loss", self.script[self.trainer.current_epoch] if self.script else 0.0)

    def configure_optimizers(self) -> Any:
        return self.optimizer([{"params": [self.a], "lr": LR}, {"params": [self.b], "lr": LR / 10}])

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        keys = ("lr", "momentum", "betas")
        self.used.append([{k: g[k] for k in keys if k in g} for g in optimizer.param_groups])

    @property
    def rates(self) -> list[float]:
        return [float(groups[0]["lr"]) for groups in self.used]


class Alternating(Line):
    """Manual optimization: the critic steps on every batch, the generator on every second one."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.of: dict[int, dict[int, float]] = {0: {}, 1: {}}  # optimizer -> batch -> rate

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        now = self.trainer.fit_loop.epoch_loop.total_batch_idx
        for i, optimizer in enumerate(self.optimizers()):
            if i == 0 or batch_idx % 2 == 0:
                optimizer.zero_grad()
                self.manual_backward(super().training_step(batch, batch_idx))
                self.of[i][now] = optimizer.param_groups[0]["lr"]
                optimizer.step()

    def configure_optimizers(self) -> Any:
        return SGD([self.a], lr=LR), SGD([self.b], lr=LR / 10)


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        while True:
            yield torch.ones(1)


def fit(
    *callbacks: Callback, module: Line | None = None, ckpt: Path | None = None, data: Any = None, **options: Any
) -> Line:
    module = module or Line()
    trainer = quiet_trainer(*callbacks, **({"max_epochs": EPOCHS, "limit_val_batches": 0} | options))
    train = DataLoader(torch.ones(BATCHES, 1), batch_size=1) if data is None else data
    trainer.fit(module, train, DataLoader(torch.ones(1, 1)), ckpt_path=ckpt, weights_only=True if ckpt else None)
    return module


def oracle(make: Callable[[Optimizer], Any], steps: int = N, optimizer: type[Optimizer] = SGD) -> list[dict[str, Any]]:
    """The settings that each step uses with a torch scheduler."""
    parameter = nn.Parameter(torch.ones(1))
    opt = optimizer([parameter], lr=LR)
    scheduler, used = make(opt), []
    for _ in range(steps):
        used.append(dict(opt.param_groups[0]))
        opt.step()
        scheduler.step()
    return used


def close(a: Any, b: Any) -> Any:
    return pytest.approx(b, rel=1e-12, abs=1e-18) == a


def warm(w: int) -> Callable[[Optimizer], Any]:
    return lambda o: lr_scheduler.LinearLR(o, start_factor=1 / w, total_iters=w - 1)


def after(w: int, then: Callable[[Optimizer], Any]) -> Callable[[Optimizer], Any]:
    return lambda o: lr_scheduler.SequentialLR(o, [warm(w)(o), then(o)], milestones=[w])


CASES: dict[str, tuple[dict[str, Any], Callable[[Optimizer], Any]]] = {
    "constant": ({}, lambda o: lr_scheduler.LambdaLR(o, lambda n: 1.0)),
    "constant-warm": ({"warmup": 5}, warm(5)),
    "step": ({"milestones": [6, 12, 18]}, lambda o: lr_scheduler.StepLR(o, 6)),
    "step-gamma": ({"milestones": [7, 13], "gamma": 0.5}, lambda o: lr_scheduler.MultiStepLR(o, [7, 13], gamma=0.5)),
    "step-fractions": ({"milestones": [0.5, 0.75]}, lambda o: lr_scheduler.MultiStepLR(o, [10, 15])),
    "exponential": ({"gamma": 0.9}, lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
    "exponential-warm": ({"gamma": 0.9, "warmup": 3}, after(3, lambda o: lr_scheduler.ExponentialLR(o, 0.9))),
    "cosine": ({}, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=N)),
    "cosine-final": ({"final_factor": 0.1}, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=N, eta_min=0.1 * LR)),
    "cosine-warm": ({"warmup": 0.25}, after(5, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=N - 5))),
    "linear": ({}, lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=N)),
    "linear-warm": (
        {"warmup": 4, "final_factor": 0.2},
        after(4, lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.2, total_iters=N - 4)),
    ),
    "inverse_time": ({"decay": 0.5}, lambda o: lr_scheduler.LambdaLR(o, lambda n: 1 / (1 + 0.5 * n))),
    "inverse_sqrt-warm": (  # d ^ -0.5 min(step ^ -0.5, step warmup ^ -1.5), step = n + 1, scaled to a peak of 1
        {"warmup": 4},
        lambda o: lr_scheduler.LambdaLR(o, lambda n: min((n + 1) ** -0.5, (n + 1) * 4**-1.5) * 4**0.5),
    ),
    "inverse_sqrt": ({}, lambda o: lr_scheduler.LambdaLR(o, lambda n: (n + 1) ** -0.5)),
    "one_cycle": ({}, lambda o: lr_scheduler.OneCycleLR(o, LR, total_steps=N)),
    "one_cycle-warm": (
        {"warmup": 8, "final_factor": 1e-3, "momentum": (0.5, 0.9)},
        lambda o: lr_scheduler.OneCycleLR(
            o, LR, total_steps=N, pct_start=0.4, final_div_factor=40, base_momentum=0.5, max_momentum=0.9
        ),
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")  # torch's SequentialLR, of itself
@pytest.mark.parametrize("case", CASES)
def test_every_step_uses_the_rate_of_torchs_scheduler(case: str) -> None:
    arguments, make = CASES[case]
    module = fit(LRSchedule(case.split("-")[0], **arguments))  # type: ignore[arg-type]
    wanted = oracle(make)
    assert len(module.used) == N
    assert close(module.rates, [group["lr"] for group in wanted])
    assert close([groups[1]["lr"] for groups in module.used], [group["lr"] / 10 for group in wanted])
    assert close([groups[0]["momentum"] for groups in module.used], [group["momentum"] for group in wanted])


def test_one_cycle_cycles_the_first_beta_of_adam() -> None:
    module = fit(LRSchedule("one_cycle"), module=Line(Adam))
    wanted = oracle(lambda o: lr_scheduler.OneCycleLR(o, LR, total_steps=N), optimizer=Adam)
    assert close(module.rates, [group["lr"] for group in wanted])
    for k in range(2):
        assert close([groups[1]["betas"][k] for groups in module.used], [group["betas"][k] for group in wanted])


def test_one_cycle_of_one_step_and_without_warmup() -> None:
    assert fit(LRSchedule("one_cycle"), max_epochs=-1, max_steps=1).rates == [pytest.approx(4e-6 * LR)]
    assert fit(LRSchedule("one_cycle", warmup=1), max_steps=3).rates[0] == LR


SCRIPT = [1.0, 0.8, 0.8, 0.9, 0.8, 0.7, 0.71, 0.72, 0.73, 0.74, float("nan"), 0.6]


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
@pytest.mark.parametrize("start", [[], [math.nan, math.nan]], ids=["", "nan first"])
def test_plateau_is_torchs(mode: Any, sign: int, start: list[float]) -> None:
    script = [sign * value for value in [*start, *SCRIPT]]
    schedule = LRSchedule("plateau", patience=1, gamma=0.5, final_factor=0.3, mode=mode)
    module = fit(schedule, module=Line(script=script), max_epochs=len(script), limit_val_batches=1)
    opt = SGD([nn.Parameter(torch.ones(1))], lr=LR)
    torchs = lr_scheduler.ReduceLROnPlateau(opt, mode, factor=0.5, patience=1, threshold=0, min_lr=0.3 * LR)
    wanted = []
    for value in script:
        wanted += [opt.param_groups[0]["lr"]] * BATCHES
        torchs.step(value)
    assert close(module.rates, wanted)
    assert sorted(set(module.rates)) == pytest.approx([0.3 * LR, 0.5 * LR, LR])


def test_plateau_judges_each_validation() -> None:
    schedule = LRSchedule("plateau", patience=0, gamma=0.5)
    options = {"limit_val_batches": 1, "val_check_interval": 2, "num_sanity_val_steps": 1}  # the sanity check is none
    module = fit(schedule, module=Line(script=[1.0]), max_epochs=1, **options)
    assert module.rates == [LR, LR, LR, LR, LR / 2]
    state = schedule.state_dict()
    quiet_trainer(schedule, limit_val_batches=1).validate(Line(), DataLoader(torch.ones(1, 1)), verbose=False)
    assert schedule.state_dict() == state  # nor is a validation of its own


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 20),
        ({"accumulate_grad_batches": 2}, 12),  # the last batch of each epoch steps alone
        ({"limit_train_batches": 3}, 12),
        ({"limit_train_batches": 0.8, "accumulate_grad_batches": 4, "max_epochs": 3}, 3),
        ({"max_steps": 7}, 7),
        ({"max_steps": 7, "max_epochs": -1, "accumulate_grad_batches": 3}, 7),
        ({"max_steps": 70}, 20),
    ],
)
def test_it_ends_with_the_run(options: dict[str, Any], steps: int) -> None:
    used = fit(LRSchedule("cosine"), **options).rates
    assert close(used, [LR * (1 + math.cos(math.pi * n / steps)) / 2 for n in range(steps)])


def test_it_counts_an_accumulation_that_changes() -> None:
    used = fit(LRSchedule("linear"), GradientAccumulationScheduler({0: 1, 1: 3, 3: 5})).rates
    assert close(used, [LR * (1 - n / 10) for n in range(5 + 2 + 2 + 1)])


@pytest.mark.parametrize(
    ("options", "epochs"), [({}, 4), ({"accumulate_grad_batches": 2, "max_steps": 8}, 3), ({"max_steps": 80}, 4)]
)
def test_by_the_epoch(options: dict[str, Any], epochs: int) -> None:
    module = fit(LRSchedule("cosine", interval="epoch", warmup=1), **options)
    per_epoch = 3 if "accumulate_grad_batches" in options else 5
    wanted = [1.0] + [(1 + math.cos(math.pi * t / (epochs - 1))) / 2 for t in range(epochs - 1)]
    assert close(module.rates, [LR * wanted[n // per_epoch] for n in range(len(module.used))])
    assert math.ceil(len(module.used) / per_epoch) == epochs


def test_a_run_without_end() -> None:
    data = DataLoader(Endless(), batch_size=1)

    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            trainer.should_stop = trainer.global_step == 3

    assert fit(LRSchedule("exponential", gamma=0.5), Stop(), data=data, max_epochs=-1).rates == [LR, LR / 2, LR / 4]
    for schedule in (LRSchedule("cosine"), LRSchedule("constant", warmup=0.1), LRSchedule("step", milestones=[0.5])):
        with pytest.raises(ValueError, match="needs a run with an end: give the Trainer max_epochs"):
            fit(schedule, max_epochs=-1)
        with pytest.raises(ValueError, match="needs a run with an end"):
            fit(schedule, data=data)  # nobody knows how long an epoch is
    assert fit(LRSchedule("linear"), data=data, max_steps=4).rates == pytest.approx([LR, 0.075, 0.05, 0.025])


def test_manual_optimization_counts_batches_for_every_optimizer() -> None:
    module = fit(LRSchedule("cosine", warmup=4), module=Alternating())
    factor = [(n + 1) / 4 if n < 4 else (1 + math.cos(math.pi * (n - 4) / 16)) / 2 for n in range(N)]
    assert close([*module.of[0].values()], [LR * f for f in factor])
    assert [*module.of[1]] == [n for n in range(N) if n % BATCHES % 2 == 0]
    assert close([*module.of[1].values()], [LR / 10 * factor[n] for n in module.of[1]])


def test_a_schedule_for_each_optimizer() -> None:
    module = fit(
        LRSchedule("linear", optimizer=1), LRSchedule("exponential", gamma=0.9, optimizer=0), module=Alternating()
    )
    assert close([*module.of[0].values()], [LR * 0.9**n for n in range(N)])
    assert close(module.of[1], {n: LR / 10 * (1 - n / N) for n in module.of[1]})
    alone = fit(LRSchedule("linear", optimizer=1), module=Alternating())
    assert set(alone.of[0].values()) == {LR}  # nobody's schedule: its own rate
    assert close(alone.of[1], module.of[1])


def test_schedules_of_several_optimizers_keep_their_own_states(tmp_path: Path) -> None:
    def schedules() -> list[LRSchedule]:
        return [LRSchedule("plateau", patience=p, gamma=0.5, optimizer=i) for i, p in enumerate((0, 1))]

    class Judged(Alternating):
        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            self.log("val/loss", 1.0)

    options: dict[str, Any] = {"limit_val_batches": 1}
    whole = fit(*schedules(), SaveEverywhere(tmp_path), module=Judged(), **options)
    assert list(dict.fromkeys(whole.of[0].values())) == [LR, LR / 2, LR / 4]
    assert list(dict.fromkeys(whole.of[1].values())) == [LR / 10, LR / 20]
    saved = tmp_path / "epoch-16.ckpt"  # two epochs, of 5 + 3 steps each
    assert {k for k in torch.load(saved, weights_only=True)["callbacks"] if "LRSchedule" in k} == {
        "LRSchedule{optimizer=0}",
        "LRSchedule{optimizer=1}",
    }
    resumed = fit(*schedules(), module=Judged(), ckpt=saved, **options)
    assert resumed.of == {i: {n: rate for n, rate in of.items() if n >= 10} for i, of in whole.of.items()}


@pytest.mark.parametrize(
    ("schedules", "message"),
    [
        ([LRSchedule(optimizer=2)], r"optimizer must be one of 0\.\.1, got 2"),
        ([LRSchedule(), LRSchedule(optimizer=1)], "two LRSchedules would set the same rate"),
    ],
)
def test_optimizers_that_are_not_there_or_have_a_schedule_are_refused(
    schedules: list[LRSchedule], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(*schedules, module=Alternating())


RESUMED: dict[str, Any] = {
    "cosine": lambda: LRSchedule("cosine", warmup=3),
    "epoch": lambda: LRSchedule("exponential", gamma=0.7, interval="epoch"),
    "one_cycle": lambda: LRSchedule("one_cycle"),
    "plateau": lambda: LRSchedule("plateau", patience=0, gamma=0.5, warmup=2),
}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("case", RESUMED)
def test_resume_is_exact(case: str, accumulate: int, tmp_path: Path) -> None:
    script = [3.0, 3.0, 2.0, 4.0]
    options: dict[str, Any] = {"limit_val_batches": 1, "accumulate_grad_batches": accumulate}
    whole = fit(RESUMED[case](), SaveEverywhere(tmp_path), module=Line(script=script), **options)
    per_epoch = 5 if accumulate == 1 else 3
    for k in (1, 2, 3):  # the end of an epoch, before and after its validation; and within the next
        for name in (f"validation-{k * per_epoch}", f"epoch-{k * per_epoch}", f"step-{k * per_epoch + 1}"):
            module = fit(RESUMED[case](), module=Line(script=script), ckpt=tmp_path / f"{name}.ckpt", **options)
            assert module.used == whole.used[int(name.split("-")[1]) :], name


def test_resume_in_manual_optimization_is_exact(tmp_path: Path) -> None:
    whole = fit(LRSchedule("linear"), SaveEverywhere(tmp_path), module=Alternating())
    # seven batches: seven steps of the one, 3 + 1 of the other
    resumed = fit(LRSchedule("linear"), module=Alternating(), ckpt=tmp_path / "step-11.ckpt")
    assert resumed.of == {i: {n: rate for n, rate in of.items() if n >= 7} for i, of in whole.of.items()}


def test_the_run_can_be_prolonged(tmp_path: Path) -> None:
    fit(LRSchedule("linear"), SaveEverywhere(tmp_path), max_epochs=2)
    longer = fit(LRSchedule("linear"), ckpt=tmp_path / f"epoch-{2 * BATCHES}.ckpt")
    assert close(longer.rates, [LR * (1 - n / N) for n in range(2 * BATCHES, N)])


@pytest.mark.parametrize("first", [True, False], ids=["monitor-first", "monitor-last"])
@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("looks", ["step", "epoch"])
def test_the_learning_rate_monitor_sees_the_rates_in_use(interval: Any, looks: Any, first: bool) -> None:
    schedule, logger = LRSchedule("linear", warmup=0.25, interval=interval), Memory()
    monitor = LearningRateMonitor(logging_interval=looks)
    module = fit(*((monitor, schedule) if first else (schedule, monitor)), logger=logger)
    seen = logger.values("lr-SGD/pg1")
    assert [step for step, _ in seen] == list(range(0, N, 1 if looks == "step" else BATCHES))
    assert [rate for _, rate in seen] == [module.rates[step] for step, _ in seen]


def test_a_tensor_rate_is_changed_in_place() -> None:
    class Compiled(Line):
        def configure_optimizers(self) -> Any:
            self.held = torch.tensor(LR, dtype=torch.float64)
            return Adam([self.a], lr=self.held)

        def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
            assert optimizer.param_groups[0]["lr"] is self.held
            super().on_before_optimizer_step(optimizer)
            self.used[-1][0]["lr"] = float(self.held)

    assert close(fit(LRSchedule("linear"), module=Compiled()).rates, [LR * (1 - n / N) for n in range(N)])


def test_the_rate_that_a_finder_proposes_is_the_base(tmp_path: Path) -> None:
    class Found(Line):
        lr = 0.5

        def configure_optimizers(self) -> Any:
            return SGD([self.a], lr=self.lr)

    finder = LearningRateFinder(num_training_steps=60, early_stop_threshold=None)
    module = fit(finder, LRSchedule("linear"), module=Found(), default_root_dir=tmp_path)
    assert module.lr != 0.5
    assert close(module.rates[-N:], [module.lr * (1 - n / N) for n in range(N)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": "cosin"}, "schedule must be one of constant, step, .*, got 'cosin'"),
        ({"schedule": "cosine", "gamma": 0.5}, "'cosine' takes final_factor: gamma is not used"),
        ({"schedule": "constant", "patience": 3}, "'constant' takes no argument of its own: patience is not used"),
        ({"schedule": "step"}, "'step' takes milestones, gamma: milestones is missing"),
        ({"schedule": "exponential"}, "gamma is missing"),
        ({"schedule": "inverse_time", "gamma": 0.1}, "gamma is not used, decay is missing"),
        ({"schedule": "plateau", "final_factor": 2}, r"final_factor must be in \[0, 1\], got 2"),
        ({"schedule": "exponential", "gamma": 10}, r"gamma must be in \(0, 1\], got 10"),
        ({"schedule": "inverse_time", "decay": 0}, "decay must be > 0, got 0"),
        ({"schedule": "step", "milestones": [30, 20]}, r"milestones must be increasing, .*, got \[30, 20\]"),
        ({"schedule": "step", "milestones": [0, 20]}, "milestones must be increasing"),
        ({"schedule": "step", "milestones": [1.5]}, "milestones must be increasing, each a fraction"),
        ({"schedule": "one_cycle", "momentum": (0.95, 0.85)}, "momentum must be two numbers .*, the lower first"),
        ({"schedule": "plateau", "mode": "least"}, "mode must be 'min' or 'max', got 'least'"),
        ({"schedule": "plateau", "patience": -1}, "patience must be >= 0, got -1"),
        ({"warmup": 1.5}, "warmup must be a fraction of the run .*, got 1.5"),
        ({"warmup": -1}, "warmup must be"),
        ({"optimizer": -1}, "optimizer must be the index of an optimizer, >= 0, or None for all, got -1"),
        ({"interval": "batch"}, "interval must be 'step' or 'epoch', got 'batch'"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LRSchedule(**arguments)


def test_what_a_run_cannot_have_is_refused_before_the_first_step() -> None:
    class Scheduled(Line):
        def configure_optimizers(self) -> Any:
            optimizer = SGD([self.a], lr=LR)
            return [optimizer], [lr_scheduler.ExponentialLR(optimizer, 0.9)]

    module = Scheduled()
    with pytest.raises(ValueError, match="has a scheduler of its own: return the optimizer alone"):
        fit(LRSchedule(), module=module)
    assert not module.used
    with pytest.raises(ValueError, match="'plateau' needs a validation metric, but this run has no validation"):
        fit(LRSchedule("plateau"))
    with pytest.raises(ValueError, match=r"monitor must be a metric that validation logs \(val/loss\), got 'val/acc'"):
        fit(LRSchedule("plateau", monitor="val/acc"), limit_val_batches=1)
