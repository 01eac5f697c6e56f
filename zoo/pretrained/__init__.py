"""Reading and writing weights: files, folders, the Hugging Face hub, torchvision's weights, bundled ones."""

from zoo.pretrained.report import LoadReport, load_weights
from zoo.pretrained.sources import list_weights

__all__ = ["LoadReport", "list_weights", "load_weights"]
