"""``zoo predict``: images in, a table of labels and probabilities (or features) out."""

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

HELP = """zoo predict CKPT INPUT... [options]: label images.

  CKPT              a checkpoint, a run folder (its best one), or a folder that save_pretrained wrote
  INPUT             images, or folders of images; each is turned into the model's channels and size (not cropped)
  --top K           show the K most probable labels
  --json            print a JSON list instead of a table
  --features        print the net's pooled features instead of labels
  --batch-size N    images at once (default: 64)
  --debug           show the traceback of any error

Examples:
  zoo predict runs/cnn/lenet_digits/version_0 three.png
  zoo predict best.ckpt photos/ --top 3 --json
"""


def run(args: list[str]) -> int:
    """The verb ``predict``."""
    parser = Parser("zoo predict")
    parser.add_argument("checkpoint", metavar="CKPT")
    parser.add_argument("inputs", metavar="INPUT", nargs="+")
    parser.add_argument("--top", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--features", action="store_true")
    options = parser.parse_args(args)
    if options.top < 1 or options.batch_size < 1:
        raise UserError("--top and --batch-size must be 1 or more")
    from recipes.images import find_images

    checkpoint = _checkpoint(Path(options.checkpoint))
    paths = find_images(options.inputs)
    with NoCaches():
        import lightning.pytorch  # noqa: F401 (sets up its log, which is heard from then on)
    with heard(Console()):
        model = _model(checkpoint, options.features)
        rows = list(_rows(model, paths, options.top, options.batch_size, options.features))
    if options.json:
        print(json.dumps(rows, indent=1))
    elif options.features:
        for row in rows:
            print(row["file"], *(f"{value:.6g}" for value in row["features"]), sep="\t")
    else:
        print(_table(rows, options.top))
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
    if len(model.input_shape or ()) != 3:
        raise UserError(
            f"{path} does not say what images it takes (input_shape is {model.input_shape}): it is no image model"
        )
    if features:
        if not hasattr(model.net, "reset_head"):
            raise UserError(f"--features: {type(model.net).__name__} has no head to take off")
        model.net.reset_head(0)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _rows(model: "Task", paths: Sequence[Path], top: int, batch_size: int, features: bool) -> Iterator[dict[str, Any]]:
    import torch

    from recipes.images import read_image

    assert model.input_shape is not None
    shape = tuple(model.input_shape)
    with torch.inference_mode():
        for start in range(0, len(paths), batch_size):
            part = paths[start : start + batch_size]
            x = torch.stack([read_image(path, shape) for path in part]).to(model.device)
            if features:
                for path, values in zip(part, model(x).flatten(1).tolist(), strict=True):
                    yield {"file": str(path), "features": values}
                continue
            found = model.predict_step(x, 0)
            if not isinstance(found, dict) or "probabilities" not in found:
                raise UserError(f"zoo predict is for classifiers, and {type(model).__name__} is none")
            yield from _labeled(model, part, found, top)


def _labeled(model: "Task", paths: Sequence[Path], found: dict[str, Any], top: int) -> Iterator[dict[str, Any]]:
    probabilities: Tensor = found["probabilities"]
    values, classes = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
    names = model.class_names or [str(k) for k in range(probabilities.shape[1])]
    for i, path in enumerate(paths):
        row = {"file": str(path), "label": found["label"][i], "probability": float(found["probability"][i])}
        if top > 1:
            pairs = zip(classes[i].tolist(), values[i].tolist(), strict=True)
            row["top"] = [{"label": names[k], "probability": p} for k, p in pairs]
        yield row


def _table(rows: Sequence[dict[str, Any]], top: int) -> str:
    lines = []
    for row in rows:
        label = ", ".join(row["label"]) if isinstance(row["label"], list) else row["label"]
        cells = [row["file"], label, f"{row['probability']:.4f}"]
        if top > 1:
            cells.append("  ".join(f"{pair['label']} {pair['probability']:.4f}" for pair in row["top"]))
        lines.append(cells)
    return columns([["file", "label", "probability", "most probable"][: 4 if top > 1 else 3], *lines])
