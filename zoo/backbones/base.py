"""What the nets of other libraries offer in the zoo."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from zoo.blocks.classifier import check_images
from zoo.blocks.layers import layer_groups
from zoo.blocks.receptive_field import FeatureMap, on_meta


class Backbone(nn.Module):
    """A classifier of another library with the interface of the zoo's own: features, a head to replace, groups of layers.

    Its tensors are those of ``model``, by the names that the library gives them.

    Args:
        model: The net of the library.
        name: Its name, with that of the library, for messages.
        num_classes: Number of classes K.
        in_channels: Number of image channels C.
        image_size: Side of the images in pixels, of a net that takes no other; None: of any size.
    """

    def __init__(
        self, model: nn.Module, name: str, num_classes: int, in_channels: int, image_size: int | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.name, self.num_classes, self.in_channels = name, num_classes, in_channels
        self.fixed_size = image_size
        self.built_apart = _for_weights()
        self.head_name = f"model.{self.find_head()}"

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that it is built for."""
        return self.fixed_size or self.usual_size()

    def keep_draws(self) -> None:
        """Count the draws of a net as made, since some of its fresh values stay beside loaded weights: the next has others."""
        if self.built_apart:
            _next_seed()

    def usual_size(self) -> int:
        """Return the side in pixels of the images that the library trains the net on."""
        return 224

    def find_head(self) -> str:
        """Return the name of the last layer within ``model``."""
        raise TypeError(f"{type(self).__name__} does not name its head: define find_head")

    def reset_head(self, num_classes: int) -> None:
        """Replace the head with a new linear layer; 0: none, the net then gives its pooled features.

        Raises:
            ValueError: A negative number.
        """
        if num_classes < 0:
            raise ValueError(f"num_classes must be 0 (features) or more, got {num_classes}")
        self.replace_head(num_classes)
        self.num_classes = num_classes

    def replace_head(self, num_classes: int) -> None:
        """Replace the last layer of ``model``, see :meth:`reset_head`."""
        raise TypeError(f"{type(self).__name__} cannot replace its head: define replace_head")

    def layer_groups(self) -> list[list[str]]:
        """Return the layers by depth, see :func:`zoo.blocks.layer_groups`."""
        return [[f"model.{name}" for name in names] for names in layer_groups(self.model)]

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of the stages, finest first.

        Shape:
            ``(B, C, H, W)`` -> a list of ``(B, C_i, H / s_i, W / s_i)``, s_i the strides.

        Raises:
            ValueError: The library gives no maps of this net.
        """
        raise ValueError(f"{self.name} has no feature maps: take another net")

    def feature_maps(self) -> list[FeatureMap]:
        """Return channels and stride of each map of :meth:`features`; the receptive field is 0: not known.

        Raises:
            ValueError: The library gives no maps of this net.
        """
        return measured_maps(self, self.features, self.name, self.in_channels, self.image_size)

    def check(self, x: Tensor) -> None:
        """Refuse images that the net cannot take.

        Raises:
            ValueError: Another number of channels or another size; the message names the cure.
        """
        check_images(self.name, tuple(x.shape), self.in_channels, self.fixed_size)

    def forward(self, x: Tensor) -> Any:
        self.check(x)
        return self.model(x)


def measured_maps(
    net: nn.Module, features: Callable[[Tensor], Any], name: str, in_channels: int, side: int = 224
) -> list[FeatureMap]:
    """Return channels and stride of the maps that a function computes, from their sizes; the receptive field is 0: not known.

    Args:
        net: Module that holds all parameters that ``features`` uses.
        features: Maps an image to a list of maps.
        name: Name of the net, for messages.
        in_channels: Number of image channels C.
        side: Side in pixels of an image that it takes.

    Raises:
        ValueError: It cannot take the image, or gives something else.
    """
    dtype = next((p.dtype for p in net.parameters()), None)
    try:
        maps = on_meta(net, features, torch.empty(1, in_channels, side, side, device="meta", dtype=dtype))
    except RuntimeError as error:
        raise ValueError(f"{name} cannot take images of shape {(1, in_channels, side, side)}: {error}") from error
    if not isinstance(maps, list | tuple) or not all(isinstance(y, Tensor) and is_map(y) for y in maps) or not maps:
        raise ValueError(f"features of {name} must give a list of maps (B, C_i, H / s_i, W / s_i), finest first")
    return [FeatureMap(y.shape[1], stride_of(y, side), 0) for y in maps]


def is_map(y: Tensor) -> bool:
    """Return whether a tensor, computed from a square image, has the form of a feature map (B, C, h, h)."""
    return y.ndim == 4 and y.shape[2] == y.shape[3] > 0


def stride_of(y: Tensor, side: int) -> int:
    """Return the stride of a map of an image of this side: a power of two, whatever a net that does not pad cuts off."""
    return int(2 ** round(math.log2(side / y.shape[-1])))


def groups_of_modules(net: nn.Module, depths: Mapping[str, int]) -> list[list[str]]:
    """Return the largest modules whose parameters are all of one depth, by depth.

    A module without parameters (dropout, an activation) joins what stands before it.

    Args:
        net: The net.
        depths: Depth of every parameter by name.
    """
    groups: dict[int, list[str]] = {depth: [] for depth in sorted(set(depths.values()))}
    last = min(groups, default=0)

    def visit(prefix: str, module: nn.Module) -> None:
        nonlocal last
        for name, _ in module.named_parameters(recurse=False):
            last = depths[prefix + name]
            groups[last].append(prefix + name)
        for name, child in module.named_children():
            inside = {depths[f"{prefix}{name}.{key}"] for key, _ in child.named_parameters(remove_duplicate=False)}
            if len(inside) > 1:
                visit(f"{prefix}{name}.", child)
                continue
            last = _one(inside, last)
            groups[last].append(prefix + name)

    visit("", net)
    return [names for names in groups.values() if names]


def _one(values: Iterable[int], default: int) -> int:
    return next(iter(values), default)


@contextmanager
def building(untraced: bool = False) -> Iterator[None]:
    """Build a net of another library for real, with its own tensors, also where nets are built on the meta device.

    Such a net may have buffers that are in no state dict. There it gets its weights later, and leaves no random draw behind: its
    own are a function of the next one, see :meth:`Backbone.keep_draws`.

    Args:
        untraced: Whether no draw is left behind anywhere.
    """
    later = _for_weights()
    with torch.device("cpu") if later else nullcontext(), torch.random.fork_rng(devices=[], enabled=later or untraced):
        if later:
            torch.default_generator.manual_seed(_next_seed())
        yield


def _for_weights() -> bool:
    return torch.get_default_device().type == "meta"


def _next_seed() -> int:
    return int(torch.randint(2**62, (), device="cpu"))


def preparation(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """Return how image files are read, for :attr:`zoo.Model.preparation`, so that they become input as it was in training."""
    return {"center": preprocessing["crop"], "interpolation": preprocessing["interpolation"]}
