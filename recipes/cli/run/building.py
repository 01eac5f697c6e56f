"""From a recipe and the command line to a datamodule, a model and the trainer's arguments, with ``LightningCLI``."""

import argparse
import copy
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from typing_extensions import override

from datamodules import DataModule, use_fold
from recipes.cli import catalog
from recipes.cli.errors import UserError, message
from recipes.cli.run.changes import check_length, check_resumable, contradiction, differences, shown
from recipes.cli.run.checks import check_callbacks, check_seed, check_trainer
from recipes.cli.run.internals import whole_numbers_first
from recipes.cli.run.parse_errors import reduce_parse_error, unwrap
from recipes.cli.yaml_files import check_section, read_recipe, read_yaml
from zoo import registry
from zoo.blocks.skeleton import at_most
from zoo.blocks.vocabulary import Vocabulary
from zoo.create import OtherVocabulary
from zoo.model import VOCABULARIES
from zoo.pretrained.schema import check_hyperparameters

whole_numbers_first(Trainer.__init__)
# trainer arguments that options of the command line replace
_RESERVED = {"logger": "--logger", "default_root_dir": "--runs"}
_CLASS_OPTIONS = ("--model", "--data", "--trainer", "--trainer.callbacks")  # the parser reads a file there as YAML
# arguments of data that older runs do not have, and what these runs did; a run reads its data in one way from start to end
_BEFORE = {"draft": False}


