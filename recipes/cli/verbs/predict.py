"""``zoo predict``: images or CSV rows in, a table of what the model says of them out, and its pictures."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.cli.console import Console, NoCaches, heard
from recipes.cli.errors import UserError
from recipes.cli.run.folder import BEST, CHECKPOINTS, LAST, checkpoint_of
from recipes.cli.run.options import Parser
from recipes.cli.text import columns

if TYPE_CHECKING:
    from torch import Tensor

    from recipes.cli.verbs.pictures import Pictures
    from zoo import Task

HELP = """zoo predict CKPT INPUT... [options]: label images or the rows of CSV files; tell the values that a regression predicts;
segment images, or give them back as an autoencoder does.

  CKPT              a checkpoint, a run folder (its best one), or a folder that save_pretrained wrote
  INPUT             images, or folders of images: read as our data modules read them, the middle part in the model's size;
                    for a model of a table CSV files with its columns, found by name; a target is not needed
  -o DIR            write pictures: of a segmenter NAME_overlay.png, the classes in color, and NAME_mask.png, the class of each
                    pixel as its value, both in the image's own size; of an autoencoder NAME_reconstruction.png
  --label K         of a conditional autoencoder: the class of the images, its name or number
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
  zoo predict runs/segmentation/unet_folder/version_0 photos/ -o masks
"""


def run(args: list[str]) -> int:
    """The verb ``predict``."""
    parser = Parser("zoo predict")
    parser.add_argument("checkpoint", metavar="CKPT")
    parser.add_argument("inputs", metavar="INPUT", nargs="+", type=Path)
    parser.add_argument("-o", "--output", metavar="DIR", type=Path)
    parser.add_argument("--label")
    parser.add_argument("--top", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--features", action="store_true")
    parser.add_argument("--delimiter")
    parser.add_argument("--encoding")
    options = parser.parse_args(args)
    if options.top < 1 or options.batch_size < 1:
        raise UserError("--top and --batch-size must be 1 or more")
    if options.output is not None and options.output.exists() and not options.output.is_dir():
        raise UserError(f"-o {options.output} is a file: give a folder, which is made if need be")
    checkpoint = find_checkpoint(Path(options.checkpoint))
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
        if options.output is not None:
            print(f"\npictures in {options.output}")
    return 0


def find_checkpoint(path: Path) -> Path:
    """What ``zoo.load`` shall read."""
    if not path.exists():
        raise UserError(f"no such checkpoint or folder: {path}")
    if path.is_dir() and not (path / "config.json").is_file():
        if not (path / CHECKPOINTS).is_dir():
            raise UserError(
                f"{path} is neither a run folder (no checkpoints/) nor from save_pretrained (no config.json)"
            )
        return checkpoint_of(path, "", (BEST, LAST))
    return path


def load_model(path: Path) -> "Task":
    """The model of a checkpoint, in evaluation mode and on the GPU if there is one."""
    import torch

    from zoo import load

    return load(path).eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _model(path: Path, features: bool) -> "Task":
    model = load_model(path)
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
    return model


# Reading ------------------------------------------------------------------------------------------------------------


def _images(files: Sequence[Path], model: "Task", batch_size: int) -> Iterator[tuple[list[dict[str, Any]], "Tensor"]]:
    """Where each image of a batch comes from, and the batch: ``(B, C, H, W)``."""
    for start in range(0, len(files), batch_size):
        part = files[start : start + batch_size]
        yield [{"file": str(path)} for path in part], read_images(part, model)


def read_images(files: Sequence[Path], model: "Task") -> "Tensor":
    """Image files as the data modules evaluate them: float in [0, 1] ``(B, C, H, W)``."""
    import torch

    from datamodules.decode import decode, whole
    from datamodules.images import binarized
    from zoo import SegmentationTask

    channels, height, width = model.input_shape or (0, 0, 0)
    if channels not in (1, 3):
        raise UserError(f"the model takes {channels} channels: images have 1 or 3")
    how = model.preparation or {}
    crop = whole if how.get("whole") or isinstance(model, SegmentationTask) else None
    pixels = torch.stack([decode(path, channels, (height, width), how.get("center", 1.0), crop) for path in files])
    return (binarized(pixels, how["binarize"]) if "binarize" in how else pixels).float() / 255


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

    from recipes.cli.verbs.pictures import Pictures, class_of

    pictures = None
    if len(model.input_shape or ()) == 3:
        files = list(_files(options.inputs))
        pictures = Pictures(options.output, files)
        batches = _images(files, model, options.batch_size)
    elif options.output is not None:
        raise UserError(f"-o is for models of images, and {type(model).__name__} reads rows: leave it out")
    else:
        given = {key: vars(options)[key] for key in ("delimiter", "encoding") if vars(options)[key] is not None}
        batches = _csv_rows(options.inputs, {**(model.preparation or {}), **given}, options.batch_size)
    label = None if options.label is None else class_of(model, options.label)
    if label is None and getattr(model, "conditional", False) and not options.features:
        raise UserError(f"{type(model).__name__} is told the class of what it reads: give it with --label")
    with torch.inference_mode():
        for places, x in batches:
            x = x.to(model.device)
            if options.features:
                said = [{"features": values} for values in model.net(model.standardize(x)).flatten(1).tolist()]
            else:
                batch = x if label is None else (x, torch.full((len(x),), label, device=x.device))
                said = _said(model, model.predict_step(batch, 0), options.top, places, pictures)
            for where, what in zip(places, said, strict=True):
                yield {**where, **what}


def _said(
    model: "Task", found: Any, top: int, places: list[dict[str, Any]], pictures: "Pictures | None"
) -> list[dict[str, Any]]:
    """An example a row: label and probability, value in the target's unit, share of each class, or how well it was given back."""
    name = type(model).__name__
    draws = isinstance(found, dict) and ("mask" in found or "reconstruction" in found)
    if pictures is not None and pictures.folder is not None and not draws:
        raise UserError(
            f"-o is for models that make pictures (segmenters, autoencoders), and {name} makes none: leave it out"
        )
    if isinstance(found, dict) and "probabilities" in found:
        return _labeled(model, found, top)
    if top > 1:
        raise UserError(f"--top is for classifiers, and {name} is none")
    if isinstance(found, dict) and "value" in found:
        return _values(model, found["value"])
    if draws and pictures is not None:
        return pictures.rows(model, found, [Path(place["file"]) for place in places])
    numbers = {key: v.tolist() for key, v in found.items() if v.ndim == 1} if isinstance(found, dict) else {}
    if not numbers:
        raise UserError(f"zoo predict tells labels, values and masks, and {name} predicts none of them")
    return [dict(zip(numbers, row, strict=True)) for row in zip(*numbers.values(), strict=True)]


