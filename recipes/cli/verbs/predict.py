"""``zoo predict``: a table of predictions for images, CSV rows, series or texts, and pictures; forecasts; written texts."""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from recipes.cli.console import Console, NoCaches, captured_logs
from recipes.cli.errors import UserError
from recipes.cli.run.options import Parser
from recipes.cli.text import columns
from recipes.cli.verbs.forecasts import forecast
from recipes.cli.verbs.named_model import MODEL_HELP, find_model, load_model
from recipes.cli.verbs.notes import Notes
from recipes.cli.verbs.texts import batches_of, texts_of
from recipes.cli.verbs.uncertain import UNCERTAIN_HELP, add_options, uncertain
from recipes.cli.verbs.written import DRAWN, draw_attention, unfolded, writing_options, written_texts

if TYPE_CHECKING:
    from torch import Tensor

    from recipes.cli.verbs.pictures import PictureWriter
    from zoo import Model

_SHOWN = 30  # letters of a text in a table
_FOUR_DIGITS = ("probability", "score", "entropy", "disagreement")

HELP = f"""zoo predict MODEL INPUT... [options]: predict for images, CSV rows, series or texts; forecast; translate; caption.

  MODEL             {MODEL_HELP}
  INPUT             images, or folders of images: read as the datamodules do in evaluation, center-cropped to the model's size;
                    for a model of a table: CSV files with its columns, matched by name; a target is not needed;
                    for a forecaster: CSV files of series, whose next steps are forecast;
                    for a model of series: CSV files with a series a row, in columns t0, t1 ..., or .npz files with an array x;
                    for a model of texts: "a text" in quotes, or a text file with one a line, - for the standard input, or a
                    CSV file with the column of texts that it was trained on; for a translator what is before a tab in a line
  -o DIR            write pictures: for a segmenter NAME_overlay.png, the classes in color, and NAME_mask.png, the class of each
                    pixel as its value, both in the image's own size; for an autoencoder NAME_reconstruction.png;
                    of a forecaster a file: the forecasts as CSV, written as the input is
  --label K         class of the images for a conditional autoencoder: its name or index
  --top K           show the K most probable labels
{UNCERTAIN_HELP.rstrip()}
  --beam K          of a translator or captioner: follow K hypotheses at once (default: as many as in training), and show the K
                    best texts
  --best N          of a translator or captioner: show the N best texts, at most K (default: K where --beam K is given, else 1)
  --attention FILE  of a translator or captioner with attention: write a PNG picture of where it looks as it writes, in each text,
                    the first {DRAWN["text"]} at most; in each image, a heat map a word, the first {DRAWN["image"]} at most
  --json            print a JSON list instead of a table
  --features        print the net's pooled features instead of labels
  --batch-size N    examples per batch (default: 64)
  --delimiter C     CSV: the character between values (default: that of the training file)
  --encoding NAME   CSV and text files: the encoding, such as latin-1 (default: that of the training CSV file; utf-8)
  --decimal C       CSV: the character before decimals (default: that of the training file)
  --thousands C     CSV: the character between groups of three digits, "" for none (default: that of the training file)
  --debug           show the traceback of any error

Examples:
  zoo predict lenet5_digits three.png
  zoo predict runs/cnn/lenet_digits/version_0 three.png
  zoo predict best.ckpt photos/ --top 3 --json
  zoo predict runs/cnn/lenet_digits/version_0 three.png --conformal 0.05
  zoo predict runs/linear/mlp_wine/version_0 wines.csv
  zoo predict runs/segmentation/unet_folder/version_0 photos/ -o masks
  zoo predict runs/recurrent/forecaster_csv/version_0 sales.csv -o forecast.csv
  zoo predict runs/recurrent/gru_austen/version_0 "It was a great happiness" --json
  cat lines.txt | zoo predict best.ckpt -
  zoo predict best.ckpt "3 March 2021" --beam 4 --attention looks.png
  zoo predict best.ckpt photo.png --beam 4 --attention looks.png

A translator, any model that reads one text and writes another, and a captioner, which writes what is in an image, show what they
have written and its score: the mean logarithm of the probability of its tokens, in nats. Without --beam they write the most
probable token at each step, unless they were trained otherwise.

A language model tells how probable a text is: the logarithm of its probability in nats, its perplexity, its bits per
character, and the most probable way in which it goes on.
"""


