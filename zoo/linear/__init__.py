"""Linear models and dense nets."""

from zoo.linear.glm import GLM, GLMRegressor
from zoo.linear.highway import Highway, HighwayClassifier
from zoo.linear.linear_regression import LinearRegression, LinearRegressor, NormalEquations, fit_closed_form
from zoo.linear.logistic_regression import LogisticRegression, LogisticRegressionClassifier
from zoo.linear.max_likelihood import FittedDistribution, MaximumLikelihood, fit_distribution
from zoo.linear.mlp import MLP, MLPClassifier, MLPRegressor
from zoo.linear.perceptron import Perceptron, PerceptronClassifier
from zoo.linear.random_features import RandomFeatures, RandomFeaturesClassifier, least_squares
from zoo.linear.regions import Region, draw_regions, linear_regions
from zoo.linear.softmax_regression import SoftmaxRegression, SoftmaxRegressionClassifier

__all__ = [
    "GLM",
    "MLP",
    "FittedDistribution",
    "GLMRegressor",
    "Highway",
    "HighwayClassifier",
    "LinearRegression",
    "LinearRegressor",
    "LogisticRegression",
    "LogisticRegressionClassifier",
    "MLPClassifier",
    "MLPRegressor",
    "MaximumLikelihood",
    "NormalEquations",
    "Perceptron",
    "PerceptronClassifier",
    "RandomFeatures",
    "RandomFeaturesClassifier",
    "Region",
    "SoftmaxRegression",
    "SoftmaxRegressionClassifier",
    "draw_regions",
    "fit_closed_form",
    "fit_distribution",
    "least_squares",
    "linear_regions",
]
