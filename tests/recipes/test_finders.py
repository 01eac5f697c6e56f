"""``zoo fit --find-lr`` and ``--find-batch-size``: what is found, and that nothing is left."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cli_kit import RECIPE, Zoo, assert_one_line
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import LayerFreezing, LRSchedule
from recipes.cli.errors import UserError
from recipes.cli.finders import batch_size
from recipes.cli.finders.batch_size import Clock, Memory, Tried, is_out_of_memory, next_size
from recipes.cli.finders.lr_range import Curve, range_test
from zoo.optim.newton import Newton
from zoo.tasks import ClassificationTask

CPU: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 2}


@pytest.fixture
def pictures() -> None:
    """They are looked at."""


def recipe(model: Any, data: Any = None, **trainer: Any) -> Any:
    """What the finders read of a recipe."""
    return SimpleNamespace(model=model, datamodule=data, config_init=SimpleNamespace(trainer={**CPU, **trainer}))


def find(cli: Any, memory: Memory) -> list[Tried]:
    return list(batch_size.find(cli, memory))


class Data(LightningDataModule):
    """Random numbers of two classes, shuffled by the global generator."""

    def __init__(self, count: int = 96, batch_size: int = 16) -> None:
        super().__init__()
        self.count, self.batch_size, self.loaders = count, batch_size, 0

    def train_dataloader(self) -> DataLoader:
        self.loaders += 1
        y = torch.arange(self.count) % 2
        x = torch.randn(self.count, 4, generator=torch.Generator().manual_seed(0)) + y[:, None]
        return DataLoader(TensorDataset(x, y), self.batch_size, shuffle=True)


def task(**arguments: Any) -> ClassificationTask:
    layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 2))
    return ClassificationTask(layers, 2, **{"lr": 1e-2, **arguments})


class Parabola(LightningModule):
    """``sum(k / 2 * (w - x)^2)`` of its weights, with what its steps and batches were: class attributes, so copies share them."""

    rates: list[list[float]]
    sizes: list[int]
    curvature = 4.0

    def __init__(self, build: Callable[[Any], Any] | None = None, fails: Callable[[int], Any] | None = None) -> None:
        super().__init__()
        self.w, self.v = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([1.0]))
        self.build, self.fails = build, fails
        type(self).rates, type(self).sizes = [], []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (x,) = batch
        self.sizes.append(len(x))
        if self.fails is not None:
            self.fails(len(x))
        return self.curvature / 2 * ((self.w - x).square().mean() + (self.v - x).square().mean())

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.rates.append([float(group["lr"]) for group in optimizer.param_groups])

    def configure_optimizers(self) -> Any:
        if self.build is not None:
            return self.build(self)
        return torch.optim.SGD([{"params": [self.w]}, {"params": [self.v], "lr": 0.01}], lr=0.1)


class Zeros(Data):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(torch.zeros(self.count, 1)), self.batch_size)


# Nothing is left ----------------------------------------------------------------------------------------------------


class Stand(Memory):
    """A machine of 1,000 bytes, of which a process takes 100 and 2 an example, of the largest batch since it began."""

    def __init__(self, an_example: float = 2.0) -> None:
        self.an_example = an_example

    def begin(self, device: torch.device) -> None:
        Parabola.sizes = []

    def used(self, device: torch.device) -> float:
        return 100 + self.an_example * max(Parabola.sizes, default=0)

    def there(self, device: torch.device) -> float:
        return 1000.0


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize("look", [range_test, lambda cli: find(cli, Stand())], ids=["lr", "batch size"])
def test_a_fit_afterwards_ends_with_the_same_bits(look: Callable[[Any], Any]) -> None:
    def state(first: Callable[[Any], Any] | None) -> tuple[dict[str, Tensor], Any, Tensor, tuple[int, int]]:
        seed_everything(3, verbose=False)
        cli = recipe(task(), Data())
        freezing = cli.config_init.trainer["callbacks"] = [LayerFreezing(train=1, every=1)]
        if first is not None:
            first(cli)
            assert cli.model._trainer is None
            assert cli.datamodule.loaders == 0
        trainer = Trainer(
            **{**cli.config_init.trainer, "callbacks": freezing},
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(cli.model, datamodule=cli.datamodule)
        moments = trainer.optimizers[0].state_dict()["state"]
        return (
            cli.model.state_dict(),
            moments,
            torch.get_rng_state(),
            (cli.datamodule.loaders, cli.datamodule.batch_size),
        )

    weights, moments, random, data = state(look)
    expected_weights, expected_moments, expected_random, expected_data = state(None)
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(weights[name], expected_weights[name]) for name in weights)
    assert moments.keys() == expected_moments.keys()
    for key, values in expected_moments.items():
        assert all(torch.equal(torch.as_tensor(moments[key][n]), torch.as_tensor(v)) for n, v in values.items())
    assert torch.equal(random, expected_random)
    assert data == expected_data


# The range test -----------------------------------------------------------------------------------------------------


def rates_of_a_schedule(module: Parabola) -> Any:
    optimizer = torch.optim.SGD([{"params": [module.w]}, {"params": [module.v], "lr": 0.01}], lr=0.1)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)  # begins at 0
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warmup, "interval": "step"}}


def plateau_without_validation(module: Parabola) -> Any:
    optimizer = torch.optim.SGD([{"params": [module.w]}, {"params": [module.v], "lr": 0.01}], lr=0.1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss"}}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("build", [None, rates_of_a_schedule, plateau_without_validation])
def test_rates_grow_from_step_to_step_and_keep_their_ratios(
    accumulate: int, build: Callable[[Parabola], Any] | None
) -> None:
    model = Parabola(build)
    callbacks = [LRSchedule(schedule="cosine"), GradientAccumulationScheduler({0: accumulate})]
    curve = range_test(recipe(model, Zeros(), callbacks=callbacks), 1e-7, 1e-1, 40)
    np.testing.assert_allclose([first for first, _ in model.rates], np.geomspace(1e-7, 1e-1, 40))
    np.testing.assert_allclose([second for _, second in model.rates], np.geomspace(1e-8, 1e-2, 40))
    assert curve.rates == [first for first, _ in model.rates]
    assert len(model.sizes) == 40 * accumulate


@pytest.mark.parametrize("accumulate", [1, 3])
def test_losses_are_those_of_gradient_descent_until_they_diverge(accumulate: int) -> None:
    curve = range_test(recipe(Parabola(), Zeros(count=96), accumulate_grad_batches=accumulate))
    k, (w, v), expected = Parabola.curvature, (1.0, 1.0), []
    for rate in np.geomspace(1e-7, 10.0, 120)[: len(curve.losses)]:
        expected.append(k / 2 * (w * w + v * v))
        w, v = w - rate * k * w, v - rate / 10 * k * v
    np.testing.assert_allclose(curve.losses, expected, rtol=1e-4)
    assert curve.diverged
    assert 20 < len(curve.losses) < 120
    assert curve.rates[curve.floor] > 2 / k  # from there on the first weight grows
    assert curve.suggestion is not None
    assert 0.02 / k < curve.suggestion < 2 / k


def test_the_rate_is_a_tenth_of_that_where_the_floor_of_the_loss_begins() -> None:
    rates = [10 ** (i / 10 - 6) for i in range(70)]
    losses = [2 + 0.01 * (-1) ** i for i in range(25)] + [2 - 0.1 * i for i in range(10)] + [1.0] * 30 + [5.0] * 5
    curve = Curve(rates, losses)
    mean, smoothed = 0.0, []
    for i, loss in enumerate(losses):
        mean = 0.9 * mean + 0.1 * loss
        smoothed.append(mean / (1 - 0.9 ** (i + 1)))
    np.testing.assert_allclose(curve.smoothed, smoothed)
    start, low = np.mean(losses[:20]), min(smoothed[20:])
    fallen = [(start - each) / (start - low) for each in smoothed]
    floor = next(i for i in range(20, 70) if fallen[i] >= 0.95)
    assert curve.floor == floor < int(np.argmin(smoothed))
    assert curve.suggestion == float(f"{rates[floor] / 10:.1e}")


def test_noise_alone_suggests_nothing() -> None:
    rng = np.random.default_rng(0)
    rates = [10 ** (i / 15 - 7) for i in range(120)]
    found = [Curve(rates, list(1 + 0.1 * rng.standard_normal(120))).suggestion for _ in range(200)]
    assert sum(each is not None for each in found) <= 10


def test_a_loss_that_is_not_finite_ends_the_test() -> None:
    def spoil(module: Parabola) -> Any:
        with torch.no_grad():
            module.w.fill_(math.nan)
        return torch.optim.SGD(module.parameters(), lr=0.1)

    with pytest.raises(UserError, match=r"diverged after 0 steps, at a rate of 1\.0e-07: it is not finite"):
        range_test(recipe(Parabola(spoil), Zeros()))
    curve = range_test(recipe(task(optimizer="SGD"), Data()), 1e-7, 1e30)
    assert curve.diverged
    assert all(math.isfinite(loss) for loss in curve.losses)


@pytest.mark.parametrize("name", ["LBFGS", "Newton", "SGDScheduleFree", "two", "none"])
def test_optimizers_without_a_rate_to_find_are_refused(name: str) -> None:
    free = pytest.importorskip("schedulefree") if name == "SGDScheduleFree" else None
    builds: dict[str, Callable[[Parabola], Any]] = {
        "LBFGS": lambda m: torch.optim.LBFGS(m.parameters()),
        "Newton": lambda m: Newton(m.parameters()),
        "SGDScheduleFree": lambda m: free.SGDScheduleFree(m.parameters()) if free else None,
        "two": lambda m: [torch.optim.SGD([p], lr=0.1) for p in m.parameters()],
        "none": lambda m: None,
    }
    model = Parabola(builds[name])
    if name == "two":
        model.automatic_optimization = False
    what = {"two": "Parabola is trained by hand", "none": "Parabola has 0 optimizers"}.get(name, f"and {name} ")
    with pytest.raises(UserError, match=what):
        range_test(recipe(model, Zeros()))


# The batch size -----------------------------------------------------------------------------------------------------


def test_the_largest_batch_ends_below_memory() -> None:
    tried = find(recipe(Parabola(), Zeros(10_000)), Stand())
    assert [each.size for each in tried[:5]] == [16, 32, 64, 128, 256]
    assert all(each.bytes == 100 + 2 * each.size for each in tried)
    assert all(each.fits == (each.bytes <= 800) for each in tried)
    most = max(each.size for each in tried if each.fits)
    assert 350 * 8 / 9 <= most <= 350  # 0.8 * 1000 = 100 + 2 * 350
    assert max(each.size for each in tried) <= 350  # foretold, not tried
    assert all(each.speed > 0 for each in tried)


def test_the_largest_batch_is_the_training_set() -> None:
    tried = find(recipe(Parabola(), Zeros(100)), Stand())
    assert [each.size for each in tried] == [16, 32, 64, 100]
    assert [each.size for each in find(recipe(Parabola(), Zeros(10)), Stand())] == [10]


def test_data_that_ignore_their_batch_size_are_refused() -> None:
    class Fixed(Zeros):
        def train_dataloader(self) -> Any:
            return DataLoader(super().train_dataloader().dataset, 16)

    with pytest.raises(
        UserError, match=r"Fixed makes batches of 16 whatever it says \(now 32\): let train_dataloader read"
    ):
        find(recipe(Parabola(), Fixed(100)), Stand())


@pytest.mark.parametrize("start", [16, 512])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_memory_that_runs_out_is_between_the_sizes_that_are_tried(start: int, error: Exception) -> None:
    def run_out(size: int) -> None:
        if size > 100:
            raise error

    tried = find(recipe(Parabola(fails=run_out), Zeros(10_000, start)), Stand(0.0))
    assert all(each.fits == (each.size <= 100) for each in tried)
    assert {each.problem for each in tried if not each.fits} == {"out of memory"}
    assert 100 * 8 / 9 <= max(each.size for each in tried if each.fits) <= 100


def test_a_size_that_is_refused_is_the_end_and_other_errors_are_not_hidden() -> None:
    def refuse(size: int) -> None:
        if size > 40:
            raise ValueError("at most\n40 lanes")

    tried = find(recipe(Parabola(fails=refuse), Zeros(10_000)), Stand())
    assert {each.problem for each in tried if each.size > 40} == {"refused: at most 40 lanes"}
    assert max(each.size for each in tried if each.fits) in range(36, 41)
    with pytest.raises(ValueError, match="40 lanes"):
        find(recipe(Parabola(fails=refuse), Zeros(10_000, 64)), Stand())
    assert not is_out_of_memory(RuntimeError("a size does not match"))
    assert is_out_of_memory(
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: ...")
    )


def test_each_size_makes_a_whole_step_and_one_batch_more() -> None:
    batches: list[int] = []

    class Watch(Stand):
        def used(self, device: torch.device) -> float:
            batches.append(len(Parabola.sizes))
            return super().used(device)

    find(recipe(model := Parabola(), Zeros(64), accumulate_grad_batches=12), Watch())
    assert batches == [24, 24, 24]
    assert len(model.rates) >= 6


def test_the_speed_is_that_of_the_fastest_batch() -> None:
    clock = Clock()
    clock.seconds, clock.examples = [9.0, 2.0, 4.0, 1.0], [16, 16, 16, 4]
    assert clock.speed == 8


def test_everything_is_trained_when_memory_is_measured() -> None:
    wanted: list[bool] = []

    class Watched(ClassificationTask):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            wanted.extend(p.requires_grad for p in self.parameters())

    model = Watched(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), 2)
    find(recipe(model, Data(32), callbacks=[LayerFreezing(train=1, every=1)]), Stand())
    assert all(wanted)


def test_the_peak_of_one_size_is_not_that_of_the_next() -> None:
    memory, cpu = Memory(), torch.device("cpu")
    large = torch.ones(50_000_000)
    before = memory.used(cpu)
    del large
    memory.begin(cpu)
    if not Path("/proc/self/clear_refs").exists():
        pytest.xfail("only Linux forgets a peak")
    assert memory.used(cpu) < before - 150e6
    assert memory.used(cpu) < memory.there(cpu)


def test_a_peak_that_stays_ends_the_search_too() -> None:
    tried = {16: Tried(16, 900.0, 1.0, "above 80% of the memory")}
    sizes = []
    while (size := next_size(tried, 1000, 800.0)) is not None:
        sizes.append(size)
        tried[size] = Tried(size, 900.0, 1.0, "above 80% of the memory")
    assert sizes == [8, 4, 2, 1]


# The command line ---------------------------------------------------------------------------------------------------


def test_the_rate_is_printed_and_drawn_and_no_run_is_left(zoo: Zoo) -> None:
    result = zoo("fit", RECIPE, "--find-lr", "--runs=out")
    assert result.code == 0, result.err
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert files == [Path("out", RECIPE, "lr_range.png")]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    lines = result.out.splitlines()
    assert [line.split()[0] for line in lines] == ["steps", "loss", "suggested", "picture"]
    option, rate = lines[2].partition("--model.lr ")[1:]
    assert option
    assert 1e-5 < float(rate.split()[0]) < 1
    growing = "--trainer.callbacks=[{class_path: callbacks.BatchSizeSchedule, init_args: {milestones: [0.5]}}]"
    again = zoo("fit", "--find-lr", "-c", RECIPE, "--runs=out", growing)
    assert again.out == result.out
    assert_one_line(zoo("fit", RECIPE, "--runs=out", "--resume"), "no run of")


def test_batch_sizes_are_printed_and_nothing_is_left(zoo: Zoo) -> None:
    result = zoo("fit", RECIPE, "--find-batch-size", "--data.batch_size=512")
    assert result.code == 0, result.err
    assert not list(Path().iterdir())
    rows = [line.split() for line in result.out.splitlines()]
    assert [row[0] for row in rows[1:4]] == ["512", "1024", "1293"]
    assert "--data.batch_size 1293" in result.out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("fit", "--find-lr"), ("no recipe given", "--find-lr")),
        (("fit", RECIPE, "--find-lr", "--find-batch-size"), ("--find-lr and --find-batch-size", "one of the two")),
        (("fit", RECIPE, "--find-lr", "--resume"), ("--find-lr", "leave --resume out")),
        (("fit", RECIPE, "--find-batch-size", "--logger=csv"), ("--find-batch-size", "leave --logger out")),
        (("fit", RECIPE, "--find-lr=3"), ("--find-lr takes no value", "3")),
        (("fit", RECIPE, "--find-lrs"), ("--find-lrs", "did you mean '--find-lr'")),
        (("test", RECIPE, "--ckpt=none.ckpt", "--find-lr"), ("none.ckpt",)),
        (("check", RECIPE, "--find-lr"), ("--find-lr",)),
        (("fit", "gan/gan_grid", "--find-lr"), ("trained by hand",)),
        (("fit", RECIPE, "--find-lr", "--model.optimizer=LBFGS", "--model.weight_decay=0"), ("LBFGS", "line")),
        (("fit", "data.yaml", "--find-lr"), ("no data section",)),
        (("fit", "data.yaml", "--find-batch-size"), ("no data section",)),
        (
            (
                *("fit", RECIPE, "--find-batch-size", "--trainer.callbacks+=callbacks.BatchSizeSchedule"),
                *("--trainer.callbacks.milestones=[0.5, 0.75]", "--trainer.callbacks.factor=4"),
            ),
            ("BatchSizeSchedule grows it by 16", "divide what is found by 16"),
        ),
    ],
)
def test_bad_input_is_one_line(zoo: Zoo, args: tuple[str, ...], words: tuple[str, ...]) -> None:
    Path("data.yaml").write_text("model: {class_path: zoo.LeNetClassifier}\n")
    assert_one_line(zoo(*args), *words)
    assert not Path("runs").exists()
