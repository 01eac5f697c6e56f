"""Images with texts as captions: parts, words, what is left out and told, batches, and random transforms."""

import copy
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import SaveOnce, quiet_trainer
from lightning.pytorch import LightningModule, seed_everything
from torch import Tensor

from datamodules import TextCaptionDataModule
from datamodules.captions import Captioned, Pictures, read_of
from datamodules.samplers import TrainingEpoch
from datamodules.texts import _separated, plain_words

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def images(count: int, side: int = 6) -> Tensor:
    """Images that can be told apart by their first value."""
    x = torch.arange(count * 3 * side * side).remainder(251).view(count, 3, side, side).byte()
    x[:, 0, 0, 0] = torch.arange(count).byte()
    return x


class Counted(TextCaptionDataModule):
    """Image i has i % 3 + 1 captions of i and the number of the caption; parts may be given."""

    def __init__(self, count: int = 40, given: Any = None, **texts: Any) -> None:
        super().__init__(**{"size": 6, "batch_size": 4, **texts})
        self.count, self.given = count, given

    def captioned(self) -> dict[str, Captioned]:
        if self.given is not None:
            return {
                name: Captioned(Pictures(images(len(captions))), copy.deepcopy(captions))
                for name, captions in self.given.items()
            }
        captions = [[f"Image {WORDS[i % 10]}, take {WORDS[k]}." for k in range(i % 3 + 1)] for i in range(self.count)]
        return {"train": Captioned(Pictures(images(self.count)), captions)}


def texts_of(data: TextCaptionDataModule, y: Tensor) -> list[list[str]]:
    """The captions of a batch, written by hand from the tokens."""
    tokens, end, padding = data.vocabulary["tokens"], data.vocabulary["end"], data.padding
    found = []
    for rows in y.tolist():
        found.append([])
        for row in rows:
            if row[0] == padding:
                assert set(row) == {padding}
                continue
            stop = row.index(end)
            assert set(row[stop + 1 :]) <= {padding}
            found[-1].append(" ".join(tokens[token] for token in row[:stop]))
    return found


def test_a_batch_has_all_captions_of_its_images() -> None:
    data = Counted(val_fraction=0.25)
    data.setup()
    assert {name: len(part) for name, part in data._parts.items()} == {"train": 24, "val": 8, "test": 8}
    assert (data.kind, data.input_shape, data.caption_length, data.padding) == ("captioning", (3, 6, 6), 5, 0)
    seen = []
    for part in data._parts.values():
        for index in ([2, 0, 5], [1], [0, 1, 2, 3, 4, 5, 6]):
            x, y = part.__getitems__(index)
            numbers = x.image[:, 0, 0, 0].tolist()
            expected = [[f"image {WORDS[i % 10]} take {WORDS[k]}" for k in range(i % 3 + 1)] for i in numbers]
            assert texts_of(data, y) == expected
            assert y.shape == (len(index), max(map(len, expected)), 5)
            for row, caption in zip(y.flatten(0, 1).tolist(), x.caption.flatten(0, 1).tolist(), strict=True):
                written = [token for token in row if token != data.padding]
                assert caption == ([1, *written[:-1]] + [0] * 5)[:5] if written else [0] * 5
        x, _ = part.__getitems__(list(range(len(part))))
        seen.append(set(x.image[:, 0, 0, 0].tolist()))
    assert sorted(number for part in seen for number in part) == list(range(40))  # an image is in one part


def test_what_a_decoder_reads() -> None:
    y = torch.tensor([[[5, 6, 1, 0], [7, 1, 0, 0], [0, 0, 0, 0], [2, 3, 4, 1]]])
    read = read_of(y, {"padding": 0, "end": 1})
    assert read.tolist() == [[[1, 5, 6, 0], [1, 7, 0, 0], [0, 0, 0, 0], [1, 2, 3, 4]]]
    assert y[0, 0].tolist() == [5, 6, 1, 0]


def test_batches_of_a_trainer_have_floats_and_weights() -> None:
    data = Counted(count=40, test_fraction=0.1, val_fraction=0.1, batch_size=3)
    data.trainer = quiet_trainer()
    data.setup()
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()]
    assert [len(batch) for batch in batches] == [2, 2]
    x, y = batches[0]
    assert x.image.dtype == torch.float32
    assert torch.equal(x.image, data._parts["test"].inputs(torch.tensor([0, 1, 2])).float() / 255)
    assert y.dtype == torch.int64
    x, _, weight = data._parts["test"].__getitems__([1, -1])  # a process that has run out of examples
    assert weight.tolist() == [1, 0]
    assert x.caption.shape[:2] == (2, x.caption.shape[1])


