"""The registry: a name for a LightningModule class and a preset of its arguments."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from zoo.spelling import suggest


@dataclass(frozen=True)
class Entry:
    """One registered model: ``cls(**preset)`` builds it."""

    name: str
    cls: type
    preset: dict[str, Any]


_ENTRIES: dict[str, Entry] = {}
_BY_NET: list[type] = []  # the class that takes a net by name
_TASKS: dict[str, Entry] = {}  # others that do: their name tells nothing of a net, so they are no models to list
OF_NAMED_NET = (
    "net",
    "net_args",
    "in_channels",
    "preprocessing",
)  # its arguments that are of the net; a family has its own
_find_more: list[Callable[[], None]] = []


def find_more_by(function: Callable[[], None]) -> Callable[[], None]:
    """Call ``function``, once, before all models are listed or a name is given up: it imports modules that register models.

    The package itself does so for its families, which are imported on first use.
    """
    _find_more.append(function)
    return function


def _complete() -> None:
    while _find_more:
        _find_more.pop()()


def register(name: str, cls: type, /, **preset: Any) -> None:
    """Register a model, your own too.

    Args:
        name: Name for :func:`create_model` and ``zoo models``.
        cls: A :class:`zoo.Task` whose constructor takes plain data only.
        preset: Arguments of ``cls`` that make it this model.

    Raises:
        ValueError: The name is taken by another model.
        TypeError: ``cls`` does not take an argument of the preset, or has an argument "weights" that is no source of weights.
    """
    weights = arguments_of(cls).get("weights")
    if weights is not None and weights.annotation not in (str | None, inspect.Parameter.empty, "str | None"):
        raise TypeError(
            f"{cls.__name__} has an argument 'weights' of another meaning than that of create_model(name, weights=...): rename it"
        )
    entry = Entry(name, cls, preset)
    if (taken := _ENTRIES.get(name) or _TASKS.get(name)) not in (None, entry):
        raise ValueError(f"the model name {name!r} is taken by {taken.cls.__name__}: choose another")
    check_arguments(cls, preset)
    _ENTRIES[name] = entry


def register_by_net(cls: type) -> None:
    """Register the class that makes a model of a net by name, see :mod:`zoo.backbones`: it has an argument ``net``."""
    _BY_NET[:] = [cls]


def register_task(name: str, cls: type) -> None:
    """Register another class that takes a net by name, for the files of its models; :func:`list_models` does not list it."""
    _TASKS[name] = Entry(name, cls, {})


def is_registered_net(cls: type, net: Any, argument: str = "net") -> bool:
    """Return whether somebody registered a model of this class with this net: then its class may be imported for a file."""
    return any(entry.cls is cls and entry.preset.get(argument) == net for entry in _ENTRIES.values())


def get(name: str) -> Entry:
    """Return the entry of a registered name, or of a net by name ("timm/resnet18", "my_nets.MyNet").

    Raises:
        ValueError: Unknown name; the message suggests the closest.
    """
    if name not in _ENTRIES:
        _complete()
    if name not in _ENTRIES and re.fullmatch(r"(timm|torchvision|hf|zoo)/.+|[^/\s]+\.[^/\s]+", name):
        return Entry(name, _BY_NET[0], {"net": name})
    return _TASKS[name] if name in _TASKS else registered(name)


def registered(name: str) -> Entry:
    """Return the entry of a registered name.

    Raises:
        ValueError: Unknown name; the message suggests the closest.
    """
    if name not in _ENTRIES:
        _complete()
    if name not in _ENTRIES:
        raise ValueError(f"unknown model {name!r}{suggest(name, _ENTRIES)}; `zoo models` lists all {len(_ENTRIES)}")
    return _ENTRIES[name]


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the registered models that match a shell pattern, in natural order (resnet18 before resnet101).

    Example:
        >>> list_models("lenet*")
        ['lenet5', 'lenet5_relu']
    """
    _complete()
    names = [name for name in _ENTRIES if fnmatchcase(name, pattern)]
    return sorted(names, key=lambda name: [int(c) if c.isdigit() else c for c in _split_digits(name)])


def name_of(module: Any) -> str | None:
    """Return the registered name by which a module can be rebuilt from its hyperparameters; None if its class has none."""
    entries = [entry for entry in _ENTRIES.values() if entry.cls is type(module)]
    if type(module) in _BY_NET:  # a net from outside has no name
        entries = [e for e in entries if all(module.hparams.get(k) == v for k, v in e.preset.items())]
        named = module.net_by_name
        entries += [] if entries or named is None else [Entry(named, type(module), {"net": named})]
    tasks = [entry for entry in _TASKS.values() if entry.cls is type(module)]
    entries += [] if tasks and module.net_by_name is None else tasks
    # the longest preset that agrees with the module; any of its class is enough to rebuild it
    wrong = {e.name: sum(module.hparams.get(k) != v for k, v in e.preset.items()) for e in entries}
    entries.sort(key=lambda entry: (wrong[entry.name], -len(entry.preset)))
    return entries[0].name if entries else None


def arguments_of(cls: type) -> dict[str, inspect.Parameter]:
    """Return all constructor arguments of a task class by name, those that ``**task`` hands up to its parents included."""
    parameters = signature_of(cls).parameters.values()
    return {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def net_arguments(cls: type) -> list[str]:
    """Return the arguments of a class that describe its net: neither its task's, nor sources."""
    inits = [(base, vars(base)["__init__"]) for base in cls.__mro__ if "__init__" in vars(base)]
    generic = next((base for base, init in inits if "net" in inspect.signature(init).parameters), object)
    own = inspect.signature(inits[0][1]).parameters
    tasks = arguments_of(generic).keys() - own.keys()
    return [name for name in arguments_of(cls) if name not in {*tasks, *sources_of(cls)}]


def sources_of(cls: Any) -> tuple[str, ...]:
    """Return the arguments of a class that name a file, a folder or a repository, see :class:`zoo.model.Model`."""
    return (*getattr(cls, "weight_sources", ()), *getattr(cls, "other_sources", ()))


def signature_of(cls: type) -> inspect.Signature:
    """Return the signature of a class with its parents' arguments, as keyword-only ones, in place of ``**task``."""
    inits = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)]
    own, *above = (list(inspect.signature(init).parameters.values())[1:] for init in inits)  # without self
    parameters = {p.name: p for p in own if p.kind is not p.VAR_KEYWORD}
    takes_net = "net" in parameters
    rest = [p for p in own if p.kind is p.VAR_KEYWORD]
    for theirs in above:
        if not rest:
            break
        named = [p for p in theirs if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in parameters]
        parameters |= {p.name: p.replace(kind=p.KEYWORD_ONLY) for p in named}
        rest = [p for p in theirs if p.kind is p.VAR_KEYWORD]
    if not takes_net:  # a family builds its net itself
        for name in set(OF_NAMED_NET) - {p.name for p in own}:
            parameters.pop(name, None)
    return inspect.Signature([*parameters.values(), *rest])


def check_arguments(cls: type, kwargs: Mapping[str, Any]) -> None:
    """Check that a class has arguments of these names.

    Raises:
        TypeError: It does not; the message suggests the closest.
    """
    known = arguments_of(cls)
    for name in kwargs:
        if name not in known:
            raise TypeError(f"{cls.__name__} has no argument {name!r}{suggest(name, known)}")


def _split_digits(name: str) -> list[str]:
    """Split a name into text and numbers that alternate, text first: 'resnet18' -> ['resnet', '18']."""
    parts, digit = [""], False
    for char in name:
        if char.isdigit() != digit:
            parts.append("")
            digit = not digit
        parts[-1] += char
    return parts
