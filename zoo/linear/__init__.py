"""Linear models."""

from zoo.linear.linear_regression import LinearRegression, LinearRegressor, NormalEquations, fit_closed_form
from zoo.linear.softmax_regression import SoftmaxRegression, SoftmaxRegressionClassifier

__all__ = [
    "LinearRegression",
    "LinearRegressor",
    "NormalEquations",
    "SoftmaxRegression",
    "SoftmaxRegressionClassifier",
    "fit_closed_form",
]
