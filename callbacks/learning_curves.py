"""Learning curves of a run as one picture."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from callbacks.curve_panels import EPOCH_METRIC, STEP_METRIC, log_bottom, order_of, panel_of
from callbacks.internals import fetched_batches, fetched_batches_of_epoch, is_fit_validation, row_is_due, run_folder
from callbacks.writing import warning_only

TRAIN, VAL = "#3b6fb6", "#d9722e"
FEW = 40  # points of a curve up to which each is marked


class LearningCurves(Callback):
    """Draw the curves of a run into a PNG when fit ends, also by an error or a signal.

    Each metric has a panel that shows ``train/<metric>`` and ``val/<metric>`` (not those of single classes,
    ``val/<metric>/<class>``) and, behind them, the running ``train/<metric>_step``. The best value of the module's ``monitor`` is
    marked, if it has one. More panels show the learning rate of each optimizer (the largest of its groups) and ``grad_norm``
    (:class:`~callbacks.GradNorm`), where they are logged. Steps are recorded when the trainer writes a row. The recorded values
    are saved in checkpoints: after a resume, the picture shows the whole run.

    Args:
        dirpath: Folder of the picture. Default: the trainer's ``log_dir``, else its ``default_root_dir``.
        filename: Name of the picture, ending in ``.png``.

    Raises:
        ValueError: ``filename`` has another suffix.

    Example:
        >>> LearningCurves("runs/digits").curves
        {}
    """

    def __init__(self, dirpath: str | Path | None = None, filename: str = "curves.png") -> None:
        if not filename.endswith(".png"):
            raise ValueError(f"filename must end in .png, got {filename!r}")
        self.dirpath, self.filename = dirpath, filename
        self.curves: dict[str, tuple[list[float], list[float]]] = {}  # name -> (times, values)
        self.unit = "epoch"  # of times: epochs done, with a fraction
        self.best_from = 0.0  # time from which on values may be the best
        self._path: Path | None = None
        self._trained = False  # whether there is anything new to draw
        self._rates: dict[str, float] = {}
        # Times of the last row and of the end of the last epoch, until they are read: modules log in hooks that run after ours.
        self._row_at: float | None = None
        self._epoch_at: float | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        folder = run_folder(trainer)
        self._path = None if folder is None else Path(self.dirpath or folder) / self.filename
        self._row_at = self._epoch_at = None
        self._trained = False
        if trainer.global_step == 0:  # a checkpoint to resume from is loaded after this
            self.curves, self.best_from = {}, 0.0

    def forget_best(self, trainer: Trainer) -> None:
        """Mark the best value from now on: values so far are of another net."""
        self.best_from = self._now(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.unit = "training batch" if math.isinf(trainer.num_training_batches) else "epoch"

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._read_row(trainer)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if not row_is_due(trainer):
            return
        index = [id(o) for o in trainer.optimizers].index(id(optimizer))
        name = "lr" if len(trainer.optimizers) == 1 else f"lr/{index}"
        self._rates[name] = max(group["lr"] for group in optimizer.param_groups)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._trained = True
        if self._rates:  # an optimizer has stepped, and a row is due
            self._row_at = self._now(trainer)
            self._add(self._row_at, self._rates)
            self._rates = {}

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read_row(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_fit_validation(trainer):
            self._add(self._now(trainer), _matching(trainer, EPOCH_METRIC, "val"))

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read_row(trainer)
        self._epoch_at = self._now(trainer)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._epoch_at is not None:  # saved at the end of an epoch, after the module has logged its means
            self._add(self._epoch_at, _matching(trainer, EPOCH_METRIC, "train"))
            checkpoint["callbacks"][self.state_key] = self.state_dict()

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read_epoch(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read_epoch(trainer)
        self._draw(trainer, pl_module)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (
            not self._trained and self._path is not None and not self._path.is_file()
        ):  # resumed at its end: it was killed before it had drawn
            self._draw(trainer, pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._trained:
            self._draw(trainer, pl_module)

    @override
    def state_dict(self) -> dict[str, Any]:
        # tensors: a checkpoint is saved object by object, and every number of a list is one
        curves = {name: torch.tensor(points, dtype=torch.float64) for name, points in self.curves.items()}
        return {"curves": curves, "best_from": self.best_from}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.curves = {
            name: tuple(torch.as_tensor(points, dtype=torch.float64).tolist())
            for name, points in state_dict["curves"].items()
        }
        self.best_from = state_dict.get("best_from", 0.0)

    def _now(self, trainer: Trainer) -> float:
        if self.unit == "epoch":
            return trainer.current_epoch + fetched_batches_of_epoch(trainer) / trainer.num_training_batches
        return fetched_batches(trainer)

    def _read_row(self, trainer: Trainer) -> None:
        if self._row_at is not None:
            self._add(self._row_at, _matching(trainer, STEP_METRIC))
            self._row_at = None

    def _read_epoch(self, trainer: Trainer) -> None:
        if self._epoch_at is not None:
            self._add(self._epoch_at, _matching(trainer, EPOCH_METRIC, "train"))
            self._epoch_at = None

    def _add(self, x: float, values: dict[str, Any]) -> None:
        for name, value in values.items():
            xs, ys = self.curves.setdefault(name, ([], []))
            if xs and xs[-1] == x:
                ys[-1] = float(value)
            else:
                xs.append(x)
                ys.append(float(value))

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._path is None or not self.curves or not trainer.is_global_zero:
            return
        name, mode = getattr(pl_module, "monitor", None) or (None, None)
        with warning_only(f"LearningCurves could not draw {self._path}"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draw(self.curves, self._path, type(pl_module).__name__, name, mode, self.unit, self.best_from)


def draw(
    curves: dict[str, tuple[list[float], list[float]]],
    path: Path,
    title: str = "",
    monitor: str | None = None,
    mode: str | None = None,
    unit: str = "epoch",
    best_from: float = 0.0,
) -> None:
    """Draw curves into a PNG. Values that are not finite are left out; without any others, there is no picture.

    Args:
        curves: By name, the times and the values.
        path: The file to write.
        title: Title of the figure.
        monitor: Name of the curve whose best value is marked.
        mode: Whether the best value is the "min" or the "max".
        unit: Unit of the times.
        best_from: Time from which on a value may be the best.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # the object interface: no display, no global state
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    finite = {
        name: [(x, y) for x, y in zip(*points, strict=True) if math.isfinite(y)] for name, points in curves.items()
    }
    curves = {name: ([x for x, _ in points], [y for _, y in points]) for name, points in finite.items() if points}
    if not curves:
        return
    panels: dict[str, list[str]] = {}
    for name in curves:
        panels.setdefault(panel_of(name), []).append(name)
    order = sorted(panels, key=order_of)
    columns = len(order) if len(order) <= 3 else 2 if len(order) == 4 else 3
    rows = math.ceil(len(order) / columns)
    figure = Figure(
        figsize=(4.8 * columns, 3.4 * rows + 0.3), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    )
    canvas = FigureCanvasAgg(figure)
    end = max(x for xs, _ in curves.values() for x in xs)
    for i, panel in enumerate(order):
        axes = figure.add_subplot(rows, columns, i + 1)
        names = sorted(panels[panel], key=lambda name: (not name.endswith("_step"), name))  # the running mean behind
        for name in names:
            xs, ys = curves[name]
            axes.plot(xs, ys, **_style(name, len(xs), single=len(names) == 1))
        rivals = [point for point in finite[monitor] if point[0] >= best_from] if monitor in names else []
        if rivals:
            x, y = (min if mode == "min" else max)(rivals, key=lambda point: point[1])
            axes.plot(
                x, y, "*", color=VAL, ms=13, mec="black", mew=0.8, label=f"best {y:.4g} ({unit} {x:.4g})", zorder=5
            )
            title += f"  ·  best {monitor} {y:.4g}"
        if bottom := log_bottom([curves[name][1] for name in names], panel):
            axes.set_yscale("log")
            axes.set_ylim(bottom=bottom)
        axes.set(xlabel=unit, xlim=(-0.02 * end, 1.02 * end))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[1]:
            # above the axes, where it covers no curve; the "best" place of many points takes long to find
            axes.legend(
                loc="lower right",
                bbox_to_anchor=(1, 1),
                ncols=4,
                frameon=False,
                fontsize="small",
                borderpad=0,
                columnspacing=1.0,
                handlelength=1.4,
            )
        axes.yaxis.label.set(text=_drawable(panel), parse_math=False)
    figure.suptitle(_drawable(title), parse_math=False)
    canvas.draw()  # lays out and draws once; Figure.savefig does both twice
    Image.fromarray(np.asarray(canvas.buffer_rgba())).save(path)


def _style(name: str, count: int, single: bool) -> dict[str, Any]:
    """Return the keyword arguments of ``plot`` for a curve; points are marked while they are few, since one makes no line."""
    if name.endswith("_step"):
        style = {"color": TRAIN, "alpha": 0.45, "lw": 0.8, "label": "train, running", "ms": 2}
    elif match := EPOCH_METRIC.fullmatch(name):
        style = {"color": TRAIN if match[1] == "train" else VAL, "lw": 1.6, "ms": 3, "label": match[1]}
    else:
        style = {"lw": 1.2, "ms": 2} | (
            {"color": "#555555"} if single else {"label": f"optimizer {name.split('/')[1]}"}
        )
    return style | {"marker": "o" if count <= FEW else None}


def _drawable(text: str) -> str:
    """Return a text with escapes for the characters that the font does not have: matplotlib would draw boxes, and warn."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    known = (char if font.get_char_index(ord(char)) else char.encode("unicode_escape").decode() for char in text)
    return "".join(known)


def _matching(trainer: Trainer, pattern: re.Pattern[str], part: str = "") -> dict[str, Tensor]:
    metrics = trainer.callback_metrics
    return {name: value for name, value in metrics.items() if pattern.fullmatch(name) and name.startswith(part)}
