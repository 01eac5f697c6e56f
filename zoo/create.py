"""The ways in: a registered model by name, with fresh or trained weights; a model from a file or folder."""

import inspect
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo import backbones
from zoo.backbones import Backbone
from zoo.blocks.skeleton import at_most, skeleton
from zoo.blocks.vocabulary import Vocabulary
from zoo.internals import tree_leaves
from zoo.model import VOCABULARIES, Model, spelled
from zoo.pretrained import bundled, tracked
from zoo.pretrained.report import LoadReport, compare, load_weights, put, tied
from zoo.pretrained.schema import check_hyperparameters, check_standardization
from zoo.pretrained.sources import Weights, local_folder, model_of_layout, read_saved
from zoo.registry import Entry, arguments_of, check_arguments, get, is_registered_net, name_of, sources_of

_BUILD = "the model cannot be built: "
AUXILIARY = ("net.aux1.", "net.aux2.")  # heads for training only: a net may be built without those the file has


def create_model(name: str, /, weights: str | Path | None = None, **kwargs: Any) -> Model:
    """Build a registered model, with fresh or with trained weights.

    With weights the net is built without drawing a random number, and a file is mapped into memory: do not write over it while
    the model is in use. Arguments that are not given are those that the weights were saved with, but for the training's (the
    optimizer, ``lr``, class weights ...). Standardization, class names and the shape of an example come with the weights, too. A
    file of tensors alone knows none of this: the arguments are then the class's, the standardization comes from the data. A head
    for another ``num_classes``, or that the weights do not have, is drawn anew, the first convolution is adapted to other
    ``in_channels``, all else must fit; ``model.load_report`` lists what became of each tensor.

    Args:
        name: One of :func:`zoo.list_models`; or a net of another library or of your own, which :class:`zoo.ClassificationTask`
            takes by name: "timm/resnet18", "torchvision/efficientnet_b0", "hf/OWNER/NAME", "package.module.Class".
        weights: "pretrained", what torchvision or timm has for the net by default ("imagenet" is the same), or another of its
            names ("IMAGENET1K_V1", "a1_in1k"); a bundled name; a folder that ``save_pretrained`` wrote; a checkpoint (.ckpt) or a
            file of tensors (.pt, .pth, .safetensors); "owner/name" on the Hugging Face hub. `zoo models NAME` lists the names.
            Language models in GPT-2's and Llama's layout, as ``transformers`` writes them, are taken too: a file, or a folder or
            repository, whose config and byte-level tokenizer come with it ("openai-community/gpt2").
        kwargs: Arguments of the model's class; they win over the preset and over those of the weights.

    Returns:
        The task, a LightningModule; ``.net`` is the plain network. With weights it is in evaluation mode, as from :func:`load`;
        a fresh one is in training mode, as every new module. A fit trains in training mode whatever the mode was.

    Raises:
        ValueError: Unknown name, an argument out of its range, or weights that are damaged, hostile or of another architecture.
        TypeError: An argument that the class does not have; the message suggests the closest.
        FileNotFoundError, ConnectionError: The weights do not exist, or cannot be reached.
    """
    entry = _entry(name)
    check_arguments(entry.cls, kwargs)
    arguments = {**entry.preset, **kwargs}
    if weights is None:
        return entry.cls(**arguments)
    _check_init(arguments, str(weights))
    source: str | Weights = str(weights)
    if entry.preset.get("net") == name and backbones.published(str(weights), name):
        arguments = {"num_classes": backbones.num_classes(name), **arguments}
    if not backbones.published(str(weights), name):  # else it is downloaded once the arguments are known to be good
        source = backbones.find(str(weights), name)
        arguments = {**stored_arguments(source, entry, kwargs), **kwargs}
        with _naming(source.origin, _BUILD, Exception), at_most([*source.net.values(), *source.rest.values()]):
            module = _without_weights(entry.cls, arguments)
    else:
        module = _without_weights(entry.cls, arguments)
    use_weights(module, source, name)
    if kwargs.get("preprocessing") is not None:
        module.set_preprocessing(kwargs["preprocessing"])
    return module.eval()


