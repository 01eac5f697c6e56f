"""What acts during a fit: one behavior, one file.

The names are imported on first use (PEP 562), so that ``import callbacks`` itself imports neither torch nor lightning.

Example:
    >>> import callbacks
    >>> callbacks.GradNorm(per_layer=True).norm_type
    2.0
"""

from importlib import import_module
from typing import Any

_HOME = {
    "EMA": "callbacks.ema",
    "GradNorm": "callbacks.grad_norm",
    "GracefulStop": "callbacks.graceful_stop",
    "LRSchedule": "callbacks.lr_schedule",
    "LayerFreezing": "callbacks.layer_freezing",
    "LearningCurves": "callbacks.learning_curves",
    "ModelFolder": "callbacks.model_folder",
    "NearestNeighbors": "callbacks.nearest_neighbors",
    "RandomState": "callbacks.random_state",
    "Samples": "callbacks.samples",
    "WrongExamples": "callbacks.wrong_examples",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'callbacks' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
