"""``zoo finetune``: inspect a folder of images, then run the recipe ``transfer/image_folder``, filled in for it."""

import argparse
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from recipes.cli import catalog
from recipes.cli.console import Console, NoCaches, captured_logs
from recipes.cli.errors import UserError
from recipes.cli.run import options
from recipes.cli.run.folder import is_main_process
from recipes.cli.run.process import exiting_at_once, logged_exit, restored_process_state
from recipes.cli.text import columns

if TYPE_CHECKING:
    from recipes.cli.verbs.inspection import Inspection
    from zoo.registry import Entry

RECIPE = "transfer/image_folder"
HELP = f"""zoo finetune FOLDER [options]: inspect a folder of images, then train a pretrained model on its classes.

  FOLDER            a folder with <class>/*.jpg, or train/<class>/*.jpg, and val/ and test/ if you have split them yourself
  --model NAME      an image classifier that `zoo models` lists (default: resnet18)
  --weights W       initial weights: imagenet (the default, downloaded once), a bundled name, a folder of
                    save_pretrained, a checkpoint, owner/name on the hub, or none to train all of it from scratch
  --epochs N        number of epochs; the first 30% train the head only, the others the whole net (default: 10)
  --size N          height and width of the net's input (default: that of the weights; smaller for smaller images)
  --batch-size N    images per step (default: 32)
  --logger NAME     csv (default), tensorboard, wandb, wandb-offline, none
  --runs FOLDER     where run folders are made (default: runs)
  --debug           show the traceback of any error

It is `zoo fit -c {RECIPE}`, filled in for your folder and your model, and takes its other options too:
--model.lr 3e-4, --model.layer_decay 0.5, --data.val_fraction 0.2, --trainer.devices 2. Resume a run that was stopped with
`zoo fit --resume RUN`. Besides the files of every run, the run folder runs/{RECIPE}/version_N has:
  wrong_examples.csv, .png   the test images that the best checkpoint gets wrong (without test images: validation images)
  confusion.png              the confusion matrix
  model/                     the model with its card, for `zoo predict` and zoo.load

Examples:
  zoo finetune photos
  zoo finetune photos --model densenet121 --epochs 20
  zoo finetune photos --model resnet20 --weights resnet20_digits
  zoo finetune photos --model resnet20 --weights none --size 32
"""
_HEAD_SHARE = 0.3  # of the epochs
_MIN_SIZE = 64  # pixels: five halvings leave 2 x 2


def run(args: list[str]) -> int:
    """Run the verb ``finetune``."""
    arguments, overrides = _parse(args)
    recipe = catalog.find(RECIPE)
    console = Console(silent=not is_main_process())
    with restored_process_state():
        with NoCaches(), exiting_at_once():
            from recipes.cli.run.session import train_or_evaluate
        with tempfile.TemporaryDirectory() as folder, captured_logs(console), logged_exit(console):
            config = Path(folder, "config.yaml")
            config.write_text("{trainer: {}}\n", encoding="utf-8")  # filled in below
            fit_options = options.parse("fit", ["-c", str(config), *overrides])
            config.write_text(yaml.safe_dump(_config(recipe, arguments, overrides, console)), encoding="utf-8")
            return train_or_evaluate(replace(fit_options, recipe=recipe), console)