def load(
    path: str | Path, /, strict: bool = True, average: bool | None = None, verify: bool = True, **overrides: Any
) -> Model:
    """Rebuild a model from a Lightning checkpoint (``.ckpt``) of a zoo task, or from what ``save_pretrained`` wrote.

    The file names a registered model and holds tensors and plain data. Nothing it asks for is imported, unpickled, opened or
    downloaded: what it says is checked against the class before anything is built, and all tensors are its own.

    Args:
        path: The checkpoint file, the folder, the name of a bundled one, or "owner/name" on the Hugging Face hub; also a GPT-2 or
            Llama that ``transformers`` wrote; or "wandb://entity/project/artifact:alias", a checkpoint or a folder that Weights &
            Biases has as an artifact.
        strict: Refuse weights that do not fit; ``False`` takes what fits. ``model.load_report`` lists what became of each tensor.
        average: Of a checkpoint of a run with ``callbacks.EMA``, the averaged weights (True) or the trained ones (False); None
            takes those that were evaluated.
        verify: Whether the file is compared with its checksums, which reads it once; False for huge ones, which are only mapped
            into memory.
        overrides: Hyperparameters that win over the file's, e.g. ``num_classes=7`` with ``strict=False`` for a new head.

    Returns:
        The module on the CPU, in evaluation mode: call ``train()`` for a training loop of your own (a fit of the Trainer does so
        by itself).

    Raises:
        FileNotFoundError, ConnectionError: No such file, folder or artifact, or the hub or W&B cannot be reached.
        ValueError: The file is damaged, holds objects other than tensors and plain data, is no zoo checkpoint, names an unknown
            model or an optimizer to import, says what cannot be of its model, or (``strict``) its weights do not fit.
    """
    if tracked.is_artifact(str(path)):
        path = tracked.download(str(path))
    path = local_folder(str(path)) or path  # a repository is downloaded once
    if average is None and (layout := model_of_layout(str(path))) is not None:
        return create_model(layout, weights=path, **overrides)
    saved = read_saved(Path(path), average, verify)
    with _naming(saved.path):
        entry = get(saved.model)
    cls: type[Model] = entry.cls
    check_arguments(cls, overrides)
    named = {"net": saved.model} if entry.preset == {"net": saved.model} else {}
    hparams = _checked(cls, {**named, **saved.hparams}, saved.path, overrides)
    check_standardization(saved.state, cls.statistics, saved.path)
    sources = sources_of(cls)
    arguments = {**{k: v for k, v in entry.preset.items() if k not in sources}, **hparams, **overrides}
    with _naming(saved.path, _BUILD, Exception), at_most(saved.state.values()):
        if strict:  # no fresh value stays, so none is drawn
            with torch.random.fork_rng(devices=[]):
                module = _without_weights(cls, arguments)
        else:
            module = cls(**arguments)
    assign = any(t.is_meta for t in module.state_dict().values())
    with _naming(saved.path):
        module.describe_data(saved.description)
        state = _adapted(module, dict(saved.state), overrides)
        module.load_report = load_weights(module, state, strict=strict, assign=assign)
        module.check_description()
        module.to("cpu")  # where its tensors are; Lightning's ``device`` says where it was built
        if frozen := saved.description.get("frozen", 0):
            module.freeze(frozen)
    if overrides.get("preprocessing") is not None:  # comes before the mean and std of the file
        module.set_preprocessing(overrides["preprocessing"])
    return module.eval()


def _entry(name: str) -> Entry:
    """Return the entry of a registered name, or of a net by name.

    Raises:
        ValueError: Unknown name; the message suggests the closest, or says what to do with a name of weights.
    """
    try:
        return get(name)
    except ValueError:
        if (config := bundled.configs().get(name)) is None:
            raise
        model = config["model"]
        raise ValueError(
            f"{name!r} names weights of the model {model!r}: zoo.load({name!r}), or zoo.create_model({model!r}, weights={name!r})"
        ) from None


