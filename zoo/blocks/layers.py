"""Layer groups of a net, from input to output: the units of freezing and of layer-wise learning rates."""

import re

from torch import nn

from zoo.internals import NORMS

JOINS = (*NORMS, nn.PReLU)  # modules that belong to the layer before them
_DOMINANT = 0.9  # share of the net's parameters from which on a container is opened


def layer_groups(net: nn.Module) -> list[list[str]]:
    """Return the modules of a net by depth, input first; the last group is the head.

    A group is a layer, block or stage with parameters, and what follows it without any (norms join the layer before them). A
    sequence of single layers, such as VGG's ``features``, is opened, and so are a ModuleList and a sequence that holds nine
    tenths of all parameters, such as the blocks of a vision transformer; another sequence of blocks, such as ResNet's
    ``layer1``, is one group. A recurrent module of several layers (``nn.LSTM(num_layers=2)``) is one group a layer. A parameter
    that several groups share counts for the last of them. A net whose parts are not registered in order defines its own
    ``layer_groups()``.

    Returns:
        Names of modules or parameters, relative to the net.

    Raises:
        ValueError: The net's own groups leave out a parameter, or name one twice.

    Example:
        >>> layer_groups(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)))
        [['0', '1', '2', '3'], ['4']]
    """
    own = getattr(net, "layer_groups", None)
    if own is None:
        return _by_order(net)
    groups: list[list[str]] = own()
    named = [name for names in groups for name in names]
    covered = {id(p) for names in groups for p in parameters_of(net, names)}
    if covered != {id(p) for p in net.parameters()} or len(set(named)) != len(named) or _nested(named):
        raise ValueError(f"layer_groups() of {type(net).__name__} must name every parameter once, got {groups}")
    return groups


def _nested(names: list[str]) -> bool:
    """Return whether one of the modules lies inside another."""
    return any(a != b and b.startswith(f"{a}.") for a in names for b in names)


def _by_order(net: nn.Module) -> list[list[str]]:
    groups: list[list[str]] = [[name for name, _ in net.named_parameters(recurse=False)]]
    filled = False  # whether the last group has a layer
    for name, child in _parts(net):
        if isinstance(child, nn.RNNBase) and child.num_layers > 1:
            layers = _layers_of(name, child)
            groups += layers if filled else [groups.pop() + layers[0], *layers[1:]]
            filled = True
            continue
        if next(child.parameters(), None) is not None and not isinstance(child, JOINS):
            if filled:
                groups.append([])
            filled = True
        groups[-1].append(name)
    return groups


def parameters_of(net: nn.Module, names: list[str]) -> list[nn.Parameter]:
    """Return the parameters of a group of :func:`layer_groups`."""
    parameters: list[nn.Parameter] = []
    for name in names:
        part = _part(net, name)
        parameters += [part] if isinstance(part, nn.Parameter) else part.parameters()
    return parameters


def modules_of(net: nn.Module, names: list[str]) -> list[nn.Module]:
    """Return the modules of one or more groups of :func:`layer_groups`.

    A recurrent module whose layers are several groups belongs to them once all of its parameters do.
    """
    parts = [_part(net, name) for name in names]
    named = {id(part) for part in parts if isinstance(part, nn.Parameter)}
    stacks = [m for m in net.modules() if isinstance(m, nn.RNNBase) and named.issuperset(map(id, m.parameters()))]
    return [*(part for part in parts if isinstance(part, nn.Module)), *stacks]


def _part(net: nn.Module, name: str) -> nn.Module | nn.Parameter:
    parent, _, last = name.rpartition(".")
    return getattr(net.get_submodule(parent), last)


def _layers_of(name: str, net: nn.RNNBase) -> list[list[str]]:
    """Return the parameters of each layer of a recurrent module: their names end in ``_l<layer>`` or ``_l<layer>_reverse``."""
    layers: list[list[str]] = [[] for _ in range(net.num_layers)]
    for key, _ in net.named_parameters():
        match = re.search(r"_l(\d+)(_reverse)?(?=\.|$)", key)  # a dot: the parts of a parametrized weight
        layers[int(match[1]) if match else 0].append(f"{name}.{key}")
    return layers


def _parts(net: nn.Module, prefix: str = "", total: int | None = None) -> list[tuple[str, nn.Module]]:
    """Return the children in order; containers of layers are replaced by theirs."""
    total = sum(p.numel() for p in net.parameters()) if total is None else total
    parts = []
    for name, child in net.named_children():
        path = f"{prefix}{name}"
        inner = list(child.children())
        opened = isinstance(child, nn.ModuleList) or (isinstance(child, nn.Sequential) and any(map(_is_layer, inner)))
        if opened:
            parts += [(f"{path}.{key}", part) for key, part in child.named_children()]
        elif _holds_nearly_all(child, total):
            parts += _parts(child, f"{path}.", total)
        else:
            parts.append((path, child))
    return parts


def _holds_nearly_all(module: nn.Module, total: int) -> bool:
    """Return whether a sequence has several parts, no parameters of its own, and nearly all parameters of the net."""
    parts = [child for child in module.children() if next(child.parameters(), None) is not None]
    if len(parts) < 2 or next(module.parameters(recurse=False), None) is not None:
        return False
    return isinstance(module, nn.Sequential) and sum(p.numel() for p in module.parameters()) >= _DOMINANT * total


def _is_layer(module: nn.Module) -> bool:
    return not list(module.children()) and next(module.parameters(), None) is not None
