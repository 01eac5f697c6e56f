"""``zoo models``: list the models, or the bundled weights, or describe one model. The lists import no torch."""

import textwrap
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib import import_module
from inspect import Parameter, signature
from itertools import groupby
from typing import TYPE_CHECKING, Any

from recipes.cli import catalog, index
from recipes.cli.console import NoCaches
from recipes.cli.errors import UserError
from recipes.cli.run.internals import tree_leaves, tree_map
from recipes.cli.run.options import Parser
from recipes.cli.run.process import importable_current_folder
from recipes.cli.text import WIDTH, columns, facts
from zoo.pretrained import bundled
from zoo.spelling import suggest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo import Model
    from zoo.registry import Entry

HELP = """zoo models [PATTERN|NAME] [--weights] [--module MODULE] [--size N]: list the models, or describe one.

  PATTERN          a shell pattern: list those that match
  NAME             one model: parameters, multiply-adds, paper, arguments, recipes, weights, shapes by stage
                   "timm/*" and "torchvision/*" list the nets of those libraries, which zoo.ClassificationTask takes by name
                   (--model.net timm/NAME); timm comes with pip install 'lightning-zoo[timm]'
  --weights        list the weights that come with the package instead: what they were trained on, and what they reach;
                   PATTERN and NAME are of weights or of models
  --module MODULE  import this module of your own first: the models that it registers are listed, too
  --size N         height and width of the image to count with (default: the net's own)
  --debug          show the traceback of any error

Examples:
  zoo models
  zoo models "resnet*"
  zoo models resnet18 --size 64
  zoo models --weights
  zoo models "*digits" --weights
  zoo models "timm/convnext*"
  zoo models timm/resnet18
  zoo models my_net --module my_nets
"""


def run(args: list[str]) -> int:
    """Run the verb ``models``."""
    parser = Parser("zoo models")
    parser.add_argument("pattern", nargs="?", default="*")
    parser.add_argument("--weights", action="store_true")
    parser.add_argument("--module")
    parser.add_argument("--size", type=int)
    options = parser.parse_args(args)
    if options.size is not None and options.size < 1:
        raise UserError(f"--size must be 1 or more, got {options.size}")
    if options.weights:
        if options.size is not None or options.module is not None:
            raise UserError(f"{'--module' if options.size is None else '--size'} is for models: leave out --weights")
        print(_weights(options.pattern))
        return 0
    with importable_current_folder():
        models = index.read()
        if options.module is not None:
            models |= _registered_by(options.module.removesuffix(".py"), models)
        if options.pattern.startswith(("timm/", "torchvision/", "hf/")):
            print(_of_library(options.pattern, options.size))
            return 0
        if any(sign in options.pattern for sign in "*?["):
            chosen = {name: row for name, row in models.items() if fnmatchcase(name, options.pattern)}
            if not chosen:
                raise UserError(f"no model matches {options.pattern!r} (`zoo models` lists all)")
            print(_list(chosen))
            return 0
        if options.pattern not in models:
            if (model := bundled.configs().get(options.pattern, {}).get("model")) is not None:
                raise UserError(
                    f"{options.pattern} is no model, but weights of the model {model}: `zoo models {options.pattern} --weights` "
                    f"and `zoo models {model}` describe them"
                )
            raise UserError(
                f"unknown model {options.pattern!r}{suggest(options.pattern, models)}; `zoo models` lists all {len(models)}, "
                f"and with --module MODULE those that a module of your own registers"
            )
        with NoCaches():
            module, _, name = models[options.pattern]["class"].rpartition(".")
            getattr(import_module(module), name)  # registers the family, where all of the package would take longer
            from zoo import registry
        print(_one(registry.get(options.pattern), options.size))
    return 0


def _of_library(pattern: str, size: int | None) -> str:
    """Return the names of a library's nets that match, or the description of one net."""
    with NoCaches():
        from zoo import backbones, registry
    library = pattern.partition("/")[0]
    if not any(sign in pattern for sign in "*?["):
        return _one(registry.get(pattern), size)
    known = backbones.names(library) if library != "hf" else []
    if not (chosen := [name for name in known if fnmatchcase(name, pattern)]):
        raise UserError(f"no net matches {pattern!r} (`zoo models '{library}/*'` lists all {len(known)} of {library})")
    return "\n".join([*chosen, "", f"{len(chosen)} nets. Describe one with: zoo models {chosen[0]}"])


def _registered_by(module: str, known: index.Index) -> index.Index:
    """Import a module and return the index of the models that it registers."""
    with NoCaches():
        from zoo import list_models, registry

        before = list_models()
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise  # of what the module itself imports
            raise UserError(
                f"--module {module}: there is no such module in this folder or among the installed"
            ) from None
    root = module.partition(".")[0]
    classes = {name: registry.get(name).cls.__module__.partition(".")[0] for name in list_models() if name not in known}
    # imported once more in one process, a module registers nothing again
    names = [name for name, package in classes.items() if name not in before or package == root]
    if not names:
        raise UserError(f"--module {module} registers no model: it should call zoo.register(NAME, CLASS)")
    return index.build(names)


