"""Metrics of captions: against CIDEr-D worked out otherwise, against its authors' numbers, over batches and processes."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import quiet_trainer
from lightning import LightningModule
from torch.utils.data import DataLoader, SequentialSampler

from zoo.metrics import AttributesRight, CIDErD, caption_metrics
from zoo.metrics.captions import caption_words

WRITTEN = [
    "a red circle left of a green square",
    "a blue triangle above a red circle",
    "a dog runs on the beach beach beach beach",
    "two people",
    "a plate of food on a table next to a glass of wine",
]
TRUE = [
    ["a red circle left of a green square"],
    ["a blue square above a red circle", "a blue square over a red circle"],
    ["a brown dog is running on the beach", "the dog runs on the sandy beach", "a dog on a beach"],
    ["two people are standing in front of a building", "people in front of a house"],
    [
        "a plate of food on a table with a glass of wine",
        "food and a glass of wine on a table",
        "a plate of food and a glass",
    ],
]
# what the authors' program (coco-caption, cider_scorer.py) gives for these, an image and the mean
PUBLISHED = [10.0, 3.57529536, 1.83911345, 0.91927471, 4.09425922]
PUBLISHED_MEAN = 4.085588547739111


def score(metric: Any, *args: Any) -> float:
    metric.update(*args)
    return float(metric.compute())


def dense(written: list[str], true: list[list[str]]) -> float:
    """CIDEr-D by matrices: of each n a vector over all n-grams that occur, in float64."""
    texts = [text.split() for text in [*written, *(each for refs in true for each in refs)]]
    owner = np.repeat(np.arange(len(true)), [len(refs) for refs in true])
    total = np.zeros(len(owner))
    for n in (1, 2, 3, 4):
        grams = [[" ".join(text[i : i + n]) for i in range(len(text) - n + 1)] for text in texts]
        names = sorted({gram for row in grams for gram in row})
        counts = np.array([[row.count(name) for name in names] for row in grams]).reshape(len(texts), len(names))
        own, known = counts[: len(written)], counts[len(written) :]
        held = np.stack([(known[owner == i] > 0).any(axis=0) for i in range(len(true))])
        idf = np.log(len(true) / np.maximum(held.sum(axis=0), 1))
        a, b = own[owner] * idf, known * idf
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        total += np.divide((np.minimum(a, b) * b).sum(axis=1), lengths, out=np.zeros(len(owner)), where=lengths > 0)
    words = np.array([len(text) for text in texts])
    total *= np.exp(-((words[: len(written)][owner] - words[len(written) :]) ** 2) / 72)
    means = [total[owner == i].mean() / 4 for i in range(len(true))]
    return float(10 * np.mean(means))


def test_cider_d_of_five_captions() -> None:
    assert score(CIDErD(), WRITTEN, TRUE) == pytest.approx(PUBLISHED_MEAN, rel=1e-6)
    assert dense(WRITTEN, TRUE) == pytest.approx(PUBLISHED_MEAN, rel=1e-12)
    assert np.mean(PUBLISHED) == pytest.approx(PUBLISHED_MEAN, rel=1e-8)


def test_cider_d_by_hand() -> None:
    """Two images, so that what one of them alone has weighs ln 2, and what both have nothing.

    The first is written with "a" (in both: nothing) and "dog" (ln 2), one word short of its reference "a dog runs": of words the
    cosine of (1, 0) and (1, 1) is 1/sqrt 2; of pairs that of (1, 0) and (1, 1), too; no triple, no four words. The second is
    written "cat cat cat": its reference has the word once, so 1 * 1 / (3 * 1) of words; nothing of pairs.
    """
    found = score(CIDErD(), ["a dog", "cat cat cat"], ["a dog runs", ["a cat"]])
    first = 10 * math.exp(-1 / 72) * (2 / math.sqrt(2)) / 4
    second = 10 * math.exp(-1 / 72) * (1 / 3) / 4
    assert found == pytest.approx((first + second) / 2, rel=1e-6)


def test_cider_d_of_many_random_captions() -> None:
    draw = random.Random(0)
    vocabulary = ["a", "red", "green", "blue", "circle", "square", "left", "of", "right", "above", "the"]

    def text() -> str:
        return " ".join(draw.choice(vocabulary) for _ in range(draw.randint(0, 9)))

    for count in (1, 2, 5, 12):
        true = [[text() for _ in range(draw.randint(1, 4))] for _ in range(count)]
        written = [f"{refs[0]} {text()}".strip() if i % 2 else text() for i, refs in enumerate(true)]
        assert score(CIDErD(), written, true) == pytest.approx(dense(written, true), rel=1e-6, abs=1e-9)


def test_the_scale_of_cider_d() -> None:
    """10 where each caption is its only reference, less where n-grams of some length are missing, 0 of one image."""
    texts = ["a red dog runs here", "the blue cat sat there", "one green bird flew away"]
    assert score(CIDErD(), texts, texts) == pytest.approx(10)
    short = ["red dog runs", "blue cat", "green"]
    assert score(CIDErD(), short, short) == pytest.approx((7.5 + 5 + 2.5) / 3)
    assert score(CIDErD(), texts[:1], texts[:1]) == 0
    assert score(CIDErD(), ["", "a b c d"], ["x y z w", "a b c d"]) == pytest.approx(5)
    assert score(CIDErD(), ["a b c d"] * 2, [["", "a b c d"], "e f g h"]) == pytest.approx(10 / 4)


def test_words_of_captions() -> None:
    assert score(
        CIDErD(), ["A Dog, running fast!", "b c d e"], ["a dog running fast", "B - c; d: (e)"]
    ) == pytest.approx(10)
    assert caption_words('He paid $5 - "not more" …') == ["he", "paid", "$", "5", "not", "more"]
    assert score(CIDErD(), ["a dog ran", "x"], ["a dog runs", "y"]) < 6  # not stemmed


def test_attributes_in_order_of_their_appearance() -> None:
    color = AttributesRight(["red", "Green", "blue"])
    pairs = [
        ("a red circle left of a green square", "the RED circle is beside the green square", True),
        ("a green circle left of a red square", "a red circle left of a green square", False),
        ("a red circle", "a red circle left of a red square", False),  # counted, too
        ("a reddish circle", "a circle", True),  # whole words
        ("a red circle", "a circle", False),
        ("a circle", "a square", True),
        ("red, green.", "red green", True),
    ]
    for text, true, right in pairs:
        color.reset()
        assert score(color, [text], [true]) == right, (text, true)
    color.reset()
    assert score(color, [text for text, _, _ in pairs], [true for _, true, _ in pairs]) == pytest.approx(4 / 7)
    color.reset()
    assert score(color, ["red"], [["blue", "a red one"]]) == 1


def test_the_longest_phrase_that_fits_counts() -> None:
    relation = AttributesRight(["left", "left of", "left of center", "of", "above"])
    assert relation.named("a left of b, left of center, left above of of") == [
        ("left", "of"),
        ("left", "of", "center"),
        ("left",),
        ("above",),
        ("of",),
        ("of",),
    ]
    assert score(relation, ["a left of b"], ["a left b"]) == 0


def test_without_captions_there_is_no_score() -> None:
    for metric in caption_metrics({"color": ["red"]}).values():
        assert math.isnan(score(metric, [], []))


def test_all_metrics_by_name_and_again_after_a_reset() -> None:
    metrics = caption_metrics({"color": ["red", "green", "blue"], "relation": ["left of", "above"]})
    assert [*metrics] == ["exact", "bleu1", "bleu2", "bleu3", "bleu4", "ciderd", "color", "relation"]
    first = {name: score(metric, WRITTEN, TRUE) for name, metric in metrics.items()}
    assert first["exact"] == pytest.approx(0.2)
    assert first["color"] == 1
    assert first["relation"] == 1
    for name, metric in metrics.items():
        metric.reset()
        assert score(metric, WRITTEN, TRUE) == first[name], name
    assert [*caption_metrics()] == ["exact", "bleu1", "bleu2", "bleu3", "bleu4", "ciderd"]


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got 2 texts and 1 references"):
        CIDErD().update(["a", "b"], ["a"])
    with pytest.raises(TypeError, match=r"got a single text: put it into a list"):
        CIDErD().update("a", "a")
    with pytest.raises(ValueError, match=r"text 2 has no reference"):
        AttributesRight(["red"]).update(["a", "b"], ["a", []])
    with pytest.raises(TypeError, match=r"phrases must be a list of texts, got the text 'red'"):
        AttributesRight("red")
    with pytest.raises(ValueError, match=r"phrases must be one or more, each of a word or more, got none"):
        AttributesRight([])
    with pytest.raises(ValueError, match=r"each of a word or more, got \['', ' -'\]"):
        AttributesRight(["red", "", " -"])
    with pytest.raises(ValueError, match=r"an attribute cannot have the name of a metric, got 'bleu4'"):
        caption_metrics({"color": ["red"], "bleu4": ["x"]})


class Judged(LightningModule):
    """Compare captions, the examples ``shares[rank]`` on each rank, and write what rank ``rank`` computes into a file."""

    def __init__(self, path: Path, shares: list[list[int]], rank: int, batch_size: int) -> None:
        super().__init__()
        self.path, self.shares, self.rank, self.batch_size = path, shares, rank, batch_size
        self.judges = torch.nn.ModuleDict(caption_metrics({"color": ["red", "green", "blue"]}))

    def test_dataloader(self) -> Any:
        mine = torch.tensor(self.shares[self.global_rank])
        return DataLoader(mine, self.batch_size, sampler=SequentialSampler(mine))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        known = [int(i) for i in batch if i >= 0]  # Lightning gives each process an example, which may count nothing
        for judge in self.judges.values():
            judge.update([TEXTS[i] for i in known], [REFERENCES[i] for i in known])

    def on_test_epoch_end(self) -> None:
        found = {name: float(judge.compute()) for name, judge in self.judges.items()}
        assert found == {name: float(judge.compute()) for name, judge in self.judges.items()}
        if self.global_rank == self.rank:
            self.path.write_text(json.dumps(found))


# texts of any bytes: the state may not cut or join them
TEXTS = [*WRITTEN, "ein Bär\nund \u2028 zwei", "猫 と 犬 が いる", "a\udc80b c", ""]
REFERENCES = [*TRUE, ["ein Bär und zwei"], ["猫 と 犬 が いる", "猫\n"], ["a\udc80b c d"], ["nothing"]]


def test_two_processes_find_exactly_what_one_finds(tmp_path: Path) -> None:
    """In any order, with uneven shares, and with none at all on a process."""
    everything = list(range(len(TEXTS)))
    cases = [
        ([everything], 0, 9),
        ([everything[::-1]], 0, 2),
        ([[0, 2, 4, 6, 8], [1, 3, 5, 7]], 1, 2),
        ([[8, 7, 1, 0, 2, 6, 4, 3, 5], [-1]], 1, 4),
    ]
    found = []
    for shares, rank, batch_size in cases:
        module = Judged(tmp_path / f"{len(found)}.json", shares, rank, batch_size)
        trainer = quiet_trainer(ranks=len(shares), default_root_dir=tmp_path, use_distributed_sampler=False)
        trainer.test(module, verbose=False)
        found.append(json.loads(module.path.read_text()))
    assert all(each == found[0] for each in found[1:])
    assert found[0]["ciderd"] == pytest.approx(
        dense(
            [" ".join(caption_words(t)) for t in TEXTS],
            [[" ".join(caption_words(t)) for t in refs] for refs in REFERENCES],
        ),
        rel=1e-6,
    )
    assert 0 < found[0]["bleu4"] < found[0]["bleu1"] < 1
