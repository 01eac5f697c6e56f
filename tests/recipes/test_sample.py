"""zoo sample: walls, points, rows, planes and ways, and what cannot be asked for."""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_kit import SHORT, Zoo, assert_one_line
from fakes import save
from PIL import Image
from torch import Tensor, nn

import zoo as package
from datamodules.decode import decode
from zoo import registry
from zoo.drawing.images import image_wall

NAMES = ["zero", "one", "two"]
NETS: dict[str, Any] = {
    "vae": lambda: package.VAE((1, 6, 8), 2, [8]),
    "cvae": lambda: package.VAE((3, 6, 8), 2, [8], conditional=True, num_classes=3),
    "gan": lambda: package.GAN(input_shape=(1, 6, 8), widths=[8], latent_dim=2, output="sigmoid"),
    "cgan": lambda: package.GAN((1, 6, 8), widths=[8], latent_dim=2, conditional=True, num_classes=3, output="sigmoid"),
    "points": lambda: package.GAN(input_shape=(2,), widths=[8], latent_dim=2),
    "rows": lambda: package.GAN(input_shape=(4,), widths=[8], latent_dim=2),
    "autoencoder": lambda: package.Autoencoder((1, 6, 8), 2, [8], output="sigmoid"),
    "classifier": lambda: package.MLPClassifier(48, 3, [8]),
}


@pytest.fixture
def pictures() -> None:
    """They are looked at."""


@pytest.fixture
def models(tmp_cwd: Path) -> Any:
    """Writes a folder of one of the nets; gives the model as it is loaded."""

    def make(name: str) -> Any:
        model = NETS[name]()
        shape = (3 if name == "cvae" else 1, 6, 8)
        model.describe_data(
            {
                "input_shape": {"points": (2,), "rows": (4,)}.get(name, shape),
                "class_names": NAMES,
                "preparation": {"columns": [{"name": n} for n in "abcd"]} if name == "rows" else None,
            }
        )
        model.save_pretrained(name)
        return package.load(name)

    return make


def picture(path: str) -> Tensor:
    pixels = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy())
    return pixels.permute(2, 0, 1)


@pytest.mark.parametrize("name", ["vae", "gan"])
def test_a_wall_of_samples(zoo: Zoo, models: Any, name: str) -> None:
    model = models(name)
    result = zoo("sample", name)
    assert (result.code, result.err) == (0, "")
    assert result.out == f"samples.png: 64 images from {type(model).__name__}\n"
    assert torch.equal(picture("samples.png"), image_wall(model.sample(64)))
    zoo("sample", name, "-n", 5, "--seed", 3, "-o", "deep/er/five.png")
    assert torch.equal(picture("deep/er/five.png"), image_wall(model.sample(5, seed=3)))
    assert not torch.equal(model.sample(5, seed=3), model.sample(5))


@pytest.mark.parametrize("name", ["cvae", "cgan"])
def test_a_class_can_be_asked_for(zoo: Zoo, models: Any, name: str) -> None:
    model = models(name)
    zoo("sample", name, "-n", 7, "-o", "all.png")
    assert torch.equal(picture("all.png"), image_wall(model.sample(7), columns=3))  # a column a class
    zoo("sample", name, "-n", 7, "--seed", 5, "-o", "other.png")
    assert torch.equal(picture("other.png"), image_wall(model.sample(7, None, 5), columns=3))
    assert not torch.equal(picture("other.png"), picture("all.png"))
    for label in ("two", "2"):
        zoo("sample", name, "-n", 7, "--label", label, "-o", "two.png")
        assert torch.equal(picture("two.png"), image_wall(model.sample(7, 2)))
    assert not torch.equal(model.sample(7, 2), model.sample(7, 1))


def test_points_and_rows(zoo: Zoo, models: Any) -> None:
    model = models("points")
    assert zoo("sample", "points", "-n", 50).out.startswith("samples.png: 50 points")
    assert len(picture("samples.png").unique()) > 5
    assert zoo("sample", "points", "-n", 5, "-o", "points.csv").out.startswith("points.csv: 5 rows")
    head, *rows = csv.reader(Path("points.csv").read_text().splitlines())
    assert head == ["x0", "x1"]
    torch.testing.assert_close(torch.tensor([[float(v) for v in row] for row in rows]), model.sample(5))
    models("rows")
    assert zoo("sample", "rows", "-n", 5).out.startswith("samples.csv: 5 rows")
    assert Path("samples.csv").read_text().splitlines()[0] == "a,b,c,d"