def _list(models: index.Index) -> str:
    """Return the models by paper, each paper once and whole."""
    order = {row["paper"]: i for i, row in reversed([*enumerate(models.values())])}  # that of its first model
    rows = sorted(models.items(), key=lambda item: order[item[1]["paper"]])
    table = columns([(name, Number(row["parameters"]), row["class"]) for name, row in rows], rule=False).split("\n")
    lines = []
    for paper, group in groupby(zip(rows, table, strict=True), key=lambda item: item[0][1]["paper"]):
        lines += [*textwrap.wrap(paper, WIDTH, break_on_hyphens=False), *(f"  {line}" for _, line in group), ""]
    return "\n".join(
        [*lines, f"{len(models)} models: name, parameters, class. Describe one with: zoo models {rows[0][0]}"]
    )


def _weights(pattern: str) -> str:
    """Return the bundled weights that match, each with what its card says.

    Args:
        pattern: A shell pattern, or the name, of weights or of models.
    """
    configs = bundled.configs()
    chosen = {name for name, config in configs.items() if any(fnmatchcase(n, pattern) for n in (name, config["model"]))}
    if not chosen:
        known = {*configs, *(config["model"] for config in configs.values())}
        raise UserError(
            f"no bundled weights match {pattern!r}{suggest(pattern, known)} (`zoo models --weights` lists all "
            f"{len(configs)}; `zoo models NAME` lists what is published of a model, too)"
        )
    rows = []
    for name in sorted(chosen):
        training = configs[name]["training"]
        (metric, value), *_ = training["metric"].items()
        seeds = training["seeds"].values()
        reached = f"{metric.removeprefix('test/')} {value} ({len(seeds)} seeds: {min(seeds)} to {max(seeds)})"
        rows.append((name, _megabytes(bundled.size(name)), reached))
    blocks = []
    for (name, *_), line in zip(rows, columns(rows, rule=False).split("\n"), strict=True):
        training = configs[name]["training"]
        about = [f"model {configs[name]['model']}, recipe {training['recipe']}", f"data: {training['data']}"]
        more = [part for text in about for part in textwrap.wrap(text, WIDTH - 4, break_on_hyphens=False)]
        blocks.append("\n    ".join([line, *more]))
    total = _megabytes(sum(bundled.size(name) for name in chosen)).strip()
    return "\n\n".join(
        [
            *blocks,
            f"{len(chosen)} bundled net{'s' * (len(chosen) > 1)}, {total}: name, size, what it reaches on the test part.\n"
            f"Use one with: zoo predict NAME ..., zoo sample NAME, zoo.load(NAME), or\n"
            f"zoo.create_model(MODEL, weights=NAME). Not listed is what torchvision and timm\n"
            f"publish: `zoo models NAME` lists the weights of one model.",
        ]
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:5.2f} MB"


def _one(entry: "Entry", size: int | None) -> str:
    from zoo.backbones import list_weights
    from zoo.blocks import ConvNet

    model = index.on_meta(entry)
    net: Any = model.net.to("meta").eval()  # nets of other libraries are built for real
    inputs = _inputs(model, size)
    net_arguments, task_arguments = _arguments(entry)
    own = bundled.names(entry.name)
    weights = [f"{name} (bundled)" if name in own else name for name in list_weights(entry.name)]
    rows = [
        ("model", entry.name),
        ("class", f"{index.class_path(entry.cls)}({', '.join(f'{k}={v!r}' for k, v in entry.preset.items())})"),
        ("paper", index.paper(model)),
        ("parameters", f"{index.count(model):,}"),
        ("multiply-adds", _multiply_adds(net, inputs)),
        ("arguments", net_arguments),
        ("of training", task_arguments),
        ("recipes", ", ".join(_recipes(entry)) or "none yet"),
        ("weights", ", ".join(weights) or "none by name"),
    ]
    longer = _longer(model, inputs)
    stages: list[tuple[str, str]] = [("stage", "shape"), *_input_stages(model, inputs, longer)]
    with suppress(ValueError, AttributeError):  # it has none
        maps = net.features(*inputs)
        more = net.features(*longer) if longer else [None] * len(maps)
        stages += [(f"features {i}", _shape(*pair)) for i, pair in enumerate(zip(maps, more, strict=True), start=1)]
    if isinstance(encoder := getattr(net, "encoder", None), ConvNet):
        stages += [(f"encoder {i}", _shape(m)) for i, m in enumerate(encoder.features(*inputs), start=1)]
    if hasattr(net, "latent_dim") and hasattr(net, "encode"):
        stages.append(("code", f"B x {net.latent_dim}"))
    stages.append(("output", _shape(net(*inputs), net(*longer) if longer else None)))
    lengths = (
        {
            name: part.shape[-1 if model.reads == "image" else 1]
            for (_, name), part in zip(_parts(model), tree_leaves(inputs), strict=False)
            if name
        }
        if longer
        else {}
    )
    those = ", ".join(f"{name} = {length}" for name, length in lengths.items())
    be = "is" if len(lengths) == 1 else "are"
    limit = getattr(net, "max_length", None) if "text" in (model.reads, model.makes) else None
    most = "any length" if limit is None else f"at most {limit}"
    any_length = f"\n\n{' and '.join(lengths)} {be} {most}; multiply-adds are for {those}."
    return facts(rows) + "\n\n" + columns(stages) + (any_length if longer else "")


