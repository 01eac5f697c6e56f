"""Nets of the library timm, by its names for them: ``timm/resnet18``, ``timm/resnet18.a1_in1k``; ``hf/OWNER/NAME`` on the hub."""

import importlib.util
import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from zoo.backbones.base import Backbone, building, groups_of_modules, preparation
from zoo.blocks.receptive_field import FeatureMap
from zoo.pretrained.hub import translated_errors
from zoo.pretrained.sources import Weights
from zoo.spelling import suggest

DEFAULT = ("pretrained", "imagenet")  # words for the weights that a net has by default
ARCHITECTURE = "architecture"  # among the arguments of a net of the hub: timm's name for it
_OURS = {"num_classes", "in_chans", "device", "dtype"}
_OTHER = {"features_only", "out_indices", "feature_cls", "pruned"}  # build something else, or read a file


def timm() -> Any:
    """Return the library.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    if importlib.util.find_spec("timm") is None:
        raise ModuleNotFoundError("nets named timm/NAME and hf/OWNER/NAME need timm: pip install 'lightning-zoo[timm]'")
    import timm

    return timm


def check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that would load weights, open a file or build another kind of net.

    Raises:
        TypeError: There is one; the message names the right place.
    """
    for argument in arguments:
        if argument in _OURS:
            cure = {"num_classes": "num_classes", "in_chans": "in_channels"}.get(argument)
            raise TypeError(f"net_args has {argument!r}: " + (f"give {cure} to the model" if cure else "leave it out"))
    library = [timm().create_model, timm().models.build_model_with_cfg]
    reserved = {key for function in library for key in inspect.signature(function).parameters} - {"kwargs"}
    if wrong := sorted((reserved | _OTHER) & arguments.keys()):
        cure = "weights='pretrained' loads weights" if "pretrained" in wrong[0] else "it is no argument of the net"
        raise TypeError(f"net_args of {name} has {wrong[0]!r}: leave it out, {cure}")


def names() -> list[str]:
    """Return timm's names, sorted, without the weights."""
    return list(timm().list_models())


def check_name(name: str) -> None:
    """Refuse a name that timm does not have.

    Raises:
        ValueError: No such net, or it has no weights of the name behind the dot; the message suggests the closest.
    """
    net, _, tag = name.partition(".")
    if not timm().is_model(net):
        raise ValueError(f"timm has no net {net!r}{suggest(net, names())}; `zoo models 'timm/*'` lists all")
    if tag and tag not in (known := tags(net)):
        raise ValueError(
            f"timm's {net} has no weights {tag!r}{suggest(tag, known)}; it has {', '.join(known) or 'none'}"
        )


def tags(name: str) -> list[str]:
    """Return the names of the weights of a net, the default ones first."""
    net = name.partition(".")[0]
    known = [full.partition(".")[2] for full in timm().list_models(f"{net}.*", pretrained=True)]
    default = timm().get_pretrained_cfg(net)
    first = None if default is None else default.tag
    return sorted((tag for tag in known if tag), key=lambda tag: tag != first)


