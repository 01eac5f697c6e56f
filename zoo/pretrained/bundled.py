"""The small trained nets that ship with the package, each a folder as ``save_pretrained`` writes it, card included.

``python -m recipes.bundle`` trains them anew.
"""

import hashlib
import json
from pathlib import Path

HERE = Path(__file__).parent
# of model.safetensors
SHA256: dict[str, str] = {}


def names(model: str | None = None) -> list[str]:
    """The bundled weights, or those of one registered model."""
    configs = {name: json.loads((HERE / name / "config.json").read_text(encoding="utf-8")) for name in SHA256}
    return [name for name, config in configs.items() if model is None or config["model"] == model]


def folder(name: str) -> Path:
    """The folder of bundled weights, their hash checked.

    Raises:
        ValueError: another hash.
    """
    path = HERE / name / "model.safetensors"
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256[name]:
        raise ValueError(
            f"{path} is damaged: its sha256 is {found}, expected {SHA256[name]}: install lightning-zoo again"
        )
    return path.parent
