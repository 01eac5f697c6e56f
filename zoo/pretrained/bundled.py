"""The small trained nets that ship with the package, each a folder as ``save_pretrained`` writes it, card included.

``python -m recipes.cli.bundle`` trains them anew.
"""

import hashlib
import json
from pathlib import Path

HERE = Path(__file__).parent
# of model.safetensors
SHA256 = {
    "lenet5_digits": "dd6f051e5981007ebe1e8e642f1a7986c3b74198070a3ea676528ea5d021ee42",
    "resnet20_digits": "4ed9abf83adbddf7f9e9b8ce4b2cc50552a4fe14018583a8ac9317aaa483ba45",
}


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
