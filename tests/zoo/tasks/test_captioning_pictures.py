"""What is shown of captioning: captions against the truth, and heat maps that lie where the net looks."""

from typing import Any

import pytest
import torch
from kit import quiet_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from zoo import CaptionedImage
from zoo.blocks import reorder_rows
from zoo.blocks.vocabulary import Vocabulary
from zoo.tasks import CaptioningTask, captioning

WORDS = {
    "kind": "words",
    "tokens": ["<pad>", "<end>", "<unk>", "red", "blue", "dot"],
    "padding": 0,
    "end": 1,
    "unknown": 2,
}
NEXT = {1: 3, 3: 5, 5: 1, 4: 5}  # what is written after a token: "red dot", after an end


class Pixels(nn.Module):
    """An encoder whose cells are blocks of 2 x 4 pixels."""

    def map_size(self, image: Tensor) -> tuple[int, int]:
        return image.shape[-2] // 2, image.shape[-1] // 4


class Pointing(nn.Module):
    """Writes "red dot", or "blue dot" where the first pixel is lit; looks at the cell whose number is the token that it reads."""

    has_attention = True
    in_channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Pixels()
        self.scale = nn.Parameter(torch.tensor(9.0))

    def encode(self, image: Tensor) -> Tensor:
        height, width = self.encoder.map_size(image)
        return image[:, :1, 0, 0].expand(-1, height * width)  # standardized: above 0 where it is lit

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.read(tokens[:, None], state)[0][:, 0], state

    def reorder_state(self, state: Tensor, index: Tensor) -> Tensor:
        return reorder_rows(state, index)

    def read(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        following = torch.tensor([NEXT.get(token, 1) for token in range(6)])[tokens]
        following = torch.where((following == 3) & (state[:, :1] > 0), 4, following)
        return self.scale * nn.functional.one_hot(following, 6), nn.functional.one_hot(tokens, state.shape[1]).float()

    def forward(self, x: CaptionedImage) -> Tensor:
        return self._all(x)[0]

    def attention(self, x: CaptionedImage) -> Tensor:
        return self._all(x)[1]

    def _all(self, x: CaptionedImage) -> tuple[Tensor, Tensor]:
        images, captions, _ = x.caption.shape
        logits, weights = self.read(x.caption.flatten(0, 1), self.encode(x.image).repeat_interleave(captions, dim=0))
        return logits.unflatten(0, (images, captions)), weights.unflatten(0, (images, captions))


@pytest.fixture
def model() -> CaptioningTask:
    task = CaptioningTask(Pointing(), 6, 0)
    task.vocabulary = dict(WORDS)
    task.mean, task.std = torch.full((3,), 0.5), torch.full((3,), 0.25)
    return task.eval().requires_grad_(False)


def batch_of(*captions: tuple[str, ...]) -> tuple[CaptionedImage, Tensor]:
    """Images of 6 x 12 pixels, 3 x 3 cells, every second one lit at its first pixel, with one to three captions each."""
    words = Vocabulary(WORDS)
    most = max(map(len, captions))
    y = torch.zeros(len(captions), most, 5, dtype=torch.long)
    for b, texts in enumerate(captions):
        for r, text in enumerate(texts):
            row = [*words.encode(text), 1]
            y[b, r, : len(row)] = torch.tensor(row)
    caption = torch.where(y == 0, 0, y.roll(1, dims=2))
    caption[:, :, 0] = (y[:, :, 0] > 0).long()
    image = torch.rand(len(captions), 3, 6, 12, generator=torch.Generator().manual_seed(0)) * 0.4
    image[1::2, :, 0, 0] = 1.0
    return CaptionedImage(image, caption), y


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What is drawn, by the name of the drawing."""
    kept: dict[str, list[Any]] = {"captioned_images": [], "word_maps": []}
    for name, found in kept.items():
        original = getattr(captioning, name)

        def keep(*args: Any, original: Any = original, found: list[Any] = found) -> Tensor:
            found.append(args)
            return original(*args)

        monkeypatch.setattr(captioning, name, keep)
    return kept


def test_captions_against_the_truth_and_where_the_first_look(
    model: CaptioningTask, calls: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captioning, "SHOWN", 3)
    monkeypatch.setattr(captioning, "DRAWN", 2)
    batch = batch_of(("red dot",), ("red dot", "dot blue", ""), ("dot",), ("red",))
    shown = model.render(batch)
    assert shown["texts"] == [
        ["written", "true 1", "true 2", "true 3"],
        ["red dot", "red dot", "", ""],
        ["blue dot", "red dot", "dot blue", ""],
        ["red dot", "dot", "", ""],
    ]
    ((images, written, true),) = calls["captioned_images"]
    assert torch.equal(images, batch[0].image[:3])  # as they are, not standardized
    assert written == ["red dot", "blue dot", "red dot"]
    assert true == [["red dot"], ["red dot", "dot blue", ""], ["dot"]]
    ((images, words, maps),) = calls["word_maps"]
    assert torch.equal(images, batch[0].image[:2])
    assert words == [["red", "dot", "<end>"], ["blue", "dot", "<end>"]]
    for part, tokens in zip(maps, ([1, 3, 5], [1, 4, 5]), strict=True):  # what is read before each word
        assert part.shape == (3, 3, 3)
        assert part.flatten(1).argmax(dim=1).tolist() == tokens
    assert all(picture.dtype == torch.uint8 for picture in (shown["captions"], shown["attention"]))
    assert model.render(batch_of(("red dot",)))["texts"] == [["written", "true"], ["red dot", "red dot"]]


def test_captions_of_several_lengths_are_drawn_to_their_ends(
    model: CaptioningTask, calls: dict[str, list[Any]]
) -> None:
    image = batch_of(("red",), ("red",), ("red",))[0].image
    tokens = torch.tensor([[3, 5, 1, 0], [1, 0, 0, 0], [4, 5, 3, 4]])  # the last one has no end
    picture = model.draw_attention(image, tokens)
    ((_, words, maps),) = calls["word_maps"]
    assert words == [["red", "dot", "<end>"], ["<end>"], ["blue", "dot", "red", "blue"]]
    looks = [part.flatten(1).argmax(dim=1).tolist() for part in maps]
    assert looks == [[1, 3, 5], [1], [1, 4, 5, 3]]
    assert picture.ndim == 3
    x = CaptionedImage(
        image, torch.zeros(3, 2, 4, dtype=torch.long)
    )  # a batch, of which the captions are not looked at
    assert torch.equal(model.draw_attention((x, x.caption), tokens), picture)


def test_what_cannot_be_drawn(model: CaptioningTask, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(("red dot",))
    monkeypatch.delattr(Pixels, "map_size")
    monkeypatch.setattr(Pointing, "encode", lambda self, image: torch.zeros(len(image), 9))
    assert model.render(batch).keys() == {"captions", "texts"}
    with pytest.raises(
        TypeError, match=r"the encoder of Pointing must tell the size of its map: define encoder.map_size"
    ):
        model.draw_attention(batch, torch.tensor([[3, 5, 1]]))
    monkeypatch.setattr(Pointing, "has_attention", False)
    with pytest.raises(TypeError, match=r"this Pointing has no attention"):
        model.draw_attention(batch, torch.tensor([[3, 5, 1]]))
    assert model.render(batch).keys() == {"captions", "texts"}
    monkeypatch.delattr(Pointing, "step")
    assert model.render(batch) == {}


def test_a_trainer_predicts_for_batches_and_for_images_alone(model: CaptioningTask) -> None:
    x, y = batch_of(("red dot",), ("dot",), ("red",))
    loaders: list[Any] = [
        DataLoader(TensorDataset(x.image), 2),
        DataLoader(list(x.image), 2),
        DataLoader([(CaptionedImage(*pair), target) for *pair, target in zip(x.image, x.caption, y, strict=True)], 2),
    ]
    for loader in loaders:
        made: Any = quiet_trainer().predict(model, loader)
        assert [text for part in made for text in part["text"]] == ["red dot", "blue dot", "red dot"]
