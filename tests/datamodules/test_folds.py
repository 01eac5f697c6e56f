"""Folds of the training part: disjoint, stratified, whole, and with statistics of their own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from datamodules import (
    ArrayDataModule,
    CSVDataModule,
    DatasetDataModule,
    DigitsDataModule,
    NileDataModule,
    SentencePairsDataModule,
    ShapeCaptionsDataModule,
    TextFileDataModule,
    TextTableDataModule,
    use_fold,
)
from datamodules.base import DataModule
from datamodules.splits import fold

RANDOM = np.random.default_rng(0)


def folds(build: Callable[[], DataModule], of: int) -> list[DataModule]:
    made = []
    for number in range(1, of + 1):
        with use_fold(number, of):
            data = build()
        data.setup("fit")
        made.append(data)
    return made


def part(data: DataModule, name: str) -> Any:
    return data._parts[name]


@pytest.mark.parametrize("of", [2, 3, 7])
def test_folds_are_disjoint_whole_and_stratified(of: int) -> None:
    labels = torch.tensor([0] * 31 + [1] * 12 + [4] * 8)[torch.randperm(51, generator=torch.Generator().manual_seed(0))]
    masks = torch.stack([fold(number, of, 51, 3, labels) for number in range(1, of + 1)])
    assert torch.equal(masks.sum(0), torch.ones(51, dtype=torch.long))
    for k in (0, 1, 4):
        counts = masks[:, labels == k].sum(1)
        assert counts.max() - counts.min() <= 1, k
    other = torch.stack([fold(number, of, 51, 4, labels) for number in range(1, of + 1)])
    assert not torch.equal(masks, other), "another seed chooses others"


def test_folds_without_labels_are_shuffled_and_of_equal_size() -> None:
    masks = torch.stack([fold(number, 4, 10, 0) for number in range(1, 5)])
    assert torch.equal(masks.sum(0), torch.ones(10, dtype=torch.long))
    assert sorted(masks.sum(1).tolist()) == [2, 2, 3, 3]
    assert not torch.equal(masks[0], torch.arange(10) < masks[0].sum())


def test_a_class_with_fewer_examples_than_folds_is_refused() -> None:
    y = ["cat"] * 9 + ["dog"] * 3
    with use_fold(1, 4):
        data = ArrayDataModule(RANDOM.random((12, 2)), y, test_fraction=0.0)
    with pytest.raises(ValueError, match=r"4 folds need 4 examples of class 'dog', and there are 3: take fewer folds"):
        data.setup("fit")
    with use_fold(1, 13):
        regression = ArrayDataModule(RANDOM.random((12, 2)), RANDOM.random(12), kind="regression", test_fraction=0.0)
    with pytest.raises(ValueError, match="13 folds need 13 examples, and there are 12"):
        regression.setup("fit")


@pytest.mark.parametrize(("number", "of"), [(0, 5), (6, 5), (1, 1)])
def test_a_fold_out_of_range_is_refused(number: int, of: int) -> None:
    with pytest.raises(ValueError, match="must be an integer"), use_fold(number, of):
        pass


def test_folds_replace_train_and_val_alone_and_have_their_own_statistics() -> None:
    whole = DigitsDataModule()
    whole.setup("fit")
    whole.setup("test")
    count = len(part(whole, "train")) + len(part(whole, "val"))
    made = folds(DigitsDataModule, 5)
    assert sum(len(part(data, "val")) for data in made) == count
    assert len({data.fingerprint for data in made}) == 5
    for data in made:
        data.setup("test")
        assert torch.equal(part(data, "test").x, part(whole, "test").x)
        pixels = part(data, "train").x.double() / 255
        assert data.mean is not None
        assert torch.allclose(data.mean.double(), pixels.mean(dim=(0, 2, 3)), atol=1e-6)
        assert data.class_counts == torch.bincount(part(data, "train").y, minlength=10).tolist()
    assert len({float(data.mean) for data in made if data.mean is not None}) == 5


def test_outside_of_the_block_nothing_is_changed() -> None:
    before = DigitsDataModule()
    with use_fold(2, 5), use_fold(1, 3):
        pass
    after = DigitsDataModule()
    with use_fold(1, 3):
        before.setup("fit")  # built outside
    after.setup("fit")
    assert before.fingerprint == after.fingerprint
    assert before.data_identity == "fingerprint " + str(after.fingerprint) + " (1293 train / 144 val)"


def test_encodings_of_a_table_and_a_vocabulary_are_of_the_folds_training_part(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a,color,label\n" + "".join(f"{i * i},c{i},{'xy'[i % 2]}\n" for i in range(12)))
    texts = tmp_path / "texts.csv"
    texts.write_text("text,label\n" + "".join(f"{letter}z,{'xy'[i % 2]}\n" for i, letter in enumerate("abcdefghijkl")))
    for data in folds(lambda: CSVDataModule(str(table), "label", test_fraction=0.0), 3):
        color = next(column for column in data.columns if column.name == "color")  # type: ignore[attr-defined]
        shown = {f"c{round(float(a) ** 0.5)}" for a in part(data, "train").x[:, 0]}
        assert set(color.categories or ()) == shown
    vocabularies = [
        str(data.vocabulary)  # type: ignore[attr-defined]
        for data in folds(
            lambda: TextTableDataModule(str(texts), tokenizer="bpe", vocab_size=270, test_fraction=0.0), 3
        )
    ]
    assert len(set(vocabularies)) == 3


def test_a_source_with_all_its_targets_is_in_one_fold(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"s{i % 9}\tt{i}\n" for i in range(27)))
    made = folds(lambda: SentencePairsDataModule(str(path), test_fraction=0.0, val_fraction=0.0), 3)
    assert [len(part(data, "val")) for data in made] == [9, 9, 9]
    for data in made:
        sources = [{tuple(source.tolist()) for source in part(data, name).x} for name in ("train", "val")]
        assert not sources[0] & sources[1]


def test_captioned_images_have_folds() -> None:
    made = folds(lambda: ShapeCaptionsDataModule(count=30), 3)
    assert len({data.fingerprint for data in made}) == 3
    assert sum(len(part(data, "val")) for data in made) == len(part(made[0], "train")) + len(part(made[0], "val"))


def test_data_that_choose_their_validation_part_by_themselves_have_no_folds(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    given = TensorDataset(torch.rand(8, 3), torch.arange(8) % 2)
    builds: list[Callable[[], DataModule]] = [
        lambda: TextFileDataModule(str(text), context=8),
        NileDataModule,
        lambda: DatasetDataModule(given, given, given),
    ]
    for build in builds:
        with use_fold(1, 2):
            data = build()
        with pytest.raises(
            ValueError, match=r"has no folds, because its validation part is given by itself or comes later"
        ):
            data.setup("fit")
