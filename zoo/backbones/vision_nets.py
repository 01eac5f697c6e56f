"""Nets of torchvision, by its names for them: ``torchvision/efficientnet_b0``."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from zoo.backbones.base import Backbone, building, is_map, stride_of
from zoo.blocks.receptive_field import FeatureMap, on_meta
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
        self._stages: dict[str, FeatureMap] = {}  # by the name of the module whose output is the map
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

    @override
    def feature_maps(self) -> list[FeatureMap]:
        """Return channels and stride of the deepest map of each stride; the receptive field is 0: not known."""
        if not self._stages:
            side, units = self.image_size, _units(self.model)
            x = torch.empty(1, self.in_channels, side, side, device="meta", dtype=next(self.parameters()).dtype)
            deepest: dict[int, tuple[str, FeatureMap]] = {}
            for unit, y in on_meta(self, lambda x: self._outputs(x, units), x).items():
                if y.ndim == 2 or y.shape[2:] == (1, 1):  # pooled
                    continue
                if not is_map(y):
                    raise ValueError(
                        f"{self.name} has no feature maps, its {unit} gives {tuple(y.shape)}: take a net of timm, timm/NAME"
                    )
                stride = stride_of(y, side)
                deepest[stride] = unit, FeatureMap(y.shape[1], stride, 0)
            self._stages = dict(deepest.values())
        return list(self._stages.values())

    @override
    def features(self, x: Tensor) -> list[Tensor]:
        self.feature_maps()
        self.check(x)
        return list(self._outputs(x, self._stages).values())

    def _outputs(self, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the outputs of some modules by name, in the order in which they are computed."""
        outputs: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            return lambda module, args, y: outputs.__setitem__(name, y)

        hooks = [self.model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
        try:
            self.model(x)
        finally:
            for hook in hooks:
                hook.remove()
        return outputs


def _units(model: nn.Module) -> list[str]:
    """Return the names of a net's layers and blocks: sequences are opened, blocks are not, so that no map is one from within."""
    opened, units = {""}, list[str]()
    for name, part in model.named_modules():
        if name and name.rpartition(".")[0] in opened:
            if isinstance(part, nn.Sequential | nn.ModuleList):
                opened.add(name)
            elif not isinstance(part, nn.AdaptiveAvgPool2d):  # gives one size, whatever the image
                units.append(name)
    return units


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
