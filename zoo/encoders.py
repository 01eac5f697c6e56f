"""Nets as encoders of images: any classifier with feature maps, without what those do not depend on, by its name.

Segmentation takes all of its maps, captioning and transformers over maps one of them, as tokens: :class:`ImageEncoder`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from zoo import backbones
from zoo.backbones import Backbone
from zoo.blocks import ConvNet, FeatureMap, layer_groups
from zoo.blocks.classifier import check_images
from zoo.blocks.layers import parameters_of
from zoo.blocks.modes import evaluating
from zoo.blocks.receptive_field import meta_tensors, on_meta
from zoo.create import create_model
from zoo.model import Model, comes_from_file
from zoo.registry import check_arguments, get, is_registered_net, net_arguments
from zoo.spelling import suggest

_MOST_CELLS = 64  # of the map of the largest stride, up to which the smallest image is looked for


def title(net: nn.Module) -> str:
    """Return the name of a net for messages."""
    return net.name if isinstance(net, Backbone) else type(net).__name__


def maps_of(encoder: Any) -> list[FeatureMap]:
    """Remove the head of an encoder and return what its maps are, finest first."""
    if hasattr(encoder, "reset_head"):
        encoder.reset_head(0)
    if hasattr(encoder, "feature_maps"):
        return list(encoder.feature_maps())
    return backbones.measured_maps(encoder, encoder.features, title(encoder), encoder.in_channels)


class MapSizes(NamedTuple):
    """Sizes of maps of the smallest square image whose side is a multiple of the stride.

    Attributes:
        side: Side of the image in pixels.
        heights: Height of each map.
    """

    side: int
    heights: list[int]


class _Call(nn.Module):
    """A function of a net, as a module that holds it."""

    def __init__(self, net: nn.Module, function: Callable[[Tensor], list[Tensor]]) -> None:
        super().__init__()
        self.net, self.function = net, function

    @override
    def forward(self, x: Tensor) -> list[Tensor]:
        return self.function(x)


@torch.enable_grad()  # it is built where none are wanted, too
def drop_unused(net: Any, maps: Callable[[Tensor], list[Tensor]], stride: int) -> MapSizes:
    """Replace the layers that maps do not depend on by identities; the net is traced on the meta device, without computing.

    Layers without parameters are replaced too where their output leads to no map: behind an identity, an activation in place would
    change the map itself.

    Args:
        net: The net, which has ``in_channels``.
        maps: Computes the maps with it.
        stride: Largest stride of the maps, in pixels.

    Returns:
        The sizes of the maps of the smallest image, with a side of so many strides, that leaves one of each.

    Raises:
        ValueError: No image of up to 63 strides leaves one of each.
    """
    part = _Call(net, maps)
    tensors = meta_tensors(part)
    parameters = {name: tensors[name].requires_grad_() for name, _ in part.named_parameters()}
    dtype = next(iter(parameters.values())).dtype
    with evaluating(net, gradients=True), _outputs_of_leaves(net) as outputs:
        for cells in range(1, _MOST_CELLS):
            side = cells * stride
            outputs.clear()
            try:
                x = torch.empty(1, net.in_channels, side, side, device="meta", dtype=dtype)
                made = torch.func.functional_call(part, tensors, x)
            except (RuntimeError, ValueError):  # too small for it
                continue
            if all(y.numel() for y in made):
                break
        else:
            raise ValueError(f"{title(net)} has no maps for images of up to {side} pixels: it cannot be an encoder")
    gradients = torch.autograd.grad(
        sum(y.sum() for y in made), list(parameters.values()), allow_unused=True, retain_graph=True
    )
    used = {name.removeprefix("net.") for name, g in zip(parameters, gradients, strict=True) if g is not None}
    behind = {name for name, ys in outputs.items() if not _leads_to(made, ys)}
    _drop(net, used, behind)
    return MapSizes(side, [y.shape[-1] for y in made])


@contextmanager
def _outputs_of_leaves(net: nn.Module) -> Iterator[dict[str, list[Any]]]:
    """Collect what layers without parameters give, by their names."""
    outputs: dict[str, list[Any]] = {}

    def keep(name: str) -> Any:
        return lambda module, args, y: outputs.setdefault(name, []).append(y)

    plain = [(n, m) for n, m in net.named_modules() if n and not [*m.children()] and not [*m.parameters()]]
    hooks = [module.register_forward_hook(keep(name)) for name, module in plain]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _leads_to(maps: list[Tensor], outputs: list[Any]) -> bool:
    """Whether any of the outputs is needed for the maps; what has no history of operations may be."""
    nodes = {y.grad_fn if isinstance(y, Tensor) else None for y in outputs}
    reached, stack = set[Any](), [y.grad_fn for y in maps]
    while stack and None not in nodes and not nodes & reached:
        if (node := stack.pop()) is not None and node not in reached:
            reached.add(node)
            stack += [before for before, _ in node.next_functions]
    return None in nodes or bool(nodes & reached)


def _drop(net: nn.Module, used: set[str], behind: set[str], prefix: str = "") -> None:
    for name, child in net.named_children():
        path = f"{prefix}{name}"
        if next(child.parameters(), None) is None and not any(f"{n}.".startswith(f"{path}.") for n in behind):
            continue
        if any(key.startswith(f"{path}.") for key in used) or (path not in behind and not [*child.parameters()]):
            _drop(child, used, behind, f"{path}.")
        else:
            setattr(net, name, nn.Identity())


class ImageEncoder(nn.Module):
    """One map of a net, as tokens: a vector for each cell, row by row.

    Args:
        net: Net that computes the maps: it has ``in_channels`` and ``features``, which gives a list of maps, finest first. Its
            head, and all other layers that the map does not depend on, are removed, so that every parameter has a gradient.
        stage: Index of the map among them; -1: the last.

    Attributes:
        out_channels: Channels D of the map.
        stride: Stride of the map, in pixels.
        smallest: Smallest side of an image, in pixels.
        image_size: Side of the images, in pixels, of a net that takes no other.

    Shape:
        ``(B, C, H, W)`` -> ``(B, h w, D)``: of a map ``(B, D, h, w)`` the cells, row by row.

    Raises:
        ValueError: The net has no such map, or images that are too small or have another number of channels.

    Example:
        >>> from zoo.cnn import ResNet
        >>> encoder = ImageEncoder(ResNet(18, width=8), stage=-2)
        >>> image = torch.rand(2, 3, 64, 40)
        >>> encoder(image).shape, encoder.map_size(image)
        (torch.Size([2, 12, 32]), (4, 3))
    """

    channels_last: ClassVar[bool] = True  # in memory: what convolutions are fastest with
    net: Any
    image_size: int

    def __init__(self, net: nn.Module, stage: int = -1) -> None:
        super().__init__()
        maps = maps_of(net)
        if not -len(maps) <= stage < len(maps):
            raise ValueError(
                f"stage is the index of a map of {title(net)}, which has {len(maps)}, finest first: choose one of "
                f"{-len(maps)}..{len(maps) - 1}, got {stage}"
            )
        self.stage = stage % len(maps)
        self.out_channels, self.stride = maps[self.stage].channels, maps[self.stage].stride
        self.in_channels: int = net.in_channels  # type: ignore[assignment]
        self.net = net
        try:
            side = drop_unused(net, lambda x: [self.net.features(x)[self.stage]], self.stride).side
            self.smallest = self._smallest(side)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(
                f"{title(net)} does not give its map of stage {stage} alone: choose another; {error}"
            ) from error
        self._fixed = net.fixed_size if isinstance(net, Backbone) else None
        if self._fixed is not None:
            self.image_size = self.smallest = self._fixed

    def _smallest(self, most: int) -> int:
        """The smallest side of an image, up to one that is large enough."""
        least = max(0, most - self.stride)
        while most - least > 1:
            middle = (least + most) // 2
            try:
                enough = min(self._meta_map(middle, middle).shape[-2:]) > 0
            except (RuntimeError, ValueError, AssertionError):  # timm asserts that patches divide the image
                enough = False
            least, most = (least, middle) if enough else (middle, most)
        if self._meta_map(most, most).shape[1] != self.out_channels:
            raise ValueError(f"it has other channels than {self.out_channels}")
        return most

    def _meta_map(self, height: int, width: int) -> Tensor:
        dtype = next((p.dtype for p in self.net.parameters()), None)
        x = torch.empty(1, self.in_channels, height, width, device="meta", dtype=dtype)
        y: Tensor = on_meta(self.net, lambda x: self.net.features(x)[self.stage], x)
        return y

    def map_size(self, image: Tensor) -> tuple[int, int]:
        """Return height and width of the map of images ``(..., H, W)``; nothing is computed."""
        height, width = self._meta_map(*image.shape[-2:]).shape[-2:]
        return int(height), int(width)

    def feature_map(self, x: Tensor) -> Tensor:
        """Return the map itself.

        Shape:
            ``(B, C, H, W)`` -> ``(B, D, h, w)``.
        """
        check_images(title(self.net), tuple(x.shape), self.in_channels, self._fixed, self.smallest)
        y: Tensor = self.net.features(x)[self.stage]
        return y

    def layer_groups(self) -> list[list[str]]:
        """Return the layers of the net by depth."""
        groups = [names for names in layer_groups(self.net) if parameters_of(self.net, names)]
        return [[f"net.{name}" for name in names] for names in groups]

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.feature_map(x).flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, h w, D)


@dataclass(frozen=True)
class Encoder:
    """The net that a model has as its encoder of images.

    Attributes:
        net: The net.
        arguments: Its arguments, for the hyperparameters; of a net of the hub with what only the hub knows of it.
        source: The classifier that it is part of, which has the ``mean`` and ``std`` that belong to its weights; None where it has
            no weights.
    """

    net: nn.Module
    arguments: dict[str, Any] | None
    source: Model | None = None

    def complete(self, task: Model) -> None:
        """Complete the hyperparameters of a task, and copy the standardization of the weights, if any; a later fit keeps it."""
        task.hparams["encoder_args"] = self.arguments
        if self.source is not None and self.source.standardized:
            task.set_standardization(self.source.mean, self.source.std)


def build_encoder(
    cls: type[Model],
    name: str,
    arguments: dict[str, Any] | None,
    in_channels: int,
    weights: str | None,
    plain: type[ConvNet] | None = None,
    plain_args: Mapping[str, Any] | None = None,
) -> Encoder:
    """Build the net that a model has as its encoder of images.

    Args:
        cls: The class that asks for it.
        name: Name of a registered convolutional classifier, see ``zoo models``; of another net, see :mod:`zoo.backbones`; or
            "plain", where there is one.
        arguments: Arguments of its class, e.g. ``{"width": 32}``.
        in_channels: Number of channels C of the image.
        weights: Where the weights come from, see :func:`zoo.create_model`; None: fresh ones.
        plain: Class of the encoder "plain"; None: there is none.
        plain_args: Arguments of "plain", which ``arguments`` may override.

    Raises:
        TypeError, ValueError: There is no classifier of that name, it has no feature maps or no such argument, or the weights are
            not its own; or a checkpoint names a class to import.
    """
    given = arguments or {}
    if "in_channels" in given:
        raise TypeError("give in_channels to the model itself, not in encoder_args")
    if name == "plain" and plain is not None:
        if weights is not None:
            raise ValueError(f"the plain encoder has no weights of its own, got encoder_weights={weights!r}")
        check_arguments(plain, given)
        return Encoder(plain(**{"in_channels": in_channels, **(plain_args or {}), **given}), arguments)
    if weights is not None and torch.get_default_device().type == "meta":
        raise ValueError(f"weights contain those of the encoder: leave encoder_weights={weights!r} out, or weights")
    name = backbones.full_name(name)
    asked = backbones.beyond(name, arguments)
    if asked and comes_from_file("encoder") and not is_registered_net(cls, name, "encoder"):
        raise ValueError(
            f"the checkpoint asks for the encoder {name!r} to be {asked}, which no file may: "
            f"load_from_checkpoint(path, encoder={name!r}) if you trust it"
        )
    entry = get(name.removeprefix("zoo/"))
    if "net" in entry.preset:
        encoder = _by_name(entry.name, entry.preset, arguments, in_channels, weights)
    else:
        known = net_arguments(entry.cls)
        for argument in given:  # a file may give them, and a task's arguments import and open what they name
            if argument not in known:
                raise TypeError(
                    f"encoder_args of {entry.name} has {argument!r}{suggest(argument, known)}: it takes {', '.join(known)}"
                )
        channels = {"in_channels": in_channels} if "in_channels" in known else {}
        source = create_model(entry.name, weights, **given, **channels)
        encoder = Encoder(source.net, arguments, source)
    if not callable(getattr(encoder.net, "features", None)):
        raise ValueError(  # noqa: TRY004 (of the name, which is a str)
            f"encoder must be a convolutional classifier such as resnet34 or vgg16, or another net with features, and {entry.name} "
            "is none: it has no maps"
        )
    encoder.net.train()
    return encoder


def _by_name(
    name: str, preset: Mapping[str, Any], arguments: dict[str, Any] | None, in_channels: int, weights: str | None
) -> Encoder:
    """Build a net of another library, or a class of the user's own."""
    full = backbones.full_name(preset["net"])
    try:
        resolved = backbones.resolved_arguments(full, arguments)
        built = resolved if "net_args" not in preset else {**preset["net_args"], **(resolved or {})}
        if weights is not None:
            source = create_model(name, weights, net_args=built, in_channels=in_channels)
            return Encoder(source.net, resolved, source)
        net = backbones.build(full, 2, in_channels, built)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(str(error).replace("net_args", "encoder_args")) from error
    if not hasattr(net, "in_channels"):
        net.in_channels = in_channels  # type: ignore[assignment]
    return Encoder(net, resolved)
