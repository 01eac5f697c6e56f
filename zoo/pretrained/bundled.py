"""Small trained nets that ship with the package, each a folder that ``save_pretrained`` wrote, with its model card.

``python -m recipes.cli.bundle`` trains them again.
"""

import hashlib
import json
from pathlib import Path

HERE = Path(__file__).parent
SHA256 = {  # of model.safetensors
    "lenet5_digits": "1751e3ddd608572147b9d2c6c496d4ac79bb01370a7cba37465179550e6e7168",
    "resnet20_digits": "589e8fc0d269256329570f3e2f352732308c6f319917f1de4dfc51e5b0f65adf",
}


def names(model: str | None = None) -> list[str]:
    """Return the names of the bundled weights.

    Args:
        model: Registered model that they are for; None for all.
    """
    configs = {name: json.loads((HERE / name / "config.json").read_text(encoding="utf-8")) for name in SHA256}
    return [name for name, config in configs.items() if model is None or config["model"] == model]


def folder(name: str) -> Path:
    """Return the folder of bundled weights after checking their hash.

    Raises:
        ValueError: The hash is another one.
    """
    path = HERE / name / "model.safetensors"
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != SHA256[name]:
        raise ValueError(
            f"{path} is damaged: its sha256 is {actual}, expected {SHA256[name]}: install lightning-zoo again"
        )
    return path.parent
