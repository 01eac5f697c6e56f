"""What ``render`` shows, as files of the run and for loggers: images, texts and tables."""

import csv
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor


def write(folder: Path, name: str, value: Any) -> None:
    """Write an image as PNG, a text, or a table as CSV into a folder, which is created; masks are drawn by trackers alone."""
    if isinstance(value, dict):
        return
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
    if isinstance(value, dict):
        if _can(logger, "log_image", "masks"):
            images = [_pillow(image) for image in value["images"]]
            logger.log_image(name, images, step=step, masks=_layers(value, len(images)))
    elif isinstance(logger, TensorBoardLogger):
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


def log_histogram(logger: Logger, name: str, counts: Tensor, edges: Tensor, step: int) -> None:
    """Send a histogram to a logger that takes one, see :func:`takes_histograms`.

    Args:
        logger: The logger.
        name: Name of the histogram.
        counts: Number of values in each bin ``(bins,)``, on the CPU.
        edges: Edges of the bins ``(bins + 1,)``, on the CPU.
        step: Step on the logger's axis.
    """
    if isinstance(logger, TensorBoardLogger):
        middles = ((edges[1:] + edges[:-1]) / 2).double()
        total, squares = (counts * middles).sum(), (counts * middles.square()).sum()
        logger.experiment.add_histogram_raw(
            name, edges[0], edges[-1], counts.sum(), total, squares, edges[1:].tolist(), counts.tolist(), step
        )
    else:
        import wandb

        histogram: Any = wandb.Histogram(np_histogram=(counts.int().numpy(), edges.numpy()))
        logger.log_metrics({name: histogram}, step)


def takes_histograms(logger: Logger) -> bool:
    """Return whether a logger takes histograms: TensorBoard and W&B."""
    return isinstance(logger, TensorBoardLogger | WandbLogger)


def _can(logger: Logger, name: str, argument: str = "") -> bool:
    """Return whether a logger has a method, one that takes an argument."""
    if not callable(method := getattr(logger, name, None)):
        return False
    parameters = inspect.signature(method).parameters.values()
    return not argument or any(p.name == argument or p.kind == p.VAR_KEYWORD for p in parameters)


def _layers(overlay: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Return the masks of each image, as W&B takes them."""
    labels = dict(enumerate(overlay["class_names"]))
    return [
        {name: {"mask_data": masks[i].numpy(), "class_labels": labels} for name, masks in overlay["masks"].items()}
        for i in range(count)
    ]


def checked(name: str, value: Any) -> Any:
    """Return an entry of what ``render`` gave, an image on the CPU.

    Raises:
        TypeError: it is neither an image nor a text nor a table, nor images with masks.
    """
    if isinstance(value, Tensor) and value.dtype == torch.uint8 and value.ndim == 3 and value.shape[0] == 3:
        return value.cpu()
    if isinstance(value, str) or (isinstance(value, list) and value and all(isinstance(row, list) for row in value)):
        return value
    if isinstance(value, dict) and _are_masks(value):
        return {**value, "images": value["images"].cpu(), "masks": {k: m.cpu() for k, m in value["masks"].items()}}
    got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    raise TypeError(
        f"render() must give uint8 images (3, H, W), texts, tables (lists of rows, the first one the column names), or images with "
        f"masks (callbacks.Renderable), got {name!r}: {got}"
    )


def _are_masks(value: dict[str, Any]) -> bool:
    images, masks = value.get("images"), value.get("masks")
    if value.keys() != {"images", "masks", "class_names"} or not (
        isinstance(images, Tensor) and isinstance(masks, dict)
    ):
        return False
    shape = (images.shape[0], *images.shape[2:])  # (N, 3, H, W) -> (N, H, W)
    fits = [isinstance(m, Tensor) and m.dtype == torch.uint8 and m.shape == shape for m in masks.values()]
    return images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] == 3 and all(fits)


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
