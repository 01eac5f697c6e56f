"""Linear models."""

from zoo.linear.softmax_regression import SoftmaxRegression, SoftmaxRegressionClassifier

__all__ = ["SoftmaxRegression", "SoftmaxRegressionClassifier"]
