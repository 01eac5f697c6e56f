"""Write the inputs that ``zoo examples`` copies: ``python datamodules/bundled/make_examples.py``. ``examples.md`` describes them.

They are of the test parts: no bundled net has seen one in training.
"""

import csv
import io
from pathlib import Path
from typing import Any

from PIL import Image

FOLDER = Path(__file__).parent
# What a model of the novel finds probable, less so, and improbable
SENTENCES = (
    "It was a very great happiness to her to be in the country again.",
    "The internet went down while she was writing the report.",
    "xylophone quartz jukebox, qwerty",
)


def images() -> dict[str, Any]:
    """Return images by file name: uint8 arrays ``(H, W)`` or ``(H, W, 3)``."""
    from datamodules import DigitsDataModule, ShapeCaptionsDataModule, ShapesDataModule

    x, y = DigitsDataModule().read("test")
    shapes = ShapesDataModule().examples("test").x
    scene = ShapeCaptionsDataModule(size=32).examples("test").pictures.x[0]  # type: ignore[attr-defined]
    return {
        "three.png": x[y == 3][11, 0].numpy(),
        "eight.png": x[y == 8][16, 0].numpy(),
        **{f"shapes{i}.png": shapes[k].permute(1, 2, 0).numpy() for i, k in ((1, 0), (2, 7))},
        "scene.png": scene.permute(1, 2, 0).numpy(),
    }


def texts() -> dict[str, str]:
    """Return texts and tables by file name."""
    return {"iris.csv": _iris(), "signals.csv": _signals(), "dates.txt": _dates(), "sentences.txt": _lines(SENTENCES)}


def _iris() -> str:
    """The 150 flowers, in an order that mixes the species."""
    from sklearn.datasets import load_iris

    iris = load_iris()
    rows = [[*values, iris.target_names[k]] for values, k in zip(iris.data.tolist(), iris.target, strict=True)]
    names = [name.replace(" (cm)", "").replace(" ", "_") for name in iris.feature_names]
    return _csv([[*names, "species"], *(rows[i * 7 % len(rows)] for i in range(len(rows)))])


def _signals() -> str:
    """A series of each class of MNIST-1D, with the class last."""
    from datamodules import MNIST1DDataModule

    x, y = MNIST1DDataModule().test_sequences()
    rows = [[*(f"{value:.4f}" for value in x[y == k][0, :, 0].tolist()), k] for k in range(10)]
    return _csv([[*(f"t{i}" for i in range(x.shape[1])), "digit"], *rows])


def _dates() -> str:
    """A date of each locale, a tab, and the date in ISO 8601."""
    from datamodules.dates import read_rows

    rows = [row[1:] for row in read_rows() if row[0] == "test"]
    of = {locale: [row for row in rows if row[0] == locale] for locale in sorted({row[0] for row in rows})}
    chosen = [of[locale][37 * i % len(of[locale])] for i, locale in enumerate(of)]  # of different forms and years
    return _lines(f"{written}\t{iso}" for _, written, iso in chosen)


def _csv(rows: Any) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()


def _lines(lines: Any) -> str:
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    for name, pixels in images().items():
        Image.fromarray(pixels).save(FOLDER / name, optimize=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8", newline="")
    print(*(f"{name}: {(FOLDER / name).stat().st_size} bytes" for name in (*images(), *texts())), sep="\n")
