"""zoo predict with a captioner: captions, scores, heat maps, images of all kinds, what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_kit import Zoo, assert_one_line
from PIL import Image

import zoo as package
from recipes.cli.verbs import written
from recipes.cli.verbs.predict import read_images
from zoo import decoding

WORDS = {
    "kind": "words",
    "tokens": ["<pad>", "<end>", "<unk>", *(f"word{i}" for i in range(9))],
    "padding": 0,
    "end": 1,
    "unknown": 2,
}
SHAPE = (3, 16, 24)


def saved(name: str, attention: str | None = "additive", **options: Any) -> Any:
    """An untrained captioner of images of 16 x 24 pixels, in a folder."""
    torch.manual_seed(36)
    shape = options.pop("input_shape", SHAPE)
    model = package.RecurrentCaptioning(
        "resnet20",
        {"width": 4},
        vocab_size=12,
        width=8,
        in_channels=shape[0],
        attention=attention,
        max_length=6,
        **options,
    )
    model.describe_data({"input_shape": shape, "vocabulary": WORDS, "preparation": {"whole": True}})
    model.mean, model.std = torch.full((shape[0],), 0.5), torch.full((shape[0],), 0.3)
    with torch.no_grad():
        for name_, parameter in model.net.named_parameters():
            if not name_.startswith("encoder"):
                parameter.mul_(3)  # so that what is written depends on the image
    model.save_pretrained(name)
    return package.load(name).eval()


@pytest.fixture(scope="module")
def captioner_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a captioner, which takes a while to build."""
    folder = tmp_path_factory.mktemp("captioner") / "captioner"
    saved(str(folder))
    return folder


@pytest.fixture
def captioner(captioner_template: Path, tmp_cwd: Path) -> Any:
    shutil.copytree(captioner_template, "captioner")
    return package.load("captioner").eval()


@pytest.fixture
def photos(tmp_cwd: Path) -> list[str]:
    """Files of images that differ, in size and mode, too."""
    torch.manual_seed(1)
    Path("photos/inner").mkdir(parents=True)
    sizes = {"a.png": (24, 16), "b.jpg": (90, 60), "inner/c.png": (5, 3), "inner/d.png": (24, 16)}
    for i, (name, (width, height)) in enumerate(sizes.items()):
        pixels = torch.rand(height, width, 3) * torch.eye(3)[i % 3] + 0.2 * i
        image = Image.fromarray((pixels.clamp(0, 1) * 255).byte().numpy())
        mode = {"inner/c.png": "RGBA", "inner/d.png": "L"}.get(name, "RGB")
        image.convert(mode).save(f"photos/{name}")
    Path("photos/notes.txt").write_text("no image")
    return [f"photos/{name}" for name in sizes]


def best_of(model: Any, file: str, beam: int, best: int) -> list[tuple[str, float]]:
    """The best captions and their scores, straight from the decoder."""
    image = read_images([Path(file)], model)
    with torch.no_grad():
        state = model.net.encode(model.standardize(image))
    found = decoding.beam_search(
        model.net, state, torch.tensor([1]), 6, beam=beam, best=best, end=1, padding=0, forbid=[0, 2], with_greedy=True
    )
    texts = [model.tokenizer.decode(row) for row in found.tokens[0].tolist()]
    return list(zip(texts, found.scores[0].tolist(), strict=True))


def test_captions_and_their_scores(zoo: Zoo, captioner: Any, photos: list[str]) -> None:
    """Of files and folders; what is asked for is what the decoder gives, in any batches."""
    result = zoo("predict", "captioner", "photos", "photos/a.png", "--json")
    rows = json.loads(result.out)
    assert [row["file"] for row in rows] == [*photos, "photos/a.png"]
    assert "notes.txt" in result.err
    for row in rows:
        assert row.keys() == {"file", "text", "score"}
        (wanted,) = best_of(captioner, row["file"], 1, 1)
        assert (row["text"], row["score"]) == (wanted[0], pytest.approx(wanted[1], abs=1e-4))
    assert len({row["text"] for row in rows}) > 1, "the captions should differ"
    for options, best in ((["--beam", 4], 4), (["--beam", 4, "--best", 2], 2), (["--beam", 4, "--best", 1], 1)):
        rows = json.loads(zoo("predict", "captioner", *photos, *options, "--json", "--batch-size", 3).out)
        for row, file in zip(rows, photos, strict=True):
            wanted = best_of(captioner, file, 4, best)
            found = row.get("best", [row])
            assert [each["text"] for each in found] == [text for text, _ in wanted]
            assert [each["score"] for each in found] == pytest.approx([score for _, score in wanted], abs=1e-4)


