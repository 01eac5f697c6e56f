"""Write the API pages to docs/api (``make docs``): a page for every module.

The packages import their names on first use, which pdoc does not see, so they are imported here first.
"""

import warnings
from importlib import import_module
from pathlib import Path

import pdoc

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("zoo", "datamodules", "callbacks", "recipes")


def modules(package: str) -> list[str]:
    """The names of a package's modules, its own first."""
    paths = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / package).rglob("*.py"))]
    names = [".".join(path.parts).removesuffix(".__init__") for path in paths if path.name != "__main__"]
    return sorted(names)


if __name__ == "__main__":
    for package in map(import_module, PACKAGES):
        vars(package).update({name: getattr(package, name) for name in getattr(package, "__all__", ())})
    warnings.filterwarnings("ignore", ".*adds a module named")  # without an __all__ pdoc finds the submodules by itself
    pdoc.render.configure(docformat="google")
    pdoc.pdoc(*(name for package in PACKAGES for name in modules(package)), output_directory=ROOT / "docs" / "api")
