"""FCN: Long, Shelhamer and Darrell 2015, "Fully Convolutional Networks for Semantic Segmentation", arXiv:1411.4038.

The encoder is any convolutional classifier of the zoo, VGG-16 by default, or a net of another library. Deviations from the paper:
dense layers that become convolutions are padded so that a map keeps its size (the paper pads the image by 100 pixels and crops its
maps to fit); the final, fixed bilinear upsampling repeats the values at the border, where a transposed convolution would fade to
zero; each of the three variants is trained from the encoder, not from the coarser variant.
"""

from itertools import pairwise
from typing import Any, Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from zoo.blocks import ConvNet
from zoo.blocks.convnet import slide
from zoo.encoders import build_encoder, title
from zoo.registry import register
from zoo.segmentation.pyramid import EncoderDecoder
from zoo.tasks import SegmentationArguments, SegmentationTask

Variant = Literal["32s", "16s", "8s"]
FINER = {"32s": 0, "16s": 1, "8s": 2}  # fig. 3: number of finer maps that are combined with the last one


class Score(nn.Conv2d):
    """A 1x1 convolution to the class scores, initialized with zeros (section 4.2).

    Shape:
        ``(B, in_channels, h, w)`` -> ``(B, num_classes, h, w)``.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes, 1)

    @override
    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Upsampling(nn.ConvTranspose2d):
    """A learned transposed convolution, initialized as bilinear interpolation of each channel (sections 3.3 and 4.2).

    Shape:
        ``(B, channels, h, w)`` -> ``(B, channels, factor * h, factor * w)``.

    Example:
        >>> Upsampling(1, 2)(torch.tensor([[[[0.0, 4.0], [0.0, 4.0]]]]))[0, 0, 1].tolist()
        [0.0, 1.0, 3.0, 3.0]
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__(channels, channels, 2 * factor - factor % 2, factor, padding=factor // 2, bias=False)

    @override
    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        side, factor = self.kernel_size[0], self.stride[0]
        places = torch.arange(side, dtype=self.weight.dtype, device=self.weight.device)
        hat = 1 - (places - (side - 1) / 2).abs() / factor
        with torch.no_grad():
            self.weight.diagonal().copy_(torch.outer(hat, hat).unsqueeze(-1).expand(-1, -1, len(self.weight)))


class FCN(EncoderDecoder):
    """Class scores at each place of the last map, combined with those of finer maps, then bilinearly upsampled (fig. 3).

    The hidden dense layers of the encoder (fc6 and fc7 of VGG) become convolutions over its last map; of a net of another library
    there are none. The names 32s, 16s and 8s are those of an encoder whose last map has stride 32.

    Args:
        encoder: Classifier that gives the maps and the dense layers, see :class:`EncoderDecoder`.
        num_classes: Number of classes K.
        variant: "32s" (the last map alone), "16s" (and the next finer one) or "8s" (and one more).

    Shape:
        ``(B, C, H, W)``, with sides of at least the encoder's largest stride -> logits ``(B, K, H, W)``.

    Raises:
        ValueError: An unknown variant, an encoder with too few maps, or images that are too small or have another number of
            channels.
    """

    head_name = "score"

    def __init__(self, encoder: nn.Module, num_classes: int = 21, variant: Variant = "8s") -> None:
        dense = isinstance(encoder, ConvNet)
        super().__init__(encoder, dense)
        if variant not in FINER:
            raise ValueError(f"variant must be '32s', '16s' or '8s', got {variant!r}")
        if len(self.maps) <= FINER[variant]:
            raise ValueError(
                f"FCN-{variant} combines {FINER[variant] + 1} maps, and {title(encoder)} has {len(self.maps)}: choose "
                "another variant or encoder"
            )
        combined = self.maps[::-1][: FINER[variant] + 1]  # coarsest first
        self.dense = dense
        self.score = Score(encoder.num_features if isinstance(encoder, ConvNet) else combined[0].channels, num_classes)
        self.finer_scores = nn.ModuleList(Score(m.channels, num_classes) for m in combined[1:])
        factors = [a.stride // b.stride for a, b in pairwise(combined)]
        self.upsamplings = nn.ModuleList(Upsampling(num_classes, factor) for factor in factors)
        self.output_stride = combined[-1].stride

    @override
    def decode(self, maps: list[Tensor]) -> Tensor:
        x = self.score(slide(self.encoder, maps[-1], pad=True) if self.dense else maps[-1])
        for upsampling, score, finer in zip(self.upsamplings, self.finer_scores, maps[-2::-1], strict=False):
            x = upsampling(x) + score(finer)
        return F.interpolate(x, scale_factor=float(self.output_stride), mode="bilinear")

    @override
    def decoder_groups(self) -> list[list[str]]:
        return [["finer_scores", "upsamplings", "score"]]


class FCNSegmenter(SegmentationTask):
    """An :class:`FCN` trained to segment. Arguments: those below, then ``**task`` of :class:`zoo.SegmentationTask`.

    Args:
        encoder: Name of a convolutional classifier, see ``zoo models``, or of another net, see :class:`zoo.UNetSegmenter`.
        encoder_args: Arguments of its class, e.g. ``{"width": 32}``.
        encoder_weights: Where the encoder's weights come from, see :func:`zoo.create_model`: "pretrained", a name, a path.
            Their standardization is used, too. Like ``weights`` it is no hyperparameter.
        variant: "32s", "16s" or "8s", see :class:`FCN`.
        num_classes: Number of classes K.
        in_channels: Number of channels C of the image.
    """

    weight_sources = ("weights", "encoder_weights")
    filled_arguments = ("encoder_args",)

    def __init__(
        self,
        encoder: str = "vgg16",
        encoder_args: dict[str, Any] | None = None,
        encoder_weights: str | None = None,
        variant: Variant = "8s",
        num_classes: int = 21,
        in_channels: int = 3,
        **task: Unpack[SegmentationArguments],
    ) -> None:
        built = build_encoder(type(self), encoder, encoder_args, in_channels, encoder_weights)
        super().__init__(FCN(encoder=built.net, num_classes=num_classes, variant=variant), num_classes, **task)
        built.complete(self)


for _variant in FINER:
    register(f"fcn{_variant}_vgg16", FCNSegmenter, encoder="vgg16", variant=_variant)
register("fcn8s_resnet50", FCNSegmenter, encoder="resnet50", variant="8s")