def test_the_plane_of_codes(zoo: Zoo, models: Any) -> None:
    model = models("vae")
    assert zoo("sample", "vae", "--latent-grid", 4, "-o", "a.png").code == 0
    assert torch.equal(picture("a.png"), image_wall(model.latent_grid(4), columns=4))
    assert zoo("sample", "vae", "--latent-grid").out.startswith("samples.png: 256 images")
    model = models("cvae")
    assert zoo("sample", "cvae", "--latent-grid", 3, "--label", "one", "-o", "b.png").code == 0
    assert torch.equal(picture("b.png"), image_wall(model.latent_grid(3, 1), columns=3))


@pytest.mark.parametrize("name", ["vae", "cvae", "autoencoder"])
def test_a_way_from_one_image_to_another(zoo: Zoo, models: Any, name: str) -> None:
    model = models(name)
    rng = np.random.default_rng(0)
    for path in ("a.png", "b.png"):
        save(Path(path), Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)))
    label = ["--label", "one"] if name == "cvae" else []
    result = zoo("sample", name, "--interpolate", "a.png", "b.png", "-n", 5, "-o", "way.png", *label)
    assert result.code == 0, result.err
    x = torch.stack([decode(path, model.input_shape[0], (6, 8)) for path in ("a.png", "b.png")]) / 255
    y = torch.tensor([1]) if label else None
    way = model.interpolate(x[:1], x[1:], 5, y)[0]
    assert torch.equal(picture("way.png"), image_wall(way, columns=5))
    assert torch.allclose(way[0], model.reconstruct(x[:1], y)[0], atol=1e-6)


def test_a_run_that_is_trained_and_asked_for_samples(zoo: Zoo) -> None:
    fit = zoo("fit", "-c", "autoencoder/vae2_digits", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2")
    assert "zoo sample runs/autoencoder/vae2_digits/version_0\n" in fit.out
    result = zoo("sample", "runs/autoencoder/vae2_digits/version_0", "-n", "4")
    assert result.out == "samples.png: 4 images from VAE\n"


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("classifier", [], ["MLPClassifier cannot generate examples: zoo sample is for models such as zoo.VAE"]),
        ("autoencoder", [], ["Autoencoder cannot generate examples", "--interpolate A.png B.png"]),
        ("autoencoder", ["--latent-grid"], ["Autoencoder cannot generate examples"]),
        (
            "classifier",
            ["--interpolate", "a.png", "a.png"],
            ["needs a model that encodes images", "MLPClassifier does not"],
        ),
        ("gan", ["--interpolate", "a.png", "a.png"], ["needs a model that encodes images", "GAN does not"]),
        ("gan", ["--latent-grid"], ["GAN has no latent grid"]),
        ("gan", ["--label", "1"], ["--label is for conditional models, and GAN takes no class"]),
        ("cgan", ["--label", "3"], ["--label '3' is not a class of the model: zero, one, two"]),
        ("cgan", ["--label", "onne"], ["did you mean 'one'?"]),
        (
            "cvae",
            ["--interpolate", "a.png", "a.png"],
            ["VAE is conditional: give the class of the images with --label"],
        ),
        ("gan", ["-n", "0"], ["-n must be 1 or more, got 0"]),
        ("vae", ["--interpolate", "a.png", "a.png", "-n", "1"], ["-n must be 2 or more, got 1"]),
        ("vae", ["--latent-grid", "1"], ["--latent-grid N must be 2 or more, got 1"]),
        ("vae", ["--latent-grid", "-n", "3"], ["--latent-grid N draws N x N images", "leave -n out"]),
        ("vae", ["--latent-grid", "--interpolate", "a.png", "a.png"], ["exclude each other"]),
        ("vae", ["--interpolate", "a.png", "gone.png"], ["no such image: gone.png"]),
        ("vae", ["--interpolate", "a.png", "notes.png"], ["notes.png cannot be read as an image"]),
        ("gan", ["--seed", "-1"], ["--seed must be an integer in 0..2**63-1, got -1"]),
        ("gan", ["-o", "x.jpg"], ["-o x.jpg: give the name of a file that ends in .png"]),
        ("gan", ["-o", "x.csv"], ["a CSV file is for rows of numbers", "(1, 6, 8)"]),
        ("rows", ["-o", "x.png"], ["samples of shape (4,) are neither images nor points"]),
        ("gan", ["-o", "a.png/x.png"], ["cannot write a.png/x.png", "give another place with -o"]),
        ("points", ["-o", "a.png/x.csv"], ["cannot write a.png/x.csv", "give another place with -o"]),
    ],
)
def test_what_is_refused(zoo: Zoo, models: Any, name: str, args: list[str], words: list[str]) -> None:
    models(name)
    save(Path("a.png"))
    Path("notes.png").write_text("no image")
    before = sorted(Path().rglob("*"))
    assert_one_line(zoo("sample", name, *args), *words)
    assert sorted(Path().rglob("*")) == before


