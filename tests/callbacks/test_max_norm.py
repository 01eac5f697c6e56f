"""Max-norm against a formula in NumPy for each kind of layer, and in whole runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import Memory, Patterns, PatternTask, SaveEverywhere, fit_patterns, quiet_trainer, same_weights
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader

import zoo
from callbacks import EMA, LayerFreezing, MaxNorm, UpdateRatio
from zoo.blocks import MultiHeadAttention

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
]
C = 0.3


class Parts(LightningModule):
    """Any parameters, each of which moves by 0.1 times a fixed gradient."""

    def __init__(self, build: Any = lambda p: SGD(p, lr=0.1), **parts: nn.Module) -> None:
        super().__init__()
        self.build = build
        self.parts = nn.ModuleDict(parts)
        generator = torch.Generator().manual_seed(1)
        self.slopes = {n: torch.randn(p.shape, generator=generator) for n, p in self.parts.named_parameters()}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        trained = [(n, p) for n, p in self.parts.named_parameters() if p.requires_grad]
        return sum(((p * self.slopes[n]).sum() for n, p in trained), torch.zeros(()))

    def configure_optimizers(self) -> Any:
        return self.build(list(self.parameters()))


def fit(module: LightningModule, *callbacks: Callback, batches: int = 1, **options: Any) -> dict[str, Tensor]:
    """The weights after a fit."""
    trainer = quiet_trainer(*callbacks, max_epochs=1, **options)
    trainer.fit(module, DataLoader(torch.zeros(batches, 1), batch_size=1))
    return {name: value.clone() for name, value in module.state_dict().items()}


def rows(weight: np.ndarray) -> np.ndarray:
    """Scaled by the formula, in float64: each row at most C long."""
    flat = weight.reshape(len(weight), -1)
    norms = np.sqrt((flat**2).sum(1))
    return (flat * np.minimum(1, C / np.maximum(norms, 1e-30))[:, None]).reshape(weight.shape)


def transposed(weight: np.ndarray, groups: int) -> np.ndarray:
    """Of a transposed convolution ``(C, W / G, ...)``: unit by unit."""
    scaled = weight.copy()
    inputs, units = len(weight) // groups, weight.shape[1]
    for group in range(groups):
        for unit in range(units):
            block = weight[group * inputs : (group + 1) * inputs, unit]
            norm = np.sqrt((block**2).sum())
            scaled[group * inputs : (group + 1) * inputs, unit] = block * min(1, C / norm)
    return scaled


LAYERS: dict[str, tuple[Any, Any]] = {  # layer, and how each of its scaled weights is computed; None: left alone
    "linear": (lambda: nn.Linear(5, 4), {"weight": rows, "bias": None}),
    "bilinear": (lambda: nn.Bilinear(3, 2, 4), {"weight": rows, "bias": None}),
    "conv": (lambda: nn.Conv2d(4, 6, 3, groups=2), {"weight": rows, "bias": None}),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3), {"weight": lambda w: transposed(w, 1), "bias": None}),
    "grouped": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), {"weight": lambda w: transposed(w, 2), "bias": None}),
    "lstm": (
        lambda: nn.LSTM(3, 4, bidirectional=True, proj_size=2),
        {
            f"{kind}_l0{way}": None if kind.startswith("bias") else rows
            for kind in ("weight_ih", "weight_hh", "weight_hr", "bias_ih", "bias_hh")
            for way in ("", "_reverse")
        },
    ),
    "cell": (
        lambda: nn.GRUCell(3, 2),
        {"weight_ih": rows, "weight_hh": rows, "bias_ih": None, "bias_hh": None},
    ),
    "attention": (
        lambda: nn.MultiheadAttention(4, 2),
        {"in_proj_weight": rows, "in_proj_bias": None, "out_proj.weight": rows, "out_proj.bias": None},
    ),
    "ours": (
        lambda: MultiHeadAttention(4, 2),
        {"in_proj_weight": rows, "in_proj_bias": None, "out_proj.weight": rows, "out_proj.bias": None},
    ),
    "others": (
        lambda: nn.Sequential(nn.Embedding(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)),
        {"0.weight": None, "1.weight": None, "1.bias": None, "2.weight": rows, "2.bias": None},
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_each_unit_is_scaled_by_the_formula(name: str) -> None:
    layer, formulas = LAYERS[name]
    torch.manual_seed(0)
    module = Parts(part=layer())
    stepped = {
        n: (p.detach().double() - 0.1 * module.slopes[n].double()).numpy() for n, p in module.parts.named_parameters()
    }
    after = fit(module, MaxNorm(C))
    assert {n.removeprefix("part.") for n in stepped} == formulas.keys()
    scaled = 0
    for key, weight in stepped.items():
        formula = formulas[key.removeprefix("part.")]
        wanted = weight if formula is None else formula(weight)
        torch.testing.assert_close(after[f"parts.{key}"].double(), torch.from_numpy(wanted), atol=1e-6, rtol=1e-6)
        scaled += int(not np.allclose(wanted, weight))
    assert scaled == sum(formula is not None for formula in formulas.values())


def test_short_rows_stay_as_they_are_to_the_bit_and_zeros_are_no_trouble() -> None:
    def build() -> Parts:
        torch.manual_seed(0)
        layer = nn.Linear(5, 4)
        layer.weight.data[1] *= 1e-3
        module = Parts(part=layer)
        module.slopes["part.weight"][1:3] *= 1e-3
        layer.weight.data[2] = module.slopes["part.weight"][2] = 0
        return module

    plain, scaled = fit(build())["parts.part.weight"], fit(build(), MaxNorm(C))["parts.part.weight"]
    assert not plain[2].any()
    assert torch.equal(plain[1:3], scaled[1:3])
    assert (scaled[[0, 3]].norm(dim=1) < plain[[0, 3]].norm(dim=1)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_norms_of_16_bit_weights_are_summed_in_32(dtype: torch.dtype) -> None:
    module = Parts(part=nn.Linear(300, 2, bias=False)).to(dtype)
    module.parts["part"].weight.data.fill_(300.0)  # their squares are beyond float16
    module.slopes["part.weight"] = torch.zeros(2, 300, dtype=dtype)
    norms = fit(module, MaxNorm(3.0))["parts.part.weight"].double().norm(dim=1)
    assert norms.tolist() == pytest.approx([3.0] * 2, rel={torch.float64: 1e-12}.get(dtype, 1e-2))


def test_named_layers_alone_with_or_without_net_in_front() -> None:
    class Net(Parts):
        def __init__(self) -> None:
            super().__init__(a=nn.Linear(5, 4), b=nn.Sequential(nn.Linear(5, 4), nn.ReLU()))
            self.net = self.parts

    for names, kept in ((["a"], ["b"]), (["b"], ["a"]), (["net.b", "a"], []), (["parts.b.0"], ["a"]), (None, [])):
        torch.manual_seed(0)
        plain = fit(Net())
        torch.manual_seed(0)
        scaled = fit(Net(), MaxNorm(C, layers=names))
        for name, value in plain.items():
            same = "bias" in name or any(name.startswith((f"parts.{part}.", f"net.{part}.")) for part in kept)
            assert torch.equal(value, scaled[name]) == same, (names, name)


def test_a_weight_tied_to_an_embedding_is_left_alone() -> None:
    class Tied(Parts):
        def __init__(self) -> None:
            super().__init__(head=nn.Linear(4, 6, bias=False), hidden=nn.Linear(4, 4), table=nn.Embedding(6, 4))
            self.parts["table"].weight = self.parts["head"].weight

    torch.manual_seed(0)
    plain = fit(Tied())
    torch.manual_seed(0)
    scaled = fit(Tied(), MaxNorm(C))
    assert torch.equal(plain["parts.head.weight"], scaled["parts.head.weight"])
    assert not torch.equal(plain["parts.hidden.weight"], scaled["parts.hidden.weight"])


class After(Callback):
    """The weights after each batch."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.weights.append({n: v.clone() for n, v in pl_module.state_dict().items()})


