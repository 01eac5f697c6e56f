"""lightning-zoo: a LightningModule for every architecture family, each verified against an oracle.

The public names stand in ``__init__.pyi``, with their types, and are imported on first use, so that ``import zoo`` itself imports
no torch.

Example:
    >>> import zoo
    >>> model = zoo.create_model("lenet5", num_classes=10, lr=1e-3)
    >>> type(model).__name__
    'LeNetClassifier'
"""

from typing import Any

import lazy_loader

from zoo.spelling import suggest

_import, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}{suggest(name, __all__)}; dir(zoo) lists all")
    if name in (
        "create_model",
        "list_models",
        "load",
    ):  # these find any model: families register when they are imported
        for other in __all__:
            _import(other)
    return _import(name)
