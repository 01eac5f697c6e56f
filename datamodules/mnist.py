"""MNIST, and FashionMNIST in its file format (idx)."""

from typing import ClassVar

from torch import Tensor
from torchvision.datasets import MNIST, FashionMNIST, VisionDataset
from typing_extensions import override

from datamodules.downloads import DownloadedImages


class MNISTDataModule(DownloadedImages):
    """70,000 handwritten digits, 28 x 28 gray pixels: 60,000 to train, 10,000 to test (LeCun, Cortes, Burges 1998).

    Source: https://ossci-datasets.s3.amazonaws.com/mnist/ (11 MB), checked by torchvision's MD5 sums. License: CC BY-SA 3.0.
    A stratified ``val_fraction`` of the 60,000 is the validation part; the 10,000 are the test part.

    Args: See :class:`~datamodules.DownloadedImages`. ``root`` holds ``MNIST/raw/*-ubyte`` (or the ``.gz`` files).

    Example:
        >>> data = MNISTDataModule(root="data", size=32, shift=2)
        >>> data.num_classes, data.input_shape
        (10, (1, 32, 32))
    """

    class_names = list("0123456789")
    native_shape = (1, 28, 28)
    source: ClassVar[type[MNIST]] = MNIST
    folder = "MNIST/raw"

    @override
    def _arrays(self, dataset: VisionDataset) -> tuple[Tensor, Tensor]:
        assert isinstance(dataset, MNIST)
        return dataset.data.unsqueeze(1), dataset.targets  # (N, H, W) -> (N, 1, H, W)

    @override
    def _is_complete(self) -> bool:
        names = [name.removesuffix(".gz") for name, _ in self.source.resources]
        return all((self._folder() / name).is_file() for name in names)


class FashionMNISTDataModule(MNISTDataModule):
    """70,000 pictures of clothes, 28 x 28 gray pixels: 60,000 to train, 10,000 to test (Xiao et al. 2017, arXiv:1708.07747).

    Source: http://fashion-mnist.s3-website.eu-central-1.amazonaws.com (31 MB), checked by torchvision's MD5 sums. License: MIT.

    Args: See :class:`~datamodules.DownloadedImages`. ``root`` holds ``FashionMNIST/raw/*-ubyte`` (or the ``.gz`` files).

    Example:
        >>> FashionMNISTDataModule().class_names[9]
        'Ankle boot'
    """

    class_names = list(FashionMNIST.classes)
    source = FashionMNIST
    folder = "FashionMNIST/raw"