def _checked(
    cls: type[Model],
    hparams: Mapping[str, Any],
    file: object,
    overrides: Collection[str] = (),
    trusted: str | None = None,
) -> dict[str, Any]:
    """Return the hyperparameters of a file that may be used: arguments of the class, of their types, that open and import nothing.

    ``trusted`` is a net that the user named.

    Raises:
        ValueError: They are not.
    """
    hparams = dict(hparams)
    for name in sources_of(cls):
        if (value := hparams.pop(name, None)) is not None and name not in overrides:
            warnings.warn(
                f"{file} names {name} {value!r}, which is not opened for a file: pass {name}=... to use it",
                stacklevel=3,
            )
    optimizer = str(hparams.get("optimizer", ""))
    if "." in optimizer and "optimizer" not in overrides:
        raise ValueError(
            f"{file} asks for the optimizer {optimizer!r} to be imported, which load never does: pass optimizer=..., or on the "
            "command line give the run folder that it is from"
        )
    if not isinstance(hparams.get("net", ""), str):
        raise ValueError(f"{file}: net must be a name, got {hparams['net']!r}")  # noqa: TRY004 (it is the file's content)
    for argument in ("net", "encoder"):
        net = hparams.get(argument)
        asked = backbones.beyond(net, hparams.get(f"{argument}_args")) if isinstance(net, str) else None
        if asked and argument not in overrides and not is_registered_net(cls, net, argument) and net != trusted:
            raise ValueError(
                f"{file} asks for the {argument} {net!r} to be {asked}, which load never does: pass {argument}={net!r} if you "
                f"trust it, or on the command line give the run folder that it is from, whose config.yaml names it; "
                f"zoo.register('my_net', zoo.{cls.__name__}, {argument}={net!r}) is for all files"
            )
    with _naming(file):
        check_arguments(cls, hparams)
    check_hyperparameters(hparams, arguments_of(cls), file)
    return hparams


@contextmanager
def _naming(file: object, what: str = "", errors: Any = (ValueError, TypeError)) -> Iterator[None]:
    """Turn errors that a file causes into a ValueError that names it; those of files that the caller gave pass."""
    try:
        yield
    except OSError:
        raise
    except errors as error:
        kind = "" if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: "
        raise ValueError(f"{file}: {what}{kind}{error}"[:1000]) from error


def use_weights(module: Model, weights: str | Weights, name: str | None = None) -> None:
    """Load weights into a model and take what else they bring: standardization, class names, input shape.

    A head for another number of classes, or that the weights do not have, keeps its fresh values, the first convolution is adapted
    to other image channels, all else of the net must fit. Other parts of the model are taken where the weights have them, else
    keep their fresh values. ``module.load_report`` lists what became of each tensor.

    Args:
        module: Receives the weights; it may be on the meta device, see :func:`zoo.blocks.skeleton.skeleton`.
        weights: See :func:`create_model`; or what :func:`zoo.pretrained.sources.find` returned.
        name: Registered name of the model; by default the one that fits.

    Raises:
        FileNotFoundError, ConnectionError: There is no such file; the hub or the download cannot be reached.
        ValueError: No such weights, damaged or hostile ones, those of another architecture, or of a trained part that the model
            does not have yet.
    """
    if isinstance(weights, str):
        _check_init(module.hparams, weights)
        weights = backbones.find(weights, name or module.net_by_name or name_of(module), module.net)
    source = weights
    check_standardization(source.rest, type(module).statistics, source.origin)
    own = module.state_dict()
    wanted = {k: t for k, t in own.items() if k.startswith("net.")}
    state = {
        f"net.{k}": t
        for k, t in _unwrapped(source.net, module.net.state_dict(), isinstance(module.net, Backbone)).items()
    }
    report, taken = compare(wanted, state, tied(module))
    head = f"net.{_last_layer(module.net)}"
    classes = tuple(s[f"{head}.weight"].shape[0] if f"{head}.weight" in s else None for s in (state, wanted))
    with _naming(source.origin):
        vocabularies = {n: Vocabulary(source.data[n]) for n in VOCABULARIES if source.data.get(n) is not None}
        reason = _misfit(module, source, report, state, wanted, classes, head)
    what = f"{source.origin} cannot be the weights of this {type(module.net).__name__}"
    for kind, vocabulary in vocabularies.items():
        if (size := getattr(module, VOCABULARIES[kind])) not in (None, vocabulary.size):
            raise OtherVocabulary(what, vocabulary, size, kind)
    if reason is not None:
        raise ValueError(f"{what}: {reason}")
    channels = getattr(module.net, "in_channels", None)
    for key, value in source.rest.items():
        if key in ("mean", "std"):
            fits = value.numel() in (1, channels) or channels is None
            taken[key] = value if fits else value.mean().view(1)  # one number for whatever channels come
        elif key in module.training_buffers:
            continue
        elif key not in own:
            report.unexpected.append(key)
        elif own[key].shape == value.shape:
            taken[key] = value
            report.loaded.append(key)
        else:
            report.reinitialized.append(key)
    if late := [part for part in module.trained_parts if not hasattr(module, part) and _has(source.rest, part)]:
        raise ValueError(
            f"{source.origin} has weights of {late[0]!r}, which {type(module).__name__} does not have yet when weights= are "
            "loaded: set it in build_parts(), not in __init__"
        )
    left = [k for k in own if not k.startswith("net.") and k not in taken]
    parameters = dict(module.named_parameters(remove_duplicate=False))
    report.missing += [k for k in left if ("." in k or k in parameters) and k not in report.reinitialized]
    if left := [k for k in left if own[k].is_meta]:
        fresh = type(module)(**module.hparams).state_dict()
        taken |= {k: fresh[k] for k in left}
    module.make_room(taken)
    put(module, taken, assign=any(p.is_meta for p in module.parameters()))
    data = dict(source.data)
    if isinstance(module.net, Backbone) and any(k.startswith("net.") for k in (*report.reinitialized, *report.missing)):
        module.net.keep_draws()
    if classes[0] != classes[1]:
        data["class_names"] = None
    if channels is not None and len(shape := data.get("input_shape") or []) == 3:
        data["input_shape"] = [channels, *shape[1:]]
    with _naming(source.origin):
        module.describe_data(data)
    if source.preprocessing is not None:
        said = dict(source.preprocessing)
        if channels is not None and len(said["mean"]) not in (1, channels):  # one number for whatever channels come
            said |= {key: [sum(said[key]) / len(said[key])] for key in ("mean", "std")}
        module.set_preprocessing(said)
    with _naming(source.origin):
        module.check_description()
    module.load_report = report


