"""Every way in and out for weights."""

from zoo.pretrained.folder import save_folder
from zoo.pretrained.load import load
from zoo.pretrained.report import LoadReport, load_weights
from zoo.pretrained.skeleton import skeleton
from zoo.pretrained.sources import list_weights
from zoo.pretrained.weights import use_weights

__all__ = ["LoadReport", "list_weights", "load", "load_weights", "save_folder", "skeleton", "use_weights"]
