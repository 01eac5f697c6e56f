"""The average by its formula, what is evaluated with it, and what a checkpoint holds."""

from pathlib import Path
from typing import Any

import pytest
import torch
from kit import PATTERN_BATCHES, Patterns, PatternTask, SaveEverywhere, fit_patterns, quiet_trainer, same_weights
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor

import zoo
from callbacks import EMA, internals
from datamodules import DigitsDataModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


def by_hand(weights: list[dict[str, Tensor]], decay: float, start: int = 1, every: int = 1) -> dict[str, Tensor]:
    """In float64, from the weights after each step."""
    average: dict[str, Tensor] = {}
    for t, now in enumerate(weights[start - 1 :: every]):
        d = min(decay, (1 + t) / (10 + t))
        for name, value in now.items():
            if not average.get(name, value).is_floating_point() or name not in average:
                average[name] = value.double() if value.is_floating_point() else value
            else:
                average[name] = d * average[name] + (1 - d) * value
    return average


@pytest.mark.parametrize(("start", "every"), [(0, 1), (3, 1), (2, 4)])
def test_formula(start: int, every: int) -> None:
    task, _ = fit_patterns(EMA(0.2, start_step=start, every_n_steps=every), epochs=2)
    expected = by_hand(task.weights, 0.2, max(start, 1), every)  # from t = 2 on, the decay is that of the argument
    for name, value in task.state_dict().items():  # after the fit the module holds the average
        torch.testing.assert_close(value, expected[name].to(value.dtype), atol=1e-6, rtol=1e-5)
    counted = task.state_dict()["net.1.num_batches_tracked"]
    updates = [
        step for step in range(1, 2 * PATTERN_BATCHES + 1) if step >= start and (step - max(start, 1)) % every == 0
    ]
    assert int(counted) == updates[-1]


def test_a_slow_average_soon_lets_go_of_the_untrained_weights() -> None:
    task, _ = fit_patterns(EMA(0.9999), epochs=6)
    first, last = (weights["net.13.weight"] for weights in (task.weights[0], task.weights[-1]))
    average = task.state_dict()["net.13.weight"]
    assert (average - last).norm() < 0.5 * (average - first).norm()


def test_training_is_the_same_run_without_it() -> None:
    averaged, _ = fit_patterns(EMA(0.9))
    plain, _ = fit_patterns()
    assert all(torch.equal(a[k], b[k]) for a, b in zip(averaged.weights, plain.weights, strict=True) for k in a)
    assert not same_weights(averaged, plain)


def test_accumulated_steps_update_once() -> None:
    task, _ = fit_patterns(EMA(0.5), accumulate_grad_batches=2, epochs=2)
    assert len(task.weights) == 6  # 2 + 2 + 1 batches an epoch
    expected = by_hand(task.weights, 0.5)
    torch.testing.assert_close(
        task.state_dict()["net.13.weight"].double(), expected["net.13.weight"], atol=1e-6, rtol=0
    )


def test_a_start_that_is_never_reached_leaves_the_trained_weights(tmp_path: Path) -> None:
    task, trainer = fit_patterns(EMA(0.9, start_step=10_000))
    plain, _ = fit_patterns()
    assert same_weights(task, plain)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert "ema" not in torch.load(tmp_path / "a.ckpt", weights_only=True)


def test_stock_averaging_ends_with_the_initial_weights() -> None:
    task = PatternTask()
    start = {name: value.clone() for name, value in task.named_parameters()}
    fit_patterns(EMAWeightAveraging(decay=0.9, update_starting_at_step=10_000), task=task)
    assert all(torch.equal(value, start[name]) for name, value in task.named_parameters())


class Watch(Callback):
    """The weights that validation sees, those that callbacks see at its end, and those at the end of the epoch."""

    def __init__(self) -> None:
        self.during: list[Tensor] = []
        self.after: list[Tensor] = []
        self.left: list[Tensor] = []

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.during.append(pl_module.state_dict()["net.13.weight"].clone())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.after.append(pl_module.state_dict()["net.13.weight"].clone())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.left.append(pl_module.state_dict()["net.13.weight"].clone())


@pytest.mark.parametrize("evaluate", [True, False])
def test_validation_sees_the_average(evaluate: bool) -> None:
    watch = Watch()
    task, _ = fit_patterns(EMA(0.9, evaluate=evaluate), watch, epochs=2, num_sanity_val_steps=1)
    raw = [task.weights[PATTERN_BATCHES - 1], task.weights[2 * PATTERN_BATCHES - 1]]
    assert torch.equal(watch.during[0], watch.after[0])  # the sanity check: nothing is averaged yet
    for seen, own in zip(watch.during[1:], raw, strict=True):
        assert torch.equal(seen, own["net.13.weight"]) != evaluate
    for left, own in zip(watch.left, raw, strict=True):
        assert torch.equal(left, own["net.13.weight"])
    assert torch.equal(task.state_dict()["net.13.weight"], watch.during[-1])


