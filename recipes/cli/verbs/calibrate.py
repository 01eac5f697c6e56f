"""``zoo calibrate``: how far the probabilities of a trained classifier can be trusted, and what makes them better."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from recipes.cli.console import Console, NoCaches, captured_logs
from recipes.cli.errors import UserError
from recipes.cli.pages.report import write_report
from recipes.cli.run.lock import is_held
from recipes.cli.run.options import Parser
from recipes.cli.run.process import exiting_at_once
from recipes.cli.text import columns
from recipes.cli.verbs import calibration
from recipes.cli.verbs.named_model import find_model, load_model
from zoo.writing import replacing

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.metrics import Reliability

HELP = """zoo calibrate RUN [RUN ...] [options]: measure how far the probabilities of a trained classifier can be trusted.

  RUN               a run folder (its best checkpoint), or a checkpoint in one; several are a deep ensemble: runs of one
                    recipe, from other seeds
  --conformal A     measure sets of labels that hold the true one with a probability of 1 - A (default: 0.1)
  --mc-dropout N    masks of Monte Carlo dropout, where the model has dropout (default: 30)
  --debug           show the traceback of any error

A temperature, which divides the logits, and the thresholds of the sets are fitted on the run's validation split alone; all that is
shown is measured on its test part. Rows: the model as it was trained, with the temperature, with Monte Carlo dropout, and the
ensemble, beside the mean and the range of its members. Columns: accuracy; NLL, the loss in nats; ECE, the expected
calibration error, with 15 bins; Brier, the squared error of the probabilities; coverage, the share of sets that hold the true
label; and their mean size.

It writes into the (first) run folder: reliability.png, a diagram of each row, which its report.html then shows, too, and
calibration.json: the temperature and the conformal scores, which zoo predict --conformal uses.

Examples:
  zoo calibrate runs/linear/mlp_digits/version_0
  zoo calibrate runs/cnn/lenet_digits/version_*
  zoo calibrate runs/cnn/lenet_digits/version_0 --conformal 0.05