def test_the_table_has_captions_in_full(zoo: Zoo, captioner: Any, photos: list[str]) -> None:
    wanted = best_of(captioner, photos[0], 3, 3)
    lines = zoo("predict", "captioner", photos[0], photos[1], "--beam", 3).out.splitlines()
    assert lines[0].split() == ["file", "rank", "score", "text"]
    assert [line.split()[:2] for line in lines[2:]] == [[file, str(k)] for file in photos[:2] for k in (1, 2, 3)]
    for line, (text, score) in zip(lines[2:5], wanted, strict=True):
        assert line.split(maxsplit=2)[2].split(maxsplit=1) == [f"{score:.4f}", text]
    assert max(len(text) for text, _ in wanted) > 30  # a text that is read would be cut off
    lines = zoo("predict", "captioner", photos[0]).out.splitlines()
    assert lines[0].split() == ["file", "score", "text"]


def test_attention_is_drawn_over_the_images(
    zoo: Zoo, captioner: Any, photos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    original = package.CaptioningTask.draw_attention
    monkeypatch.setattr(
        package.CaptioningTask, "draw_attention", lambda self, *args: drawn.append(args) or original(self, *args)
    )
    result = zoo("predict", "captioner", *photos, "--beam", 4, "--attention", "new/looks.png")
    assert result.out.endswith("attention in new/looks.png\n")
    assert not result.err
    with Image.open("new/looks.png") as image:
        assert image.mode == "RGB"
        assert image.height > 4 * 128
    images, tokens = drawn[0]
    assert torch.equal(images, read_images([Path(file) for file in photos], captioner))
    wanted = [best_of(captioner, file, 4, 1)[0][0] for file in photos]
    assert [captioner.tokenizer.decode(row) for row in tokens.tolist()] == wanted
    assert wanted != [best_of(captioner, file, 1, 1)[0][0] for file in photos], "the beam should find a better one"
    monkeypatch.setitem(written.DRAWN, "image", 2)
    result = zoo("predict", "captioner", *photos, "--batch-size", 1, "--attention", "looks.PNG", "--json")
    assert len(json.loads(result.out)) == 4
    assert result.err == "note: looks.PNG shows the first 2 of 4 images\n"
    assert len(drawn[1][0]) == 2


def test_a_captioner_of_gray_images(zoo: Zoo, tmp_cwd: Path, photos: list[str]) -> None:
    model = saved("gray", input_shape=(1, 16, 24))
    rows = json.loads(zoo("predict", "gray", *photos, "--attention", "a.png", "--json").out)
    assert [row["text"] for row in rows] == [best_of(model, file, 1, 1)[0][0] for file in photos]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["captioner", "photos/a.png", "--beam", 0], ["--beam must be 1 or more, got 0"]),
        (["captioner", "photos/a.png", "--best", 2], ["--best 2 asks for more texts than the 1"]),
        (
            ["captioner", "photos/a.png", "-o", "out"],
            ["-o is for models that make pictures", "RecurrentCaptioning makes none", "give --attention FILE.png"],
        ),
        (["plain", "photos/a.png", "-o", "out"], ["RecurrentCaptioning makes none: leave it out"]),
        (["captioner", "photos/a.png", "--attention", "a.jpg"], ["--attention a.jpg: give the name of a file"]),
        (
            ["plain", "photos/a.png", "--attention", "a.png"],
            ["this RecurrentCaptioning has no attention", "train one with attention, --model.attention=additive"],
        ),
        (["captioner", "photos/a.png", "--top", 2], ["--top is for classifiers, and RecurrentCaptioning is not one"]),
        (["captioner", "photos/a.png", "--label", 2], ["--label is for conditional models"]),
        (["captioner", "photos/a.png", "--features"], ["--features: RecurrentCaptioner has no head to remove"]),
        (["captioner", "a red dot"], ["no such file or folder: a red dot"]),
        (["captioner", "photos/notes.txt"], ["photos/notes.txt"]),
        (["captioner", "empty"], ["no image in the folder empty"]),
        (["five", "photos/a.png"], ["the model takes 5 channels: images have 1 or 3"]),
    ],
)
def test_what_cannot_be_is_refused(
    zoo: Zoo, captioner: Any, photos: list[str], args: list[Any], words: list[str]
) -> None:
    if args[0] == "plain":
        saved("plain", None)
    if args[0] == "five":
        saved("five", input_shape=(5, 16, 24))
    Path("empty").mkdir()
    assert_one_line(zoo("predict", *args), *words)
    assert not Path("a.png").exists()
    assert not Path("out").exists()


def test_help_tells_of_captions(zoo: Zoo) -> None:
    help_ = zoo("predict", "--help").out
    assert "of a translator or captioner: follow K hypotheses" in help_
    assert "zoo predict best.ckpt photo.png --beam 4 --attention looks.png" in help_
