"""ViT hybrid: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", arXiv:2010.11929, section 3.1, "Hybrid Architecture".

The tokens of a transformer are the cells of a convolutional net's feature map, each projected to the width.

Deviations from the paper: the convolutional net is any of the zoo's or of another library, where the paper has a ResNet with group
norm and standardized weights; the class token, a learned vector itself, has no position; positions may be sinusoidal, for images of
any size; the classifier may read the mean of the tokens; the head is one linear layer, as in the paper's fine-tuning (section 3.2).
"""

import math
from typing import Any, ClassVar, Literal, Unpack, get_args

import torch
from torch import Tensor, nn

from zoo.blocks import (
    Classifier,
    FeedForward,
    LearnedPositions,
    SinusoidalPositions2D,
    TransformerLayer,
    build_token_norm,
    hidden_size,
)
from zoo.blocks.classifier import check_images
from zoo.encoders import ImageEncoder, build_encoder, title
from zoo.registry import register
from zoo.tasks import ClassificationArguments, ClassificationTask
from zoo.transformer.classifier import Pooling
from zoo.transformer.encoder import initialize_layer
from zoo.transformer.vit import SIZES

MapPositions = Literal["sinusoidal", "learned"]
_NORM_EPS = 1e-6  # as in the authors' code


class MapTransformer(nn.Module):
    """The cells of a feature map as tokens: a linear map to the width, positions, and transformer layers over them.

    Args:
        in_channels: Channels C of the map.
        width: Width D of a token.
        num_layers: Number of layers, 0 or more.
        num_heads: Number of heads, a divisor of the width.
        hidden_dim: Number of hidden units of the feed-forward nets; None: 4 D.
        dropout: Probability in [0, 1) of dropping a value of the tokens with their positions, and of each part's output.
        cells: Number of cells h w, each of which has a learned position; None: sinusoidal positions, for maps of any size.
        class_token: Whether a learned token stands before the others.
        norm_first: Whether the norm comes before each part, and after the last layer, instead of after each part.
        feed_forward: See :class:`zoo.blocks.TransformerLayer`.

    Shape:
        ``(B, C, h, w)`` -> ``(B, h w, D)``, row by row; with a class token ``(B, 1 + h w, D)``.

    Raises:
        ValueError: An argument out of its range, or a map of another size than that of learned positions.
    """

    class_token: Tensor | None

    def __init__(
        self,
        in_channels: int,
        width: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int | None = None,
        dropout: float = 0.0,
        cells: int | None = None,
        class_token: bool = False,
        norm_first: bool = True,
        feed_forward: FeedForward = "gelu",
    ) -> None:
        super().__init__()
        if num_layers < 0:
            raise ValueError(f"the number of layers must be 0 or more, got {num_layers}")
        layers = [
            TransformerLayer(
                width=width,
                num_heads=num_heads,
                hidden_dim=hidden_size(width, feed_forward, hidden_dim),
                dropout=dropout,
                norm_first=norm_first,
                feed_forward=feed_forward,
                norm_eps=_NORM_EPS,
            )
            for _ in range(num_layers)
        ]
        self.cells = cells
        self.projection = nn.Linear(in_channels, width)
        self.register_parameter("class_token", nn.Parameter(torch.zeros(width)) if class_token else None)
        self.positions = SinusoidalPositions2D(width) if cells is None else LearnedPositions(cells, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(layers)
        self.norm = build_token_norm("layer", width, _NORM_EPS) if norm_first else nn.Identity()
        nn.init.trunc_normal_(self.projection.weight, std=math.sqrt(1 / in_channels))  # as ViT's patches
        nn.init.zeros_(self.projection.bias)
        for layer in layers:
            initialize_layer(layer)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[2:]
        x = self.projection(x.flatten(2).transpose(1, 2))  # (B, C, h, w) -> (B, C, h w) -> (B, h w, C) -> (B, h w, D)
        if self.cells is None:
            x = self.positions(x, rows, columns)
        elif not torch.compiler.is_exporting() and rows * columns != self.cells:
            raise ValueError(
                f"positions are learned for a map of {self.cells} cells, got one of {rows}x{columns}: take images of the size that "
                "the net was built for, or sinusoidal positions, which fit any map"
            )
        else:
            x, _ = self.positions(x)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(x.shape[0], 1, -1), x], dim=1)  # (B, h w, D) -> (B, 1 + h w, D)
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x)
        y: Tensor = self.norm(x)
        return y

    def layer_groups(self, name: str) -> list[list[str]]:
        """Return the names of the modules by depth, for a transformer that is called ``name``."""
        token = [] if self.class_token is None else ["class_token"]
        groups = [["projection", *token, "positions", "dropout"], *([f"layers.{i}"] for i in range(len(self.layers)))]
        groups[-1] = [*groups[-1], "norm"]
        return [[f"{name}.{part}" for part in parts] for parts in groups]


