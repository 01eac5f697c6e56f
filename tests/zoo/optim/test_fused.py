"""torch's fused kernels: taken where they are right, equal to the plain ones, and resumed as the checkpoint says."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import Memory, PatternTask, SaveOnce, fit_patterns, same_weights
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from callbacks import GradNorm, LayerFreezing, LRSchedule
from zoo.optim import fused
from zoo.optim.optimizers import build_optimizer, optimizer_class

PLAIN = {"fused": False, "foreach": False}
MOMENTUM = {"momentum": 0.9}


class Mixed(nn.Module):
    """Parameters of all kinds: a matrix, a kernel whose channels lie last in memory, a bias, one number, none."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        shapes: dict[str, tuple[int, ...]] = {"a": (4, 3), "b": (4, 3, 3, 3), "c": (4,), "d": (), "e": (0, 2)}
        for name, shape in shapes.items():
            value = torch.randn(shape, generator=g, dtype=torch.float64)
            value = value.to(memory_format=torch.channels_last) if value.ndim == 4 else value
            self.register_parameter(name, nn.Parameter(value))


def steps(optimizer: Any, parameters: Iterable[Tensor], count: int = 5, late: int = -1) -> list[Tensor]:
    """The parameters after some steps along random gradients; that of number ``late`` has none in the first two."""
    parameters, g = list(parameters), torch.Generator().manual_seed(1)
    for step in range(count):
        for i, p in enumerate(parameters):
            gradient = torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype)
            p.grad = None if i == late and step < 2 else torch.empty_like(p).copy_(gradient)
        optimizer.step()
    return [p.detach().clone() for p in parameters]


def assert_equal(ours: list[Tensor], peer: list[Tensor], tolerance: float = 1e-13) -> None:
    for one, two in zip(ours, peer, strict=True):
        torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)


def is_fused(optimizer: Any) -> bool:
    flags = {bool(group.get("fused")) for group in optimizer.param_groups}
    assert len(flags) == 1
    return flags.pop()


ARGUMENTS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"dampening": 0.5}),
    ("SGD", MOMENTUM),
    ("SGD", {**MOMENTUM, "nesterov": True}),
    ("SGD", {**MOMENTUM, "maximize": True}),
    *[(name, options) for name in ("Adam", "AdamW") for options in ({}, {"amsgrad": True}, {"maximize": True})],
    ("AdamW", {"betas": [0.8, 0.9], "eps": 1e-3}),
    ("Adagrad", {}),
    ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5, "maximize": True}),
]


