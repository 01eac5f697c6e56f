"""Callbacks: one file for each behavior during training.

``__init__.pyi`` lists the public names. They are imported on first use, so ``import callbacks`` itself loads neither torch nor
Lightning.

Example:
    >>> import callbacks
    >>> callbacks.GradNorm(per_layer=True).norm_type
    2.0
"""

import difflib
from typing import Any

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name in __all__:
        return _load(name)
    close = difflib.get_close_matches(name, __all__, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(__all__)}"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; {hint}", name=name)
