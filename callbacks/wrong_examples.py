"""What the model of a run gets wrong, to look at."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import IterableDataset
from typing_extensions import override

from callbacks.internals import forward_context, gather_objects, is_validate_call, leaves, map_leaves, run_folder
from callbacks.reading import counted, first_loader
from callbacks.writing import warning_only, write


class WrongExamples(Callback):
    """Tell which examples a classifier gets wrong when it is evaluated after a fit, the surest mistakes first.

    ``zoo fit`` tests the best checkpoint when training is over, and validates it where there is no test part. Into the run
    folder go ``wrong_examples.csv`` (file or number, true and predicted class, the prediction's probability),
    ``wrong_examples.png`` with the surest of them (images), and ``confusion.png``, the confusion matrix of all examples: what
    ``pl_module.render`` shows. The classes are those of ``pl_module.predict_step``; a module that predicts no class an example,
    multi-label ones among them, is left alone. Nothing is written by an evaluation without a fit. What fails is a warning.

    Args:
        num_examples: images in the picture, >= 1.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> WrongExamples().num_examples
        32
    """

    def __init__(self, num_examples: int = 32) -> None:
        if num_examples < 1:
            raise ValueError(f"num_examples must be >= 1, got {num_examples}")
        self.num_examples = num_examples
        self._folder: Path | None = None
        self._reset()

    def _reset(self) -> None:
        self._seen = 0
        self._rows: list[list[Any]] = []  # name, true class, predicted class, probability
        self._shown: list[tuple[float, Any]] = []  # the surest: probability and example
        self._one: Any = None  # an example that is predicted right
        self._places: list[list[int]] | None = None  # of each batch, in the dataset; without numbers none

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            folder = run_folder(trainer)
            self._folder = folder if hasattr(pl_module, "render") else None

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reset()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
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
        if self._places is None:
            endless = isinstance(loader.dataset, IterableDataset)  # so is what torch makes of its batch sampler
            self._places = [] if endless else [list(places) for places in loader.batch_sampler or ()]
        places = self._places[number] if self._places else None
        counts = counted(rest[0]) if rest else torch.ones_like(y, dtype=torch.bool)
        names = getattr(module, "class_names", None)
        called = getattr(loader.dataset, "called", str)
        for i in counts.nonzero().flatten().tolist():
            self._seen += 1
            true = names[int(y[i])] if names else str(int(y[i]))
            label, probability = predicted["label"][i], float(predicted["probability"][i])
            if label != true:
                self._rows.append(
                    [called(places[i]) if places else str(self._seen - 1), true, label, round(probability, 4)]
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
            found = module.render(map_leaves(lambda part: part.to(module.device), _batch(examples)))
            if "confusion" in found:
                write(self._folder, "confusion", found["confusion"])
            if shown and "examples" in found:
                write(self._folder, "wrong_examples", found["examples"])
            rank_zero_info(f"{len(rows)} of {seen} wrong: {self._folder / 'wrong_examples.csv'}")
        self._reset()


def _example(x: Any, y: Tensor, index: int) -> Any:
    """An example of a batch, ``(x, y)`` without the batch dimension, on the CPU."""
    return map_leaves(lambda part: part[index].cpu(), (x, y))


def _batch(examples: list[Any]) -> Any:
    """The first example and those of its shape, as a batch."""
    shapes = [[part.shape for part in leaves(example)] for example in examples]
    alike = [example for example, shape in zip(examples, shapes, strict=True) if shape == shapes[0]]
    return map_leaves(lambda *parts: torch.stack(parts), *alike)