def run(args: list[str]) -> int:
    """Run the verb ``predict``."""
    parser = Parser("zoo predict")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("inputs", metavar="INPUT", nargs="+")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path)
    parser.add_argument("--label")
    parser.add_argument("--top", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--beam", type=int, metavar="K")
    parser.add_argument("--best", type=int, metavar="N")
    parser.add_argument("--attention", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--features", action="store_true")
    parser.add_argument("--delimiter")
    parser.add_argument("--encoding")
    parser.add_argument("--decimal")
    parser.add_argument("--thousands")
    add_options(parser)
    options = parser.parse_args(args)
    if options.top < 1 or options.batch_size < 1:
        raise UserError("--top and --batch-size must be 1 or more")
    word = find_model(options.model)
    with NoCaches():
        import lightning.pytorch  # noqa: F401 (sets up its log, which is captured from then on)
    console = Console()
    with captured_logs(console):
        model = _model(word, options.features)
        options.uncertain = uncertain(model, word, options, console)
        options.writing = writing_options(model, options)
        if model.reads != "text":  # whose inputs need not be files
            options.inputs = [_existing(word) for word in options.inputs]
        notes = Notes(model)
        forecasts = "forecasting" in model.learns
        rows = forecast(model, options, _written(options)) if forecasts else list(_rows(model, options, notes))
        if options.attention is not None:
            _draw_attention(model, rows, options, console)
    notes.print(console)
    if options.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    elif options.features:
        for row in rows:
            *where, values = row.values()
            print(*where, *(f"{value:.6g}" for value in values), sep="\t")
    else:
        read = ("source",) if "beam" in model.predict_options else ("text", "continuation")
        print(_table([_cells(each) for row in rows for each in unfolded(row)], read))
        if options.uncertain is not None and options.uncertain.remark:
            print(f"\n{options.uncertain.remark}")
        if options.attention is not None:
            print(f"\nattention in {options.attention}")
        if options.output is not None:
            print(f"\n{'forecasts' if forecasts else 'pictures'} in {options.output}")
    return 0


def _draw_attention(
    model: "Model", rows: Sequence[dict[str, Any]], options: argparse.Namespace, console: Console
) -> None:
    """Write the picture of where the model looks in the first of its inputs."""
    first, task = rows[: DRAWN[model.reads or ""]], cast(Any, model)
    if model.reads == "image":
        given = read_images([Path(row["file"]) for row in first], model)
    else:
        given = task.batch_of([row["source"] for row in first])
    draw_attention(model, given, options)
    if len(first) < len(rows):
        console.print(
            f"note: {options.attention} shows the first {len(first)} of {len(rows)} {model.reads}s", error=True
        )


def _existing(word: str) -> Path:
    if not word or not os.path.exists(word):
        raise UserError(f"no such file or folder: {word or 'an empty name'}")
    return Path(word)


def _model(word: str, features: bool) -> "Model":
    model = load_model(word)
    shape = model.input_shape or ()
    forecasts = "forecasting" in model.learns
    known = model.reads == "text" or (model.reads == "series" and not forecasts) or len(shape) == 3
    if not known and not (model.preparation and (len(shape) == 1 or forecasts)):
        raise UserError(
            f"{word} does not record how its input of shape {model.input_shape} is read from files: train it on images or on a "
            f"table or series with named columns"
        )
    if features:
        net: Any = model.net
        if "features" not in model.predict_options:
            raise UserError(f"--features: {type(net).__name__} has no head to remove")
        net.reset_head(0)
    return model


# Reading ------------------------------------------------------------------------------------------------------------


def _images(
    files: Sequence[Path], model: "Model", batch_size: int, notes: Notes
) -> Iterator[tuple[list[dict[str, Any]], "Tensor"]]:
    """Yield the origin of each image of a batch, and the batch ``(B, C, H, W)``."""
    for start in range(0, len(files), batch_size):
        part = files[start : start + batch_size]
        notes.look_at_files(part)
        yield [{"file": str(path)} for path in part], read_images(part, model)


def read_images(files: Sequence[Path], model: "Model") -> "Tensor":
    """Read image files as the datamodules do in evaluation: float in [0, 1] ``(B, C, H, W)``."""
    import torch

    from datamodules.decode import check_interpolation, decode, whole
    from datamodules.images import binarized

    channels, height, width = model.input_shape or (0, 0, 0)
    if channels not in (1, 3):
        raise UserError(f"the model takes {channels} channels: images have 1 or 3")
    settings = model.preparation or {}
    crop = whole if settings.get("whole") or model.makes == "mask" else None
    interpolation = settings.get("interpolation", "bilinear")
    check_interpolation(interpolation)
    how = (settings.get("center", 1.0), crop, settings.get("draft", False), interpolation)
    pixels = torch.stack([decode(path, channels, (height, width), *how) for path in files])
    return (binarized(pixels, settings["binarize"]) if "binarize" in settings else pixels).float() / 255


def _files(paths: Sequence[Path], notes: Notes) -> Iterator[Path]:
    """Yield files as they are, and the images in folders, searched recursively by suffix."""
    from datamodules.decode import SUFFIXES
    from datamodules.image_folder import images_and_others

    for path in paths:
        if not path.is_dir():
            yield path
            continue
        files, others = images_and_others(path)
        if not files:
            raise UserError(f"no image in the folder {path} ({', '.join(SUFFIXES)})")
        notes.leave_out(others, path)
        yield from map(Path, files)


def _csv_rows(
    paths: Sequence[Path], preparation: dict[str, Any], batch_size: int
) -> Iterator[tuple[list[dict[str, Any]], "Tensor"]]:
    """Yield the origin of each row of a batch, counted from 1 in each file, and the batch ``(B, D)``."""
    from datamodules.decode import SUFFIXES
    from datamodules.sheet import read_rows

    for path in paths:
        if path.is_dir() or path.suffix.lower() in SUFFIXES:
            raise UserError(f"{path} is not a CSV file: the model predicts from the rows of CSV files")
        x, remark = read_rows(path, preparation)
        if remark is not None:
            Console().print(f"warning: {remark}", error=True)
        for start in range(0, len(x), batch_size):
            part = x[start : start + batch_size]
            yield [{"file": str(path), "row": start + i + 1} for i in range(len(part))], part


def _series(
    paths: Sequence[Path], model: "Model", preparation: dict[str, Any], batch_size: int
) -> Iterator[tuple[list[dict[str, Any]], Any]]:
    """Yield the origin of each series of a batch, counted from 1 in each file, and the batch, padded to its longest."""
    from datamodules.sequence_table import read_series

    size = model.example_shape[-1]
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path} is a folder: the model predicts from series, in CSV or .npz files")
        x: Any = read_series(path, preparation)
        values, lengths = x if isinstance(x, tuple) else (x, None)  # a tensor has a method "values"
        if values.shape[2] != size:
            raise UserError(f"{path}: the series have {values.shape[2]} numbers at a time, the model reads {size}")
        for start in range(0, len(values), batch_size):
            part = values[start : start + batch_size]
            origins = [{"file": str(path), "row": start + i + 1} for i in range(len(part))]
            if lengths is None:
                yield origins, part
            else:
                ends = lengths[start : start + batch_size]
                yield origins, type(x)(part[:, : int(ends.max())], ends)


# Predicting ---------------------------------------------------------------------------------------------------------


def _written(options: argparse.Namespace) -> dict[str, str | None]:
    """Return how CSV files are written, as far as it is given."""
    names = ("delimiter", "encoding", "decimal", "thousands")
    return {key: vars(options)[key] or None for key in names if vars(options)[key] is not None}


def _rows(model: "Model", options: argparse.Namespace, notes: Notes) -> Iterator[dict[str, Any]]:
    """Yield the origin and the prediction of each example."""
    import torch

    from recipes.cli.verbs.pictures import PictureWriter, class_index

    pictures = None
    if options.output is not None and options.output.exists() and not options.output.is_dir():
        raise UserError(f"-o {options.output} is a file: give a folder, which is created if necessary")
    if model.reads == "image":
        files = list(_files(options.inputs, notes))
        pictures = PictureWriter(options.output, files)
        batches = _images(files, model, options.batch_size, notes)
    elif options.output is not None:
        kind = {"text": "texts", "series": "series"}.get(model.reads or "", "rows")
        raise UserError(f"-o is for models of images, and {type(model).__name__} reads {kind}: leave it out")
    elif model.reads == "text":
        batches = batches_of(texts_of(options.inputs, model, _written(options)), model, options.batch_size)
    elif model.reads == "series":
        preparation = {**(model.preparation or {}), **_written(options)}
        batches = _series(options.inputs, model, preparation, options.batch_size)
    else:
        batches = _csv_rows(options.inputs, {**(model.preparation or {}), **_written(options)}, options.batch_size)
    label = None if options.label is None else class_index(model, options.label)
    if label is None and "label" in model.predict_options and not options.features:
        raise UserError(f"{type(model).__name__} is conditional: give the class of the images with --label")
    with torch.inference_mode():
        for origins, x in batches:
            if model.reads in ("image", "row"):
                notes.look_at(x, origins)
            x = _moved(x, model.device)
            if options.features:
                net: Any = model.net
                predictions = [{"features": values} for values in net(model.standardize(x)).flatten(1).tolist()]
            elif options.uncertain is not None:
                predictions = _plain(model, options.uncertain.predict(x), options.top, origins, pictures)
            else:
                batch = x if label is None else (x, torch.full((len(x),), label, device=x.device))
                output = model.predict_step(batch, 0, **options.writing)
                predictions = _plain(model, output, options.top, origins, pictures)
            for origin, prediction in zip(origins, predictions, strict=True):
                yield {**origin, **prediction}


def _moved(x: Any, device: Any) -> Any:
    """Move a tensor, or a tuple or NamedTuple of tensors, to a device."""
    if not isinstance(x, tuple):
        return x.to(device)
    parts = [part.to(device) for part in x]
    return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)


