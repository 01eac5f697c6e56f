"""``zoo models``: list the models, or describe one."""

import inspect
from typing import TYPE_CHECKING, Any

import yaml

from recipes.cli import catalog
from recipes.cli.console import NoCaches
from recipes.cli.errors import UserError
from recipes.cli.run.options import Parser
from recipes.cli.text import columns

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo import Model
    from zoo.registry import Entry

HELP = """zoo models [PATTERN|NAME] [--size N]: list the models, or describe one.

  PATTERN     a shell pattern: list those that match
  NAME        one model: shapes by stage, parameters, multiply-adds, paper, recipes, weights
  --size N    height and width of the image to count with (default: the net's own)
  --debug     show the traceback of any error

Examples:
  zoo models
  zoo models "resnet*"
  zoo models resnet18 --size 64
"""


def run(args: list[str]) -> int:
    """Run the verb ``models``."""
    parser = Parser("zoo models")
    parser.add_argument("pattern", nargs="?", default="*")
    parser.add_argument("--size", type=int)
    options = parser.parse_args(args)
    if options.size is not None and options.size < 1:
        raise UserError(f"--size must be 1 or more, got {options.size}")
    with NoCaches():
        from zoo import list_models, registry
    if any(sign in options.pattern for sign in "*?["):
        names = list_models(options.pattern)
        if not names:
            raise UserError(f"no model matches {options.pattern!r} (`zoo models` lists all)")
        print(_list(names))
    else:
        print(_one(registry.get(options.pattern), options.size))
    return 0


def _list(names: list[str]) -> str:
    from zoo import registry

    rows: list[tuple[Any, ...]] = [("model", "class", "parameters", "paper")]
    for name in names:
        entry = registry.get(name)
        model = _on_meta(entry)
        rows.append((name, f"zoo.{entry.cls.__name__}", Number(_count(model.net)), _paper(model.net).split(",")[0]))
    return columns(rows) + f"\n\nDescribe one with: zoo models {names[0]}"


def _one(entry: "Entry", size: int | None) -> str:
    from zoo.blocks import ConvNet
    from zoo.pretrained import list_weights

    model = _on_meta(entry)
    net: Any = model.net.eval()
    inputs = _inputs(model, size)
    facts = [
        ("model", entry.name),
        ("class", f"zoo.{entry.cls.__name__}({', '.join(f'{k}={v!r}' for k, v in entry.preset.items())})"),
        ("paper", _paper(net)),
        ("parameters", f"{_count(net):,}"),
        ("multiply-adds", _multiply_adds(net, inputs)),
        ("recipes", ", ".join(_recipes(entry)) or "none yet"),
        ("weights", ", ".join(list_weights(entry.name)) or "none by name"),
    ]
    stages: list[tuple[str, str]] = [("stage", "shape"), ("input", _shape(inputs[0]))]
    if hasattr(net, "features"):
        stages += [(f"features {i}", _shape(m)) for i, m in enumerate(net.features(*inputs), start=1)]
    if isinstance(encoder := getattr(net, "encoder", None), ConvNet):
        stages += [(f"encoder {i}", _shape(m)) for i, m in enumerate(encoder.features(*inputs), start=1)]
    if hasattr(net, "encode"):
        stages.append(("code", f"B x {net.latent_dim}"))
    stages.append(("output", _shape(net(*inputs))))
    return columns(facts, rule=False) + "\n\n" + columns(stages)


class Number(int):
    """An integer that prints with thousands separators."""

    def __str__(self) -> str:
        return f"{int(self):,}"


def _on_meta(entry: "Entry") -> "Model":
    """Build the model on the meta device."""
    from zoo.blocks.skeleton import skeleton

    with skeleton():
        return entry.cls(**entry.preset)


def _count(net: "nn.Module") -> int:
    return sum(p.numel() for p in net.parameters())


def _inputs(model: "Model", size: int | None) -> "list[Tensor]":
    """Return one example on the meta device; images of ``size`` pixels where the net takes any."""
    if size is not None and model.reads == "image" and "input_shape" not in model.hparams:
        model.input_shape = (model.example_shape[0], size, size)
    return [part.to("meta") for part in model.example_inputs()]


def _multiply_adds(net: "nn.Module", inputs: "list[Tensor]") -> str:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        net(*inputs)
    return f"{counter.get_total_flops() // 2:,} per example (twice as many FLOPs; convolutions and matrix products)"


def _paper(net: "nn.Module") -> str:
    return (inspect.getdoc(inspect.getmodule(type(net))) or "").split("\n")[0]


def _shape(x: "Tensor") -> str:
    return " x ".join(["B", *map(str, x.shape[1:])])


def _recipes(entry: "Entry") -> list[str]:
    """Return the shipped recipes that train this class."""
    configs = {recipe.name: yaml.safe_load(recipe.path.read_text(encoding="utf-8")) for recipe in catalog.shipped()}
    class_name = entry.cls.__name__
    return [name for name, config in configs.items() if config["model"]["class_path"].rpartition(".")[2] == class_name]
