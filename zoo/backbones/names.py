"""Backbones by name: ``timm/NAME``, ``torchvision/NAME``, ``hf/OWNER/NAME``, ``package.module.Class``, or a model of the zoo."""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from zoo import registry
from zoo.backbones import timm_nets, vision_nets
from zoo.backbones.base import building
from zoo.backbones.timm_nets import TimmNet
from zoo.backbones.vision_nets import TorchvisionNet
from zoo.pretrained import sources
from zoo.pretrained.sources import Weights
from zoo.spelling import suggest

LIBRARIES = ("timm", "torchvision", "hf", "zoo")
FORMS = "timm/NAME, torchvision/NAME, hf/OWNER/NAME, a model that `zoo models` lists, or your own package.module.Class"


def names(library: str) -> list[str]:
    """Return the names of the nets of "timm" or "torchvision", with the library in front, sorted."""
    found = {"timm": timm_nets.names, "torchvision": vision_nets.names}[library]()
    return [f"{library}/{name}" for name in found]


def full_name(name: str) -> str:
    """Return the name of a backbone with its library in front: "zoo/resnet18" for "resnet18"; a dotted path as it is.

    Raises:
        ValueError: It is no such name; the message suggests the closest.
    """
    library, slash, rest = name.partition("/")
    if library in LIBRARIES and rest:
        if library == "zoo":
            registry.registered(rest)
        return name
    if not slash and "." in name:
        return name
    if slash:
        raise ValueError(f"net {name!r}: {library!r} is no library of nets{suggest(library, LIBRARIES)}; give {FORMS}")
    try:
        return f"zoo/{registry.registered(name).name}"
    except ValueError as error:
        raise ValueError(f"net {name!r}: {error}; other nets are named {FORMS}") from error


def is_dotted(name: str) -> bool:
    """Return whether a name asks for a class to be imported."""
    return "." in name and name.partition("/")[0] not in LIBRARIES


def beyond(name: str, arguments: Any) -> str | None:
    """Return what building a net by name would do that no file may ask for, as a participle; None: nothing."""
    if is_dotted(name):
        return "imported"
    known = isinstance(arguments, Mapping) and timm_nets.ARCHITECTURE in arguments
    return "looked up on the hub" if name.startswith("hf/") and not known else None


def resolved_arguments(name: str, arguments: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the arguments of a net, with what only the hub knows of it, so that it is not asked again."""
    if not name.startswith("hf/") or timm_nets.ARCHITECTURE in (arguments or {}):
        return None if arguments is None else dict(arguments)
    timm_nets.timm()
    repository = name.partition("/")[2]
    if repository.count("/") != 1:
        raise ValueError(f"net {name!r}: give hf/OWNER/NAME")
    return {**timm_nets.on_hub(repository), **(arguments or {})}


def build(
    name: str, num_classes: int, in_channels: int | None, arguments: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build a net by its full name, with fresh weights.

    Args:
        name: See :func:`full_name`.
        num_classes: Number of outputs of its head.
        in_channels: Number of image channels C; None: those that it has by default.
        arguments: Further arguments of the net, see :func:`resolved_arguments`.

    Raises:
        ModuleNotFoundError: The library is not installed.
        TypeError, ValueError: No such net, an argument that it does not have, or an invalid value.
    """
    library = name.partition("/")[0]
    if "num_classes" in (arguments or {}):
        raise TypeError("net_args has 'num_classes': give num_classes to the model")
    if library in ("timm", "hf"):
        return TimmNet(name, num_classes, in_channels or 3, arguments)
    if library == "torchvision":
        return TorchvisionNet(name, num_classes, in_channels or 3, arguments)
    if is_dotted(name):
        return _own(name, num_classes, in_channels, dict(arguments or {}))
    return _of_zoo(name, num_classes, in_channels, dict(arguments or {}))


def _own(name: str, num_classes: int, in_channels: int | None, arguments: dict[str, Any]) -> nn.Module:
    module, _, attribute = name.rpartition(".")
    try:
        cls = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"net {name!r} cannot be imported: {error}; a net by name is {FORMS}") from error
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ValueError(f"net {name!r} is no torch.nn.Module class, got {cls!r}: name a class")  # noqa: TRY004 (of a str)
    known = inspect.signature(cls).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for argument in arguments:
        if argument not in known and not anything:
            raise TypeError(f"net_args: {attribute} has no argument {argument!r}{suggest(argument, known)}")
    given = {"num_classes": num_classes} | ({} if in_channels is None else {"in_channels": in_channels})
    net: nn.Module = cls(**{**{key: value for key, value in given.items() if key in known}, **arguments})
    return net