class RecipeCLI(LightningCLI):
    """Parse a recipe and build its datamodule, then its model; the session builds the trainer.

    Values that the data determine (``num_classes``, ``in_channels`` ...) become arguments of the model unless the user gave
    them. Lightning's own links silently replace the user's values; here a contradiction is refused. The same holds for the
    hyperparameters that a checkpoint was trained with.

    Args:
        args: ``-c FILE ...`` and the overrides.
        overrides: Those of ``args`` that are given on the command line.
        checkpoint: The checkpoint in use.
        resume: Whether a run is resumed: what contradicts the checkpoint is refused. If not, the hyperparameters of the checkpoint
            take precedence over those of the recipe (evaluation).
        verb_options: The verb's own options, for suggestions.

    Attributes:
        datamodule: The datamodule, or None.
        fold: The fold that validates, "2 of 5"; "" if the datamodule chooses by itself.
        model: The model.
        config_init: Its ``trainer`` holds the trainer's arguments, with callbacks built.
    """

    def __init__(
        self,
        args: list[str],
        overrides: list[str],
        checkpoint: Mapping[str, Any] | None = None,
        resume: bool = False,
        verb_options: Sequence[str] = (),
    ) -> None:
        self.overrides, self.verb_options = overrides, verb_options
        self.checkpoint = checkpoint or {}
        self.saved_hparams: dict[str, Any] = dict(self.checkpoint.get("hyper_parameters") or {})
        self.resume = resume
        self._filled: set[str] = set()  # arguments of the model whose values come from the data
        super().__init__(
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults={"devices": 1},  # the recipes' numbers are measured on one device
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
            args=args,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    # Parsing --------------------------------------------------------------------------------------------------------

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self._check_yaml(args)
        try:
            self.given = self._parse(args, defaults=False)  # only what the user gave
            self.config = self._parse(args)
            with nulls_checked():
                parser.validate(self.given, skip_required=True)
            self._args = args
            if self.resume:
                _ = self.changes
        except (argparse.ArgumentError, TypeError) as error:
            known = lambda: self._known_options(args)  # noqa: E731
            raise UserError(reduce_parse_error(str(error), args, known, arguments_of)) from error
        if not isinstance(self.config.trainer, Namespace):
            raise UserError(f"trainer must be a mapping {{option: value, ...}}, got {self.config.trainer}")
        for name, option in _RESERVED.items():
            if self.given.get(f"trainer.{name}") is not None:
                raise UserError(f"trainer.{name} is set by {option}: use that, and leave trainer.{name} out")
        check_seed(self.config.seed_everything)
        check_trainer(trainer := self.config.trainer.as_dict())
        if self.resume:
            check_resumable(self.changes)
            check_length(self.checkpoint, trainer, self.changes)

    @cached_property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """What differs from the first file: by key, both values."""
        args = self._args
        if len(args) < 2:
            return {}
        try:
            first = self._parse(args[:1])
        except argparse.ArgumentError:
            if self.resume:
                raise
            # only complete together with the others
            return {arg.partition("=")[0].lstrip("-"): (None, None) for arg in args[1:] if arg.startswith("--")}
        linked = {f"model.{name}" for name in LINKED}  # compared with the data when the model is built
        return {key: values for key, values in differences(self._plain(first), self.plain).items() if key not in linked}

    @cached_property
    def plain(self) -> dict[str, Any]:
        """The configuration as plain data: texts, numbers, lists, dicts."""
        return self._plain(self.config)

    def _plain(self, config: Namespace) -> dict[str, Any]:
        text = self.parser.dump(config, skip_none=False, skip_validation=True)  # it is parsed
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))

    def _check_yaml(self, args: list[str]) -> None:
        """Check the files, and the values that are YAML of their own; remember the files' content."""
        pairs = [arg.partition("=")[::2] for arg in args]
        paths = [Path(value) for option, value in pairs if option == "--config"]
        self._files = [read_recipe(path) for path in paths]
        self.fold = next((fold for path in paths if (fold := catalog.read(path, "recipe").fold)), "")
        for option, value in [*pairwise(args), *pairs]:
            if value[:1] in ("[", "{"):
                read_yaml(value, option)
            if option.rstrip("+") in _CLASS_OPTIONS and os.path.isfile(value):
                check_section(Path(value), option)

    def _known_options(self, args: list[str]) -> list[str]:
        """Return all options: those of the verb, and those of the classes that the recipe or the command line names."""
        options = ["--config", *self.verb_options, "--print_config", "--debug", "--help"]
        for key in ("model", "data"):
            given = [config[key] for config in self._files if isinstance(config.get(key), dict)]
            paths = [config["class_path"] for config in given if "class_path" in config]
            for name in (f"--{key}", f"--{key}.class_path"):
                paths += [after for arg, after in pairwise(args) if arg == name]
                paths += [arg.partition("=")[2] for arg in args if arg.startswith(f"{name}=")]
            options += [f"--{key}", *(f"--{key}.{name}" for name in (arguments_of(str(paths[-1])) if paths else ()))]
        return options + [f"--{name}" for name in vars(self.parser.get_defaults(skip_validation=True).as_flat())]

    def _parse(self, args: list[str], defaults: bool = True) -> Namespace:
        config = self._parse_filled(args, defaults)
        names = _BEFORE.keys() & self._init_args(config, "data").keys() if defaults and self.checkpoint else ()
        if names:
            given = self._init_args(self._parse_filled(args, defaults=False), "data")
            trained = (self.checkpoint.get("zoo") or {}).get("preparation") or {}
            for name in names - given.keys():
                config[f"data.init_args.{name}"] = trained.get(name, _BEFORE[name])
        return config

    def _parse_filled(self, args: list[str], defaults: bool) -> Namespace:
        try:
            return self.parser.parse_args(args, defaults=defaults)
        except argparse.ArgumentError as error:
            match = re.search(r"class_path '[^']+':\s*the following arguments are required: ([\w, ]+)", str(error))
            names = match[1].strip().split(", ") if match else []
            if not names or not set(names) <= LINKED:
                raise
            # placeholders until the data are built
            self._filled |= set(names)
            placeholders = [f"--model.{name}={'[1]' if name == 'input_shape' else 1}" for name in names]
            return self.parser.parse_args([*args, *placeholders], defaults=defaults)

    def _init_args(self, config: Namespace, key: str) -> dict[str, Any]:
        return dict(config.get(f"{key}.init_args") or {})

    # Building -------------------------------------------------------------------------------------------------------

    @override
    def instantiate_classes(self) -> None:
        data = self.config.get("data")
        with self._folded():
            self.datamodule = self._build("data", data) if data else None
        model = self.config.model.clone()
        for name, value in self._values_to_fill(linked_values(self.datamodule)).items():
            model[f"init_args.{name}"] = value
        if self.saved_hparams:
            cls = import_class(model.class_path)
            # the checkpoint has the weights, and an evaluation does not train
            for name in (
                *getattr(cls, "weight_sources", ()),
                *(() if self.resume else getattr(cls, "training_sources", ())),
            ):
                if f"init_args.{name}" in model:
                    model[f"init_args.{name}"] = None
        tensors = self.checkpoint.get("state_dict") if is_model(import_class(model.class_path)) else None
        with at_most(tensors.values()) if tensors else nullcontext():
            self.model = self._build("model", model)
        check_kind(self.model, self.datamodule)
        self.config_init = Namespace(trainer=self._build("trainer", self.config.trainer))
        check_callbacks(
            as_list(self.config_init.trainer.get("callbacks")), as_list(self.config.trainer.get("callbacks"))
        )

    @property
    def first_seed(self) -> int:
        """The seed of the first of several runs: that of the recipe, 0 if it draws its own."""
        seed = self.config.seed_everything
        return seed if isinstance(seed, int) and not isinstance(seed, bool) else 0

    def _folded(self) -> AbstractContextManager[None]:
        """Build the data of a run that validates on a fold of its training part."""
        if not self.fold:
            return nullcontext()
        cls = import_class(self.config.data.class_path) if self.config.get("data") else None
        if not (isinstance(cls, type) and issubclass(cls, DataModule)):
            raise UserError(
                f"folds are for data that are a datamodules.DataModule, and {getattr(cls, '__name__', 'the recipe')} is none"
            )
        number, _, of = self.fold.split()[:3]
        return use_fold(int(number), int(of))

    def _build(self, key: str, config: Namespace) -> Any:
        try:
            return self.parser.instantiate_classes(Namespace(**{key: config}))[key]
        except Exception as error:
            cause = unwrap(error)
            if isinstance(cause, RuntimeError | ArithmeticError) or _is_raw(cause):
                what = config.get("class_path", "the callbacks")
                raise UserError(f"{key}: {what} cannot be built from its arguments: {message(cause)}") from error  # type: ignore[arg-type]
            if isinstance(cause, OtherVocabulary) and (
                difference := self._difference(cause.vocabulary.description, cause.kind)
            ):
                raise UserError(f"{message(cause)}{difference}") from error
            if option := _about(key, config, cause):
                raise UserError(f"{option}: {message(cause)}") from error  # type: ignore[arg-type]
            raise cause from None

    def _values_to_fill(self, linked: dict[str, Any]) -> dict[str, Any]:
        given = {k: v for k, v in self._init_args(self.given, "model").items() if k not in self._filled}
        strict = given if self.resume else self._given_on_command_line()
        names = arguments_of(self.config.model.class_path)
        cls = import_class(self.config.model.class_path)
        left_out = {"net", *registry.sources_of(cls)}
        saved = {name: value for name, value in self.saved_hparams.items() if name in names and name not in left_out}
        if is_model(cls):
            check_hyperparameters(saved, registry.arguments_of(cls), "the checkpoint")
        if "." in str(saved.get("optimizer", "")) and saved["optimizer"] != given.get("optimizer"):
            raise UserError(
                f"the checkpoint's optimizer {saved['optimizer']!r} would have to be imported, which no file may ask for: "
                f"give --model.optimizer {saved['optimizer']} if you trust it"
            )
        for name, value in saved.items():
            if name in strict and not _same(strict[name], value) and not _completed(cls, name, strict[name], value):
                raise contradiction(f"model.{name}", strict[name], value, self.resume)
        for name, value in linked.items():
            source = saved if name in saved else given
            if name in names and name in source and not _same(source[name], value):
                what = f"the checkpoint's {name}" if source is saved else f"--model.{name}"
                cure = "use the data it was trained on" if source is saved else "leave it out"
                kind = next((kind for kind, argument in VOCABULARIES.items() if argument == name), "")
                theirs = (self.checkpoint.get("zoo") or {}).get(kind)
                has = f"{shown(value)}{self._difference(theirs, kind)}"
                raise UserError(f"{what} {shown(source[name])} contradicts the data, which has {has}: {cure}")
        from_data = {name: value for name, value in linked.items() if name in names and name not in given}
        if missing := self._filled - from_data.keys() - saved.keys():
            raise UserError(f"{self.config.model.class_path} requires a value for {', '.join(sorted(missing))}")
        self._filled |= from_data.keys()
        return {**from_data, **saved}

    def _difference(self, theirs: Mapping[str, Any] | None, kind: str) -> str:
        """Where a vocabulary of the data is another one than that of a checkpoint or of weights."""
        here = getattr(self.datamodule, kind, None)
        return "" if theirs is None or here is None else f" ({Vocabulary(theirs).difference(Vocabulary(here))})"

    def _given_on_command_line(self) -> dict[str, Any]:
        """Return the model's arguments that are given on the command line, not in a file."""
        options = [
            arg.partition("=")[0].removeprefix("--model.") for arg in self.overrides if arg.startswith("--model.")
        ]
        names = {option.removeprefix("init_args.").partition(".")[0].rstrip("+") for option in options} - self._filled
        return {name: value for name, value in self._init_args(self.given, "model").items() if name in names}

    def config_text(self, seed: int | None = None) -> str:
        """Return the configuration as YAML that can be run again: without the values that come from the data.

        Args:
            seed: The seed of the run in place of the recipe's.
        """
        config = copy.deepcopy(self.plain)
        if seed is not None:
            config["seed_everything"] = seed
        for name in self._filled:
            config["model"].get("init_args", {}).pop(name, None)
        config["trainer"] = {k: v for k, v in config["trainer"].items() if v is not None and k not in _RESERVED}
        return yaml.safe_dump(config, sort_keys=False, width=120)

    def resolved(self) -> dict[str, Any]:
        """Return the configuration as plain data, with the values that come from the data."""
        config: dict[str, Any] = yaml.safe_load(self.config_text())
        arguments = config["model"].setdefault("init_args", {})
        arguments |= {name: self.model.hparams[name] for name in sorted(self._filled & self.model.hparams.keys())}
        return config


