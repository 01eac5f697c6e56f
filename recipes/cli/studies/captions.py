"""Captions without a net, the baselines of images with captions: what was seen in training is told again."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from recipes.cli.errors import UserError

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor

_SIDE = 32  # pixels: larger images are compared at this size
_MOST = 2**31  # bytes of the images of a part


@dataclass
class Part:
    """Images of a part with their captions.

    Args:
        images: uint8 ``(N, C, H, W)``, of at most 32 x 32 pixels unless there are masks.
        masks: The class of each pixel, uint8 ``(N, H, W)``; None where the data have none.
        captions: The texts of each image.
    """

    images: "ndarray"
    masks: "ndarray | None"
    captions: list[list[str]]


class Method(Protocol):
    """What writes captions."""

    def fit(self, images: "ndarray", captions: Sequence[Sequence[str]]) -> Self:
        """Learn from images and the captions of each."""
        ...

    def predict(self, images: "ndarray", masks: Any) -> list[str]:
        """Return a caption of each image."""
        ...


class MostFrequent:
    """The caption that is the most frequent one in training, of several the first one, is that of every image.

    Example:
        >>> import numpy as np
        >>> images = np.zeros((3, 1, 2, 2), np.uint8)
        >>> MostFrequent().fit(images, [["a cat"], ["a dog", "a pet"], ["a pet"]]).predict(images[:1], None)
        ['a pet']
    """

    def fit(self, images: "ndarray", captions: Sequence[Sequence[str]]) -> Self:
        """Count the captions."""
        ((self.caption, _),) = Counter(text for texts in captions for text in texts).most_common(1)
        return self

    def predict(self, images: "ndarray", masks: Any) -> list[str]:
        """Return the same caption for each image."""
        return [self.caption] * len(images)


class NearestImage:
    """The first caption of the training image whose pixels are nearest, by the sum of squared differences.

    Example:
        >>> import numpy as np
        >>> images = np.array([0, 90, 200], np.uint8).reshape(3, 1, 1, 1)
        >>> NearestImage().fit(images, [["dark"], ["gray", "dim"], ["bright"]]).predict(images[1:] - 30, None)
        ['gray', 'bright']
    """

    def fit(self, images: "ndarray", captions: Sequence[Sequence[str]]) -> Self:
        """Keep the images."""
        self.known = _rows(images)
        self.squares = (self.known**2).sum(axis=1)
        self.captions = [texts[0] for texts in captions]
        return self

    def predict(self, images: "ndarray", masks: Any) -> list[str]:
        """Return the caption of the nearest image of each."""
        wanted = _rows(images)
        nearest = [  # not all at once, in memory
            (self.squares - 2 * (wanted[start : start + 64] @ self.known.T)).argmin(axis=1)
            for start in range(0, len(wanted), 64)
        ]
        return [self.captions[i] for some in nearest for i in some.tolist()]


def _rows(images: "ndarray") -> "ndarray":
    """Return pixels in [0, 1], float32 ``(N, D)``, at most 32 rows and columns of each image."""
    import torch
    import torch.nn.functional as F

    x = torch.from_numpy(images)
    if max(x.shape[2:]) > _SIDE:
        x = torch.cat([F.interpolate(some.float(), (_SIDE, _SIDE), mode="area") for some in x.split(1024)])
    return (x.flatten(1).float() / 255).numpy()


def methods(data: Any) -> dict[str, Method]:
    """Return the methods by name; where the data have the masks of drawn shapes, a reader of them too."""
    from datamodules import ShapeCaptionsDataModule
    from recipes.cli.studies.shape_reader import MaskReader

    known: dict[str, Method] = {"most frequent caption": MostFrequent(), "nearest image": NearestImage()}
    return {**known, "reader of the masks": MaskReader()} if isinstance(data, ShapeCaptionsDataModule) else known


def parts_of(data: Any) -> dict[str, Part]:
    """Return the images and captions of each part: "train", and "val" and "test" where there are such parts, not augmented.

    Raises:
        UserError: A part is too large for memory.
    """
    from lightning.pytorch import Trainer

    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    data.prepare_data()
    for stage in ("fit", "test")[: 1 + data.has_test]:
        data.setup(stage)
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader()}
    if data.has_test:
        loaders["test"] = data.test_dataloader()
    masks = getattr(data, "masks", {})
    return {
        name: _read(data, name, loader, masks[name].numpy() if name in masks else None)
        for name, loader in loaders.items()
        if loader
    }


def _read(data: Any, name: str, loader: Any, masks: "ndarray | None") -> Part:
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader

    from zoo.blocks import Vocabulary

    vocabulary = Vocabulary(data.vocabulary)
    images: list[Tensor] = []
    captions: list[list[str]] = []
    examples = loader.dataset.for_evaluation()
    for x, y in DataLoader(examples, 64, num_workers=loader.num_workers, collate_fn=loader.collate_fn):
        image = x.image
        if masks is None and max(image.shape[2:]) > _SIDE:
            image = F.interpolate(image.float(), (_SIDE, _SIDE), mode="area").round_().byte()
        if len(examples) * image[0].numel() > _MOST:
            raise UserError(
                f"the {name} part has {len(examples):,} images, too many for memory: use a recipe with less data"
            )
        images.append(image)
        texts = [[vocabulary.decode(row.tolist()) for row in rows if row[0] != vocabulary.padding] for rows in y]
        if name != "train":
            texts = [[vocabulary.as_reference(text) for text in several] for several in texts]
        captions += texts
    return Part(torch.cat(images).numpy(), masks, captions)


def measured(
    parts: dict[str, Part], methods: dict[str, Any], attributes: dict[str, list[str]]
) -> Iterator[tuple[str, dict[str, float], float]]:
    """Yield name, scores and seconds of each method, see :func:`scores_of`."""
    from zoo.metrics import caption_metrics

    for name, method in methods.items():
        begin = time.monotonic()
        train = parts["train"]
        method.fit(train.images, train.captions)
        scores = {}
        for part, examples in parts.items():
            if part == "train":
                continue
            metrics = caption_metrics(attributes)
            written = method.predict(examples.images, examples.masks)
            for label in scores_of(attributes):
                metrics[label].update(written, examples.captions)
                scores[f"{part}/{label}"] = float(metrics[label].compute())
        yield name, scores, time.monotonic() - begin


def scores_of(attributes: dict[str, list[str]]) -> list[str]:
    """Return the names of the scores: what is met and what is right of it, or how similar texts are without attributes."""
    return ["exact", *attributes] if attributes else ["exact", "bleu4", "ciderd"]
