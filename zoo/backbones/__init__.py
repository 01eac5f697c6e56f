"""Nets of other libraries by name, with the interface of the zoo's own."""

from zoo.backbones.base import Backbone, measured_maps
from zoo.backbones.names import (
    beyond,
    build,
    find,
    full_name,
    list_weights,
    names,
    num_classes,
    published,
    resolved_arguments,
)

__all__ = [
    "Backbone",
    "beyond",
    "build",
    "find",
    "full_name",
    "list_weights",
    "measured_maps",
    "names",
    "num_classes",
    "published",
    "resolved_arguments",
]
