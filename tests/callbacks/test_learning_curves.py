"""What is recorded, to the value and the moment; what a resume keeps; and what the picture shows."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import SaveEverywhere, SaveOnce, quiet_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, IterableDataset

from callbacks import GradNorm, LearningCurves, LRSchedule
from callbacks.learning_curves import draw

pytestmark = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")

BATCHES = 4


class Scripted(LightningModule):
    """Logs known numbers where zoo's tasks do: rows after the step, means in the hooks at the end."""

    monitor = ("val/acc", "max")

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (3 * self.w * batch).mean()

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.global_step % self.trainer.log_every_n_steps == 0:
            self.log("train/loss_step", 100.0 + self.trainer.global_step)

    def on_train_epoch_end(self) -> None:
        self.log("train/loss", 10.0 + self.current_epoch)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None: ...

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", 20.0 + self.trainer.global_step)
        self.log("val/acc", [0.5, 0.75, 0.625][self.current_epoch])
        self.log("val/iou/cat", 0.5)  # of a class: not recorded

    def configure_optimizers(self) -> Any:
        return SGD([{"params": [self.w], "lr": 0.5}, {"params": [nn.Parameter(torch.ones(1))], "lr": 0.25}])


def fit(curves: LearningCurves, *more: Callback, module: Any = None, **options: Any) -> dict[str, Any]:
    ckpt, data = options.pop("ckpt", None), options.pop("data", DataLoader(torch.ones(BATCHES, 1)))
    defaults = {"max_epochs": 3, "limit_val_batches": 1, "log_every_n_steps": 2, "num_sanity_val_steps": 1}
    trainer = quiet_trainer(curves, *more, **(defaults | options))
    validation = DataLoader(torch.ones(1, 1))
    trainer.fit(module or Scripted(), data, validation, ckpt_path=ckpt, weights_only=True if ckpt else None)
    return {name: list(zip(*points, strict=True)) for name, points in curves.curves.items()}


WHOLE = {
    "train/loss_step": [(e + f, 100.0 + 4 * (e + f)) for e in range(3) for f in (0.5, 1.0)],
    "train/loss": [(1.0, 10.0), (2.0, 11.0), (3.0, 12.0)],
    "val/loss": [(1.0, 24.0), (2.0, 28.0), (3.0, 32.0)],
    "val/acc": [(1.0, 0.5), (2.0, 0.75), (3.0, 0.625)],
    "lr": [(e + f, 0.5) for e in range(3) for f in (0.5, 1.0)],
}


def test_every_value_at_its_moment(tmp_path: Path) -> None:
    assert fit(LearningCurves(tmp_path)) == WHOLE


@pytest.mark.parametrize("first", [True, False], ids=["curves-first", "curves-last"])
def test_rates_and_norms_of_the_steps_whatever_the_order(tmp_path: Path, first: bool) -> None:
    curves, others = LearningCurves(tmp_path), [GradNorm(), LRSchedule("linear")]
    trainer = quiet_trainer(*([curves, *others] if first else [*others, curves]), max_epochs=1, log_every_n_steps=1)
    trainer.fit(Scripted(), DataLoader(torch.ones(BATCHES, 1)), DataLoader(torch.ones(1, 1)))
    assert curves.curves["lr"] == ([0.25, 0.5, 0.75, 1.0], [0.5, 0.375, 0.25, 0.125])
    assert curves.curves["grad_norm"] == ([0.25, 0.5, 0.75, 1.0], [3.0] * 4)


def test_accumulation_records_steps_not_batches(tmp_path: Path) -> None:
    seen = fit(LearningCurves(tmp_path), accumulate_grad_batches=2, log_every_n_steps=1, max_epochs=1)
    assert seen["lr"] == [(0.5, 0.5), (1.0, 0.5)]
    assert seen["train/loss_step"] == [(0.5, 101.0), (1.0, 102.0)]


def test_several_optimizers_in_manual_optimization(tmp_path: Path) -> None:
    class Manual(Scripted):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Tensor, batch_idx: int) -> None:  # type: ignore[override]
            for i, optimizer in enumerate(self.optimizers()):
                if i == 0 or batch_idx == 1:
                    optimizer.zero_grad()
                    self.manual_backward(super().training_step(batch, batch_idx))
                    optimizer.step()

        def configure_optimizers(self) -> Any:
            return SGD([self.w], lr=0.5), SGD([self.w], lr=0.25)

    seen = fit(LearningCurves(tmp_path), GradNorm(), module=Manual(), max_epochs=1)
    assert seen["lr/0"] == [(0.5, 0.5), (1.0, 0.5)]
    assert seen["lr/1"] == [(0.5, 0.25)]
    assert seen["grad_norm/0"][0] == seen["grad_norm/1"][0] == (0.5, 3.0)


