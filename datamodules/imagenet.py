"""ImageNet, with the splits and the standardization of the literature."""

from pathlib import Path
from typing import Any

import torch
from typing_extensions import override

from datamodules.examples import Examples
from datamodules.image_folder import ImageFolderDataModule


class ImageNetDataModule(ImageFolderDataModule):
    """ImageNet-1k (ILSVRC 2012): 1,281,167 photographs of 1,000 classes to train, 50,000 to test (arXiv:1409.0575).

    Source: https://www.image-net.org, after registration; for non-commercial research and education only, so it is not
    downloaded here. ``root`` holds ``train/<wnid>/*.JPEG`` and ``val/<wnid>/*.JPEG``, the usual layout. The labels of the
    official test part are secret, and the literature tests on the official validation part: so here ``root/val`` is the test
    part, and ``val_fraction`` of the training part the validation part. ``mean`` and ``std`` are the published ones.

    The usual augmentation is ``resized_crop=0.08, flip=True`` (He et al. 2015, section 3.4, in torchvision's form).

    Args:
        root: Folder with ``train`` and ``val``.
        size: Height and width of an image.
        val_fraction: Share of the training images for the validation part.
        center: See :class:`~datamodules.ImageFolderDataModule`; the published accuracies are those of 0.875.
        **folder: Other arguments of :class:`~datamodules.ImageFolderDataModule`.

    Raises:
        FileNotFoundError: ``train`` or ``val`` does not exist.
    """

    def __init__(
        self,
        root: str = "data/imagenet",
        size: int = 224,
        val_fraction: float = 0.01,
        center: float = 0.875,
        **folder: Any,
    ) -> None:
        super().__init__(root, size=size, val_fraction=val_fraction, center=center, **folder)

    @override
    def _find_folders(self) -> dict[str, Path]:
        for part in ("train", "val"):
            if not (self.root / part).is_dir():
                raise FileNotFoundError(
                    f"{(self.root / part).absolute()} is not a folder: get ImageNet (ILSVRC 2012) from https://www.image-net.org "
                    f"and unpack it as {part}/<wnid>/*.JPEG"
                )
        return {"train": self.root / "train", "test": self.root / "val"}

    @override
    def describe(self, train: Examples) -> None:
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        if self.input_shape[0] == 1:
            super().describe(train)
        else:
            self.mean, self.std = mean, std
