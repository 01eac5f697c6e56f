"""Captions in files: CSV tables, the JSON of COCO and of Karpathy's splits, whose images are any files; and COCO itself."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import CaptionFileDataModule, COCOCaptionsDataModule, coco_captions
from datamodules.decode import BadImageError

QUIET = {"num_workers": 0, "size": 16, "batch_size": 2}


@pytest.fixture
def folder(tmp_cwd: Path) -> Path:
    """Images of several kinds, told apart by their red: 0.png is 0, 1.jpg about 10 ..."""
    (tmp_cwd / "photos").mkdir()
    for i, (mode, suffix) in enumerate(
        [("RGB", "png"), ("RGB", "jpg"), ("L", "png"), ("RGBA", "png"), ("P", "gif")] * 2
    ):
        color: Any = 10 * i if mode == "L" else (10 * i, 50, 90)
        image = Image.new("RGB" if mode == "P" else mode, (30 + i, 20), color)
        image.save(tmp_cwd / "photos" / f"{i}.{suffix}")
    Image.new("RGB", (20, 20), (200, 0, 0)).save(tmp_cwd / "photos" / "Grüße vom Meer.png")
    return tmp_cwd


NAMES = [f"photos/{i}.{suffix}" for i, suffix in enumerate(["png", "jpg", "png", "png", "gif"] * 2)]


def write(path: str, rows: Sequence[str], header: str = "image,caption") -> str:
    Path(path).write_text("\n".join([header, *rows]), encoding="utf-8")
    return path


def captions_of(data: Any, part: str) -> dict[str, list[str]]:
    """By the name of an image, its captions, from the tokens."""
    examples, tokens = data._parts[part], data.vocabulary["tokens"]
    found = {}
    for i in range(len(examples)):
        _, y = examples.__getitems__([i])
        rows = [" ".join(tokens[t] for t in row).split(" <end>")[0] for row in y[0].tolist()]
        found[examples.name_of(i)] = rows
    return found


def test_a_table_of_images_and_captions(folder: Path) -> None:
    rows = [f'{name},"Image {i % 2}, of many."' for i, name in enumerate(NAMES)] + ["./photos/3.png,Image of 1"]
    data = CaptionFileDataModule(write("captions.csv", rows), test_fraction=0.2, val_fraction=0.1, **QUIET)
    data.setup()
    expected = {name: [f"image {i % 2} of many"] for i, name in enumerate(NAMES)}
    expected[NAMES[3]].append("image of 1")
    parts = {part: captions_of(data, part) for part in ("train", "val", "test")}
    assert {name: len(part) for name, part in parts.items()} == {"train": 7, "val": 1, "test": 2}
    assert {name: texts for part in parts.values() for name, texts in part.items()} == expected
    assert data.input_file == str(Path(data._parts["test"].name_of(0)))
    assert data.preparation == {
        "whole": True,
        "seen": data.preparation["seen"],
        "draft": True,
        "interpolation": "bilinear",
    }
    for part in ("train", "val", "test"):
        examples = data._parts[part]
        images = examples.inputs(torch.arange(len(examples)))
        assert (images.dtype, images.shape[1:]) == (torch.uint8, (3, 16, 16))
        for name, image in zip(parts[part], images, strict=True):
            i = int(Path(name).stem)
            color = [10 * i] * 3 if i % 5 == 2 else [10 * i, 50, 90]
            assert (image.flatten(1).float().mean(1) - torch.tensor(color)).abs().max() < 3  # JPEG, palette


def test_gray_images(folder: Path) -> None:
    data = CaptionFileDataModule(write("c.csv", [f"{n},a dog" for n in NAMES]), color="gray", val_fraction=0.0, **QUIET)
    data.setup("fit")
    assert data._parts["train"].inputs(torch.tensor([0, 1])).shape == (2, 1, 16, 16)
    assert data.input_shape == (1, 16, 16)


def test_names_and_words_of_any_script(folder: Path) -> None:
    rows = ["photos/Grüße vom Meer.png,Ein KÖTER läuft", "photos/0.png,小狗 在 跑", "photos/1.jpg,Ein Köter"]
    data = CaptionFileDataModule(write("captions.csv", rows), test_fraction=0.0, val_fraction=0.0, **QUIET)
    data.setup("fit")
    assert captions_of(data, "train")["photos/Grüße vom Meer.png"] == ["ein köter läuft"]
    assert data.vocabulary["tokens"][3:] == ["ein", "köter", "läuft", "在", "小狗", "跑"]


def test_other_columns_delimiters_and_folders(folder: Path) -> None:
    (folder / "texts").mkdir()
    rows = [f"x| {i}.{Path(name).suffix[1:]} | A dog | 3" for i, name in enumerate(NAMES)]
    path = write("texts/results.csv", rows, "id| image_name| comment| n")
    options = {"delimiter": "|", "image": "image_name", "caption": "comment", "images": "photos"}
    data = CaptionFileDataModule(path, **options, test_fraction=0.0, val_fraction=0.0, **QUIET)
    data.setup("fit")
    assert captions_of(data, "train") == {Path(name).name: ["a dog"] for name in NAMES}


def test_files_for_the_parts(folder: Path) -> None:
    for name, some in (("train", NAMES[:6]), ("val", NAMES[5:7]), ("test", NAMES[7:])):
        (folder / name).mkdir()
        write(f"{name}/captions.csv", [f"../{image},a dog" for image in some])
    paths = [f"{name}/captions.csv" for name in ("train", "val", "test")]
    with pytest.warns(UserWarning, match="1 of the 2 images of the val part are in the training part, too"):
        data = CaptionFileDataModule(paths[0], val=paths[1], test=paths[2], **QUIET)
    data.setup()
    assert {part: [*captions_of(data, part)] for part in ("train", "val", "test")} == {
        "train": [f"../{name}" for name in NAMES[:6]],
        "val": [f"../{name}" for name in NAMES[5:7]],
        "test": [f"../{name}" for name in NAMES[7:]],
    }


def test_the_fingerprint_does_not_depend_on_where_the_files_are(folder: Path) -> None:
    write("captions.csv", [f"{name},a dog" for name in NAMES])
    shutil.copytree(folder, folder / "copy")
    prints = []
    for path in ("captions.csv", "copy/captions.csv"):
        data = CaptionFileDataModule(path, **QUIET)
        data.setup("fit")
        prints.append(data.data_identity)
    Image.new("RGB", (99, 99)).save("copy/photos/0.png")
    data = CaptionFileDataModule("copy/captions.csv", **QUIET)
    data.setup("fit")
    assert prints[0] == prints[1] != data.data_identity


# What is missing or wrong -----------------------------------------------------------------------------------------------


def test_missing_images_are_counted_and_named(folder: Path) -> None:
    rows = [f"{name},a dog" for name in NAMES] + [f"photos/gone{i}.jpg,a dog" for i in range(5)]
    write("captions.csv", rows)
    what = (
        f"5 of the 15 images that captions.csv lists are not in {folder} "
        r"\(photos/gone0.jpg, photos/gone1.jpg, photos/gone2.jpg ...\)"
    )
    with pytest.warns(UserWarning, match=f"{what}: they are left out"):
        data = CaptionFileDataModule("captions.csv", **QUIET)
    data.setup()
    assert sum(len(part) for part in data._parts.values()) == 10
    with pytest.raises(
        FileNotFoundError, match=f"{what}: add them, remove their captions, or give missing_images=leave_out"
    ):
        CaptionFileDataModule("captions.csv", missing_images="refuse", **QUIET)
    with pytest.raises(
        FileNotFoundError, match=r"15 of the 15 images .*: give the folder that their paths are relative to"
    ):
        CaptionFileDataModule("captions.csv", images="photos", **QUIET)


def test_paths_of_another_system_are_told(folder: Path) -> None:
    write("captions.csv", [f"{name},a dog" for name in NAMES[1:]] + [NAMES[0].replace("/", "\\") + ",a dog"])
    with pytest.raises(FileNotFoundError, match=r"photos\\.* is there as photos/.*: write / in paths"):
        CaptionFileDataModule("captions.csv", **QUIET)


def test_a_json_in_each_line_is_told(folder: Path) -> None:
    Path("metadata.jsonl").write_text('{"file_name": "0.png", "text": "a dog"}\n')
    with pytest.raises(ValueError, match=r"metadata\.jsonl has a JSON in each line: give a CSV table"):
        CaptionFileDataModule("metadata.jsonl", **QUIET)


def test_a_damaged_image_is_named(folder: Path) -> None:
    Path("photos/0.png").write_bytes(b"no image")
    write("captions.csv", [f"{name},a dog" for name in NAMES])
    data = CaptionFileDataModule("captions.csv", val_fraction=0.0, test_fraction=0.0, **QUIET)
    with pytest.raises(BadImageError, match=r"photos/0.png cannot be read as an image"):
        data.setup("fit")


def test_what_is_twice_or_empty_is_told(folder: Path) -> None:
    rows = [
        *(f"{name},a dog" for name in NAMES),
        "photos/0.png,a dog",
        "./photos/0.png,a dog",
        "photos/1.jpg,",
        "photos/2.png,??",
    ]
    with pytest.warns(UserWarning, match="left out") as caught:
        CaptionFileDataModule(write("captions.csv", rows), **QUIET)
    assert [str(one.message) for one in caught] == [
        "captions.csv: 2 of 14 rows have a caption that the image has already: they are left out",
        "left out of the train part: 2 captions without a word",
    ]


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        ("file,text", {}, "no column 'image', only 'file', 'text': is image='file' meant\\?"),
        ("image,text", {}, "no column 'caption', only 'image', 'text': is caption='text' meant\\?"),
        ("image,captoin", {}, "no column 'caption', only 'image', 'captoin': is caption='captoin' meant\\?"),
        ("Image,Caption", {}, "no column 'image', only 'Image', 'Caption': is image='Image' meant\\?"),
        ("x,y", {}, "no column 'image', only 'x', 'y': give the name of the column as image"),
        ("image;caption", {}, "is the delimiter ';' instead of ','\\?"),
        ("image,caption", {"caption": "image"}, "image and caption must be different columns, got 'image' for both"),
        ("image,caption", {"color": "blue"}, 'color must be "rgb" or "gray"'),
        ("image,caption", {"missing_images": "x"}, 'missing_images must be "leave_out" or "refuse", got \'x\''),
        ("image,caption", {"interpolation": "x"}, "interpolation must be one of"),
        ("image,caption", {"path": "photos"}, "photos is a folder: give the file in it"),
        ("image,caption", {"val": "captions.json"}, "captions.json is not a file"),
    ],
)
def test_tables_that_are_refused(folder: Path, header: str, options: dict[str, Any], message: str) -> None:
    path = write("captions.csv", ["photos/0.png;a dog" if ";" in header else "photos/0.png,a dog"], header)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        CaptionFileDataModule(**{"path": path, **options, **QUIET})


def test_a_row_without_an_image_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"captions.csv, line 3, column 'image': there is no image"):
        CaptionFileDataModule(write("captions.csv", ["photos/0.png,a dog", ",a cat"]), **QUIET)


# JSON -------------------------------------------------------------------------------------------------------------------


def coco(names: Sequence[str], captions: Sequence[tuple[int, str]]) -> dict[str, Any]:
    """Captions in the form of COCO's own files; images are numbered from 100."""
    return {
        "info": {"year": 2017},
        "licenses": [{"id": 1, "name": "CC"}],
        "images": [
            {"license": 1, "file_name": name, "height": 20, "width": 30, "id": 100 + i} for i, name in enumerate(names)
        ],
        "annotations": [{"image_id": 100 + i, "id": k, "caption": text} for k, (i, text) in enumerate(captions)],
    }