@contextmanager
def nulls_checked() -> Iterator[None]:
    """Let the parser check null like any other value; otherwise it takes it for an argument that is not given."""
    set_parsing_settings(unset_sentinel=True)
    try:
        yield
    finally:
        set_parsing_settings(unset_sentinel=False)


_RAW = re.compile(
    r"not supported between|unsupported operand|object (is not|has no|cannot)|argument of type|invalid literal|"
    r"must be (tuple|real|a? ?str)|positional argument|not all arguments converted|failed to unpack|\(position \d+\)"
)


def _about(key: str, config: Namespace, error: BaseException) -> str | None:
    """Return the option whose value an input error speaks of without naming the option, such as a file that does not exist."""
    if not isinstance(error, ValueError | TypeError | OSError):
        return None
    given = {k: v for k, v in dict(config.get("init_args") or {}).items() if isinstance(v, str) and len(v) > 2}
    text = message(error)
    names = [k for k, v in given.items() if v in text and k not in text]
    return f"{key}.{names[0]}" if len(names) == 1 else None


def _is_raw(error: BaseException) -> bool:
    """Return whether an error is Python's own or torch's, from inside a class that did not check its arguments."""
    return isinstance(error, TypeError | ValueError | KeyError) and (
        _RAW.search(str(error)) is not None or (isinstance(error, KeyError) and " " not in message(error))
    )