"""
PICTURE = "reliability.png"


class Row(NamedTuple):
    """A row of the table, and what its diagram shows."""

    name: str
    numbers: tuple[float, ...]  # in the order of COLUMNS
    bins: "Reliability"


COLUMNS = ("accuracy", "NLL", "ECE", "Brier", "coverage", "set size")


def run(args: list[str]) -> int:
    """Run the verb ``calibrate``."""
    parser = Parser("zoo calibrate")
    parser.add_argument("runs", metavar="RUN", nargs="+")
    parser.add_argument("--conformal", type=float, default=0.1, metavar="A")
    parser.add_argument("--mc-dropout", type=int, default=30, metavar="N")
    options = parser.parse_args(args)
    calibration.check_alpha(options.conformal)
    if options.mc_dropout < 1:
        raise UserError(f"--mc-dropout is a number of masks, 1 or more, got {options.mc_dropout}")
    checkpoints = [Path(find_model(text)) for text in options.runs]
    runs = [calibration.run_folder(str(path), text) for path, text in zip(checkpoints, options.runs, strict=True)]
    if len(set(checkpoints)) < len(checkpoints):
        raise UserError("a run is given twice: the members of an ensemble are different runs")
    for other in runs[1:]:
        calibration.check_same_data(runs[0], other)
    with NoCaches(), exiting_at_once():
        import lightning.pytorch  # noqa: F401 (sets up its log, which is captured from then on)
    console = Console()
    with captured_logs(console):
        _calibrate(runs, checkpoints, options.conformal, options.mc_dropout, console)
    if not is_held(runs[0]) and (problem := write_report(runs[0])):  # a run that trains writes its report at its end
        console.print(f"warning: {problem}", error=True)
    return 0


def _calibrate(runs: Sequence[Path], checkpoints: Sequence[Path], alpha: float, masks: int, console: Console) -> None:
    from zoo.uncertainty import DeepEnsemble, MCDropout, has_dropout, mixture

    models: list[Any] = [load_model(str(path)) for path in checkpoints]
    for model in models:
        calibration.check_model(model, "zoo calibrate")
    DeepEnsemble(models)  # refuses members of other classes or inputs, before anything is measured
    first = models[0]
    data = calibration.RunData(runs[0], checkpoints[0])
    test = data.test()
    functions = list(models)
    if has_dropout(first):
        mc = MCDropout(first, masks)
        functions.append(lambda x: mc.outputs(x)["probabilities"])
    val_outputs, y_val = data.predictions(data.validation, *functions)
    test_outputs, y_test = data.predictions(test, *functions)
    kept, why = calibration.calibrate(first, val_outputs[0], y_val, checkpoints[0], data.identity)
    meter = _Meter(first, y_val, y_test, alpha, console)

    def alone(name: str, index: int, temperature: float = 1.0) -> Row:
        z_val, z_test = (part[index] / temperature for part in (val_outputs, test_outputs))
        loss = first.example_losses(z_test.double(), y_test, training=False).mean().item()
        return meter.row(name, first.probabilities(z_val), first.probabilities(z_test), loss)

    rows = [alone("as trained", 0)]
    if kept.temperature is not None:
        rows.append(alone(f"temperature {kept.temperature:.3f}", 0, kept.temperature))
    if len(functions) > len(models):
        rows.append(meter.row(f"MC dropout, {masks} masks", val_outputs[-1], test_outputs[-1]))
    lines = [(row.name, *(f"{number:.4f}" for number in row.numbers)) for row in rows]
    if len(models) > 1:
        count = len(models)
        p_val, p_test = (
            mixture(map(first.probabilities, part[:count]))["probabilities"] for part in (val_outputs, test_outputs)
        )
        rows.append(meter.row(f"ensemble of {count}", p_val, p_test))
        each = list(zip(*(alone("", index).numbers for index in range(count)), strict=True))
        lines += [
            (rows[-1].name, *(f"{number:.4f}" for number in rows[-1].numbers)),
            ("  its members, mean", *(f"{sum(numbers) / count:.4f}" for numbers in each)),
            ("  its members, range", *(f"{min(numbers):.4f}-{max(numbers):.4f}" for numbers in each)),
        ]
    console.print(
        f"{type(first).__name__}, fitted on {len(y_val)} validation examples, measured on {len(y_test)} of the test part"
    )
    if why:
        console.print(f"note: no temperature: {why}", error=True)
    console.print("\n" + columns([("", *COLUMNS), *lines]))
    picture = runs[0] / PICTURE
    _draw(rows, picture)
    path = calibration.write(kept, runs[0])
    console.print(
        f"\ncoverage and set size are of sets that hold the true label with a probability of {1 - alpha:g} or more\n"
        f"diagrams in {picture}, temperature and scores in {path}"
    )


class _Meter:
    """Measures predictions on the test part, with conformal sets whose threshold is from the validation split."""

    def __init__(self, model: Any, y_val: "Tensor", y_test: "Tensor", alpha: float, console: Console) -> None:
        self.model, self.y_val, self.y_test, self.alpha = model, y_val, y_test, alpha
        self.console: Console | None = console  # until it has said that there are too few examples

    def row(self, name: str, p_val: "Tensor", p_test: "Tensor", loss: float | None = None) -> Row:
        """Return the row of probabilities ``(N, K)``; ``loss`` is that of their logits, where there are any."""
        import torch
        import torch.nn.functional as F

        from zoo.metrics import CalibrationError
        from zoo.uncertainty import conformal_sets

        y, p = self.y_test, p_test.double()
        right = (self.model.decide(p_test) == y).double().mean().item()
        if loss is None:  # the least that float32 holds, in place of 0
            loss = -p.gather(1, y[:, None]).clamp(min=torch.finfo(torch.float32).tiny).log().mean().item()
        error = CalibrationError()
        error.update(p_test, y)
        brier = (p - F.one_hot(y, p.shape[1])).square().sum(dim=1).mean().item()
        threshold = calibration.threshold(calibration.true_scores(p_val, self.y_val), self.alpha, self.console)
        self.console = None
        sets = conformal_sets(p_test, threshold)
        covered = sets.gather(1, y[:, None]).double().mean().item()
        size = sets.sum(dim=1).double().mean().item()
        return Row(name, (right, loss, error.compute().item(), brier, covered, size), error.reliability())


def _draw(rows: Sequence[Row], path: Path) -> None:
    """Write the reliability diagrams of all rows."""
    from recipes.cli.verbs.pictures import as_image
    from zoo.drawing import reliability_diagram

    bins = [row.bins for row in rows]
    titles = [f"{row.name}: ECE {row.numbers[COLUMNS.index('ECE')]:.4f}" for row in rows]
    image = reliability_diagram(
        [part.counts for part in bins], [part.accuracy for part in bins], [part.confidence for part in bins], titles
    )
    with replacing(path) as temporary:
        as_image(image).save(temporary, "PNG")