def _plain(
    model: "Model", output: Any, top: int, origins: list[dict[str, Any]], pictures: "PictureWriter | None"
) -> list[dict[str, Any]]:
    """Convert the output of ``predict_step`` to plain data.

    One dict per example: label and probability, value in the target's unit, share of each class, reconstruction error, what a
    language model says of a text, or what a translator or captioner writes.
    """
    name = type(model).__name__
    makes_pictures = model.makes in ("mask", "image")
    if pictures is not None and pictures.folder is not None and not makes_pictures:
        other = ", or give --attention FILE.png" if "attention" in model.predict_options else ""
        raise UserError(
            f"-o is for models that make pictures (segmenters, autoencoders), and {name} makes none: leave it out{other}"
        )
    if top > 1 and "top" not in model.predict_options:
        raise UserError(f"--top is for classifiers, and {name} is not one")
    if "beam" in model.predict_options:
        return written_texts(output)
    if model.makes == "label":
        return _labels(model, output, top)
    if model.makes == "number":
        return _values(model, output)
    if makes_pictures and pictures is not None:
        return pictures.rows(model, output, [Path(origin["file"]) for origin in origins])
    plain = output.items() if isinstance(output, dict) else ()
    numbers = {key: v if isinstance(v, list) else v.tolist() for key, v in plain if isinstance(v, list) or v.ndim == 1}
    if not numbers:
        raise UserError(f"zoo predict prints labels, values and masks, and {name} predicts none of them")
    return [dict(zip(numbers, row, strict=True)) for row in zip(*numbers.values(), strict=True)]


