"""What a classifier's run knows of its own uncertainty: from its validation split, kept in ``calibration.json`` of its folder."""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.cli import catalog
from recipes.cli.console import Console
from recipes.cli.errors import UserError
from recipes.cli.run.folder import CONFIG
from recipes.cli.run.process import restored_process_state
from zoo.writing import replacing

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Model

CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """What is fitted on the validation split of a run.

    Args:
        checkpoint: Name of the checkpoint that it is of.
        sha256: Hash of that file.
        data: Fingerprint of the data; "" where they have none.
        temperature: See :func:`zoo.uncertainty.fit_temperature`; None where no temperature is the best one.
        scores: Sorted "lac" scores of the true labels, see :func:`zoo.uncertainty.conformal_scores`.
    """

    checkpoint: str
    sha256: str
    data: str
    temperature: float | None
    scores: list[float]


def run_folder(word: str, given: str) -> Path:
    """Return the run folder of a checkpoint that :func:`~recipes.cli.verbs.named_model.find_model` found.

    Raises:
        UserError: It is not in one.
    """
    path = Path(word)
    if path.is_file() and (path.parent.parent / CONFIG).is_file():
        return path.parent.parent
    raise UserError(
        f"{given} has no run folder beside it, whose {CONFIG} names the data to calibrate on: give a run folder, such as "
        f"runs/cnn/lenet_digits/version_0, or a checkpoint in one (zoo fit makes them)"
    )


def identity_of(run: Path) -> str:
    """Return the fingerprint of the data that a run was trained on; "" where its config does not tell."""
    return catalog.read(run / CONFIG, "run").data


def check_same_data(one: Path, other: Path) -> None:
    """Refuse runs on different data.

    Raises:
        UserError: The fingerprints differ.
    """
    first, second = identity_of(one), identity_of(other)
    if first and second and first != second:
        raise UserError(
            f"an ensemble is of runs on the same data with the same split: {one} has {first}, {other} has {second}"
        )


def check_model(model: "Model", what: str) -> None:
    """Refuse models that do not give one label an example.

    Raises:
        UserError: They do not.
    """
    name = type(model).__name__
    if model.makes != "label":
        raise UserError(f"{what} is for classifiers, and {name} is not one")
    if getattr(model, "by_step", False):
        raise UserError(f"{what} is for one label an example, and this {name} gives one for each step")
    if getattr(model, "mode", None) == "multilabel":
        raise UserError(f"{what} is for one label an example, and this {name} gives several (mode: multilabel)")


class RunData:
    """The data of a run, split as they were when it was trained.

    Args:
        run: The run folder.
        checkpoint: A checkpoint in it.

    Raises:
        UserError: The data are others than then, or have no validation split.
    """

    def __init__(self, run: Path, checkpoint: Path) -> None:
        from lightning.pytorch import Trainer

        from recipes.cli.run.building import RecipeCLI
        from recipes.cli.run.checkpoints import load

        self.run = run
        with restored_process_state():
            data: Any = RecipeCLI([f"--config={run / CONFIG}"], [], load(checkpoint)).datamodule
            if data is None:
                raise UserError(f"{run / CONFIG} has no data section: there is nothing to calibrate on")
            names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
            quiet: dict[str, Any] = dict.fromkeys(names, False)
            data.trainer = Trainer(accelerator="cpu", **quiet)
            data.prepare_data()
            data.setup("fit")
        self.data = data
        self.identity: str = getattr(data, "data_identity", None) or ""
        trained = identity_of(run)
        if trained and self.identity and trained != self.identity:
            raise UserError(
                f"the data of {run} are no longer those it was trained on: {trained} then, {self.identity} now; what it was "
                f"trained on must not calibrate it: bring back the files, or train again"
            )
        if not (loader := data.val_dataloader()):
            raise UserError(
                f"{run} was trained without a validation split, so there is nothing to calibrate on: train it with "
                f"--data.val_fraction 0.1"
            )
        self.validation = loader

    def test(self) -> Any:
        """Return the loader of the test part.

        Raises:
            UserError: There is none.
        """
        if not getattr(self.data, "has_test", True):
            raise UserError(
                f"the data of {self.run} have no test part to measure on (zoo predict --conformal needs none)"
            )
        self.data.setup("test")
        return self.data.test_dataloader()

    def predictions(self, loader: Any, *predict: Callable[[Any], "Tensor"]) -> "tuple[list[Tensor], Tensor]":
        """Return what functions of a batch of inputs give for all examples that count, and their labels, on the CPU."""
        import torch

        with torch.inference_mode():
            parts = [([function(x).cpu() for function in predict], y.cpu()) for x, y in self._batches(loader)]
        found, labels = zip(*parts, strict=True)
        return [torch.cat(each) for each in zip(*found, strict=True)], torch.cat(labels).long()

    def _batches(self, loader: Any) -> Iterator[tuple[Any, "Tensor"]]:
        import torch
        from lightning.fabric.utilities import move_data_to_device

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # as load_model
        for batch in loader:
            x, y, *weight = self.data.on_after_batch_transfer(move_data_to_device(batch, device), 0)
            if weight and not bool((weight[0] > 0).all()):
                raise UserError(f"{type(self.data).__name__} weighs its examples by 0: calibration takes all alike")
            yield x, y


