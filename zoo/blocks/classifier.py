"""Nets that end in a linear classifier: where the head is, and how to replace it."""

from typing import ClassVar

from torch import nn


class Classifier(nn.Module):
    """A net whose last layer, the module at ``head_name``, maps ``num_features`` pooled features to logits.

    The head keeps torchvision's name, so that torchvision's weights load as they are.
    """

    head_name: ClassVar[str] = "fc"
    num_features: int

    def reset_head(self, num_classes: int) -> None:
        """Replace the head with a new linear layer.

        Args:
            num_classes: Number of outputs of the new head; 0 for no head: the net then returns its pooled features
                ``(B, num_features)``.

        Raises:
            ValueError: A negative number.
        """
        if num_classes < 0:
            raise ValueError(f"num_classes must be 0 (features) or more, got {num_classes}")
        parent, _, name = self.head_name.rpartition(".")
        owner, weight = self.get_submodule(parent), next(self.parameters())
        bias = getattr(getattr(owner, name), "bias", True) is not None  # as before
        head = nn.Linear(self.num_features, num_classes, bias, weight.device) if num_classes else nn.Identity()
        setattr(owner, name, head)


def check_images(
    net: nn.Module | str, shape: tuple[int, ...], channels: int, size: int | None = None, smallest: int = 1
) -> None:
    """Check that a net can take a batch of images.

    Args:
        net: The net or its name, for the message.
        shape: Shape of the batch.
        channels: Number of channels C that the net takes.
        size: Height and width that the net takes, in pixels; None for any.
        smallest: Smallest height and width, in pixels.

    Raises:
        ValueError: Another shape, or smaller images.
    """
    name = net if isinstance(net, str) else type(net).__name__
    if len(shape) != 4 or shape[1] != channels or (size is not None and shape[2:] != (size, size)):
        wanted = f"(B, {channels}, {size or 'H'}, {size or 'W'})"
        if len(shape) != 4:
            cure = "pass a batch; for one image, image[None]"
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
