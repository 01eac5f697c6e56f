"""Images with captions, which are to be written after looking at the image."""

import copy
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import chain, compress
from typing import Any, Literal, NamedTuple, Self, get_args

import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF
from typing_extensions import override

from datamodules.checks import check_integer, check_share
from datamodules.decode import Box, Size, whole
from datamodules.examples import CaptionedImage, Examples
from datamodules.images import statistics
from datamodules.internals import in_precision
from datamodules.resized_images import ResizedExamples, ResizedImagesDataModule
from datamodules.splits import digest, held_out
from datamodules.texts import (
    check_tokenizer,
    encode,
    ended,
    plain_words,
    short_enough,
    size_of,
    vocabulary_of,
    words_of,
)

CaptionTokenization = Literal["words", "characters", "bytes", "bpe"]

_MARKS = 3  # tokens of a vocabulary of words that are none: padding, end, unknown
_SIZES: dict[str, Callable[[str], int]] = {  # tokens of a caption, where no vocabulary is needed to tell
    "words": lambda text: text.count(" ") + 1,
    "characters": len,
}
_SAMPLE = 512  # number of training images that mean and std are estimated from


class CaptionDataModule(ResizedImagesDataModule):
    """Images and captions as tokens. A subclass gives :meth:`examples`, which are :class:`CaptionRows`, and a vocabulary.

    On the device a batch becomes ``(x, y)``. x is a :class:`~datamodules.CaptionedImage`: ``image`` float32 in [0, 1]
    ``(B, C, H, W)``, and ``caption``, what a decoder reads: R captions of each image, each the end and its tokens, int64
    ``(B, R, T)``. y is what it is to write, the tokens of each caption and the end, int64 ``(B, R, T)``. Both are padded to the
    longest caption of the batch; an image with fewer captions than another of the batch has rows of padding only. Evaluation may
    yield ``(x, y, weight)``, see :class:`~datamodules.DataModule`. Examples are images: all captions of one are in one part.

    In evaluation, the whole image is resized to ``size`` without keeping its aspect ratio. Training images are cropped, mirrored
    and colored at random, each as a function of (run seed, epoch, image): a stopped run continues exactly, with any number of
    workers and processes. All of that is off by default: a mirrored image belies "left of", a cropped one may lack what its
    caption tells.

    Args:
        size: Height and width of an image, as one number or two.
        flip: Whether to mirror training images left and right with probability 1/2.
        resized_crop: Smallest share of a training image's area that is cropped at random, at an aspect ratio of 3/4 to 4/3, and
            resized to ``size``; 0 takes the whole image.
        color_jitter: Training images' brightness, contrast and saturation change by a random factor of 1 - this to 1 + this, in
            [0, 1].
        batch_size, num_workers, val_fraction, split_seed, drop_last: See :class:`~datamodules.DataModule`; the validation part
            is not stratified.

    Attributes:
        vocabulary: The vocabulary of captions as plain data, which a model keeps, see
            :class:`~datamodules.TextCaptionDataModule`.
        caption_length: Number of tokens of the longest caption, with its end.
        attributes: What captions are about, such as "color", and the words or phrases for it; empty where it is not known. A
            model measures how often it gets each right.
        mean, std: Statistics of up to 512 training images, evenly spread, one for each channel: ``(C,)``, after ``setup("fit")``.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument has another type.
    """

    kind = "captioning"
    vocabulary: Mapping[str, Any]
    caption_length: int
    attributes: Mapping[str, list[str]] = {}

    def __init__(
        self,
        size: int | Sequence[int] = 224,
        batch_size: int = 32,
        **images: Any,
    ) -> None:
        super().__init__(size=size, batch_size=batch_size, **images)

    @property
    def vocab_size(self) -> int:
        """Number of tokens V of the vocabulary, with those for padding and end."""
        return size_of(self.vocabulary)

    @property
    def padding(self) -> int:
        """Index of the token that pads captions at their end."""
        return int(self.vocabulary["padding"])

    @override
    def describe(self, train: Examples) -> None:
        indices = torch.linspace(0, len(train) - 1, min(len(train), _SAMPLE)).round().long()
        self.mean, self.std, self.seen = statistics(train.inputs(some) for some in indices.split(32))

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, *rest = batch
        assert self.trainer is not None
        return (x._replace(image=in_precision(self.trainer, x.image.float().div_(255))), *rest)


