"""Convolutional classifiers."""

from zoo.cnn.alexnet import AlexNet, AlexNetClassifier
from zoo.cnn.lenet import LeNet, LeNetClassifier
from zoo.cnn.resnet import ResNet, ResNetClassifier
from zoo.cnn.resnet_cifar import CIFARResNet, CIFARResNetClassifier
from zoo.cnn.vgg import VGG, VGGClassifier

__all__ = [
    "VGG",
    "AlexNet",
    "AlexNetClassifier",
    "CIFARResNet",
    "CIFARResNetClassifier",
    "LeNet",
    "LeNetClassifier",
    "ResNet",
    "ResNetClassifier",
    "VGGClassifier",
]