LINKED = {
    *("num_classes", "num_outputs", "vocab_size", "source_vocab_size", "padding", "horizon", "season"),
    *("in_channels", "in_features", "image_size", "input_size", "input_shape"),
}


def linked_values(data: LightningDataModule | None) -> dict[str, Any]:
    """Return the arguments of a model that a datamodule determines before any data are read, by name."""
    names = ("num_classes", "num_outputs", "vocab_size", "source_vocab_size", "horizon", "season")
    values: dict[str, Any] = {name: getattr(data, name, None) for name in names}
    values["padding"] = (getattr(data, "vocabulary", None) or {}).get("padding")
    shape = getattr(data, "input_shape", None)
    if shape:
        values["in_features"] = math.prod(shape)
        values["input_shape"] = list(shape)
        if len(shape) == 3:
            values["in_channels"] = shape[0]
            values["image_size"] = shape[1] if shape[1] == shape[2] else None
        if len(shape) == 2:
            values["input_size"] = shape[1]  # of a series: times, numbers at a time
    return {name: value for name, value in values.items() if value is not None}


def check_kind(model: Any, data: Any) -> None:
    """Refuse a model whose outputs do not match the kind of the data's targets.

    Raises:
        UserError: They do not match; the message names a model or data that do.
    """
    kind, name = getattr(data, "kind", None), type(model).__name__
    learns = getattr(model, "learns", ())
    if kind is None or not learns or kind in learns:
        return
    if kind == "text":
        raise UserError(
            f"{name} does not continue texts, but the data's target is the next token (kind: text): use a model such as "
            f"--model zoo.RecurrentLanguageModel"
        )
    if "text" in learns:
        raise UserError(
            f"{name} continues texts, but {type(data).__name__} has no text to continue (kind: {kind}): use data such as "
            f"--data datamodules.TextFileDataModule"
        )
    if kind == "captioning":
        raise UserError(
            f"{name} does not write captions, but the data's target is a caption of each image (kind: captioning): use a model "
            f"such as --model zoo.RecurrentCaptioning"
        )
    if "captioning" in learns:
        raise UserError(
            f"{name} writes captions of images, but {type(data).__name__} has none (kind: {kind}): use data such as "
            f"--data datamodules.CaptionFileDataModule"
        )
    if kind == "forecasting":
        raise UserError(
            f"{name} does not forecast, but the data are time series (kind: forecasting): use a model such as "
            f"--model zoo.RecurrentForecaster"
        )
    if "forecasting" in learns:
        raise UserError(
            f"{name} forecasts time series, but {type(data).__name__} has none (kind: {kind}): use data such as "
            f"--data datamodules.TimeSeriesDataModule"
        )
    if kind == "regression" and "classification" in learns:
        raise UserError(
            f"{name} predicts classes, but the data's target is a number (kind: regression): use a model such as "
            f"--model zoo.MLPRegressor"
        )
    if kind == "classification" and "regression" in learns:
        raise UserError(
            f"{name} predicts numbers, but the data's target is a class (kind: classification): use a model such as "
            f"--model zoo.MLPClassifier, or give --data.kind regression"
        )
    if kind == "segmentation":
        raise UserError(
            f"{name} makes one prediction per image, but the data's target is a class for each pixel (kind: segmentation): "
            f"use a model such as --model zoo.UNetSegmenter"
        )
    if "segmentation" in learns:
        raise UserError(
            f"{name} predicts a class for each pixel, but {type(data).__name__} has no masks (kind: {kind}): use data such as "
            f"--data datamodules.MaskFolderDataModule, or a model such as --model zoo.ResNetClassifier"
        )


