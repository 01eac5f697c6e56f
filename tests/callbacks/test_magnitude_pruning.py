"""Pruning against sorting in NumPy and torch's own masks, and in whole runs."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import (
    PATTERN_BATCHES,
    Memory,
    Patterns,
    PatternTask,
    SaveEverywhere,
    fit_patterns,
    quiet_trainer,
    same_weights,
)
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ModelPruning, WeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer, Rprop
from torch.utils.data import DataLoader

import zoo
from callbacks import EMA, GradNorm, LayerFreezing, LearningCurves, MagnitudePruning, MaxNorm, UpdateRatio
from zoo.optim.muon import MuonAdamW
from zoo.optim.sam import SAM

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
]
CONVOLUTIONS = ("net.0.weight", "net.4.weight", "net.8.weight")
WEIGHTS = (*CONVOLUTIONS, "net.13.weight")  # of a PatternTask


def zeros(weights: dict[str, Tensor], names: Any = WEIGHTS) -> float:
    """Share of zeros."""
    parts = [weights[name] for name in names]
    return sum(int((part == 0).sum()) for part in parts) / sum(part.numel() for part in parts)


class Parts(LightningModule):
    """Any parameters, each of which moves along a fixed gradient."""

    def __init__(self, build: Any = lambda p: SGD(p, lr=0.1), **parts: nn.Module) -> None:
        super().__init__()
        self.build = build
        self.parts = nn.ModuleDict(parts)
        generator = torch.Generator().manual_seed(1)
        self.slopes = {n: torch.randn(p.shape, generator=generator) for n, p in self.parts.named_parameters()}
        self.steps = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.steps += 1
        trained = [(n, p) for n, p in self.parts.named_parameters() if p.requires_grad]
        return sum(((p * self.slopes[n]).sum() for n, p in trained), torch.zeros(()))

    def configure_optimizers(self) -> Any:
        return self.build(list(self.parameters()))


def fit(module: LightningModule, *callbacks: Callback, batches: int = 1, **options: Any) -> dict[str, Tensor]:
    """The weights after a fit of one epoch."""
    trainer = quiet_trainer(*callbacks, **{"max_epochs": 1, **options})
    trainer.fit(module, DataLoader(torch.zeros(batches, 1), batch_size=1))
    return {name: value.clone() for name, value in module.state_dict().items()}


# Which weights -----------------------------------------------------------------------------------------------------------


def every_kind() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "linear": nn.Linear(5, 4),
        "conv": nn.Conv2d(4, 6, 3),
        "lstm": nn.LSTM(3, 4),
        "attention": nn.MultiheadAttention(4, 2),
        "table": nn.Embedding(3, 4),
        "norm": nn.BatchNorm1d(4),
    }


PRUNED = {
    *("linear.weight", "conv.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0"),
    *("attention.in_proj_weight", "attention.out_proj.weight"),
}


def marked(weights: dict[str, np.ndarray], sparsity: float, scope: str) -> dict[str, np.ndarray]:
    """What is pruned, by sorting."""
    groups = [[name] for name in weights] if scope == "layer" else [list(weights)]
    found = {}
    for group in groups:
        sizes = np.sort(np.concatenate([abs(weights[name]).ravel() for name in group]))
        count = round(sparsity * len(sizes))
        found |= {name: abs(weights[name]) < (sizes[count] if count < len(sizes) else np.inf) for name in group}
    return found


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.55])
def test_the_smallest_are_zero_and_all_else_steps_as_ever(scope: Any, sparsity: float) -> None:
    start = {n: p.detach().double().numpy().copy() for n, p in nn.ModuleDict(every_kind()).named_parameters()}
    plain = fit(Parts(**every_kind()))
    after = fit(Parts(**every_kind()), MagnitudePruning(sparsity, scope, start_epoch=0))
    expected = marked({n: w for n, w in start.items() if n in PRUNED}, sparsity, scope)
    assert expected.keys() == PRUNED
    for name in start:
        mask = torch.from_numpy(expected.get(name, np.zeros(start[name].shape, bool)))
        assert torch.equal(after[f"parts.{name}"], plain[f"parts.{name}"].masked_fill(mask, 0)), name
    for key in plain.keys() - {f"parts.{name}" for name in start}:  # statistics of the norm
        assert torch.equal(after[key], plain[key])


def test_equal_weights_are_pruned_in_their_order_and_each_layer_keeps_one() -> None:
    module = Parts(a=nn.Linear(4, 2, bias=False), b=nn.Linear(3, 1, bias=False))
    for weight in module.parameters():
        nn.init.ones_(weight)
    after = fit(module, MagnitudePruning(0.99, "layer", start_epoch=0))
    assert [int((after[f"parts.{name}.weight"] != 0).sum()) for name in "ab"] == [1, 1]
    assert after["parts.a.weight"][1, 3] != 0
    assert after["parts.b.weight"][0, 2] != 0


def test_a_weight_that_is_no_number_is_never_hidden() -> None:
    module = Parts(part=nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        module.parts["part"].weight[0, 1] = torch.nan
    after = fit(module, MagnitudePruning(0.5, start_epoch=0))["parts.part.weight"]
    assert int((after == 0).sum()) == 3
    assert after[0, 1].isnan()


def test_named_layers_alone_with_or_without_net_in_front() -> None:
    class Net(Parts):
        def __init__(self) -> None:
            super().__init__(a=nn.Linear(5, 4), b=nn.Sequential(nn.Linear(5, 4), nn.ReLU()))
            self.net = self.parts

    for names, pruned in ((["a"], "a"), (["net.b", "a"], "ab"), (["parts.b.0"], "b"), (None, "ab")):
        after = fit(Net(), MagnitudePruning(0.5, "layer", names, start_epoch=0))
        shares = {name: zeros(after, [f"parts.{name}"]) for name in ("a.weight", "b.0.weight", "a.bias", "b.0.bias")}
        assert shares == {n: 0.5 if n[0] in pruned and "weight" in n else 0.0 for n in shares}


def test_a_weight_tied_to_an_embedding_is_left_alone_and_a_tied_pair_counts_once() -> None:
    class Tied(Parts):
        def __init__(self) -> None:
            super().__init__(
                head=nn.Linear(4, 6, bias=False),
                hidden=nn.Linear(4, 4, bias=False),
                table=nn.Embedding(6, 4),
                twin=nn.Linear(4, 4, bias=False),
                small=nn.Linear(2, 2, bias=False),
            )
            self.parts["table"].weight = self.parts["head"].weight
            self.parts["twin"].weight = self.parts["hidden"].weight
            nn.init.constant_(self.parts["small"].weight, 9.0)

    class See(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            seen.update({name: value == 0 for name, value in average.average.items()})

    average, seen = EMA(0.5), dict[str, Tensor]()
    after = fit(Tied(), average, See(), MagnitudePruning(0.4), batches=2, max_epochs=2)
    assert zeros(after, ["parts.head.weight", "parts.small.weight"]) == 0
    assert zeros(after, ["parts.hidden.weight"]) == 0.5  # 8 of 16 + 4
    for key in ("parts.hidden.weight", "parts.twin.weight"):
        assert torch.equal(seen[key], after["parts.hidden.weight"] == 0)


# The steps -------------------------------------------------------------------------------------------------------------


def train(module: Any, build: Callable[[nn.Module], Optimizer], masked: bool, clip: float = 0.0) -> list[list[Tensor]]:
    """The weights after each step, and what optimizers keep; masks are torch's, or those of the callback."""

    class Trains(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = module
            self.seen: list[list[Tensor]] = []

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            return nn.functional.cross_entropy(self.net(x), y)

        def on_train_batch_end(self, *_: Any) -> None:
            # of torch's masks, the layer's plain attribute is the masked weight of the last forward
            for layer in self.net:
                if masked and isinstance(layer, nn.Linear):
                    layer(torch.zeros(1, layer.in_features))
            self.seen.append([layer.weight.detach().clone() for layer in self.net if isinstance(layer, nn.Linear)])

        def configure_optimizers(self) -> Any:
            return build(self.net)

    g = torch.Generator().manual_seed(2)
    batches = [(torch.randn(8, 6, generator=g), torch.randint(0, 3, (8,), generator=g)) for _ in range(6)]
    task = Trains()
    callbacks = [] if masked else [MagnitudePruning(0.6, start_epoch=0)]
    options = {"gradient_clip_val": clip} if clip else {}
    trainer = quiet_trainer(*callbacks, max_epochs=1, **options)
    trainer.fit(task, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return task.seen


def muon(net: nn.Module) -> Optimizer:
    matrices = [p for p in net.parameters() if p.ndim == 2]
    rest = [p for p in net.parameters() if p.ndim != 2]
    return MuonAdamW([{"params": matrices, "rows": [[len(p)] for p in matrices]}, {"params": rest}], lr=0.05)


BUILD: dict[str, Callable[[nn.Module], Optimizer]] = {
    "SGD": lambda net: SGD(net.parameters(), lr=0.2, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda net: AdamW(net.parameters(), lr=0.02, weight_decay=0.1),
    "Rprop": lambda net: Rprop(net.parameters(), lr=0.02),
    "SAM": lambda net: SAM(SGD(net.parameters(), lr=0.1), rho=0.5),
    "Muon": muon,
    "LBFGS": lambda net: LBFGS(net.parameters(), lr=0.5, max_iter=3),
}


def small_net() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def pruned_by_torch(net: nn.Sequential) -> nn.Sequential:
    """Each weight becomes a product with a mask, so the loss does not know the pruned ones."""
    layers: Any = [(layer, "weight") for layer in net if isinstance(layer, nn.Linear)]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=0.6)
    return net


@pytest.mark.parametrize(("name", "clip"), [*((name, 0.0) for name in BUILD), ("AdamW", 0.05)])
def test_steps_are_those_of_a_net_without_these_weights(name: str, clip: float) -> None:
    ours = train(small_net(), BUILD[name], masked=False, clip=clip)
    torchs = train(pruned_by_torch(small_net()), BUILD[name], masked=True, clip=clip)
    count = sum(weight.numel() for weight in ours[0])
    for mine, wanted in zip(ours, torchs, strict=True):
        assert sum(int((weight == 0).sum()) for weight in mine) == round(0.6 * count)
        for weight, other in zip(mine, wanted, strict=True):
            torch.testing.assert_close(weight, other, atol=2e-5, rtol=1e-4)
    assert not torch.equal(ours[0][0], ours[-1][0])


def test_curvature_from_before_a_round_is_forgotten() -> None:
    """The second epoch is that of an optimizer which has not seen the dense net."""

    def loss_of(net: nn.Module) -> Tensor:
        x = torch.linspace(-1, 1, 48).view(8, 6)
        return nn.functional.cross_entropy(net(x), torch.arange(8) % 3)

    class Fits(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return loss_of(self.net)

        def configure_optimizers(self) -> Any:
            return BUILD["LBFGS"](self.net)

    task = Fits()
    trainer = quiet_trainer(MagnitudePruning(0.6, start_epoch=1), max_epochs=2)
    trainer.fit(task, DataLoader(torch.zeros(3, 1)))
    net = small_net()
    for epoch in (0, 1):
        net = pruned_by_torch(net) if epoch else net
        optimizer = BUILD["LBFGS"](net)

        def closure(optimizer: Any = optimizer, net: nn.Module = net) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(net)
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
    loss_of(net)  # computes the masked weights
    for mine, wanted in zip(task.net, net, strict=True):
        if isinstance(mine, nn.Linear):
            torch.testing.assert_close(mine.weight, wanted.weight, atol=1e-5, rtol=1e-4)


class States(Callback):
    """After each batch, the largest number that the optimizer keeps for a pruned weight, and the gradient there."""

    def __init__(self, pruning: MagnitudePruning) -> None:
        self.pruning = pruning
        self.largest: list[float] = []
        self.kept = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        (optimizer,) = trainer.optimizers
        found = [torch.zeros(1)]
        for name, parameter in pl_module.named_parameters():
            if (mask := self.pruning.pruned.get(name)) is not None:
                kept = [v for v in optimizer.state[parameter].values() if v.shape == parameter.shape]
                self.kept = max(self.kept, len(kept))
                grads = [parameter.grad] if parameter.grad is not None else []
                found += [value[mask].abs() for value in [parameter.detach(), *kept, *grads]]
        self.largest.append(float(torch.cat(found).max()))


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "Lion", "SAM", "RMSprop"])
def test_weights_gradients_and_momenta_stay_zero_over_all_rounds(optimizer: str) -> None:
    arguments = {"SGD": {"momentum": 0.9}, "SAM": {"base": "AdamW"}, "RMSprop": {"momentum": 0.5}}.get(optimizer)
    pruning = MagnitudePruning(0.8, rounds=2)
    states = States(pruning)
    task, _ = fit_patterns(pruning, states, task=PatternTask(optimizer=optimizer, optimizer_args=arguments), epochs=3)
    assert set(states.largest) == {0.0}
    assert states.kept >= 1
    shares = [zeros(weights) for weights in task.weights]
    total = sum(task.weights[0][name].numel() for name in WEIGHTS)
    expected = [0.0, round(total * (1 - 0.2**0.5)) / total, round(total * 0.8) / total]
    assert shares == [share for share in expected for _ in range(PATTERN_BATCHES)]


def test_rounds_come_when_they_are_due_and_what_is_pruned_stays_so() -> None:
    logger = Memory()
    pruning = MagnitudePruning(0.875, "layer", start_epoch=1, rounds=3, every=2)
    task, _ = fit_patterns(pruning, epochs=7, logger=logger)
    after = [weights["net.13.weight"] == 0 for weights in task.weights[PATTERN_BATCHES - 1 :: PATTERN_BATCHES]]
    assert [int(mask.sum()) for mask in after] == [round(432 * s) for s in (0, 0.5, 0.5, 0.75, 0.75, 0.875, 0.875)]
    assert all(bool((later | ~mask).all()) for mask, later in pairwise(after))
    shares = [zeros(weights) for weights in task.weights[PATTERN_BATCHES - 1 :: PATTERN_BATCHES]]
    assert [value for _, value in logger.values("sparsity")] == pytest.approx(shares, abs=1e-7)
    assert pruning.share_pruned() == shares[-1]
    for name, value in task.weights[-1].items():
        assert name in WEIGHTS or not value.ndim or (value != 0).any()
        if name.endswith("bias"):
            assert (value != 0).all()


def test_accumulated_batches_stay_zero() -> None:
    pruning = MagnitudePruning(0.7, start_epoch=0)
    states = States(pruning)
    fit_patterns(pruning, states, epochs=2, accumulate_grad_batches=2)
    assert set(states.largest) == {0.0}


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_the_scaler_skips_leaves_what_is_pruned(fused: bool) -> None:
    class Overflows(Parts):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) * (3e38 if batch_idx == 0 else 1)

    torch.manual_seed(0)
    module = Overflows(lambda p: Adam(p, lr=0.1, fused=fused), part=nn.Linear(5, 4))
    start = module.parts["part"].weight.detach().clone()
    seen: list[Tensor] = []

    class See(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            seen.append(pl_module.parts["part"].weight.detach().clone())

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    fit(module, See(), MagnitudePruning(0.5, start_epoch=0), batches=2, plugins=plugin)
    mask = start.abs() < start.abs().flatten().sort().values[10]
    assert torch.equal(seen[0], start.masked_fill(mask, 0))
    assert torch.equal(seen[1] == 0, mask)
    assert (seen[1][~mask] != start[~mask]).all()


class Manual(Parts):
    """The second optimizer makes two steps where the first makes one."""

    def __init__(self) -> None:
        super().__init__(a=nn.Linear(5, 4), b=nn.Linear(5, 4))
        self.automatic_optimization = False
        self.seen: list[tuple[float, float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        for i, optimizer in enumerate(self.optimizers()):
            for _ in range(1 + i):
                optimizer.zero_grad()
                self.manual_backward(super().training_step(batch, batch_idx))
                optimizer.step()
                weights = {name: self.parts[name].weight.detach() for name in "ab"}
                self.seen.append((zeros(weights, "a"), zeros(weights, "b")))

    def configure_optimizers(self) -> Any:
        return [SGD(self.parts[name].parameters(), lr=0.1, momentum=0.9) for name in "ab"]


def test_each_optimizer_keeps_its_own_at_zero() -> None:
    torch.manual_seed(0)
    module, logger = Manual(), Memory()
    prunings = [MagnitudePruning(0.5, layers=["parts.a"]), MagnitudePruning(0.75, layers=["parts.b"])]
    fit(module, *prunings, batches=2, max_epochs=2, logger=logger)
    assert module.seen == [(0, 0)] * 6 + [(0.5, 0.75)] * 6
    assert [[v for _, v in logger.values(f"sparsity/{i}")] for i in (0, 1)] == [[0, 0.5], [0, 0.75]]


def test_a_layer_that_is_unfrozen_later_stays_pruned() -> None:
    pruning = MagnitudePruning(0.8, "layer", start_epoch=0)
    states = States(pruning)
    task = PatternTask()
    start = task.state_dict()["net.0.weight"].clone()
    fit_patterns(LayerFreezing("head", milestones={1: "all"}), pruning, states, task=task, epochs=2)
    assert set(states.largest) == {0.0}
    kept = ~pruning.pruned["net.0.weight"]
    assert torch.equal(task.weights[4]["net.0.weight"], start * kept)
    assert (task.weights[-1]["net.0.weight"][kept] != start[kept]).all()


def test_max_norm_scales_what_is_left_wherever_it_stands() -> None:
    class Mixes(SGD):
        """Moves every weight of a row by the row's mean gradient, pruned ones among them."""

        def step(self, closure: Any = None) -> Any:
            loss = closure()
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p.sub_(p.grad.mean(-1, keepdim=True).expand_as(p))
            return loss

    found = []
    for first in (True, False):
        torch.manual_seed(0)
        pair: list[Callback] = [MagnitudePruning(0.5, start_epoch=0), MaxNorm(0.3)]
        module = Parts(lambda p: Mixes(p, lr=1.0), part=nn.Linear(6, 4, bias=False))
        found.append(fit(module, *(pair if first else pair[::-1]), batches=2)["parts.part.weight"])
    assert torch.equal(found[0], found[1])
    assert zeros({"": found[0]}, [""]) == 0.5
    norms = found[0].norm(dim=1)
    assert (norms <= 0.3 + 1e-6).all()
    assert (norms > 0.3 - 1e-6).any()  # nothing was scaled for weights that are gone


def test_what_is_measured_is_the_pruned_net() -> None:
    def measured(*callbacks: Callback) -> dict[str, list[tuple[int, float]]]:
        torch.manual_seed(0)
        logger = Memory()
        module = Parts(part=nn.Linear(5, 4, bias=False))
        fit(module, *callbacks, batches=2, logger=logger)
        slopes = module.slopes["part.weight"][module.parts["part"].weight != 0]
        norms = [value for _, value in logger.values("grad_norm")]
        assert norms == pytest.approx([slopes.norm().item()] * 2, rel=1e-6)
        return {name: logger.values(name) for name in ("grad_norm", "update_ratio")}

    pruning = MagnitudePruning(0.5, start_epoch=0)
    assert measured(GradNorm(), UpdateRatio(), pruning) == measured(pruning, UpdateRatio(), GradNorm())


# Whole runs ------------------------------------------------------------------------------------------------------------


def test_the_average_is_pruned_too() -> None:
    seen: list[float] = []

    class Validated(Callback):
        def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            seen.append(zeros(pl_module.state_dict()))

    task, _ = fit_patterns(EMA(0.9), MagnitudePruning(0.8, rounds=2), Validated(), epochs=4)
    shares = [zeros(weights) for weights in task.weights[PATTERN_BATCHES - 1 :: PATTERN_BATCHES]]
    assert seen == shares
    average = task.state_dict()
    for name in WEIGHTS:
        assert torch.equal(average[name] == 0, task.weights[-1][name] == 0)
    assert not torch.equal(average["net.13.weight"], task.weights[-1]["net.13.weight"])


def test_schedule_free_averages_are_pruned_too() -> None:
    task = PatternTask(optimizer="AdamWScheduleFree", weight_decay=0.0)
    fit_patterns(MagnitudePruning(0.8), task=task, epochs=3)
    total = sum(task.weights[-1][name].numel() for name in WEIGHTS)
    assert zeros(task.weights[-1]) == zeros(task.state_dict()) == round(0.8 * total) / total
    assert not torch.equal(task.state_dict()["net.13.weight"], task.weights[-1]["net.13.weight"])


@pytest.mark.parametrize("average", [True, False])
def test_resuming_is_the_uninterrupted_run(average: bool, tmp_path: Path) -> None:
    def callbacks() -> list[Callback]:
        return [MagnitudePruning(0.9, rounds=2), *([EMA(0.8)] if average else [])]

    whole, _ = fit_patterns(*callbacks(), SaveEverywhere(tmp_path), epochs=3)
    for name in ("step-3", "epoch-5", "step-7", "validation-10", "epoch-10", "step-13"):
        resumed, _ = fit_patterns(*callbacks(), ckpt=tmp_path / f"{name}.ckpt", epochs=3, seed=8)
        assert same_weights(resumed, whole), name


def test_stock_pruning_loses_its_masks_when_it_resumes(tmp_path: Path) -> None:
    """What the masks of ours are tested for above: Lightning's own saves none."""

    def stock() -> ModelPruning:
        return ModelPruning(
            "l1_unstructured", amount=lambda epoch: 0.8 if epoch == 0 else 0.0, use_lottery_ticket_hypothesis=False
        )

    whole, _ = fit_patterns(stock(), SaveEverywhere(tmp_path), epochs=1)
    assert (whole.net[13].weight == 0).float().mean() > 0.5
    resumed, _ = fit_patterns(stock(), ckpt=tmp_path / "step-5.ckpt", epochs=2)
    assert (resumed.net[13].weight == 0).float().mean() < 0.1


def test_a_checkpoint_is_dense_with_zeros_and_loads_without_the_callback(tmp_path: Path) -> None:
    task = zoo.create_model("mlp", in_features=36, num_classes=3, widths=[8])
    seed_everything(0, verbose=False)
    trainer = quiet_trainer(MagnitudePruning(0.75, start_epoch=0), EMA(0.9), max_epochs=1)
    trainer.fit(task, datamodule=Patterns())
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    names = ["net.layers.0.linear.weight", "net.fc.weight"]
    total = sum(task.state_dict()[name].numel() for name in names)
    plain = zoo.create_model("mlp", in_features=36, num_classes=3, widths=[8])
    for loaded in (
        zoo.load(task.save_pretrained(tmp_path / "folder")),
        zoo.load(tmp_path / "model.ckpt"),
        zoo.load(tmp_path / "model.ckpt", average=False),
        type(task).load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True),
    ):
        state = loaded.state_dict()
        assert state.keys() == plain.state_dict().keys()
        assert zeros(state, names) == round(0.75 * total) / total
        assert all(type(p) is nn.Parameter and not p.is_sparse for p in loaded.parameters())
        assert not list(loaded.net.layers[0].linear.named_buffers())


class Write(Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save(pl_module.state_dict(), self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def test_ranks_prune_alike_and_as_one_process_does(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    for ranks in (1, 2):
        seed_everything(0, verbose=False)
        trainer = quiet_trainer(
            MagnitudePruning(0.8, rounds=2), LayerFreezing("head", milestones={2: "all"}), Write(tmp_path), ranks=ranks,
            max_epochs=3, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(PatternTask(norm=False, dropout=0.0), datamodule=Patterns(batch_size=12 // ranks))
    one, *two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    assert all(torch.equal(value, two[1][name]) for name, value in two[0].items())
    names = [name for name, value in one.items() if name.endswith("weight")]
    assert zeros(one, names) > 0.79
    for name, value in one.items():
        assert torch.equal(value == 0, two[0][name] == 0)
        torch.testing.assert_close(two[0][name], value, atol=1e-4, rtol=1e-3)


class Worsens(PatternTask):
    """Its best epoch is the first."""

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log("val/worse", float(self.current_epoch), batch_size=1)


def test_the_best_checkpoint_is_of_the_last_round(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, "best", monitor="val/worse", enable_version_counter=False)
    stop, curves = EarlyStopping("val/worse", patience=2), LearningCurves(tmp_path)
    _, trainer = fit_patterns(
        MagnitudePruning(0.8, start_epoch=2, rounds=2, every=1), best, stop, curves, task=Worsens(), epochs=9
    )
    saved = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert (saved["epoch"], float(best.best_model_score or 0)) == (3, 3.0)  # of the epochs 3, 4, 5
    assert zeros(saved["state_dict"]) > 0.79
    assert curves.best_from == 3 + 1 / PATTERN_BATCHES  # while the first batch of the epoch 3 is trained
    assert trainer.current_epoch == 6  # two epochs without a new best after that of the last round


def test_a_run_that_stops_before_the_last_round_says_so() -> None:
    stop = EarlyStopping("val/worse", patience=2)
    with pytest.warns(UserWarning, match=r"the run ended after 0 of 2 rounds, with 0\.00% of the weights pruned"):
        fit_patterns(MagnitudePruning(0.8, start_epoch=5, rounds=2), stop, task=Worsens(), epochs=9)


def test_a_layer_of_which_nothing_is_left_is_named() -> None:
    module = Parts(a=nn.Linear(4, 2, bias=False), b=nn.Linear(8, 4, bias=False))
    nn.init.constant_(module.parts["a"].weight, 1e-3)
    with pytest.warns(
        UserWarning, match=r"nothing is left of parts\.a\.weight, so no signal passes: take scope='layer'"
    ):
        fit(module, MagnitudePruning(0.5, start_epoch=0))


# What is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sparsity": 1}, ValueError, r"sparsity is a share of the weights in \[0, 1\), got 1$"),
        ({"sparsity": -0.1}, ValueError, r"sparsity is a share of the weights in \[0, 1\), got -0.1$"),
        ({"sparsity": float("nan")}, ValueError, "got nan"),
        ({"sparsity": 90}, ValueError, r"got 90: 90% is 0\.9$"),
        ({"sparsity": True}, TypeError, r"sparsity must be a number in \[0, 1\), got True"),
        ({"sparsity": "0.5"}, TypeError, "sparsity must be a number"),
        ({"sparsity": 0.5, "scope": "net"}, ValueError, "scope must be one of global, layer, got 'net'"),
        ({"sparsity": 0.5, "start_epoch": -1}, ValueError, "start_epoch must be >= 0, got -1"),
        ({"sparsity": 0.5, "rounds": 0}, ValueError, "rounds must be >= 1, got 0"),
        ({"sparsity": 0.5, "every": 0}, ValueError, "every must be >= 1, got 0"),
        ({"sparsity": 0.5, "layers": "fc1"}, TypeError, r"layers must be a list of names, such as \['fc1'\]"),
        ({"sparsity": 0.5, "layers": []}, ValueError, "layers names none: leave it out for all layers"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MagnitudePruning(**arguments)


def refused(module: Any, *callbacks: Callback, match: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=match):
        fit(module, *callbacks, **options)
    assert module.steps == 0


def test_layers_that_cannot_be_pruned_are_refused() -> None:
    task = zoo.LeNetClassifier()
    for layers, message in (
        (
            ["fc1", "cf2"],
            r"LeNetClassifier has no layer 'cf2', did you mean 'fc2'\?; those with weights are conv1, conv2, ",
        ),
        (["activation"], "layer 'activation' of LeNetClassifier, a Tanh, has no weights of units"),
    ):
        with pytest.raises(ValueError, match=f"^MagnitudePruning: .*{message}"):
            quiet_trainer(MagnitudePruning(0.5, layers=layers), max_epochs=2).fit(task, datamodule=Patterns())
    refused(Parts(part=nn.BatchNorm1d(3)), MagnitudePruning(0.5), match="Parts has no linear, convolutional, ")


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: parametrizations.weight_norm(nn.Linear(3, 2)), "0.weight of Sequential"),
        (lambda: parametrizations.spectral_norm(nn.Conv1d(3, 2, 1)), "0.weight of Sequential"),
        (lambda: nn.utils.weight_norm(nn.Linear(3, 2)), "0.weight of Sequential"),
        (lambda: parametrizations.orthogonal(nn.RNN(3, 2), "weight_hh_l0"), "0.weight_hh_l0 of Sequential"),
    ],
)
def test_weights_that_are_computed_are_refused(build: Any, named: str) -> None:
    module = Parts(part=nn.Sequential(build(), nn.Linear(2, 2)))
    refused(
        module, MagnitudePruning(0.5, layers=["parts.part"], start_epoch=0), match=f"{named} is computed from other"
    )
    refused(module, MagnitudePruning(0.5, start_epoch=0), match=r"weight\w* of Parts is computed from other")
    fit(module, MagnitudePruning(0.5, layers=["parts.part.1"], start_epoch=0))


def test_what_no_optimizer_has_is_not_pruned_and_not_to_be_named() -> None:
    def build() -> Parts:
        torch.manual_seed(0)
        module = Parts(lambda _: SGD(module.parts["a"].parameters(), lr=0.1), a=nn.Linear(3, 2), b=nn.Linear(3, 2))
        return module

    after = fit(build(), MagnitudePruning(0.5, start_epoch=0))
    assert (zeros(after, ["parts.a.weight"]), zeros(after, ["parts.b.weight"])) == (0.5, 0)
    refused(
        build(), MagnitudePruning(0.5, layers=["parts.b"], start_epoch=0), match=r"no optimizer has parts\.b\.weight"
    )


def test_a_round_that_the_run_does_not_reach_is_refused() -> None:
    late = MagnitudePruning(0.5, start_epoch=1, rounds=3, every=2)
    refused(Parts(part=nn.Linear(3, 2)), late, match=r"in epoch 5, but the run's epochs are 0\.\.4", max_epochs=5)
    options = {"max_epochs": 9, "max_steps": 10, "batches": 2}
    refused(Parts(part=nn.Linear(3, 2)), late, match=r"in epoch 5, but the run's epochs are 0\.\.4", **options)
    fit(Parts(part=nn.Linear(3, 2)), late, max_epochs=6)
    fit(Parts(part=nn.Linear(3, 2)), late, fast_dev_run=True)


def test_callbacks_that_do_not_go_together_are_refused() -> None:
    both = [MagnitudePruning(0.5, start_epoch=0), MagnitudePruning(0.5, layers=["parts.a"], start_epoch=0)]
    module = Parts(a=nn.Linear(3, 2), b=nn.Linear(3, 2))
    refused(module, *both, match=r"two MagnitudePruning would prune parts\.a\.weight: give each layers of its own")
    refused(module, both[0], WeightAveraging(), match="WeightAveraging keeps an average .*: take callbacks.EMA")


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create")
def test_a_checkpoint_of_other_layers_is_refused(tmp_path: Path) -> None:
    fit_patterns(MagnitudePruning(0.5, start_epoch=0), SaveEverywhere(tmp_path), epochs=1)
    other = MagnitudePruning(0.5, layers=["0"], start_epoch=0)
    with pytest.raises(
        ValueError, match=r"trained with MagnitudePruning, and this run has MagnitudePruning\{layers=\['0'\]\}"
    ):
        fit_patterns(other, ckpt=tmp_path / "step-3.ckpt", epochs=2)