def _parse(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    if not args or args[0].startswith("-"):
        raise UserError(
            "the first argument must be a folder: zoo finetune FOLDER [options] (see `zoo finetune --help`)"
        )
    parser = options.Parser("zoo finetune")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--weights", "--model.weights")
    parser.add_argument("--epochs", "--trainer.max_epochs", type=int, default=10)
    parser.add_argument("--size", "--data.size", type=int)
    parser.add_argument("--batch-size", "--data.batch_size", type=int, default=32)
    arguments, overrides = parser.parse_known_args(args[1:])
    arguments.folder = args[0]
    for name in ("epochs", "size", "batch_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be 1 or more, got {value}")
    names = [word.partition("=")[0] for word in overrides]
    if "--resume" in names:
        raise UserError("zoo finetune cannot resume: use zoo fit --resume RUN")
    if clash := sorted({"-c", "--config", "--data", "--data.root"} & set(names)):
        raise UserError(f"{clash[0]} is filled in by `zoo finetune`: use zoo fit -c {RECIPE} to set it")
    return arguments, overrides


def _config(
    recipe: catalog.Recipe, arguments: argparse.Namespace, overrides: list[str], console: Console
) -> dict[str, Any]:
    """Inspect the folder, print the plan and return the recipe filled in for the folder and the model."""
    from recipes.cli.verbs.inspection import inspect
    from zoo import registry

    entry = registry.get(arguments.model)
    check_model(entry)
    inspection = inspect(arguments.folder, **_data_options(overrides))
    start = _start(entry, arguments.weights)
    size = arguments.size or default_size(entry, start, inspection)
    head = max(1, round(_HEAD_SHARE * arguments.epochs))
    if start.weights is None:
        plan = "from scratch, the whole net from the first epoch"
    elif arguments.epochs == 1:
        raise UserError("--epochs must be 2 or more: the first trains the head, the others the whole net")
    else:
        first = "epoch 1 trains" if head == 1 else f"epochs 1 to {head} train"
        plan = f"{start.weights} weights; {first} the head, the others the whole net"
    about = [*inspection.lines(), ("model", f"{entry.name} at {size}x{size}, {plan}")]
    console.print(columns(about, rule=False) + "\n")
    config: dict[str, Any] = yaml.safe_load(recipe.path.read_text(encoding="utf-8"))
    training = {k: v for k, v in config["model"]["init_args"].items() if k not in ("depth", "weights")}
    config["model"] = {
        "class_path": f"{entry.cls.__module__}.{entry.cls.__qualname__}",
        "init_args": {**entry.preset, **training, "weights": start.weights},
    }
    batch_size = min(arguments.batch_size, inspection.parts["train"])
    config["data"]["init_args"] |= {"root": arguments.folder, "size": size, "batch_size": batch_size}
    config["trainer"]["max_epochs"] = arguments.epochs
    if start.weights is None:
        config["model"]["init_args"]["layer_decay"] = 1.0
    callbacks = {callback["class_path"]: callback for callback in config["trainer"]["callbacks"]}
    callbacks["callbacks.LayerFreezing"]["init_args"]["milestones"] = {head: "all"}
    if start.weights is None:
        del callbacks["callbacks.LayerFreezing"]
    config["trainer"]["callbacks"] = list(callbacks.values())
    return config


def _data_options(overrides: list[str]) -> dict[str, Any]:
    """Return the options that determine how the data are split."""
    words = [part for word in overrides for part in word.split("=", 1)]
    names = ("val_fraction", "test_fraction", "split_seed")
    return {n: yaml.safe_load(words[words.index(f"--data.{n}") + 1]) for n in names if f"--data.{n}" in words[:-1]}


@dataclass(frozen=True)
class Start:
    """The initial weights of a model.

    Attributes:
        weights: Their source; None for training from scratch.
        size: Height and width in pixels of the images that they were trained on, if known.
    """

    weights: str | None
    size: int | None = None


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


def _start(entry: "Entry", weights: str | None) -> Start:
    """Return the initial weights after making sure that they are available, downloading them if necessary.

    Raises:
        UserError: None were given and there is no default, or they are not available.
    """
    from zoo.pretrained import list_weights
    from zoo.pretrained.sources import find

    names = list_weights(entry.name)
    if weights == "none":
        return Start(None)
    if weights is None and "imagenet" not in names:
        known = f"the bundled {', '.join(names)}" if names else "none by name"
        raise UserError(
            f"{entry.name} has no ImageNet weights (known: {known}): give --weights NAME|PATH, or --weights none to train "
            "from scratch"
        )
    try:
        source = find(weights or "imagenet", entry.name)
    except ConnectionError as error:
        raise UserError(f"{error}; use --weights PATH, or --weights none to train from scratch") from error
    shape = source.data.get("input_shape")
    return Start(weights or "imagenet", shape[-1] if shape is not None and len(shape) == 3 else None)


def default_size(entry: "Entry", start: Start, inspection: "Inspection") -> int:
    """Return the image size of the weights, or else of the net; less for smaller images if the net takes them."""
    import torch

    from zoo.blocks.skeleton import skeleton
    from zoo.registry import arguments_of

    with skeleton():
        net: Any = entry.cls(**entry.preset).net.eval()
    usual = start.size or int(getattr(net, "image_size", 224))
    smaller = max(_MIN_SIZE, -(-inspection.short_side // 32) * 32)
    if smaller >= usual or "image_size" in arguments_of(entry.cls):
        return usual
    with suppress(RuntimeError, ValueError), torch.no_grad():
        net(torch.empty(1, int(net.in_channels), smaller, smaller, device="meta"))
        return smaller
    return usual
