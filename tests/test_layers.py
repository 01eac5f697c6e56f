"""The house rules that a machine can check: import arrows, no circles, lazy packages, private names in one place."""

import ast
import functools
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

# the rooms of zoo, each with those that it may import
LIGHT = {"arguments", "spelling", "version", "writing"}
NETS = {*LIGHT, "internals", "registry", "blocks"}
MODEL = {*NETS, "pretrained"}
CREATE = {*MODEL, "model", "backbones"}
TASKS = {*CREATE, "create", "losses", "metrics", "optim", "drawing", "decoding"}
FAMILIES = {"linear", "cnn", "segmentation", "autoencoder", "gan", "transformer", "recurrent", "seq2seq", "captioning"}
ROOMS: dict[str, set[str]] = {
    **{room: set() for room in (*LIGHT, "internals")},
    "registry": LIGHT,
    "blocks": {*LIGHT, "internals"},
    "losses": {"blocks"},
    "metrics": {"losses", "internals"},
    "optim": NETS - {"registry"},
    "drawing": set(),
    "decoding": {"blocks", "protocol"},
    "pretrained": {*LIGHT, "internals"},
    "backbones": MODEL,
    "model": MODEL,
    "create": CREATE,
    "exports": CREATE,
    "encoders": CREATE | {"create"},
    "tasks": TASKS,
    **{room: TASKS | {"tasks", "encoders"} | FAMILIES for room in FAMILIES},
    "uncertainty": {"internals", "blocks", "metrics", "model"},
    "protocol": set(),
    "testing": TASKS | {"tasks", "protocol"},
    "__init__": {*LIGHT, "registry"},
}
NAMED_TUPLE = {"_asdict", "_fields", "_replace"}
LOOPS = re.compile(
    r"fit_loop|epoch_loop|epoch_progress|batch_progress|_connector|state\.(fn|stage)|strategy\._|precision_plugin"
)


def files(package: str | None = None) -> list[Path]:
    packages = PACKAGES if package is None else (package,)
    return sorted(path for name in packages for path in (ROOT / name).rglob("*.py"))


MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in files()}


def imported(source: str) -> set[str]:
    """Dotted names of all that a source imports, wherever the import stands: in a function, for types, by ``import_module``."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}:
            names |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return names


def arrows() -> dict[Path, set[Path]]:
    """Which file imports which; that a file imports its own package, whose ``__init__`` shows it, is no arrow."""
    found = {}
    for path in files():
        targets = {MODULES[name] for name in imported(path.read_text()) if name in MODULES} - {path}
        found[path] = {t for t in targets if not (t.name == "__init__.py" and t.parent in path.parents)}
    return found


def circles(graph: dict[Path, set[Path]]) -> list[list[str]]:
    """Files that lead back to themselves, by Tarjan's algorithm."""
    number: dict[Path, int] = {}
    low: dict[Path, int] = {}
    stack: list[Path] = []
    found: list[list[str]] = []

    def visit(node: Path) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for target in graph[node]:
            if target not in number:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], number[target])
        if low[node] == number[node]:
            circle = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(circle) > 1:
                found.append(sorted(str(path) for path in circle))

    for node in graph:
        if node not in number:
            visit(node)
    return found


