"""``zoo predict``: images or CSV rows in, a table of labels and probabilities (or values, or features) out."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes import runs
from recipes.console import Console, NoCaches, heard
from recipes.errors import UserError
from recipes.options import Parser
from recipes.text import columns

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Task

HELP = """zoo predict CKPT INPUT... [options]: label images or the rows of CSV files; tell the values that a regression predicts.

  CKPT              a checkpoint, a run folder (its best one), or a folder that save_pretrained wrote
  INPUT             images, or folders of images: read as our data modules read them, the middle part in the model's size;
                    for a model of a table CSV files with its columns, found by name; a target is not needed
  --top K           show the K most probable labels
  --json            print a JSON list instead of a table
  --features        print the net's pooled features instead of labels
  --batch-size N    examples at once (default: 64)
  --delimiter C     CSV: the character between values (default: that of the training file)
  --encoding NAME   CSV: of the text, such as latin-1 (default: that of the training file)
  --debug           show the traceback of any error

Examples:
  zoo predict runs/cnn/lenet_digits/version_0 three.png
  zoo predict best.ckpt photos/ --top 3 --json
  zoo predict runs/linear/mlp_wine/version_0 wines.csv
"""


def run(args: list[str]) -> int:
    """The verb ``predict``."""
    parser = Parser("zoo predict")
    parser.add_argument("checkpoint", metavar="CKPT")
    parser.add_argument("inputs", metavar="INPUT", nargs="+", type=Path)
    parser.add_argument("--top", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--features", action="store_true")
    parser.add_argument("--delimiter")
    parser.add_argument("--encoding")
    options = parser.parse_args(args)
    if options.top < 1 or options.batch_size < 1:
        raise UserError("--top and --batch-size must be 1 or more")
    checkpoint = _checkpoint(Path(options.checkpoint))
    for path in options.inputs:
        if not path.exists():
            raise UserError(f"no such file or folder: {path}")
    with NoCaches():
        import lightning.pytorch  # noqa: F401 (sets up its log, which is heard from then on)
    with heard(Console()):
        rows = list(_rows(_model(checkpoint, options.features), options))
    if options.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    elif options.features:
        for row in rows:
            *where, values = row.values()
            print(*where, *(f"{value:.6g}" for value in values), sep="\t")
    else:
        print(columns([list(_cells(rows[0])), *(list(_cells(row).values()) for row in rows)]))
    return 0


def _checkpoint(path: Path) -> Path:
    """What ``zoo.load`` shall read."""
    if not path.exists():
        raise UserError(f"no such checkpoint or folder: {path}")
    if path.is_dir() and not (path / "config.json").is_file():
        if not (path / runs.CHECKPOINTS).is_dir():
            raise UserError(
                f"{path} is neither a run folder (no checkpoints/) nor from save_pretrained (no config.json)"
            )
        return runs.checkpoint_of(path, "", (runs.BEST, runs.LAST))
    return path


def _model(path: Path, features: bool) -> "Task":
    import torch

    from zoo import load

    model = load(path).eval()
    shape = model.input_shape or ()
    if len(shape) != 3 and not (len(shape) == 1 and model.preparation):
        raise UserError(
            f"{path} does not say how files become its input (of shape {model.input_shape}): train it on images or on a table "
            f"with named columns"
        )
    if features:
        if not hasattr(model.net, "reset_head"):
            raise UserError(f"--features: {type(model.net).__name__} has no head to take off")
        model.net.reset_head(0)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


# Reading ------------------------------------------------------------------------------------------------------------


def _images(
    paths: Sequence[Path], shape: tuple[int, ...], preparation: dict[str, Any], batch_size: int
) -> Iterator[tuple[list[dict[str, Any]], "Tensor"]]:
    """Where each image of a batch comes from, and the batch, as the data modules evaluate it: float in [0, 1] ``(B, C, H, W)``."""
    import torch

    from datamodules.decode import decode

    channels, height, width = shape
    if channels not in (1, 3):
        raise UserError(f"the model takes {channels} channels: images have 1 or 3")
    share = preparation.get("center", 1.0)
    files = list(_files(paths))
    for start in range(0, len(files), batch_size):
        part = files[start : start + batch_size]
        pixels = torch.stack([decode(path, channels, (height, width), share) for path in part])
        yield [{"file": str(path)} for path in part], pixels.float() / 255


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """The images among files and folders; a folder is searched to its depth, by suffix and in order."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    from datamodules.image_folder import files_in

    for path in paths:
        if not path.is_dir():
            yield path
        elif found := files_in(path):
            yield from map(Path, found)
        else:
            raise UserError(f"no image in the folder {path} ({', '.join(IMG_EXTENSIONS)})")


