"""The kit takes any LightningModule, with or without what the protocol makes optional, and batches of any structure."""

import multiprocessing
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

import zoo
from zoo import testing
from zoo.tasks import ClassificationTask
from zoo.testing import CHECKS, check_module

BATCH = (torch.rand(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8))
EVERYTHING = set(CHECKS) - {"causality", "padding", "incremental", "export_length"}  # of what is no series


def skipped(report: Mapping[str, str]) -> dict[str, str]:
    return {name: result.removeprefix("skipped: ") for name, result in report.items() if result != "ok"}


class Plain(LightningModule):
    """Has what Lightning requires, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_plain_module_is_checked() -> None:
    report = check_module(Plain(), BATCH, lr=0.2)
    assert report.keys() == EVERYTHING
    assert skipped(report) == {"folder": "Plain offers no save_pretrained(folder)"}


class LossInDict(Plain):
    """Its constructor takes an argument that it does not keep."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, 10)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:  # type: ignore[override]
        return {"loss": super().training_step(batch, batch_idx)}


class OneLeak(Plain):
    """One of its thousand outputs sees the other examples, a little."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 1000)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        return y + F.pad(1e-3 * x.mean().expand(len(x), 1), (999, 0))


def test_a_leak_into_one_output_of_many_is_seen() -> None:
    with pytest.raises(AssertionError, match="leak into each other"):
        check_module(OneLeak(), BATCH, only=["independence"])


class OfEight(Plain):
    """Was written for the batches it is trained on."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        return y if len(x) == 8 else y.flip(1).flip(1)


def test_a_program_of_one_batch_size_is_caught() -> None:
    with pytest.raises(AssertionError, match="the exported program does not take batch size 3"):
        check_module(OfEight(), BATCH, only=["export"])


class Forgetful(Plain):
    """Comes back without its count, which no output shows."""

    def __init__(self, start: int = 5) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.register_buffer("count", torch.tensor(start))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"]["count"] = torch.tensor(0)


def test_a_state_that_is_lost_is_caught_where_outputs_are_the_same() -> None:
    with pytest.raises(AssertionError, match="the checkpoint came back with other values of count"):
        check_module(Forgetful(), BATCH, only=["checkpoint"])


def test_without_hyperparameters_it_cannot_be_rebuilt() -> None:
    report = check_module(LossInDict(4), BATCH, lr=0.2)
    reason = "LossInDict keeps no hyperparameters: call save_hyperparameters() in its constructor"
    assert skipped(report) == {
        "hyperparameters": reason,
        "checkpoint": reason,
        "folder": "LossInDict offers no save_pretrained(folder)",
    }


class Offering(LightningModule):
    """Offers what is optional; a batch is a dict, and half of the targets are uncertain."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(width, 10)
        self.calls: list[str] = []

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(x) * scale[:, None], "scale": torch.ones(())}

    def forward_args(self, batch: Any) -> tuple[Any, ...]:
        return batch["x"], batch["scale"]

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        self.calls.append("training_losses")
        logits = self(*self.forward_args(batch))["logits"]
        count = batch["counts"].sum()
        losses = F.cross_entropy(logits, batch["y"], reduction="none", label_smoothing=0.1)
        loss = (losses * batch["counts"]).sum() / count
        return loss, {"loss": loss}, count

    def loss_floor(self) -> float:
        right, wrong = 0.91, 0.01
        return -right * torch.tensor(right).log().item() - 9 * wrong * torch.tensor(wrong).log().item()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise RuntimeError("the kit asks training_losses")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


DICT = {"x": torch.eye(8), "scale": torch.ones(8), "y": BATCH[1], "counts": torch.tensor([1.0, 1, 1, 2, 1, 1, 3, 1])}
FITS = ("checkpoint", "accumulation", "processes")


def test_what_is_offered_is_used() -> None:
    module = Offering()
    report = check_module(module, DICT, lr=0.2, only=EVERYTHING - {*FITS})
    assert skipped(report) == {"folder": "Offering offers no save_pretrained(folder)"}
    assert not module.calls  # a copy was checked
    module.loss_floor = lambda: 0.0
    with pytest.raises(AssertionError, match="not learned by heart"):
        check_module(module, DICT, lr=0.2, only=["memorization"])


def test_a_count_asks_for_weighted_batches() -> None:
    """Lightning takes batches to count equally; the zoo's tasks weight them by what training_losses counts."""

    class Unweighted(Offering):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.training_losses(batch)[0]

    class Weighted(Offering):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss, _, count = self.training_losses(batch)
            windows = self.trainer.accumulate_grad_batches * self.trainer.world_size
            return loss * count / DICT["counts"].sum() * windows

    for name in ("accumulation", "processes"):
        assert check_module(Weighted(), DICT, only=[name]) == {name: "ok"}
        with pytest.raises(AssertionError, match="train other weights than whole batches"):
            check_module(Unweighted(), DICT, only=[name])


class Series(NamedTuple):
    values: Tensor
    lengths: Tensor


