"""Convolutional classifiers."""

from zoo.cnn.alexnet import AlexNet, AlexNetClassifier
from zoo.cnn.densenet import DenseNet, DenseNetClassifier
from zoo.cnn.densenet_cifar import CIFARDenseNet, CIFARDenseNetClassifier
from zoo.cnn.googlenet import GoogLeNet, GoogLeNetClassifier
from zoo.cnn.highway import ConvHighway, ConvHighwayClassifier
from zoo.cnn.lenet import LeNet, LeNetClassifier
from zoo.cnn.mobilenet import MobileNet, MobileNetClassifier
from zoo.cnn.resnet import ResNet, ResNetClassifier
from zoo.cnn.resnet_cifar import CIFARResNet, CIFARResNetClassifier
from zoo.cnn.resnet_preact import PreActResNet, PreActResNetClassifier
from zoo.cnn.series_fcn import SeriesFCN, SeriesFCNClassifier
from zoo.cnn.vgg import VGG, VGGClassifier

__all__ = [
    "VGG",
    "AlexNet",
    "AlexNetClassifier",
    "CIFARDenseNet",
    "CIFARDenseNetClassifier",
    "CIFARResNet",
    "CIFARResNetClassifier",
    "ConvHighway",
    "ConvHighwayClassifier",
    "DenseNet",
    "DenseNetClassifier",
    "GoogLeNet",
    "GoogLeNetClassifier",
    "LeNet",
    "LeNetClassifier",
    "MobileNet",
    "MobileNetClassifier",
    "PreActResNet",
    "PreActResNetClassifier",
    "ResNet",
    "ResNetClassifier",
    "SeriesFCN",
    "SeriesFCNClassifier",
    "VGGClassifier",
]
