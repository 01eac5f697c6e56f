"""CIFAR-10 and CIFAR-100."""

from typing import ClassVar

import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100, VisionDataset
from typing_extensions import override

from datamodules.downloads import DownloadedImages, channels_first


class CIFAR10DataModule(DownloadedImages):
    """60,000 photographs of 10 classes, 32 x 32 RGB: 50,000 to train, 10,000 to test (Krizhevsky 2009).

    Source: https://www.cs.toronto.edu/~kriz/cifar.html (170 MB), checked by torchvision's MD5 sums. No license is given; the
    authors ask that "Learning Multiple Layers of Features from Tiny Images" be cited. The images are a labeled part of "80
    Million Tiny Images", which its own authors withdrew in 2020.

    The usual augmentation is ``crop=4, flip=True`` (He et al. 2015, section 4.2).

    Args: See :class:`~datamodules.DownloadedImages`. ``root`` holds ``cifar-10-batches-py/`` or ``cifar-10-python.tar.gz``.

    Example:
        >>> data = CIFAR10DataModule(root="data", crop=4, flip=True)
        >>> data.num_classes, data.input_shape
        (10, (3, 32, 32))
    """

    class_names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    native_shape = (3, 32, 32)
    source: ClassVar[type[CIFAR10]] = CIFAR10
    folder = CIFAR10.base_folder

    @override
    def _arrays(self, dataset: VisionDataset) -> tuple[Tensor, Tensor]:
        assert isinstance(dataset, CIFAR10)
        if dataset.classes != self.class_names:
            raise self._damaged(ValueError(f"the classes are {dataset.classes}"))
        return channels_first(dataset.data), torch.tensor(dataset.targets)

    @override
    def _is_complete(self) -> bool:
        names = [name for name, _ in self.source.train_list + self.source.test_list]
        return all((self._folder() / name).is_file() for name in [*names, self.source.meta["filename"]])


class CIFAR100DataModule(CIFAR10DataModule):
    """60,000 photographs of 100 classes, 32 x 32 RGB: 50,000 to train, 10,000 to test (Krizhevsky 2009).

    Source, checks and license: see :class:`~datamodules.CIFAR10DataModule`. Labels are the 100 fine ones.

    Args: See :class:`~datamodules.DownloadedImages`. ``root`` holds ``cifar-100-python/`` or ``cifar-100-python.tar.gz``.

    Example:
        >>> CIFAR100DataModule().num_classes
        100
    """

    # fmt: off
    class_names = [
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
        "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
        "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
        "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
        "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
        "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
        "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
        "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
        "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
        "willow_tree", "wolf", "woman", "worm",
    ]
    # fmt: on
    source = CIFAR100
    folder = CIFAR100.base_folder
