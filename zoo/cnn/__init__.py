"""Convolutional classifiers."""

from zoo.cnn.lenet import LeNet, LeNetClassifier
from zoo.cnn.resnet import ResNet, ResNetClassifier
from zoo.cnn.resnet_cifar import CIFARResNet, CIFARResNetClassifier

__all__ = ["CIFARResNet", "CIFARResNetClassifier", "LeNet", "LeNetClassifier", "ResNet", "ResNetClassifier"]
