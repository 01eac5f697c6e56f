"""Data: one dataset, or one file format of the user's own, is one file.

The names are imported on first use (PEP 562), so that ``import datamodules`` itself imports neither torch nor lightning.

Example:
    >>> from datamodules import DigitsDataModule
    >>> DigitsDataModule(size=32, batch_size=128).input_shape
    (1, 32, 32)
"""

from importlib import import_module
from typing import Any

_HOME = {
    "ArrayDataModule": "datamodules.arrays",
    "Augmentation": "datamodules.augment",
    "BreastCancerDataModule": "datamodules.tabular",
    "CIFAR100DataModule": "datamodules.cifar",
    "CIFAR10DataModule": "datamodules.cifar",
    "CirclesDataModule": "datamodules.toys",
    "CityscapesDataModule": "datamodules.segmentation_sets",
    "CSVDataModule": "datamodules.csv_table",
    "DataModule": "datamodules.base",
    "DatasetDataModule": "datamodules.dataset",
    "DiabetesDataModule": "datamodules.tabular",
    "DigitsDataModule": "datamodules.digits",
    "DownloadedImages": "datamodules.downloads",
    "EvaluationSampler": "datamodules.samplers",
    "FashionMNISTDataModule": "datamodules.mnist",
    "GaussianGridDataModule": "datamodules.mixtures",
    "GaussianRingDataModule": "datamodules.mixtures",
    "ImageDataModule": "datamodules.images",
    "ImageFolderDataModule": "datamodules.image_folder",
    "ImageNetDataModule": "datamodules.imagenet",
    "IrisDataModule": "datamodules.tabular",
    "MaskFolderDataModule": "datamodules.mask_folder",
    "MNISTDataModule": "datamodules.mnist",
    "MoonsDataModule": "datamodules.toys",
    "OxfordIIITPetDataModule": "datamodules.segmentation_sets",
    "SegmentationDataModule": "datamodules.segmentation",
    "ShapesDataModule": "datamodules.shapes",
    "SinusoidDataModule": "datamodules.toys",
    "SpiralsDataModule": "datamodules.toys",
    "TableDataModule": "datamodules.arrays",
    "TrainSampler": "datamodules.samplers",
    "VOCSegmentationDataModule": "datamodules.segmentation_sets",
    "WineDataModule": "datamodules.tabular",
    "XORDataModule": "datamodules.toys",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'datamodules' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
