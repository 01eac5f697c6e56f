"""The wheel: what is in it, and that it works from any folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("zoo", "datamodules", "callbacks", "recipes")

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """The command's output; a failure shows it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command} gave {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since setuptools leaves its build folder beside the sources."""
    source = tmp_path_factory.mktemp("source")
    for name in (*PACKAGES, "tests", "benchmarks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source / "dist", cwd=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


def test_wheel_holds_the_packages_their_yaml_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    held = {name for name in names if ".dist-info/" not in name}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in {".py", ".pyi", ".yaml", ".safetensors", ".json", ".md"}
        or path.name == "py.typed"
        or path.parent.name == "bundled"
    }
    assert {f"{package}/py.typed" for package in PACKAGES} <= wanted
    assert "recipes/cnn/lenet_digits.yaml" in wanted
    assert {
        f"zoo/pretrained/{folder}/{name}"
        for folder in (
            "lenet5_digits",
            "char_lm",
            "dates_gru",
            "dates_transformer",
            "unet_shapes",
            "dcgan_digits",
            "captioner_shapes",
        )
        for name in ("README.md", "config.json", "model.safetensors")
    } <= wanted
    assert {"datamodules/bundled/three.png", "datamodules/bundled/co2.csv"} <= wanted
    assert held == wanted
    assert wheel.stat().st_size <= 12e6
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_wheel_works_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "venv", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=tmp_path)
    python, zoo = home / "bin" / "python", home / "bin" / "zoo"
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check", wheel, cwd=tmp_path)
    # The dependencies come from the environment of this test: no network. An editable install there stays out of reach,
    # since a folder that a .pth file names has its own .pth files ignored.
    (packages,) = (home / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    origin = run(python, "-c", "import zoo, recipes; print(zoo.__file__, recipes.__file__)", cwd=elsewhere).split()
    assert all(Path(path).is_relative_to(packages) for path in origin), origin

    assert "lenet5" in run(zoo, "models", cwd=elsewhere)
    assert "cnn/lenet_digits" in run(zoo, "recipes", cwd=elsewhere)
    run(python, "-c", "import zoo; zoo.create_model('lenet5', weights='lenet5_digits')", cwd=elsewhere)
    assert not list(elsewhere.iterdir())
    assert "It was" in run(zoo, "sample", "char_lm", "--prompt", "It was", "-o", tmp_path / "text.txt", cwd=elsewhere)
    for name in ("dates_gru", "dates_transformer"):
        assert "2021-03-03" in run(zoo, "predict", name, "3 March 2021", cwd=elsewhere)
    run(zoo, "examples", elsewhere / "examples", cwd=elsewhere)
    run(zoo, "predict", "unet_shapes", "examples/shapes1.png", "-o", "examples", cwd=elsewhere)
    assert (elsewhere / "examples/shapes1_mask.png").is_file()
    shutil.rmtree(elsewhere / "examples")
    run(zoo, "fit", "-c", "cnn/lenet_digits", "--trainer.max_epochs", "1", cwd=elsewhere)
    assert [path.name for path in elsewhere.iterdir()] == ["runs"]
    assert list(elsewhere.glob("runs/cnn/lenet_digits/*/config.yaml")), sorted(elsewhere.rglob("*"))
