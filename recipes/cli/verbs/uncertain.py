"""Options of ``zoo predict`` that say how certain a classifier is: conformal sets, an ensemble, Monte Carlo dropout."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.cli.console import Console
from recipes.cli.errors import UserError
from recipes.cli.run.folder import CONFIG
from recipes.cli.run.options import Parser
from recipes.cli.verbs import calibration
from recipes.cli.verbs.named_model import find_model, load_model

if TYPE_CHECKING:
    from torch import Tensor

UNCERTAIN_HELP = """\
  --conformal A     of a classifier: also the set of labels that holds the true one with a probability of 1 - A; from the
                    validation split of the model's run folder, see zoo calibrate
  --ensemble RUN    of a classifier: the mean of its probabilities and those of another run; may be given several times; also
                    entropy, and the part of it that is disagreement, in nats
  --mc-dropout N    of a classifier with dropout: the mean over N masks; also entropy and disagreement
"""


def add_options(parser: Parser) -> None:
    """Add the options to those of ``zoo predict``."""
    parser.add_argument("--conformal", type=float, metavar="A")
    parser.add_argument("--ensemble", action="append", default=[], metavar="RUN")
    parser.add_argument("--mc-dropout", type=int, metavar="N")


@dataclass(frozen=True)
class Uncertain:
    """A classifier that says how certain it is.

    Args:
        model: The model, which names the labels and decides between them.
        source: Gives the probabilities: the model itself, an ensemble with it, or its Monte Carlo dropout.
        threshold: That of the conformal sets; None without them.
        remark: What is to be said below the table.
    """

    model: Any
    source: Any
    threshold: float | None
    remark: str

    def predict(self, batch: Any) -> dict[str, Any]:
        """Return what ``predict_step`` does, and ``set``, ``entropy``, ``disagreement`` as far as they are asked for."""
        from zoo.uncertainty import conformal_sets

        output: dict[str, Any] = self.source.outputs(batch)
        p: Tensor = output["probabilities"]
        decided = self.model.decide(p)
        names = self.model.label_names
        output["label"] = [names[k] for k in decided.tolist()]
        output["probability"] = p.gather(1, decided[:, None])[:, 0]
        if self.threshold is not None:
            sets = conformal_sets(p, self.threshold)
            # the most probable first
            order = p.argsort(dim=1, descending=True, stable=True).tolist()
            output["set"] = [[names[k] for k in row if inside[k]] for row, inside in zip(order, sets, strict=True)]
        return output


def uncertain(model: Any, word: str, options: argparse.Namespace, console: Console) -> Uncertain | None:
    """Return the classifier that the options of ``zoo predict`` ask for; None if none of them is given.

    Raises:
        UserError: The options do not go together, or not with the model.
    """
    from zoo.uncertainty import DeepEnsemble, MCDropout, has_dropout

    given = [
        name
        for name, value in (
            ("--conformal", options.conformal),
            ("--ensemble", options.ensemble or None),
            ("--mc-dropout", options.mc_dropout),
        )
        if value is not None
    ]
    if not given:
        return None
    calibration.check_model(model, given[0])
    if options.features:
        raise UserError(f"{given[0]} is for labels, and --features shows none: leave one of the two out")
    if options.conformal is not None:
        calibration.check_alpha(options.conformal)
    source: Any = model
    if options.ensemble:
        if options.mc_dropout is not None:
            raise UserError("--ensemble and --mc-dropout are two ways to the same columns: leave one of the two out")
        source = DeepEnsemble([model, *_members(word, options.ensemble)])
    elif options.mc_dropout is not None:
        if options.mc_dropout < 1:
            raise UserError(f"--mc-dropout is a number of masks, 1 or more, got {options.mc_dropout}")
        if not has_dropout(model):
            raise UserError(
                f"--mc-dropout is for models with dropout, and this {type(model).__name__} has none: train it with dropout, or "
                f"give --ensemble RUN"
            )
        source = MCDropout(model, options.mc_dropout)
    if options.conformal is None:
        return Uncertain(model, source, None, "")
    return Uncertain(model, source, *_threshold(model, source, word, options, console))


def _members(word: str, others: Sequence[str]) -> list[Any]:
    """Return the other members of an ensemble; runs must be of the same data."""
    own, found = Path(word), [find_model(text) for text in others]
    for other in map(Path, found):
        runs = [path.parent.parent for path in (own, other)]
        if all(path.is_file() for path in (own, other)) and all((run / CONFIG).is_file() for run in runs):
            calibration.check_same_data(*runs)
    return [load_model(each) for each in found]


def _threshold(model: Any, source: Any, word: str, options: argparse.Namespace, console: Console) -> tuple[float, str]:
    """Return the threshold of the conformal sets, and their guarantee."""
    run, checkpoint = calibration.run_folder(word, options.model), Path(word)
    if source is model:
        scores = calibration.own_scores(model, run, checkpoint, console)
    else:
        data = calibration.RunData(run, checkpoint)
        (p,), y = data.predictions(data.validation, lambda x: source.outputs(x)["probabilities"])
        scores = calibration.true_scores(p, y).tolist()
    share = f"{1 - options.conformal:g}"
    remark = (
        f"set: holds the true label with a probability of {share} or more, for inputs like the {len(scores)} validation examples "
        f"of {run}"
    )
    return calibration.threshold(scores, options.conformal, console), remark
