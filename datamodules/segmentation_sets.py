"""Datasets for segmentation that torchvision downloads or reads."""

import os
from pathlib import Path
from typing import Any, ClassVar, Literal

from torchvision.datasets import Cityscapes, OxfordIIITPet, VOCSegmentation
from typing_extensions import override

from datamodules.decode import Interpolation, check_interpolation
from datamodules.internals import pet_files
from datamodules.mask_folder import MaskCode, MaskFiles, Value
from datamodules.segmentation import IGNORED, SegmentationDataModule


class ListedMasks(SegmentationDataModule):
    """A torchvision dataset of photographs and masks, read when they are needed. A subclass lists its files.

    Args:
        root: Folder of the files, in torchvision's layout; files that exist are not downloaded again.
        size: Height and width of an image, as one number or two.
        download: Whether to download missing files; False never uses the network.
        num_workers: Number of reading processes; None takes one for each CPU core, at most 8.
        draft, interpolation: See :class:`~datamodules.MaskFolderDataModule`.
        **segmentation: Other arguments of :class:`~datamodules.SegmentationDataModule`.

    Raises:
        FileNotFoundError: The files do not exist and cannot be downloaded.
    """

    values: ClassVar[list[Value]]  # of the classes in the mask files
    ignored: ClassVar[list[Value]]
    needed: ClassVar[tuple[str, ...]]  # files and folders in root that exist when the data are complete
    cure = "connect to the network, or copy the files there from a machine that has them"

    def __init__(
        self,
        root: str = "data",
        size: int | list[int] = 256,
        download: bool = True,
        num_workers: int | None = None,
        draft: bool = True,
        interpolation: Interpolation = "bilinear",
        **segmentation: Any,
    ) -> None:
        check_interpolation(interpolation)
        workers = min(os.cpu_count() or 1, 8) if num_workers is None else num_workers
        super().__init__(size=size, num_workers=workers, **segmentation)
        self.root = Path(root).expanduser()
        self.download = download
        self.draft = draft
        self.interpolation = interpolation

    @property
    @override
    def preparation(self) -> dict[str, Any]:
        return super().preparation | {"draft": self.draft, "interpolation": self.interpolation}

    def fetch(self) -> None:
        """Download and unpack the files."""
        raise TypeError(f"{type(self).__name__} must define fetch(), which downloads its files")

    def listed(self, part: Literal["train", "test"]) -> tuple[list[str], list[str]]:
        """Return the image files of a part and the mask file of each."""
        raise TypeError(f"{type(self).__name__} must define listed(part), which returns its images and masks")

    @override
    def prepare_data(self) -> None:
        if not self.download or not self._missing():
            return
        try:
            self.fetch()
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            line = " ".join(str(error).split())[:300] or type(error).__name__
            raise FileNotFoundError(
                f"{(self.root / self._missing()).absolute()} does not exist and could not be downloaded ({line}): {self.cure}"
            ) from error

    def _missing(self) -> str:
        """Return the first needed file that does not exist, or an empty string."""
        return next((name for name in self.needed if not (self.root / name).exists()), "")

    @override
    def examples(self, part: Literal["train", "test"]) -> MaskFiles:
        if name := self._missing():
            raise FileNotFoundError(
                f"{(self.root / name).absolute()} does not exist: call prepare_data() with download=True, as a Trainer does, or "
                f"{self.cure}"
            )
        images, masks = self.listed(part)
        for path in (*images, *masks):
            if not os.path.exists(path):
                raise FileNotFoundError(
                    f"{path} is listed, but does not exist: the data are incomplete; download or copy them again"
                )
        code = MaskCode(self.class_names, self.values, self.ignored)
        return MaskFiles(self.root, images, masks, code, draft=self.draft, interpolation=self.interpolation)


class OxfordIIITPetDataModule(ListedMasks):
    """Photographs of cats and dogs, 3,680 to train and 3,669 to test, with the outline of the animal (Parkhi et al. 2012).

    Source: https://www.robots.ox.ac.uk/~vgg/data/pets (800 MB), checked by torchvision's MD5 sums; CC BY-SA 4.0. Classes are
    background and pet; the border between them, "not classified" in the trimaps, is ignored. The 37 breeds are not used.

    Args: See :class:`~datamodules.segmentation_sets.ListedMasks`. ``root`` holds ``oxford-iiit-pet/``.

    Example:
        >>> OxfordIIITPetDataModule(size=128, flip=True).class_names
        ['background', 'pet']
    """

    class_names = ["background", "pet"]
    values = [2, 1]
    ignored = [3]
    needed = (
        "oxford-iiit-pet/images",
        "oxford-iiit-pet/annotations/trimaps",
        "oxford-iiit-pet/annotations/trainval.txt",
        "oxford-iiit-pet/annotations/test.txt",
    )

    @override
    def fetch(self) -> None:
        OxfordIIITPet(str(self.root), download=True)

    @override
    def listed(self, part: Literal["train", "test"]) -> tuple[list[str], list[str]]:
        split = "trainval" if part == "train" else "test"
        return pet_files(OxfordIIITPet(str(self.root), split, target_types="segmentation"))


