"""A net as layers from the input to the output: what freezing and layer-wise rates are told in."""

from torch import nn

JOINS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.PReLU)  # the layer before them


def layer_groups(net: nn.Module) -> list[list[str]]:
    """The modules of a net by depth, input first; the last group is the head.

    A group is a layer, block or stage with parameters, and what follows it without any (norms join the layer before them). A
    sequence of single layers, such as VGG's ``features``, is opened, and so is a ModuleList; a sequence of blocks, such as
    ResNet's ``layer1``, is a group. A net whose parts do not stand in their order tells its groups in its own ``layer_groups()``.

    Returns:
        Names of modules or parameters, relative to the net.

    Raises:
        ValueError: the net's own groups leave a parameter out, or name one twice.

    Example:
        >>> layer_groups(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)))
        [['0', '1', '2', '3'], ['4']]
    """
    own = getattr(net, "layer_groups", None)
    if own is None:
        return _by_order(net)
    groups: list[list[str]] = own()
    told = [id(p) for names in groups for p in parameters_of(net, names)]
    if sorted(told) != sorted(id(p) for p in net.parameters()):
        raise ValueError(f"layer_groups() of {type(net).__name__} must name every parameter once")
    return groups


def _by_order(net: nn.Module) -> list[list[str]]:
    groups: list[list[str]] = [[name for name, _ in net.named_parameters(recurse=False)]]
    filled = False  # whether the last group has a layer
    for name, child in _parts(net):
        if next(child.parameters(), None) is not None and not isinstance(child, JOINS):
            if filled:
                groups.append([])
            filled = True
        groups[-1].append(name)
    return groups


def parameters_of(net: nn.Module, names: list[str]) -> list[nn.Parameter]:
    """The parameters of a group of :func:`layer_groups`."""
    found: list[nn.Parameter] = []
    for name in names:
        part = _part(net, name)
        found += [part] if isinstance(part, nn.Parameter) else part.parameters()
    return found


def modules_of(net: nn.Module, names: list[str]) -> list[nn.Module]:
    """The modules of a group of :func:`layer_groups`."""
    return [part for name in names if isinstance(part := _part(net, name), nn.Module)]


def _part(net: nn.Module, name: str) -> nn.Module | nn.Parameter:
    parent, _, last = name.rpartition(".")
    return getattr(net.get_submodule(parent), last)


def _parts(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """Children in order, sequences of single layers opened."""
    parts = []
    for name, child in net.named_children():
        inner = list(child.named_children())
        layers = isinstance(child, nn.Sequential) and any(_is_layer(c) for _, c in inner)
        if layers or isinstance(child, nn.ModuleList):
            parts += [(f"{name}.{k}", c) for k, c in inner]
        else:
            parts.append((name, child))
    return parts


def _is_layer(module: nn.Module) -> bool:
    return not list(module.children()) and next(module.parameters(), None) is not None
