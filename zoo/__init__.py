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

from zoo.registry import find_more_by
from zoo.spelling import suggest

_import, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}{suggest(name, __all__)}; dir(zoo) lists all")
    return _import(name)


@find_more_by
def _import_all() -> None:
    """Import every public name: families register their models when they are imported."""
    for name in __all__:
        _import(name)
