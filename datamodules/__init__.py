"""Datamodules: one file for each dataset, or for each format of the user's own files.

``__init__.pyi`` lists the public names. They are imported on first use, so ``import datamodules`` itself loads neither torch nor
Lightning.

Example:
    >>> from datamodules import DigitsDataModule
    >>> DigitsDataModule(size=32, batch_size=128).input_shape
    (1, 32, 32)
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
