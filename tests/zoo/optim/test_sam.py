"""SAM through ``Trainer.fit``: a loop by hand in float64, what is seen and kept of its two looks, and what is refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import Memory, PatternTask, SaveEverywhere, fit_patterns, quiet_trainer, same_weights
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW
from torch.utils.data import DataLoader

import zoo
from callbacks import ActivationStats, GradNorm, LRSchedule, UpdateRatio
from zoo import ClassificationTask
from zoo.optim import SAM
from zoo.optim.optimizers import build_optimizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]
RHO, LR, MOMENTUM, DECAY = 0.3, 0.1, 0.9, 0.02
MOMENTUM_SGD = {"rho": RHO, "base": "SGD", "base_args": {"momentum": MOMENTUM}}


class Rows(LightningDataModule):
    """Five batches of eight rows in a fixed order; a rank has every W-th row of each."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(1)
        x, y = torch.randn(40, 4, generator=g, dtype=torch.float64).to(dtype), torch.randint(3, (40,), generator=g)
        self.batches = [*zip(x.split(8), y.split(8), strict=True)]

    def train_dataloader(self) -> DataLoader:
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        return DataLoader([(x[rank::ranks], y[rank::ranks]) for x, y in self.batches], batch_size=None)  # type: ignore[arg-type]


def network(norm: bool = True, dropout: float = 0.3) -> nn.Sequential:
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(6)] if norm else []
    return nn.Sequential(nn.Linear(4, 6), *middle, nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, 3)).double()


def task(net: nn.Module | None = None, **options: Any) -> ClassificationTask:
    defaults: dict[str, Any] = {"optimizer": "SAM", "optimizer_args": MOMENTUM_SGD, "lr": LR}
    return ClassificationTask(net or network(), 3, **(defaults | options)).double()


def fit(
    module: LightningModule, *callbacks: Callback, data: LightningDataModule | None = None, **options: Any
) -> Trainer:
    seed_everything(7, verbose=False)
    trainer = quiet_trainer(*callbacks, **{"max_epochs": 1, "use_distributed_sampler": False, **options})
    trainer.fit(module, datamodule=data or Rows())
    return trainer


