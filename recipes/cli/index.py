"""The index of the models, ``zoo/models.json``, by which ``zoo models`` lists them without importing torch.

``python -m recipes.cli.index`` writes it.
"""

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zoo

if TYPE_CHECKING:
    from zoo import Model
    from zoo.registry import Entry

PATH = Path(zoo.__file__).with_name("models.json")
Index = dict[str, dict[str, Any]]  # name -> "class", "parameters" and "paper", in natural order of the names


def read() -> Index:
    """Return the index of the package's own models."""
    index: Index = json.loads(PATH.read_text(encoding="utf-8"))
    return index


def build(names: Iterable[str] | None = None) -> Index:
    """Return the index of registered models, by building each on the meta device.

    Args:
        names: Names of the models; None for all of the package.
    """
    if names is None:
        names = [name for name in zoo.list_models() if zoo.registry.get(name).cls.__module__.startswith("zoo.")]
    return {name: _describe(zoo.registry.get(name)) for name in names}


def on_meta(entry: "Entry") -> "Model":
    """Build a model on the meta device."""
    from zoo.blocks.skeleton import skeleton

    with skeleton():
        model: Model = entry.cls(**entry.preset)
    return model


def class_path(cls: type) -> str:
    """Return the name by which a class is imported: from ``zoo`` itself if it is one of the package's."""
    return f"zoo.{cls.__name__}" if cls.__module__.startswith("zoo.") else f"{cls.__module__}.{cls.__name__}"


def count(model: "Model") -> int:
    """Return the number of parameters of a model's net."""
    return sum(p.numel() for p in model.net.parameters())


def paper(model: "Model") -> str:
    """Return the first paragraph of the docstring of the net's file, on one line: what is from which paper."""
    text = inspect.getdoc(inspect.getmodule(type(model.net))) or ""
    return " ".join(text.split("\n\n")[0].split())


def _describe(entry: "Entry") -> dict[str, Any]:
    model = on_meta(entry)
    return {"class": class_path(entry.cls), "parameters": count(model), "paper": paper(model)}


def write() -> None:
    """Write the index."""
    rows = [f"  {json.dumps(name)}: {json.dumps(row, ensure_ascii=False)}" for name, row in build().items()]
    PATH.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
    print(f"{len(rows)} models: {PATH}")


if __name__ == "__main__":
    write()
