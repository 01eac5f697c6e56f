"""What ``render`` shows, as files of the run and for loggers: images, texts and tables."""

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor


def write(folder: Path, name: str, value: Any) -> None:
    """Write an image as PNG, a text, or a table as CSV into a folder, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(value, Tensor):
        _pillow(value).save(folder / f"{name}.png")
    elif isinstance(value, str):
        (folder / f"{name}.txt").write_text(value, encoding="utf-8")
    else:
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(value)


def log(logger: Any, name: str, value: Any, step: int) -> None:
    """Send an image, a text or a table to a logger that takes such values."""
    if isinstance(logger, TensorBoardLogger):
        if isinstance(value, Tensor):
            logger.experiment.add_image(name, value, step)
        else:  # it reads Markdown: four spaces keep a text as it is
            text = _markdown(value) if isinstance(value, list) else re.sub("^", "    ", value, flags=re.MULTILINE)
            logger.experiment.add_text(name, text, step)
    elif isinstance(value, Tensor) and _can(logger, "log_image"):  # W&B, say, by methods that know its axis
        logger.log_image(name, [_pillow(value)], step=step)
    elif isinstance(value, str) and _can(logger, "log_text"):
        logger.log_text(name, columns=["text"], data=[[value]], step=step)
    elif isinstance(value, list) and _can(logger, "log_table"):
        logger.log_table(name, columns=value[0], data=value[1:], step=step)


def _can(logger: Logger, method: str) -> bool:
    return callable(getattr(logger, method, None))


def checked(name: str, value: Any) -> Any:
    """Return an entry of what ``render`` gave, an image on the CPU.

    Raises:
        TypeError: it is neither an image nor a text nor a table.
    """
    if isinstance(value, Tensor) and value.dtype == torch.uint8 and value.ndim == 3 and value.shape[0] == 3:
        return value.cpu()
    if isinstance(value, str) or (isinstance(value, list) and value and all(isinstance(row, list) for row in value)):
        return value
    got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    raise TypeError(
        f"render() must give uint8 images (3, H, W), texts, or tables (lists of rows, the first one the column names), "
        f"got {name!r}: {got}"
    )


@contextmanager
def warning_only(what: str) -> Iterator[None]:
    """Turn an error into a warning that begins with ``what``: a picture is not worth a run."""
    try:
        yield
    except Exception as error:
        rank_zero_warn(f"{what}: {type(error).__name__}: {error}")


def _pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())  # (3, H, W) -> (H, W, 3)


def _markdown(table: list[list[Any]]) -> str:
    rows = [[str(cell).replace("|", "\\|") for cell in row] for row in table]
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
