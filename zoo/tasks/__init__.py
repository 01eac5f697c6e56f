"""Tasks: how a net is trained. Each is a LightningModule and usable as it is with any net."""

from zoo.optim.initializers import initialize
from zoo.tasks.adversarial import AdversarialTask
from zoo.tasks.base import Task
from zoo.tasks.classification import ClassificationTask
from zoo.tasks.reconstruction import ReconstructionTask
from zoo.tasks.regression import RegressionTask
from zoo.tasks.segmentation import SegmentationTask
from zoo.tasks.variational import VariationalTask

__all__ = [
    "AdversarialTask",
    "ClassificationTask",
    "ReconstructionTask",
    "RegressionTask",
    "SegmentationTask",
    "Task",
    "VariationalTask",
    "initialize",
]
