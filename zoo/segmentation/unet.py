"""U-Net: Ronneberger et al. 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation", arXiv:1505.04597.

The encoder is that of the paper, any convolutional classifier of the zoo, or a net of another library. Deviations from the paper:
convolutions are padded, so that the output has the size of the input (the paper does not pad; it mirrors and tiles large images),
and followed by a batch norm, except for ``norm="none"``; transposed convolutions and the last layer are initialized by PyTorch's
default, not as in section 3.
"""

from itertools import pairwise
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn
from typing_extensions import override

from zoo.blocks import Activation, ConvNet, Norm, Style, build_dropout
from zoo.blocks.classifier import check_images
from zoo.cnn.resnet import initialize
from zoo.encoders import build_encoder, title
from zoo.registry import register
from zoo.segmentation.pyramid import EncoderDecoder
from zoo.tasks import SegmentationArguments, SegmentationTask

Skip = Literal["concat", "none"]
_LEAST = 16  # channels below which a stage without a map of the encoder does not halve them


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each with its norm and activation (fig. 1).

    Shape:
        ``(B, in_channels, H, W)`` -> ``(B, channels, H, W)``.
    """

    def __init__(self, in_channels: int, channels: int, style: Style) -> None:
        super().__init__()
        for i, before in enumerate((in_channels, channels), start=1):
            self.add_module(f"conv{i}", nn.Conv2d(before, channels, 3, padding=1, bias=style.bias))
            self.add_module(f"norm{i}", style.build_norm(channels))
            self.add_module(f"activation{i}", style.build_activation())


class UNetEncoder(ConvNet):
    """The contracting path of fig. 1: double convolutions with 2x2 max pooling between them; channels double as the size halves.

    Args:
        in_channels: Number of channels C of the image.
        width: Channels of the first map, 64 in the paper.
        depth: Number of poolings, 4 in the paper.
        norm, activation: See :class:`UNet`.

    Raises:
        ValueError: An argument out of its range.
    """

    def __init__(
        self,
        in_channels: int = 3,
        width: int = 64,
        depth: int = 4,
        norm: Norm = "batch",
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        for name, value in (("width", width), ("depth", depth)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        self.in_channels, self.num_features = in_channels, width * 2**depth
        widths = [in_channels, *(width * 2**i for i in range(depth + 1))]
        style = Style(norm, activation)
        self.stages = nn.ModuleList(DoubleConv(a, b, style) for a, b in pairwise(widths))
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Identity()
        initialize(self, "fan_in")  # section 3

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the maps of all stages, finest first: strides 1, 2, 4 ..."""
        check_images(self, x.shape, self.in_channels)
        maps: list[Tensor] = []
        for stage in self.stages:
            maps.append(stage(self.pool(maps[-1]) if maps else x))
        return maps


class Up(nn.Module):
    """A 2x2 transposed convolution, concatenation with the encoder's map of that size, a double convolution (fig. 1, right).

    Shape:
        ``(B, in_channels, h, w)`` and ``(B, skip_channels, 2h, 2w)`` -> ``(B, channels, 2h, 2w)``.
    """

    def __init__(self, in_channels: int, channels: int, skip_channels: int, style: Style) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, channels, 2, 2)
        self.convs = DoubleConv(channels + skip_channels, channels, style)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = self.up(x)
        return self.convs(x if skip is None else torch.cat([skip, x], dim=1))


