"""What is frozen stays as it is, what is set free is trained on every process, and a resumed run is the uninterrupted one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from kit import PATTERN_BATCHES, Patterns, PatternTask, SaveEverywhere, fit_patterns, quiet_trainer, same_weights
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import BackboneFinetuning
from torch import Tensor, nn

from callbacks import EMA, LayerFreezing, LRSchedule
from callbacks.lr_schedule import ARGUMENTS

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


class Record(Callback):
    """The number of frozen groups in each epoch."""

    def __init__(self) -> None:
        self.frozen: list[int] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if args[1] == 0:
            self.frozen.append(pl_module.frozen)


@pytest.mark.parametrize(
    ("arguments", "frozen"),
    [
        ({}, [3, 3, 3, 3, 3]),
        ({"train": "all"}, [0, 0, 0, 0, 0]),
        ({"train": 2}, [2, 2, 2, 2, 2]),
        ({"train": "4"}, [1, 1, 1, 1, 1]),  # the second convolution
        ({"every": 1}, [3, 2, 1, 0, 0]),
        ({"every": 2, "groups": 2}, [3, 3, 1, 1, 0]),
        ({"every": 1, "down_to": 2}, [3, 2, 2, 2, 2]),
        ({"milestones": {2: "5", 3: "all"}}, [3, 3, 1, 0, 0]),
    ],
)
def test_schedules(arguments: dict, frozen: list[int]) -> None:
    record = Record()
    fit_patterns(LayerFreezing(**arguments), record, epochs=5)
    assert record.frozen == frozen


class Projected(PatternTask):
    """Trains a part that comes after the net's own head."""

    trained_parts = ("net", "projector")

    def build_parts(self) -> None:
        self.projector = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(super().forward(x))


def test_the_head_is_that_of_the_net_with_the_parts_after_it() -> None:
    record = Record()
    task, _ = fit_patterns(LayerFreezing("head"), record, task=Projected(), epochs=1)
    assert record.frozen == [3]
    assert {name.partition(".")[0] for name, p in task.named_parameters() if p.requires_grad} == {"net", "projector"}


def test_frozen_layers_do_not_move_and_free_ones_do() -> None:
    """AdamW with weight decay, validation in between: no bit of weights or statistics moves."""
    seed_everything(5, verbose=False)
    task = PatternTask()
    start = {name: value.clone() for name, value in task.net.state_dict().items()}
    fit_patterns(LayerFreezing("head", every=2, groups=2, down_to=3), task=task)
    last_frozen = task.weights[2 * PATTERN_BATCHES - 1]
    moved = {name.split(".")[0] for name, value in start.items() if not torch.equal(last_frozen[f"net.{name}"], value)}
    assert moved == {"13"}
    moved = {name for name, value in start.items() if not torch.equal(task.net.state_dict()[name], value)}
    assert moved == {name for name in start if int(name.split(".")[0]) >= 4}
    assert len(task.rates[0]) == 2  # decay and no_decay: every parameter, from the first step


@pytest.mark.parametrize(
    "arguments",
    [{"every": 1}, {"milestones": {1: 2, 3: "all"}}, {"patience": 1}],
    ids=["every", "milestones", "patience"],
)
def test_resuming_is_the_uninterrupted_run(tmp_path: Path, arguments: dict) -> None:
    def callbacks() -> list[Callback]:
        return [LayerFreezing("head", **arguments), LRSchedule("cosine", warmup=2)]

    whole, _ = fit_patterns(*callbacks(), SaveEverywhere(tmp_path))
    found = sorted(tmp_path.glob("*.ckpt"))
    if (
        "patience" in arguments
    ):  # after a save between an epoch's last step and its validation, Lightning skips the latter
        found = [path for path in found if path.stem not in {f"step-{PATTERN_BATCHES * k}" for k in range(5)}]
    assert len(found) >= 3 * PATTERN_BATCHES
    for path in found:
        resumed, _ = fit_patterns(*callbacks(), ckpt=path, seed=9)
        assert same_weights(resumed, whole), path.name
        assert resumed.frozen == whole.frozen


def test_an_average_beside_it_resumes_exactly_and_leaves_frozen_layers_alone(tmp_path: Path) -> None:
    def callbacks() -> list[Callback]:
        return [LayerFreezing("head", every=2, groups=2, down_to=3), EMA(0.8)]

    seed_everything(5, verbose=False)
    task = PatternTask()
    start = {name: value.clone() for name, value in task.state_dict().items()}
    whole, _ = fit_patterns(*callbacks(), SaveEverywhere(tmp_path), task=task)
    assert all(torch.equal(whole.state_dict()[f"net.{k}"], start[f"net.{k}"]) for k in ("0.weight", "1.running_mean"))
    for step in (2 * PATTERN_BATCHES - 1, 2 * PATTERN_BATCHES, 2 * PATTERN_BATCHES + 2):
        resumed, _ = fit_patterns(*callbacks(), ckpt=tmp_path / f"step-{step}.ckpt", seed=9)
        assert same_weights(resumed, whole), step


