"""What one uses of a model, however it was trained: its net, its input, freezing, and folders to save it in."""

import inspect
import warnings
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from zoo.arguments import check_types
from zoo.blocks.layers import layer_groups, modules_of, parameters_of
from zoo.blocks.modes import evaluating
from zoo.blocks.vocabulary import Vocabulary
from zoo.internals import hide_arguments, tree_map
from zoo.pretrained import hub
from zoo.pretrained.folder import save_folder
from zoo.pretrained.report import LoadReport
from zoo.registry import OF_NAMED_NET, name_of, signature_of
from zoo.spelling import suggest
from zoo.version import zoo_version

TOKENS = (torch.int16, torch.int32, torch.int64, torch.bool)  # types that are never standardized
Reads = Literal["image", "row", "text", "series", "nothing"]
Makes = Literal["label", "number", "mask", "image", "row", "text", "series", "episode"]
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest")
PREPROCESSING = ("mean", "std", "size", "interpolation", "crop")
# What a model keeps of its texts, and the argument that is the number of tokens.
VOCABULARIES = {"vocabulary": "vocab_size", "source_vocabulary": "source_vocab_size"}
_given: ContextVar[Collection[str] | None] = ContextVar("given", default=None)  # while a checkpoint's class is built


def comes_from_file(argument: str) -> bool:
    """Return whether the value of a constructor's argument is that of a checkpoint which ``load_from_checkpoint`` reads."""
    given = _given.get()
    return given is not None and argument not in given


def real_device() -> torch.device:
    """Return the default device, but the CPU instead of the meta device, on which only nets are built."""
    device = torch.get_default_device()
    return torch.device("cpu") if device.type == "meta" else device


def held_by_float32(mean: Tensor, std: Tensor) -> bool:
    """Whether float32 holds means to a ten-thousandth of the deviations beside them, and those to its full precision."""
    mean, std = (t.detach().cpu().double() for t in (mean, std))
    known, least = (mean - mean.float()).abs() <= 1e-4 * std, torch.finfo(torch.float32).tiny
    return bool((known & (std.float() >= least) & std.float().isfinite()).all())


def spelled(name: str) -> str:
    """Return the name of a vocabulary as messages have it."""
    return name.replace("_", " ")


def _differ(one: Any, other: Any) -> bool:
    """Whether two settings differ; shares by more than a pixel of a few hundred."""
    return abs(one - other) > 0.002 if isinstance(one, float) else bool(one != other)


def check_num_classes(num_classes: int, data: Any) -> None:
    """Refuse a datamodule with another number of classes than the model's.

    Raises:
        ValueError: The numbers differ.
    """
    classes = getattr(data, "num_classes", None)
    if classes is not None and classes != num_classes:
        raise ValueError(
            f"num_classes is {num_classes}, but {type(data).__name__} has {classes} classes: leave num_classes out on the command "
            f"line, or build the model with num_classes={classes}"
        )


