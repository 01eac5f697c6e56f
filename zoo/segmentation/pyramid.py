"""What FCN and U-Net share: a classifier with feature maps as an encoder, and its maps aligned with images of any size."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from zoo.backbones import Backbone
from zoo.blocks import FeatureMap, layer_groups
from zoo.blocks.classifier import check_images
from zoo.blocks.convnet import slide
from zoo.blocks.layers import parameters_of
from zoo.encoders import drop_unused, maps_of


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
        maps = maps_of(encoder)
        strides = sorted({m.stride for m in maps})
        deepest = {m.stride: i for i, m in enumerate(maps)}  # index of the deepest map of each stride
        self._indices = [deepest[stride] for stride in strides]
        self.maps: list[FeatureMap] = [maps[i] for i in self._indices]
        self.stride = strides[-1]
        self.in_channels: int = encoder.in_channels  # type: ignore[assignment]

        net: Any = encoder

        def used(x: Tensor) -> list[Tensor]:
            y: list[Tensor] = net.features(x)
            return [*y, slide(net, y[-1], pad=True)] if dense else y

        shapes = drop_unused(net, used, self.stride)
        side = shapes.side
        self.smallest = side if side == self.stride else side - self.stride + 1  # smaller images are padded to the side
        missing = [side // m.stride - height for m, height in zip(maps, shapes.heights, strict=False)]  # of the grid
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
