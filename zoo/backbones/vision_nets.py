"""Nets of torchvision, by its names for them: ``torchvision/efficientnet_b0``."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from typing_extensions import override

from zoo.backbones.base import Backbone, building
from zoo.spelling import suggest


def names() -> list[str]:
    """Return torchvision's names of classifiers, sorted."""
    import torchvision.models

    return list(torchvision.models.list_models(torchvision.models))


def check_name(name: str) -> None:
    """Refuse a name that torchvision does not have.

    Raises:
        ValueError: No such classifier; the message suggests the closest.
    """
    if name not in (known := names()):
        raise ValueError(
            f"torchvision has no classifier {name!r}{suggest(name, known)}; `zoo models 'torchvision/*'` lists all"
        )


class TorchvisionNet(Backbone):
    """A classifier of torchvision.

    Args:
        name: "torchvision/NAME".
        num_classes: Number of classes K.
        in_channels: Number of image channels C; for another number than 3 the first convolution is a new one.
        arguments: Further arguments of the net, e.g. ``{"dropout": 0.1}``.

    Raises:
        TypeError, ValueError: No such net, an argument that it does not have, or an invalid value.
    """

    def __init__(
        self, name: str, num_classes: int, in_channels: int, arguments: Mapping[str, Any] | None = None
    ) -> None:
        import torchvision.models

        own, arguments = name.partition("/")[2], dict(arguments or {})
        check_name(own)
        for argument in ("num_classes", "weights", "progress", "weights_backbone"):
            if argument in arguments:
                raise TypeError(f"net_args has {argument!r}: give num_classes and weights to the model itself")
        try:
            with building():
                model = torchvision.models.get_model(own, weights=None, num_classes=num_classes, **arguments)
                if in_channels != 3:
                    _set_channels(model, in_channels)
        except TypeError as error:
            known = [*inspect.signature(type(torchvision.models.get_model(own)).__init__).parameters][1:]
            wrong = next((key for key in arguments if f"'{key}'" in str(error)), None)
            what = (
                str(error)
                if wrong is None
                else f"{own} of torchvision has no argument {wrong!r}{suggest(wrong, known)}"
            )
            raise TypeError(f"net_args: {what}") from error
        except (AssertionError, RuntimeError, LookupError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"torchvision cannot build {own} with net_args {arguments}: {error}") from error
        super().__init__(model, name, num_classes, in_channels, getattr(model, "image_size", None))
        self.num_features: int = self._head().weight.shape[1]

    def _head(self) -> Any:
        return self.get_submodule(self.head_name)

    @override
    def find_head(self) -> str:
        """Return the last layer with a weight matrix: torchvision's classifiers end in a dense layer, or one of 1x1."""
        layers = [name for name, part in self.model.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
        return layers[-1]

    @override
    def replace_head(self, num_classes: int) -> None:
        head = self._head()
        parent, _, name = self.head_name.rpartition(".")
        new: nn.Module = nn.Identity()
        if num_classes and isinstance(head, nn.Conv2d):
            new = nn.Conv2d(self.num_features, num_classes, 1, bias=head.bias is not None)
        elif num_classes:
            new = nn.Linear(self.num_features, num_classes, head.bias is not None)
        setattr(self.get_submodule(parent), name, new)


def _set_channels(model: nn.Module, channels: int) -> None:
    """Replace the first convolution by one for another number of image channels."""
    convolutions: list[tuple[str, Any]] = [
        (n, part) for n, part in model.named_modules() if isinstance(part, nn.Conv2d)
    ]
    name, old = convolutions[0]
    parent, _, last = name.rpartition(".")
    new = nn.Conv2d(
        channels, old.out_channels, old.kernel_size, old.stride, old.padding, old.dilation, bias=old.bias is not None
    )
    setattr(model.get_submodule(parent), last, new)
