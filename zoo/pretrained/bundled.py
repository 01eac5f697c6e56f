"""Small trained nets that ship with the package, each a folder that ``save_pretrained`` wrote, with its model card.

``python -m recipes.cli.bundle`` trains them again. Imports no torch.
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def configs(model: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the ``config.json`` of each bundled net by its name.

    Args:
        model: Registered model that they are for; None for all.
    """
    folders = sorted(path.parent for path in HERE.glob("*/config.json"))
    read = {folder.name: json.loads((folder / "config.json").read_bytes()) for folder in folders}
    return {name: config for name, config in read.items() if model is None or config["model"] == model}


def names(model: str | None = None) -> list[str]:
    """Return the names of the bundled weights.

    Args:
        model: Registered model that they are for; None for all.
    """
    return [*configs(model)]


def size(name: str) -> int:
    """Return the number of bytes of the tensors of a bundled net."""
    return (HERE / name / "model.safetensors").stat().st_size
