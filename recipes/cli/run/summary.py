"""What a run ends with: its metrics, held against what the recipe expects."""

import operator
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch import Trainer

from recipes.cli.run.checkpoints import Best
from recipes.cli.run.folder import Run
from recipes.cli.run.options import Options
from recipes.cli.text import columns
from zoo import AdversarialTask

_COMPARE = {">=": operator.ge, "<=": operator.le}


def fit_summary(
    options: Options,
    run: Run | None,
    trainer: Trainer,
    tested: Path | None,
    results: Mapping[str, float],
    seconds: float,
) -> str:
    """The end of a fit as aligned lines."""
    epochs = trainer.current_epoch
    rows = [("trained", f"{epochs} epoch{'s' * (epochs != 1)}, {trainer.global_step} steps; {seconds:.1f} s this time")]
    best = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, Best)]
    rows += [(f"best {b.monitor}", f"{float(b.best_model_score):.4f}") for b in best if b.best_model_score is not None]
    of = f" ({tested.name})" if tested else ""
    rows += [(name, f"{value:.4f}{of}") for name, value in results.items()]
    if options.recipe.bound:
        rows.append(("expected", verdict(options, results)))
    if run is not None:
        rows.append(("run folder", str(run.folder)))
        makes, reads = (
            hasattr(trainer.lightning_module, "sample"),
            not isinstance(trainer.lightning_module, AdversarialTask),
        )
        if tested is not None and makes:
            rows.append(("sample with", f"zoo sample {run.folder}"))
        if tested is not None and reads:
            rows.append(("predict with", f"zoo predict {run.folder} FILE ..."))
    return "\n" + columns(rows, rule=False)


def verdict(options: Options, results: Mapping[str, float]) -> str:
    """Whether the recipe's bound is met."""
    assert options.recipe.bound is not None
    metric, sign, bound = options.recipe.bound
    said = f"{metric} {sign} {bound:g}"
    if metric not in results:
        return f"{said}: not measured"
    if _COMPARE[sign](results[metric], bound):
        return f"{said}: met"
    why = f" (with {' '.join(options.overrides)})" if options.overrides else ""
    return f"{said}: NOT met, got {results[metric]:.4f}{why}"


def evaluation_table(options: Options, metrics: Mapping[str, float]) -> str:
    """The metrics of a validation or test."""
    rows = [("checkpoint", str(options.checkpoint))]
    rows += [(name, f"{value:.4f}") for name, value in metrics.items()]
    if options.recipe.bound and options.recipe.bound[0] in metrics:
        rows.append(("expected", verdict(options, metrics)))
    return columns(rows, rule=False)
