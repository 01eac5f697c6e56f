"""Files whose folders say which part of the data they belong to, or do not."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from datamodules.base import DataModule
from datamodules.examples import Examples
from datamodules.splits import held_out


class PartsInFolders(DataModule):
    """A folder with ``train``, and perhaps ``val`` and ``test``, or with everything together.

    In folders of their own: ``val`` validates, without it ``val_fraction`` of the training files do; ``test`` tests. All together:
    ``test_fraction`` of the files test (always chosen with seed 0), and ``val_fraction`` of the others validate.

    A subclass calls :meth:`look_into` when it is made, and defines :meth:`files` and ``_find_folders``.
    """

    layout = "with a folder a class"  # what a part's folder is

    def look_into(self, root: str, test_fraction: float) -> None:
        """Find the parts in a folder.

        Raises:
            ValueError: ``test_fraction`` is no share in [0, 1).
            FileNotFoundError: there is no such folder.
        """
        if not 0 <= test_fraction < 1:
            raise ValueError(f"test_fraction is a share of all images in [0, 1), got {test_fraction}")
        self.root = Path(root).expanduser()
        self.test_fraction = test_fraction
        self.folders = self._find_folders()
        self._validating = 0  # files of the folder val: the last of the training part

    def _find_folders(self) -> dict[str, Path]:
        """Where the parts are: "train" always, "val" and "test" if they have their own folder."""
        raise TypeError(f"{type(self).__name__} does not say where its parts are: define _find_folders()")

    def files(self, part: str) -> Any:
        """The files in the folder of a part: examples that can be ``joined`` with others."""
        raise TypeError(f"{type(self).__name__} does not say which files it reads: define files(part)")

    @property
    @override
    def has_test(self) -> bool:
        return "test" in self.folders or (self.folders["train"] == self.root and self.test_fraction > 0)

    @override
    def examples(self, part: Literal["train", "test"]) -> Examples:
        if "test" in self.folders or self.folders["train"] != self.root:
            if part == "test" and "test" not in self.folders:
                raise ValueError(f"there is no folder {self.root / 'test'}: make one to test on, {self.layout}")
            found = self.files(part)
            if part == "train" and "val" in self.folders:
                more = self.files("val")
                self._validating = len(more)
                found = found.joined(more)
            return found
        found = self.files("train")
        tests = held_out("test_fraction", self.test_fraction, len(found), 0, self._checked_labels(found))
        if part == "test" and not tests.any():
            raise ValueError("there is no test part: give test_fraction > 0, or folders train and test")
        return found.subset(tests if part == "test" else ~tests)

    @override
    def validation_mask(self, examples: Examples) -> Tensor:
        if "val" not in self.folders:
            return super().validation_mask(examples)
        return torch.arange(len(examples)) >= len(examples) - self._validating
