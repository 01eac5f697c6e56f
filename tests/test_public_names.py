"""The stub of a package is the one list of its public names, and a mistyped one is answered with the closest."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("callbacks", "datamodules")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_names_of_the_stub_are_those_of_the_package(package: str) -> None:
    lines = (ROOT / package / "__init__.pyi").read_text().splitlines()
    listed = [re.fullmatch(r"from \.(\w+) import (\w+) as \2", line) for line in lines]
    assert all(listed), "one line for each name, so that type checkers re-export it"
    module = importlib.import_module(package)
    assert module.__all__ == dir(module) == sorted(match[2] for match in listed if match)
    for match in filter(None, listed):
        assert getattr(module, match[2]).__module__ == f"{package}.{match[1]}"


@pytest.mark.parametrize(
    ("package", "name", "hint"),
    [
        ("callbacks", "GradNrom", "; did you mean 'GradNorm'?"),
        ("callbacks", "xyz", "; it has ActivationStats, BatchNormReestimation, BatchSizeSchedule, DataWait, EMA, "),
        ("datamodules", "DigitDataModule", "; did you mean 'DigitsDataModule'?"),
    ],
)
def test_an_unknown_name_is_answered_with_the_closest(package: str, name: str, hint: str) -> None:
    with pytest.raises(AttributeError, match=re.escape(f"module {package!r} has no attribute {name!r}{hint}")):
        getattr(importlib.import_module(package), name)
    assert not hasattr(importlib.import_module(package), name)


@pytest.mark.parametrize("name", ["SentencePair", "CaptionedImage"])
def test_a_batch_of_the_datamodules_has_the_parts_that_zoo_reads(name: str) -> None:
    """Neither package imports the other, so each has a class of its own."""
    here, there = (getattr(importlib.import_module(package), name) for package in ("datamodules", "zoo"))
    assert here._fields == there._fields
    assert here.__annotations__ == there.__annotations__
