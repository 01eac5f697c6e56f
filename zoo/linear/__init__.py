"""Linear models."""

from zoo.linear.glm import GLM, GLMRegressor
from zoo.linear.linear_regression import LinearRegression, LinearRegressor, NormalEquations, fit_closed_form
from zoo.linear.logistic_regression import LogisticRegression, LogisticRegressionClassifier
from zoo.linear.softmax_regression import SoftmaxRegression, SoftmaxRegressionClassifier

__all__ = [
    "GLM",
    "GLMRegressor",
    "LinearRegression",
    "LinearRegressor",
    "LogisticRegression",
    "LogisticRegressionClassifier",
    "NormalEquations",
    "SoftmaxRegression",
    "SoftmaxRegressionClassifier",
    "fit_closed_form",
]
