"""What FCN and U-Net share: a classifier with feature maps as an encoder, and its maps aligned with images of any size."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from zoo import backbones
from zoo.backbones import Backbone
from zoo.blocks import ConvNet, FeatureMap, layer_groups
from zoo.blocks.classifier import check_images
from zoo.blocks.convnet import slide
from zoo.blocks.layers import parameters_of
from zoo.blocks.modes import evaluating
from zoo.blocks.receptive_field import meta_tensors
from zoo.create import create_model
from zoo.model import Model, comes_from_file
from zoo.registry import check_arguments, get, is_registered_net, net_arguments
from zoo.spelling import suggest


class EncoderDecoder(nn.Module):
    """A net with an output for each pixel: an encoder computes coarser and coarser maps, :meth:`decode` returns to the pixels.

    Images of any size are padded by reflection, at the right and at the bottom, to a multiple of the encoder's largest stride, and
    the output is cropped to the size of the input. Maps that are smaller than their grid, because the encoder does not pad its
    convolutions, are padded with zeros on all sides.

    A subclass defines :meth:`decode` and :meth:`decoder_groups`.

    Args:
        encoder: Net that computes the maps: it has ``in_channels`` and ``features``, which gives a list of maps, finest first. Its
            head, and all other layers that the maps do not depend on, are removed, so that every parameter has a gradient.
        dense: Whether to keep the hidden dense layers of an encoder that is a :class:`zoo.blocks.ConvNet`.

    Attributes:
        maps: Channels, stride and receptive field of the maps that :meth:`decode` takes, one for each stride, finest first.
        stride: Largest stride.
        smallest: Smallest side of an image, in pixels.
        image_size: Side of the images, in pixels, of an encoder that takes no other.

    Shape:
        ``(B, C, H, W)``, with sides of at least the largest stride -> ``(B, K, H, W)``.

    Raises:
        ValueError: Images that are too small or have another number of channels.
    """

    channels_last: ClassVar[bool] = True  # in memory: what convolutions are fastest with
    encoder: Any
    image_size: int

    def __init__(self, encoder: nn.Module, dense: bool = False) -> None:
        super().__init__()
        maps = _maps(encoder)
        strides = sorted({m.stride for m in maps})
        deepest = {m.stride: i for i, m in enumerate(maps)}  # index of the deepest map of each stride
        self._indices = [deepest[stride] for stride in strides]
        self.maps: list[FeatureMap] = [maps[i] for i in self._indices]
        self.stride = strides[-1]
        self.in_channels: int = encoder.in_channels  # type: ignore[assignment]
        self.smallest, missing = _prune(encoder, [m.stride for m in maps], dense)
        if isinstance(encoder, Backbone) and encoder.fixed_size is not None:
            self.image_size = self.smallest = encoder.fixed_size
        self._missing = [missing[i] for i in self._indices]
        self.encoder = encoder

    def decode(self, maps: list[Tensor]) -> Tensor:
        """Return the output for maps on their grids.

        Shape:
            ``(B, C_i, H / s_i, W / s_i)`` for each stride s_i, finest first -> ``(B, K, H, W)``.
        """
        raise TypeError(f"{type(self).__name__} has no decoder: define decode")

    def decoder_groups(self) -> list[list[str]]:
        """Return the names of the modules behind the encoder in groups, by depth, the head last."""
        raise TypeError(f"{type(self).__name__} does not name the layers of its decoder: define decoder_groups")

    def layer_groups(self) -> list[list[str]]:
        """Return the layers of the encoder by depth, then those of the decoder, the head last."""
        groups = [names for names in layer_groups(self.encoder) if parameters_of(self.encoder, names)]
        return [*([f"encoder.{name}" for name in names] for names in groups), *self.decoder_groups()]

    @override
    def forward(self, x: Tensor) -> Tensor:
        check_images(self, x.shape, self.in_channels, smallest=self.smallest)
        height, width = x.shape[2:]
        down, right = -height % self.stride, -width % self.stride
        if torch.compiler.is_exporting() or down or right:  # an exported graph has no branches: it pads any size
            x = F.pad(x, (0, right, 0, down), mode="reflect")
        features = self.encoder.features(x)
        maps = [_to_grid(features[i], missing) for i, missing in zip(self._indices, self._missing, strict=True)]
        y = self.decode(maps)
        if torch.compiler.is_exporting():  # of a view torch asks whether it is contiguous, which depends on the size
            rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
            return y.index_select(2, rows).index_select(3, columns)
        return y[:, :, :height, :width]


def _to_grid(x: Tensor, missing: int) -> Tensor:
    """Center a map on its grid, which has so many cells more than the map on each axis: pad it with zeros, or crop it."""
    before, behind = missing // 2, missing - missing // 2
    return F.pad(x, (before, behind, before, behind)) if missing else x


def title(net: nn.Module) -> str:
    """Return the name of a net for messages."""
    return net.name if isinstance(net, Backbone) else type(net).__name__


def _maps(encoder: Any) -> list[FeatureMap]:
    """Remove the head of an encoder and return what its maps are."""
    if hasattr(encoder, "reset_head"):
        encoder.reset_head(0)
    if hasattr(encoder, "feature_maps"):
        return list(encoder.feature_maps())
    return backbones.measured_maps(encoder, encoder.features, title(encoder), encoder.in_channels)


class _Trace(nn.Module):
    """The part of an encoder that a decoder uses, as a module."""

    def __init__(self, net: Any, dense: bool) -> None:
        super().__init__()
        self.net, self.dense = net, dense

    @override
    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.net.features(x)
        return [*maps, slide(self.net, maps[-1], pad=True)] if self.dense else maps


def _prune(net: Any, strides: list[int], dense: bool) -> tuple[int, list[int]]:
    """Replace the layers that the maps do not depend on by identities; the net is traced on the meta device, without computing.

    Returns:
        The smallest side of an image in pixels: one that leaves a map of each stride. And how many cells each map lacks on an
        axis of its grid, which has one for each of its strides; images are multiples of the largest, so it does not depend on them.
    """
    part, stride = _Trace(net, dense), max(strides)
    tensors = meta_tensors(part)
    parameters = {name: tensors[name].requires_grad_() for name, _ in part.named_parameters()}
    dtype = next(iter(parameters.values())).dtype
    with evaluating(net, gradients=True):
        for cells in range(1, 64):
            side = cells * stride
            try:
                x = torch.empty(1, net.in_channels, side, side, device="meta", dtype=dtype)
                maps = torch.func.functional_call(part, tensors, x)
            except (RuntimeError, ValueError):  # too small for it
                continue
            if all(y.numel() for y in maps):
                break
        else:
            raise ValueError(f"{title(net)} has no maps for images of up to {side} pixels: it cannot be an encoder")
    gradients = torch.autograd.grad(sum(y.sum() for y in maps), list(parameters.values()), allow_unused=True)
    used = {name.removeprefix("net.") for name, g in zip(parameters, gradients, strict=True) if g is not None}
    _drop_unused(net, used)
    missing = [
        side // step - y.shape[-1] for step, y in zip(strides, maps, strict=False)
    ]  # maps may end in a dense one
    return stride if cells == 1 else side - stride + 1, missing


def _drop_unused(net: nn.Module, used: set[str], prefix: str = "") -> None:
    for name, child in net.named_children():
        path = f"{prefix}{name}"
        if next(child.parameters(), None) is None:
            continue
        if any(key.startswith(f"{path}.") for key in used):
            _drop_unused(child, used, f"{path}.")
        else:
            setattr(net, name, nn.Identity())


@dataclass(frozen=True)
class Encoder:
    """The net that an encoder-decoder has as its encoder.

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
    """Build the net that an encoder-decoder has as its encoder.

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
