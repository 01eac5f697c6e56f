"""The small trained nets that ship with the package, each a folder as ``save_pretrained`` writes it, card included.

``python -m recipes.cli.bundle`` trains them anew.
"""

import hashlib
import json
from pathlib import Path

HERE = Path(__file__).parent
# of model.safetensors
SHA256 = {
    "lenet5_digits": "1751e3ddd608572147b9d2c6c496d4ac79bb01370a7cba37465179550e6e7168",
    "resnet20_digits": "589e8fc0d269256329570f3e2f352732308c6f319917f1de4dfc51e5b0f65adf",
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