def test_a_json_in_the_form_of_coco(folder: Path) -> None:
    names = [Path(name).name for name in NAMES]
    captions = [(1, "A dog."), (0, "A cat!"), (1, "a brown dog\n")] + [(i, "A dog") for i in range(2, 10)]
    Path("captions.json").write_text(json.dumps(coco(names, captions)))
    data = CaptionFileDataModule("captions.json", "photos", test_fraction=0.0, val_fraction=0.0, **QUIET)
    data.setup("fit")
    assert captions_of(data, "train") == {
        **{name: ["a dog"] for name in names},
        names[0]: ["a cat"],
        names[1]: ["a dog", "a brown dog"],
    }


def test_images_without_captions_are_told(folder: Path) -> None:
    Path("captions.json").write_text(json.dumps(coco(NAMES, [(i, "a dog") for i in range(8)])))
    with pytest.warns(UserWarning, match="left out of the train part: 2 images without a caption"):
        CaptionFileDataModule("captions.json", **QUIET)


def test_a_json_in_the_form_of_karpathys_splits(folder: Path) -> None:
    splits = ["train", "restval", "train", "train", "val", "val", "test", "test", "test", "train"]
    images = [
        {
            "filepath": "photos",
            "filename": Path(name).name,
            "imgid": i,
            "split": split,
            "sentids": [2 * i, 2 * i + 1],
            "sentences": [
                {"tokens": ["a", "dog"], "raw": f"A {word}.", "imgid": i, "sentid": 0} for word in ("dog", "pet")
            ],
        }
        for i, (name, split) in enumerate(zip(NAMES, splits, strict=True))
    ]
    Path("dataset.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    data = CaptionFileDataModule("dataset.json", **QUIET)
    data.setup()
    places = {"train": [0, 1, 2, 3, 9], "val": [4, 5], "test": [6, 7, 8]}
    assert {part: captions_of(data, part) for part in places} == {
        part: {NAMES[i]: ["a dog", "a pet"] for i in some} for part, some in places.items()
    }
    with pytest.raises(
        ValueError, match=r"has parts of its own \(train, val, test\): give no other files for val and test"
    ):
        CaptionFileDataModule("dataset.json", test="dataset.json", **QUIET)
    more = [*images, {**images[1], "sentences": [{"raw": "Another one."}]}]  # "restval" and "train" are one part
    Path("dataset.json").write_text(json.dumps({"images": more}))
    again = CaptionFileDataModule("dataset.json", **QUIET)
    again.setup()
    assert captions_of(again, "train")[NAMES[1]] == ["a dog", "a pet", "another one"]
    Path("dataset.json").write_text(json.dumps({"images": images[4:6]}))
    with pytest.raises(ValueError, match=r"dataset.json has no image to train on, only the parts val"):
        CaptionFileDataModule("dataset.json", **QUIET)


GOOD = coco(["photos/0.png"], [(0, "a dog")])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', "captions.json, line 1: not a JSON .*: it is damaged or incomplete"),
        ("[1, 2]", "captions.json has no list of images: captions are in the form of COCO"),
        ({"annotations": []}, "has no list of images"),
        (
            {"images": GOOD["images"]},
            "has no list of annotations, which hold the captions: is it one of COCO's captions",
        ),
        (
            {**GOOD, "annotations": [{"image_id": 7, "caption": "a"}]},
            "annotation 0 is of the image 7, which is not in the list",
        ),
        (
            {**GOOD, "annotations": [{"image_id": 100, "bbox": []}]},
            "annotation 0 has no 'caption', got 'image_id', 'bbox'",
        ),
        ({**GOOD, "annotations": [{"image_id": 100, "caption": 3}]}, "annotation 0: 'caption' must be a text, got 3"),
        ({**GOOD, "annotations": ["a dog"]}, "annotation 0 has no 'image_id', got a str"),
        ({**GOOD, "images": GOOD["images"] * 2}, "images 0 and 1 have the same id 100: give each its own"),
        (
            {"images": [{"filename": "a", "sentences": [], "split": "dev"}]},
            "image 0 has the split 'dev': it must be one of train",
        ),
        ({"images": [{"filename": "a", "sentences": [{}], "split": "val"}]}, "image 0, sentence 0 has no 'raw'"),
        (
            {"images": [{"filepath": None, "filename": "a", "sentences": [], "split": "val"}]},
            "image 0: 'filepath' must be a text, got None",
        ),
        (
            {"images": [{"filename": "a"}, {"filename": "b", "sentences": [], "split": "val"}]},
            "image 0 has no 'split', got 'filename'",
        ),
    ],
)
def test_a_json_that_is_refused(folder: Path, content: Any, message: str) -> None:
    Path("captions.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=message):
        CaptionFileDataModule("captions.json", **QUIET)


# COCO -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_coco(tmp_cwd: Path) -> Path:
    """A tree in COCO's own layout, of eight and three photographs."""
    root = tmp_cwd / "coco"
    (root / "annotations").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3)):
        (root / f"{part}2017").mkdir()
        names = [f"{i:012d}.jpg" for i in range(count)]
        for name in names:
            Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8)).save(root / f"{part}2017" / name)
        captions = [(i, f"A dog on a {word}.") for i in range(count) for word in ("sofa", "chair", "dog", "bed", "dog")]
        content = coco(names, captions)
        (root / "annotations" / f"captions_{part}2017.json").write_text(json.dumps(content))
    return root