def _of_zoo(name: str, num_classes: int, in_channels: int | None, arguments: dict[str, Any]) -> nn.Module:
    entry = registry.registered(name.partition("/")[2])
    known = [
        key for key in registry.net_arguments(entry.cls) if key != "net"
    ]  # of a model of a net by name: it has one
    for argument in arguments:
        if argument not in known:
            raise TypeError(f"net_args: {entry.name} has no argument {argument!r}{suggest(argument, known)}")
    if "num_classes" not in known:
        raise ValueError(f"net {name!r} is no classifier: `zoo models` lists those that are, such as resnet18")
    given: dict[str, Any] = {"num_classes": max(num_classes, 2)}
    if in_channels is not None and "in_channels" in known:
        given["in_channels"] = in_channels
    net: nn.Module = entry.cls(**{**entry.preset, **given, **arguments}).net
    if num_classes == 1 and hasattr(net, "reset_head"):
        net.reset_head(1)  # type: ignore[operator]
    return net


# Weights ------------------------------------------------------------------------------------------------------------


def num_classes(name: str) -> int:
    """Return the number of classes of a net's published weights; it is 1000 of those that have no head."""
    library, _, rest = name.partition("/")
    if library == "hf":
        return timm_nets.config_of(rest)[0].get("num_classes") or 1000
    if library == "timm":
        timm_nets.check_name(rest)
        return timm_nets.timm().get_pretrained_cfg(rest).num_classes or 1000
    return (
        1000
        if library == "torchvision"
        else registry.arguments_of(registry.registered(rest).cls)["num_classes"].default
    )


def list_weights(name: str) -> list[str]:
    """Return the names of the weights of a model or backbone, the default ones first, see :func:`zoo.create_model`."""
    library, slash, rest = name.partition("/")
    if library == "timm":
        timm_nets.check_name(rest)
        return [timm_nets.DEFAULT[0], *timm_nets.tags(rest)] if timm_nets.tags(rest) else []
    if library == "hf":
        return [timm_nets.DEFAULT[0]]
    return sources.list_weights(rest if slash and library in LIBRARIES else name)


def published(weights: str, name: str | None) -> bool:
    """Return whether weights of a model or backbone are known by name to torchvision or timm: neither bundled nor a file."""
    library, slash, rest = (name or "").partition("/")
    if library in ("timm", "hf") and slash:
        return weights in timm_nets.DEFAULT or weights in list_weights(name or "")
    return sources.torchvision_name(weights, rest if library in ("torchvision", "zoo") and slash else name) is not None


def find(weights: str, name: str | None, net: nn.Module | None = None) -> Weights:
    """Return weights, downloading them if necessary.

    Args:
        weights: See :func:`zoo.create_model`.
        name: Name of the model or backbone that they are for.
        net: The net itself, to which timm fits its weights; None: the net as the library builds it.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: See :func:`zoo.create.use_weights`.
    """
    if name is not None and name.startswith(("timm/", "hf/")) and net is None and published(weights, name):
        with building(untraced=True):
            net = build(name, num_classes(name), None, resolved_arguments(name, None))
    if isinstance(net, TimmNet) and published(weights, net.name):
        return net.pretrained(weights)
    library, slash, rest = (name or "").partition("/")
    return sources.find(weights, rest if library in ("torchvision", "zoo") and slash else name)