def test_accumulated_batches_scale_once_a_window() -> None:
    torch.manual_seed(0)
    module, after = Parts(part=nn.Linear(5, 4)), After()
    start = module.parts["part"].weight.detach().clone()
    assert (start.norm(dim=1) > C).all()
    fit(module, after, MaxNorm(C), batches=4, accumulate_grad_batches=2)
    weights = [w["parts.part.weight"] for w in after.weights]
    assert torch.equal(weights[0], start)
    assert torch.equal(weights[2], weights[1])
    assert (torch.stack([weights[1], weights[3]]).norm(dim=2) <= C + 1e-6).all()


def test_what_is_frozen_or_has_no_gradient_is_not_moved() -> None:
    class Half(Parts):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return (
                self.parts["a"].weight * self.slopes["a.weight"]
            ).sum()  # b is in the optimizer, and has no gradient

    torch.manual_seed(0)
    module = Half(a=nn.Linear(5, 4), b=nn.Linear(5, 4), frozen=nn.Linear(5, 4).requires_grad_(False))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    after = fit(module, MaxNorm(C), batches=2)
    moved = [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert moved == ["parts.a.weight"]


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_the_scaler_skips_moves_nothing(fused: bool) -> None:
    class Overflows(Parts):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) * (3e38 if batch_idx == 0 else 1)

    torch.manual_seed(0)
    module, after = Overflows(lambda p: Adam(p, lr=0.1, fused=fused), part=nn.Linear(5, 4)), After()
    start = module.parts["part"].weight.detach().clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    fit(module, after, MaxNorm(C), batches=2, plugins=MixedPrecision("16-mixed", "cpu", scaler))
    first, second = (w["parts.part.weight"] for w in after.weights)
    assert (start.norm(dim=1) > C).all()
    assert torch.equal(first, start)
    assert (second.norm(dim=1) <= C + 1e-6).all()