def _values(model: "Task", value: "Tensor") -> list[dict[str, Any]]:
    if value.ndim == 1:
        return [{"value": number} for number in value.tolist()]
    count = value.shape[1]
    known = ((model.preparation or {}).get("targets"), model.class_names)
    names = next((names for names in known if names and len(names) == count), [str(k) for k in range(count)])
    return [{"value": dict(zip(names, row, strict=True))} for row in value.tolist()]


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
    """A row of the table: the head of each column, and what stands in it; where pictures are is told once for all."""
    cells = {key: value for key, value in row.items() if key not in ("overlay", "mask", "reconstruction")}
    if isinstance(value := cells.pop("value", None), dict):
        cells |= {name: f"{number:.6g}" for name, number in value.items()}
    elif value is not None:
        cells["value"] = f"{value:.6g}"
    if isinstance(label := row.get("label"), list):
        cells["label"] = ", ".join(label)
    if shares := cells.pop("shares", None):
        ranked = sorted(shares.items(), key=lambda pair: -pair[1])
        cells["share of pixels"] = "  ".join(f"{name} {share:.4f}" for name, share in ranked if share)
    for key, number in cells.items():
        if isinstance(number, float):
            cells[key] = f"{number:.4f}" if key == "probability" else f"{number:.6g}"
    if "top" in row:
        del cells["top"]
        cells["most probable"] = "  ".join(f"{pair['label']} {pair['probability']:.4f}" for pair in row["top"])
    return cells
