"""``zoo finetune``: look at a folder of images, then train a model on it: the recipe ``transfer/image_folder``, filled in."""

import argparse
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from recipes.cli import catalog
from recipes.cli.console import Console, NoCaches, heard
from recipes.cli.errors import UserError
from recipes.cli.run import options
from recipes.cli.run.folder import is_main_process
from recipes.cli.run.process import kept, own_process_state
from recipes.cli.text import columns

if TYPE_CHECKING:
    from recipes.cli.verbs.inspection import Inspection
    from zoo.registry import Entry

RECIPE = "transfer/image_folder"
HELP = f"""zoo finetune FOLDER [options]: look at a folder of images, then teach a trained model to tell its classes apart.

  FOLDER            with <class>/*.jpg in it, or train/<class>/*.jpg, and val/ and test/ if you have split them yourself
  --model NAME      a model of images that `zoo models` lists (default: resnet18)
  --weights W       what it begins with: imagenet (the default, downloaded once), a bundled name, a folder of
                    save_pretrained, a checkpoint, owner/name on the hub, or none: then all of it is trained from scratch
  --epochs N        the first 30% train the head alone, the others all of the net (default: 10)
  --size N          height and width that the net sees (default: that of the weights; smaller for smaller images)
  --batch-size N    images a step (default: 32)
  --logger NAME     csv (default), tensorboard, wandb, wandb-offline, none
  --runs FOLDER     where run folders are made (default: runs)
  --debug           show the traceback of any error

It is `zoo fit -c {RECIPE}`, filled in for your folder and your model, and everything else of it can be set too:
--model.lr 3e-4, --model.layer_decay 0.5, --data.val_fraction 0.2, --trainer.devices 2. A run that was stopped goes on with
`zoo fit --resume RUN`. The run folder {{runs}}/{RECIPE}/version_N holds, besides what every run leaves:
  wrong_examples.csv, .png   what the best checkpoint gets wrong in the test images (without these: in the validation images)
  confusion.png              which classes it takes for which
  model/                     the model with its card, for `zoo predict` and zoo.load

Examples:
  zoo finetune photos
  zoo finetune photos --model densenet121 --epochs 20
  zoo finetune photos --model resnet20 --weights resnet20_digits
  zoo finetune photos --model resnet20 --weights none --size 32
""".format(runs="runs")
_HEAD_SHARE = 0.3  # of the epochs
_LEAST = 64  # pixels of a side: five halvings leave 2 x 2


def run(args: list[str]) -> int:
    """The verb ``finetune``."""
    wanted, rest = _parse(args)
    recipe = catalog.find(RECIPE)
    console = Console(silent=not is_main_process())
    with own_process_state(), tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.yaml")
        config.touch()
        found = options.parse("fit", ["-c", str(config), *rest])
        with NoCaches():
            from recipes.cli.run.session import train_or_evaluate
        with heard(console), kept(console):
            config.write_text(yaml.safe_dump(_config(recipe, wanted, rest, console)), encoding="utf-8")
            return train_or_evaluate(replace(found, recipe=recipe), console)