class Manual(Parts):
    """The second optimizer makes every other step, and two in a row."""

    def __init__(self) -> None:
        super().__init__(a=nn.Linear(5, 4), b=nn.Linear(5, 4))
        self.automatic_optimization = False
        self.seen: list[tuple[bool, bool]] = []  # after each step: whether a, b are within the norm

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        for i, optimizer in enumerate(self.optimizers()):
            for _ in range(1 if i == 0 else 2 * (batch_idx % 2)):
                optimizer.zero_grad()
                self.manual_backward(super().training_step(batch, batch_idx))
                optimizer.step()
                weights = [self.parts[name].weight.detach().norm(dim=1).max() <= C + 1e-6 for name in "ab"]
                self.seen.append((bool(weights[0]), bool(weights[1])))

    def configure_optimizers(self) -> Any:
        return [SGD(self.parts[name].parameters(), lr=0.1) for name in "ab"]


def test_each_optimizer_scales_its_own_after_each_of_its_steps() -> None:
    torch.manual_seed(0)
    module = Manual()
    fit(module, MaxNorm(C), batches=2)
    assert module.seen == [(True, False), (True, False), (True, True), (True, True)]


def test_an_optimizer_whose_step_calls_that_of_its_base_class_scales_at_the_end() -> None:
    within: list[bool] = []

    class Twice(SGD):
        def step(self, closure: Any = None) -> Any:
            for _ in range(2):
                loss = super().step(closure)  # runs the hooks, too
                within.append(bool((self.param_groups[0]["params"][0].norm(dim=1) <= C + 1e-6).all()))
            return loss

    torch.manual_seed(0)
    after = fit(Parts(lambda p: Twice(p, lr=0.1), part=nn.Linear(5, 4)), MaxNorm(C))
    assert not any(within)
    assert (after["parts.part.weight"].norm(dim=1) <= C + 1e-6).all()


def test_an_update_is_measured_before_it_is_scaled_wherever_the_callback_stands() -> None:
    ratios = []
    for callbacks in ([], [0], [1]):
        torch.manual_seed(0)
        logger = Memory()
        both: list[Callback] = [UpdateRatio()]
        if callbacks:
            both.insert(callbacks[0], MaxNorm(C))
        fit(Parts(part=nn.Linear(5, 4)), *both, logger=logger)
        ratios.append(logger.values("update_ratio"))
    assert ratios[0] == ratios[1] == ratios[2] != []


