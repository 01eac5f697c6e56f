"""The end of a run: its metrics, compared with what the recipe expects."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.pytorch import Trainer

from recipes.cli.run.checkpoints import Best
from recipes.cli.run.folder import Run
from recipes.cli.run.options import Options
from recipes.cli.run.verdict import verdict
from recipes.cli.text import columns


def fit_summary(
    options: Options,
    run: Run | None,
    trainer: Trainer,
    tested: Path | None,
    results: Mapping[str, float],
    seconds: float,
    changed: Sequence[str],
) -> str:
    """Return the summary of a fit as aligned lines; ``changed`` names what is not as in the recipe."""
    epochs = trainer.current_epoch
    rows = [("trained", f"{epochs} epoch{'s' * (epochs != 1)}, {trainer.global_step} steps; {seconds:.1f} s")]
    best = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, Best)]
    rows += [(f"best {b.monitor}", f"{float(b.best_model_score):.4f}") for b in best if b.best_model_score is not None]
    of = f" ({tested.name})" if tested else ""
    rows += [(name, f"{value:.4f}{of}") for name, value in results.items()]
    if options.recipe.bound:
        rows.append(("expected", verdict(options.recipe, results, changed)))
    if run is not None:
        rows.append(("run folder", str(run.folder)))
        module = trainer.lightning_module
        if tested is not None and getattr(module, "samples", None):
            prompt = ' --prompt "some text"' if "translation" in getattr(module, "learns", ()) else ""
            rows.append(("sample with", f"zoo sample {shlex.quote(str(run.folder))}{prompt}"))
        if tested is not None and getattr(module, "makes", None):
            example = getattr(getattr(trainer, "datamodule", None), "input_file", None)
            none = '"some text"' if getattr(module, "reads", None) == "text" else "FILE ..."
            files = none if example is None else shlex.quote(example)
            rows.append(("predict with", f"zoo predict {shlex.quote(str(run.folder))} {files}"))
    return "\n" + columns(rows, rule=False)


def evaluation_table(options: Options, metrics: Mapping[str, float], changed: Sequence[str]) -> str:
    """Return the metrics of a validation or test as aligned lines."""
    rows = [("checkpoint", str(options.checkpoint))]
    rows += [(name, f"{value:.4f}") for name, value in metrics.items()]
    if options.recipe.bound and options.recipe.bound[0] in metrics:
        rows.append(("expected", verdict(options.recipe, metrics, changed)))
    return columns(rows, rule=False)