class Seeds(Callback):
    """A seed of its own for each batch."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(batch_idx)


class ByHand:
    """Algorithm 1 of the paper with momentum and weight decay, on a net of torch; the second look is that of a copy."""

    def __init__(self, net: nn.Module, batches: Any, clip: float | None = None, l2: float = 0.0) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.ratios: list[float] = []
        weights = [p for p in net.parameters() if p.ndim > 1]

        def gradient(at: nn.Module, x: Tensor, y: Tensor) -> tuple[float, list[Tensor]]:
            loss = cross_entropy(at(x), y)
            penalty = sum(p.square().sum() / 2 for p in at.parameters() if p.ndim > 1)
            return loss.item(), list(torch.autograd.grad(loss + l2 * penalty, list(at.parameters())))

        velocity = [torch.zeros_like(p) for p in net.parameters()]
        for step, (x, y) in enumerate(batches):
            torch.manual_seed(step)
            near = copy.deepcopy(net)
            loss, first = gradient(net, x, y)
            norm = sum(g.square().sum() for g in first) ** 0.5
            with torch.no_grad():
                for p, g in zip(near.parameters(), first, strict=True):
                    p += RHO * g / norm
            torch.manual_seed(step)
            _, second = gradient(near, x, y)
            size = float(sum(g.square().sum() for g in second) ** 0.5)
            self.losses.append(loss)
            self.norms.append(size)
            before = [p.detach().clone() for p in net.parameters()]
            with torch.no_grad():
                for p, g, v in zip(net.parameters(), second, velocity, strict=True):
                    g = g * min(1.0, (clip or size) / (size + 1e-6)) if clip else g
                    decay = DECAY if any(p is w for w in weights) else 0.0
                    v.mul_(MOMENTUM).add_(g + decay * p)
                    p -= LR * v
                moved = sum((p - b).square().sum() for p, b in zip(net.parameters(), before, strict=True)) ** 0.5
                self.ratios.append(float(moved / sum(b.square().sum() for b in before) ** 0.5))


def assert_equal(module: LightningModule, net: nn.Module, bound: float = 1e-12) -> None:
    for name, value in net.state_dict().items():
        torch.testing.assert_close(module.state_dict()[f"net.{name}"], value, atol=bound, rtol=bound)


# The oracle -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("clip", "l2"), [(None, 0.0), (0.05, 0.1)])
def test_steps_are_those_of_algorithm_1(clip: float | None, l2: float) -> None:
    """With dropout (both looks draw the same), batch norm (it sees the first), momentum, decay, clipping and a penalty."""
    logs, net = Memory(), network()
    hand = ByHand(net, Rows().batches, clip, l2)
    more = {"penalties": {"l2": l2}} if l2 else {}
    module = task(weight_decay=DECAY, **more)
    options = {"gradient_clip_val": clip} if clip else {}
    trainer = fit(module, Seeds(), GradNorm(), UpdateRatio(), logger=logs, **options)
    assert_equal(module, net)
    assert trainer.global_step == 5
    steps = [value for _, value in logs.values("train/loss_step")]
    assert steps == pytest.approx(hand.losses, rel=1e-6)  # float32 sums
    assert [value for _, value in logs.values("grad_norm")] == pytest.approx(hand.norms, rel=1e-6)
    assert [value for _, value in logs.values("update_ratio")] == pytest.approx(hand.ratios, rel=1e-6)
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(sum(hand.losses) / 5, rel=1e-6)


def test_by_itself_it_makes_the_same_steps() -> None:
    net, twin = network(norm=False, dropout=0.0), network(norm=False, dropout=0.0)
    ByHand(net, Rows().batches)
    groups = [{"params": [p], "weight_decay": DECAY if p.ndim > 1 else 0.0} for p in twin.parameters()]
    sam = SAM(SGD(groups, lr=LR, momentum=MOMENTUM), rho=RHO)
    for x, y in Rows().batches:

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            sam.zero_grad()
            loss = cross_entropy(twin(x), y)
            loss.backward()
            return loss

        expected = cross_entropy(twin(x), y)
        assert sam.step(closure) == expected
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-12, rtol=1e-12)


def test_a_gradient_of_zero_moves_nothing_and_a_frozen_weight_stays() -> None:
    flat, frozen = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2), requires_grad=False)
    sam = SAM(SGD([flat, frozen], lr=0.5), rho=1.0)
    seen = []

    def closure() -> Tensor:
        sam.zero_grad()
        loss = flat.square().sum()
        loss.backward()
        seen.append(flat.detach().clone())
        return loss

    sam.step(closure)
    assert torch.equal(torch.stack([*seen, flat.data]), torch.zeros(3, 2))
    assert torch.equal(frozen, torch.ones(2))


# What is seen of the two looks -----------------------------------------------------------------------------------------


class Hooks(Callback):
    """The hooks of a step, the loss that is handed on, and the generator after each batch."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.losses: list[float] = []
        self.random: list[Tensor] = []

    def on_after_backward(self, *_: Any) -> None:
        self.names.append("after_backward")

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.names.append("before_step")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].item())
        self.random.append(torch.get_rng_state())