def _csv_rows(
    paths: Sequence[Path], preparation: dict[str, Any], batch_size: int
) -> Iterator[tuple[list[dict[str, Any]], "Tensor"]]:
    """Where each row of a batch comes from, the first of a file is 1, and the batch: ``(B, D)``."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    from datamodules.sheet import encode_rows

    for path in paths:
        if path.is_dir() or path.suffix.lower() in IMG_EXTENSIONS:
            raise UserError(f"{path} is no CSV file, and the model predicts from the rows of one")
        x = encode_rows(path, preparation)
        for start in range(0, len(x), batch_size):
            part = x[start : start + batch_size]
            yield [{"file": str(path), "row": start + i + 1} for i in range(len(part))], part


# Predicting ---------------------------------------------------------------------------------------------------------


def _rows(model: "Task", options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Where each example comes from, and what the model says of it."""
    import torch

    shape = tuple(model.input_shape or ())
    preparation = model.preparation or {}
    if len(shape) == 3:
        batches = _images(options.inputs, shape, preparation, options.batch_size)
    else:
        given = {key: vars(options)[key] for key in ("delimiter", "encoding") if vars(options)[key] is not None}
        batches = _csv_rows(options.inputs, {**preparation, **given}, options.batch_size)
    with torch.inference_mode():
        for places, x in batches:
            x = x.to(model.device)
            if options.features:
                said = [{"features": values} for values in model.net(model.standardize(x)).flatten(1).tolist()]
            else:
                said = _said(model, model.predict_step(x, 0), options.top)
            for where, what in zip(places, said, strict=True):
                yield {**where, **what}


def _said(model: "Task", found: Any, top: int) -> list[dict[str, Any]]:
    """An example a row: label and probability, or value in the target's unit."""
    if isinstance(found, dict) and "probabilities" in found:
        return _labeled(model, found, top)
    if not isinstance(found, dict) or "value" not in found:
        raise UserError(f"zoo predict tells labels and values, and {type(model).__name__} predicts neither")
    if top > 1:
        raise UserError(f"--top is for classifiers, and {type(model).__name__} is none")
    values = found["value"].tolist()
    if found["value"].ndim == 1:
        return [{"value": value} for value in values]
    count = found["value"].shape[1]
    known = ((model.preparation or {}).get("targets"), model.class_names)
    names = next((names for names in known if names and len(names) == count), [str(k) for k in range(count)])
    return [{"value": dict(zip(names, row, strict=True))} for row in values]


def _labeled(model: "Task", found: dict[str, Any], top: int) -> list[dict[str, Any]]:
    probabilities: Tensor = found["probabilities"]
    values, classes = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
    names = model.class_names or [str(k) for k in range(probabilities.shape[1])]
    rows = []
    for i, label in enumerate(found["label"]):
        row = {"label": label, "probability": float(found["probability"][i])}
        if top > 1:
            pairs = zip(classes[i].tolist(), values[i].tolist(), strict=True)
            row["top"] = [{"label": names[k], "probability": p} for k, p in pairs]
        rows.append(row)
    return rows


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the table: the head of each column, and what stands in it."""
    cells = dict(row)
    if isinstance(value := cells.pop("value", None), dict):
        cells |= {name: f"{number:.6g}" for name, number in value.items()}
    elif value is not None:
        cells["value"] = f"{value:.6g}"
    if isinstance(label := row.get("label"), list):
        cells["label"] = ", ".join(label)
    if "probability" in row:
        cells["probability"] = f"{row['probability']:.4f}"
    if "top" in row:
        del cells["top"]
        cells["most probable"] = "  ".join(f"{pair['label']} {pair['probability']:.4f}" for pair in row["top"])
    return cells
