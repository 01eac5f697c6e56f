"""One process, two processes and accumulated batches make the same steps, through ``Trainer.fit``.

The data modules of the tests have no batch norm and draw nothing by themselves; everything is float64.
"""

from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

import zoo
from callbacks import GradNorm, RandomState
from datamodules import DataModule, Examples
from zoo.blocks import Adversaries, WithClass
from zoo.tasks import (
    AdversarialTask,
    ClassificationTask,
    ReconstructionTask,
    RegressionTask,
    SegmentationTask,
    Task,
    VariationalTask,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]

GLOBAL = 8  # examples of an optimizer step
BOUND = 1e-9


class Cut(LightningDataModule):
    """Examples in a fixed order, cut into batches: rank r of W takes every W-th example of a step.

    Args:
        examples: The parts of a batch, all examples of the run.
        sizes: Sizes of the batches of one process that make up a step; None: the whole step is one batch.
    """

    def __init__(self, examples: tuple[Tensor, ...], sizes: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.examples, self.sizes = examples, sizes

    def train_dataloader(self) -> DataLoader:
        ranks, rank = self.trainer.world_size, self.trainer.global_rank
        batches: list[Any] = []
        for start in range(0, len(self.examples[0]), GLOBAL):
            step = [part[start : start + GLOBAL][rank::ranks] for part in self.examples]
            cuts = self.sizes or (len(step[0]),)
            assert sum(cuts) >= len(step[0])
            places = [part.split(list(cuts)) if sum(cuts) == len(part) else part.split(cuts[0]) for part in step]
            batches += zip(*places, strict=True)
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


class Keep(Callback):
    """Write each rank's weights after the last step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save(pl_module.state_dict(), self.folder / f"{trainer.global_rank}.pt")


def fit(
    build: Callable[[], LightningModule],
    data: LightningDataModule,
    folder: Path,
    *callbacks: Callback,
    ranks: int = 1,
    ckpt_path: Path | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """Weights of rank 0 after a fit; those of the others are equal."""
    folder.mkdir(exist_ok=True)
    seed_everything(7, verbose=False)
    task = build().double()
    if ranks > 1:
        options["strategy"] = DDPStrategy(start_method="fork", timeout=timedelta(seconds=30))
    off = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options = {
        "logger": False,
        "use_distributed_sampler": False,
        "max_epochs": 1,
        "num_sanity_val_steps": 0,
        **off,
        **options,
    }
    trainer = Trainer(accelerator="cpu", devices=ranks, callbacks=[Keep(folder), *callbacks], **options)
    trainer.fit(task, datamodule=data, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    states = [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]
    for other in states[1:]:
        assert gap(states[0], other) == 0
    return states[0]


def gap(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    return max((one[name].double() - two[name].double()).abs().max().item() for name in one)


# What differs in its denominator --------------------------------------------------------------------------------------


class TokenTask(Task):
    """A mean over tokens, as many as each example has: target -1 is none."""

    def __init__(self, **task: Any) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Sequential(nn.Embedding(7, 5), nn.Tanh(), nn.Linear(5, 7)), **task)

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        x, y, *weight = batch
        if weight:
            y = y.where(weight[0][:, None] > 0, -1)
        losses = nn.functional.cross_entropy(self(x).flatten(0, 1), y.flatten(), ignore_index=-1, reduction="sum")
        count = (y >= 0).sum()
        loss = losses / count.clamp(min=1)
        return loss, {"loss": loss}, count


def tokens(count: int = 5 * GLOBAL) -> tuple[Tensor, Tensor]:
    """Sequences of 1 to 6 tokens, and whole examples without any."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.randint(7, (count, 6), generator=g), torch.randint(7, (count, 6), generator=g)
    lengths = torch.randint(0, 7, (count,), generator=g)
    lengths[3], lengths[:3] = 0, torch.tensor([6, 6, 5])
    return x, y.where(torch.arange(6) < lengths[:, None], -1)


def pixels(count: int = 3 * GLOBAL) -> tuple[Tensor, Tensor]:
    """Images whose masks ignore nothing, half of the pixels or all of them."""
    g = torch.Generator().manual_seed(2)
    x, y = torch.rand(count, 1, 4, 4, generator=g, dtype=torch.float64), torch.randint(3, (count, 4, 4), generator=g)
    share = torch.tensor([0.0, 0.5, 1.0, 0.9])[torch.arange(count) % 4]
    return x, y.masked_fill(torch.rand(count, 4, 4, generator=g) < share[:, None, None], 255)


def rows(count: int = 3 * GLOBAL, weighted: bool = False) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(count, 4, generator=g, dtype=torch.float64), torch.randint(3, (count,), generator=g)
    return (x, y, (torch.arange(count) % 3 != 1).double()) if weighted else (x, y)


def dense(*sizes: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(sizes[0], sizes[1]), nn.Tanh(), nn.Linear(sizes[1], sizes[2]))


def segmenter(loss: str = "cross_entropy") -> SegmentationTask:
    torch.manual_seed(0)
    return SegmentationTask(nn.Conv2d(1, 3, 3, padding=1), 3, loss=loss, lr=0.1, optimizer="SGD")  # type: ignore[arg-type]


def classifier(**task: Any) -> ClassificationTask:
    return ClassificationTask(dense(4, 6, 3), 3, lr=0.05, **task)


CASES: dict[str, tuple[Callable[[], LightningModule], tuple[Tensor, ...]]] = {
    "tokens": (lambda: TokenTask(lr=0.05), tokens()),
    "pixels": (segmenter, pixels()),
    "focal": (lambda: segmenter("focal"), pixels()),
    "classes": (lambda: classifier(class_weight=[1.0, 2.0, 3.0], label_smoothing=0.1), rows()),
    "weighted classes": (classifier, rows(weighted=True)),
    "penalty": (
        lambda: zoo.LogisticRegressionClassifier(4, 3, "multilabel", l2=0.1, lr=0.1),
        (rows()[0], nn.functional.one_hot(rows()[1], 3).double()),
    ),
    "numbers": (lambda: RegressionTask(dense(4, 6, 2), 2, loss="huber", lr=0.05), (rows()[0], rows()[0][:, :2] ** 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_batches_of_any_size_make_the_step_of_one(tmp_path: Path, name: str) -> None:
    """Also the short last window: three batches of a step of four."""
    build, examples = CASES[name]
    whole = fit(build, Cut(examples), tmp_path / "whole")
    assert gap(whole, build().double().state_dict()) > 1e-3
    cut = fit(build, Cut(examples, (3, 1, 2, 2)), tmp_path / "cut", accumulate_grad_batches=4)
    assert gap(whole, cut) < BOUND
    odd = tuple(part[: -GLOBAL + 5] for part in examples)  # the last step has five examples, in batches of two
    one, two = (
        fit(build, Cut(odd, sizes), tmp_path / "odd", accumulate_grad_batches=batches)
        for sizes, batches in ((None, 1), ((2, 2, 2, 2), 4))
    )
    assert gap(one, two) < BOUND


@pytest.mark.parametrize("name", CASES)
def test_two_processes_make_the_step_of_one(tmp_path: Path, name: str) -> None:
    build, examples = CASES[name]
    whole = fit(build, Cut(examples), tmp_path / "whole")
    assert gap(whole, fit(build, Cut(examples), tmp_path / "ranks", ranks=2)) < BOUND
    both = fit(build, Cut(examples, (3, 1)), tmp_path / "both", ranks=2, accumulate_grad_batches=2)
    assert gap(whole, both) < BOUND


def test_the_gradient_that_is_clipped_and_measured_is_the_true_one(tmp_path: Path) -> None:
    """Clipping bites, and callbacks.GradNorm logs the same norms, however the steps are cut."""
    build, examples = CASES["tokens"]
    norms, ends = [], []
    for sizes, batches, ranks in ((None, 1, 1), ((3, 1, 2, 2), 4, 1), ((3, 1), 2, 2)):
        folder = tmp_path / f"{batches}-{ranks}"
        options = {"accumulate_grad_batches": batches, "gradient_clip_val": 0.05, "log_every_n_steps": 1}
        logger = CSVLogger(folder / "logs")
        ends.append(
            fit(build, Cut(examples, sizes), folder, GradNorm(every_n_steps=1), ranks=ranks, logger=logger, **options)
        )
        lines = next(folder.rglob("metrics.csv")).read_text().splitlines()
        column = lines[0].split(",").index("grad_norm")
        norms.append([float(line.split(",")[column]) for line in lines[1:] if line.split(",")[column]])
    assert gap(ends[0], ends[1]) < BOUND
    assert gap(ends[0], ends[2]) < BOUND
    assert len(norms[0]) == 5
    assert min(norms[0]) > 0.05  # all are clipped
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
    assert norms[2] == pytest.approx(norms[0], rel=1e-5)


class MeanOfMeans(TokenTask):
    """What stock Lightning does."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.training_losses(batch)[0]


def test_stock_lightning_takes_the_mean_of_means(tmp_path: Path) -> None:
    def build() -> LightningModule:
        return MeanOfMeans(lr=0.05)

    examples = tokens()
    whole = fit(build, Cut(examples), tmp_path / "whole")
    cut = fit(build, Cut(examples, (3, 1, 2, 2)), tmp_path / "cut", accumulate_grad_batches=4)
    ranks = fit(build, Cut(examples), tmp_path / "ranks", ranks=2)
    assert gap(whole, cut) > 1e-3
    assert gap(whole, ranks) > 1e-3


class TwoDenominators(TokenTask):
    def training_losses(self, batch: Any) -> Any:
        loss, means, count = super().training_losses(batch)
        return loss, means, {"tokens": count, "examples": len(batch[0])}


def test_a_second_denominator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"must give one denominator, a number or a 0-d tensor, got \{'tokens'"):
        fit(TwoDenominators, Cut(tokens()), tmp_path)


@pytest.mark.parametrize("optimizer", ["LBFGS", "Newton"])
def test_optimizers_that_look_several_times_do_not_accumulate(tmp_path: Path, optimizer: str) -> None:
    with pytest.raises(
        ValueError, match=f"{optimizer} evaluates the loss of a batch several times.*accumulate_grad_batches=1"
    ):
        fit(lambda: classifier(optimizer=optimizer), Cut(rows(), (4, 4)), tmp_path, accumulate_grad_batches=2)


# What is drawn --------------------------------------------------------------------------------------------------------


class Coder(nn.Module):
    """A variational autoencoder of four numbers, with dropout."""

    latent_dim, input_shape = 2, (4,)

    def __init__(self, variational: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 4 if variational else 2))
        self.decoder = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 4))
        self.variational = variational

    def encode(self, x: Tensor) -> Any:
        code = self.encoder(x)
        return code.chunk(2, dim=1) if self.variational else code

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)

    def forward(self, x: Tensor) -> Tensor:
        code = self.encode(x)
        return self.decode(code[0] if self.variational else code)


class Drawing(nn.Module):
    """Draws in every way there is, for images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 16, 3)
        self.maps, self.values = nn.Dropout2d(0.5), nn.Dropout(0.3, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maps(self.conv(x).tanh())
        if self.training:
            x = x + 0.1 * torch.randn_like(x) + 0.1 * torch.rand(len(x), 1, 1, 1, dtype=x.dtype)
            x = x * torch.bernoulli(torch.full_like(x, 0.9)) + 0.1 * torch.empty_like(x).normal_()
            x = x * (1 + 0.1 * torch.randint(0, 3, (len(x), 4, 1, 1))) * torch.rand((), dtype=x.dtype)
            x = (
                x
                + 0.1 * torch.normal(torch.zeros_like(x), 0.5)
                + 0.1 * torch.normal(x.detach(), torch.ones_like(x[:1]))
            )
            x = x + 0.1 * torch.normal(0.0, 1.0, size=x.shape, dtype=x.dtype) + 0.1 * torch.randint_like(x, 3)
            x = x + 0.1 * torch.empty_like(x).geometric_(0.5)
        x = self.values(x.flatten(1).repeat_interleave(2, dim=0))  # (2 B, D): rows of an example stand together
        return self.fc(x).unflatten(0, (-1, 2)).mean(dim=1)


def adversaries() -> AdversarialTask:
    torch.manual_seed(0)
    generator, discriminator = dense(2, 5, 4), dense(4, 5, 1)
    net = Adversaries(WithClass(generator, 0), WithClass(discriminator, 0, ()), [4], 2, 0)
    penalty = {"loss": "wasserstein", "gradient_penalty": 10.0, "n_critic": 2}
    return AdversarialTask(net, optimizer="Adam", lr=0.01, **penalty)  # type: ignore[arg-type]


def images() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(4)
    count = 20 * GLOBAL
    return torch.rand(count, 1, 4, 4, generator=g, dtype=torch.float64), torch.arange(count) % 3


TWENTY = rows(20 * GLOBAL)
DRAWS: dict[str, tuple[Callable[[], LightningModule], tuple[Tensor, ...]]] = {
    "variational": (lambda: VariationalTask(Coder(True), "gaussian", "linear", lr=0.01), TWENTY),
    "denoising": (lambda: ReconstructionTask(Coder(False), corruption="gaussian", lr=0.01), TWENTY),
    "masking": (lambda: ReconstructionTask(Coder(False), corruption="masking", lr=0.01), TWENTY),
    "adversarial": (adversaries, TWENTY),
    "every draw": (lambda: ClassificationTask(Drawing(), 3, lr=0.01), images()),
    "stochastic units": (
        lambda: zoo.MLPClassifier(4, 3, [8], activation="stochastic_binary", dropout=0.2, lr=0.01),
        TWENTY,
    ),
}


@pytest.mark.parametrize("name", DRAWS)
def test_two_processes_draw_what_one_draws(tmp_path: Path, name: str) -> None:
    """Twenty steps."""
    build, examples = DRAWS[name]
    one = fit(build, Cut(examples), tmp_path / "one")
    two = fit(build, Cut(examples), tmp_path / "two", ranks=2)
    assert gap(one, two) < 1e-6
    assert gap(one, build().double().state_dict()) > 1e-2


class SaveEpoch(Callback):
    """Write a checkpoint after the first epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


@pytest.mark.filterwarnings("ignore:The checkpoint holds the random state of 1 processes, now there are 2")
def test_a_run_continues_on_two_processes_with_the_numbers_of_one(tmp_path: Path) -> None:
    build, examples = DRAWS["variational"]
    path = tmp_path / "epoch.ckpt"
    one = fit(build, Cut(examples), tmp_path / "one", RandomState(), SaveEpoch(path), max_epochs=2)
    two = fit(build, Cut(examples), tmp_path / "two", RandomState(), ranks=2, ckpt_path=path, max_epochs=2)
    assert gap(one, two) < 1e-6
    assert gap(one, torch.load(path, weights_only=True)["state_dict"]) > 1e-3


class Unshared(VariationalTask):
    """What stock Lightning does: all processes draw the same numbers for different examples."""

    def shared_random(self, batch: Any, batch_idx: int) -> Any:
        return nullcontext()


def test_stock_lightning_draws_the_same_everywhere(tmp_path: Path) -> None:
    def build() -> LightningModule:
        return Unshared(Coder(True), "gaussian", "linear", lr=0.01)

    one = fit(build, Cut(TWENTY), tmp_path / "one")
    assert gap(one, fit(build, Cut(TWENTY), tmp_path / "two", ranks=2)) > 1e-3


def test_draws_in_an_operation_differ_between_processes(tmp_path: Path) -> None:
    """Dropout within attention and between the layers of an LSTM: no two processes drop the same."""
    seen = tmp_path / "seen"
    seen.mkdir()

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.lstm = nn.LSTM(4, 4, num_layers=2, dropout=0.5, batch_first=True)
            self.fc = nn.Linear(4, 3)
            self.steps = 0

        def forward(self, x: Tensor) -> Tensor:
            ones = torch.ones(len(x), 5, 4, dtype=x.dtype)
            y = self.lstm(ones)[0]
            z = nn.functional.scaled_dot_product_attention(ones, ones, ones, dropout_p=0.5 if self.training else 0.0)
            if self.training:
                rank = torch.distributed.get_rank()
                torch.save((y.detach(), z.detach(), torch.rand(())), seen / f"{rank}-{self.steps}.pt")
                self.steps += 1
            return self.fc((y + z).mean(dim=1) + x)

    fit(lambda: ClassificationTask(Inner(), 3), Cut(rows()), tmp_path, ranks=2)
    values = {path.stem: torch.load(path) for path in seen.iterdir()}
    assert len(values) == 6
    for part in (0, 1):
        assert (
            len({tuple(value[part].flatten().tolist()) for value in values.values()}) == 6
        )  # neither ranks nor steps are alike
    for step in range(3):
        assert values[f"0-{step}"][2] == values[f"1-{step}"][2]  # the common stream goes on


# The last, short batch of an epoch ------------------------------------------------------------------------------------


class Whole(DataModule):
    """All examples in each epoch, in random order."""

    def __init__(self, parts: tuple[Tensor, ...], **data: Any) -> None:
        super().__init__(val_fraction=0.0, drop_last=False, **data)
        self.parts = parts

    def examples(self, part: str) -> Examples:
        return Examples(*self.parts)


def whole(name: str, count: int, processes: int = 1, batches: int = 1) -> tuple[Callable[[], LightningModule], Whole]:
    build, parts = {**CASES, **DRAWS}[name]
    return build, Whole(tuple(part[:count] for part in parts), batch_size=GLOBAL // processes // batches)


UNEQUAL = 2 * GLOBAL + 5  # the last batch is three examples of one process and two of the other
LACKING = 2 * GLOBAL + 1  # it is one example, so the other process has none
SHORT = [(name, LACKING) for name in [*CASES, *DRAWS] if name != "weighted classes"]
SHORT += [(name, UNEQUAL) for name in ["pixels", "penalty", *DRAWS]]


@pytest.mark.parametrize(("name", "count"), SHORT)
def test_two_processes_share_a_short_batch(tmp_path: Path, name: str, count: int) -> None:
    """Two epochs: the numbers that are drawn after it are those of one process, too."""
    build, data = whole(name, count)
    one = fit(build, data, tmp_path / "one", max_epochs=2)
    two = fit(*whole(name, count, processes=2), tmp_path / "two", ranks=2, max_epochs=2)
    assert gap(one, two) < (1e-6 if name in DRAWS else BOUND)
    assert gap(one, build().double().state_dict()) > 1e-3
    if name == "classes":
        data.drop_last = True
        assert gap(one, fit(build, data, tmp_path / "dropped", max_epochs=2)) > 1e-3


@pytest.mark.parametrize("count", [UNEQUAL, LACKING])
@pytest.mark.parametrize("name", ["tokens", "classes"])
def test_a_short_batch_is_accumulated(tmp_path: Path, name: str, count: int) -> None:
    one = fit(*whole(name, count), tmp_path / "one", max_epochs=2)
    parts = fit(*whole(name, count, batches=2), tmp_path / "parts", accumulate_grad_batches=2, max_epochs=2)
    assert gap(one, parts) < BOUND
    data = whole(name, count, processes=2, batches=2)
    both = fit(*data, tmp_path / "both", ranks=2, accumulate_grad_batches=2, max_epochs=2)
    assert gap(one, both) < BOUND


@pytest.mark.parametrize("count", [3, 1])
def test_fewer_examples_than_a_batch_and_than_processes(tmp_path: Path, count: int) -> None:
    one, two = (fit(*whole("classes", count, n), tmp_path / str(n), ranks=n, max_epochs=2) for n in (1, 2))
    assert gap(one, two) < BOUND


class LastMeans(Callback):
    """Writes the means that are logged over the last epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save({k: float(v) for k, v in trainer.logged_metrics.items()}, self.folder / f"log{trainer.global_rank}")


@pytest.mark.parametrize("name", ["classes", "variational", "adversarial"])
def test_the_means_of_an_epoch_are_over_all_its_examples(tmp_path: Path, name: str) -> None:
    logs = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        logger = CSVLogger(folder)
        fit(*whole(name, LACKING, ranks), folder, LastMeans(folder), ranks=ranks, logger=logger, log_every_n_steps=1)
        logs.append(torch.load(folder / "log0"))
    assert {"train/loss", "train/d_loss"} & logs[0].keys()
    assert logs[1] == pytest.approx(logs[0], rel=1e-6)


class RowsOfTwo(nn.Module):
    """Draws for two rows of each example, which one example does not tell; keeps the next number of the common stream."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.folder, self.steps = nn.Linear(4, 3), folder, 0

    def forward(self, x: Tensor) -> Tensor:
        x = x.repeat_interleave(2, dim=0)
        if self.training:
            x = x + torch.randn_like(x)
            self.steps += 1
            torch.save(torch.rand(()), self.folder / f"next{torch.distributed.get_rank()}-{self.steps}.pt")
        return self.fc(x).unflatten(0, (-1, 2)).mean(dim=1)


def test_after_a_short_batch_all_processes_go_on_with_the_same_numbers(tmp_path: Path) -> None:
    data = whole("classes", 2 * GLOBAL + 3, processes=2)[1]  # two examples of one process, one of the other
    fit(lambda: ClassificationTask(RowsOfTwo(tmp_path), 3), data, tmp_path, ranks=2, max_epochs=2)
    numbers = [[torch.load(tmp_path / f"next{rank}-{step}.pt") for step in range(1, 7)] for rank in (0, 1)]
    same = [one == other for one, other in zip(*numbers, strict=True)]
    assert same == [True, True, False] * 2