def test_coco_is_read_in_its_own_layout(tiny_coco: Path) -> None:
    data = COCOCaptionsDataModule(str(tiny_coco), val_fraction=0.25, **QUIET)
    data.prepare_data()  # nothing is missing, so nothing is downloaded
    data.setup()
    assert {name: len(part) for name, part in data._parts.items()} == {"train": 6, "val": 2, "test": 3}
    assert data.vocabulary["tokens"][3:] == ["a", "bed", "chair", "dog", "on", "sofa"]  # each six times or more
    assert [*captions_of(data, "test")] == [f"{i:012d}.jpg" for i in range(3)]
    assert captions_of(data, "test")["000000000000.jpg"] == [
        f"a dog on a {w}" for w in ("sofa", "chair", "dog", "bed", "dog")
    ]
    assert data.input_file == str(tiny_coco / "val2017" / "000000000000.jpg")
    (tiny_coco / "train2017" / "000000000003.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of the 8 images that .*captions_train2017.json lists are not in .*train2017"
    ):
        _ = COCOCaptionsDataModule(str(tiny_coco), **QUIET).vocabulary
    with pytest.warns(UserWarning, match="they are left out"):
        _ = COCOCaptionsDataModule(str(tiny_coco), missing_images="leave_out", **QUIET).vocabulary


