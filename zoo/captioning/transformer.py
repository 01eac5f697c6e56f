"""Transformer captioner: Sharma et al. 2018, "Conceptual Captions: A Cleaned, Hypernymed, Image Alt-text Dataset For Automatic
Image Captioning", ACL 2018, section 4.

The cells of a convolutional net's map are projected to the width, a transformer encoder reads them, and the decoder of Vaswani et
al. 2017, arXiv:1706.03762, writes the caption; without layers of the encoder it attends to the projected cells. The same with
patches of the image in place of a convolutional net: Liu et al. 2021, "CPTR", arXiv:2101.10804.

Deviations from Sharma et al.: the convolutional net is any, where theirs is an Inception-ResNet; cells have positions, by which the
decoder can tell left from right; the norm comes before each part (Xiong et al. 2020, arXiv:2002.04745), unless ``norm_first`` is
False.
"""

from typing import Any, Unpack

from torch import Tensor, nn
from typing_extensions import override

from zoo.blocks import Angles, TransformerLayer
from zoo.captioning.captioner import Captioner
from zoo.encoders import ImageEncoder, build_encoder
from zoo.registry import register
from zoo.tasks import CaptioningArguments, CaptioningTask
from zoo.transformer import MapTransformer, TransformerDecoder, TransformerState
from zoo.transformer.seq2seq import reorder_targets