def test_validation_within_the_epoch(tmp_path: Path) -> None:
    seen = fit(LearningCurves(tmp_path), val_check_interval=2, max_epochs=1)
    assert seen["val/loss"] == [(0.5, 22.0), (1.0, 24.0)]


def test_lightnings_own_way_of_logging(tmp_path: Path) -> None:
    class Stock(Scripted):
        def on_train_batch_end(self, *_: Any) -> None: ...

        def on_train_epoch_end(self) -> None: ...

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.log("train_loss", float(batch_idx), on_step=True, on_epoch=True, batch_size=1)
            self.log("other", 1.0)
            return super().training_step(batch, batch_idx)

        def on_validation_epoch_end(self) -> None: ...

        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            self.log("val_loss", 7.0, on_step=True, on_epoch=True)

    seen = fit(LearningCurves(tmp_path), module=Stock(), max_epochs=1)
    assert set(seen) == {"train_loss", "train_loss_step", "val_loss", "lr"}
    assert seen["train_loss"] == [(1.0, 1.5)]
    assert seen["train_loss_step"] == [(0.5, 1.0), (1.0, 3.0)]
    assert seen["val_loss"] == [(1.0, 7.0)]


def test_data_without_a_length_count_batches(tmp_path: Path) -> None:
    class Endless(IterableDataset):
        def __iter__(self) -> Any:
            while True:
                yield torch.ones(1)

    curves = LearningCurves(tmp_path)
    seen = fit(curves, data=DataLoader(Endless()), max_epochs=-1, max_steps=6, limit_val_batches=0)
    assert curves.unit == "training batch"
    assert seen["train/loss_step"] == [(2, 102.0), (4, 104.0), (6, 106.0)]


@pytest.mark.parametrize("place", ["validation-8", "epoch-8", "step-5", "step-7", "validation-4", "epoch-4"])
def test_after_a_resume_the_picture_is_that_of_the_whole_run(place: str, tmp_path: Path) -> None:
    fit(LearningCurves(tmp_path), SaveEverywhere(tmp_path), max_epochs=2)
    resumed = LearningCurves(tmp_path)
    assert fit(resumed, ckpt=tmp_path / f"{place}.ckpt") == WHOLE


def test_a_second_fit_of_the_same_callback_starts_anew_and_an_evaluation_changes_nothing(tmp_path: Path) -> None:
    curves = LearningCurves(tmp_path)
    fit(curves)
    assert fit(curves) == WHOLE
    quiet_trainer(curves, limit_val_batches=1).validate(Scripted(), DataLoader(torch.ones(1, 1)), verbose=False)
    assert curves.curves["val/acc"] == ([1.0, 2.0, 3.0], [0.5, 0.75, 0.625])


def test_a_longer_fit_of_the_same_trainer_adds_to_the_curves(tmp_path: Path) -> None:
    curves, module = LearningCurves(tmp_path), Scripted()
    trainer = quiet_trainer(curves, max_epochs=1, limit_val_batches=1, log_every_n_steps=2)
    for epochs in (1, 3):
        trainer.fit_loop.max_epochs = epochs
        trainer.fit(module, DataLoader(torch.ones(BATCHES, 1)), DataLoader(torch.ones(1, 1)))
    assert {name: list(zip(*points, strict=True)) for name, points in curves.curves.items()} == WHOLE


def test_the_picture_is_written_in_the_run_folder(tmp_path: Path) -> None:
    fit(LearningCurves(), default_root_dir=tmp_path / "root")
    fit(LearningCurves(filename="a.png"), logger=CSVLogger(tmp_path, name="run", version="v"))
    fit(LearningCurves(tmp_path / "own" / "deep"))
    for path in ("root/curves.png", "run/v/a.png", "own/deep/curves.png"):
        with Image.open(tmp_path / path) as image:
            assert image.format == "PNG"
            assert image.width > 500
            assert np.asarray(image.convert("L")).std() > 10  # something is drawn


@pytest.mark.parametrize("error", [OSError("disk"), SystemExit(143), KeyboardInterrupt()], ids=repr)
def test_the_picture_is_there_when_the_run_breaks(error: BaseException, tmp_path: Path) -> None:
    class Breaks(Scripted):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            if self.trainer.global_step == 6:
                raise error
            return super().training_step(batch, batch_idx)

    curves = LearningCurves(tmp_path)
    with pytest.raises(SystemExit if isinstance(error, KeyboardInterrupt) else type(error)):
        fit(curves, module=Breaks())
    assert (tmp_path / "curves.png").exists()
    assert curves.curves["train/loss_step"] == ([0.5, 1.0, 1.5], [102.0, 104.0, 106.0])