def true_scores(p: "Tensor", y: "Tensor") -> "Tensor":
    """Return the sorted conformal scores ``(N,)`` of the true labels."""
    from zoo.uncertainty import conformal_scores

    return conformal_scores(p).gather(1, y[:, None])[:, 0].sort().values


def calibrate(model: Any, logits: "Tensor", y: "Tensor", checkpoint: Path, identity: str) -> tuple[Calibration, str]:
    """Fit what is kept of a run on its validation split; also return why there is no temperature, if there is none."""
    from zoo.pretrained.files import sha256
    from zoo.uncertainty import fit_temperature

    temperature, why = None, ""
    try:
        temperature = fit_temperature(logits, y)
    except ValueError as error:
        why = str(error)
    scores = true_scores(model.probabilities(logits), y).tolist()
    return Calibration(checkpoint.name, sha256(checkpoint), identity, temperature, scores), why


def write(calibration: Calibration, run: Path) -> Path:
    """Write the calibration into its run folder."""
    path = run / CALIBRATION
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(asdict(calibration)) + "\n", encoding="utf-8")
    return path


def read(run: Path, checkpoint: Path) -> Calibration | None:
    """Return the calibration of a checkpoint; None if there is none, or only that of another one."""
    from zoo.pretrained.files import sha256

    with suppress(OSError, ValueError, TypeError):  # damaged, or of another version: it is made again
        found = Calibration(**json.loads((run / CALIBRATION).read_text(encoding="utf-8")))
        if found.sha256 == sha256(checkpoint) and identity_of(run) in ("", found.data):
            return found
    return None


def threshold(scores: Any, alpha: float, console: Console | None) -> float:
    """Return the conformal threshold of scores, and print that they are too few if they are and there is a console."""
    import torch

    from zoo.uncertainty import conformal_threshold

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        value = conformal_threshold(torch.as_tensor(scores, dtype=torch.float64), alpha)
    for warning in said:
        if console is not None:
            console.print(f"warning: {warning.message}", error=True)
    return value


def check_alpha(alpha: float) -> None:
    """Refuse a share that is none.

    Raises:
        UserError: It is not in (0, 1).
    """
    if not 0 < alpha < 1:
        raise UserError(
            f"--conformal is the share of sets that may miss the true label, above 0 and below 1, such as 0.1, got {alpha:g}"
        )


def own_scores(model: Any, run: Path, checkpoint: Path, console: Console) -> Sequence[float]:
    """Return the scores of a run's own model: those that are kept, or made now from its validation split, and kept."""
    kept = read(run, checkpoint)
    if kept is None:
        data = RunData(run, checkpoint)
        (logits,), y = data.predictions(data.validation, model)
        kept, _ = calibrate(model, logits.float(), y, checkpoint, data.identity)
        try:
            path = write(kept, run)
            console.print(f"note: {path} is made from the {len(y)} validation examples of {run}", error=True)
        except OSError as error:  # a run of someone else's
            console.print(f"note: {CALIBRATION} cannot be kept in {run}: {error.strerror}", error=True)
    return kept.scores