def private(source: str, own: set[str]) -> Iterator[str]:
    """Private names of others: ``x._name``, ``self._name`` that none of our classes defines, ``from a._b import _c``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr) and node.attr not in NAMED_TUPLE:
            base = ast.unparse(node.value)
            if node.attr not in own or base not in {"self", "cls", "super()"}:
                yield f"{node.lineno}: {base}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith(PACKAGES):
            for alias in node.names:
                if alias.name.startswith("_") or re.search(r"(^|\.)_[^_]", node.module):
                    yield f"{node.lineno}: from {node.module} import {alias.name}"


@functools.cache
def own_private_names() -> set[str]:
    """Private names that our own code defines: methods, attributes, variables."""
    names = set()
    for path in files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    return names


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import callbacks.curves as c", {"callbacks.curves"}),
        ("def f():\n    from datamodules.images import X", {"datamodules.images", "datamodules.images.X"}),
        ("if TYPE_CHECKING:\n    import recipes", {"recipes"}),
        ("m = importlib.import_module('zoo.cnn')", {"zoo.cnn"}),
        ("from .images import X", set()),
    ],
)
def test_imported_sees_every_kind_of_import(source: str, expected: set[str]) -> None:
    assert imported(source) == expected


def test_circles_are_seen() -> None:
    a, b, c = Path("a"), Path("b"), Path("c")
    assert circles({a: {b}, b: {c}, c: {b}}) == [["b", "c"]]
    assert circles({a: {b, c}, b: {c}, c: set()}) == []


def test_private_names_are_seen() -> None:
    source = (
        "from torch._x import y\nself._mine\nself._theirs\ntrainer._loop\nsuper()._mine()\npoint._asdict()\nx.__class__"
    )
    assert [line.split(": ")[1] for line in private(source, {"_mine"})] == [
        "from torch._x import y",
        "self._theirs",
        "trainer._loop",
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_import_arrows(package: str) -> None:
    ours = {*PACKAGES, "tests", "benchmarks"}
    allowed = MAY_IMPORT[package] | {package}
    wrong = {
        str(path.relative_to(ROOT)): sorted(bad)
        for path in files(package)
        if (bad := {name.split(".")[0] for name in imported(path.read_text())} & ours - allowed)
    }
    assert not wrong, f"{package} may import {sorted(MAY_IMPORT[package]) or 'none of our other packages'}: {wrong}"


def test_arrows_between_the_rooms_of_zoo() -> None:
    wrong = []
    for path in files("zoo"):
        room = path.relative_to(ROOT / "zoo").parts[0].removesuffix(".py")
        assert room in ROOMS, f"{room} is a new room: say in ROOMS what it may import"
        targets = {name.split(".")[1] for name in imported(path.read_text()) if name.startswith("zoo.")}
        wrong += [f"{path.relative_to(ROOT)} imports zoo.{t}" for t in targets & ROOMS.keys() - ROOMS[room] - {room}]
    assert not wrong


def test_no_file_imports_itself_in_a_circle() -> None:
    assert not circles(arrows())


@pytest.mark.parametrize("package", PACKAGES)
def test_private_parts_of_others_are_used_in_one_file(package: str) -> None:
    own = own_private_names()
    wrong = {}
    for path in files(package):
        if path.name == "internals.py":
            continue
        source = path.read_text()
        lines = [f"{i}: {line.strip()}" for i, line in enumerate(source.splitlines(), 1) if LOOPS.search(line)]
        if found := [*private(source, own), *lines]:
            wrong[str(path.relative_to(ROOT))] = found
    assert not wrong, "ask it in internals.py"


@pytest.mark.parametrize("module", [*PACKAGES, "zoo.spelling", "zoo.registry", "recipes.cli"])
def test_importing_a_package_leaves_torch_alone(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'lightning', 'numpy', 'sklearn'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


# libraries that take long to import, and the files that cannot do without; others import them in the function that needs them
SLOW_TO_IMPORT = {
    "sklearn": {"datamodules/digits.py", "datamodules/tabular.py"},  # whose data it holds
    **{name: set() for name in ("scipy", "matplotlib", "wandb", "tensorboard", "onnx", "onnxruntime", "timm")},
}


def test_what_takes_long_to_import_waits_until_it_is_needed() -> None:
    found: dict[str, set[str]] = {name: set() for name in SLOW_TO_IMPORT}
    for path in files():
        top = ast.Module(
            [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)], []
        )
        for name in {name.split(".")[0] for name in imported(ast.unparse(top))} & found.keys():
            found[name].add(path.relative_to(ROOT).as_posix())
    assert found == SLOW_TO_IMPORT


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


USER_FILE = """
import callbacks, datamodules, zoo
reveal_type(zoo.ResNetClassifier)
reveal_type(zoo.create_model("resnet18"))
reveal_type(zoo.load("folder"))
reveal_type(callbacks.GradNorm(per_layer=True))
reveal_type(datamodules.DigitsDataModule(size=32))
zoo.ResNetClassifier(depth=18, lr=0.1, optimizer="SGD", weights="imagenet")
zoo.ResNetClassifier(learning_rate=0.1)
"""


@pytest.mark.slow
def test_a_type_checker_sees_the_real_signatures(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER_FILE)
    command = [sys.executable, "-m", "mypy", "--config-file", "", "--ignore-missing-imports", str(tmp_path / "user.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert "depth: " in revealed[0]
    assert "'lr'?: " in revealed[0]
    assert "-> zoo.cnn.resnet.ResNetClassifier" in revealed[0]
    assert revealed[1:] == [
        "zoo.model.Model",
        "zoo.model.Model",
        "callbacks.grad_norm.GradNorm",
        "datamodules.digits.DigitsDataModule",
    ]
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert 'Unexpected keyword argument "learning_rate"' in errors[0]
