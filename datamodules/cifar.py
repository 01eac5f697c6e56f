"""CIFAR-10 and CIFAR-100."""

import pickle
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
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
        published: Whether the files must be the published ones, by their MD5 sums; False takes files of your own in the same
            layout: any number of examples in any of the batches, and the class names of the file ``batches.meta``, if there is one.

    Raises:
        ValueError: Files are damaged, or not the published ones.

    Example:
        >>> data = CIFAR10DataModule(root="data", crop=4, flip=True)
        >>> data.num_classes, data.input_shape
        (10, (3, 32, 32))
    """

    class_names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    native_shape = (3, 32, 32)
    source: ClassVar[type[CIFAR10]] = CIFAR10
    folder = CIFAR10.base_folder

    def __init__(self, root: str = "data", download: bool = True, published: bool = True, **images: Any) -> None:
        super().__init__(root, download, **images)
        self.published = published
        meta = self._folder() / str(self.source.meta["filename"])
        if not published and meta.is_file():
            names = self._unpickled(meta).get(self.source.meta["key"])
            if not isinstance(names, list) or len(names) < 2:
                raise self._unreadable(
                    meta, f"its entry {self.source.meta['key']!r} is no list of two or more class names"
                )
            self.class_names = [str(name) for name in names]

    @override
    def prepare_data(self) -> None:
        if self.published:
            super().prepare_data()

    @override
    def read(self, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        if self.published:
            return super().read(part)
        names = [name for name, _ in (self.source.train_list if part == "train" else self.source.test_list)]
        paths = [path for path in (self._folder() / name for name in names) if path.is_file()]
        if not paths:
            raise FileNotFoundError(f"{self._folder()} has no {' or '.join(names)}: put files of that layout there")
        batches = [self._batch(path) for path in paths]
        return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])

    def _batch(self, path: Path) -> tuple[Tensor, Tensor]:
        """Return the images and labels of a file of the user's own."""
        content = self._unpickled(path)
        images, labels = content.get("data"), content.get("fine_labels", content.get("labels"))
        try:
            y = torch.tensor(labels).long()
            x = torch.from_numpy(np.array(images)).view(-1, 3, 32, 32)
            if x.dtype != torch.uint8 or y.shape != x.shape[:1]:
                raise ValueError(f"it has images of {x.dtype} {tuple(x.shape)} and labels {tuple(y.shape)}")
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._unreadable(path, str(error)) from error
        return x, y

    def _unpickled(self, path: Path) -> dict[str, Any]:
        try:
            with path.open("rb") as file:
                content = _PlainUnpickler(file, encoding="latin1").load()
        except Exception as error:  # garbage raises errors of any type
            raise self._unreadable(path, str(error)) from error
        if not isinstance(content, dict):
            raise self._unreadable(path, f"it holds a {type(content).__name__}")
        return {name.decode("latin1") if isinstance(name, bytes) else name: value for name, value in content.items()}

    @staticmethod
    def _unreadable(path: Path, reason: str) -> ValueError:
        return ValueError(
            f"{path} is no file of CIFAR's layout ({reason}): it must be a pickled dict with 'data', uint8 (N, 3072), and 'labels' "
            "or 'fine_labels', N numbers"
        )

    @override
    def _damaged(self, error: BaseException) -> ValueError:
        folder = self._folder()
        return ValueError(
            f"the files of {self.source.__name__} in {folder} are not the published ones, or damaged: published=False takes files "
            "of your own as they are; to have the published ones, move that folder away, and they are downloaded"
        )

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


class _PlainUnpickler(pickle.Unpickler):
    """Unpickle arrays and plain data; a file of unknown origin imports and runs nothing else."""

    ALLOWED = {
        *(("numpy", name) for name in ("ndarray", "dtype")),
        *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks to import {module}.{name}, which is refused")


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
