"""``zoo predict`` of a forecaster: the next steps of the series in CSV files, as rows and as CSV."""

import argparse
import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.cli.errors import UserError

if TYPE_CHECKING:
    from datamodules.time_series import Plan
    from zoo import Model


def forecast(model: "Model", options: argparse.Namespace, written: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """Forecast the series of files, and write the forecasts where ``-o`` is given.

    Args:
        model: A forecaster.
        options: Those of ``zoo predict``.
        written: How the files are written, as far as they are not written like that of training.

    Returns:
        For each step of each series the file, the series where they have names, the time, and the value of each target.

    Raises:
        UserError: An option is of other models, a file holds no series, or a series is shorter than the model's context.
    """
    from datamodules.decode import SUFFIXES
    from datamodules.time_series import Plan

    name, output = type(model).__name__, options.output
    if options.top > 1 or options.label is not None:
        raise UserError(f"{'--top' if options.top > 1 else '--label'} is for labels, and {name} forecasts series")
    if output is not None and output.is_dir():
        raise UserError(f"-o {output} is a folder: give a file for the forecasts, such as {output / 'forecast.csv'}")
    for path in options.inputs:
        if path.is_dir() or path.suffix.lower() in SUFFIXES:
            raise UserError(f"{path} is not a CSV file: the model forecasts the series of CSV files")
        if output is not None and output.exists() and output.samefile(path):
            raise UserError(f"-o {output} is the input itself: give another file for the forecasts")
    preparation = {**(model.preparation or {}), **written}
    plan, context = Plan.of(preparation), preparation["context"]
    rows = [row for path in options.inputs for row in _of_file(model, path, plan, context, options.batch_size)]
    if output is not None:
        _write(output, rows, plan, several=len(options.inputs) > 1)
    return rows


def _of_file(model: "Model", path: Path, plan: "Plan", context: int, batch_size: int) -> Iterator[dict[str, Any]]:
    import torch

    from datamodules.time_series import read_series

    series, _ = read_series(path, plan)
    for one in series:
        if len(one) < context:
            which = "the series" if one.name is None else f"the series {one.name!r}"
            raise UserError(
                f"{path}: {which} has {len(one)} steps, and the model reads a context of {context}: add rows"
            )
    for start in range(0, len(series), batch_size):
        part = series[start : start + batch_size]
        x = torch.stack([torch.from_numpy(one.values[-context:]) for one in part]).to(model.device)  # (B, T, D)
        with torch.inference_mode():
            values = model.predict_step(x, 0)["value"].tolist()
        for one, steps in zip(part, values, strict=True):
            named = {} if one.name is None else {"series": one.name}
            for time, step in zip(one.times_after(plan.step, len(steps)), steps, strict=True):
                yield {"file": str(path), **named, "time": time, "value": dict(zip(plan.targets, step, strict=True))}


def _write(path: Path, rows: Sequence[Mapping[str, Any]], plan: "Plan", several: bool) -> None:
    """Write forecasts with the columns of the training file; of several inputs, the file comes first."""
    names = ["file"] * several + [plan.time or "step"] + [plan.series] * (plan.series is not None) + plan.targets
    keys = ["file"] * several + ["time"] + ["series"] * (plan.series is not None)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding=plan.form.encoding, newline="") as file:
        writer = csv.writer(file, delimiter=plan.form.delimiter, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            numbers = [f"{value:.7g}".replace(".", plan.form.decimal) for value in row["value"].values()]
            writer.writerow([*(row[key] for key in keys), *numbers])