class VOCSegmentationDataModule(ListedMasks):
    """Pascal VOC 2012: photographs with objects of 20 classes, 1,464 to train, 1,449 to test (Everingham et al. 2010).

    Source: http://host.robots.ox.ac.uk/pascal/VOC/voc2012 (2 GB), checked by torchvision's MD5 sum; the photographs are
    Flickr's, under its terms of use. The labels of the official test part are secret: here the test part is the official
    validation part, and the validation part ``val_fraction`` of the training part. The border of an object, 255, is ignored.

    Args: See :class:`~datamodules.segmentation_sets.ListedMasks`. ``root`` holds ``VOCdevkit/VOC2012/``.

    Example:
        >>> VOCSegmentationDataModule(resized_crop=0.25, flip=True).num_classes
        21
    """

    # fmt: off
    class_names = [
        "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
        "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
    ]
    # fmt: on
    values = list(range(21))
    ignored = [IGNORED]
    needed = tuple(
        f"VOCdevkit/VOC2012/{name}"
        for name in (
            "JPEGImages",
            "SegmentationClass",
            "ImageSets/Segmentation/train.txt",
            "ImageSets/Segmentation/val.txt",
        )
    )

    @override
    def fetch(self) -> None:
        VOCSegmentation(str(self.root), download=True)

    @override
    def listed(self, part: Literal["train", "test"]) -> tuple[list[str], list[str]]:
        dataset = VOCSegmentation(str(self.root), image_set="train" if part == "train" else "val")
        return dataset.images, dataset.masks


class CityscapesDataModule(ListedMasks):
    """Streets of 50 cities from a car, 2048 x 1024 pixels: 2,975 to train, 500 to test, 19 classes (Cordts et al. 2016).

    Source: https://www.cityscapes-dataset.com, after registration; for non-commercial research and education only, so it is not
    downloaded here: put ``leftImg8bit_trainvaltest.zip`` and ``gtFine_trainvaltest.zip`` into ``root``, where they are unpacked.
    The labels of the official test part are secret: here the test part is the official validation part, and the validation part
    ``val_fraction`` of the training part. Classes are the 19 that the benchmark evaluates; pixels of the others are ignored.

    Args: See :class:`~datamodules.segmentation_sets.ListedMasks`; ``size`` is 512 x 1024 here.

    Example:
        >>> CityscapesDataModule().input_shape
        (3, 512, 1024)
    """

    class_names = [
        entry.name for entry in sorted(Cityscapes.classes, key=lambda e: e.train_id) if 0 <= entry.train_id < IGNORED
    ]
    values = [
        entry.id for entry in sorted(Cityscapes.classes, key=lambda e: e.train_id) if 0 <= entry.train_id < IGNORED
    ]
    ignored = [entry.id for entry in Cityscapes.classes if not 0 <= entry.train_id < IGNORED]
    needed = tuple(f"{kind}/{part}" for kind in ("leftImg8bit", "gtFine") for part in ("train", "val"))
    cure = (
        "get leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from https://www.cityscapes-dataset.com (after "
        "registration) and put them into root"
    )

    def __init__(self, root: str = "data/cityscapes", size: int | list[int] = [512, 1024], **listed: Any) -> None:  # noqa: B006
        super().__init__(root, size, **listed)

    @override
    def fetch(self) -> None:
        Cityscapes(str(self.root), target_type="semantic")  # unpacks

    @override
    def listed(self, part: Literal["train", "test"]) -> tuple[list[str], list[str]]:
        dataset = Cityscapes(str(self.root), "train" if part == "train" else "val", target_type="semantic")
        pairs = sorted((image, targets[0]) for image, targets in zip(dataset.images, dataset.targets, strict=True))
        return [image for image, _ in pairs], [mask for _, mask in pairs]
