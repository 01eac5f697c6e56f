"""What is private of Lightning, PyTorch and torchvision is asked in one file of a package, ``internals.py``."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("callbacks", "datamodules")
# Public names of loops, progress and state whose meaning no documentation fixes.
UNDOCUMENTED = {"fit_loop", "epoch_loop", "epoch_progress", "batch_progress", "precision_plugin", "state"}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def reaches(source: str) -> Iterator[str]:
    """Names in a source that belong to the inside of somebody else's object or module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            whose = ast.unparse(node.value)
            if (private(node.attr) and whose not in {"self", "cls"}) or (
                node.attr in UNDOCUMENTED and whose.split(".")[-1] in {"trainer", *UNDOCUMENTED}
            ):
                yield f"{whose}.{node.attr}"
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield from (
                f"from {module} import {alias.name}"
                for alias in node.names
                if any(private(part) for part in [*module.split("."), alias.name])
            )


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("self._x + cls._y + x.__dict__", []),
        ("trainer._logger_connector.metrics", ["trainer._logger_connector"]),
        ("super()._x()", ["super()._x"]),
        ("self.trainer.state.fn", ["self.trainer.state"]),
        ("loop = trainer.fit_loop", ["trainer.fit_loop"]),
        ("trainer.strategy._setup_model(m)", ["trainer.strategy._setup_model"]),
        ("from torch.utils._pytree import tree_map", ["from torch.utils._pytree import tree_map"]),
        ("from lightning.pytorch.loops.loop import _Loop, Loop", ["from lightning.pytorch.loops.loop import _Loop"]),
        ("self.optimizer.state", []),
    ],
)
def test_reaches_sees_what_is_private(source: str, found: list[str]) -> None:
    assert list(reaches(source)) == found


@pytest.mark.parametrize("package", PACKAGES)
def test_only_one_file_reaches_into_other_libraries(package: str) -> None:
    found = {path.name: list(reaches(path.read_text())) for path in (ROOT / package).rglob("*.py")}
    assert found.pop("internals.py"), "or this test sees nothing"
    assert not {name: names for name, names in found.items() if names}