class HybridTransformer(Classifier):
    """A transformer over the cells of a feature map, and a linear layer.

    Args:
        encoder: Net that computes the map, see :class:`zoo.encoders.ImageEncoder`; its head is removed.
        stage: Index of the map among those of the encoder, finest first; -1: the last.
        num_classes: Number of classes K.
        image_size: Height and width of the images in pixels, for which positions are learned; sinusoidal ones fit others, too.
        width: Width D of a token.
        num_layers: Number of layers, >= 1.
        num_heads: Number of heads, a divisor of the width.
        hidden_dim: Number of hidden units of the feed-forward nets; None: 4 D.
        dropout: Probability in [0, 1) of dropping a value of the tokens with their positions, and of each part's output.
        pooling: What the linear layer reads: "class_token", a learned token before the others, or "mean" over the cells.
        positions: "sinusoidal", of row and column, or "learned", a vector for each cell.

    Shape:
        ``(B, C, H, W)`` -> logits ``(B, K)``; learned positions take H = W = ``image_size`` alone.

    Raises:
        ValueError: An argument out of its range, or images that the encoder or the positions do not take.

    Example:
        >>> from zoo.cnn import ResNet
        >>> net = HybridTransformer(ResNet(18, width=8), num_classes=10, width=32)
        >>> net(torch.rand(2, 3, 64, 96)).shape
        torch.Size([2, 10])
    """

    channels_last: ClassVar[bool] = True  # in memory: what the encoder is fastest with

    def __init__(
        self,
        encoder: nn.Module,
        stage: int = -1,
        num_classes: int = 10,
        image_size: int = 224,
        width: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        hidden_dim: int | None = None,
        dropout: float = 0.1,
        pooling: Pooling = "class_token",
        positions: MapPositions = "sinusoidal",
    ) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be one of {', '.join(get_args(Pooling))}, got {pooling!r}")
        if positions not in get_args(MapPositions):
            raise ValueError(f"positions must be one of {', '.join(get_args(MapPositions))}, got {positions!r}")
        if num_layers < 1:
            raise ValueError(f"the number of layers must be 1 or more, got {num_layers}")
        self.encoder = ImageEncoder(encoder, stage)
        self.in_channels, self.image_size, self.num_features = self.encoder.in_channels, image_size, width
        fixed = getattr(self.encoder, "image_size", image_size)
        if fixed != image_size:
            raise ValueError(f"{title(encoder)} takes images of {fixed}x{fixed} pixels alone: set image_size={fixed}")
        self.tokens = MapTransformer(
            in_channels=self.encoder.out_channels,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            dropout=dropout,
            cells=self._cells(image_size) if positions == "learned" else None,
            class_token=pooling == "class_token",
        )
        self.fc = nn.Linear(width, num_classes)
        for parameter in self.fc.parameters():
            nn.init.zeros_(parameter)  # as in ViT

    def forward(self, x: Tensor) -> Tensor:
        learned = self.tokens.cells is not None
        check_images(
            self, tuple(x.shape), self.in_channels, self.image_size if learned else None, self.encoder.smallest
        )
        tokens = self.tokens(self.encoder.feature_map(x))
        pooled = tokens.mean(dim=1) if self.tokens.class_token is None else tokens[:, 0]
        logits: Tensor = self.fc(pooled)  # (B, T, D) -> (B, D) -> (B, K)
        return logits

    def layer_groups(self) -> list[list[str]]:
        """Return the layers of the encoder by depth, the projection, each layer over the cells, and the head."""
        encoder = [[f"encoder.{name}" for name in names] for names in self.encoder.layer_groups()]
        return [*encoder, *self.tokens.layer_groups("tokens"), [self.head_name]]

    def _cells(self, size: int) -> int:
        """The number of cells of the map of a square image."""
        image = torch.empty(1, self.in_channels, size, size, device="meta")
        check_images(title(self.encoder.net), tuple(image.shape), self.in_channels, smallest=self.encoder.smallest)
        rows, columns = self.encoder.map_size(image)
        return rows * columns


class HybridClassifier(ClassificationTask):
    """A :class:`HybridTransformer` trained as a classifier. Arguments: those below, then ``**task``.

    Args:
        encoder: The name of a convolutional classifier, see ``zoo models``; "timm/convnext_atto", "torchvision/resnet18",
            "hf/OWNER/NAME" (of timm, on the Hugging Face hub); or your own class "package.module.Class", whose ``features`` gives
            a list of maps (B, C_i, H / s_i, W / s_i), finest first.
        encoder_args: Arguments of its class, e.g. ``{"width": 32}``.
        encoder_weights: Where the encoder's weights come from, see :func:`zoo.create_model`: "pretrained", a name, a path.
            Their standardization is used, too. Like ``weights`` it is no hyperparameter.
        stage: Index of the map among those of the encoder, finest first; -1: the last.
        num_classes: Number of classes K.
        in_channels: Number of channels C of the image.
        image_size, width, num_layers, num_heads, hidden_dim, dropout, pooling, positions: See :class:`HybridTransformer`.
    """

    weight_sources = ("weights", "encoder_weights")
    filled_arguments = ("encoder_args", "preprocessing")

    net: HybridTransformer

    def __init__(
        self,
        encoder: str = "resnet18",
        encoder_args: dict[str, Any] | None = None,
        encoder_weights: str | None = None,
        stage: int = -1,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 224,
        width: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        hidden_dim: int | None = None,
        dropout: float = 0.1,
        pooling: Pooling = "class_token",
        positions: MapPositions = "sinusoidal",
        **task: Unpack[ClassificationArguments],
    ) -> None:
        built = build_encoder(type(self), encoder, encoder_args, in_channels, encoder_weights)
        net = HybridTransformer(
            encoder=built.net,
            stage=stage,
            num_classes=num_classes,
            image_size=image_size,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            dropout=dropout,
            pooling=pooling,
            positions=positions,
        )
        super().__init__(net, num_classes, **task)
        built.complete(self)


register("hybrid_resnet20", HybridClassifier, encoder="resnet20")
register("hybrid_resnet18", HybridClassifier, encoder="resnet18")
# section 4.1, "R50+ViT-B/32": the last map of a ResNet-50
_layers, _heads, _width, _hidden = SIZES["b"]
register(
    "hybrid_vit_b_32_resnet50",
    HybridClassifier,
    encoder="resnet50",
    width=_width,
    num_layers=_layers,
    num_heads=_heads,
    hidden_dim=_hidden,
    positions="learned",
    num_classes=1000,
)