@pytest.mark.parametrize("late", [-1, 1], ids=["all", "one later"])
@pytest.mark.parametrize("rate", [0.05, torch.tensor(0.05, dtype=torch.float64)], ids=["number", "tensor"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(("name", "options"), ARGUMENTS)
def test_the_steps_are_those_of_torchs_plain_optimizer(
    name: str, options: dict[str, Any], decay: float, rate: Any, late: int
) -> None:
    net, twin = Mixed(), Mixed()
    optimizer = build_optimizer(net, name, 0.05, decay, options, decay_norm_and_bias=False)
    assert is_fused(optimizer)
    groups = [
        {"params": [twin.a, twin.b], "weight_decay": decay},
        {"params": [twin.c, twin.d, twin.e], "weight_decay": 0.0},
    ]
    peer: Any = optimizer_class(name)(groups, lr=0.05, **options, **PLAIN)
    for group in (*optimizer.param_groups, *peer.param_groups):
        group["lr"] = rate
    assert_equal(steps(optimizer, net.parameters(), late=late), steps(peer, twin.parameters(), late=late))


def test_a_kernel_that_is_asked_for_starts_a_dampened_momentum_as_the_plain_one() -> None:
    ends, options = [], {**MOMENTUM, "dampening": 0.5}
    for choice in ({"fused": True}, PLAIN):
        net = Mixed()
        optimizer = build_optimizer(net, "SGD", 0.05, 0.0, {**options, **choice}, decay_norm_and_bias=False)
        ends.append(steps(optimizer, net.parameters()))
    assert_equal(*ends)


class Complex(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2, dtype=torch.complex64)


class Strided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(4, 6)[:, ::2])


class Own(nn.Parameter):
    """A tensor of one's own kind, such as a sharded one."""


class OwnKind(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = Own(torch.zeros(3))


class OwnAdam(torch.optim.Adam):
    """An optimizer of one's own."""


@pytest.mark.parametrize(
    ("net", "name", "options"),
    [
        *[(nn.Linear(2, 2), "SGD", {choice: value}) for choice in fused.KERNELS for value in (None, False)],
        (nn.Linear(2, 2), "AdamW", {"foreach": True}),
        (nn.Linear(2, 2), "AdamW", {"differentiable": True}),
        (nn.Linear(2, 2), "SGD", {**MOMENTUM, "dampening": 0.5}),  # one that joins later would start otherwise
        (nn.Linear(2, 2), "RMSprop", {}),
        (nn.Linear(2, 2), f"{__name__}.OwnAdam", {}),
        (nn.Linear(2, 2, device="meta"), "AdamW", {}),
        (nn.Linear(2, 2).to(torch.float8_e4m3fn), "SGD", {}),
        (Complex(), "SGD", {}),
        (nn.Sequential(nn.Linear(2, 2), Strided()), "Adagrad", {}),
        (OwnKind(), "Adam", {}),
        (nn.EmbeddingBag(3, 2, sparse=True), "SGD", {}),
        (nn.Sequential(nn.Linear(2, 2), nn.Embedding(3, 2, sparse=True)), "Adagrad", {}),
    ],
)
def test_where_there_is_no_kernel_the_plain_one_steps(net: nn.Module, name: str, options: dict[str, Any]) -> None:
    optimizer = build_optimizer(net, name, 0.05, 0.0, options, decay_norm_and_bias=False)
    assert not any(group.get("fused") for group in optimizer.param_groups)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_real_type_has_its_kernel(dtype: torch.dtype) -> None:
    net = nn.ModuleList([nn.Linear(2, 2, dtype=dtype), nn.Linear(2, 2)])  # two types in one group
    optimizer = build_optimizer(net, "torch.optim.AdamW", 0.05, 0.1, {}, decay_norm_and_bias=True)
    assert is_fused(optimizer)
    before = [p.detach().clone() for p in net.parameters()]
    assert all((a != b).any() for a, b in zip(before, steps(optimizer, net.parameters(), 1), strict=True))


def test_looking_for_a_kernel_draws_nothing() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    build_optimizer(Mixed(), "AdamW", 0.05, 0.1, {}, decay_norm_and_bias=False)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("name", ["SGD", "Adam", "Adagrad"])
def test_a_loaded_state_may_lie_otherwise_in_memory(name: str) -> None:
    options = MOMENTUM if name == "SGD" else {}
    ends = []
    for contiguous in (False, True):
        net = Mixed()
        optimizer = build_optimizer(net, name, 0.05, 0.0, options, decay_norm_and_bias=False)
        steps(optimizer, net.parameters())
        saved = optimizer.state_dict()
        for state in saved["state"].values() if contiguous else ():
            state.update({k: v.contiguous() for k, v in state.items()})
        optimizer.load_state_dict(saved)
        ends.append(steps(optimizer, net.parameters()))
    assert_equal(ends[0], ends[1], 0)


def test_a_state_of_a_device_whose_kernel_is_not_here_goes_on_with_the_plain_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = Mixed()
    saved = build_optimizer(net, "Adagrad", 0.05, 0.0, {}, decay_norm_and_bias=False).state_dict()

    def absent(*args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("Could not run 'aten::_fused_adagrad_'")

    monkeypatch.setattr(torch, "_fused_adagrad_", absent)
    optimizer = build_optimizer(net, "Adagrad", 0.05, 0.0, {}, decay_norm_and_bias=False)
    optimizer.load_state_dict(saved)
    assert not is_fused(optimizer)
    assert len(steps(optimizer, net.parameters())) == 5


# In a fit --------------------------------------------------------------------------------------------------------------


def task_of(name: str, **task: Any) -> PatternTask:
    torch.manual_seed(0)
    return PatternTask(dropout=0.0, optimizer=name, **task)


def half() -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))


def clipped_fit(precision: str, options: dict[str, Any], **clip: Any) -> tuple[LightningModule, bool, list[Any]]:
    """A fit of two epochs: the module, whether it was fused, and the norms that were logged."""
    logger = Memory()
    more: dict[str, Any] = {"plugins": [half()]} if precision == "16-mixed" else {"precision": precision}
    task = task_of("SGD", lr=0.5, weight_decay=0.0, optimizer_args=options)
    task, trainer = fit_patterns(GradNorm(every_n_steps=1), task=task, epochs=2, logger=logger, **more, **clip)
    assert task.hparams["optimizer_args"] == options
    return task, is_fused(trainer.optimizers[0]), logger.values("grad_norm")


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true", "bf16-mixed", "16-mixed"])
def test_clipping_is_that_of_the_plain_kernel_in_every_precision(precision: str, algorithm: str) -> None:
    clip = {"gradient_clip_val": 1e-2, "gradient_clip_algorithm": algorithm}
    plain, without, norms = clipped_fit(precision, PLAIN, **clip)
    assert not without
    close = 1e-2 if "16" in precision else 1e-5
    unclipped, *_ = clipped_fit(precision, PLAIN)
    assert distance(plain, unclipped) > 10 * close
    for options in ({}, {"fused": True}):
        ours, taken, logged = clipped_fit(precision, options, **clip)
        assert taken == (precision != "16-mixed" or "fused" in options)
        assert distance(ours, plain) < close
        assert [value for _, value in logged] == pytest.approx([value for _, value in norms], rel=close)


def distance(one: LightningModule, two: LightningModule) -> float:
    """The largest difference of two trained parameters."""
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_layers_that_are_unfrozen_join_as_with_the_plain_kernel(name: str) -> None:
    ends = []
    for choice in ({}, PLAIN):
        options = {**(MOMENTUM if name == "SGD" else {}), **choice}
        task = task_of(name, optimizer_args=options)
        task, trainer = fit_patterns(LayerFreezing(every=1), LRSchedule(), task=task, precision="64-true")
        assert is_fused(trainer.optimizers[0]) == (not choice)
        ends.append(task)
    assert distance(*ends) < 1e-8


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adagrad"])
def test_a_run_goes_on_with_the_kernel_of_its_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = MOMENTUM if name == "SGD" else {}

    def run(**more: Any) -> tuple[PatternTask, bool]:
        task = PatternTask(optimizer=name, optimizer_args=options)
        _, trainer = fit_patterns(*more.pop("callbacks", ()), task=task, epochs=3, **more)
        return task, is_fused(trainer.optimizers[0])

    new, old = tmp_path / "new.ckpt", tmp_path / "old.ckpt"
    with monkeypatch.context() as before:  # a version without fused kernels
        before.setattr("zoo.optim.optimizers.can_fuse", lambda *_: False)
        plain, taken = run(callbacks=[SaveOnce(old, 7)])
        assert not taken
    whole, taken = run(callbacks=[SaveOnce(new, 7)])
    assert taken
    assert not same_weights(whole, plain)  # or it would not tell
    for path, fuses, expected in ((new, True, whole), (old, False, plain)):
        resumed, taken = run(ckpt=path, seed=6)
        assert taken == fuses
        assert same_weights(resumed, expected)


def test_a_fused_checkpoint_under_float16_is_unscaled_before_it_is_clipped(tmp_path: Path) -> None:
    path, ends = tmp_path / "float32.ckpt", []
    for choice in ({}, PLAIN):
        options = {**MOMENTUM, **choice}
        fit_patterns(SaveOnce(path, 7), task=task_of("SGD", optimizer_args=options))
        task = task_of("SGD", optimizer_args=options)
        _, trainer = fit_patterns(task=task, ckpt=path, plugins=[half()], gradient_clip_val=1e-2)
        assert is_fused(trainer.optimizers[0]) == (not choice)
        ends.append(task)
    assert distance(*ends) < 1e-5