@pytest.mark.filterwarnings("ignore:The provided params to be frozen already exist")
def test_stock_finetuning_is_frozen_for_ever_after_a_resume(tmp_path: Path) -> None:
    class Stock(PatternTask):
        @property
        def backbone(self) -> torch.nn.Module:
            return torch.nn.Sequential(*list(self.net)[:12])

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            """Nothing: our task would repair what the callback forgets."""

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.01)

    def finetuning() -> BackboneFinetuning:
        return BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.01, verbose=False)

    whole, _ = fit_patterns(finetuning(), SaveEverywhere(tmp_path), task=Stock())
    resumed, _ = fit_patterns(finetuning(), ckpt=tmp_path / f"epoch-{2 * PATTERN_BATCHES}.ckpt", task=Stock())
    assert not same_weights(resumed, whole)


@pytest.mark.parametrize("schedule", list(ARGUMENTS))
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_every_schedule_goes_on_through_unfreezing(schedule: str, layer_decay: float) -> None:
    """Stock finetuning adds parameter groups: KeyError, zip() errors or wrong rates, by schedule."""
    needed: dict[str, Any] = {
        "step": {"milestones": [7]},
        "exponential": {"gamma": 0.9},
        "inverse_time": {"decay": 0.1},
    }
    callback = LRSchedule(schedule, **needed.get(schedule, {}))  # type: ignore[arg-type]
    task, _ = fit_patterns(callback, LayerFreezing("head", every=1), task=PatternTask(layer_decay=layer_decay))
    assert len(task.rates) == 4 * PATTERN_BATCHES
    factors = [callback.factor(n) for n in range(4 * PATTERN_BATCHES)]
    if schedule == "plateau":
        factors = [1.0] * len(factors)
    for factor, rates in zip(factors, task.rates, strict=True):
        for name, rate in rates.items():
            depth = int(name.split("/")[0]) if "/" in name else 3
            assert rate == pytest.approx(0.01 * layer_decay ** (3 - depth) * factor, rel=1e-12)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("start", [3.0, float("nan")])
def test_plateau_waits_for_the_monitor(mode: str, start: float) -> None:
    """Validations by script: 3, 2, 2, 2, 1 ... : two without a new best release a group. One that is nan is no best."""

    class Scripted(PatternTask):
        monitor = ("val/score", mode)

        def on_validation_epoch_end(self) -> None:
            score = [start, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0][self.current_epoch]
            self.log("val/score", score if mode == "min" else -score, batch_size=1)

    record = Record()
    fit_patterns(LayerFreezing("head", patience=2), record, task=Scripted(), epochs=8, num_sanity_val_steps=0)
    assert record.frozen == [3, 3, 3, 3, 2, 2, 2, 1]


def test_patience_goes_on_where_a_resumed_run_was(tmp_path: Path) -> None:
    class Worse(PatternTask):
        """No validation is better than the first one."""

        monitor = ("val/score", "max")

        def on_validation_epoch_end(self) -> None:
            self.log("val/score", -float(self.current_epoch), batch_size=1)

    whole, again = Record(), Record()
    fit_patterns(LayerFreezing("head", patience=2), whole, SaveEverywhere(tmp_path), task=Worse(), epochs=6)
    path = tmp_path / f"epoch-{2 * PATTERN_BATCHES}.ckpt"
    fit_patterns(LayerFreezing("head", patience=2), again, task=Worse(), epochs=6, ckpt=path, seed=8)
    assert whole.frozen == [3, 3, 3, 2, 2, 1]
    assert again.frozen == whole.frozen[2:]


# Several processes ------------------------------------------------------------------------------------------------------


