"""Recurrent nets over series and texts."""

from zoo.recurrent.classifier import SequenceClassifier
from zoo.recurrent.forecaster import ForecastNet, RecurrentForecaster
from zoo.recurrent.language_model import RecurrentLanguageModel, RecurrentLM
from zoo.recurrent.net import RecurrentNet, TokenNet
from zoo.recurrent.regressor import SequenceRegressor
from zoo.recurrent.steps import SequenceTask

__all__ = [
    "ForecastNet",
    "RecurrentForecaster",
    "RecurrentLM",
    "RecurrentLanguageModel",
    "RecurrentNet",
    "SequenceClassifier",
    "SequenceRegressor",
    "SequenceTask",
    "TokenNet",
]
