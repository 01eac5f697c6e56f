"""``zoo finetune``: inspect the user's data, then run a recipe, filled in for them."""

import argparse
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from recipes.cli import catalog
from recipes.cli.console import Console, NoCaches, captured_logs
from recipes.cli.errors import UserError
from recipes.cli.index import class_path
from recipes.cli.run import options
from recipes.cli.run.folder import is_main_process
from recipes.cli.run.process import (
    exiting_at_once,
    importable_current_folder,
    logged_exit,
    restored_process_state,
)
from recipes.cli.text import columns
from recipes.cli.verbs.named_model import MODEL_HELP, find_model
from recipes.cli.verbs.notes import is_shrunk

if TYPE_CHECKING:
    from recipes.cli.verbs.inspection import Inspection
    from zoo.pretrained.sources import Weights
    from zoo.registry import Entry

RECIPES = {"images": "transfer/image_folder", "masks": "segmentation/unet_folder", "table": "linear/mlp_table"}
HELP = f"""zoo finetune DATA [options]: inspect your images, images with masks, or table, then train a model on them.

  DATA              a folder with <class>/*.jpg, or train/<class>/*.jpg, and val/ and test/ if you have split them yourself;
                    a folder with images/ and masks/, or train/images/ and train/masks/ ..., for the class of each pixel;
                    a CSV file, with --target
  --target NAME     the column of a CSV file to predict, a class or a number
  --model NAME      a model that `zoo models` lists (default: that of the weights, or else resnet18, unet_resnet34, mlp or
                    mlp_regression); for classes of images also timm/NAME, torchvision/NAME, hf/OWNER/NAME or your my_net.MyNet
  --weights W       initial weights: imagenet (the default for images, downloaded once), none (the default for tables: all of
                    it is trained from scratch), or those of a model: {MODEL_HELP}
  --epochs N        number of epochs (default: 10, 40 with masks, 60 for a table); for images, the first 30% train the head
                    only, the others the whole net
  --size N          height and width of the net's input (default: that of the weights; smaller for smaller images)
  --batch-size N    examples per step (default: 32, 8 with masks)
  --logger NAME     csv (default), tensorboard, wandb, wandb-offline, none
  --runs FOLDER     where run folders are made (default: runs)
  --debug           show the traceback of any error

It is `zoo fit` with the recipe {RECIPES["images"]}, {RECIPES["masks"]} or {RECIPES["table"]},
filled in for your data and your model, and takes its other options too: --model.lr 3e-4, --model.layer_decay 0.5,
--data.val_fraction 0.2, --trainer.devices 2; --data.class_names "[background, cell]" --data.mask_values "[0, 255]" with masks;
--data.kind regression, --data.drop "[id]", --data.delimiter ";" for a table. Resume a run that was stopped with
`zoo fit --resume RUN`. Besides the files of every run, the run folder has:
  wrong_examples.csv, .png   the test examples that the best checkpoint gets wrong (without a test part: validation)
  confusion.png              the confusion matrix, up to 2,000 classes; both for classes of images or rows
  model/                     the model with its card, for `zoo predict` and zoo.load

Examples:
  zoo finetune photos
  zoo finetune photos --model densenet121 --epochs 20
  zoo finetune photos --weights resnet20_digits
  zoo finetune photos --model resnet20 --weights none --size 32
  zoo finetune cells
  zoo finetune houses.csv --target price
"""
_HEAD_SHARE = 0.3  # of the epochs
_MIN_SIZE = 64  # pixels: five halvings leave 2 x 2