def _values(model: "Model", output: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the value of each example, by name where there are several; of a series a list of those of its steps."""
    value: Tensor = output["value"]
    by_step = getattr(model, "by_step", False)
    rows = value.tolist()
    if by_step and "lengths" in output:
        rows = [row[:end] for row, end in zip(rows, output["lengths"].tolist(), strict=True)]
    if value.ndim == 1 + by_step:
        return [{"value": row} for row in rows]
    count = value.shape[-1]
    known = ((model.preparation or {}).get("targets"), model.class_names)
    names = next((names for names in known if names and len(names) == count), [str(k) for k in range(count)])

    def named(numbers: list[float]) -> dict[str, float]:
        return dict(zip(names, numbers, strict=True))

    return [{"value": [named(step) for step in row] if by_step else named(row)} for row in rows]


def _labels(model: "Model", output: dict[str, Any], top: int) -> list[dict[str, Any]]:
    probabilities: Tensor = output["probabilities"]
    if getattr(model, "by_step", False):
        if top > 1:
            raise UserError(f"--top is for one label an example, and {type(model).__name__} gives one for each step")
        steps = zip(output["label"], output["probability"].tolist(), strict=True)
        return [{"label": label, "probability": each[: len(label)]} for label, each in steps]
    values, classes = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
    names = model.label_names
    rows = []
    for i, label in enumerate(output["label"]):
        row = {"label": label, "probability": float(output["probability"][i])}
        row |= {name: float(output[name][i]) for name in ("entropy", "disagreement") if name in output}
        row |= {"set": output["set"][i]} if "set" in output else {}
        if top > 1:
            pairs = zip(classes[i].tolist(), values[i].tolist(), strict=True)
            row["top"] = [{"label": names[k], "probability": p} for k, p in pairs]
        rows.append(row)
    return rows


def _number(value: float) -> str:
    """Return a number with six digits; of a large one, all before the decimal point."""
    return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.12g}"


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    """Return the cells of a table row by column heading, without the paths of pictures."""
    cells = {key: value for key, value in row.items() if key not in ("overlay", "mask", "reconstruction")}
    if isinstance(value := cells.pop("value", None), dict):
        cells |= {name: _number(number) for name, number in value.items()}
    elif isinstance(value, list):
        cells["value"] = ", ".join(
            "/".join(map(_number, v.values())) if isinstance(v, dict) else _number(v) for v in value
        )
    elif value is not None:
        cells["value"] = _number(value)
    if isinstance(label := row.get("label"), list):
        cells["label"] = ", ".join(map(str, label))
    if isinstance(row.get("probability"), list):
        del cells["probability"]
    if shares := cells.pop("shares", None):
        ranked = sorted(shares.items(), key=lambda pair: -pair[1])
        cells["share of pixels"] = "  ".join(f"{name} {share:.4f}" for name, share in ranked if share)
    if "set" in cells:
        cells["set"] = ", ".join(cells["set"]) or "none"
    for key, number in cells.items():
        if isinstance(number, float):
            cells[key] = f"{number:.4f}" if key in _FOUR_DIGITS else f"{number:.6g}"
    for key in ("source", "text", "continuation"):
        if key in cells:
            cells[key] = cells[key].replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    if "top" in row:
        del cells["top"]
        cells["most probable"] = "  ".join(f"{pair['label']} {pair['probability']:.4f}" for pair in row["top"])
    return cells


def _table(rows: list[dict[str, Any]], read: Sequence[str]) -> str:
    """Return a table, with the columns that were ``read`` shortened; of one text and what a language model says of it a list."""
    if len(rows) == 1 and "continuation" in rows[0]:
        return columns([(name.replace("_", " "), str(value)) for name, value in rows[0].items()], rule=False)
    order = ("file", "row", "line")  # in front, where some inputs have them and others do not
    keys = [*dict.fromkeys(key for row in rows for key in row)]
    keys.sort(key=lambda key: order.index(key) if key in order else len(order))
    cells = [[_shortened(row.get(key, "")) if key in read else row.get(key, "") for key in keys] for row in rows]
    return columns([[key.replace("_", " ") for key in keys], *cells])


def _shortened(cell: Any) -> Any:
    return f"{cell[: _SHOWN - 3]}..." if len(cell) > _SHOWN else cell
