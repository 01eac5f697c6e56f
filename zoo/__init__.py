"""lightning-zoo: a LightningModule for every architecture family, each verified against an oracle.

The public names are imported on first use (PEP 562), so that ``import zoo`` itself imports no torch.

Example:
    >>> import zoo
    >>> model = zoo.create_model("lenet5", num_classes=10, lr=1e-3)
    >>> type(model).__name__
    'LeNetClassifier'
"""

from importlib import import_module
from typing import Any

_HOME = {
    "AdversarialTask": "zoo.tasks",
    "AlexNetClassifier": "zoo.cnn",
    "CIFARDenseNetClassifier": "zoo.cnn",
    "CIFARResNetClassifier": "zoo.cnn",
    "ConvHighwayClassifier": "zoo.cnn",
    "Autoencoder": "zoo.autoencoder",
    "ConvAutoencoder": "zoo.autoencoder",
    "ConvVAE": "zoo.autoencoder",
    "VAE": "zoo.autoencoder",
    "DCGAN": "zoo.gan",
    "GAN": "zoo.gan",
    "FCNSegmenter": "zoo.segmentation",
    "GLMRegressor": "zoo.linear",
    "DenseNetClassifier": "zoo.cnn",
    "GoogLeNetClassifier": "zoo.cnn",
    "HighwayClassifier": "zoo.linear",
    "LeNetClassifier": "zoo.cnn",
    "LinearRegressor": "zoo.linear",
    "LogisticRegressionClassifier": "zoo.linear",
    "MLPClassifier": "zoo.linear",
    "MLPRegressor": "zoo.linear",
    "MaximumLikelihood": "zoo.linear",
    "MobileNetClassifier": "zoo.cnn",
    "PerceptronClassifier": "zoo.linear",
    "PreActResNetClassifier": "zoo.cnn",
    "ResNetClassifier": "zoo.cnn",
    "SoftmaxRegressionClassifier": "zoo.linear",
    "UNetSegmenter": "zoo.segmentation",
    "VGGClassifier": "zoo.cnn",
    "ViTClassifier": "zoo.transformer",
    "draw_regions": "zoo.linear",
    "fit_closed_form": "zoo.linear",
    "fit_distribution": "zoo.linear",
    "Task": "zoo.tasks",
    "ClassificationTask": "zoo.tasks",
    "RegressionTask": "zoo.tasks",
    "SegmentationTask": "zoo.tasks",
    "ReconstructionTask": "zoo.tasks",
    "VariationalTask": "zoo.tasks",
    "LoadReport": "zoo.pretrained",
    "load": "zoo.pretrained",
    "create_model": "zoo.registry",
    "linear_regions": "zoo.linear",
    "list_models": "zoo.registry",
    "register": "zoo.registry",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
