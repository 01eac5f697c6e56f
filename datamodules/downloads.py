"""Image datasets that torchvision downloads and reads."""

import pickle
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torchvision.datasets import VisionDataset
from typing_extensions import override

from datamodules.images import ImageDataModule


class DownloadedImages(ImageDataModule):
    """A torchvision dataset in memory. A subclass names it in ``source``.

    Args:
        root: Folder of the files, in torchvision's layout; files that exist are not downloaded again.
        download: Whether to download missing files; False never uses the network.
        **images: Arguments of :class:`~datamodules.ImageDataModule`.

    Raises:
        FileNotFoundError: The files do not exist and cannot be downloaded.
        ValueError: A file is damaged.
    """

    source: ClassVar[Any]  # torchvision's class
    folder: ClassVar[str]  # of its files in root

    def __init__(self, root: str = "data", download: bool = True, **images: Any) -> None:
        super().__init__(**images)
        self.root = Path(root).expanduser()
        self.download = download

    @override
    def prepare_data(self) -> None:
        if not self.download:
            return
        try:  # files that exist are never written over: they may be the user's own
            self.source(str(self.root), download=not self._is_complete())
        except _UNREADABLE as error:
            raise self._damaged(error) from error
        except (OSError, RuntimeError) as error:
            if self._is_complete():  # then the network is not the cause
                raise self._damaged(error) from error
            raise FileNotFoundError(
                f"{self.source.__name__} is incomplete in {self._folder()} and could not be downloaded "
                f"({_line(error)}): connect to the network, or copy the files there from a machine that has them"
            ) from error

    @override
    def read(self, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        try:
            dataset = self.source(str(self.root), train=part == "train", download=False)
        except (*_UNREADABLE, OSError, RuntimeError) as error:
            if self._is_complete():
                raise self._damaged(error) from error
            raise FileNotFoundError(
                f"{self.source.__name__} is not in {self._folder()}: call prepare_data() with download=True, as a Trainer "
                f"does, or copy the files there"
            ) from error
        return self._arrays(dataset)

    def _arrays(self, dataset: VisionDataset) -> tuple[Tensor, Tensor]:
        """Return the images and labels of a torchvision dataset in the form of :meth:`read`."""
        raise TypeError(f"{type(self).__name__} must define _arrays(dataset), which returns images and labels")

    def _is_complete(self) -> bool:
        """Whether all files exist, damaged or not."""
        raise TypeError(f"{type(self).__name__} must define _is_complete(), which checks that its files exist")

    def _folder(self) -> Path:
        return (self.root / self.folder).absolute()

    def _damaged(self, error: BaseException) -> ValueError:
        return ValueError(
            f"the files of {self.source.__name__} in {self._folder()} are damaged ({_line(error)}): delete that folder and "
            f"{self.root.absolute()}/*.tar.gz, if any, and download them again"
        )


# Errors of torchvision's readers for a file that is truncated or has another format.
_UNREADABLE = (AssertionError, ValueError, TypeError, LookupError, EOFError, pickle.UnpicklingError)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def channels_first(images: Any) -> Tensor:
    """Return uint8 NumPy images ``(N, H, W, 3)`` as a tensor ``(N, 3, H, W)``."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