class Pictures:
    """Images in memory.

    Args:
        x: uint8 ``(N, C, H, W)``.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def part(self, index: int, crop: Callable[[Size], Box], size: Sequence[int]) -> Any:
        """Return the part of an image that ``crop`` chooses, a tensor or Pillow's image, in ``size`` (height and width)."""
        left, top, right, bottom = (int(side) for side in crop((self.x.shape[3], self.x.shape[2])))
        return resized(self.x[index, :, top:bottom, left:right], size)

    def joined(self, other: Self) -> Self:
        """Return these images, then the others."""
        return type(self)(torch.cat([self.x, other.x]))

    def wholes(self, index: Tensor, size: Sequence[int]) -> Tensor | None:
        """Return several images at once; None where they are not in memory."""
        return resized(self.x.index_select(0, index), size)

    def subset(self, chosen: Tensor) -> Self:
        """Return the images where the mask ``(N,)`` is True."""
        return type(self)(self.x[chosen])

    def name_of(self, index: int) -> str:
        """Return a name of an image for messages."""
        return str(index)

    def content(self) -> list[Tensor | str]:
        """Return what identifies the images."""
        return [self.x]


class CaptionRows(ResizedExamples):
    """Images and the captions of each, as tokens of a small type; a batch has them as int64.

    Args:
        pictures: N images.
        captions: Captions of all images, one after another: tokens and the end in each row, padded, ``(M, T)``.
        counts: Number of captions of each image, >= 1, ``(N,)``.
        vocabulary: What the tokens mean.
    """

    def __init__(self, pictures: Pictures, captions: Tensor, counts: Tensor, vocabulary: Mapping[str, Any]) -> None:
        super().__init__(torch.empty(0), torch.empty(len(counts), 0))
        self.pictures = pictures
        self.captions = captions
        self.counts = counts
        self.vocabulary = vocabulary
        self._ends = counts.cumsum(0)

    @override
    def batch(self, index: Tensor) -> tuple[Any, ...]:
        y = self.targets(index)
        return CaptionedImage(self.inputs(index), read_of(y, self.vocabulary)), y

    def targets(self, index: Tensor) -> Tensor:
        """Return the captions of images ``(B,)``, padded to the longest of them and to the most of an image: ``(B, R, T)``."""
        padding, counts = int(self.vocabulary["padding"]), self.counts[index]
        ends = self._ends[index]
        places = torch.arange(int(counts.max()))
        there = places < counts[:, None]  # (B, R)
        rows = self.captions[((ends - counts)[:, None] + places)[there]].long()  # (captions of the batch, T)
        rows = rows[:, : int((rows != padding).sum(dim=1).max())]
        y = rows.new_full((*there.shape, rows.shape[1]), padding)
        y[there] = rows
        return y

    @override
    def inputs(self, index: Tensor) -> Tensor:
        if not self.draws and (images := self.pictures.wholes(index, self.size)) is not None:
            return images
        with isolate_rng(include_cuda=False):  # torchvision draws from the global generator
            return torch.stack([self._transformed(i) for i in index.tolist()])

    def _transformed(self, index: int) -> Tensor:
        if self.training is None:
            image = self.pictures.part(index, whole, self.size)
        else:
            self.seed(index)
            image = self.pictures.part(index, self.crop, self.size)
            if self.change is not None:
                image = self.change(image if isinstance(image, Image.Image) else tv_tensors.Image(image))
        image = TF.pil_to_tensor(image) if isinstance(image, Image.Image) else image
        return image.as_subclass(Tensor)

    @override
    def subset(self, chosen: Tensor) -> "CaptionRows":
        other = copy.copy(self)
        rows = chosen.repeat_interleave(self.counts)
        other.__init__(self.pictures.subset(chosen), self.captions[rows], self.counts[chosen], self.vocabulary)  # type: ignore[misc]
        return other

    def joined(self, other: "CaptionRows") -> "CaptionRows":
        """Return these examples, then the others, which have the same vocabulary."""
        pictures = self.pictures.joined(other.pictures)
        captions, counts = torch.cat([self.captions, other.captions]), torch.cat([self.counts, other.counts])
        return CaptionRows(pictures, captions, counts, self.vocabulary)

    @override
    def name_of(self, index: int) -> str:
        return self.pictures.name_of(index)

    @override
    def fingerprint(self, validates: Tensor) -> str:
        """Return 16 hexadecimal digits that identify images, captions and their meaning, and which images validate."""
        meaning = json.dumps(dict(self.vocabulary), sort_keys=True)
        return digest(*self.pictures.content(), self.captions, self.counts, validates, meaning)


