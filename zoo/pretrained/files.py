"""Reading files of any origin: tensors and plain data come out of them, nothing in them is run."""

import pickle
import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, mapped into memory: nothing is read before it is used.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return load_file(path)
    except Exception as error:  # the library raises its own SafetensorError
        raise ValueError(f"{path} is damaged or cut off: {error}") from error


def read_checkpoint(path: Path, mmap: bool = False) -> dict[str, Any]:
    """A checkpoint file's content: tensors and plain data, or an error.

    Args:
        path: the file.
        mmap: map the tensors into memory, which reads nothing before it is used and so checks no sums.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or holds anything else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if not mmap:
        _check_sums(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles: they are refused in plain words below
            mmap = mmap and zipfile.is_zipfile(path)  # not the format before torch 1.6
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if (wanted := str(error).partition("GLOBAL ")[2].split(" ")[0] or _imported(path)) is not None:
            raise ValueError(
                f"{path} asks to run or import {wanted}: refused, nothing of it was run; save tensors and plain data, "
                "for a net torch.save(net.state_dict(), path)"
            ) from error
        raise ValueError(f"{path} is damaged or no checkpoint at all") from error
    except Exception as error:  # garbage makes the unpickler stumble in any way there is
        raise ValueError(f"{path} is damaged or cut off, or no checkpoint at all") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a checkpoint")  # noqa: TRY004
    return content


def _imported(path: Path) -> str | None:
    """The first thing that a bare pickle would import, read without running it; None if it is no pickle, or imports nothing."""
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
    """Compare the checksums of a checkpoint, which torch itself does not: a flipped bit would load without a word."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:
        if zipfile.is_zipfile(path):
            raise ValueError(f"{path} is damaged: {error}") from error
        return  # an older format, or no checkpoint at all: the reader will tell
    if damaged is not None:
        raise ValueError(f"{path} is damaged: {damaged} does not match its checksum")