def test_words_are_those_of_the_training_part() -> None:
    data = Counted(
        given={
            "train": [["A dog runs.", "a DOG"], ["A cat"], ["the dog!"]],
            "val": [["a dog, a bird"]],
            "test": [["A mouse runs", "a bird."], ["the cat"]],
        }
    )
    with pytest.warns(UserWarning, match="unknown") as caught:
        data.setup()
    assert data.vocabulary["tokens"] == ["<pad>", "<end>", "<unk>", "a", "cat", "dog", "runs", "the"]
    assert [str(one.message) for one in caught] == [
        "1 of 4 words of the val part, 2 of 7 words of the test part are unknown (2 different ones: 'bird', 'mouse'): a model "
        "never writes them; known are those that the training captions have min_count=1 times"
    ]
    _, y = data._parts["test"].__getitems__([0, 1])
    assert texts_of(data, y) == [["a <unk> runs", "a <unk>"], ["the cat"]]


def test_rare_words_are_unknown_in_training_too() -> None:
    data = Counted(given={"train": [["a dog"], ["a cat"], ["a dog"]]}, min_count=2, test_fraction=0.0, val_fraction=0.0)
    with pytest.warns(UserWarning, match=r"^1 of 6 words of the train part are unknown \(1 different ones: 'cat'\)"):
        data.setup("fit")
    assert data.vocabulary["tokens"][3:] == ["a", "dog"]
    assert not data.has_test
    with pytest.raises(ValueError, match="there is no test part: give test_fraction > 0, or test images"):
        data.setup("test")


def test_what_is_left_out_has_no_part_in_the_vocabulary() -> None:
    """Neither the words of it, nor its characters; nor are its words told as unknown."""
    given = {"train": [["very very very long"], ["a cat", "a cat"], ["a cat"]], "val": [["a a a mouse"], ["a cat"]]}
    words = Counted(given=given, max_length=3, min_count=2, test_fraction=0.0)
    with pytest.warns(UserWarning, match=r"\w") as caught:
        words.setup("fit")
    assert [str(one.message)[:20] for one in caught] == ["2 of 6 captions have"]
    assert words.vocabulary["tokens"][3:] == ["a", "cat"]
    characters = Counted(given=given, max_length=6, tokenizer="characters", test_fraction=0.0)
    with pytest.warns(UserWarning, match="2 of 6 captions have more than max_length=6 tokens"):
        characters.setup("fit")
    assert sorted(set(characters.vocabulary["tokens"]) & set("very long a cat mouse")) == [" ", "a", "c", "t"]


def test_a_vocabulary_of_no_word_is_refused() -> None:
    given = {"train": [["a dog"], ["a cat"]]}
    with pytest.raises(ValueError, match=r"min_count=5 times, the most frequent, 'a', is there 2: give min_count=2 or"):
        Counted(given=given, min_count=5, test_fraction=0.0, val_fraction=0.0).setup("fit")


def test_the_words_of_the_split_off_parts_do_not_count() -> None:
    captions = [[f"w{i}"] for i in range(20)]
    data = Counted(given={"train": captions}, test_fraction=0.25, val_fraction=0.2)
    with pytest.warns(
        UserWarning, match=r"^5 of 5 words of the test part, 3 of 3 words of the val part are unknown \(8 "
    ):
        data.setup()
    x, _ = data._parts["train"].__getitems__(list(range(12)))
    assert data.vocabulary["tokens"][3:] == sorted(f"w{i}" for i in x.image[:, 0, 0, 0].tolist())


def test_what_is_empty_or_too_long_is_left_out_and_told() -> None:
    given = {
        "train": [["one two three four", "one two"], ["one two three four five"], ["...", "two"], ["!"], []],
        "val": [["one"], [""]],
        "test": [["one two three four", "two one"]],
    }
    data = Counted(given=given, max_length=4)
    with pytest.warns(UserWarning, match="left out") as caught:
        data.setup()
    assert sorted(str(one.message) for one in caught) == [
        "3 of 7 captions have more than max_length=4 tokens, up to 6, and are left out (2 train, 1 test): give max_length=6, or "
        "shorter captions",
        "left out of the train part: 2 captions without a word and 2 images without a caption",
        "left out of the val part: 1 caption without a word and 1 image without a caption",
    ]
    x, y = data._parts["train"].__getitems__([0, 1])
    assert {name: len(part) for name, part in data._parts.items()} == {"train": 2, "val": 1, "test": 1}
    assert (x.image[:, 0, 0, 0].tolist(), texts_of(data, y)) == ([0, 2], [["one two"], ["two"]])
    assert data.caption_length == 3
    assert data.vocabulary["tokens"][3:] == ["one", "two"]  # no words of captions that are left out


