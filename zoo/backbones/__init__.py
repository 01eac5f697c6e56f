"""Nets of other libraries by name, with the interface of the zoo's own."""

from zoo.backbones.base import Backbone
from zoo.backbones.names import (
    build,
    find,
    full_name,
    is_dotted,
    list_weights,
    names,
    num_classes,
    published,
    resolved_arguments,
)

__all__ = [
    "Backbone",
    "build",
    "find",
    "full_name",
    "is_dotted",
    "list_weights",
    "names",
    "num_classes",
    "published",
    "resolved_arguments",
]
