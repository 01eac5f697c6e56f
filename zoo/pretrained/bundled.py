"""Small trained nets that ship with the package, each a folder that ``save_pretrained`` wrote, with its model card.

``python -m recipes.cli.bundle`` trains them again.
"""

import json
from pathlib import Path

HERE = Path(__file__).parent


def names(model: str | None = None) -> list[str]:
    """Return the names of the bundled weights.

    Args:
        model: Registered model that they are for; None for all.
    """
    folders = sorted(path.parent for path in HERE.glob("*/config.json"))
    configs = {path.name: path / "config.json" for path in folders}
    return [
        name for name, config in configs.items() if model is None or json.loads(config.read_bytes())["model"] == model
    ]
