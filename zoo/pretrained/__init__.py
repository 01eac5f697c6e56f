"""From bytes to plain values and tensors, and back: files, folders, the hub, torchvision's weights, the bundled ones."""

from zoo.pretrained.report import LoadReport, load_weights
from zoo.pretrained.sources import list_weights

__all__ = ["LoadReport", "list_weights", "load_weights"]