def test_a_run_resumed_before_a_window_of_accumulation_updates_once(tmp_path: Path) -> None:
    """The first batch makes no step, so the step is that of the last update."""
    whole, _ = fit_patterns(EMA(0.8), SaveEverywhere(tmp_path), epochs=2, accumulate_grad_batches=2)
    resumed, _ = fit_patterns(EMA(0.8), ckpt=tmp_path / "epoch-3.ckpt", epochs=2, accumulate_grad_batches=2, seed=8)
    assert same_weights(resumed, whole)


@pytest.mark.parametrize("evaluate", [True, False])
def test_resuming_is_the_uninterrupted_run(tmp_path: Path, evaluate: bool) -> None:
    def ema() -> EMA:
        return EMA(0.8, start_step=3, every_n_steps=2, evaluate=evaluate)

    first = ema()
    whole, _ = fit_patterns(first, SaveEverywhere(tmp_path), epochs=3)
    for path in sorted(tmp_path.glob("*.ckpt")):
        again = ema()
        resumed, _ = fit_patterns(again, ckpt=path, epochs=3, seed=8)
        assert same_weights(resumed, whole), path.name
        assert all(torch.equal(value, again.average[name]) for name, value in first.average.items())


def test_a_checkpoint_holds_what_was_evaluated_and_the_other_set(tmp_path: Path) -> None:
    task, _ = fit_patterns(EMA(0.8), SaveEverywhere(tmp_path), epochs=1)
    loaded = PatternTask.load_from_checkpoint(tmp_path / f"epoch-{PATTERN_BATCHES}.ckpt")
    assert same_weights(loaded, task)
    kept = torch.load(tmp_path / f"epoch-{PATTERN_BATCHES}.ckpt", weights_only=True)["ema"]
    assert all(torch.equal(value, task.weights[-1][name]) for name, value in kept["other"].items())
    fit_patterns(EMA(0.8, evaluate=False), SaveEverywhere(tmp_path), epochs=1)
    beside = torch.load(tmp_path / f"epoch-{PATTERN_BATCHES}.ckpt", weights_only=True)["ema"]
    assert all(torch.equal(value, task.state_dict()[name]) for name, value in beside["other"].items())


@pytest.mark.parametrize("evaluate", [True, False])
def test_load_chooses(tmp_path: Path, evaluate: bool) -> None:
    seed_everything(0, verbose=False)
    digits = DigitsDataModule(batch_size=64)
    task = zoo.create_model("mlp", in_features=64, widths=[4])
    trainer = quiet_trainer(
        EMA(0.5, evaluate=evaluate), SaveEverywhere(tmp_path), max_epochs=1, limit_train_batches=3, limit_val_batches=0
    )
    trainer.fit(task, datamodule=digits)
    path = tmp_path / "epoch-3.ckpt"
    held = {kind: zoo.load(path, average=kind).net.fc.weight for kind in (None, True, False)}
    assert torch.equal(held[None], held[evaluate])
    assert torch.equal(held[None], task.net.fc.weight)
    assert not torch.equal(held[True], held[False])
    trainer.save_checkpoint(tmp_path / "after.ckpt")  # after the fit the module holds the evaluated set
    for kind in (None, True, False):
        assert torch.equal(zoo.load(tmp_path / "after.ckpt", average=kind).net.fc.weight, held[kind])
    trainer.fit(
        zoo.create_model("mlp", in_features=64, widths=[4]), datamodule=digits, ckpt_path=path, weights_only=True
    )
    task.save_pretrained(tmp_path / "folder")
    with pytest.raises(ValueError, match="holds no average of the weights"):
        zoo.load(tmp_path / "folder", average=True)


def test_what_looks_after_a_validation_sees_the_average() -> None:
    watch = Watch()
    fit_patterns(EMA(0.9), watch, epochs=2)
    assert all(torch.equal(a, b) for a, b in zip(watch.during, watch.after, strict=True))


def test_a_failure_in_validation_gives_the_weights_back() -> None:
    class Fails(Callback):
        def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
            if trainer.global_step:
                raise RuntimeError("broken")

    task = PatternTask()
    with pytest.raises(RuntimeError, match="broken"):
        fit_patterns(EMA(0.8), Fails(), task=task)
    assert all(torch.equal(value, task.state_dict()[name]) for name, value in task.weights[-1].items())


class WriteValidated(Callback):
    """Each rank writes what it validates with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        torch.save(pl_module.state_dict(), self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_all_processes_validate_with_the_same_statistics(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    seed_everything(5, verbose=False)
    trainer = quiet_trainer(EMA(0.5), WriteValidated(tmp_path), ranks=2, max_epochs=1, limit_val_batches=1)
    trainer.fit(PatternTask(), datamodule=Patterns(batch_size=6))
    zero, one = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(value, one[name]) for name, value in zero.items())


def test_resuming_without_it_is_refused(tmp_path: Path) -> None:
    fit_patterns(EMA(0.8), SaveEverywhere(tmp_path), epochs=1)
    with pytest.raises(ValueError, match=r"are an average: resume with callbacks.EMA"):
        fit_patterns(ckpt=tmp_path / f"epoch-{PATTERN_BATCHES}.ckpt", epochs=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1.0}, r"decay must lie in \[0, 1\), got 1.0"),
        ({"every_n_steps": 0}, "every_n_steps must be >= 1, got 0"),
        ({"start_step": -1}, "start_step must be >= 0"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EMA(**arguments)


class Counting(PatternTask):
    """Has a buffer that each step assigns anew, and one that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(2))
        self.register_buffer("hidden", torch.zeros(2), persistent=False)

    def training_step(self, *args: Any) -> Any:
        self.steps = self.steps + torch.tensor([1.0, 2.0])
        return super().training_step(*args)