def read_of(y: Tensor, vocabulary: Mapping[str, Any]) -> Tensor:
    """Return what a decoder reads to write captions ``(..., T)``: the end, then their tokens, padded; nothing of an empty row."""
    padding, end = (vocabulary[name] for name in ("padding", "end"))
    caption = y.roll(1, dims=-1)
    caption[caption == end] = padding  # a decoder reads nothing after the end
    caption[..., 0] = torch.where(y[..., 0] == padding, padding, end)
    return caption


def resized(images: Tensor, size: Sequence[int]) -> Tensor:
    """Resize one image or several (bilinear, antialiased): uint8 ``(..., C, H, W)``."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return TF.resize(images, list(size), InterpolationMode.BILINEAR, antialias=True)


class Captioned(NamedTuple):
    """Images, and the captions of each.

    Args:
        pictures: N images.
        captions: The texts of each, one or more.
    """

    pictures: Pictures
    captions: list[list[str]]


class _Loaded(NamedTuple):
    """What the captions become."""

    rows: dict[str, CaptionRows]  # "train" with those that validate, "test" where there is one
    validates: Tensor
    vocabulary: dict[str, Any]
    length: int


class TextCaptionDataModule(CaptionDataModule):
    """Images with captions that are texts, any number of them an image. A subclass defines :meth:`captioned`.

    By default a token is a word. Captions are lower-cased and lose their punctuation first, as is usual for COCO, so this is how a
    model writes, too: "A man's dog, barking." is "a man's dog barking". Letters, their marks and digits make words, and an
    apostrophe within one; all else separates words. Known are the words of the training part that occur in it ``min_count`` times
    or more. Any other is the token ``<unk>``, which a model never writes, and a warning says how many there are in which part.
    Captions of characters, bytes or BPE stay as they are, but for spaces.

    Where there is no test part, ``test_fraction`` of the images is split off, always with seed 0; where there is no validation
    part, ``val_fraction`` of the remaining images.

    Args:
        tokenizer: What a token is: "words", "characters", "bytes" (of UTF-8), or "bpe", byte pair encoding (Sennrich et al. 2016,
            arXiv:1508.07909), which needs the library tokenizers (the extra ``text``). For a language that has no spaces between
            words, take one of the others.
        vocab_size: Most tokens of BPE, >= 258 (default 1000); None for other tokenizers.
        min_count: How often a word must occur in the training captions, >= 1; without effect for other tokenizers.
        max_length: Most tokens of a caption with its end, >= 2. Captions that have more are left out of every part, as are images
            whose captions all have, and a warning says how many.
        test_fraction: Share of the images for the test part where there is none, in [0, 1).
        **images: Arguments of :class:`CaptionDataModule`.

    Attributes:
        vocabulary: "kind", the tokenizer; "tokens", None for bytes; "padding" and "end", their indices; "tokenizer", that of the
            library tokenizers as JSON, for BPE; of words also "unknown", the index of the token for unknown ones.

    Raises:
        ValueError: An argument is out of its range, or the captions cannot be learned from.
        TypeError: An argument has another type.
        ModuleNotFoundError: The library tokenizers is needed and is not installed.

    Example:
        >>> class Bright(TextCaptionDataModule):
        ...     def captioned(self):
        ...         grays = torch.arange(0, 250, 10).byte()
        ...         captions = [["a dark square" if gray < 128 else "A bright square!"] for gray in grays.tolist()]
        ...         return {"train": Captioned(Pictures(grays.view(-1, 1, 1, 1).expand(-1, 3, 8, 8)), captions)}
        >>> data = Bright(size=8, batch_size=4)
        >>> data.setup()
        >>> data.vocabulary["tokens"], data.caption_length, {name: len(data._parts[name]) for name in ("train", "val", "test")}
        (['<pad>', '<end>', '<unk>', 'a', 'bright', 'dark', 'square'], 4, {'train': 18, 'val': 2, 'test': 5})
    """

    def __init__(
        self,
        tokenizer: CaptionTokenization = "words",
        vocab_size: int | None = None,
        min_count: int = 1,
        max_length: int = 64,
        test_fraction: float = 0.2,
        **images: Any,
    ) -> None:
        super().__init__(**images)
        if tokenizer not in get_args(CaptionTokenization):
            raise ValueError(f"tokenizer must be one of {', '.join(get_args(CaptionTokenization))}, got {tokenizer!r}")
        check_tokenizer("characters" if tokenizer == "words" else tokenizer, vocab_size)
        check_integer("min_count", min_count, 1)
        check_integer("max_length", max_length, 2)
        check_share("test_fraction", test_fraction, "all images")
        self.tokenizer = tokenizer
        self.min_count = min_count
        self.max_length = max_length
        self.test_fraction = test_fraction
        self._bpe_size = vocab_size

    # What a subclass defines ----------------------------------------------------------------------------------------

    def captioned(self) -> dict[str, Captioned]:
        """Return the images of the parts: "train" always, "val" and "test" if there are some. It is called once."""
        raise TypeError(f"{type(self).__name__} must define captioned(), which returns the images of its parts")

    # What is known before fit ---------------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> Mapping[str, Any]:  # type: ignore[override]
        """The vocabulary of captions, see the class."""
        return self._loaded.vocabulary

    @property
    def caption_length(self) -> int:  # type: ignore[override]
        """Number of tokens of the longest caption, with its end."""
        return self._loaded.length

    @property
    @override
    def has_test(self) -> bool:
        return "test" in self._loaded.rows

    # Splits ---------------------------------------------------------------------------------------------------------

    @override
    def examples(self, part: Literal["train", "test"]) -> Examples:
        if part not in self._loaded.rows:
            raise ValueError("there is no test part: give test_fraction > 0, or test images")
        return self._loaded.rows[part]

    @override
    def validation_mask(self, examples: Examples) -> Tensor:
        return self._loaded.validates

    @cached_property
    def _loaded(self) -> _Loaded:
        parts = self._split({name: self._read(name, part) for name, part in self.captioned().items()})
        flat = {name: list(chain(*part.captions)) for name, part in parts.items()}
        if (size := _SIZES.get(self.tokenizer)) is not None:  # what is left out is no part of the vocabulary
            lengths = {name: list(map(size, texts)) for name, texts in flat.items()}
            fits = short_enough(lengths, self.max_length, "captions")
            flat = {name: list(compress(texts, fits[name])) for name, texts in flat.items()}
        vocabulary = self._vocabulary_of(flat)
        tokens = {name: encode(texts, vocabulary) for name, texts in flat.items()}
        if size is None:
            lengths = {name: list(map(len, captions)) for name, captions in tokens.items()}
            fits = short_enough(lengths, self.max_length, "captions")
            tokens = {name: list(compress(captions, fits[name])) for name, captions in tokens.items()}
        if self.tokenizer == "words":
            _tell_unknown(flat, tokens, vocabulary["unknown"], self.min_count)
        length = 1 + max(len(each) for captions in tokens.values() for each in captions)
        rows = {}
        for name, part in parts.items():
            fit = torch.tensor(fits[name])
            owner = torch.arange(len(part.captions)).repeat_interleave(torch.tensor(list(map(len, part.captions))))
            counts = torch.bincount(owner[fit], minlength=len(part.captions))
            has = counts > 0
            captions = ended(tokens[name], length, vocabulary)
            rows[name] = CaptionRows(part.pictures.subset(has), captions, counts[has], vocabulary)
        trains = len(rows["train"])
        if "val" in rows:
            rows["train"] = rows["train"].joined(rows.pop("val"))
        return _Loaded(rows, torch.arange(len(rows["train"])) >= trains, vocabulary, length)

    def _vocabulary_of(self, texts: Mapping[str, list[str]]) -> dict[str, Any]:
        """Return the vocabulary of the captions of all parts.

        Raises:
            ValueError: No word occurs often enough.
        """
        if self.tokenizer != "words":
            return vocabulary_of(self.tokenizer, chain(*texts.values()), texts["train"], self._bpe_size, ended=True)
        vocabulary = words_of(texts["train"], self.min_count)
        if len(vocabulary["tokens"]) == _MARKS:
            word, count = Counter(chain(*map(str.split, texts["train"]))).most_common(1)[0]
            raise ValueError(
                f"no word is in the training captions min_count={self.min_count} times, the most frequent, {word!r}, is there "
                f"{count}: give min_count={count} or less"
            )
        return vocabulary

    def _read(self, name: str, part: Captioned) -> Captioned:
        """Return a part whose captions are normalized, without those that are empty."""
        if len(part.pictures) != len(part.captions):
            raise ValueError(
                f"the {name} part has {len(part.pictures)} images, but captions for {len(part.captions)}: give some for each"
            )
        normal = plain_words if self.tokenizer == "words" else lambda text: " ".join(text.split())
        captions = [[normal(text) for text in texts] for texts in part.captions]
        empty = sum(text == "" for texts in captions for text in texts)
        captions = [[text for text in texts if text] for texts in captions]
        has = torch.tensor([len(texts) > 0 for texts in captions], dtype=torch.bool)
        if not has.any():
            raise ValueError(f"the {name} part has no image with a caption: give some")
        gone = len(has) - int(has.sum())
        if empty or gone:
            counts = (empty, "caption{} without a word"), (gone, "image{} without a caption")
            what = [f"{count} {kind.format('s' * (count > 1))}" for count, kind in counts if count]
            rank_zero_warn(f"left out of the {name} part: {' and '.join(what)}")
        return Captioned(part.pictures.subset(has), [texts for texts in captions if texts])

    def _split(self, parts: dict[str, Captioned]) -> dict[str, Captioned]:
        """Return all parts, those that are none yet split off the training part."""
        for name in ("test", "val"):
            if name in parts or not self.holds_out(name):
                continue
            pictures, captions = parts["train"]
            if name == "val":
                held = self.hold_out(len(pictures), things="images")
            else:
                held = held_out("test_fraction", self.test_fraction, len(pictures), 0, things="images")
            for part, chosen in ((name, held), ("train", ~held)):
                parts[part] = Captioned(pictures.subset(chosen), list(compress(captions, chosen.tolist())))
        return parts


def _tell_unknown(
    texts: Mapping[str, list[str]], tokens: Mapping[str, list[Tensor]], unknown: int, min_count: int
) -> None:
    """Warn of the words that the vocabulary lacks."""
    lacking = {name: sum(int((each == unknown).sum()) for each in part) for name, part in tokens.items()}
    if not sum(lacking.values()):
        return
    words: Counter[str] = Counter()
    for name, part in tokens.items():
        for text, each in zip(texts[name], part, strict=True):
            words.update(compress(text.split(), (each == unknown).tolist()))
    of_parts = ", ".join(
        f"{lacking[name]:,} of {sum(map(len, part)):,} words of the {name} part"
        for name, part in tokens.items()
        if lacking[name]
    )
    examples = ", ".join(repr(word) for word, _ in words.most_common(3)) + " ..." * (len(words) > 3)
    rank_zero_warn(
        f"{of_parts} are unknown ({len(words):,} different ones: {examples}): a model never writes them; known are those that the "
        f"training captions have min_count={min_count} times"
    )