class TransformerCaptioner(Captioner):
    """A transformer over the cells of a map, and a decoder that attends to them and to the caption up to each token.

    Args:
        encoder: Gives the map.
        vocab_size: Number of tokens V.
        padding: Token that pads captions at their end.
        width: Width D of a token, of the caption and of the map.
        num_layers: Number of layers of the decoder, >= 1.
        encoder_layers: Number of layers over the cells, 0 or more.
        num_heads: Number of heads, a divisor of the width.
        hidden_dim: Number of hidden units of the feed-forward nets; None: 4 D.
        dropout: Probability in [0, 1) of dropping a value of the tokens with their positions, and of each part's output.
        norm_first: Whether the norm comes before each part, and after the last layer, instead of after each part.
        max_positions: Most tokens of a caption, with its end; None: any.

    Shape:
        ``(B, C, H, W)`` and ``(B, R, T)``, of a :class:`zoo.CaptionedImage` -> logits ``(B, R, T, V)``.

    Raises:
        ValueError: An argument out of its range.

    Example:
        >>> import torch
        >>> from zoo import CaptionedImage
        >>> from zoo.cnn import CIFARResNet
        >>> net = TransformerCaptioner(ImageEncoder(CIFARResNet(8, width=4)), vocab_size=9, width=8, num_heads=2)
        >>> x = CaptionedImage(torch.rand(2, 3, 16, 12), torch.ones(2, 5, 7, dtype=torch.long))
        >>> net(x).shape, net.attention(x).shape
        (torch.Size([2, 5, 7, 9]), torch.Size([2, 5, 7, 12]))
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        vocab_size: int = 256,
        padding: int = 0,
        width: int = 256,
        num_layers: int = 2,
        encoder_layers: int = 1,
        num_heads: int = 4,
        hidden_dim: int | None = None,
        dropout: float = 0.1,
        norm_first: bool = True,
        max_positions: int | None = 1024,
    ) -> None:
        super().__init__(encoder, vocab_size, padding)
        self.max_length = max_positions
        self.tokens = MapTransformer(
            in_channels=encoder.out_channels,
            width=width,
            num_layers=encoder_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            dropout=dropout,
            norm_first=norm_first,
            feed_forward="relu",
        )
        self.decoder = TransformerDecoder(
            vocab_size,
            padding=padding,
            cross=True,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            dropout=dropout,
            attention_dropout=0.0,
            positions="sinusoidal",
            max_positions=max_positions,
            norm="layer",
            norm_first=norm_first,
            feed_forward="relu",
            num_kv_heads=None,
            qk_norm=False,
        )
        self.fc = nn.Linear(width, vocab_size, bias=False)
        nn.init.xavier_uniform_(self.fc.weight)

    @property
    @override
    def has_attention(self) -> bool:
        return True

    @override
    def encode(self, image: Tensor) -> TransformerState:
        """Return the state before the first token: keys and values of the cells of each image ``(B, C, H, W)``."""
        return self.decoder.init_state(self.tokens(self.encoder.feature_map(image)))

    @override
    def step(self, tokens: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        x, state = self.decoder.step(tokens, state)
        return self.fc(x), state

    @override
    def reorder_state(self, state: TransformerState, index: Tensor) -> TransformerState:
        return reorder_targets(state, index)

    @override
    def read(self, tokens: Tensor, state: TransformerState) -> tuple[Tensor, Tensor]:
        """Return logits ``(N, T, V)``, and the weights of the last layer's attention to the cells, the mean of its heads.

        Shape:
            tokens ``(N, T)``, state of N rows -> ``(N, T, V)`` and ``(N, T, h w)``.
        """
        memories, last, weights = iter(state.layers), self.decoder.layers[-1], tokens.new_empty(0)

        def apply(layer: TransformerLayer, x: Tensor, rotary: Angles | None) -> Tensor:
            nonlocal weights
            memory = next(memories).memory
            if layer is not last:
                return layer(x, memory, causal=True, rotary=rotary)
            x, found = layer.with_weights(x, memory, causal=True, rotary=rotary)
            weights = found["cross"].mean(dim=1)  # (N, heads, T, S) -> (N, T, S)
            return x

        return self.fc(self.decoder.through(self.decoder.embed(tokens), 0, apply)), weights

    @override
    def decoder_groups(self) -> list[list[str]]:
        """Return the projection and the layers over the cells, the embedding and the layers of the decoder, and the head."""
        return [*self.tokens.layer_groups("tokens"), *self.decoder.layer_groups("decoder"), [self.head_name]]


class TransformerCaptioning(CaptioningTask):
    """A :class:`TransformerCaptioner` trained to describe images. Arguments: those below, then ``**task``.

    Args:
        encoder: Name of a convolutional classifier, see ``zoo models``, or of another net, see :class:`zoo.UNetSegmenter`.
        encoder_args: Arguments of its class, e.g. ``{"width": 32}``.
        encoder_weights: Where the encoder's weights come from, see :func:`zoo.create_model`: "pretrained", a name, a path.
            Their standardization is used, too. Like ``weights`` it is no hyperparameter.
        stage: Which of its maps, finest first; -1: the last.
        vocab_size: Number of tokens V; on the command line the data fill it in.
        padding: Token that pads captions at their end; on the command line the data fill it in.
        in_channels: Number of channels C of the image.
        width, num_layers, encoder_layers, num_heads, hidden_dim, dropout, norm_first, max_positions: See
            :class:`TransformerCaptioner`.
        task: Arguments of :class:`zoo.CaptioningTask`.
    """

    net: TransformerCaptioner
    weight_sources = ("weights", "encoder_weights")
    filled_arguments = ("encoder_args",)

    def __init__(
        self,
        encoder: str = "resnet50",
        encoder_args: dict[str, Any] | None = None,
        encoder_weights: str | None = None,
        stage: int = -1,
        vocab_size: int = 256,
        padding: int = 0,
        in_channels: int = 3,
        width: int = 256,
        num_layers: int = 2,
        encoder_layers: int = 1,
        num_heads: int = 4,
        hidden_dim: int | None = None,
        dropout: float = 0.1,
        norm_first: bool = True,
        max_positions: int | None = 1024,
        **task: Unpack[CaptioningArguments],
    ) -> None:
        built = build_encoder(type(self), encoder, encoder_args, in_channels, encoder_weights)
        net = TransformerCaptioner(
            encoder=ImageEncoder(built.net, stage),
            vocab_size=vocab_size,
            padding=padding,
            width=width,
            num_layers=num_layers,
            encoder_layers=encoder_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            dropout=dropout,
            norm_first=norm_first,
            max_positions=max_positions,
        )
        super().__init__(net, vocab_size, padding, **task)
        built.complete(self)


register("transformer_captioner", TransformerCaptioning)
