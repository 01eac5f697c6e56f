"""Tasks: how a net is trained. Each is a LightningModule and usable as it is with any net."""

from zoo.tasks.base import Task
from zoo.tasks.classification import ClassificationTask
from zoo.tasks.initializers import initialize
from zoo.tasks.regression import RegressionTask

__all__ = ["ClassificationTask", "RegressionTask", "Task", "initialize"]