def test_coco_that_is_not_there(tiny_coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="year must be 2017 or 2014, got 2015"):
        COCOCaptionsDataModule(year=2015)  # type: ignore[arg-type]
    shutil.rmtree(tiny_coco / "val2017")
    with pytest.raises(FileNotFoundError, match=r"val2017 does not exist: call prepare_data\(\) with download=True"):
        COCOCaptionsDataModule(str(tiny_coco), download=False, **QUIET).setup()
    asked = []

    def refuse(url: str, root: Path, filename: str) -> None:
        asked.append(url)
        raise OSError("no network")

    monkeypatch.setattr(coco_captions, "download_url", refuse)
    with pytest.raises(
        FileNotFoundError, match=r"val2017 is incomplete and could not be downloaded \(no network\): connect to"
    ):
        COCOCaptionsDataModule(str(tiny_coco), **QUIET).setup()
    assert asked == ["http://images.cocodataset.org/zips/val2017.zip"]
    assert sorted(entry.name for entry in tiny_coco.iterdir()) == ["annotations", "train2017"]


def test_a_download_is_unpacked_whole(tiny_coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archives are made of the tiny tree; a file of another year in the folder of annotations stays."""
    source = tiny_coco.rename(tiny_coco.with_name("source"))
    root = tiny_coco
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "captions_train2014.json").write_text("{}")

    def download(url: str, place: Path, filename: str) -> None:
        name = Path(url).stem
        member = "annotations" if name.startswith("annotations") else name
        Path(place).mkdir(parents=True, exist_ok=True)
        shutil.make_archive(str(Path(place) / filename).removesuffix(".zip"), "zip", source, member)

    monkeypatch.setattr(coco_captions, "download_url", download)
    data = COCOCaptionsDataModule(str(root), val_fraction=0.25, **QUIET)
    data.setup()
    assert len(data._parts["test"]) == 3
    assert sorted(entry.name for entry in root.iterdir()) == ["annotations", "train2017", "val2017"]
    assert (root / "annotations" / "captions_train2014.json").exists()
