"""Reading files of any origin: only tensors and plain data are taken from them, no code in them is run."""

import hashlib
import pickle
import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

_AGAIN = "take an earlier checkpoint, or copy or download it again"


def sha256(path: Path) -> str:
    """Return the hash of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path, expected: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` file, mapped into memory: they are read when they are used.

    Args:
        path: The file.
        expected: Its sha256; None: the format has no checksum of its own, and nothing is checked.

    Raises:
        ValueError: The file is damaged.
    """
    if expected is not None and (actual := sha256(path)) != expected:
        raise ValueError(f"{path} is damaged: its sha256 is {actual}, expected {expected}: copy or download it again")
    try:
        return load_file(path)
    except Exception as error:  # the library raises its own SafetensorError
        raise ValueError(
            f"{path} is damaged or cut off, or no .safetensors file ({error}): copy or download it again"
        ) from error


def warn_unchecked(path: Path, why: str) -> None:
    """Warn that damage of a file cannot be noticed."""
    warnings.warn(f"{path} was not checked for damage: {why}", stacklevel=3)


def read_checkpoint(path: Path, mmap: bool = False, verify: bool = True) -> dict[str, Any]:
    """Return the content of a checkpoint file, if it is tensors and plain data.

    Args:
        path: The file.
        mmap: Whether tensors are mapped into memory, which reads them when they are used.
        verify: Whether the file's checksums are compared, which reads it once.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is damaged, or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    if verify and zipped:
        _check_sums(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickles: they are refused below
            # the format before torch 1.6 cannot be mapped
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipped)
    except pickle.UnpicklingError as error:
        if (wanted := str(error).partition("GLOBAL ")[2].split(" ")[0] or _imported(path)) is not None:
            raise ValueError(
                f"{path} asks to run or import {wanted}: refused, nothing of it was run; save tensors and plain data, "
                "for a net torch.save(net.state_dict(), path)"
            ) from error
        raise ValueError(f"{path} is damaged or no checkpoint at all: {_AGAIN}") from error
    except Exception as error:  # on garbage the unpickler raises errors of any type
        raise ValueError(f"{path} is damaged or cut off, or no checkpoint at all: {_AGAIN}") from error
    if not isinstance(content, dict):
        raise ValueError(  # noqa: TRY004 (it is the file's content that is wrong)
            f"{path} holds a {type(content).__name__}, not a checkpoint: save a dict of tensors, torch.save(net.state_dict(), path)"
        )
    if verify and not zipped:
        warn_unchecked(
            path, "the format before torch 1.6 has no checksums; torch.save(torch.load(path), path) adds them"
        )
    return content


def check_state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Check that the content of a file is a state dict, and return it.

    Raises:
        ValueError: It is not.
    """
    if not (
        isinstance(content, dict)
        and content
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    ):
        raise ValueError(
            f"{path} holds no state dict (tensors by name): save one with torch.save(net.state_dict(), path)"
        )
    return content


def _imported(path: Path) -> str | None:
    """Return what a bare pickle would import first, without running it; None if it is no pickle or imports nothing."""
    words: list[str] = []
    try:
        with path.open("rb") as file:
            for operation, argument, _ in pickletools.genops(file):
                if operation.name == "GLOBAL":
                    return str(argument).replace(" ", ".")
                if operation.name == "STACK_GLOBAL":
                    return ".".join(words[-2:])
                if isinstance(argument, str):
                    words.append(argument)
    except Exception:  # garbage
        return None
    return None


def _check_sums(path: Path) -> None:
    """Compare the checksums of a checkpoint, which torch does not: a flipped bit would load silently."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:
        raise ValueError(f"{path} is damaged or cut off ({error}): {_AGAIN}") from error
    if damaged is not None:
        raise ValueError(f"{path} is damaged: {damaged} does not match its checksum: {_AGAIN}")