class Logging(ClassificationTask):
    """Logs in its training step."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("own", loss, batch_size=1)
        return loss


def test_hooks_run_once_and_random_numbers_go_on_as_with_one_look() -> None:
    sam, sgd, logs = Hooks(), Hooks(), Memory()
    fit(Logging(network(), 3, optimizer="SAM", optimizer_args=MOMENTUM_SGD).double(), sam, logger=logs)
    fit(task(optimizer="SGD", optimizer_args=None), sgd)
    assert sam.names == ["after_backward", "before_step"] * 5
    assert [value for _, value in logs.values("own")] == pytest.approx(sam.losses)
    assert sam.losses[0] == sgd.losses[0]
    assert sam.losses[1] != sgd.losses[1]
    for one, other in zip(sam.random, sgd.random, strict=True):
        assert torch.equal(one, other)


def test_activations_are_those_of_the_first_look() -> None:
    rows = []
    for name, args in (("SAM", MOMENTUM_SGD), ("SGD", None)):
        logs = Memory()
        fit(task(optimizer=name, optimizer_args=args), ActivationStats(per_layer=True), logger=logs, max_steps=1)
        rows.append({k: v for _, row in logs.rows for k, v in row.items() if k.startswith("activation")})
    assert rows[0]
    assert rows[0] == rows[1]


def test_an_error_in_the_second_look_leaves_the_weights() -> None:
    class Fails(ClassificationTask):
        def training_losses(self, batch: Any) -> Any:
            if self.looks_again:
                raise RuntimeError("the second look")
            return super().training_losses(batch)

    module = Fails(network(), 3, optimizer="SAM", optimizer_args={"rho": 5.0}).double()
    before = {name: value.clone() for name, value in module.state_dict().items() if "running" not in name}
    with pytest.raises(RuntimeError, match="the second look"):
        fit(module)
    assert all(torch.equal(module.state_dict()[name], v) for name, v in before.items() if "tracked" not in name)
    assert not module.looks_again


# What holds with it ----------------------------------------------------------------------------------------------------


def test_two_ranks_make_the_steps_of_one(tmp_path: Path) -> None:
    class Keep(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            torch.save(pl_module.state_dict(), tmp_path / f"{trainer.global_rank}.pt")

    alone = task(network(norm=False), penalties={"l2": 0.1})
    fit(alone, gradient_clip_val=0.2)
    fit(task(network(norm=False), penalties={"l2": 0.1}), Keep(), ranks=2, gradient_clip_val=0.2)
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, value in alone.state_dict().items():
        assert torch.equal(one[name], two[name])
        torch.testing.assert_close(one[name], value, atol=1e-9, rtol=0)


@pytest.mark.parametrize("base", ["AdamW", "SGD", "Lion"])
def test_resuming_is_the_uninterrupted_run(tmp_path: Path, base: str) -> None:
    """With dropout, batch norm, shifted images; from a checkpoint after each step."""

    def build() -> PatternTask:
        torch.manual_seed(4)
        args = {"rho": 0.1, "base": base, "base_args": {"momentum": 0.9} if base == "SGD" else {}}
        return PatternTask(optimizer="SAM", optimizer_args=args)

    whole, _ = fit_patterns(SaveEverywhere(tmp_path), task=build(), epochs=2)
    for name in ("step-3.ckpt", "epoch-5.ckpt", "step-8.ckpt"):
        saved = torch.load(tmp_path / name, weights_only=True)["optimizer_states"][0]
        resumed, trainer = fit_patterns(task=build(), ckpt=tmp_path / name, epochs=2, seed=8)
        assert same_weights(resumed, whole), name
        sam: Any = trainer.optimizers[0]
        assert sam.state is sam.base.state
        assert sam.param_groups is sam.base.param_groups
        states = sam.base.state_dict()["state"]
        assert len(saved["state"]) == len(states) > 0
        assert saved["state"][0].keys() == states[0].keys()


def test_rates_of_layers_and_a_schedule_hold() -> None:
    rates = []
    for name, args in (("SAM", {"base": "AdamW"}), ("AdamW", None)):
        module = PatternTask(optimizer=name, optimizer_args=args, layer_decay=0.5)
        fit_patterns(LRSchedule("cosine", warmup=2), task=module, epochs=2)
        rates.append(module.rates)
    assert rates[0] == rates[1]
    assert len({row["3/decay"] for row in rates[0]}) > 5


def test_in_bfloat16_the_weights_are_put_back_to_the_bit() -> None:
    class Watch(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            assert all(torch.equal(p, b) for p, b in zip(pl_module.parameters(), before, strict=True))

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            before[:] = [p.detach().clone() for p in pl_module.parameters()]

    for precision in ("bf16-mixed", "bf16-true"):
        module = ClassificationTask(network().float(), 3, optimizer="SAM", optimizer_args={"rho": 0.3}, lr=0.05)
        if precision == "bf16-true":
            module.bfloat16()
        before = [p.detach().clone() for p in module.parameters()]
        fit(module, Watch(), data=Rows(torch.float32), precision=precision)
        assert all(p.isfinite().all() for p in module.parameters())


def test_its_base_is_built_as_by_itself() -> None:
    net = zoo.create_model("mlp", in_features=4, widths=[6, 5]).net
    sam: Any = build_optimizer(net, "SAM", 0.1, 0.01, {"base": "AdamW"}, False)
    assert isinstance(sam.base, AdamW)
    assert sam.param_groups[0]["fused"]  # torch's kernel
    muon: Any = build_optimizer(net, "SAM", 0.1, 0.01, {"base": "MuonAdamW"}, False)
    assert any("rows" in group for group in muon.param_groups)
    assert type(zoo.create_model("lenet5", optimizer="SAM").configure_optimizers().base) is SGD


def test_a_folder_keeps_it(tmp_path: Path) -> None:
    made = zoo.create_model("lenet5", optimizer="SAM", optimizer_args=MOMENTUM_SGD)
    made.save_pretrained(tmp_path / "folder")
    assert zoo.load(tmp_path / "folder").configure_optimizers().base.defaults["momentum"] == MOMENTUM


# What is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ({"roh": 0.1}, {}, TypeError, "SAM has no argument 'roh', did you mean 'rho'"),
        ({"momentum": 0.9}, {}, TypeError, "no argument 'momentum'.*; those of the optimizer .* are in base_args"),
        ({"rho": 0.0}, {}, ValueError, "SAM takes rho > 0, got 0.0"),
        ({"rho": "big"}, {}, ValueError, "SAM takes rho > 0, got 'big'"),
        ({"rho": float("nan")}, {}, ValueError, "rho must be a finite number"),
        ({"base": "Adamw"}, {}, ValueError, "unknown optimizer 'Adamw', did you mean 'AdamW'"),
        ({"base": "LBFGS"}, {}, ValueError, "base: SAM takes the name of an optimizer that steps by one gradient"),
        ({"base": "SAM"}, {}, ValueError, "base: SAM takes the name .*, got 'SAM'"),
        ({"base": "AdamWScheduleFree"}, {}, ValueError, "base: SAM takes the name .* at one set of weights"),
        ({"base": "torch.optim.SGD"}, {}, ValueError, "base: SAM takes the name .*, got 'torch.optim.SGD'"),
        ({"base": 3}, {}, ValueError, "base: SAM takes the name .*, got 3"),
        ({"base": "SparseAdam"}, {}, ValueError, "SparseAdam cannot train"),
        ({"base_args": {"momentun": 0.9}}, {}, TypeError, "SGD has no argument 'momentun', did you mean 'momentum'"),
        ({"base_args": [0.9]}, {}, TypeError, r"base_args are arguments of SGD by name, got \[0.9\]"),
        ({"base": "Rprop"}, {"weight_decay": 0.1}, ValueError, "Rprop has no weight decay"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        zoo.create_model("softmax_regression", optimizer="SAM", optimizer_args=arguments, **options)


def test_sparse_gradients_and_a_step_without_a_closure_are_refused() -> None:
    class Words(nn.EmbeddingBag):
        def __init__(self) -> None:
            super().__init__(7, 3, sparse=True, mode="sum")

    with pytest.raises(ValueError, match="SAM cannot train Words: its embeddings give sparse gradients"):
        ClassificationTask(Words(), 3, optimizer="SAM")
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2).to_sparse()
    sam = SAM(SGD([p], lr=0.1))
    with pytest.raises(ValueError, match="sparse=False"):
        sam.step(lambda: p.sum())
    with pytest.raises(ValueError, match=r"takes a closure, got None: optimizer\.step\(closure\)"):
        sam.step()


class ByHandOptimized(ClassificationTask):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.automatic_optimization = False


def test_what_has_no_two_looks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"SAM evaluates the loss .* set accumulate_grad_batches=1 \(got 2\)"):
        fit(task(), accumulate_grad_batches=2)
    with pytest.raises(ValueError, match=r"SAM evaluates the loss .* set accumulate_grad_batches=1 \(got 4\)"):
        fit(task(), GradientAccumulationScheduler({3: 4}))
    half: Any = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(ValueError, match=r"SAM cannot train in float16 mixed precision.* bf16-mixed or 32-true"):
        fit(task(), plugins=[half])
    with pytest.raises(ValueError, match=r"SAM looks at a batch twice, and ByHandOptimized makes .* optimizer='SGD'"):
        fit(ByHandOptimized(network(), 3, optimizer="SAM").double())
    monkeypatch.setattr("zoo.tasks.base.SingleDeviceStrategy", type("Other", (), {}))
    with pytest.raises(ValueError, match="SingleDeviceStrategy shards parameters, and SAM takes the norm"):
        fit(task())
    with pytest.raises(ValueError, match="SAM evaluates a loss several times a step, and here two nets change it"):
        zoo.create_model("dcgan", optimizer="SAM")