def _arguments(entry: "Entry") -> tuple[str, str]:
    """Return the arguments of the class itself and those of its task, with their defaults, as they would be given."""
    from zoo.registry import arguments_of

    init: Any = entry.cls.__init__  # type: ignore[misc]
    own = signature(init).parameters
    texts: tuple[list[str], list[str]] = ([], [])
    for name, parameter in arguments_of(entry.cls).items():
        default = entry.preset.get(name, parameter.default)
        texts[name not in own].append(name if default is Parameter.empty else f"{name}={default!r}")
    return ", ".join(texts[0]) or "none", ", ".join(texts[1]) or "none"


class Number(int):
    """An integer that prints with thousands separators."""

    def __str__(self) -> str:
        return f"{int(self):,}"


def _inputs(model: "Model", size: int | None) -> list[Any]:
    """Return one example on the meta device; images of ``size`` pixels where the net takes any."""
    if size is not None and model.reads == "image" and "input_shape" not in model.hparams:
        model.input_shape = (model.example_shape[0], size, size)
    return [tree_map(lambda part: part.to("meta"), example) for example in model.example_inputs()]


def _parts(model: "Model") -> list[tuple[str, str]]:
    """Return the names of the parts of an input, and of the length of each, "" where it has none."""
    if "captioning" in model.learns:
        return [("image", ""), ("caption", "T")]
    return [("source", "S"), ("target", "T")] if "translation" in model.learns else [("input", "T")]


def _input_stages(model: "Model", inputs: list[Any], longer: list[Any] | None) -> list[tuple[str, str]]:
    """Return the shape of each part of an input, of tokens with the number of those that there are."""
    size = model.vocab_size
    sizes = {"source": model.source_vocab_size, "target": size, "caption": size, "image": None}
    if model.reads == "text":
        sizes["input"] = size
    stages = []
    shapes = zip(tree_leaves(inputs), tree_leaves(longer) if longer else tree_leaves(inputs), strict=True)
    for (part, letter), (one, more) in zip(_parts(model), shapes, strict=False):
        kind = f"  tokens, V = {sizes[part]}" if sizes.get(part) is not None else ""
        stages.append((part, _shape(one, more, letter) + kind))
    return stages


def _multiply_adds(net: "nn.Module", inputs: list[Any]) -> str:
    from recipes.cli.run.flops import multiply_adds

    return f"{multiply_adds(net, inputs):,} per example (twice as many FLOPs; convolutions and matrix products)"


def _longer(model: "Model", inputs: list[Any]) -> list[Any] | None:
    """Return series or texts with one step more; None for other inputs, or for a net that takes one length alone."""
    import torch

    if model.reads not in ("text", "series") and "captioning" not in model.learns:
        return None
    axis = -1 if model.reads == "image" else 1  # of captions: images stay as they are

    def lengthened(part: Any) -> Any:
        same = model.reads == "image" and part.is_floating_point()
        return part if same else torch.cat([part, part.narrow(axis, 0, 1)], dim=axis)

    longer: list[Any] = tree_map(lengthened, inputs)
    net: Any = model.net
    try:
        net(*longer)
    except (RuntimeError, ValueError):
        return None
    return longer


def _shape(x: "Tensor", longer: "Tensor | None" = None, letter: str = "T") -> str:
    """Return a shape with B for the batch, and the letter for an axis that has a step more where the input has."""
    more = x.shape if longer is None else longer.shape
    return " x ".join(["B", *(str(n) if n == m else letter for n, m in zip(x.shape[1:], more[1:], strict=True))])


def _recipes(entry: "Entry") -> list[str]:
    """Return the shipped recipes that train this class, or the model as a net by name."""
    lines = {f"class_path: {index.class_path(entry.cls)}", f"net: {entry.name}"}
    texts = {recipe.name: recipe.path.read_text(encoding="utf-8") for recipe in catalog.shipped()}
    return [name for name, text in texts.items() if lines & {row.partition("#")[0].strip() for row in text.split("\n")}]
