"""The weights of layers that callbacks act on: those of linear, convolutional, recurrent and attention layers."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
ATTENTION = (
    "in_proj_weight",
    "q_proj_weight",
    "k_proj_weight",
    "v_proj_weight",
)  # of nn.MultiheadAttention and its like


def check_layers(layers: Sequence[str] | None) -> list[str] | None:
    """Return names of layers as a list; None stands for all layers.

    Raises:
        TypeError: They are no list of names.
        ValueError: The list is empty.
    """
    if layers is None:
        return None
    if isinstance(layers, str) or not all(isinstance(layer, str) for layer in layers):
        raise TypeError(f"layers must be a list of names, such as ['fc1'], got {layers!r}")
    if not layers:
        raise ValueError("layers names none: leave it out for all layers")
    return list(layers)


def named_parts(module: LightningModule, layers: Sequence[str] | None, callback: str) -> list[nn.Module]:
    """Return the parts of a module, or of its ``net``, that have these names; None: the module itself.

    Args:
        module: The module.
        layers: Names as ``named_modules()`` has them, "net." in front left out at will.
        callback: Name of the callback, for messages.

    Raises:
        ValueError: There is no such part.
    """
    return [module] if layers is None else [_named(module, layer, callback) for layer in layers]


def layer_weights(
    module: LightningModule, layers: Sequence[str] | None, callback: str
) -> list[tuple[nn.Module, Tensor]]:
    """Return the weights of layers, each once with the first layer that has it.

    Left out are weights that are tied to an embedding, and those that a parametrization computes, which are no parameters.

    Args:
        module: The module.
        layers: Names of layers, or of parts that hold some, see :func:`named_parts`; None: all layers.
        callback: Name of the callback, for messages.

    Raises:
        ValueError: There is no such layer, or there are no such weights.
    """
    parts = named_parts(module, layers, callback)
    for name, part in zip(layers or (), parts, strict=False):
        if not _has_weights(part):
            raise ValueError(
                f"{callback}: layer {name!r} of {type(module).__name__}, a {type(part).__name__}, has no weights of units: "
                "name linear, convolutional, recurrent or attention layers"
            )
    embeddings = {
        id(weight) for layer in module.modules() if isinstance(layer, nn.Embedding) for weight in layer.parameters()
    }
    found: dict[int, tuple[nn.Module, Tensor]] = {}
    for part in parts:
        for layer, weight in _weights(part):
            if id(weight) not in embeddings:
                found.setdefault(id(weight), (layer, weight))
    if not found:
        raise ValueError(
            f"{callback}: {type(module).__name__} has no linear, convolutional, recurrent or attention layer with weights of its "
            f"own: leave {callback} out"
        )
    return list(found.values())


def computed_weights(part: nn.Module) -> list[str]:
    """Return the names of the weights of such layers that are computed from others (weight or spectral norm) at each use."""
    found = []
    for prefix, layer in part.named_modules():
        parametrizations: Any = getattr(layer, "parametrizations", {})
        own = {name for name, _ in layer.named_parameters(recurse=False)}
        computed = {name for name in parametrizations if _is_weight(layer, name)}
        if isinstance(layer, LAYERS) and "weight" not in own:  # also the older hooks, which replace the parameter
            computed.add("weight")
        found += [f"{prefix}.{name}".lstrip(".") for name in sorted(computed)]
    return found


def _named(module: LightningModule, name: str, callback: str) -> nn.Module:
    owners = [owner for owner in (getattr(module, "net", None), module) if isinstance(owner, nn.Module)]
    for owner in owners:
        if (part := dict(owner.named_modules(remove_duplicate=False)).get(name)) is not None:
            return part
    known = [known for known, part in owners[0].named_modules() if known and _has_weights(part)]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f", did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"{callback}: {type(module).__name__} has no layer {name!r}{hint}; those with weights are {', '.join(known[:5])}"
        f"{' ...' if len(known) > 5 else ''}"
    )


def _has_weights(part: nn.Module) -> bool:
    return next(_weights(part), None) is not None


def _weights(part: nn.Module) -> Iterator[tuple[nn.Module, Tensor]]:
    for layer in part.modules():
        for name, weight in layer.named_parameters(recurse=False):
            if _is_weight(layer, name):
                yield layer, weight


def _is_weight(layer: nn.Module, name: str) -> bool:
    of_layer = isinstance(layer, LAYERS) and name == "weight"
    of_cell = isinstance(layer, RECURRENT) and name.startswith("weight_")
    return of_layer or of_cell or name in ATTENTION
