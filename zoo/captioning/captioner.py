"""What nets share that write captions: an encoder of images, and captions as rows of a decoder that starts from it."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from zoo.blocks.layers import parameters_of
from zoo.encoders import ImageEncoder


class Captioner(nn.Module):
    """A net that reads images and writes captions: an encoder gives the cells of a map as tokens, a decoder reads them.

    Images are encoded once, however many captions they have: each caption is a row of the decoder, which starts from a copy of its
    image's state. So :mod:`zoo.decoding` writes with the net, see :class:`zoo.Decodable`.

    A subclass defines :meth:`encode`, :meth:`step`, :meth:`reorder_state` and :meth:`read`, and has its head in ``fc``.

    Args:
        encoder: Gives the tokens of images.
        vocab_size: Number of tokens V of the captions.
        padding: Token that pads them at their end.

    Attributes:
        max_length: Longest caption that it can read, in tokens with the end; None: any.

    Shape:
        image ``(B, C, H, W)``, caption int64 ``(B, R, T)``, of a :class:`zoo.CaptionedImage` -> logits ``(B, R, T, V)``.

    Raises:
        ValueError: A vocabulary of fewer than two tokens, or padding that is none of them.
    """

    channels_last: ClassVar[bool] = True  # in memory: what convolutions are fastest with
    head_name = "fc"
    max_length: int | None = None

    def __init__(self, encoder: ImageEncoder, vocab_size: int, padding: int = 0) -> None:
        super().__init__()
        if vocab_size < 2 or not 0 <= padding < vocab_size:
            raise ValueError(
                f"vocab_size must be 2 or more, and padding one of its tokens, got vocab_size={vocab_size}, padding={padding}"
            )
        self.encoder = encoder
        self.vocab_size, self.padding = vocab_size, padding
        self.in_channels = encoder.in_channels
        if hasattr(encoder, "image_size"):
            self.image_size = encoder.image_size

    # What a subclass gives ------------------------------------------------------------------------------------------

    @abstractmethod
    def encode(self, image: Tensor) -> Any:
        """Return the state before the first token, with a row for each image ``(B, C, H, W)``."""

    @abstractmethod
    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read one token of each caption, ``(N,)``; return the logits of the next, ``(N, V)``, and the new state."""

    @abstractmethod
    def reorder_state(self, state: Any, index: Tensor) -> Any:
        """Return the state of other captions: those at ``index``, int64 ``(M,)``."""

    @abstractmethod
    def read(self, tokens: Tensor, state: Any) -> tuple[Tensor, Tensor]:
        """Read captions from their first token on.

        Args:
            tokens: What the decoder reads, int64 ``(N, T)``.
            state: The state before the first token, of N rows.

        Returns:
            The logits ``(N, T, V)``, and how much each step looks at each of the S cells of the map, ``(N, T, S)``: at least 0,
            with the sum 1 in each row; without attention ``(N, T, 0)``.
        """

    # What they share ------------------------------------------------------------------------------------------------

    def repeated(self, state: Any, images: int, captions: int) -> Any:
        """Return a state with a row for each caption, of one with a row for each image: R rows of the first, then the second's."""
        if captions == 1 and not torch.compiler.is_exporting():  # an exported graph takes any number
            return state
        rows = torch.arange(images, device=next(self.parameters()).device)
        return self.reorder_state(state, rows[:, None].expand(-1, captions).flatten())  # (B, R) -> (B R,)

    @property
    def has_attention(self) -> bool:
        """Whether the decoder looks at single cells of the map, so that :meth:`attention` tells at which."""
        return False

    def read_captions(self, x: Any) -> tuple[Tensor, Tensor]:
        """Return logits ``(B, R, T, V)`` and weights of attention ``(B, R, T, S)``, see :meth:`read`."""
        images, captions = x.caption.shape[:2]
        state = self.repeated(self.encode(x.image), images, captions)
        logits, weights = self.read(x.caption.flatten(0, 1), state)
        return logits.unflatten(0, (images, captions)), weights.unflatten(0, (images, captions))

    @override
    def forward(self, x: Any) -> Tensor:
        return self.read_captions(x)[0]

    def attention(self, x: Any) -> Tensor:
        """Return how much each step of the captions looks at each cell of the map, row by row, ``(B, R, T, h w)``.

        Raises:
            TypeError: The net has no attention.
        """
        if not self.has_attention:
            raise TypeError(f"this {type(self).__name__} has no attention: it sees an image as a whole")
        return self.read_captions(x)[1]

    def decoder_groups(self) -> list[list[str]]:
        """Return the names of the modules and parameters of the decoder in groups, by depth, the head last.

        Each module is a group, in the order in which they are registered; one without parameters joins the group before it.
        """
        own = [name for name, _ in self.named_parameters(recurse=False)]
        groups = [own] if own else []
        for name, _ in self.named_children():
            if name in ("encoder", self.head_name):
                continue
            if groups and not parameters_of(self, [name]):
                groups[-1].append(name)
            elif parameters_of(self, [name]):
                groups.append([name])
        return [*groups, [self.head_name]]

    def layer_groups(self) -> list[list[str]]:
        """Return the layers of the encoder by depth, then those of the decoder, the head last."""
        return [
            *([f"encoder.{name}" for name in names] for names in self.encoder.layer_groups()),
            *self.decoder_groups(),
        ]