def arguments_of(class_path: str) -> list[str]:
    """Return the constructor arguments of a class, including those it passes to its parents."""
    try:
        cls = import_class(class_path)
        return [key.removeprefix("x.") for key in ArgumentParser().add_class_arguments(cls, "x", fail_untyped=False)]
    except (ImportError, AttributeError, ValueError):
        return []


def is_model(cls: Any) -> bool:
    """Whether a class is one of a zoo model, whose checkpoint holds all that it builds."""
    return hasattr(cls, "weight_sources")


def import_class(class_path: str) -> Any:
    """Import the class "package.module.Class"."""
    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module), name)


def print_arguments(paths: Iterable[str]) -> None:
    """Print help on the arguments of the trainer, the datamodule and the model of recipe files."""
    config: dict[str, Any] = {}
    for path in paths:
        config.update(read_recipe(Path(path)))
    parser = ArgumentParser(usage=argparse.SUPPRESS, add_help=False)
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False)
    for key in ("data", "model"):
        if class_path := (config.get(key) or {}).get("class_path"):
            parser.add_class_arguments(import_class(class_path), key, fail_untyped=False)
    parser.print_help()


def _same(one: Any, other: Any) -> bool:
    plain = [list(value) if isinstance(value, tuple) else value for value in (one, other)]
    plain = [value.as_dict() if isinstance(value, Namespace) else value for value in plain]
    return bool(plain[0] == plain[1])


def _completed(cls: Any, name: str, given: Any, saved: Any) -> bool:
    """Return whether the model itself made the saved value of what was given, see ``zoo.Model.filled_arguments``."""
    if name not in getattr(cls, "filled_arguments", ()):
        return False
    plain = given.as_dict() if isinstance(given, Namespace) else given or {}
    return isinstance(saved, Mapping) and all(key in saved and _same(plain[key], saved[key]) for key in plain)


def as_list(value: Any) -> list[Any]:
    """Convert None to [], a single value to a list of one."""
    if value is None:
        return []
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
