"""Output on streams whose encoding lacks characters of it: they are replaced, nothing ends; files are UTF-8 everywhere."""

import csv
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo as library
from recipes.cli.__main__ import main

NAMES = ["кошка", "собака"]
ROOT = Path(__file__).parents[2]


def streams(monkeypatch: pytest.MonkeyPatch, encoding: str) -> tuple[io.BytesIO, io.BytesIO]:
    """Give the process a stdout and a stderr of this encoding that refuse other characters, as a terminal's do."""
    buffers = io.BytesIO(), io.BytesIO()
    for name, buffer in zip(("stdout", "stderr"), buffers, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(buffer, encoding=encoding, errors="strict", write_through=True))
    return buffers


@pytest.fixture
def animals(tmp_cwd: Path) -> Path:
    """Write images of two classes, and a model that knows them; their names are not in ASCII."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(NAMES):
        Path("photos", name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(100 * k, 100 * k + 120, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path("photos", name, f"{i}.png"))
    torch.manual_seed(0)
    model = library.create_model("resnet20", depth=8, width=4, num_classes=2)
    model.class_names, model.input_shape, model.preparation = NAMES, (3, 16, 16), {"center": 1.0}
    model.save_pretrained("model")
    return tmp_cwd


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.usefixtures("animals")
def test_predict_shows_class_names_that_the_terminal_lacks(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    out, err = streams(monkeypatch, encoding)
    assert main(["predict", "model", "photos"]) == 0, err.getvalue()
    text = out.getvalue().decode(encoding)
    assert all(escaped in text for escaped in (r"photos/\u043a\u043e\u0448", r"photos/\u0441\u043e\u0431"))
    assert sys.stdout.errors == "strict", "the stream is the caller's again"


@pytest.mark.usefixtures("animals")
def test_errors_name_files_that_the_terminal_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = streams(monkeypatch, "ascii")
    for args in (["predict", "model", "нет.png"], ["fit", "-c", "рецепт"], ["fit", "-c", "рецепт.yaml"], ["модель"]):
        assert main(args) == 2
    lines = err.getvalue().decode("ascii").splitlines()
    assert len(lines) == 4
    assert all(r"\u04" in line for line in lines), lines
    assert not out.getvalue()


def test_a_file_name_that_is_no_text_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_cwd: Path) -> None:
    out, err = streams(monkeypatch, "utf-8")
    assert main(["fit", "-c", os.fsdecode(b"caf\xe9.yaml")]) == 2
    assert r"caf\udce9.yaml" in err.getvalue().decode()
    assert not out.getvalue()


def test_finetune_trains_on_class_names_that_the_terminal_lacks(monkeypatch: pytest.MonkeyPatch, animals: Path) -> None:
    out, err = streams(monkeypatch, "ascii")
    args = "--model resnet20 --model.depth=8 --model.width=4 --weights none --size 16 --data.num_workers=0 --epochs 1"
    assert main(["finetune", "photos", *args.split()]) == 0, err.getvalue()
    assert r"classes  2: \u043a\u043e\u0448\u043a\u0430 10" in out.getvalue().decode("ascii")
    run = Path("runs/transfer/image_folder/version_0")
    assert "кошка 10, собака 10" in (run / "log.txt").read_text(encoding="utf-8")
    rows = [*csv.reader((run / "wrong_examples.csv").read_text(encoding="utf-8").splitlines())]
    assert all(row[0].split("/")[0] in NAMES for row in rows[1:])
    assert library.load(run / "model").class_names == sorted(NAMES)


def test_every_text_file_is_opened_as_utf_8() -> None:
    """The encoding of a machine is no business of a run folder: it is read on another one."""
    text = re.compile(
        r"\.(read_text|write_text)\((?!.*encoding)|(?<![\w.])open\((?!.*(encoding|\"[rwa]b))|\.open\((?!.*(encoding|b\"))"
    )
    other = re.compile(r"Image\.open|os\.open|tarfile\.open|gzip\.open|urlopen|zip\w*\.open|def |>>> |\.\.\. ")
    wrong = []
    for package in ("zoo", "datamodules", "callbacks", "recipes"):
        for path in (ROOT / package).rglob("*.py"):
            source = re.sub(r"\(\n\s+", "(", path.read_text(encoding="utf-8"))  # an argument may stand on the next line
            wrong += [
                f"{path.name}: {line.strip()}"
                for line in source.splitlines()
                if text.search(line) and not other.search(line)
            ]
    assert not wrong


@pytest.mark.slow
@pytest.mark.usefixtures("animals")
def test_a_real_process_with_an_ascii_terminal() -> None:
    args = "--model resnet20 --model.depth=8 --model.width=4 --weights none --size 16 --data.num_workers=0 --epochs 1"
    done = subprocess.run(
        [sys.executable, "-m", "recipes.cli", "finetune", "photos", *args.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert rb"\u043a\u043e\u0448\u043a\u0430 10" in done.stdout
    text = Path("runs/transfer/image_folder/version_0/log.txt").read_text(encoding="utf-8")
    assert "кошка 10" in text