def _parse(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    if not args or args[0].startswith("-"):
        raise UserError("say first which folder: zoo finetune FOLDER [options] (`zoo finetune --help` shows them)")
    parser = options.Parser("zoo finetune")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--weights", "--model.weights")
    parser.add_argument("--epochs", "--trainer.max_epochs", type=int, default=10)
    parser.add_argument("--size", "--data.size", type=int)
    parser.add_argument("--batch-size", "--data.batch_size", type=int, default=32)
    wanted, rest = parser.parse_known_args(args[1:])
    wanted.folder = args[0]
    for name, least in (("epochs", 1), ("size", 1), ("batch_size", 1)):
        value = getattr(wanted, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} must be {least} or more, got {value}")
    names = [word.partition("=")[0] for word in rest]
    if "--resume" in names:
        raise UserError("a run that was stopped goes on with: zoo fit --resume RUN")
    if clash := sorted({"-c", "--config", "--data", "--data.root"} & set(names)):
        raise UserError(f"{clash[0]} is what `zoo finetune` fills in: use zoo fit -c {RECIPE}")
    return wanted, rest


def _config(recipe: catalog.Recipe, wanted: argparse.Namespace, rest: list[str], console: Console) -> dict[str, Any]:
    """The recipe for this folder and this model; what was found is said."""
    from recipes.cli.verbs.inspection import inspect
    from zoo import list_models, registry

    list_models()  # so that all are registered
    entry = registry.get(wanted.model)
    check_model(entry)
    found = inspect(wanted.folder, **_data_options(rest))
    start = _start(entry, wanted.weights)
    size = wanted.size or default_size(entry, start, found)
    head = max(1, round(_HEAD_SHARE * wanted.epochs))
    if start.weights is None:
        plan = "from scratch, all of it from the beginning"
    elif wanted.epochs == 1:
        raise UserError("--epochs must be 2 or more: the first trains the head, the others all of the net")
    else:
        first = "epoch 1 trains" if head == 1 else f"epochs 1 to {head} train"
        plan = f"{start.weights} weights; {first} the head, the others all of the net"
    about = [*found.lines(), ("model", f"{entry.name} at {size}x{size}, {plan}")]
    console.say(columns(about, rule=False) + "\n")
    config: dict[str, Any] = yaml.safe_load(recipe.path.read_text(encoding="utf-8"))
    training = {k: v for k, v in config["model"]["init_args"].items() if k not in ("depth", "weights")}
    config["model"] = {
        "class_path": f"{entry.cls.__module__}.{entry.cls.__qualname__}",
        "init_args": {**entry.preset, **training, "weights": start.weights},
    }
    batch_size = min(wanted.batch_size, found.parts["train"])
    config["data"]["init_args"] |= {"root": wanted.folder, "size": size, "batch_size": batch_size}
    config["trainer"]["max_epochs"] = wanted.epochs
    if start.weights is None:
        config["model"]["init_args"]["layer_decay"] = 1.0
    callbacks = {callback["class_path"]: callback for callback in config["trainer"]["callbacks"]}
    callbacks["callbacks.LayerFreezing"]["init_args"]["milestones"] = {head: "all"}
    if start.weights is None:
        del callbacks["callbacks.LayerFreezing"]
    config["trainer"]["callbacks"] = list(callbacks.values())
    return config


def _data_options(rest: list[str]) -> dict[str, Any]:
    """What the options say of the split of the data."""
    words = [part for word in rest for part in word.split("=", 1)]
    names = ("val_fraction", "test_fraction", "split_seed")
    return {n: yaml.safe_load(words[words.index(f"--data.{n}") + 1]) for n in names if f"--data.{n}" in words[:-1]}


@dataclass(frozen=True)
class Start:
    """What a model begins with.

    Attributes:
        weights: where from; None from scratch.
        size: side in pixels of the images that they were trained on, if that is known.
    """

    weights: str | None
    size: int | None = None


def check_model(entry: "Entry") -> None:
    """Refuse a model that does not classify images.

    Raises:
        UserError: what to take instead.
    """
    from zoo import ClassificationTask
    from zoo.registry import arguments_of

    if not issubclass(entry.cls, ClassificationTask) or "in_channels" not in arguments_of(entry.cls):
        raise UserError(
            f"{entry.name} is no model of images, which has features to transfer: take one such as resnet18, densenet121 or "
            "lenet5 (`zoo models` lists all)"
        )


def _start(entry: "Entry", weights: str | None) -> Start:
    """The weights, seen to be there: downloaded if need be.

    Raises:
        UserError: none were named and there is no default, or they cannot be had.
    """
    from zoo.pretrained import list_weights
    from zoo.pretrained.sources import find

    names = list_weights(entry.name)
    if weights == "none":
        return Start(None)
    if weights is None and "imagenet" not in names:
        has = f"the bundled {', '.join(names)}" if names else "none by name"
        raise UserError(
            f"{entry.name} has no weights of ImageNet ({has}): give --weights NAME|PATH, or --weights none to train it from scratch"
        )
    try:
        found = find(weights or "imagenet", entry.name)
    except ConnectionError as error:
        raise UserError(f"{error}; here: --weights PATH, or --weights none to train from scratch") from error
    shape = found.data.get("input_shape")
    return Start(weights or "imagenet", shape[-1] if shape is not None and len(shape) == 3 else None)


def default_size(entry: "Entry", start: Start, found: "Inspection") -> int:
    """The side of the images that the weights, or else the net, are made for; less where the images are smaller."""
    import torch

    from zoo.blocks.skeleton import skeleton
    from zoo.registry import arguments_of

    with skeleton():
        net = entry.cls(**entry.preset).net.eval()
    usual = start.size or int(getattr(net, "image_size", 224))
    smaller = max(_LEAST, -(-found.short_side // 32) * 32)
    if smaller >= usual or "image_size" in arguments_of(entry.cls):
        return usual
    with suppress(RuntimeError, ValueError), torch.no_grad():
        net(torch.empty(1, int(net.in_channels), smaller, smaller, device="meta"))  # type: ignore[arg-type]
        return smaller
    return usual