@pytest.mark.parametrize("tokenizer", ["characters", "bytes", "bpe"])
def test_other_tokens_keep_the_captions_as_they_are(tokenizer: str) -> None:
    if tokenizer == "bpe":
        pytest.importorskip("tokenizers")
    from zoo.blocks import Vocabulary

    given = {
        "train": [["A  dog,\nrunning."] * 2, ["Ein Köter!"]],
        "val": [["A dog"]],
        "test": [["Ein Köter, laufend."]],
    }
    data = Counted(given=given, tokenizer=tokenizer, vocab_size=270 if tokenizer == "bpe" else None)
    data.setup()
    vocabulary = Vocabulary(data.vocabulary)
    texts = [
        [vocabulary.decode(row) for row in rows]
        for part in ("train", "val", "test")
        for rows in data._parts[part].__getitems__(list(range(len(data._parts[part]))))[1].tolist()
    ]
    assert texts == [["A dog, running."] * 2, ["Ein Köter!", ""], ["A dog"], ["Ein Köter, laufend."]]
    assert data.vocab_size == vocabulary.size


def test_ascii_words_are_read_as_others_are() -> None:
    """The fast way and the way by categories of characters agree."""
    rng = np.random.default_rng(0)
    alphabet = np.array([chr(i) for i in range(128)] + list("'''aAbz09  "))
    for _ in range(300):
        text = "".join(rng.choice(alphabet, 20))
        assert plain_words(text) == plain_words(text + " \u00e9").removesuffix("\u00e9").rstrip(), repr(text)
    assert "".join(_separated("a'b", [True, False, True])) == "a'b"


# Random transforms -------------------------------------------------------------------------------------------------------


def training(data: TextCaptionDataModule, seed: int = 0, epoch: int = 0) -> Any:
    return data._parts["train"].for_training(TrainingEpoch(seed, epoch))


def test_by_default_training_images_are_those_of_evaluation() -> None:
    data = Counted()
    data.setup("fit")
    index = torch.arange(28)
    assert torch.equal(training(data).inputs(index), data._parts["train"].inputs(index))


@pytest.mark.parametrize("options", [{"flip": True}, {"resized_crop": 0.3}, {"color_jitter": 0.5}])
def test_transforms_are_a_function_of_seed_epoch_and_image(options: dict[str, Any]) -> None:
    data = Counted(**options)
    data.setup("fit")
    some = torch.tensor([3, 9, 4, 20, 11, 5, 6, 7])
    state = torch.get_rng_state()
    first = training(data).inputs(some)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(training(data).inputs(some.flip(0)), first.flip(0))
    assert torch.equal(torch.cat([training(data).inputs(i[None]) for i in some]), first)
    for other in (training(data, epoch=1), training(data, seed=1), data._parts["train"]):
        assert not torch.equal(other.inputs(some), first)
    assert (first.shape, first.dtype) == ((8, 3, 6, 6), torch.uint8)
    _, y = training(data).__getitems__(some.tolist())
    assert torch.equal(y, data._parts["train"].__getitems__(some.tolist())[1])
    assert data.mean is not None
    torch.testing.assert_close(
        data.mean, (data._parts["train"].inputs(torch.arange(28)).double() / 255).mean((0, 2, 3)).float()
    )