# Whole runs ------------------------------------------------------------------------------------------------------------


def longest(weights: dict[str, Tensor]) -> float:
    return max(v.flatten(1).norm(dim=1).max().item() for n, v in weights.items() if n.endswith("weight") and v.ndim > 1)


def test_a_task_and_its_average_stay_within_the_norm() -> None:
    plain, _ = fit_patterns(epochs=2)
    task, _ = fit_patterns(EMA(0.5), MaxNorm(C), epochs=2)
    assert longest(plain.weights[-1]) > 2 * C
    assert max(longest(weights) for weights in task.weights) <= C + 1e-6
    average = task.state_dict()
    assert not torch.equal(average["net.13.weight"], task.weights[-1]["net.13.weight"])
    assert longest(average) <= C + 1e-6


def test_resuming_is_the_uninterrupted_run(tmp_path: Path) -> None:
    whole, _ = fit_patterns(MaxNorm(C), EMA(0.8), SaveEverywhere(tmp_path), epochs=2)
    for step in (3, 5, 7):
        path = tmp_path / f"step-{step}.ckpt"
        resumed, _ = fit_patterns(MaxNorm(C), EMA(0.8), ckpt=path, epochs=2, seed=8)
        assert same_weights(resumed, whole)


def test_a_layer_is_scaled_from_when_on_it_is_unfrozen() -> None:
    task = PatternTask()
    start = task.state_dict()["net.0.weight"].clone()
    fit_patterns(LayerFreezing("head", milestones={1: "all"}), MaxNorm(C), task=task, epochs=2)
    assert torch.equal(task.weights[4]["net.0.weight"], start)
    assert start.flatten(1).norm(dim=1).max() > C
    assert longest(task.weights[5]) <= C + 1e-6


class Write(Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save(pl_module.state_dict(), self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def test_ranks_are_equal_to_the_bit_and_train_as_one_process_does(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    for ranks in (1, 2):
        seed_everything(0, verbose=False)
        trainer = quiet_trainer(MaxNorm(C), Write(tmp_path), ranks=ranks, max_epochs=1, limit_val_batches=0)
        trainer.fit(PatternTask(norm=False, dropout=0.0), datamodule=Patterns(batch_size=12 // ranks))
    one, *two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    assert all(torch.equal(value, two[1][name]) for name, value in two[0].items())
    assert longest(one) <= C + 1e-6
    for name, value in one.items():
        torch.testing.assert_close(two[0][name], value, atol=1e-4, rtol=1e-3)


# What is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_norm": 0}, ValueError, "max_norm must be a finite number > 0, got 0"),
        ({"max_norm": float("inf")}, ValueError, "max_norm must be a finite number > 0, got inf"),
        ({"max_norm": True}, TypeError, "max_norm must be a number > 0, got True"),
        ({"layers": "fc1"}, TypeError, r"layers must be a list of names, such as \['fc1'\], got 'fc1'"),
        ({"layers": []}, ValueError, "layers names none: leave it out for all layers"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MaxNorm(**arguments)


def test_layers_that_are_not_there_or_have_no_such_weights_are_refused() -> None:
    task = zoo.LeNetClassifier()
    for layers, message in (
        (
            ["fc1", "cf2"],
            r"LeNetClassifier has no layer 'cf2', did you mean 'fc2'\?; those with weights are conv1, conv2, ",
        ),
        (["activation"], "layer 'activation' of LeNetClassifier, a Tanh, has no weights of units"),
    ):
        with pytest.raises(ValueError, match=message):
            quiet_trainer(MaxNorm(layers=layers), max_epochs=1).fit(task, datamodule=Patterns())
    with pytest.raises(
        ValueError, match="Parts has no linear, convolutional, recurrent or attention layer with weights"
    ):
        fit(Parts(part=nn.BatchNorm1d(3)), MaxNorm())


def test_an_optimizer_that_averages_is_refused() -> None:
    task = PatternTask(optimizer="AdamWScheduleFree", weight_decay=0.0)
    with pytest.raises(ValueError, match="AdamWScheduleFree averages the weights from numbers of its own"):
        fit_patterns(MaxNorm(), task=task, epochs=1)
