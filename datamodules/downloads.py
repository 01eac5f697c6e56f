"""Image datasets that torchvision knows how to fetch: its addresses, checksums and readers, our splits and batches."""

import pickle
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torchvision.datasets import VisionDataset
from typing_extensions import override

from datamodules.images import ImageDataModule


class DownloadedImages(ImageDataModule):
    """A torchvision dataset, read into memory as uint8; a subclass names it in ``source``.

    Args:
        root: folder of the files, in torchvision's layout; what is there already is not fetched again.
        download: fetch what is missing; False never touches the network.
        **images: those of :class:`~datamodules.ImageDataModule`.

    Raises:
        FileNotFoundError: the files are neither there nor can be fetched.
        ValueError: a file that is there is damaged.
    """

    source: ClassVar[Any]  # the torchvision class
    folder: ClassVar[str]  # of its files, inside root

    def __init__(self, root: str = "data", download: bool = True, **images: Any) -> None:
        super().__init__(**images)
        self.root = Path(root).expanduser()
        self.download = download

    @override
    def prepare_data(self) -> None:
        if not self.download:
            return
        try:
            self.source(str(self.root), download=True)
        except _UNREADABLE as error:
            raise self._damaged(error) from error
        except (OSError, RuntimeError) as error:
            if self._is_complete():  # so it is not the network that failed
                raise self._damaged(error) from error
            raise FileNotFoundError(
                f"{self.source.__name__} is not complete in {self._place()} and could not be downloaded "
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
                f"{self.source.__name__} is not in {self._place()}: call prepare_data() with download=True, as a Trainer "
                f"does, or copy the files there"
            ) from error
        return self._arrays(dataset)

    def _arrays(self, dataset: VisionDataset) -> tuple[Tensor, Tensor]:
        """The images and labels of a torchvision dataset, as :meth:`read` shall give them."""
        raise TypeError(f"{type(self).__name__} does not say what its dataset holds: define _arrays(dataset)")

    def _is_complete(self) -> bool:
        """Whether all files are there, damaged or not."""
        raise TypeError(f"{type(self).__name__} does not say which files it needs: define _is_complete()")

    def _place(self) -> Path:
        return (self.root / self.folder).absolute()

    def _damaged(self, error: BaseException) -> ValueError:
        return ValueError(
            f"the files of {self.source.__name__} in {self._place()} are damaged ({_line(error)}): delete that folder and "
            f"{self.root.absolute()}/*.tar.gz, if any, and fetch them again"
        )


# what torchvision's readers end in when a file is cut off or is something else
_UNREADABLE = (AssertionError, ValueError, TypeError, LookupError, EOFError, pickle.UnpicklingError)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def channels_first(images: Any) -> Tensor:
    """uint8 numpy images ``(N, H, W, 3)`` -> a tensor ``(N, 3, H, W)``."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
