"""What ``zoo predict`` says of its inputs: unlike those of training, much larger than the model sees, of several frames."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.cli.console import Console

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules.sheet import Column
    from zoo import Model

_SMALL, _SHRUNK = 64, 4  # pixels of a small input; a larger one shrinks photos too, but keeps what is in them
# How far beyond the range of training an input is ordinary, as a share of that range. Images: their channels' means and
# deviations; 0 of 72,000 images are beyond, over 200 splits of the bundled digits, and all of them inverted. Rows: their
# values; 1 of 53,800 rows is beyond, over 200 splits of the four bundled tables.
_BEYOND = {"image": 0.5, "row": 2.0}
_LEAST = 0.1  # of [0, 1]: training images may be alike


def is_shrunk(width: int, height: int, shape: Sequence[int]) -> bool:
    """Return whether an image is so much larger than a small model's input ``(C, H, W)`` that little of it is left."""
    return min(shape[1:]) < _SMALL and min(width / shape[2], height / shape[1]) >= _SHRUNK


class Notes:
    """Warnings about inputs, each one line for all of them.

    Args:
        model: The model that predicts. It knows the range of its training inputs if its datamodule told it (``seen``).
    """

    def __init__(self, model: "Model") -> None:
        self.model = model
        self.count = 0
        self._far: list[str] = []
        self._shrunk: list[str] = []
        self._frames: list[str] = []
        self._left_out: list[str] = []
        self._limits = _limits(model)

    def look_at_files(self, files: Sequence[Path]) -> None:
        """Look at the sizes and the number of frames of image files."""
        from datamodules.decode import has_frames, open_image

        for path in files:
            with open_image(path) as image:
                if is_shrunk(*image.size, self.model.input_shape or ()):
                    self._shrunk.append(f"{path} with {image.width}x{image.height}")
                if has_frames(image, path):
                    self._frames.append(str(path))

    def leave_out(self, files: Sequence[str], folder: Path) -> None:
        """Remember the files of a folder that are not read."""
        from datamodules.decode import left_out

        if files:
            self._left_out.append(left_out(files, folder))

    def look_at(self, x: "Tensor", origins: Sequence[dict[str, Any]]) -> None:
        """Compare a batch with the range of the training inputs."""
        import torch

        self.count += len(x)
        if self._limits is None:
            return
        values, low, high = self._values(x).double(), *self._limits
        if values.shape[1:] != low.shape:
            return
        far = (values < low) | (values > high)
        for i in far.any(1).nonzero()[:, 0].tolist():
            excess = torch.maximum(low - values[i], values[i] - high) / (high - low)
            column = int(excess.nan_to_num(-1).argmax())  # nan: a category
            where = ", row ".join(str(origins[i][key]) for key in ("file", "row") if key in origins[i])
            self._far.append(f"{where} with {self._described(column, float(values[i, column]))}{self._cure(x[i])}")

    def print(self, console: Console) -> None:
        """Print the warnings to stderr."""
        for line in self._left_out:
            console.print(f"warning: {line}", error=True)
        kind = "image" if self.model.reads == "image" else "row"
        _, height, width = shape if len(shape := self.model.input_shape or ()) == 3 else (0, 0, 0)
        for found, text in (
            (self._far, "far from all that the model was trained on, such as {}: do not trust its prediction"),
            (
                self._shrunk,
                f"shrunk to the model's {width}x{height} pixels, such as {{}}: only coarse features are left",
            ),
            (self._frames, "of several frames, such as {}: the first is read"),
        ):
            if found:
                verb = "is" if len(found) == 1 else "are"
                line = f"{len(found)} of {self.count} {kind}{'s' * (self.count > 1)} {verb} {text.format(found[0])}"
                console.print(f"warning: {line}", error=True)

    def _values(self, x: "Tensor") -> "Tensor":
        if self.model.reads != "image":
            return x
        from datamodules.images import levels

        return levels(x)

    def _described(self, column: int, value: float) -> str:
        low, high = (values[column] for values in (self.model.preparation or {})["seen"])
        if self.model.reads == "image":
            channels = self.model.example_shape[0]
            name = "a mean" if column < channels else "a deviation"
            name += " " + ("red", "green", "blue")[column % channels] if channels == 3 else ""
        else:
            name = [feature for each in columns_of(self.model) for feature in each.features][column]
        return f"{name} of {value:.4g} (in training {low:.4g} to {high:.4g})"

    def _cure(self, x: "Tensor") -> str:
        """Say so if the image would be ordinary in inverted colors."""
        if self.model.reads != "image" or self._limits is None:
            return ""
        values, (low, high) = self._values(1 - x[None])[0], self._limits
        return ", which would fit in inverted colors" if bool(((values >= low) & (values <= high)).all()) else ""


def _limits(model: "Model") -> "tuple[Tensor, Tensor] | None":
    """Return the smallest and the largest ordinary values; None where the model does not know the range of training."""
    import torch

    seen = (model.preparation or {}).get("seen")
    if seen is None or model.reads not in _BEYOND:
        return None
    low, high = torch.tensor(seen, dtype=torch.float64)
    beyond = _BEYOND[model.reads] * (high - low)
    if model.reads == "image":
        beyond = beyond.clamp(min=_LEAST)
    else:  # of a column that never varied, rounding is ordinary; a category is no amount
        beyond = torch.maximum(beyond, 1e-6 * high.abs() + 1e-30)
        beyond[[column.categories is not None for column in columns_of(model) for _ in column.features]] = torch.inf
    return low - beyond, high + beyond


def columns_of(model: "Model") -> "list[Column]":
    """Return the encoding of the columns of a model of rows."""
    from datamodules.sheet import Column

    return [Column(**column) for column in (model.preparation or {}).get("columns", [])]