def test_a_resumed_run_that_fails_before_it_trains_draws_nothing(tmp_path: Path) -> None:
    class Fails(Scripted):
        def on_train_start(self) -> None:
            raise OSError("no data")

    fit(LearningCurves(tmp_path / "first"), SaveOnce(tmp_path / "a.ckpt", 4))
    with pytest.raises(OSError, match="no data"):
        fit(LearningCurves(tmp_path / "second"), module=Fails(), ckpt=tmp_path / "a.ckpt")
    assert not (tmp_path / "second").exists()


def test_no_picture_where_none_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = quiet_trainer(LearningCurves(tmp_path / "a"), limit_val_batches=1)
    trainer.validate(Scripted(), DataLoader(torch.ones(1, 1)), verbose=False)
    fit(LearningCurves(tmp_path / "b"), fast_dev_run=True)
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    fit(LearningCurves(tmp_path / "c"))
    assert not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_written_does_not_break_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="LearningCurves could not draw .*file/curves.png"):
        assert fit(LearningCurves(tmp_path / "file")) == WHOLE


def test_another_ending_is_refused() -> None:
    with pytest.raises(ValueError, match=r"filename must end in .png, got 'curves.pdf'"):
        LearningCurves(filename="curves.pdf")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that would be drawn; nothing may touch pyplot, which would want a display."""
    figures: list[Any] = []

    def keep(canvas: FigureCanvasAgg) -> None:
        canvas.get_renderer()  # an empty picture
        figures.append(canvas.figure)

    monkeypatch.setattr(FigureCanvasAgg, "draw", keep)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    return figures


def test_what_the_picture_shows(drawn: list[Any], tmp_path: Path) -> None:
    fit(LearningCurves(tmp_path), GradNorm(), LRSchedule("exponential", gamma=0.5))
    (figure,) = drawn
    assert figure.get_suptitle() == "Scripted  ·  best val/acc 0.75"
    loss, acc, rate, norm = figure.axes
    assert [a.get_ylabel() for a in figure.axes] == ["loss (nats)", "acc", "learning rate", "gradient norm"]
    assert {a.get_xlabel() for a in figure.axes} == {"epoch"}
    assert len({a.get_xlim() for a in figure.axes}) == 1
    assert [line.get_label() for line in loss.lines] == ["train, running", "train", "val"]
    for line, name in zip(loss.lines, ("train/loss_step", "train/loss", "val/loss"), strict=True):
        assert [*zip(*line.get_data(), strict=True)] == WHOLE[name]
    assert loss.get_legend() is not None
    best = acc.lines[-1]
    assert (best.get_label(), best.get_marker()) == ("best 0.75 (epoch 2)", "*")
    assert [*zip(*best.get_data(), strict=True)] == [(2.0, 0.75)]
    assert rate.get_yscale() == "log"  # 0.5 to 0.5 ^ 11
    assert norm.get_yscale() == "linear"
    assert norm.get_legend() is None


def test_what_was_best_before_may_be_forgotten(drawn: list[Any], tmp_path: Path) -> None:
    """Also by a run that resumes after that."""

    class Forgets(Callback):
        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            if trainer.global_step == 2 * BATCHES:
                next(c for c in trainer.callbacks if isinstance(c, LearningCurves)).forget_best(trainer)  # type: ignore[attr-defined]

    curves = LearningCurves(tmp_path)
    fit(curves, Forgets(), SaveOnce(tmp_path / "x.ckpt", 2 * BATCHES + 1))
    fit(LearningCurves(tmp_path), ckpt=tmp_path / "x.ckpt")
    assert [figure.get_suptitle() for figure in drawn] == ["Scripted  ·  best val/acc 0.625"] * 2
    fit(curves)  # another run
    assert drawn[-1].get_suptitle() == "Scripted  ·  best val/acc 0.75"


def test_one_panel_if_that_is_all_there_is(drawn: list[Any], tmp_path: Path) -> None:
    draw({"train/loss": ([1.0, 2.0], [3.0, float("nan")])}, tmp_path / "x.png", monitor="val/loss", mode="min")
    draw({"val/loss": ([1.0, 2.0, 3.0], [float("nan"), 2.0, 3.0])}, tmp_path / "x.png", monitor="val/loss", mode="min")
    (plain,), (marked,) = drawn[0].axes, drawn[1].axes
    assert len(plain.lines) == 1
    assert [*zip(*marked.lines[-1].get_data(), strict=True)] == [(2.0, 2.0)]


@pytest.mark.parametrize(("count", "shape"), [(2, (1, 2)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3)), (7, (3, 3))])
def test_panels_fill_a_grid(count: int, shape: tuple[int, int], drawn: list[Any], tmp_path: Path) -> None:
    draw({f"val/m{i}": ([1.0], [float(i)]) for i in range(count)}, tmp_path / "x.png")
    (figure,) = drawn
    assert len(figure.axes) == count
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == shape


def test_several_optimizers_are_told_apart(drawn: list[Any], tmp_path: Path) -> None:
    draw({"lr/0": ([1.0], [1.0]), "lr/1": ([1.0], [0.5]), "grad_norm/0": ([1.0], [1.0])}, tmp_path / "x.png")
    rate = drawn[0].axes[0]
    assert [text.get_text() for text in rate.get_legend().get_texts()] == ["optimizer 0", "optimizer 1"]


def test_few_points_are_marked_since_one_makes_no_line(drawn: list[Any], tmp_path: Path) -> None:
    fit(LearningCurves(tmp_path), GradNorm(), max_epochs=1, log_every_n_steps=4)
    for axes in drawn[0].axes:
        for line in axes.lines:
            assert len(line.get_xdata()) == 1
            assert line.get_marker() in ("o", "*"), line.get_label()
    many = [float(i) for i in range(1000)]
    draw(dict.fromkeys(("train/loss_step", "val/loss", "lr"), (many, many)), tmp_path / "x.png")
    assert [line.get_marker() for axes in drawn[1].axes for line in axes.lines] == ["None"] * 3


def test_neither_panel_nor_legend_for_what_is_not_finite(drawn: list[Any], tmp_path: Path) -> None:
    nothing = ([1.0, 2.0], [float("nan"), float("inf")])
    curves = {"val/acc": nothing, "train/loss": nothing, "val/loss": ([1.0, 2.0, 3.0], [1.0, float("nan"), 3.0])}
    draw(curves, tmp_path / "x.png", monitor="val/acc", mode="max")
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["val"]
    assert [*zip(*axes.lines[0].get_data(), strict=True)] == [(1.0, 1.0), (3.0, 3.0)]  # a line, not two points without
    draw({"val/acc": nothing}, tmp_path / "x.png")
    assert len(drawn) == 1


@pytest.mark.parametrize(
    ("train", "val", "scale"),
    [
        ([500.0, 1.0], [2.0, 1.0], "log"),
        ([500.0, 1.0], [1e-3, 1e-4], "log"),
        ([500.0, 1.0], [-2.0, 1.0], "linear"),  # of a critic: below 0 there is no logarithm
        ([500.0, 1.0], [0.0, 0.0], "linear"),
        ([50.0, 1.0], [2.0, 1.0], "linear"),
    ],
)
def test_every_curve_is_within_its_panel(
    train: list[float], val: list[float], scale: str, drawn: list[Any], tmp_path: Path
) -> None:
    draw({"train/loss": ([1.0, 2.0], train), "val/loss": ([1.0, 2.0], val)}, tmp_path / "x.png")
    (axes,) = drawn[0].axes
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    for line in axes.lines:
        assert any(low < y < high for y in line.get_ydata())


def test_names_are_drawn_as_they_are_or_escaped(tmp_path: Path) -> None:
    curves = {"val/猫_$x_{1$": ([1.0], [1.0]), "val/ä": ([1.0], [2.0])}
    draw(curves, tmp_path / "x.png", title="猫$", monitor="val/ä", mode="min")  # warnings are errors
    assert (tmp_path / "x.png").exists()


def test_curves_are_tensors_in_a_checkpoint_and_lists_of_an_older_one_are_read() -> None:
    values = ([0.1, 0.2], [1 / 3, math.nan])
    saved, resumed, older = LearningCurves(), LearningCurves(), LearningCurves()
    saved.curves = {"val/loss": values}
    state = saved.state_dict()
    assert {name: (points.dtype, points.shape) for name, points in state["curves"].items()} == {
        "val/loss": (torch.float64, (2, 2))
    }
    resumed.load_state_dict(state)
    older.load_state_dict({"curves": {"val/loss": [list(part) for part in values]}})
    for curves in (resumed, older):
        curves._add(0.3, {"val/loss": 2.0})
        assert repr(curves.curves) == repr({"val/loss": ([0.1, 0.2, 0.3], [1 / 3, math.nan, 2.0])})