class UNet(EncoderDecoder):
    """An encoder, and a decoder that doubles the size in each stage and takes the encoder's map of that size (fig. 1).

    A stage for whose size the encoder has no map does without one: ResNets, for example, have none of the size of the image.

    Args:
        encoder: Net that computes the maps, see :class:`EncoderDecoder`; its strides are powers of two.
        num_classes: Number of classes K.
        skip: "concat" as in the paper, or "none": the decoder takes the last map alone.
        norm: Normalization after each convolution of the decoder: "batch", "layer", "group", "instance", or "none" as in the paper.
        activation: "relu" as in the paper, or another name of :func:`zoo.blocks.build_activation` except "maxout".
        dropout: Probability in [0, 1) of dropping a value of the last map.

    Shape:
        ``(B, C, H, W)``, with sides of at least the encoder's largest stride -> logits ``(B, K, H, W)``.

    Raises:
        ValueError: An argument out of its range, or images that are too small or have another number of channels.
    """

    head_name = "head"

    def __init__(
        self,
        encoder: nn.Module,
        num_classes: int = 2,
        skip: Skip = "concat",
        norm: Norm = "batch",
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(encoder)
        if skip not in ("concat", "none"):
            raise ValueError(f"skip must be 'concat' or 'none', got {skip!r}")
        style = Style(norm, activation)
        if len(self.maps) == 1:
            raise ValueError(
                f"U-Net needs maps of several strides, and {title(encoder)} has one, {self.stride}: take an encoder with "
                "stages, such as resnet34 or timm/convnext_atto, or an FCN with variant='32s'"
            )
        self.skip = skip
        self.dropout = build_dropout(dropout)
        channels, stride = self.maps[-1].channels, self.stride
        finer = {m.stride: m.channels for m in self.maps}
        self.stages = nn.ModuleList()
        while stride > 1:
            if stride % 2:
                raise ValueError(f"U-Net doubles sizes, and {title(encoder)} has stride {self.stride}")
            stride //= 2
            out = finer.get(stride, max(channels // 2, min(channels, _LEAST)))
            self.stages.append(Up(channels, out, finer.get(stride, 0) if skip == "concat" else 0, style))
            channels = out
        initialize(self.stages, "fan_in")  # section 3
        self.head = nn.Conv2d(channels, num_classes, 1)

    @override
    def decode(self, maps: list[Tensor]) -> Tensor:
        x = self.dropout(maps[-1])
        skips = {m.stride: y for m, y in zip(self.maps, maps, strict=True)} if self.skip == "concat" else {}
        for i, stage in enumerate(self.stages, start=1):
            x = stage(x, skips.get(self.stride >> i))
        return self.head(x)

    @override
    def decoder_groups(self) -> list[list[str]]:
        return [*([f"stages.{i}"] for i in range(len(self.stages))), ["head"]]


class UNetSegmenter(SegmentationTask):
    """A :class:`UNet` trained to segment. Arguments: those below, then ``**task`` of :class:`zoo.SegmentationTask`.

    Args:
        encoder: "plain", that of the paper (:class:`UNetEncoder`); the name of a convolutional classifier, see ``zoo models``;
            "timm/convnext_atto", "torchvision/resnet18", "hf/OWNER/NAME" (of timm, on the Hugging Face hub); or your own class
            "package.module.Class", whose ``features`` gives a list of maps (B, C_i, H / s_i, W / s_i), finest first.
        encoder_args: Arguments of its class, e.g. ``{"width": 32}``; of "plain": width, depth, norm, activation.
        encoder_weights: Where the encoder's weights come from, see :func:`zoo.create_model`: "pretrained", a name, a path.
            Their standardization is used, too. Like ``weights`` it is no hyperparameter.
        skip: "concat" or "none", see :class:`UNet`.
        num_classes: Number of classes K.
        in_channels: Number of channels C of the image.
        norm, activation, dropout: See :class:`UNet`.
    """

    weight_sources = ("weights", "encoder_weights")
    filled_arguments = ("encoder_args",)

    def __init__(
        self,
        encoder: str = "plain",
        encoder_args: dict[str, Any] | None = None,
        encoder_weights: str | None = None,
        skip: Skip = "concat",
        num_classes: int = 2,
        in_channels: int = 3,
        norm: Norm = "batch",
        activation: Activation = "relu",
        dropout: float = 0.0,
        **task: Unpack[SegmentationArguments],
    ) -> None:
        built = build_encoder(
            type(self),
            encoder,
            encoder_args,
            in_channels,
            encoder_weights,
            plain=UNetEncoder,
            plain_args={"norm": norm, "activation": activation},
        )
        super().__init__(
            UNet(
                encoder=built.net, num_classes=num_classes, skip=skip, norm=norm, activation=activation, dropout=dropout
            ),
            num_classes,
            **task,
        )
        built.complete(self)


register("unet", UNetSegmenter)
register("unet_noskip", UNetSegmenter, skip="none")
for _encoder in ("resnet34", "vgg16"):
    register(f"unet_{_encoder}", UNetSegmenter, encoder=_encoder)
