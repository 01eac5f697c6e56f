"""ViT: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", arXiv:2010.11929.

As in torchvision, weight initialization included: the head is one linear layer, as in the paper's fine-tuning (section 3.2).
"""

import math
from collections import OrderedDict
from typing import Unpack

import torch
from torch import Tensor, nn

from zoo.blocks import Classifier, MultiHeadAttention
from zoo.blocks.classifier import check_images
from zoo.registry import register
from zoo.tasks import ClassificationArguments, ClassificationTask

# table 1: layers, heads, hidden size D, MLP size
SIZES = {"b": (12, 12, 768, 3072), "l": (24, 16, 1024, 4096), "h": (32, 16, 1280, 5120)}


class EncoderBlock(nn.Module):
    """Attention, then an MLP, each applied to the normalized tokens and added to them (eq. 2 and 3).

    Shape:
        ``(B, T, D)`` -> the same.
    """

    def __init__(self, num_heads: int, hidden_dim: int, mlp_dim: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(hidden_dim, eps=1e-6)
        self.self_attention = MultiHeadAttention(hidden_dim, num_heads, attention_dropout)
        self.dropout = nn.Dropout(dropout)
        self.ln_2 = nn.LayerNorm(hidden_dim, eps=1e-6)
        up, down = nn.Linear(hidden_dim, mlp_dim), nn.Linear(mlp_dim, hidden_dim)
        self.mlp = nn.Sequential(up, nn.GELU(), nn.Dropout(dropout), down, nn.Dropout(dropout))
        for layer in (up, down):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.self_attention(self.ln_1(x)))
        return x + self.mlp(self.ln_2(x))


class Encoder(nn.Module):
    """Position embeddings, the encoder blocks, and a norm (eq. 1 to 4).

    Shape:
        ``(B, T, D)`` -> the same.
    """

    def __init__(self, tokens: int, hidden_dim: int, blocks: list[EncoderBlock], dropout: float) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.empty(1, tokens, hidden_dim).normal_(std=0.02))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(OrderedDict((f"encoder_layer_{i}", block) for i, block in enumerate(blocks)))
        self.ln = nn.LayerNorm(hidden_dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln(self.layers(self.dropout(x + self.pos_embedding)))


class ViT(Classifier):
    """A transformer encoder over the patches of an image and a class token.

    State-dict keys, logits and gradients are those of torchvision.

    Args:
        image_size: Height and width of the images in pixels; the position embeddings are learned for this size.
        patch_size: Height and width of a patch in pixels, a divisor of ``image_size``.
        num_layers: Number of encoder blocks.
        num_heads: Number of attention heads of a block, a divisor of ``hidden_dim``.
        hidden_dim: Size D of a token.
        mlp_dim: Number of hidden units of a block's MLP.
        num_classes: Number of classes K.
        in_channels: Number of channels C of the image.
        dropout: Probability in [0, 1) of dropping a value after the position embeddings, the attention and both layers of an MLP.
        attention_dropout: Probability in [0, 1) of dropping an attention weight.

    Shape:
        ``(B, C, image_size, image_size)`` -> logits ``(B, K)``.

    Raises:
        ValueError: An argument out of its range, or images of another shape.
    """

    head_name = "heads.head"

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 16,
        num_layers: int = 12,
        num_heads: int = 12,
        hidden_dim: int = 768,
        mlp_dim: int = 3072,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if patch_size < 1 or image_size < 1 or image_size % patch_size:
            raise ValueError(f"patches of {patch_size} pixels do not divide images of {image_size}: set patch_size")
        sizes = {"num_layers": num_layers, "num_heads": num_heads, "hidden_dim": hidden_dim, "mlp_dim": mlp_dim}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be 1 or more, got {size}")
        for name, value in {"dropout": dropout, "attention_dropout": attention_dropout}.items():
            if not 0 <= value < 1:
                raise ValueError(f"{name} is a probability in [0, 1), got {value}")
        self.image_size, self.in_channels, self.num_features = image_size, in_channels, hidden_dim
        self.class_token = nn.Parameter(torch.zeros(1, 1, hidden_dim))
        self.conv_proj = nn.Conv2d(in_channels, hidden_dim, patch_size, patch_size)
        blocks = [EncoderBlock(num_heads, hidden_dim, mlp_dim, dropout, attention_dropout) for _ in range(num_layers)]
        self.encoder = Encoder((image_size // patch_size) ** 2 + 1, hidden_dim, blocks, dropout)
        head = nn.Linear(hidden_dim, num_classes)
        self.heads = nn.Sequential(OrderedDict(head=head))
        nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (in_channels * patch_size**2)))
        for parameter in (self.conv_proj.get_parameter("bias"), head.weight, head.bias):
            nn.init.zeros_(parameter)

    def layer_groups(self) -> list[list[str]]:
        """Return the embeddings, each encoder block, and the last norm with the head."""
        blocks = [[f"encoder.layers.{name}"] for name, _ in self.encoder.layers.named_children()]
        embeddings = ["conv_proj", "class_token", "encoder.pos_embedding", "encoder.dropout"]
        return [embeddings, *blocks, ["encoder.ln", self.head_name]]

    def forward(self, x: Tensor) -> Tensor:
        check_images(self, x.shape, self.in_channels, self.image_size)
        x = self.conv_proj(x)  # (B, C, H, W) -> (B, D, H / patch_size, W / patch_size)
        x = x.flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, D, T) -> (B, T, D)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)  # (B, T, D) -> (B, 1 + T, D)
        return self.heads(self.encoder(x)[:, 0])  # (B, 1 + T, D) -> (B, D) -> (B, K)


class ViTClassifier(ClassificationTask):
    """A :class:`ViT` trained as a classifier. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 16,
        num_layers: int = 12,
        num_heads: int = 12,
        hidden_dim: int = 768,
        mlp_dim: int = 3072,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        **task: Unpack[ClassificationArguments],
    ) -> None:
        net = ViT(
            image_size=image_size,
            patch_size=patch_size,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            mlp_dim=mlp_dim,
            num_classes=num_classes,
            in_channels=in_channels,
            dropout=dropout,
            attention_dropout=attention_dropout,
        )
        super().__init__(net, num_classes, **task)


for _name, _patch in (("b", 16), ("b", 32), ("l", 16), ("l", 32), ("h", 14)):
    _sizes = dict(zip(("num_layers", "num_heads", "hidden_dim", "mlp_dim"), SIZES[_name], strict=True))
    register(f"vit_{_name}_{_patch}", ViTClassifier, patch_size=_patch, **_sizes)