class Renamed(Counting):
    """Writes a state dict of its own."""

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state = super().state_dict(*args, **kwargs)
        return {**state, "steps": 10 * state["steps"]} if not args else state


class Replace(Callback):
    """Replaces the last layer, its parameters or the memory of these before the fourth step."""

    def __init__(self, what: str) -> None:
        self.what = what

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        layer = pl_module.net[13]
        if trainer.global_step != 3:
            return
        if self.what == "layer":
            pl_module.net[13] = torch.nn.Linear(layer.in_features, layer.out_features)
        elif self.what == "parameter":
            layer.weight = torch.nn.Parameter(layer.weight.detach() + 1)
        elif self.what == "memory":
            layer.weight.data = layer.weight.data + 1
        else:
            pl_module.freeze(1)


@pytest.mark.parametrize("what", ["", "layer", "parameter", "memory", "freeze"])
def test_the_average_is_that_of_the_tensors_which_the_module_has_now(what: str) -> None:
    task, _ = fit_patterns(EMA(0.3), *([Replace(what)] if what else []), task=Counting(), epochs=2)
    expected = by_hand(task.weights, 0.3)
    assert "hidden" not in expected
    assert task.weights[-1]["steps"].tolist() == [2 * PATTERN_BATCHES, 4 * PATTERN_BATCHES]
    for name, value in task.state_dict().items():
        torch.testing.assert_close(value, expected[name].to(value.dtype), atol=1e-6, rtol=1e-5)


def test_a_state_dict_is_built_once_not_at_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    built, original = [], internals._state_tensors
    monkeypatch.setattr(internals, "_state_tensors", lambda module: built.append(module) or original(module))
    fit_patterns(EMA(0.3), task=Counting(), epochs=2)
    assert len(built) == 1
    fit_patterns(EMA(0.3), Replace("layer"), task=Counting(), epochs=2)
    assert len(built) == 3


def test_a_module_may_write_a_state_dict_of_its_own() -> None:
    task, average = Renamed(), EMA(0.3, evaluate=False)
    fit_patterns(average, task=task, epochs=2)
    expected = by_hand(task.weights, 0.3)
    assert average.average["steps"].tolist() == pytest.approx(expected["steps"].tolist())
    assert average.average["steps"][0] > 2 * PATTERN_BATCHES


@pytest.mark.parametrize("change", ["child", "parameter", "buffer", "parametrization", "removal"])
def test_tensors_that_a_module_gains_or_loses_are_not_overlooked(change: str) -> None:
    module, tensors = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)), internals.StateTensors()
    assert tensors.of(module).keys() == module.state_dict().keys()
    changes = {
        "child": lambda: module.append(torch.nn.Linear(2, 2)),
        "parameter": lambda: module[0].register_parameter("scale", torch.nn.Parameter(torch.ones(2))),
        "buffer": lambda: module[0].register_buffer("scale", torch.ones(2)),
        "parametrization": lambda: torch.nn.utils.parametrizations.weight_norm(module[0]),
        "removal": lambda: delattr(module[1], "running_mean"),
    }
    changes[change]()
    found = {key: tensor.data_ptr() for key, tensor in tensors.of(module).items()}
    assert found == {key: tensor.data_ptr() for key, tensor in module.state_dict().items()}


class Tied(PatternTask):
    """Has the last matrix under a second name and a third."""

    def __init__(self) -> None:
        torch.manual_seed(5)
        super().__init__()
        layer = self.net[13]
        self.again = torch.nn.ModuleList(torch.nn.Linear(layer.in_features, layer.out_features, False) for _ in "ab")
        for other in self.again:
            other.weight = layer.weight


def test_tied_weights_are_exchanged_once() -> None:
    average = EMA(0.9)
    averaged, plain = (fit_patterns(*callbacks, task=Tied(), epochs=3)[0] for callbacks in ([average], []))
    for one, other in zip(averaged.weights, plain.weights, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)
    expected, state = by_hand(plain.weights, 0.9), averaged.state_dict()
    for name in ("net.13.weight", "again.0.weight", "again.1.weight"):
        torch.testing.assert_close(state[name].double(), expected[name], atol=1e-6, rtol=1e-5)
        assert torch.equal(average.average[name], plain.state_dict()[name])  # the other set, which a checkpoint holds
    assert not torch.equal(state["net.13.weight"], plain.state_dict()["net.13.weight"])
