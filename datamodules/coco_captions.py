"""COCO captions: photographs of everyday scenes, five captions each."""

import os
import shutil
from pathlib import Path
from typing import Any, Literal, get_args
from zipfile import BadZipFile

from torchvision.datasets.utils import download_url, extract_archive
from typing_extensions import override

from datamodules.caption_file import ListedCaptions, Missing, read_json
from datamodules.captions import Captioned

Year = Literal[2017, 2014]
_ANNOTATIONS = "http://images.cocodataset.org/annotations/annotations_trainval{}.zip"
_IMAGES = "http://images.cocodataset.org/zips/{}.zip"


class COCOCaptionsDataModule(ListedCaptions):
    """COCO captions (Chen et al. 2015, arXiv:1504.00325): 118,287 photographs to train, 5,000 to test, five captions or more each.

    Source: https://cocodataset.org (19 GB of 2017). Captions are under CC BY 4.0; the photographs are Flickr's, under its terms of
    use. The captions of the official test part are secret: here the test part is the official validation part, and the validation
    part ``val_fraction`` of the training part. Those of 2014 are the same photographs, 82,783 and 40,504. Karpathy's splits of
    them, on which most papers tell their numbers, are read by :class:`~datamodules.CaptionFileDataModule`.

    ``root`` holds ``annotations/captions_train2017.json``, ``annotations/captions_val2017.json``, ``train2017/`` and
    ``val2017/``.

    Args:
        root: Folder of the files; those that exist are not downloaded again.
        year: Which release.
        download: Whether to download missing files; False never uses the network. A model needs the size of the vocabulary, so that
            ``zoo`` downloads them before it builds one.
        min_count: How often a word must occur in the training captions, >= 1.
        missing_images: See :class:`~datamodules.caption_file.ListedCaptions`.
        **captions: Other arguments of :class:`~datamodules.caption_file.ListedCaptions`; ``test_fraction`` has no effect.

    Raises:
        FileNotFoundError: A file does not exist and cannot be downloaded.
        ValueError: A file is damaged, or an argument is out of its range.

    Example:
        >>> COCOCaptionsDataModule(size=256, resized_crop=0.5, max_length=20).kind
        'captioning'
    """

    def __init__(
        self,
        root: str = "data/coco",
        year: Year = 2017,
        download: bool = True,
        min_count: int = 5,
        missing_images: Missing = "refuse",
        **captions: Any,
    ) -> None:
        super().__init__(missing_images, min_count=min_count, **captions)
        if year not in get_args(Year):
            raise ValueError(f"year must be 2017 or 2014, got {year!r}")
        self.root = Path(root).expanduser()
        self.year = year
        self.download = download

    @override
    def prepare_data(self) -> None:
        if not self.download:
            return
        if not all(self._captions(part).exists() for part in ("train", "val")):
            self._fetch(_ANNOTATIONS.format(self.year), "annotations")
        for part in ("train", "val"):
            if not (folder := self.root / f"{part}{self.year}").exists():
                self._fetch(_IMAGES.format(folder.name), folder.name)

    def _captions(self, part: str) -> Path:
        return self.root / "annotations" / f"captions_{part}{self.year}.json"

    def _fetch(self, url: str, folder: str) -> None:
        """Download an archive and unpack its folder, which has its name only when it is complete."""
        place = self.root / f"{folder}.{os.getpid()}.part"
        try:
            download_url(url, place, "archive.zip")
            extract_archive(str(place / "archive.zip"), str(place))
            if (self.root / folder).exists():  # with the annotations of another year
                for file in (place / folder).iterdir():
                    file.replace(self.root / folder / file.name)
            else:
                (place / folder).replace(self.root / folder)
        except (OSError, RuntimeError, BadZipFile) as error:
            line = " ".join(str(error).split())[:300] or type(error).__name__
            raise FileNotFoundError(
                f"{(self.root / folder).absolute()} is incomplete and could not be downloaded ({line}): connect to the network, or "
                f"unpack {url} into {self.root.absolute()} on your own"
            ) from error
        finally:
            shutil.rmtree(place, ignore_errors=True)

    @override
    def captioned(self) -> dict[str, Captioned]:
        self.prepare_data()
        parts = {}
        for part, name in (("train", "train"), ("val", "test")):
            path, folder = self._captions(part), self.root / f"{part}{self.year}"
            if not path.exists() or not folder.exists():
                gone = path if not path.exists() else folder
                raise FileNotFoundError(
                    f"{gone.absolute()} does not exist: call prepare_data() with download=True, as a Trainer does, or copy it "
                    "there from a machine that has it"
                )
            parts[name] = self.from_files(read_json(path)["train"], folder, path)
        return parts
