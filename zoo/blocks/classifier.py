"""What every net that ends in a linear classifier shares: where the head is, and how to replace it."""

from typing import ClassVar

from torch import nn


class Classifier(nn.Module):
    """A net whose last layer, the module at ``head_name``, maps ``num_features`` pooled features to logits.

    The head keeps torchvision's name, so that torchvision's weights load as they are.
    """

    head_name: ClassVar[str] = "fc"
    num_features: int

    def reset_head(self, num_classes: int) -> None:
        """Replace the head by a fresh linear layer.

        Args:
            num_classes: outputs of the new head; 0 for none: the net then returns its pooled features ``(B, num_features)``.

        Raises:
            ValueError: a negative number.
        """
        if num_classes < 0:
            raise ValueError(f"num_classes must be 0 (features) or more, got {num_classes}")
        parent, _, name = self.head_name.rpartition(".")
        weight = next(self.parameters())
        head = nn.Linear(self.num_features, num_classes, device=weight.device) if num_classes else nn.Identity()
        setattr(self.get_submodule(parent), name, head)


def check_images(
    net: nn.Module | str, shape: tuple[int, ...], channels: int, size: int | None = None, smallest: int = 1
) -> None:
    """Refuse a batch of images that a net cannot take.

    Args:
        net: the net or its name, for the message.
        shape: of the batch.
        channels: wanted number of channels C.
        size: wanted height and width, in pixels; None if any will do.
        smallest: least height and width, in pixels.

    Raises:
        ValueError: what came, what was wanted, the cure.
    """
    name = net if isinstance(net, str) else type(net).__name__
    if len(shape) != 4 or shape[1] != channels or (size is not None and shape[2:] != (size, size)):
        wanted = f"(B, {channels}, {size or 'H'}, {size or 'W'})"
        if len(shape) != 4:
            cure = "give a batch; of one image, image[None]"
        elif shape[1] != channels:
            cure = f"set in_channels={shape[1]}"
        else:
            cure = f"set the datamodule's size={size}"
        raise ValueError(f"{name} takes images of shape {wanted}, got {tuple(shape)}: {cure}")
    if min(shape[2:]) < smallest:
        raise ValueError(
            f"{name} takes images of {smallest}x{smallest} pixels or more, got {shape[2]}x{shape[3]}: set the datamodule's "
            f"size={smallest}"
        )