class WriteEpochs(Callback):
    """Each rank writes its weights after each epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save(pl_module.state_dict(), self.folder / f"{trainer.current_epoch}-{trainer.global_rank}.pt")


def run(
    folder: Path,
    devices: int,
    *callbacks: Callback,
    epochs: int = 4,
    ckpt: Path | None = None,
    task: PatternTask | None = None,
) -> list[list[dict[str, Tensor]]]:
    """epoch -> rank -> weights."""
    folder.mkdir(exist_ok=True)
    seed_everything(5, verbose=False)
    trainer = quiet_trainer(WriteEpochs(folder), *callbacks, ranks=devices, max_epochs=epochs)
    patterns = Patterns(batch_size=12 // devices, val_fraction=0.0)
    trainer.fit(task or PatternTask(norm=False, dropout=0.0), datamodule=patterns, ckpt_path=ckpt, weights_only=True)
    done = sorted({int(path.name.split("-")[0]) for path in folder.glob("*-0.pt")})
    return [[torch.load(folder / f"{e}-{r}.pt", weights_only=True) for r in range(devices)] for e in done]


def worst(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    return max(float((value.float() - two[name].float()).abs().max()) for name, value in one.items())


def test_two_processes_agree_to_the_bit_and_with_one(tmp_path: Path) -> None:
    freezing = {"train": "head", "every": 1}
    one = run(tmp_path / "one", 1, LayerFreezing(**freezing))
    two = run(tmp_path / "two", 2, LayerFreezing(**freezing))
    assert len(one) == len(two) == 4
    for epoch in range(4):
        assert worst(*two[epoch]) == 0.0
        assert worst(one[epoch][0], two[epoch][0]) < 1e-6
    moved = worst(two[3][0], two[0][0])
    assert moved > 1e-3


def test_two_processes_resume_after_an_unfreeze(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", 2, LayerFreezing("head", every=1), SaveEverywhere(tmp_path))
    assert len(list(tmp_path.glob("epoch-*.ckpt"))) == 4
    again = run(
        tmp_path / "again", 2, LayerFreezing("head", every=1), ckpt=tmp_path / f"epoch-{2 * PATTERN_BATCHES}.ckpt"
    )
    assert worst(whole[-1][0], again[-1][0]) == worst(*again[-1]) == 0.0


def test_stock_finetuning_lets_the_processes_drift_apart(tmp_path: Path) -> None:
    class Stock(PatternTask):
        @property
        def backbone(self) -> torch.nn.Module:
            return torch.nn.Sequential(*list(self.net)[:9])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    stock = BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.1, verbose=False)
    ends = run(tmp_path / "stock", 2, stock, task=Stock(norm=False, dropout=0.0))
    assert worst(*ends[-1]) > 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every must be >= 1, got 0"),
        ({"patience": 0}, "patience must be >= 1"),
        ({"every": 1, "patience": 2}, "one of every, milestones and patience, got every and patience"),
        ({"milestones": {}}, "milestones are epochs from 1 on"),
        ({"milestones": {0: "all"}}, "milestones are epochs from 1 on"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerFreezing(**arguments)


def test_steps_that_end_before_the_schedule() -> None:
    with pytest.raises(ValueError, match="unfrozen in epoch 3, which max_steps=9 does not reach"):
        fit_patterns(LayerFreezing("head", every=1), epochs=-1, max_steps=9)
    fit_patterns(LayerFreezing("head", every=1), epochs=-1, max_steps=3 * PATTERN_BATCHES + 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": "haed"}, "no layer 'haed'"),
        ({"train": 5}, "has 4 layer groups: train 1..4 of them, got 5"),
        ({"every": 2}, r"unfrozen in epoch 6, but the run's epochs are 0..3"),
        ({"milestones": {7: "all"}}, "unfrozen in epoch 7, but the run's epochs are 0..3"),
        ({"train": 3, "milestones": {1: 2}}, "must unfreeze more layers"),
    ],
)
def test_what_only_the_fit_can_tell(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_patterns(LayerFreezing(**arguments))


def test_patience_without_validation_is_refused() -> None:
    with pytest.raises(ValueError, match="patience counts validations, and this run has none"):
        fit_patterns(LayerFreezing(patience=1), limit_val_batches=0)


def test_patience_without_a_monitor_is_refused() -> None:
    class Unjudged(PatternTask):
        monitor = None

    with pytest.raises(ValueError, match="this Unjudged has none: give every= or milestones="):
        fit_patterns(LayerFreezing(patience=1), task=Unjudged())


def test_a_module_without_layer_groups_is_refused() -> None:
    class Plain(LightningModule):
        def training_step(self, batch: Any, batch_idx: int) -> None: ...

        def validation_step(self, batch: Any, batch_idx: int) -> None: ...

        def configure_optimizers(self) -> None: ...

    with pytest.raises(TypeError, match=r"Plain must define layer_groups, group_of, frozen to be frozen"):
        quiet_trainer(LayerFreezing(), max_epochs=1).fit(Plain(), datamodule=Patterns(val_fraction=0.0))
