"""Tasks: how a net is trained. Each is a LightningModule and usable as it is with any net."""

from zoo.optim.initializers import initialize
from zoo.tasks.adversarial import AdversarialArguments, AdversarialTask
from zoo.tasks.base import Task, TaskArguments
from zoo.tasks.captioning import CaptioningArguments, CaptioningTask
from zoo.tasks.classification import ClassificationArguments, ClassificationTask, ClassifierArguments
from zoo.tasks.distillation import DistillationArguments, DistillationTask
from zoo.tasks.forecasting import ForecastingArguments, ForecastingTask
from zoo.tasks.language_model import LanguageModelTask
from zoo.tasks.reconstruction import ReconstructionArguments, ReconstructionTask
from zoo.tasks.regression import RegressionArguments, RegressionTask
from zoo.tasks.segmentation import SegmentationArguments, SegmentationTask
from zoo.tasks.seq2seq import Seq2SeqArguments, Seq2SeqTask
from zoo.tasks.variational import VariationalArguments, VariationalTask

__all__ = [
    "AdversarialArguments",
    "AdversarialTask",
    "CaptioningArguments",
    "CaptioningTask",
    "ClassificationArguments",
    "ClassificationTask",
    "ClassifierArguments",
    "DistillationArguments",
    "DistillationTask",
    "ForecastingArguments",
    "ForecastingTask",
    "LanguageModelTask",
    "ReconstructionArguments",
    "ReconstructionTask",
    "RegressionArguments",
    "RegressionTask",
    "SegmentationArguments",
    "SegmentationTask",
    "Seq2SeqArguments",
    "Seq2SeqTask",
    "Task",
    "TaskArguments",
    "VariationalArguments",
    "VariationalTask",
    "initialize",
]
