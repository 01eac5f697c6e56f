"""The registry: a name stands for a LightningModule class and a preset of its arguments."""

import difflib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.tasks import Task

FAMILIES = ("zoo.linear", "zoo.cnn", "zoo.segmentation", "zoo.autoencoder", "zoo.gan", "zoo.transformer")


@dataclass(frozen=True)
class Entry:
    """One registered model: ``cls(**preset)`` builds it."""

    name: str
    cls: type["Task"]
    preset: dict[str, Any]


_ENTRIES: dict[str, Entry] = {}


def register(name: str, cls: type["Task"], **preset: Any) -> None:
    """Register a model, your own too.

    Args:
        name: what :func:`create_model` and ``zoo models`` call it.
        cls: a :class:`zoo.Task` whose constructor takes plain data only.
        preset: arguments of ``cls`` that make it this model.

    Raises:
        ValueError: the name is taken by another model.
        TypeError: ``cls`` does not take an argument of the preset.
    """
    entry = Entry(name, cls, preset)
    if _ENTRIES.get(name, entry) != entry:
        raise ValueError(f"the model name {name!r} is taken by {_ENTRIES[name].cls.__name__}: choose another")
    check_arguments(cls, preset)
    _ENTRIES[name] = entry


def get(name: str) -> Entry:
    """The entry of a registered name.

    Raises:
        ValueError: unknown name; the message suggests the closest.
    """
    entries = _load()
    if name not in entries:
        raise ValueError(f"unknown model {name!r}{suggest(name, entries)}; `zoo models` lists all {len(entries)}")
    return entries[name]


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered models that match a shell pattern, sorted as a person would (resnet18 before resnet101).

    Example:
        >>> list_models("lenet*")
        ['lenet5', 'lenet5_relu']
    """
    names = [name for name in _load() if fnmatchcase(name, pattern)]
    return sorted(names, key=lambda name: [int(c) if c.isdigit() else c for c in _split_digits(name)])


def create_model(name: str, weights: str | Path | None = None, **kwargs: Any) -> "Task":
    """Build a registered model, with fresh or with trained weights.

    With weights the net is built without drawing a random number, and a file is mapped into memory: do not write over it while
    the model is in use. Standardization, class names and the shape of an example come with the weights where they know them
    (a file of tensors alone does not: standardization then comes from the data). A head for another ``num_classes`` is drawn
    anew, the first convolution is adapted to other ``in_channels``, all else must fit; ``model.load_report`` tells what became
    of each tensor.

    Args:
        name: one of :func:`list_models`.
        weights: "imagenet" (torchvision's default for the model) or another of torchvision's names ("IMAGENET1K_V1"); a bundled
            name; a folder that ``save_pretrained`` wrote; a checkpoint (.ckpt) or a file of tensors (.pt, .pth, .safetensors);
            "owner/name" on the Hugging Face hub. `zoo models NAME` lists the names.
        kwargs: arguments of the model's class; they win over the preset.

    Raises:
        ValueError: unknown name, an argument out of its range, or weights that are damaged, hostile or of another architecture.
        TypeError: an argument that the class does not have; the message suggests the closest.
        FileNotFoundError, ConnectionError: weights that are not there, or not to be reached.
    """
    entry = get(name)
    check_arguments(entry.cls, kwargs)
    arguments = {**entry.preset, **kwargs}
    if weights is None:
        return entry.cls(**arguments)
    from zoo.pretrained import skeleton, use_weights

    with skeleton():
        module = entry.cls(**arguments)
    use_weights(module, str(weights), name)
    return module


def name_of(module: "Task") -> str | None:
    """The registered name under which a module can be rebuilt from its hyperparameters; None if its class has none."""
    entries = [entry for entry in _load().values() if entry.cls is type(module)]
    # the most special preset that agrees with the module; any of its class is enough to rebuild it
    wrong = {e.name: sum(module.hparams.get(k) != v for k, v in e.preset.items()) for e in entries}
    entries.sort(key=lambda entry: (wrong[entry.name], -len(entry.preset)))
    return entries[0].name if entries else None


def arguments_of(cls: type) -> dict[str, inspect.Parameter]:
    """All constructor arguments of a task class, those that ``**task`` hands up to its parents included."""
    found: dict[str, inspect.Parameter] = {}
    own = inspect.signature(cls).parameters
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base).parameters.values()
        found = {**{p.name: p for p in parameters if p.kind is not p.VAR_KEYWORD}, **found}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    if "net" not in own:  # a family builds its net itself
        found.pop("net", None)
    return found


def check_arguments(cls: type, kwargs: dict[str, Any]) -> None:
    """Raise a TypeError that names the closest argument when ``cls`` has no such one."""
    known = arguments_of(cls)
    for name in kwargs:
        if name not in known:
            raise TypeError(f"{cls.__name__} has no argument {name!r}{suggest(name, known)}")


def suggest(word: str, known: Iterable[str]) -> str:
    """The half sentence ", did you mean 'x'?" with the closest known word, whatever its case, or nothing."""
    words = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(word).lower(), words, n=1)
    return f", did you mean {words[close[0]]!r}?" if close else ""


def _load() -> dict[str, Entry]:
    for family in FAMILIES:
        import_module(family)
    return _ENTRIES


def _split_digits(name: str) -> list[str]:
    """'resnet18' -> ['resnet', '18']: text and numbers alternate, text first."""
    parts, digit = [""], False
    for char in name:
        if char.isdigit() != digit:
            parts.append("")
            digit = not digit
        parts[-1] += char
    return parts
