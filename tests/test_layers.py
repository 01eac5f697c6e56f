"""The house rules that a machine can check: import arrows, lazy packages, file sizes, docstrings, nothing half done."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("zoo", "datamodules", "callbacks", "recipes")
MAY_IMPORT = {"zoo": set(), "datamodules": set(), "callbacks": set(), "recipes": {"zoo", "datamodules", "callbacks"}}
OURS = {*PACKAGES, "tests", "benchmarks"}


def files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported(source: str) -> set[str]:
    """Root names of all modules that a source imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}:
            names |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return {name.split(".")[0] for name in names}


def undocumented(source: str) -> Iterator[str]:
    """Public classes and functions without a docstring; methods too, but for those that say @override."""

    def look(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            overrides = any(ast.unparse(d).split(".")[-1] in {"override", "overload"} for d in node.decorator_list)
            if node.name.startswith("_") or overrides:
                continue
            if not ast.get_docstring(node):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from look(node.body, f"{prefix}{node.name}.")

    tree = ast.parse(source)
    if not ast.get_docstring(tree):
        yield "the module"
    yield from look(tree.body, "")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import callbacks.curves as c", {"callbacks"}),
        ("def f():\n    from datamodules.images import X", {"datamodules"}),
        ("if TYPE_CHECKING:\n    import recipes", {"recipes"}),
        ("m = importlib.import_module('zoo.cnn')", {"zoo"}),
        ("from .images import X", set()),
    ],
)
def test_imported_sees_every_kind_of_import(source: str, expected: set[str]) -> None:
    assert imported(source) == expected


def test_undocumented_sees_what_lacks_a_docstring() -> None:
    source = "class A:\n    '''.'''\n    def f(self): ...\n    @override\n    def g(self): ...\n    def _h(self): ...\ndef k(): ..."
    assert list(undocumented(source)) == ["the module", "A.f", "k"]


@pytest.mark.parametrize("package", PACKAGES)
def test_import_arrows(package: str) -> None:
    allowed = MAY_IMPORT[package] | {package}
    wrong = {
        str(path.relative_to(ROOT)): sorted(bad)
        for path in files()
        if path.relative_to(ROOT).parts[0] == package and (bad := imported(path.read_text()) & OURS - allowed)
    }
    assert not wrong, f"{package} may import {sorted(MAY_IMPORT[package]) or 'none of our other packages'}: {wrong}"


@pytest.mark.parametrize("package", ["zoo", "datamodules", "callbacks", "recipes"])
def test_importing_a_package_leaves_torch_alone(package: str) -> None:
    code = f"import sys, {package}; print(sorted({{'torch', 'lightning', 'numpy', 'sklearn'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("package", ["zoo", "datamodules", "callbacks"])
def test_public_names_resolve(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__, f"{package} shows nothing"
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        value = getattr(module, name)
        assert value.__name__ == name
        assert value.__module__.split(".")[0] == package
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


def test_no_file_is_longer_than_300_lines() -> None:
    long = {str(path.relative_to(ROOT)): n for path in files() if (n := len(path.read_text().splitlines())) > 300}
    assert not long, f"one room or two? {long}"


def test_nothing_is_half_done() -> None:
    words = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|raise NotImplementedError")
    texts = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in {".py", ".yaml"}]
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in texts
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if words.search(line)
    ]
    assert not found


def test_every_public_class_and_function_has_a_docstring() -> None:
    found = {str(path.relative_to(ROOT)): names for path in files() if (names := list(undocumented(path.read_text())))}
    assert not found