class Model(LightningModule):
    """A net with what is needed to use it: standardization, class names, freezing, saving. :class:`zoo.Task` trains it.

    Attributes:
        net: The network, a plain module. It takes standardized input.
        mean, std: Buffers, one number a channel or column; input is standardized with them. They are float64, whatever the type
            of the net, where float32 cannot hold them (a column of timestamps).
        class_names: Names of the classes, None where the data have none.
        input_shape: Shape of one example, without the batch; None before any data were seen.
        vocabulary: What the tokens of a text stand for, the description of a :class:`zoo.blocks.Vocabulary`: plain data, copied
            from the datamodule at the first fit; None for a model that reads and writes no text. Of a model that reads one language
            and writes another, what it writes.
        source_vocabulary: The same of the texts that are read, where they have another vocabulary than those that are written;
            None for all other models.
        preparation: How the datamodule turned files into input, as plain data.
        preprocessing: How images must be prepared for the net, see :meth:`set_preprocessing`; None where nobody said so.
        load_report: What became of every tensor when weights were loaded; None for fresh weights.
        trained_parts: Names of the submodules and parameters that are trained, "net" first. All of them are in the optimizer, in
            the layer groups and in ``weights=``. A part that is only kept (a target net) is not in it and requires no gradient.
            See :meth:`build_parts`.
        standardize_axis: Axis of the input along which ``mean`` and ``std`` lie: 1 for channels ``(B, C, ...)`` and columns
            ``(B, D)``, -1 for series ``(B, T, D)``.
        statistics: Names of the buffers of a mean and a deviation, in pairs.
        filled_arguments: Hyperparameters that the model completes by itself: a checkpoint has more of them than was given.
        training_arguments: Hyperparameters of the training (optimizer, learning rate): ``weights=`` brings all others along.
        training_buffers: Buffers that describe the training data (class weights), and hyperparameters of the same name:
            ``weights=`` leaves them alone.
        weight_sources: Arguments that name a file, a folder or a repository of weights to start from. They are no hyperparameters:
            nothing opens them for a file, whose model has all its tensors in it.
        other_sources: Arguments that name another file, folder or repository, which is used and not kept. They are no
            hyperparameters either: a model that is loaded has none until it is given one.
        training_sources: Those of ``other_sources`` that a fit alone uses: evaluating a checkpoint does not open them.
        sample_options: Options of ``zoo sample`` that this model takes beside the number of samples and the seed.
        output_meaning: What :meth:`outputs` gives, for who reads an exported file.
    """

    net: nn.Module
    mean: Tensor
    std: Tensor
    class_names: list[str] | None = None
    input_shape: tuple[int, ...] | None = None
    vocabulary: dict[str, Any] | None = None
    source_vocabulary: dict[str, Any] | None = None
    preparation: dict[str, Any] | None = None
    preprocessing: dict[str, Any] | None = None
    load_report: LoadReport | None = None
    trained_parts: tuple[str, ...] = ("net",)
    standardize_axis: ClassVar[int] = 1
    statistics: ClassVar[tuple[tuple[str, str], ...]] = (("mean", "std"),)
    training_arguments: ClassVar[tuple[str, ...]] = ()
    training_buffers: ClassVar[tuple[str, ...]] = ()
    filled_arguments: ClassVar[tuple[str, ...]] = ()
    weight_sources: ClassVar[tuple[str, ...]] = ("weights",)
    other_sources: ClassVar[tuple[str, ...]] = ()
    training_sources: ClassVar[tuple[str, ...]] = ()
    sample_options: tuple[str, ...] = ()
    output_meaning: str = "what the model's forward gives"
    __signature__: ClassVar[inspect.Signature]
    _frozen = 0
    _resting: Mapping[str, set[str]] = MappingProxyType(
        {}
    )  # of each part that is only kept: modules in evaluation mode
    _standardized = False
    _vocabularies_of_data: Mapping[str, Vocabulary] = MappingProxyType({})  # of the trainer's

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show in the signature, and so in ``help`` and in ``zoo fit --help``, what ``**task`` stands for."""
        super().__init_subclass__(**kwargs)
        if (init := vars(cls).get("__init__")) is None:
            return
        cls.__signature__ = signature_of(cls)
        # The command line takes names and types of **task from its TypedDict, which has neither defaults nor descriptions;
        # where there is none it follows super().__init__(), and finds all four.
        signature = inspect.signature(init)
        parameters = [
            p.replace(annotation=Any) if p.kind is p.VAR_KEYWORD else p for p in signature.parameters.values()
        ]
        vars(init)["__signature__"] = signature.replace(parameters=parameters)
        hide_arguments(cls, set(OF_NAMED_NET) - cls.__signature__.parameters.keys())

    def __new__(cls, /, *args: Any, **kwargs: Any) -> Self:
        """Check the types of the arguments, before a net is built from them."""
        if signature := getattr(cls, "__signature__", None):
            check_types(signature, args, kwargs)
        return super().__new__(cls)

    @property
    def net_by_name(self) -> str | None:
        """Name of the net, of a model that builds it by its name; None for others."""
        return None

    # Capabilities ---------------------------------------------------------------------------------------------------

    @property
    def reads(self) -> Reads | None:
        """Kind of input that predictions are made from; None where the shape of an example is not known yet."""
        try:
            return "image" if len(self.example_shape) == 3 else "row"
        except ValueError:
            return None

    @property
    def makes(self) -> Makes | None:
        """Kind of output that a prediction is; None for numbers about the input alone, such as a log-likelihood."""
        return None

    @property
    def samples(self) -> Makes | None:
        """Kind of output that ``sample(count, seed=0, **sample_options)`` makes; None for a model that makes no new examples."""
        return None

    @property
    def predict_options(self) -> tuple[str, ...]:
        """Options of ``zoo predict`` that this model takes, e.g. ``("top", "features")``."""
        return ("features",) if hasattr(self.net, "reset_head") else ()

    @property
    def learns(self) -> tuple[str, ...]:
        """Kinds of data (``datamodule.kind``) whose targets it is trained on; empty for a model that takes any."""
        return {"label": ("classification",), "number": ("regression",), "mask": ("segmentation",)}.get(
            self.makes or "", ()
        )

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None where there are none."""
        return getattr(self.net, "num_classes", None) or None

    @property
    def vocab_size(self) -> int | None:
        """Size V of the vocabulary that the net is built for; None for a net that takes no tokens."""
        return getattr(self.net, "vocab_size", None)

    @property
    def source_vocab_size(self) -> int | None:
        """Size of the vocabulary of the texts that the net reads, where that is another one than it writes; None for others."""
        return getattr(self.net, "source_vocab_size", None)

    @property
    def label_names(self) -> list[str]:
        """Names of the classes, or their numbers as text where the data named none."""
        return self.class_names or [str(k) for k in range(self.num_classes or 0)]

    # Input and output -----------------------------------------------------------------------------------------------

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example: as the data told, else as the net is built for.

        Raises:
            ValueError: Neither the data nor the net tell it.
        """
        if self.input_shape is not None:
            return self.input_shape
        hparams, channels = self.hparams, getattr(self.net, "in_channels", None)
        if (shape := hparams.get("input_shape")) is not None:
            return tuple(shape)
        if hparams.get("in_features") is not None:
            return (hparams["in_features"],)
        if channels is not None:
            return (channels, *[int(getattr(self.net, "image_size", 224))] * 2)
        raise ValueError(
            f"the shape of an example is not known: {type(self).__name__} has seen no data, and its net, a "
            f"{type(self.net).__name__}, does not tell it; set input_shape, or define example_inputs"
        )

    def example_inputs(self, batch_size: int = 1) -> tuple[Any, ...]:
        """Return inputs of :meth:`forward`, all zeros, of the right structure, type and shape.

        The first look of a fit, the contract kit, export and ``zoo models`` use it. A model whose input is no float tensor of
        ``example_shape`` defines its own.

        Args:
            batch_size: Number of examples, >= 1.

        Raises:
            ValueError: The shape is not known, see :attr:`example_shape`.
        """
        return (torch.zeros(batch_size, *self.example_shape, device=self.mean.device, dtype=self.net_dtype),)

    def example_output(self) -> Any:
        """Return the net's output for one example of :meth:`example_inputs`; :meth:`output_shape` is held against it."""
        net: Any = self.net
        first, *rest = self.example_inputs()
        return net(self.standardize(first), *rest)

    def outputs(self, *inputs: Any) -> dict[str, Any]:
        """Return what a prediction for inputs of :meth:`forward` is made of, by name: tensors, the batch in front.

        It is what :func:`zoo.export` writes as a graph; ``output_meaning`` says what it is.
        """
        return {"output": self(*inputs)}

    def output_shape(self) -> tuple[int, ...] | None:
        """Return the shape that the net must give for an example, without the batch; None if any will do."""
        return None

    @property
    def net_dtype(self) -> torch.dtype:
        """Type of the net's numbers, in which it takes input."""
        kinds = (tensor.dtype for tensor in chain(self.net.parameters(), self.net.buffers()))  # lazily: steps ask it
        return next((kind for kind in kinds if kind.is_floating_point), self.mean.dtype)

    def standardize(self, x: Any, dtype: torch.dtype | None = None) -> Any:
        """Return ``(x - mean) / std`` along ``standardize_axis``.

        Only numbers are standardized (floats, and pixels in uint8): tokens, lengths and masks pass as they are. Of an input with
        several parts, a NamedTuple, each part is treated so. Images come out channels-last in memory where the net asks for it
        (``net.channels_last``).

        Args:
            x: Input in units of the data. Of float64 the mean is subtracted in float64, so that no digits are lost.
            dtype: Type in which float64 comes out; None: that of the net.

        Raises:
            ValueError: The input has another number of channels or columns than mean and deviation.
        """
        if not isinstance(x, Tensor):
            return tree_map(lambda part: self.standardize(part, dtype), x)
        if x.dtype in TOKENS:
            return x
        axis = self.standardize_axis % x.ndim if x.ndim > 1 else 0
        if 1 < len(self.mean) != x.shape[axis]:  # one channel would be taken for all of them
            raise ValueError(
                f"{type(self).__name__} knows mean and deviation of {len(self.mean)} channels or columns, and axis {axis} of an "
                f"input of shape {tuple(x.shape)} has {x.shape[axis]}: pass a batch with {len(self.mean)}; for one example, x[None]"
            )
        shape = (-1, *[1] * (x.ndim - 1 - axis))
        x = (x - self.mean.view(shape)) / self.std.view(shape)
        if x.dtype == torch.float64:
            x = x.to(dtype or self.net_dtype)
        # an exported graph has no layout of its own, and torch would make it for images that have the example's
        channels_last = self._channels_last and x.ndim == 4 and not torch.compiler.is_exporting()
        return x.contiguous(memory_format=torch.channels_last) if channels_last else x

    def set_standardization(self, mean: Any, std: Any) -> Self:
        """Set ``mean`` and ``std``, one number or one a channel; a later fit keeps them instead of the data's own.

        Raises:
            ValueError: Numbers that are not finite or do not go together, or a deviation that is not above 0.
        """
        values = [torch.as_tensor(v, dtype=torch.float64, device="cpu").flatten() for v in (mean, std)]
        if values[0].shape != values[1].shape or not torch.stack(values).isfinite().all() or not (values[1] > 0).all():
            raise ValueError(
                f"mean and std must be equally many finite numbers, std above 0, got {values[0].tolist()} and {values[1].tolist()}"
            )
        self._set_statistics(("mean", "std"), *values)
        self._standardized = True
        return self

    def set_preprocessing(self, preprocessing: Mapping[str, Any]) -> Self:
        """Set how images must be prepared for the net, as for weights that were trained elsewhere.

        Args:
            preprocessing: Any of ``mean`` and ``std``, see :meth:`set_standardization`; ``size``, the side of the images in pixels;
                ``interpolation``, "bilinear", "bicubic", "lanczos" or "nearest"; ``crop``, the share of the center square's side
                that is kept. The last three say how ``zoo predict`` reads files, until the model is fitted to data; a fit on
                other images says so.

        Raises:
            ValueError: Another entry, or a value out of its range.
        """
        given = {key: value for key, value in preprocessing.items() if value is not None}
        if unknown := [key for key in given if key not in PREPROCESSING]:
            raise ValueError(
                f"preprocessing has no {unknown[0]!r}{suggest(unknown[0], PREPROCESSING)}; give any of {PREPROCESSING}"
            )
        if ("mean" in given) != ("std" in given):
            raise ValueError(f"preprocessing must give mean and std together, got {given}")
        size, crop = given.get("size", 1), given.get("crop", 1.0)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"preprocessing: size must be a number of pixels, 1 or more, got {size!r}")
        if isinstance(crop, bool) or not isinstance(crop, int | float) or not 0 < crop <= 1:
            raise ValueError(f"preprocessing: crop must be a share in (0, 1], got {crop!r}")
        if given.get("interpolation", "bilinear") not in INTERPOLATIONS:
            raise ValueError(
                f"preprocessing: interpolation must be one of {INTERPOLATIONS}, got {given['interpolation']!r}"
            )
        if "mean" in given:
            self.set_standardization(given["mean"], given["std"])
        channels = getattr(self.net, "in_channels", None)
        if "size" in given and channels is not None:
            self.input_shape = (channels, size, size)
        files = {"center": given.get("crop"), "interpolation": given.get("interpolation")}
        self.preparation = {
            **(self.preparation or {}),
            **{key: value for key, value in files.items() if value is not None},
        }
        self.preprocessing = {**(self.preprocessing or {}), **given}
        return self

    def _set_statistics(self, names: tuple[str, str], mean: Tensor, std: Tensor) -> None:
        """Set the buffers of a mean and a deviation, in float64 only where float32 cannot hold them."""
        exact = not held_by_float32(mean, std)
        for name, value in zip(names, (mean, std), strict=True):
            buffer = getattr(self, name)
            setattr(self, name, value.to(buffer.device, torch.float64 if exact else buffer.dtype).clone())

    def make_room(self, state: Mapping[str, Tensor], prefix: str = "") -> None:
        """Give the buffers of means and deviations shape and type for those that will be loaded."""
        for names in self.statistics:
            pair = {name: state[prefix + name] for name in names if prefix + name in state}
            exact = len(pair) == 2 and not held_by_float32(*pair.values())
            for name, value in pair.items():
                buffer = getattr(self, name)
                shape = value.shape if names == ("mean", "std") else buffer.shape  # that of the data, not of the model
                dtype = torch.float64 if exact else buffer.dtype
                if (shape, dtype) != (buffer.shape, buffer.dtype):
                    setattr(self, name, torch.empty(shape, dtype=dtype, device=buffer.device))

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Keep what float32 cannot hold in float64, to whatever type the module is cast."""
        exact: dict[str, Tensor] = {}
        for names in self.statistics:
            pair = [getattr(self, name) for name in names]
            if all(t.dtype == torch.float64 and not t.is_meta for t in pair) and not held_by_float32(*pair):
                exact.update(zip(names, pair, strict=True))
        super()._apply(fn, recurse)
        for name, value in exact.items():
            if (cast := getattr(self, name)).dtype != torch.float64:
                setattr(self, name, value.to(cast.device))
        return self

    def check_digits(self, what: str, mean: Any, std: Any) -> None:
        """Refuse numbers that a model learns as they are, not standardized, and that its precision cannot hold.

        Args:
            what: What the numbers are, for the message.
            mean, std: Their statistics, as the datamodule has them; None if it has none.

        Raises:
            ValueError: float32 loses digits that matter beside the deviation, and the trainer is not one of float64.
        """
        if mean is None or str(self.trainer.precision) == "64-true":
            return
        pair = [torch.as_tensor(v, dtype=torch.float64, device="cpu") for v in (mean, std)]
        columns = zip(*(values.flatten() for values in pair), strict=True)
        if wrong := [column for column in columns if not held_by_float32(*column)]:
            raise ValueError(
                f"{type(self).__name__} learns {what} as they are, and float32 cannot hold them (mean {wrong[0][0]:.15g}, "
                f"deviation {wrong[0][1]:g}): subtract a constant, or train with trainer.precision=64-true"
            )

    def _check_precision(self) -> None:
        """Refuse a trainer whose batches cannot hold the data's digits.

        Raises:
            ValueError: Statistics are float64, and the trainer casts batches to half precision or has a device without float64.
        """
        device = self.trainer.strategy.root_device.type
        narrow = self.trainer.precision if str(self.trainer.precision) in ("16-true", "bf16-true") else None
        if narrow is None and device != "mps":
            return
        for names in self.statistics:
            mean, std = (getattr(self, name).cpu().double() for name in names)
            wrong = ((mean - mean.float()).abs() > 1e-4 * std).nonzero()
            if len(wrong):
                at = int(wrong[0])
                cure = "trainer.accelerator=cpu" if narrow is None else "trainer.precision=32-true or bf16-mixed"
                raise ValueError(
                    f"{names[0]} {mean[at]:.15g} with the deviation {std[at]:g} (column {at + 1}) needs float64, and batches on "
                    f"{device} with precision {self.trainer.precision} have none: train with {cure}"
                )

    @property
    def standardized(self) -> bool:
        """Whether ``mean`` and ``std`` are known: set, copied from data, or loaded."""
        return self._standardized or bool((self.mean != 0).any() or (self.std != 1).any())

    @property
    def _channels_last(self) -> bool:
        return getattr(self.net, "channels_last", False)

    def build_parts(self) -> None:
        """Build what the task trains or keeps beside its net (a projector, a teacher, a temperature), as attributes.

        ``net`` and ``hparams`` are set; ``weights=`` are loaded afterwards, so that they reach these parts too (a copy of the net
        made here is one of its fresh values). Name those that are trained in ``trained_parts``; those that are only kept must
        not require a gradient.
        """

    def register_task_buffers(self) -> None:
        """Register the tensors that belong to the task, not to the net. Call the parent's first.

        ``hparams`` are known. New tensors are real ones even where the net is built on the meta device for weights to come.
        """
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("std", torch.ones(1))

    def setup(self, stage: str) -> None:
        """Copy what the datamodule knows of its data, and refuse data that the net cannot take."""
        if self._channels_last:
            self.net.to(memory_format=torch.channels_last)
        data = getattr(self.trainer, "datamodule", None)
        self._compare_vocabularies(data)
        if stage == "fit" and data is not None:
            self._take_from(data)
        self._check_precision()

    def _take_from(self, data: Any) -> None:
        self._compare_preprocessing(data)
        for name, vocabulary in self._vocabularies_of_data.items():
            setattr(self, name, vocabulary.description)
        if not self.standardized and getattr(data, "mean", None) is not None:
            self.set_standardization(data.mean, data.std)
        if getattr(data, "class_names", None) is not None:
            self.class_names = [str(name) for name in data.class_names]
        self.preparation = getattr(data, "preparation", None)
        if getattr(data, "input_shape", None) is not None:
            self.input_shape = tuple(int(n) for n in data.input_shape)
            self.try_example()

    def _compare_vocabularies(self, data: Any) -> None:
        """Refuse data whose tokens are not those of the net."""
        given = {name: getattr(data, name, None) for name in VOCABULARIES}
        self._vocabularies_of_data = {name: Vocabulary(plain) for name, plain in given.items() if plain is not None}
        self.check_vocabularies("the model", {name: getattr(self, name) for name in VOCABULARIES})
        for name, vocabulary in self._vocabularies_of_data.items():
            argument, size = VOCABULARIES[name], vocabulary.size
            if (own := getattr(self, argument)) not in (None, size):
                raise ValueError(
                    f"{argument} is {own}, but {type(data).__name__} has a {spelled(name)} of {size} tokens: leave {argument} "
                    f"out on the command line, or build the model with {argument}={size}"
                )

    def check_vocabularies(self, whose: str, descriptions: Mapping[str, Any]) -> None:
        """Refuse vocabularies that are not those of the trainer's data.

        Args:
            whose: Who has them, for the message: "the model".
            descriptions: What a file or model says of its data, see :meth:`data_description`; without a vocabulary there is nothing
                to compare.

        Raises:
            ValueError: They differ; the message has both sizes and the first difference.
        """
        for name, here in self._vocabularies_of_data.items():
            if (there := descriptions.get(name)) is None or (difference := Vocabulary(there).difference(here)) is None:
                continue
            raise ValueError(
                f"{whose} has another {spelled(name)} than the data, so its tokens would stand for something else: {difference}; "
                "give the data that it was trained on, or train a new model"
            )

    def _compare_preprocessing(self, data: Any) -> None:
        """Tell of images that are prepared otherwise than those that the net was trained on."""
        wanted, shape = self.preprocessing or {}, getattr(data, "input_shape", None)
        files = getattr(data, "preparation", None) or {}
        here = {
            "size": shape[-1] if shape and len(shape) == 3 else None,
            "interpolation": files.get("interpolation"),
            "center": files.get("center"),
        }
        there = {key: wanted.get("crop" if key == "center" else key) for key in here}
        there["center"] = None if there["center"] is None else round(there["center"], 3)
        differ = [key for key in here if None not in (here[key], there[key]) and _differ(here[key], there[key])]
        if differ:
            theirs, ours = (", ".join(f"{key} {values[key]}" for key in differ) for values in (there, here))
            warnings.warn(
                f"the net was trained on images of {theirs}, the data have {ours}: set "
                f"{' and '.join(f'{key}={there[key]}' for key in differ)} of {type(data).__name__} unless it is meant",
                stacklevel=2,
            )

    def try_example(self) -> None:
        """Run one example of zeros, so that an input shape that the net cannot take is found before any work is done.

        Raises:
            ValueError: The net cannot take it, or its output has another shape than the task needs.
        """
        shape = self.example_shape
        self._check_standardization(shape)
        try:
            with evaluating(self):
                output = self.example_output()
        except (RuntimeError, IndexError, ValueError) as error:  # a norm of one value is a ValueError
            raise ValueError(
                f"{type(self.net).__name__} cannot take the data's input of shape {shape}: {error}"
            ) from error
        wanted = self.output_shape()
        if wanted is not None and (got := tuple(getattr(output, "shape", ()))[1:]) != wanted:
            raise ValueError(
                f"{type(self.net).__name__} gives {got or type(output).__name__} an example, {type(self).__name__} wants "
                f"{wanted}: build the net with {wanted[0]} outputs, or the task with what the net gives"
            )

    # Freezing -------------------------------------------------------------------------------------------------------

    def layer_groups(self) -> list[list[str]]:
        """Return the trained layers by depth, input first: those of the net, its head last, then the other trained parts.

        Names are relative to the net, see :func:`zoo.blocks.layer_groups`; each other part is a group of its own.
        """
        return [*layer_groups(self.net), *([part] for part in self.trained_parts if part != "net")]

    def group_of(self, layer: str) -> int:
        """Return the index of a layer group by the name of a module that begins or contains it.

        Args:
            layer: Name of a module or parameter of the net, or of another trained part; "head": the last group of the net; "all":
                the first.

        Raises:
            ValueError: No such module, or one inside a layer group that is frozen as a whole.
        """
        groups = self.layer_groups()
        if layer in ("head", "all"):
            return self._num_net_groups(groups) - 1 if layer == "head" else 0
        places = {name: i for i, group in enumerate(groups) for name in group}
        if layer in places:
            return places[layer]
        if (lowest := next((i for name, i in places.items() if name.startswith(f"{layer}.")), None)) is not None:
            return lowest  # of a container of groups
        first = [group[0] for group in groups if group]
        parent = next((name for name in places if layer.startswith(f"{name}.")), None)
        if parent is not None:
            owner = self.net if places[parent] < self._num_net_groups(groups) else self
            inside = [n for n, _ in owner.named_parameters(remove_duplicate=False) if n.startswith(f"{parent}.")]
            if inside and f"{inside[0]}.".startswith(f"{layer}."):  # where the group begins
                return places[parent]
            if layer in dict(owner.named_modules()) or layer in inside:
                raise ValueError(
                    f"{layer!r} lies inside the layer group {parent!r}, which is frozen as a whole: name one of "
                    f"{', '.join(first)}, or define layer_groups() of {type(self.net).__name__} with smaller groups"
                )
        raise ValueError(f"no layer {layer!r}{suggest(layer, first)}; the layers are {', '.join(first)}")

    @property
    def frozen(self) -> int:
        """Number of frozen layer groups, counted from the input."""
        return self._frozen

    def freeze(self, below: int | str | None = None) -> Self:
        """Freeze the layer groups below one of them, and unfreeze all others.

        Frozen parameters get no gradient. Frozen modules stay in evaluation mode whatever :meth:`train` sets: their norms keep
        their statistics, their dropout is off. The state is saved in checkpoints. The optimizer holds all parameters at all
        times, so any schedule goes on. During a fit, change it through ``callbacks.LayerFreezing``, which also updates the
        distributed strategy.

        Args:
            below: Number of groups to freeze, 0 for none, negative counted from the end (-1: all but the last); or the name of a
                module: all groups below its own are frozen; None: all.

        Raises:
            TypeError: Neither a number nor a name.
            ValueError: Too large a number, or no such module; the message suggests the closest.
        """
        groups = self.layer_groups()
        if below is None:
            below = len(groups)
        if isinstance(below, str):
            below = self.group_of(below)
        if isinstance(below, bool) or not isinstance(below, int):
            raise TypeError(f"freeze takes a number of layer groups or the name of a module, got {below}")
        count = below + len(groups) if below < 0 else below
        if not 0 <= count <= len(groups):
            raise ValueError(
                f"{type(self.net).__name__} has {len(groups)} layer groups: freeze 0..{len(groups)}, got {below}"
            )
        self._frozen = count
        of_net = self._num_net_groups(groups)
        for i, names in enumerate(groups):  # a tied parameter, in several groups, follows the last
            for parameter in parameters_of(self.net if i < of_net else self, names):
                parameter.requires_grad_(i >= count)
        return self.train(self.training)

    def unfreeze(self) -> Self:
        """Unfreeze the whole model."""
        return self.freeze(0)

    def train(self, mode: bool = True) -> Self:
        """Set training mode for what is not frozen.

        A part that is only kept, not trained (a teacher), stays in the evaluation mode that the constructor gave it.
        """
        kept = {name: part for name, part in self.named_children() if name not in self.trained_parts}
        for name in kept.keys() - self._resting.keys():  # noted once, before a mode is set
            resting = {inner for inner, layer in kept[name].named_modules() if not layer.training}
            self._resting = {**self._resting, name: resting}
        super().train(mode)
        for name, module in kept.items() if mode else ():
            for inner, layer in module.named_modules():
                if inner in self._resting[name]:
                    layer.training = False
        if mode and self._frozen:
            groups = self.layer_groups()
            frozen, of_net = groups[: self._frozen], self._num_net_groups(groups)
            for owner, part in ((self.net, frozen[:of_net]), (self, frozen[of_net:])):
                for module in modules_of(owner, [name for names in part for name in names]):
                    module.eval()
        return self

    def _num_net_groups(self, groups: list[list[str]]) -> int:
        """Return how many of the layer groups are of the net; the names of the others are relative to the model itself."""
        return len(groups) - sum(part != "net" for part in self.trained_parts)

    # Saving and loading ---------------------------------------------------------------------------------------------

    def data_description(self) -> dict[str, Any]:
        """Return what the model remembers of its data, as plain data.

        Class names, shape of an example, preparation of files; of texts the vocabularies.
        """
        vocabularies = {name: getattr(self, name) for name in VOCABULARIES}
        return {
            "class_names": self.class_names,
            "input_shape": None if self.input_shape is None else list(self.input_shape),
            "preparation": self.preparation,
            **{name: description for name, description in vocabularies.items() if description is not None},
        }

    def describe_data(self, description: Mapping[str, Any]) -> None:
        """Set what :meth:`data_description` gave.

        Raises:
            ValueError: A vocabulary that is none.
        """
        names, shape = (description.get(key) for key in ("class_names", "input_shape"))
        for name in VOCABULARIES:
            if (vocabulary := description.get(name)) is not None:  # files of before have none
                setattr(self, name, Vocabulary(vocabulary).description)
        self.class_names = None if names is None else list(names)
        self.input_shape = None if shape is None else tuple(shape)
        self.preparation = description.get("preparation")

    def check_description(self) -> None:
        """Check that class names, input shape and standardization fit the net.

        Raises:
            ValueError: Standardization or the shape of an example is of another number of channels than the net, there is not one
                name for each class, or the vocabulary is of another size than the net's.
        """
        names, shape = self.class_names, self.input_shape
        for name, argument in VOCABULARIES.items():
            if (plain := getattr(self, name)) is None:
                continue
            if (own := getattr(self, argument)) not in (None, size := Vocabulary(plain).size):
                raise ValueError(f"the {spelled(name)} has {size} tokens, the net is built for {own}")
        if names is not None and self.num_classes not in (None, len(names)):
            raise ValueError(f"class_names has {len(names)} names, the model has {self.num_classes} classes")
        channels = getattr(self.net, "in_channels", None)
        if shape is not None and len(shape) == 3 and channels not in (None, shape[0]):
            raise ValueError(f"input_shape is {list(shape)}, the net is built for {channels} channels")
        if shape is not None or channels is not None:
            self._check_standardization(self.example_shape)

    def _check_standardization(self, shape: tuple[int, ...]) -> None:
        axis = self.standardize_axis - 1 if self.standardize_axis > 0 else -1
        channels = shape[axis] if shape else 1  # an example may be one number
        if self.mean.numel() not in (1, channels):
            raise ValueError(
                f"the model was standardized for {self.mean.numel()} channels, the data have {channels} (shape {shape})"
            )

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        self.make_room(state_dict, prefix)  # one number before the first fit, one a channel afterwards
        self._standardized = self._standardized or prefix + "mean" in state_dict
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Rebuild a model from a checkpoint, as Lightning does; nothing that the file names is imported (an optimizer, a net).

        See ``LightningModule.load_from_checkpoint``; :func:`zoo.load` needs no class and checks more.
        """
        token = _given.set(frozenset(kwargs))
        try:
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        finally:
            _given.reset(token)

    def save_pretrained(self, folder: str | Path, training: Mapping[str, Any] | None = None) -> Path:
        """Write a folder that :func:`zoo.load` reads: ``config.json``, ``model.safetensors`` and ``README.md`` (a model card).

        ``model.safetensors`` holds exactly ``state_dict()``; ``config.json`` holds plain data: the registered name, all
        hyperparameters and what the model remembers of its data.

        Args:
            folder: Created if it does not exist.
            training: How the model was trained, plain data by name, for the card and the config.

        Returns:
            The folder.

        Raises:
            ValueError: The class is not registered (``zoo.register``), or its net was given from outside, so that nobody could
                rebuild it from the folder.
        """
        cls, name = type(self), name_of(self)
        if "net" in self.hparams and self.net_by_name is None:
            raise ValueError(
                f"the net, a {self.hparams['net']}, was given from outside, so nobody could rebuild it from a folder: keep a "
                "checkpoint (trainer.save_checkpoint) for load_from_checkpoint(path, net=net), or register a class that builds it"
            )
        if name is None:
            raise ValueError(
                f"{cls.__name__} is not registered, so the folder could not be read again: "
                f"zoo.register('my_model', {cls.__name__})"
            )
        config = {
            "model": name,
            "zoo_version": zoo_version(),
            "hparams": dict(self.hparams),
            **self.data_description(),
            **({} if training is None else {"training": dict(training)}),
        }
        net = type(self.net)
        facts = {
            "class": f"{cls.__module__}.{cls.__name__}",
            "net": net.__name__,
            "source": (inspect.getdoc(inspect.getmodule(net)) or "").split("\n\n")[0].replace("\n", " "),
            "parameters": sum(p.numel() for p in self.parameters()),
            "reads": self.reads,
            "makes": self.makes,
            "vocabularies": {name: Vocabulary(config[name]) for name in reversed(VOCABULARIES) if config.get(name)},
        }
        return save_folder(Path(folder), config, self.state_dict(), facts)

    def push_to_hub(self, repository: str, private: bool = False) -> str:
        """Upload what :meth:`save_pretrained` writes to a repository of the Hugging Face hub, created if there is none.

        Log in once before, with ``hf auth login`` or the variable ``HF_TOKEN``.

        Args:
            repository: ``"owner/name"``; ``zoo.load`` and ``weights=`` take it.
            private: Whether a repository that is created now is private.

        Returns:
            The address of the repository.

        Raises:
            ValueError: The class is not registered, or the repository has no valid name.
            ConnectionError: The hub cannot be reached, or refuses.
        """
        return hub.upload(self.save_pretrained, repository, private)