def config_of(repository: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Return what a repository of the hub tells of its net: timm's config of the weights, the architecture, the arguments.

    Raises:
        FileNotFoundError, ConnectionError: There is no such repository, or the hub cannot be reached.
        ValueError: It holds no net of timm.
    """
    with translated_errors(repository, "give timm/NAME, or a repository that timm's push_to_hf_hub wrote"):
        try:
            config, architecture, arguments = timm().models.load_model_config_from_hf(repository)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"hf/{repository} is no net of timm, its config.json tells no architecture: a model of lightning-zoo is loaded "
                f"with weights={repository!r} or zoo.load, and other libraries' models are not known here"
            ) from error
    return config, str(architecture), dict(arguments or {})


def on_hub(repository: str) -> dict[str, Any]:
    """Return the architecture and arguments that a repository of the hub tells, as arguments of :class:`TimmNet`.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: See :func:`config_of`.
    """
    config, architecture, arguments = config_of(repository)
    stored: dict[str, Any] = {ARCHITECTURE: architecture, **arguments}
    if config.get("fixed_input_size") and config.get("input_size"):
        stored.setdefault("img_size", config["input_size"][-1])
    if config.get("global_pool"):
        stored.setdefault("global_pool", config["global_pool"])
    return {key: value for key, value in stored.items() if key not in _OURS}


class TimmNet(Backbone):
    """A net of timm.

    Args:
        name: "timm/NAME", "timm/NAME.WEIGHTS" or "hf/OWNER/NAME".
        num_classes: Number of classes K.
        in_channels: Number of image channels C.
        arguments: Further arguments of the net, e.g. ``{"drop_path_rate": 0.1, "img_size": 64}``; of one of the hub
            "architecture" too, see :func:`on_hub`.

    Raises:
        ModuleNotFoundError: timm is not installed.
        TypeError, ValueError: No such net, an argument that it does not have, or an invalid value.
    """

    def __init__(
        self, name: str, num_classes: int, in_channels: int, arguments: Mapping[str, Any] | None = None
    ) -> None:
        arguments = dict(arguments or {})
        library, _, own = name.partition("/")
        if library == "hf":
            own = str(arguments.pop(ARCHITECTURE))
        check_name(own)
        check_arguments(name, arguments)
        self.own, self.arguments = own, arguments
        try:
            with building():
                model = timm().create_model(own, num_classes=num_classes, in_chans=in_channels, **arguments)
        except TypeError as error:
            raise TypeError(f"net_args: {_unknown_argument(error, own)}") from error
        except (AssertionError, RuntimeError, LookupError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"timm cannot build {own} with net_args {arguments}: {error}") from error
        config = model.pretrained_cfg
        fixed = config.get("fixed_input_size") and not getattr(model, "dynamic_img_size", False)
        fixed = fixed and arguments.get("strict_img_size", True)
        size = arguments.get("img_size") or config["input_size"][-1]
        height, width = (size, size) if isinstance(size, int) else size
        self._usual: int = width
        fixed = fixed and height == width  # else its own check tells the size
        super().__init__(model, name, num_classes, in_channels, self._usual if fixed else None)
        self.num_features: int = model.num_features

    @override
    def usual_size(self) -> int:
        return self._usual

    @override
    def find_head(self) -> str:
        """Return the last layer with a weight matrix in what timm calls the classifier: it may be a block of layers."""
        head = self.model.get_classifier()  # type: ignore[operator]
        if isinstance(head, list | tuple):  # of a distilled net: the first is the classifier
            head = head[0]
        parts = (
            [] if head is None else [m for m in head.modules() if getattr(getattr(m, "weight", None), "ndim", 0) > 1]
        )
        return next((name for name, module in self.model.named_modules() if parts and module is parts[-1]), "")

    @override
    def replace_head(self, num_classes: int) -> None:
        self.model.reset_classifier(num_classes)  # type: ignore[operator]

    @override
    def layer_groups(self) -> list[list[str]]:
        """Return timm's own groups: the stem, each stage or block, and the head."""
        if not hasattr(self.model, "group_matcher"):
            return super().layer_groups()
        matcher = self.model.group_matcher(coarse=True)  # type: ignore[operator]
        depths = timm().models.group_parameters(self.model, matcher, reverse=True)
        return [[f"model.{name}" for name in names] for names in groups_of_modules(self.model, depths)]

    @override
    def features(self, x: Tensor) -> list[Tensor]:
        self._check_maps()
        self.check(x)
        maps: list[Tensor] = self.model.forward_intermediates(x, output_fmt="NCHW", intermediates_only=True)  # type: ignore[operator]
        return maps

    @override
    def feature_maps(self) -> list[FeatureMap]:
        """Return channels and stride of each map as timm tells them; the receptive field is 0: not known."""
        self._check_maps()
        return [FeatureMap(info["num_chs"], info["reduction"], 0) for info in self.model.feature_info]  # type: ignore[union-attr]

    def _check_maps(self) -> None:
        if not hasattr(self.model, "forward_intermediates"):
            raise ValueError(f"{self.name} has no feature maps, timm gives none of it: take another net")

    def published(self) -> list[str]:
        """Return the names of the weights that timm has for the net."""
        if self.name.startswith("hf/"):
            return [DEFAULT[0]]
        known = tags(self.own)
        return [DEFAULT[0], *known] if known else []

    def pretrained(self, weights: str) -> Weights:
        """Return weights by a name of :meth:`published`, downloaded if necessary, fitted by timm to channels and image size.

        Raises:
            ConnectionError, FileNotFoundError: They cannot be downloaded.
            ValueError: There are none of this name.
        """
        library, _, rest = self.name.partition("/")
        if library == "hf":
            source = f"hf-hub:{rest}"
        else:
            net, _, tag = self.own.partition(".")
            tag = (tag or next(iter(tags(net)), "")) if weights in DEFAULT else weights
            source = f"{net}.{tag}"
            if tag not in (known := tags(net)):
                raise ValueError(f"{self.name} has no weights {weights!r}; timm has {', '.join(known) or 'none'} of it")
        with building(untraced=True), translated_errors(source, "give a file or folder as weights"):
            model = timm().create_model(source, pretrained=True, in_chans=self.in_channels, **self.arguments)
        config = preprocessing(model)
        if self.fixed_size or "img_size" in self.arguments:
            config["size"] = self._usual
        shape = [self.in_channels, config["size"], config["size"]]
        return Weights(
            f"timm's {source}",
            {f"model.{key}": t for key, t in model.state_dict().items()},
            {"mean": torch.tensor(config["mean"]), "std": torch.tensor(config["std"])},
            {"class_names": _labels(model), "input_shape": shape, "preparation": preparation(config)},
            preprocessing=config,
        )


def preprocessing(model: Any) -> dict[str, Any]:
    """Return how the images of a net's pretrained weights were prepared, as timm tells it."""
    config = timm().data.resolve_data_config(model=model)
    interpolation = str(config["interpolation"])
    return {
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "size": int(config["input_size"][-1]),
        "interpolation": "bilinear" if interpolation == "random" else interpolation,  # in training one of two at random
        "crop": float(config["crop_pct"]),
    }


def _labels(model: Any) -> list[str] | None:
    """Return the names of the classes of pretrained weights, where timm knows them."""
    data, config = timm().data, model.pretrained_cfg
    if config.get("label_names"):
        return [str(name) for name in config["label_names"]]
    subset = data.infer_imagenet_subset(config)
    names = None if subset is None else data.ImageNetInfo(subset).label_descriptions()
    return names if names is not None and len(names) == model.num_classes else None


def _unknown_argument(error: TypeError, name: str) -> str:
    """Return the message for an argument that a net does not have, with the closest that it has."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown is None:
        return str(error)
    with building(untraced=True):
        known = inspect.signature(type(timm().create_model(name)).__init__).parameters.keys() - {"self", *_OURS}
    return f"{name} of timm has no argument {unknown[1]!r}{suggest(unknown[1], known)}"
