"""Every way in and out for weights."""

from zoo.pretrained.folder import save_folder
from zoo.pretrained.load import load
from zoo.pretrained.report import LoadReport, load_weights

__all__ = ["LoadReport", "load", "load_weights", "save_folder"]