def test_a_mirrored_image_is_mirrored_left_and_right() -> None:
    data = Counted(flip=True)
    data.setup("fit")
    index = torch.arange(28)
    plain, changed = data._parts["train"].inputs(index), training(data).inputs(index)
    same = [torch.equal(a, b) for a, b in zip(plain, changed, strict=True)]
    mirrored = [torch.equal(a.flip(2), b) for a, b in zip(plain, changed, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert 7 <= sum(mirrored) <= 21


RANDOM = {"flip": True, "resized_crop": 0.3, "color_jitter": 0.5}


class Recorder(LightningModule):
    """Keeps the training batches: the pixels and the captions of each image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[tuple[bytes, str]]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        self.seen.append(contents(x.image, y))
        return self.weight * x.image.mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def contents(image: Tensor, y: Tensor) -> list[tuple[bytes, str]]:
    captions = [str([[token for token in row if token] for row in rows if row[0]]) for rows in y.tolist()]
    return list(zip((one.numpy().tobytes() for one in image), captions, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_run_goes_on_with_the_very_batches(workers: int, tmp_path: Path) -> None:
    data = {"count": 50, "val_fraction": 0.0, "num_workers": workers, **RANDOM}  # 40 to train, ten batches
    whole, rest = Recorder(), Recorder()
    stopped = tmp_path / "stopped.ckpt"
    seed_everything(3)
    quiet_trainer(SaveOnce(stopped, 13), max_steps=23, max_epochs=-1).fit(whole, datamodule=Counted(**data))
    seed_everything(4)
    trainer = quiet_trainer(max_steps=23, max_epochs=-1)
    trainer.fit(rest, datamodule=Counted(**data), ckpt_path=stopped, weights_only=True)
    assert len(whole.seen) == 23
    assert rest.seen == whole.seen[13:]
    assert len({pixels for batch in whole.seen[:20] for pixels, _ in batch}) > 60  # other ones in the second epoch


@pytest.mark.parametrize("training", [True, False])
def test_two_processes_see_what_one_sees(training: bool) -> None:
    """Batch by batch of training, with its random transforms; in evaluation each image once."""
    batches = []
    for replicas, rank, size in ((1, 0, 6), (2, 0, 3), (2, 1, 3)):
        data = Counted(count=50, batch_size=size, test_fraction=0.3, **RANDOM)
        place = {"num_replicas": replicas, "rank": rank}
        data._replica_kwargs = lambda place=place: place  # type: ignore[method-assign, misc]
        data.setup()
        data._seed = 5
        loader = data.train_dataloader() if training else data.test_dataloader()
        batches.append(
            [[one for one, w in zip(contents(x.image, y), *(weight or [torch.ones(len(y))]), strict=True) if w]
             for x, y, *weight in loader]
        )  # fmt: skip
    one, *two = batches
    assert len(one) == (5 if training else 3)
    if training:
        assert [sorted(batch) for batch in one] == [sorted(a + b) for a, b in zip(*two, strict=True)]
    else:
        assert sorted(chain(*one)) == sorted(chain(*two[0], *two[1]))


def test_images_are_resized_whole() -> None:
    data = Counted(size=[3, 12])
    data.setup("fit")
    assert data.input_shape == (3, 3, 12)
    small = data._parts["train"].inputs(torch.tensor([0, 1]))
    raw = data._parts["train"].pictures.x[:2]  # type: ignore[attr-defined]
    expected = torch.nn.functional.interpolate(raw.float(), (3, 12), mode="bilinear", antialias=True)
    assert (small.float() - expected).abs().max() <= 1
    assert data.preparation["whole"] is True


def test_data_are_known_by_their_fingerprint() -> None:
    prints = set()
    for options in ({}, {"count": 41}, {"split_seed": 1}, {"tokenizer": "characters"}, {}):
        data = Counted(**options)
        data.setup("fit")
        prints.add(data.fingerprint)
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tokenizer": "word"}, ValueError, "tokenizer must be one of words, characters, bytes, bpe, got 'word'"),
        ({"vocab_size": 300}, ValueError, 'vocab_size is for tokenizer="bpe"'),
        ({"min_count": 0}, ValueError, "min_count must be an integer >= 1, got 0"),
        ({"max_length": 1}, ValueError, "max_length must be an integer >= 2, got 1"),
        ({"test_fraction": 1.0}, ValueError, r"test_fraction must be a share of all images in \[0, 1\), got 1.0"),
        ({"size": [1, 2, 3]}, ValueError, "size must be one number, or height and width"),
        ({"resized_crop": 2}, ValueError, r"resized_crop must be a share in \[0, 1\]"),
        ({"given": {"train": [[""], []]}}, ValueError, "the train part has no image with a caption: give some"),
        ({"given": {"train": [["a b"], ["c d"]]}, "max_length": 2, "test_fraction": 0.0, "val_fraction": 0.0}, ValueError,
         "all 2 captions of the train part have more than max_length=2 tokens: give max_length=3, or shorter captions"),
        ({"count": 2}, ValueError, "images"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:left out")
def test_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Counted(**options).setup()


def test_an_image_too_many_is_refused() -> None:
    class Wrong(TextCaptionDataModule):
        def captioned(self) -> dict[str, Captioned]:
            return {"train": Captioned(Pictures(images(3)), [["a"], ["b"]])}

    with pytest.raises(ValueError, match="the train part has 3 images, but captions for 2: give some for each"):
        Wrong().setup()