class MeanOfSeries(nn.Module):
    """Mean over the steps of each series, then a hidden layer."""

    in_channels = 3

    def __init__(self, masked: bool = True) -> None:
        super().__init__()
        self.masked = masked
        self.hidden, self.fc = nn.Linear(3, 32), nn.Linear(32, 10)

    def forward(self, x: Series) -> Tensor:
        real = torch.arange(x.values.shape[1]) < x.lengths[:, None]  # (B, T)
        real = real if self.masked else torch.ones_like(real)
        mean = (self.hidden(x.values) * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        return self.fc(mean.relu())


class SeriesTask(ClassificationTask):
    """Classifies series that are padded with a value."""

    padding = -1.0
    standardize_axis = -1

    def __init__(self, masked: bool = True, num_classes: int = 10, **task: Any) -> None:
        super().__init__(MeanOfSeries(masked), num_classes, **task)


def series() -> tuple[Series, Tensor]:
    g = torch.Generator().manual_seed(1)
    lengths = torch.tensor([5, 4, 3, 5, 2, 5, 4, 3])
    values = torch.randn(8, 5, 3, generator=g)
    values[torch.arange(5) >= lengths[:, None]] = SeriesTask.padding
    return Series(values, lengths), torch.arange(8)


def test_an_input_of_several_tensors() -> None:
    report = check_module(SeriesTask(), series(), lr=0.02)
    assert report.keys() == EVERYTHING | {"padding", "export_length"}
    assert skipped(report) == {"folder": "SeriesTask is not registered"}
    with pytest.raises(AssertionError, match=r"padding changes outputs of real steps by \d"):
        testing.check_padding(SeriesTask(masked=False), series())


class Reconstruction(LightningModule):
    """A batch is an input itself, a NamedTuple."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Series) -> Tensor:
        return self.fc(x.values)

    def training_step(self, batch: Series, batch_idx: int) -> Tensor:
        return F.mse_loss(self(batch), batch.values)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_batch_that_is_an_input() -> None:
    assert skipped(check_module(Reconstruction(), series()[0], lr=0.05)).keys() == {"folder"}


def test_tokens_are_never_cast() -> None:
    seen = set()

    class Tokens(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(50, 4)

        def forward(self, x: Tensor) -> Tensor:
            seen.add(x.dtype)
            return self.fc(self.embedding(x).mean(1))

    tokens = torch.randint(50, (8, 5), generator=torch.Generator().manual_seed(2), dtype=torch.int32)
    assert skipped(check_module(Tokens(), (tokens, torch.arange(8)), lr=0.2)).keys() == {"folder"}
    assert seen == {torch.int32}


class ByHand(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
        optimizer.step()


def test_optimization_by_hand() -> None:
    report = check_module(ByHand(), BATCH)
    no_loss = "ByHand is optimized by hand, so its training_step needs a trainer: offer training_losses(batch)"
    assert skipped(report) == {
        **dict.fromkeys(("gradients", "memorization", "bf16"), no_loss),
        "folder": "ByHand offers no save_pretrained(folder)",
        "accumulation": "it is optimized by hand, and Lightning accumulates gradients in automatic optimization only",
    }
    assert report["processes"] == "ok"


def test_no_loss_is_a_failure() -> None:
    class NoLoss(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            pass

    with pytest.raises(AssertionError, match="the loss must be a tensor of one number, got None"):
        check_module(NoLoss(), BATCH)


def test_only_some_checks() -> None:
    assert check_module(Plain(), BATCH, only=["bf16", "gradients"]) == {"gradients": "ok", "bf16": "ok"}
    report = check_module(Plain(), BATCH, only=["gradients"], skip={"gradients": "a reason", "causality": "another"})
    assert report == {"gradients": "skipped: a reason"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["exprot"]}, r"no such check: exprot, did you mean 'export'\?; there are gradients, "),
        ({"only": ["causality"]}, "causality is checked of a module that declares causal = True"),
        ({"only": ["padding"]}, "padding is checked of a module that declares padding"),
        ({"only": ["incremental"]}, "incremental is checked of a module that declares init_state and step"),
        ({"only": ["export_length"]}, "export_length is checked of a module that declares causal = True or padding"),
    ],
)
def test_the_kit_refuses_a_wrong_selection(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_module(Plain(), BATCH, **options)


def test_too_small_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="four examples or more, got 3"):
        check_module(Plain(), (BATCH[0][:3], BATCH[1][:3]))


@pytest.mark.parametrize(
    ("function", "value", "reason"),
    [
        ("torch.cuda.is_initialized", True, "CUDA is initialized in this process, so it cannot be forked"),
        ("torch.distributed.is_initialized", True, "this process is one of several already"),
        ("torch.distributed.is_gloo_available", False, "this build of torch has no gloo"),
        ("multiprocessing.get_all_start_methods", ["spawn"], "this system cannot fork processes"),
    ],
)
def test_where_nothing_can_be_forked(
    function: str, value: object, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(function, lambda: value)
    assert check_module(Plain(), BATCH, only=["processes"])["processes"].startswith(f"skipped: {reason}")


def test_a_daemon_forks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_config", {"daemon": True})
    report = check_module(Plain(), BATCH, only=["processes"])
    assert report == {"processes": "skipped: a daemonic process cannot start others"}


def test_a_newton_optimizer_accumulates_nothing() -> None:
    task = zoo.LogisticRegressionClassifier(4, optimizer="Newton", lr=1.0)
    report = check_module(task, (BATCH[0], BATCH[1] % 2), only=["accumulation"])
    assert report == {"accumulation": "skipped: Newton evaluates the loss of a batch several times a step"}
