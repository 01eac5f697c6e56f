"""Arguments that are numbers: whatever is none is refused in every data module, in its words."""

from typing import Any

import pytest

import datamodules
from datamodules import CirclesDataModule, DigitsDataModule, GaussianGridDataModule, ShapesDataModule
from datamodules.images import ImageDataModule


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (DigitsDataModule, "val_fraction"),
        (DigitsDataModule, "mixup"),
        (DigitsDataModule, "cutmix"),
        (datamodules.IrisDataModule, "test_fraction"),
        (CirclesDataModule, "noise"),
        (GaussianGridDataModule, "spacing"),
        (ShapesDataModule, "color_jitter"),
        (ShapesDataModule, "noise"),
    ],
)
@pytest.mark.parametrize("value", [True, None, "0.1", float("nan"), float("inf"), -0.1])
def test_what_is_no_number_is_refused(cls: Any, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be .*, got {value}$"):
        cls(**{name: value})


def test_a_class_without_images_says_what_it_lacks() -> None:
    with pytest.raises(TypeError, match="must define native_shape"):
        ImageDataModule()
