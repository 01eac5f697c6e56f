"""A model by the word that names it: a run folder, a checkpoint, a folder of ``save_pretrained``, a bundled name, a hub name."""

import re
import shlex
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.cli import catalog, index
from recipes.cli.errors import UserError
from recipes.cli.run.folder import CHECKPOINTS, CONFIG, checkpoint_of, newest_run, no_single_run
from recipes.cli.run.process import importable_current_folder
from recipes.cli.yaml_files import read_recipe
from zoo.pretrained import bundled
from zoo.spelling import suggest

if TYPE_CHECKING:
    from zoo import Model

MODEL_HELP = """a run folder (its best checkpoint), a checkpoint, a folder written by save_pretrained,
                    a bundled name such as lenet5_digits, or owner/name on the Hugging Face hub"""


def find_model(text: str) -> str:
    """Return the word for ``zoo.load`` or ``weights=``: in place of a run folder its best checkpoint.

    A bundled name comes before a folder of the same name, as for ``zoo.load``.

    Raises:
        UserError: It names no model.
    """
    path = Path(text)
    if path.name == text and not path.suffix:
        known = bundled.configs()
        if text in known:
            return text
        if not path.exists():
            raise UserError(_unknown(text, known))
    if path.is_dir():
        return str(_in_folder(path))
    if path.exists():
        return text
    if text in {recipe.name for recipe in catalog.shipped()}:
        newest = newest_run(Path("runs"), text)
        cure = f"give its run, {shlex.quote(str(newest))}" if newest else f"train it with zoo fit -c {text}"
        raise UserError(f"{text} is a recipe, not a model: {cure}")
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text) and not path.suffix:
        return text  # on the hub
    raise UserError(f"no such checkpoint or folder: {text}")


def _unknown(text: str, known: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what to say of a word that names no model: the weights of the model that it may name, or the closest ones."""
    own = [name for name, config in known.items() if config["model"] == text]
    hint = f", did you mean {' or '.join(map(repr, own))}?" if own else suggest(text, known)
    if text in index.read():
        return (
            f"{text!r} is a model, and no weights of it{hint or ':'} give a run folder, a checkpoint, a folder of save_pretrained, "
            f"or one of the bundled {', '.join(known)}"
        )
    return (
        f"no model {text!r}{hint}: there is no such run folder, checkpoint or folder of save_pretrained, and the bundled ones are "
        f"{', '.join(known)}"
    )


def _in_folder(path: Path) -> Path:
    """Return a folder of ``save_pretrained`` itself, the best checkpoint of a run folder."""
    if (path / "config.json").is_file():
        return path
    if (path / CHECKPOINTS).is_dir():
        return checkpoint_of(path, "")
    if what := no_single_run(path):
        raise UserError(what)
    newest = newest_run(path.parent, path.name)
    raise UserError(
        f"{path} is neither a run folder (no checkpoints/) nor written by save_pretrained (no config.json)"
        + (f": give one of its runs, such as {shlex.quote(str(newest))}" if newest else "")
    )


def load_model(word: str) -> "Model":
    """Load the model that :func:`find_model` found in evaluation mode, on the GPU if there is one."""
    import torch

    from zoo import load

    own = _import_own_classes(Path(word))
    with warnings.catch_warnings():  # a run's judge or encoder weights: for training and evaluation alone
        warnings.filterwarnings("ignore", ".*is not opened for a file")
        model = load(word, **own)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _import_own_classes(path: Path) -> dict[str, Any]:
    """Import the user's own classes that a run's config.yaml names, as `zoo test RUN` does, and return those of arguments.

    The module of the model's class registers it, and only so can it be loaded. Its net, encoder or optimizer is named to
    ``load``, which imports none because a checkpoint says so.

    Raises:
        UserError: It cannot be imported.
    """
    for config in (path.parent / CONFIG, path.parent.parent / CONFIG):  # of RUN/model, of RUN/checkpoints/best.ckpt
        if not config.is_file():
            continue
        model = read_recipe(config).get("model")
        model = model if isinstance(model, dict) else {}
        given: Any = model.get("init_args")
        given = given if isinstance(given, dict) else {}
        own = {name: given[name] for name in ("net", "encoder", "optimizer") if _is_own(given.get(name))}
        for class_path in (model.get("class_path"), *own.values()):
            if _is_own(class_path):
                _import(class_path, config)
        return own
    return {}


def _is_own(class_path: object) -> bool:
    """Return whether a value of a recipe is the dotted path of a class outside the package."""
    return isinstance(class_path, str) and re.fullmatch(r"(?!zoo\.)\w+(\.\w+)+", class_path) is not None


def _import(class_path: str, config: Path) -> None:
    module = class_path.rpartition(".")[0]
    try:
        with importable_current_folder():
            import_module(module)
    except ImportError as error:
        raise UserError(
            f"{config} names the class {class_path}, which cannot be imported: {error}; go to the folder that holds "
            f"{module}.py, or install it"
        ) from error