def _check_init(arguments: Mapping[str, Any], weights: str) -> None:
    """Refuse an initialization beside weights."""
    if (init := arguments.get("init")) is not None:
        raise ValueError(f"init {init!r} would draw what weights {weights!r} bring: give one of them")


def stored_arguments(source: Weights, entry: Entry, given: Collection[str] = ()) -> dict[str, Any]:
    """Return the preset of a model with the arguments that weights of its class were saved with, but for the training's.

    The preset of another model of the same class wins over what is stored: ``resnet32`` stays one with weights of a resnet20.
    What is ``given`` will replace what is stored.
    """
    stored: dict[str, Any] = {}
    cls: type[Model] = entry.cls
    with suppress(ValueError):  # a model that is not registered here
        if source.model is not None and get(source.model).cls is cls:
            left_out = {*cls.training_arguments, *cls.training_buffers}
            stored = {k: v for k, v in (source.hparams or {}).items() if k in arguments_of(cls) and k not in left_out}
    stored = _checked(cls, stored, source.origin, given, entry.preset.get("net"))
    if source.complete and source.model != entry.name:
        for name, value in stored.items():
            if name in entry.preset and entry.preset[name] != value and name not in {*given, "dropout"}:
                raise ValueError(
                    f"{source.origin} is a net with {name}={value!r}, and {entry.name} has {entry.preset[name]!r}: take "
                    f"{source.model!r}, which becomes what the weights are of"
                )
    return {**entry.preset, **stored} if source.model == entry.name else {**stored, **entry.preset}


def _has(state: Mapping[str, Tensor], part: str) -> bool:
    return any(key.partition(".")[0] == part for key in state)


def _without_weights(cls: type[Model], arguments: Mapping[str, Any]) -> Model:
    """Build a model for weights to come: on the meta device, without memory and random numbers.

    Tensors that are in no state dict (buffers that are not persistent, plain attributes) must have their values, and some
    constructors read values of tensors (``torch.linspace(0, rate, depth).tolist()``): such models are built for real.
    """
    try:
        with skeleton():
            module = cls(**arguments)
    except (RuntimeError, TypeError):  # a value was read; whatever else is wrong is raised again
        return cls(**arguments)
    state = module.state_dict()
    held = [buffer for name, buffer in module.named_buffers() if name not in state]
    held += [v for part in module.modules() for v in tree_leaves(_attributes(part)) if isinstance(v, Tensor)]
    return cls(**arguments) if any(tensor.is_meta for tensor in held) else module


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def _adapted(module: Model, state: dict[str, Tensor], changed: Collection[str]) -> dict[str, Tensor]:
    """A state dict that fits a model with some hyperparameters changed."""
    own = module.state_dict()
    if "in_channels" in changed and module.input_shape is not None and len(module.input_shape) == 3:
        module.input_shape = (module.hparams["in_channels"], *module.input_shape[1:])
    for name in ("mean", "std"):
        if name in state and "in_channels" in changed:  # one number for whatever channels come
            state[name] = state[name].mean().view(1)
    module.make_room(state)
    if "num_classes" in changed:
        module.class_names = None
        state = {k: t for k, t in state.items() if k not in module.training_buffers}
    return {**{k: own[k] for k in module.training_buffers if k in own}, **state}


