"""What holds for every optimizer, through ``Trainer.fit`` in float64: accumulation, schedules, rates of layers, clipping."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kit import quiet_trainer
from lightning.pytorch import Callback, LightningDataModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from callbacks import LRSchedule
from zoo import ClassificationTask
from zoo.optim.optimizers import CLOSURE_OPTIMIZERS, optimizer_class

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
OF_TORCH = [n for n, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, torch.optim.Optimizer)]
OF_TORCH.remove("Optimizer")
NAMES = sorted({*OF_TORCH, "Lion", "MuonAdamW", "AdamWScheduleFree"})
ACCUMULATE = [name for name in NAMES if name not in CLOSURE_OPTIMIZERS]
SPECIAL = ("SparseAdam", "Muon", "MuonAdamW")  # they take nets of their own, or groups that are cut further
RATE = {"Adadelta": 1.0, "SGD": 0.5, "LBFGS": 0.3, "Newton": 0.5}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "RMSprop": {"momentum": 0.5},
    "Newton": {"damping": 0.1},
    "LBFGS": {"max_iter": 3},
    "ASGD": {"t0": 1.0},
}
STEPS = 4


class Bags(nn.Module):
    """A net whose gradient is sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(8, 3, sparse=True, mode="sum")

    def forward(self, x: Tensor) -> Tensor:
        return self.words((3 * x).long().abs() % 8)


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "SparseAdam":
        return Bags().double()
    if name == "Muon":  # it takes matrices alone
        return nn.Linear(4, 3, bias=False).double()
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def task(name: str, **options: Any) -> ClassificationTask:
    defaults = {"lr": RATE.get(name, 0.05), "optimizer_args": ARGUMENTS.get(name)}
    return ClassificationTask(network(name), 3, optimizer=name, **(defaults | options)).double()  # type: ignore[arg-type]


def examples() -> tuple[Tensor, Tensor, Tensor]:
    """Rows, classes, and weights of which some are 0."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(8 * STEPS, 4, generator=g, dtype=torch.float64), torch.randint(3, (8 * STEPS,), generator=g)
    return x, y, torch.tensor([1.0, 0.0, 2.5, 0.3, 1.0], dtype=torch.float64)[torch.arange(8 * STEPS) % 5]


class Cut(LightningDataModule):
    """Steps of eight examples, cut into batches of these sizes."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.sizes = [*sizes] * STEPS

    def train_dataloader(self) -> DataLoader:
        parts = [part.split(self.sizes) for part in examples()]
        return DataLoader([*zip(*parts, strict=True)], batch_size=None)  # type: ignore[arg-type]


def fitted(module: ClassificationTask, data: Cut, *callbacks: Callback, **options: Any) -> list[Tensor]:
    quiet_trainer(*callbacks, max_epochs=1, **options).fit(module, datamodule=data)
    return [p.detach().clone() for p in module.net.parameters()]


def gap(one: list[Tensor], two: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("name", ACCUMULATE)
def test_accumulated_batches_make_the_steps_of_the_whole(name: str) -> None:
    """Batches of other sizes and weights; to 1e-9 in every parameter."""
    start = [p.detach().clone() for p in network(name).parameters()]
    whole = fitted(task(name), Cut(8))
    assert gap(whole, start) > 1e-3
    assert gap(whole, fitted(task(name), Cut(3, 1, 4), accumulate_grad_batches=3)) < 1e-9


@pytest.mark.parametrize("name", CLOSURE_OPTIMIZERS)
def test_those_that_evaluate_a_batch_several_times_refuse_it(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} evaluates the loss of a batch several times a step"):
        fitted(task(name), Cut(4, 4), accumulate_grad_batches=2)


def by_hand(name: str, clip: float, decay: float, factor: Callable[[int], float]) -> list[Tensor]:
    """The steps of the class itself on a plain net, with a group for each linear layer."""
    net: Any = network(name)
    layers, lr = [net[0], net[2], net[4]], RATE.get(name, 0.05)
    groups = [{"params": [*layer.parameters()], "lr": lr * decay ** (2 - i)} for i, layer in enumerate(layers)]
    if decay == 1:
        groups = [{"params": [p for group in groups for p in group["params"]], "lr": lr}]
    rates = [group["lr"] for group in groups]
    more = {"weight_decay": 0.0} if name == "AdamW" else {}  # torch's default is another
    optimizer: Any = optimizer_class(name)(groups, **ARGUMENTS.get(name, {}), **more)
    if hasattr(optimizer, "train"):
        optimizer.train()
    for step, (x, y, weight) in enumerate(zip(*(part.split(8) for part in examples()), strict=True)):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor(step)

        def closure(x: Tensor = x, y: Tensor = y, weight: Tensor = weight) -> Tensor:
            optimizer.zero_grad()
            loss = (cross_entropy(net(x), y, reduction="none") * weight).sum() / weight.sum()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), clip)
            return loss

        optimizer.step(closure)
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    return [p.detach() for p in net.parameters()]


@pytest.mark.parametrize("name", [n for n in [*NAMES, "Newton"] if n not in SPECIAL])
def test_schedules_rates_of_layers_and_clipping_hold(name: str) -> None:
    """Those of a loop by hand. L-BFGS and Newton have one group, a schedule-free optimizer no schedule."""
    schedule = [] if name == "AdamWScheduleFree" else [LRSchedule("cosine")]
    decay, clip = 1.0 if name in CLOSURE_OPTIMIZERS else 0.5, 0.1

    def factor(step: int) -> float:
        return (1 + math.cos(math.pi * step / STEPS)) / 2 if schedule else 1.0

    expected = by_hand(name, clip, decay, factor)
    ours = fitted(task(name, layer_decay=decay), Cut(8), *schedule, gradient_clip_val=clip)
    assert gap(ours, expected) < 1e-9
    if name != "Rprop":  # it sees signs, and its first rate alone
        assert gap(by_hand(name, 1e9, decay, factor), expected) > 1e-6
        assert gap(by_hand(name, clip, decay, lambda step: 0.5), expected) > 1e-6
    if decay < 1:
        assert gap(by_hand(name, clip, 1.0, factor), expected) > 1e-6


def test_muon_holds_them_too() -> None:
    """Its groups are those of the layers, each cut into matrices and the rest; clipped and scheduled as AdamW's."""
    rates: list[dict[str, float]] = []

    class Rates(Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            rates.append({group["name"]: group["lr"] for group in optimizer.param_groups})
            norms.append(nn.utils.get_total_norm([p.grad for p in pl_module.parameters()]).item())

    norms: list[float] = []
    module = task("MuonAdamW", layer_decay=0.5)
    fitted(module, Cut(8), LRSchedule("cosine"), Rates(), gradient_clip_val=0.1)
    assert rates[0]["2/all"] == 0.05
    assert rates[0]["1/all/matrices"] == rates[0]["1/all"] == 0.025
    assert rates[2]["0/all/matrices"] == pytest.approx(0.0125 / 2)
    assert min(norms) > 0.1
