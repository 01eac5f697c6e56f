"""What a classifier gets wrong."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import IterableDataset
from typing_extensions import override

from callbacks.checks import check_integer
from callbacks.contract import check_defines
from callbacks.internals import folder_after_fit, forward_context, gather_objects, is_validate_call, leaves, map_leaves
from callbacks.reading import counted, first_loader
from callbacks.writing import warning_only, write


class WrongExamples(Callback):
    """List the examples that a classifier gets wrong when it is evaluated after a fit, the most confident mistakes first.

    ``zoo fit`` tests the best checkpoint when training is over, or validates it where there is no test part. Then the run folder
    gets ``wrong_examples.csv`` (file or index, true and predicted class, probability of the prediction), and of what
    ``pl_module.render`` (:class:`~callbacks.Renderable`) shows, ``wrong_examples.png``, its "examples" of the most confident
    mistakes, and ``confusion.png``, the confusion matrix of all examples. An evaluation without a fit writes nothing, and an
    error is a warning.

    ``pl_module.predict_step`` must return a dict with ``label``, the name of a class for each example, and ``probability``. A
    module without ``render`` or a ``predict_step`` of its own is refused; one that predicts anything else, or whose targets are
    not one class for each example, is left alone. Inputs of several tensors are shown where their shapes are those of the most
    confident mistake.

    Args:
        num_examples: Number of images in the picture, >= 1.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> WrongExamples().num_examples
        32
    """

    def __init__(self, num_examples: int = 32) -> None:
        check_integer("num_examples", num_examples, 1)
        self.num_examples = num_examples
        self._folder: Path | None = None
        self._reset()

    def _reset(self) -> None:
        self._seen = 0
        self._rows: list[list[Any]] = []  # name, true class, predicted class, probability
        self._shown: list[tuple[float, Any]] = []  # the most confident mistakes: probability and example
        self._one: Any = None  # an example that is predicted right
        self._indices: list[list[int]] | None = None  # of the examples of each batch; none for a stream

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            check_defines(pl_module, "WrongExamples", "render(batch)", "predict_step(batch, batch_idx)")

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_validate_call(trainer):
            self._begin(trainer)

    def _begin(self, trainer: Trainer) -> None:
        self._folder = folder_after_fit(trainer)
        self._reset()

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._add(trainer, pl_module, trainer.test_dataloaders, batch, batch_idx)

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if is_validate_call(trainer):
            self._add(trainer, pl_module, trainer.val_dataloaders, batch, batch_idx)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_validate_call(trainer):
            self._write(trainer, pl_module)

    def _add(self, trainer: Trainer, module: Any, loaders: Any, batch: Any, number: int) -> None:
        if self._folder is None:
            return
        if not isinstance(batch, list | tuple) or len(batch) < 2:
            return
        x, y, *rest = batch
        if not isinstance(y, Tensor) or y.ndim != 1:
            return
        with forward_context(trainer):
            predicted = module.predict_step(batch, number)
        if not isinstance(predicted, dict) or "label" not in predicted:
            return
        loader = first_loader(loaders)
        if self._indices is None:
            stream = isinstance(loader.dataset, IterableDataset)  # torch gives it a batch sampler without end
            self._indices = [] if stream else [list(batch) for batch in loader.batch_sampler or ()]
        indices = self._indices[number] if self._indices else None
        counts = counted(rest[0]) if rest else torch.ones_like(y, dtype=torch.bool)
        names = getattr(module, "class_names", None)
        name_of = getattr(loader.dataset, "name_of", str)
        for i in counts.nonzero().flatten().tolist():
            self._seen += 1
            true = names[int(y[i])] if names else str(int(y[i]))
            label, probability = predicted["label"][i], float(predicted["probability"][i])
            if label != true:
                self._rows.append(
                    [name_of(indices[i]) if indices else str(self._seen - 1), true, label, round(probability, 4)]
                )
                self._shown.append((probability, _example(x, y, i)))
            elif self._one is None:
                self._one = _example(x, y, i)
        self._shown = sorted(self._shown, key=lambda one: -one[0])[: self.num_examples]

    def _write(self, trainer: Trainer, module: Any) -> None:
        if self._folder is None:
            return
        parts = gather_objects(trainer, (self._seen, self._rows, self._shown, self._one))
        seen, one = sum(part[0] for part in parts), next((part[3] for part in parts if part[3] is not None), None)
        rows = sorted((row for part in parts for row in part[1]), key=lambda row: (-row[3], row[0]))
        shown = sorted((one for part in parts for one in part[2]), key=lambda one: -one[0])[: self.num_examples]
        if not seen or not trainer.is_global_zero:
            return
        with warning_only("WrongExamples could not show them"):
            write(self._folder, "wrong_examples", [["file", "true", "predicted", "probability"], *rows])
            examples = [example for _, example in shown] or [one]
            rendered = module.render(map_leaves(lambda part: part.to(module.device), _batch(examples)))
            if "confusion" in rendered:
                write(self._folder, "confusion", rendered["confusion"])
            if shown and "examples" in rendered:
                write(self._folder, "wrong_examples", rendered["examples"])
            rank_zero_info(f"{len(rows)} of {seen} wrong: {self._folder / 'wrong_examples.csv'}")
        self._reset()


def _example(x: Any, y: Tensor, index: int) -> Any:
    """Return an example of a batch, ``(x, y)`` without the batch dimension, on the CPU."""
    return map_leaves(lambda part: part[index].cpu(), (x, y))


def _batch(examples: list[Any]) -> Any:
    """Return the first example and those of its shape as a batch."""
    shapes = [[part.shape for part in leaves(example)] for example in examples]
    same = [example for example, shape in zip(examples, shapes, strict=True) if shape == shapes[0]]
    return map_leaves(lambda *parts: torch.stack(parts), *same)
