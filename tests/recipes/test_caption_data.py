"""Images with captions on the command line: a file of one's own, what is refused in one line, and held-out pairs of shapes."""

import json
import re
from pathlib import Path

import pytest
import torch
from cli_kit import Zoo, assert_one_line
from PIL import Image

from datamodules import ShapeCaptionsDataModule

PAGE = (Path(__file__).parents[2] / "docs/own_data.md").read_text()
RUN = Path("runs/captioning/caption_file/version_0")
TINY = (
    "--model.encoder=resnet20",
    "--model.encoder_args={width: 4}",
    "--model.encoder_weights=null",
    "--model.width=8",
    "--model.embedding_dim=8",
    "--data.size=16",
    "--data.num_workers=0",
    "--data.batch_size=4",
    "--trainer.max_epochs=1",
)


@pytest.fixture(autouse=True)
def _captions(tmp_cwd: Path) -> None:
    """Forty photos of four colors, each with two captions, and one photo that is not there."""
    Path("photos").mkdir()
    rows = ["image,caption"]
    for i in range(40):
        name, color = ("red", "blue", "black", "white")[i % 4], [(200, 0, 0), (0, 0, 200), (0,) * 3, (255,) * 3][i % 4]
        Image.new("RGB", (30, 20), color).save(f"photos/{i}.png")
        rows += [f"photos/{i}.png,A {name} field.", f'photos/{i}.png,"All is {name}, all of it"']
    Path("captions.csv").write_text("\n".join(rows) + "\n")


@pytest.mark.filterwarnings("default:1 of the 41 images")
def test_a_captioner_of_ones_own_images_keeps_its_words_and_how_images_are_read(zoo: Zoo) -> None:
    with Path("captions.csv").open("a") as file:
        file.write("photos/gone.png,A red field.\n")
    result = zoo("fit", "-c", "captioning/caption_file", *TINY)
    assert result.code == 0, result.err
    assert "1 of the 41 images that captions.csv lists are not in " in result.err
    assert "(photos/gone.png): they are left out" in result.err
    assert "test/ciderd" in result.out
    known = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["zoo"]
    words = sorted({"a", "red", "blue", "black", "white", "field", "all", "is", "of", "it"})
    assert known["vocabulary"]["tokens"] == ["<pad>", "<end>", "<unk>", *words]
    assert known["vocabulary"]["unknown"] == 2
    assert {name: known["preparation"][name] for name in ("whole", "draft", "interpolation")} == {
        "whole": True,
        "draft": True,
        "interpolation": "bilinear",
    }
    assert known["caption_length"] == 7
    rows = json.loads(zoo("predict", RUN, "photos/0.png", "photos/1.png", "--json").out)
    assert [row["file"] for row in rows] == ["photos/0.png", "photos/1.png"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--data.path=none.csv",), ("none.csv is not a file",)),
        (("--data.path=photos",), ("photos is a folder: give the file in it",)),
        (("--data.caption=comment",), ("captions.csv has no column 'comment'", "is caption='caption' meant?")),
        (("--data.images=photos",), ("40 of the 40 images that captions.csv lists are not in", "as images")),
        (("--data.max_length=2",), ("have more than max_length=2 tokens: give max_length=7, or shorter captions",)),
        (("--data.size=0",), ("size must be an integer >= 1, got 0",)),
        (("--data.tokenizer=word",), ("tokenizer",)),
        (("--data=datamodules.DigitsDataModule",), ("writes captions of images, but DigitsDataModule has none",)),
        (("--model=zoo.CIFARResNetClassifier",), ("does not write captions", "--model zoo.RecurrentCaptioning")),
    ],
)
def test_what_is_refused(zoo: Zoo, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    other = options[0].startswith(("--data=", "--model="))
    more = [option for option in TINY if not other or (option.startswith("--model.") and "--data=" in options[0])]
    assert_one_line(zoo("fit", "-c", "captioning/caption_file", *more, *options), *words)


def test_finetune_tells_where_captions_go(zoo: Zoo) -> None:
    fit = "zoo fit -c captioning/caption_file --data.path"
    assert_one_line(zoo("finetune", "captions.csv"), "give the column to predict, --target NAME", f"{fit} captions.csv")
    Path("captions.json").write_text("{}")
    assert_one_line(zoo("finetune", "captions.json"), "captions.json is no CSV file", f"{fit} captions.json")
    Path("table.csv").write_text("a,b\n1,2\n")
    assert "caption" not in zoo("finetune", "table.csv").err


def test_the_rows_that_the_page_shows_are_captions(zoo: Zoo) -> None:
    (shown,) = re.findall(r"```text\n(image,caption[^`]*)```", PAGE)
    for name in set(re.findall(r"photos/\w+\.jpg", shown)):
        Image.new("RGB", (20, 20)).save(name)
    Path("captions.csv").write_text(shown)
    options = ("--data.test_fraction=0", "--data.val_fraction=0", "--data.min_count=1", "--data.batch_size=1")
    result = zoo("fit", "-c", "captioning/caption_file", *TINY, *options)
    assert result.code == 0, result.err


def test_pairs_that_are_held_out_are_tested_by_an_option(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.shape_captions._TEST", 20)
    data = ("--data=datamodules.ShapeCaptionsDataModule", "--data.count=40", "--data.size=24", "--data.batch_size=8")
    model = [option for option in TINY if option.startswith("--model")]
    result = zoo("fit", "-c", "captioning/caption_file", *data, *model, "--model.beam=1", "--trainer.max_epochs=1")
    assert result.code == 0, result.err
    tested = {
        pairs: zoo("test", RUN, *more) for pairs, *more in (("held_in",), ("held_out", "--data.test_pairs=held_out"))
    }
    losses = {pairs: re.findall(r"test/loss +(\S+)", each.out) for pairs, each in tested.items()}
    assert losses["held_in"] == re.findall(r"test/loss +(\S+)", result.out) != losses["held_out"]
    assert all(f"test/{name}" in tested["held_out"].out for name in ShapeCaptionsDataModule.attributes)
    assert_one_line(zoo("test", RUN, "--data.test_pairs=heldout"), "held_out")
