"""Distillation side by side: a LeNet alone, and one that learns from a ResNet-20, on the bundled digits and with few labels.

``python -m recipes.cli.studies.distillation`` prints the tables of docs/distillation.md. Students of a table make the same
number of steps by the same recipe, on the same seeds.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recipes.cli.studies.comparison import draw_per_class, fit_and_test, run_quietly, seed_all
from recipes.cli.text import columns

if TYPE_CHECKING:
    from torch import Tensor

SEEDS = (0, 1, 2)
TEACHER_EPOCHS = 12
EPOCHS = 14
LABELS, LABELED_EPOCHS = 10, 80  # a class; the epochs of a teacher on these
ALONE = "alone"
_LOGITS: dict[str, Any] = {"alpha": 0.9, "temperature": 4.0}
_FEATURES: dict[str, Any] = {"features": {"conv2": "layer3"}, "feature_weight": 0.02}
METHODS: dict[str, dict[str, Any]] = {
    ALONE: {},
    "logits": _LOGITS,
    "features": {"alpha": 0.0, **_FEATURES},
    "both": {**_LOGITS, **_FEATURES},
}
UNLABELED = {"alpha": 1.0, "temperature": 4.0}  # the labels take no part
Results = dict[str, list[float]]  # method -> accuracy of each seed


def digits(labels: int | None, batch_size: int, seed: int) -> Any:
    """Return the bundled digits, enlarged to 32x32, as a datamodule.

    Args:
        labels: Number of training images of each class; None for all.
        batch_size: Images a step.
        seed: Seed of the choice of training images.
    """
    from datamodules import DigitsDataModule

    class SomeDigits(DigitsDataModule):
        def read(self, part: Literal["train", "test"]) -> "tuple[Tensor, Tensor]":
            x, y = super().read(part)
            if part == "train" and labels is not None:
                some = draw_per_class(y, labels, 10, seed)
                x, y = x[some], y[some]
            return x, y

    return SomeDigits(size=32, batch_size=batch_size, shift=4, val_fraction=0)


def train_teacher(folder: Path, epochs: int, labels: int | None = None, seed: int = 0, width: int = 16) -> float:
    """Train a ResNet-20 on all training images, or on a few, write it into a folder, and return its accuracy."""
    from callbacks import LRSchedule
    from zoo import CIFARResNetClassifier

    seed_all(seed)
    task = CIFARResNetClassifier(20, in_channels=1, width=width, lr=3e-3, weight_decay=1e-2)
    data = digits(labels, 64 if labels is None else 20, seed)
    accuracy = fit_and_test(task, data, epochs, LRSchedule("cosine", warmup=0.1))
    task.save_pretrained(folder)
    return accuracy


def train_student(arguments: Mapping[str, Any], teacher: Path, data: Any, epochs: int, seed: int) -> float:
    """Train a LeNet-5, with the teacher if there are ``arguments`` of distillation, and return its accuracy."""
    from callbacks import LRSchedule
    from zoo import ClassificationTask, DistillationTask

    seed_all(seed)
    net: dict[str, Any] = {"net": "lenet5", "in_channels": 1, "lr": 2e-3, "weight_decay": 1e-4}
    task = DistillationTask(**net, teacher=str(teacher), **arguments) if arguments else ClassificationTask(**net)
    return fit_and_test(task, data, epochs, LRSchedule("cosine", warmup=0.1))


def with_all_labels(teacher: Path, epochs: int, seeds: Sequence[int]) -> Results:
    """Train students on all training images with each method."""
    return {
        method: [train_student(arguments, teacher, digits(None, 64, seed), epochs, seed) for seed in seeds]
        for method, arguments in METHODS.items()
    }


def with_few_labels(folder: Path, labels: int, epochs: int, student_epochs: int, seeds: Sequence[int]) -> Results:
    """Train a teacher and a LeNet on a few images; then a student on all of them, of which it knows what the teacher says.

    Args:
        folder: Where the teachers are written.
        labels: Number of labeled images of each class.
        epochs: Epochs of the teacher on these.
        student_epochs: Epochs of the student on all images; the LeNet makes as many steps, of batches of the same size.
        seeds: Seeds of the choice of images and of all else.
    """
    results: Results = {"teacher": [], ALONE: [], "logits, no labels": []}
    for seed in seeds:
        results["teacher"].append(train_teacher(folder / str(seed), epochs, labels, seed))
        every, few = digits(None, 50, seed), digits(labels, 50, seed)
        for data in (every, few):
            data.setup("fit")
        steps, steps_of_few = (len(data.train_dataloader()) for data in (every, few))
        alone_epochs = student_epochs * steps // steps_of_few
        results[ALONE].append(train_student({}, folder / str(seed), few, alone_epochs, seed))
        taught = train_student(UNLABELED, folder / str(seed), every, student_epochs, seed)
        results["logits, no labels"].append(taught)
    return results


def table(results: Results, seeds: Sequence[int]) -> str:
    """Return a row for each method: mean, range, each seed, and on how many seeds it is better than the LeNet alone."""
    rows: list[tuple[object, ...]] = [("", "mean", "range", *(f"seed {seed}" for seed in seeds), "better")]
    for method, found in results.items():
        better = sum(new > old for new, old in zip(found, results[ALONE], strict=True))
        cells = [f"{sum(found) / len(found):.4f}", f"{min(found):.4f}-{max(found):.4f}"]
        wins = "" if method == ALONE else f"{better} of {len(found)}"
        rows.append((method, *cells, *(f"{accuracy:.4f}" for accuracy in found), wins))
    return columns(rows)


def main() -> None:
    """Train the teachers and all students, and print the tables."""
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        few = with_few_labels(Path(folder), LABELS, LABELED_EPOCHS, EPOCHS, SEEDS)
        print(f"{LABELS} labels a class, test/acc\n\n{table(few, SEEDS)}\n", flush=True)
        accuracy = train_teacher(Path(folder, "all"), TEACHER_EPOCHS)
        every = with_all_labels(Path(folder, "all"), EPOCHS, SEEDS)
        print(f"all labels, test/acc; the teacher's is {accuracy:.4f}\n\n{table(every, SEEDS)}\n")
    print(f"{time.process_time() - begin:.0f} s of the processor")


if __name__ == "__main__":
    run_quietly(main)
