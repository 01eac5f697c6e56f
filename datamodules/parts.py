"""Files in folders for training, validation and test, or in one folder."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from datamodules.base import DataModule
from datamodules.checks import check_share
from datamodules.decode import left_out
from datamodules.examples import Examples
from datamodules.splits import held_out


class PartsInFolders(DataModule):
    """A folder with the folders ``train``, and optionally ``val`` and ``test``, or with all files together.

    With folders, ``val`` is the validation part, or without it ``val_fraction`` of the training files; ``test`` is the test part.
    With all files together, ``test_fraction`` of them are the test part (always chosen with seed 0), and ``val_fraction`` of the
    others the validation part.

    A subclass calls :meth:`look_into` in its constructor, and defines :meth:`files` and ``_find_folders``.
    """

    layout = "with a folder for each class"  # of a part's folder

    def look_into(self, root: str, test_fraction: float) -> None:
        """Find the parts in a folder.

        Raises:
            ValueError: ``test_fraction`` is not in [0, 1).
            FileNotFoundError: There is no such folder.
        """
        check_share("test_fraction", test_fraction, "all images")
        self.root = Path(root).expanduser()
        self.test_fraction = test_fraction
        self.folders = self._find_folders()
        self._left_out: set[str] = set()
        self._num_val = 0  # number of files of the folder val, the last ones of the training part

    def _find_folders(self) -> dict[str, Path]:
        """Return the folder of each part: "train" always, "val" and "test" if they have one."""
        raise TypeError(f"{type(self).__name__} must define _find_folders(), which returns the folder of each part")

    def files(self, part: str) -> Any:
        """Return the files in the folder of a part: examples with a method ``joined``."""
        raise TypeError(
            f"{type(self).__name__} must define files(part), which returns the files in the folder of a part"
        )

    def leave_out(self, files: Iterable[str], **why: str) -> None:
        """Warn, once, of files that are no part of any example; ``why`` as for :func:`~datamodules.decode.left_out`."""
        if new := sorted(set(files) - self._left_out):
            self._left_out.update(new)
            rank_zero_warn(left_out(new, self.root, **why))

    @property
    @override
    def input_file(self) -> str | None:
        parts = [self._parts[name] for name in ("test", "val", "train") if len(self._parts.get(name, ()))]
        return os.path.join(self.root, parts[0].name_of(0)) if parts else None

    @property
    @override
    def has_test(self) -> bool:
        return "test" in self.folders or (self.folders["train"] == self.root and self.test_fraction > 0)

    @override
    def examples(self, part: Literal["train", "test"]) -> Examples:
        if "test" in self.folders or self.folders["train"] != self.root:
            if part == "test" and "test" not in self.folders:
                raise ValueError(f"there is no folder {self.root / 'test'}: create one, {self.layout}")
            files = self.files(part)
            if part == "train" and "val" in self.folders:
                val = self.files("val")
                self._num_val = len(val)
                files = files.joined(val)
            return files
        files = self.files("train")
        tests = held_out("test_fraction", self.test_fraction, len(files), 0, self._checked_labels(files))
        if part == "test" and not tests.any():
            raise ValueError("there is no test part: give test_fraction > 0, or folders train and test")
        return files.subset(tests if part == "test" else ~tests)

    @override
    def validation_mask(self, examples: Examples) -> Tensor:
        if "val" not in self.folders:
            return super().validation_mask(examples)
        return torch.arange(len(examples)) >= len(examples) - self._num_val