def run(args: list[str]) -> int:
    """Run the verb ``finetune``."""
    arguments, overrides = _parse(args)
    kind = kind_of(arguments.data)
    recipe = catalog.find(RECIPES[kind])
    _check_options(arguments, overrides, kind)
    console = Console(silent=not is_main_process())
    with restored_process_state():
        with NoCaches(), exiting_at_once():
            from recipes.cli.run.session import train_or_evaluate
        with tempfile.TemporaryDirectory() as folder, captured_logs(console), logged_exit(console):
            config = Path(folder, "config.yaml")
            config.write_text("{trainer: {}}\n", encoding="utf-8")  # filled in below
            fit_options = options.parse("fit", ["-c", str(config), *overrides])
            with importable_current_folder():
                filled = _config(recipe, kind, arguments, overrides, console)
            config.write_text(yaml.safe_dump(filled), encoding="utf-8")
            return train_or_evaluate(replace(fit_options, recipe=recipe), console)


def kind_of(data: str) -> str:
    """Return the kind of the user's data: "images", "masks" or "table".

    Raises:
        UserError: It cannot be told.
    """
    path = Path(data).expanduser()
    wanted = "give a folder with <class>/*.jpg, a folder with images/ and masks/, or a CSV file"
    if path.is_file():
        if path.suffix.lower() in (".csv", ".tsv", ".txt"):
            return "table"
        if path.suffix.lower() == ".json":
            raise UserError(
                f"{data} is no CSV file: {wanted}; if it holds captions of images, as COCO's, zoo fit -c captioning/caption_file "
                f"--data.path {data} trains a captioner"
            )
        raise UserError(f"{data} is no CSV file: {wanted}; unpack an archive first")
    if not path.is_dir():
        raise UserError(f"{data} is neither a folder nor a file: {wanted}")
    part = path / "train" if (path / "train").is_dir() else path
    folders = {entry.name for entry in part.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__"))}
    if {"images", "masks"} <= folders:
        return "masks"
    others = folders - {"images"}
    if "images" in folders and others & _LIKE_MASKS:
        raise UserError(
            f"{part} has images/ and {min(others & _LIKE_MASKS)}/: rename it to masks/ if it holds the class of each pixel"
        )
    if tables := sorted(str(file) for file in path.glob("*.csv")) if not folders else []:
        raise UserError(f"{data} is a folder of CSV files: give one of them, such as {tables[0]}")
    return "images"


_LIKE_MASKS = {
    "mask",
    "labels",
    "label",
    "annotations",
    "annotation",
    "segmentation",
    "segmentations",
    "gt",
    "groundtruth",
}


def _parse(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    if not args or args[0].startswith("-"):
        raise UserError(
            "the first argument must be a folder or a CSV file: zoo finetune DATA [options] (see `zoo finetune --help`)"
        )
    parser = options.Parser("zoo finetune")
    parser.add_argument("--model")
    parser.add_argument("--target", "--data.target")
    parser.add_argument("--weights", "--model.weights")
    parser.add_argument("--epochs", "--trainer.max_epochs", type=int)
    parser.add_argument("--size", "--data.size", type=int)
    parser.add_argument("--batch-size", "--data.batch_size", type=int)
    arguments, overrides = parser.parse_known_args(args[1:])
    arguments.data = args[0]
    for name in ("epochs", "size", "batch_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be 1 or more, got {value}")
    return arguments, overrides


def _check_options(arguments: argparse.Namespace, overrides: list[str], kind: str) -> None:
    names = [word.partition("=")[0] for word in overrides]
    if "--resume" in names:
        raise UserError("zoo finetune cannot resume: use zoo fit --resume RUN")
    if clash := sorted({"-c", "--config", "--data", "--data.root", "--data.path"} & set(names)):
        raise UserError(f"{clash[0]} is filled in by `zoo finetune`: use zoo fit -c {RECIPES[kind]} to set it")
    if kind == "table" and arguments.size is not None:
        raise UserError("--size is for images, and a CSV file has none: leave it out")
    if kind != "table" and arguments.target is not None:
        raise UserError(f"--target is for CSV files, and {arguments.data} is a folder: leave it out")


def _config(
    recipe: catalog.Recipe, kind: str, arguments: argparse.Namespace, overrides: list[str], console: Console
) -> dict[str, Any]:
    """Inspect the data, print the plan and return the recipe filled in for the data and the model."""
    config: dict[str, Any] = yaml.safe_load(recipe.path.read_text(encoding="utf-8"))
    if arguments.epochs is not None:
        config["trainer"]["max_epochs"] = arguments.epochs
    fill = {"images": _fill_images, "masks": _fill_masks, "table": _fill_table}[kind]
    inspection, plan = fill(config, arguments, _data_options(overrides))
    data = config["data"]["init_args"]
    batch_size = min(arguments.batch_size or data["batch_size"], inspection.parts["train"])
    data |= {**inspection.data, "batch_size": batch_size}
    console.print(columns([*inspection.rows, ("model", plan)], rule=False) + "\n")
    if (
        inspection.sizes
        and arguments.size is None
        and is_shrunk(*inspection.median_size, (0, data["size"], data["size"]))
    ):
        width, height = inspection.median_size
        console.print(
            f"warning: images of {width}x{height} pixels (the median) are shrunk to {data['size']}x{data['size']}, the size that "
            f"this model sees, and only coarse features are left: give --size, such as {min(height, width, 224)}, or another model",
            error=True,
        )
    return config


def _fill_model(config: dict[str, Any], entry: "Entry", start: "Start", *own: str) -> None:
    """Put a model into a recipe, with the recipe's arguments but for those that are ``own`` to its net."""
    training = {k: v for k, v in config["model"]["init_args"].items() if k not in ("weights", *own)}
    config["model"] = {
        "class_path": class_path(entry.cls),
        "init_args": {**start.arguments, **training, "weights": start.weights},
    }


def _fill_images(
    config: dict[str, Any], arguments: argparse.Namespace, data: dict[str, Any]
) -> tuple["Inspection", str]:
    from recipes.cli.verbs.inspection import inspect_images

    entry = _entry(arguments, "resnet18", check_model)
    inspection = inspect_images(arguments.data, data)
    start = _start(entry, arguments.weights)
    size = arguments.size or default_size(entry, start, min(inspection.median_size))
    epochs = config["trainer"]["max_epochs"]
    head = max(1, round(_HEAD_SHARE * epochs))
    if start.weights is None:
        plan = "from scratch, the whole net from the first epoch"
    elif epochs == 1:
        raise UserError("--epochs must be 2 or more: the first trains the head, the others the whole net")
    else:
        first = "epoch 1 trains" if head == 1 else f"epochs 1 to {head} train"
        plan = f"{start.weights} weights; {first} the head, the others the whole net"
    _fill_model(config, entry, start, "net")
    del config["data"]["init_args"]["center"]  # as the weights say
    config["data"]["init_args"] |= {"root": arguments.data, "size": size, **start.files}
    callbacks = {callback["class_path"]: callback for callback in config["trainer"]["callbacks"]}
    callbacks["callbacks.LayerFreezing"]["init_args"]["milestones"] = {head: "all"}
    if start.weights is None:
        config["model"]["init_args"]["layer_decay"] = 1.0
        del callbacks["callbacks.LayerFreezing"]
    config["trainer"]["callbacks"] = list(callbacks.values())
    return inspection, f"{entry.name} at {size}x{size}, {plan}"


def _fill_masks(
    config: dict[str, Any], arguments: argparse.Namespace, data: dict[str, Any]
) -> tuple["Inspection", str]:
    from recipes.cli.verbs.inspection import inspect_masks
    from zoo.pretrained import list_weights
    from zoo.registry import arguments_of

    entry = _entry(arguments, "unet_resnet34", check_segmenter)
    inspection = inspect_masks(arguments.data, data)
    encoder = entry.preset.get("encoder", arguments_of(entry.cls)["encoder"].default)
    encoder_weights, files = None, {}
    if arguments.weights in (None, "imagenet") and "imagenet" in list_weights(encoder):
        files = _reading(_source("imagenet", encoder), "interpolation")
        encoder_weights = "imagenet"
    elif arguments.weights == "imagenet":
        raise UserError(f"the encoder of {entry.name} has no ImageNet weights: give --weights PATH or none")
    start = _start(entry, "none" if encoder_weights else arguments.weights or "none")
    files = files or {name: value for name, value in start.files.items() if name == "interpolation"}
    usual = start.size or config["data"]["init_args"]["size"]
    size = arguments.size or min(usual, _rounded(min(inspection.median_size)))
    _fill_model(config, entry, start, "encoder", "encoder_weights")
    config["model"]["init_args"]["encoder_weights"] = encoder_weights
    if start.weights is None and encoder_weights is None:
        config["model"]["init_args"]["layer_decay"] = 1.0
    config["data"]["init_args"] = {
        k: v for k, v in config["data"]["init_args"].items() if k not in ("class_names", "mask_values")
    } | {"root": arguments.data, "size": size, **files}
    plan = f"{start.weights} weights" if start.weights else "from scratch"
    plan = "an encoder with imagenet weights" if encoder_weights else plan
    return inspection, f"{entry.name} at {size}x{size}, {plan}, the whole net from the first epoch"


def _fill_table(
    config: dict[str, Any], arguments: argparse.Namespace, data: dict[str, Any]
) -> tuple["Inspection", str]:
    from recipes.cli.verbs.inspection import inspect_table

    inspection = inspect_table(arguments.data, arguments.target, data)
    kind = inspection.data["kind"]
    default = "mlp_regression" if kind == "regression" else "mlp"
    entry = _entry(arguments, default, lambda entry: check_table_model(entry, kind))
    start = _start(entry, arguments.weights or "none")
    mlp = entry.name in ("mlp", "mlp_regression") and start.weights is None
    _fill_model(config, entry, start, *([] if mlp else ["widths"]))
    config["data"]["init_args"] |= {"path": arguments.data, "target": arguments.target}
    return inspection, f"{entry.name}, {f'{start.weights} weights' if start.weights else 'from scratch'}"


def _data_options(overrides: list[str]) -> dict[str, Any]:
    """Return the options of the datamodule."""
    found = {}
    for word, following in zip(overrides, [*overrides[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if name.startswith("--data."):
            text = value if equals else following
            try:
                found[name.removeprefix("--data.")] = yaml.safe_load(text)
            except (yaml.YAMLError, ValueError):  # a comma, a date that is none
                found[name.removeprefix("--data.")] = text
    return found


@dataclass(frozen=True)
class Start:
    """The initial weights of a model.

    Attributes:
        weights: Their source; None for training from scratch.
        size: Height and width in pixels of the images that they were trained on, if known.
        files: How these were read from files: ``center`` and ``interpolation`` of a datamodule, where known.
        arguments: Those of the model: of its registered name, or of the weights.
    """

    weights: str | None
    size: int | None = None
    files: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)


def check_model(entry: "Entry") -> None:
    """Refuse a model that is not an image classifier.

    Raises:
        UserError: It is not; the message names models that are.
    """
    from zoo import ClassificationTask
    from zoo.registry import arguments_of

    if not issubclass(entry.cls, ClassificationTask) or "in_channels" not in arguments_of(entry.cls):
        raise UserError(
            f"{entry.name} is not an image classifier, which has features to transfer: use one such as resnet18, densenet121 or "
            "lenet5 (`zoo models` lists all)"
        )


def check_segmenter(entry: "Entry") -> None:
    """Refuse a model that does not predict masks."""
    from zoo import SegmentationTask

    if not issubclass(entry.cls, SegmentationTask):
        raise UserError(
            f"{entry.name} does not predict masks: use a model such as unet_resnet34, unet or fcn8s_vgg16, or a folder with one "
            "for each class"
        )


def check_table_model(entry: "Entry", kind: str) -> None:
    """Refuse a model that does not predict a target of this kind from rows."""
    from zoo import ClassificationTask, RegressionTask
    from zoo.registry import arguments_of

    task: type = RegressionTask if kind == "regression" else ClassificationTask
    if not issubclass(entry.cls, task) or "in_features" not in arguments_of(entry.cls):
        target, models = ("a number", "mlp_regression or linear_regression")
        if kind == "classification":
            target, models = ("a class", "mlp, softmax_regression or highway10")
        raise UserError(
            f"{entry.name} does not predict {target} from the rows of a table: use a model such as {models}"
        )


def _entry(arguments: argparse.Namespace, default: str, check: Callable[["Entry"], None]) -> "Entry":
    """Return the model; without ``--model`` it is that of the weights, if they know it, or else the default.

    Raises:
        UserError: ``check`` refuses it.
    """
    from zoo.backbones import list_weights
    from zoo.registry import get

    name, weights = arguments.model or default, arguments.weights
    if weights is not None and Path(weights).is_dir():
        weights = arguments.weights = find_model(weights)
    if (
        arguments.model is None
        and weights not in (None, "none", "imagenet")
        and weights.upper() not in list_weights(name)
    ):
        name = _source(weights, None).model or name
    check(entry := get(name))
    return entry


def _start(entry: "Entry", weights: str | None) -> Start:
    """Return the initial weights after making sure that they are available, downloading them if necessary.

    Raises:
        UserError: None were given and there is no default, or they are not available.
    """
    from recipes.cli.run.building import LINKED
    from zoo.backbones import list_weights
    from zoo.create import stored_arguments

    if weights == "none":
        return Start(None, arguments=entry.preset)
    names = list_weights(entry.name)
    default = next((name for name in ("imagenet", "pretrained") if name in names), None)
    if weights is None and default is None:
        known = f"the bundled {', '.join(names)}" if names else "none by name"
        raise UserError(
            f"{entry.name} has no ImageNet weights (known: {known}): give --weights NAME|PATH, or --weights none to train "
            "from scratch"
        )
    weights = weights or str(default)
    source = _source(weights, entry.name)
    shape = source.data.get("input_shape")
    size = shape[-1] if shape is not None and len(shape) == 3 else None
    arguments = {k: v for k, v in stored_arguments(source, entry).items() if k not in LINKED}
    return Start(weights, size, _reading(source, "center", "interpolation"), arguments)


def _reading(source: "Weights", *names: str) -> dict[str, Any]:
    """Return the arguments of a datamodule with which the images were read that weights were trained on, where known."""
    known = source.data.get("preparation") or {}
    return {name: known[name] for name in names if name in known}


def _source(weights: str, model: str | None) -> "Weights":
    """Return weights for a model, downloaded if necessary.

    Raises:
        UserError: They cannot be downloaded.
    """
    from zoo.backbones import find

    try:
        return find(weights, model)
    except ConnectionError as error:
        raise UserError(f"{error}; use --weights PATH, or --weights none to train from scratch") from error


def _rounded(side: int) -> int:
    return max(_MIN_SIZE, -(-side // 32) * 32)


def default_size(entry: "Entry", start: Start, short_side: int) -> int:
    """Return the image size of the weights, or else of the net; less for smaller images if the net takes them."""
    import torch

    from zoo.blocks.skeleton import skeleton
    from zoo.registry import arguments_of

    with skeleton():
        net: Any = entry.cls(**entry.preset).net.eval()
    usual = start.size or int(getattr(net, "image_size", 224))
    smaller = _rounded(short_side)
    if smaller >= usual or "image_size" in arguments_of(entry.cls):
        return usual
    with suppress(RuntimeError, ValueError), torch.no_grad():
        net(torch.empty(1, int(net.in_channels), smaller, smaller, device=next(net.parameters()).device))
        return smaller
    return usual