def test_no_such_model(zoo: Zoo) -> None:
    assert_one_line(zoo("sample", "gone.ckpt"), "no such checkpoint or folder: gone.ckpt")
    assert_one_line(zoo("sample"), "MODEL must be given")
    assert "zoo sample MODEL" in zoo("sample", "--help").out


class Poet(package.Task):
    """Makes texts, with options of its own."""

    sample_options = ("temperature", "prompt")

    def __init__(self, width: int = 2, **task: Any) -> None:
        super().__init__(nn.Linear(width, width), **task)

    @property
    def samples(self) -> Any:
        return "text"

    def sample(self, count: int, seed: int = 0, temperature: float = 1.0, prompt: str | None = None) -> list[str]:
        return [f"{prompt} {temperature + 1:.1f} {seed} {i}" for i in range(count)]


@pytest.fixture
def poet(tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))  # what is registered here is forgotten again
    package.register("poet_of_the_tests", Poet)
    Poet().save_pretrained("poet")
    return "poet"


def test_texts_and_options_of_the_models_own(zoo: Zoo, poet: str) -> None:
    result = zoo("sample", poet, "-n", 2, "--seed", 3, "--temperature", 0.5, "--prompt", "Once")
    assert result.code == 0, result.err
    assert result.out.startswith("Once 1.5 3 0\n\nOnce 1.5 3 1\n")
    assert result.out.splitlines()[-1] == "samples.txt: 2 texts from Poet"
    assert Path("samples.txt").read_text() == "Once 1.5 3 0\n\nOnce 1.5 3 1\n"
    assert zoo("sample", poet, "-o", "poem.txt", "-n", 1).out.startswith("None 2.0 0 0\n")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--temprature", "2"], ["Poet has no option --temprature, did you mean '--temperature'?"]),
        (["--temperature", "hot"], ["--temperature must be a number, got hot"]),
        (["-o", "poem.png"], ["-o poem.png: the model makes texts: give a .txt file"]),
    ],
)
def test_options_that_the_model_does_not_have(zoo: Zoo, poet: str, args: list[str], words: list[str]) -> None:
    assert_one_line(zoo("sample", poet, *args), *words)


@pytest.mark.parametrize("more", [[], ["--latent-grid", "3"], ["--interpolate", "a.png", "b.png"]])
def test_unknown_options_are_refused_in_every_form(zoo: Zoo, models: Any, more: list[str]) -> None:
    models("vae")
    for name in "ab":
        Image.new("L", (8, 6)).save(f"{name}.png")
    assert_one_line(zoo("sample", "vae", "--temperature", "2", *more), "VAE has no option --temperature")


OWN = """
import zoo

class OwnVAE(zoo.VAE):
    def __init__(self, input_shape: list[int], widths: list[int] = [8], **task):
        super().__init__(input_shape, widths=widths, **task)

zoo.register("own_vae_of_the_tests", OwnVAE)
"""
RECIPE_OF_OWN = """
model: {class_path: own_vae_of_the_tests.OwnVAE}
data: {class_path: datamodules.DigitsDataModule}
trainer: {max_epochs: 1, callbacks: [{class_path: callbacks.ModelFolder}]}
"""


def test_a_run_of_a_class_of_the_users(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    Path("own_vae_of_the_tests.py").write_text(OWN)
    Path("own.yaml").write_text(RECIPE_OF_OWN)
    assert (result := zoo("fit", "-c", "own.yaml", *SHORT)).code == 0, result.err
    for path in ("runs/own/version_0", "runs/own/version_0/checkpoints/last.ckpt", "runs/own/version_0/model"):
        del sys.modules["own_vae_of_the_tests"], registry._ENTRIES["own_vae_of_the_tests"]  # as in another process
        assert (result := zoo("sample", path, "-n", 3)).code == 0, result.err
        assert result.out == "samples.png: 3 images from OwnVAE\n"
    del sys.modules["own_vae_of_the_tests"]
    Path("own_vae_of_the_tests.py").unlink()
    words = ["config.yaml names the class own_vae_of_the_tests.OwnVAE, which cannot be imported", "go to the folder"]
    assert_one_line(zoo("sample", "runs/own/version_0"), *words)