def _last_layer(net: nn.Module) -> str:
    """The name of the layer that gives the logits: as the net says, or the last that has a weight matrix."""
    if (name := getattr(net, "head_name", None)) is not None:
        return str(name)
    names = [name for name, part in net.named_modules() if getattr(getattr(part, "weight", None), "ndim", 0) > 1]
    return names[-1] if names else ""


def _unwrapped(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], wrapped: bool) -> dict[str, Tensor]:
    """Names without a common prefix: "net." or "model." of a task, "module." of DDP, "_orig_mod." of a compiled net.

    A net that is ``wrapped`` has those of another library behind "model.".
    """
    state = dict(state)
    while not state.keys() & wanted.keys() and len({key.partition(".")[0] for key in state}) == 1:
        if any("." not in key for key in state):  # a name alone has no prefix
            break
        state = {key.partition(".")[2]: t for key, t in state.items()}
    if wrapped and not state.keys() & wanted.keys():
        state = {f"model.{key}": t for key, t in state.items()}
    return state


class OtherVocabulary(ValueError):
    """Weights are for another number of tokens than the net is built for; what they stand for is their ``vocabulary``.

    ``kind`` says which of two it is, "vocabulary" or "source_vocabulary".
    """

    def __init__(self, what: str, vocabulary: Vocabulary, size: int | None, kind: str = "vocabulary") -> None:
        super().__init__(
            f"{what}: their {spelled(kind)} has {vocabulary.size} tokens, here it has {size}: give data with the same vocabulary"
        )
        self.vocabulary, self.kind = vocabulary, kind


def _misfit(
    module: Model,
    source: Weights,
    report: LoadReport,
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    classes: tuple[int | None, ...],
    head: str,
) -> str | None:
    """Why the weights cannot be used, with both values; None if they can.

    Those of a whole net without its ``head``, as self-supervised ones are published, can.
    """

    def is_classifier(key: str) -> bool:  # GoogLeNet has three; FCN also maps classes to classes
        old, new = state[key].shape, wanted[key].shape
        sizes = list(zip(old, new, strict=False))
        return len(old) == len(new) and sizes[0] == classes and all(a == b or (a, b) == classes for a, b in sizes)

    convolutions = [n for n, part in module.net.named_modules() if isinstance(part, nn.Conv2d)]
    first = f"net.{convolutions[0]}.weight" if convolutions else ""
    keeps_head = module.makes == "text"  # whose classes are tokens
    shapes = [k for k in report.reinitialized if keeps_head or not is_classifier(k)]
    shapes += [k for k in report.adapted if k != first]
    missing = [k for k in report.missing if not k.endswith("num_batches_tracked") and not k.startswith(AUXILIARY)]
    if classes[0] is None and module.makes == "label" and report.loaded:
        missing = [k for k in missing if not k.startswith(f"{head}.")]
    unexpected = [k for k in report.unexpected if not k.startswith(AUXILIARY)]
    if not (shapes or missing or unexpected):
        return None
    if source.model is not None and get(source.model).cls is not type(module):
        return f"they are of {source.model}"
    own = inspect.signature(type(module).__init__).parameters.keys() - {
        "self",
        "task",
        "net",
        "num_classes",
        "in_channels",
    }
    there = source.hparams or {}
    if differ := sorted(k for k in own & there.keys() if there[k] != module.hparams[k]):
        return ", ".join(f"{k} is {there[k]!r} there and {module.hparams[k]!r} here" for k in differ)
    if shapes and (key := shapes[0]) == first and state[key].shape[0] == wanted[key].shape[0]:
        old, new = (tensors[key].shape for tensors in (state, wanted))
        if old[2:] == new[2:]:
            return f"its first convolution sees {old[1]} channels, here it has {new[1]}: up to 16 can be adapted"
    reasons = []
    if shapes:
        theirs, ours = (tuple(tensors[shapes[0]].shape) for tensors in (state, wanted))
        more = f" ({len(shapes) - 1} more differ)" if len(shapes) > 1 else ""
        reasons.append(f"{shapes[0].removeprefix('net.')} is {theirs} there and {ours} here{more}")
    for keys, what in ((missing, "missing"), (unexpected, "unknown here")):
        if keys:
            reasons.append(f"{len(keys)} tensors are {what} ({keys[0].removeprefix('net.')})")
    return ", ".join(reasons)
