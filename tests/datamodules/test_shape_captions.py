"""Captions of drawn shapes: true by an oracle that sees only pixels and masks, and none that hangs on a near tie."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import ShapeCaptionsDataModule
from datamodules.shape_captions import HELD_OUT, draw, told_by
from datamodules.shapes import CLASS_NAMES, COLORS

SHAPES = CLASS_NAMES[1:]


def set_up(**kwargs: Any) -> ShapeCaptionsDataModule:
    data = ShapeCaptionsDataModule(**{"count": 400, "noise": 0.0, **kwargs})
    data.setup()
    return data


@pytest.fixture(scope="module")
def clean() -> dict[str, ShapeCaptionsDataModule]:
    return {pairs: set_up(test_pairs=pairs) for pairs in ("held_in", "held_out")}


@pytest.fixture(scope="module")
def seen(clean: dict[str, ShapeCaptionsDataModule]) -> "dict[str, list[tuple[list[Region], str]]]":
    """By part, what is seen in each image, and its caption."""
    sets = [(name, clean["held_in"], name) for name in ("train", "val", "test")]
    found = {}
    for name, data, split in [*sets, ("held_out", clean["held_out"], "test")]:
        images = [data._parts[split][i][0].image.numpy() for i in range(len(data._parts[split]))]
        regions = [regions_of(image, mask) for image, mask in zip(images, data.masks[split].numpy(), strict=True)]
        found[name] = list(zip(regions, data.captions[split], strict=True))
    return found


# The oracle -------------------------------------------------------------------------------------------------------------


class Region:
    """All pixels of one color, without noise those that are seen of one shape."""

    def __init__(self, where: np.ndarray, color: np.ndarray, kinds: set[int]) -> None:
        (kind,) = kinds
        self.where = where
        distance = {name: sum((a - b) ** 2 for a, b in zip(rgb, color, strict=True)) for name, rgb in COLORS.items()}
        self.color, self.shape = min(distance, key=distance.__getitem__), CLASS_NAMES[kind]
        places = np.argwhere(where)
        self.area = len(places)
        self.row, self.column = places.mean(axis=0).tolist()

    def touches(self, other: "Region") -> bool:
        wide = np.pad(self.where, 1)
        return any((wide[y : y + 48, x : x + 48] & other.where).any() for y in range(3) for x in range(3))


def regions_of(image: np.ndarray, mask: np.ndarray) -> list[Region]:
    """The shapes that are seen in an image without noise, the largest first."""
    packed = (image.astype(int) * np.array([1 << 16, 1 << 8, 1])[:, None, None]).sum(axis=0)
    regions = []
    for value in np.unique(packed[mask > 0]):
        where = packed == value
        regions.append(Region(where, image[:, where][:, 0].astype(int), set(mask[where].tolist())))
    return sorted(regions, key=lambda region: -region.area)


def check(regions: list[Region], caption: str) -> None:
    """Hold a caption against an image without noise."""
    first, second, *others = regions
    assert second.area >= 20
    for third in others:
        assert third.area <= 0.85 * second.area
    names = [f"a {region.color} {region.shape}" for region in (first, second)]
    if first.touches(second):
        assert caption in (f"{names[0]} over {names[1]}", f"{names[1]} over {names[0]}")
        return
    assert second.area <= 0.85 * first.area
    down, right = second.row - first.row, second.column - first.column
    assert abs(abs(down) - abs(right)) >= 3 - 1e-9
    if abs(right) > abs(down):
        relation = "left of" if right > 0 else "right of"
    else:
        relation = "above" if down > 0 else "below"
    assert caption == f"{names[0]} {relation} {names[1]}"


def test_every_caption_is_what_is_seen_and_nothing_hangs_on_a_near_tie(
    seen: dict[str, list[tuple[list[Region], str]]],
) -> None:
    assert {name: len(part) for name, part in seen.items()} == {"train": 360, "val": 40, "test": 1000, "held_out": 1000}
    for part in seen.values():
        for regions, caption in part:
            check(regions, caption)


def test_the_held_out_pairs_are_in_their_test_part_alone(seen: dict[str, list[tuple[list[Region], str]]]) -> None:
    assert len(set(HELD_OUT)) == len({color for color, _ in HELD_OUT}) == len({shape for _, shape in HELD_OUT}) == 4
    for name, part in seen.items():
        told = [{pair for pair in HELD_OUT if " ".join(pair) in caption} for _, caption in part]
        if name == "held_out":
            assert all(told)
            assert set().union(*told) == set(HELD_OUT)
        else:
            assert not any(told)
            assert not {(region.color, region.shape) for regions, _ in part for region in regions} & set(HELD_OUT)


def test_all_that_captions_tell_is_told_often() -> None:
    """The distribution over 2,400 training images: the relations, and the 20 pairs of color and shape."""
    captions = [caption.split() for caption in draw(2400, 32, 3, 0.0, False, (0, 0)).captions]
    relations = Counter(" ".join(words[3:-3]) for words in captions)
    share = {relation: count / 2400 for relation, count in relations.items()}
    assert share == {
        "over": pytest.approx(0.38, abs=0.04),
        **{relation: pytest.approx(0.155, abs=0.03) for relation in ("left of", "right of", "above", "below")},
    }
    pairs = Counter(tuple(pair) for words in captions for pair in (words[1:3], words[-2:]))
    assert set(pairs) == {(color, shape) for color in COLORS for shape in SHAPES} - set(HELD_OUT)
    assert min(pairs.values()) > 100


# The rule, on shapes that are laid by hand ---------------------------------------------------------------------------


def boxes(*sides: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (top, left, height, width) in an image of 48 x 48 pixels, a later one over those before."""
    inside = np.zeros((1, len(sides), 48, 48), bool)
    top = np.full((1, 48, 48), -1, np.int8)
    for k, (y, x, height, width) in enumerate(sides):
        inside[0, k, y : y + height, x : x + width] = True
        top[inside[:, k]] = k
    return top, inside


@pytest.mark.parametrize(
    ("sides", "told", "decided"),
    [
        # one beside the other: areas, offsets, pixels that are seen
        ([(2, 2, 10, 10), (2, 30, 10, 9)], (0, 1, "left of"), False),  # 90 of 100 pixels
        ([(2, 2, 10, 20), (2, 30, 10, 17)], (0, 1, "left of"), True),  # 170 of 200: 85%
        ([(2, 2, 10, 20), (2, 28, 9, 19)], (0, 1, "left of"), False),  # 171
        ([(2, 2, 5, 10), (2, 30, 10, 20)], (1, 0, "right of"), True),
        ([(2, 20, 8, 8), (30, 20, 10, 10)], (1, 0, "below"), True),
        ([(2, 20, 10, 10), (30, 20, 8, 8)], (0, 1, "above"), True),
        ([(2, 2, 10, 10), (20, 23, 8, 8)], (0, 1, "left of"), True),  # 20 to the right, 17 down
        ([(2, 2, 10, 10), (21, 23, 8, 8)], (0, 1, "left of"), False),  # 20 and 18
        ([(2, 2, 10, 10), (26, 23, 8, 8)], (0, 1, "above"), True),  # 20 and 23
        ([(2, 2, 10, 10), (30, 30, 4, 5)], (0, 1, "left of"), False),  # on the diagonal, nearly
        ([(2, 2, 10, 10), (2, 30, 4, 5)], (0, 1, "left of"), True),  # 20 pixels are seen
        ([(2, 2, 10, 10), (2, 30, 1, 19)], (0, 1, "left of"), False),  # 19
        # three: the third must be smaller than the second
        ([(2, 2, 10, 20), (2, 30, 10, 10), (30, 2, 5, 17)], (0, 1, "left of"), True),  # 85 of 100
        ([(2, 2, 10, 20), (2, 30, 10, 10), (30, 2, 5, 18)], (0, 1, "left of"), False),  # 90
        ([(30, 2, 5, 17), (2, 30, 10, 10), (2, 2, 10, 20)], (2, 1, "left of"), True),
        # that touch, but hide nothing
        ([(2, 2, 10, 20), (2, 22, 10, 10)], (0, 1, "left of"), False),
        ([(2, 2, 10, 20), (12, 22, 4, 25)], (0, 1, "left of"), False),  # by their corners
        ([(2, 2, 10, 20), (2, 23, 10, 10)], (0, 1, "left of"), True),  # a pixel apart
        # one over the other: neither areas nor offsets matter
        ([(2, 2, 10, 20), (2, 20, 10, 10)], (1, 0, "over"), True),  # hides 20 pixels
        ([(2, 2, 10, 20), (2, 21, 10, 10)], (1, 0, "over"), False),  # 10
        ([(2, 2, 10, 20), (2, 20, 10, 20)], (1, 0, "over"), True),
        ([(2, 2, 20, 20), (8, 8, 5, 5)], (1, 0, "over"), True),
        ([(2, 2, 20, 20), (8, 8, 19, 1)], (1, 0, "over"), False),  # hides 14
        ([(8, 8, 5, 5), (2, 2, 20, 20)], None, False),  # nothing of the other is seen
        # a third one hides where they would touch
        ([(2, 2, 20, 14), (2, 12, 20, 20), (0, 11, 24, 6)], (1, 0, "right of"), True),
    ],
)
def test_what_decides(sides: list[tuple[int, int, int, int]], told: tuple[int, int, str] | None, decided: bool) -> None:
    found = told_by(*boxes(*sides))
    assert bool(found.decided[0]) is decided
    if told is not None:
        names = ("over", "left of", "right of", "above", "below")
        assert (int(found.first[0]), int(found.second[0]), names[found.relation[0]]) == told


@pytest.mark.parametrize(("left", "decided"), [(3, False), (4, True)])  # 20 and 22 pixels, or 19 and 22
def test_where_it_is_seen_decides_not_where_it_lies(left: int, decided: bool) -> None:
    """The left end of the wide box is hidden: what is seen of it has its center 5 pixels farther to the right."""
    told = told_by(*boxes((10, 2, 8, 44), (30, left, 12, 12), (8, 2, 12, 10)))
    assert (told.first.item(), told.second.item(), told.relation.item(), told.decided.item()) == (0, 1, 3, decided)


# The same images everywhere ----------------------------------------------------------------------------------------------


def test_the_images_depend_on_their_own_seed_only() -> None:
    torch.manual_seed(1)
    one, same, other = (ShapeCaptionsDataModule(count=40, size=32, data_seed=seed) for seed in (0, 0, 1))
    for data in (one, same, other):
        data.setup("fit")
    assert one.fingerprint == same.fingerprint != other.fingerprint
    few, more = draw(20, 32, 3, 0.1, False, (0, 0)), draw(90, 32, 3, 0.1, False, (0, 0))
    assert torch.equal(more.x[:20], few.x)
    assert more.captions[:20] == few.captions
    assert not torch.equal(draw(20, 32, 3, 0.1, False, (0, 1)).x, few.x)


def test_what_is_tested_changes_nothing_that_is_trained(clean: dict[str, ShapeCaptionsDataModule]) -> None:
    held_in, held_out = clean["held_in"], clean["held_out"]
    assert held_in.fingerprint == held_out.fingerprint
    assert held_in.captions["train"] == held_out.captions["train"]
    assert not set(held_in.captions["test"]) & set(held_out.captions["test"])


def test_noise_changes_the_colors_only() -> None:
    plain, noisy = (draw(60, 32, 3, noise, False, (0, 0)) for noise in (0.0, 0.1))
    assert torch.equal(plain.masks, noisy.masks)
    assert plain.captions == noisy.captions
    middle = (plain.x > 64) & (plain.x < 192)
    assert ((noisy.x.float() - plain.x.float())[middle].std() / 255).item() == pytest.approx(0.1, rel=0.03)


def test_the_images_are_those_of_all_versions() -> None:
    data = ShapeCaptionsDataModule(count=60, size=32, noise=0.0)
    data.setup("fit")
    assert data.fingerprint == "6464e7bddc549e26"
    data = ShapeCaptionsDataModule(count=30)
    data.setup("fit")
    assert data.data_identity == "fingerprint d6a10d1132803aaf (27 train / 3 val)"
    assert data.captions["train"][0] == "a green triangle right of a cyan square"


# What a model gets -----------------------------------------------------------------------------------------------------


def test_what_is_known_before_anything_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.shape_captions.draw", None)
    data = ShapeCaptionsDataModule()
    assert (data.kind, data.input_shape, data.caption_length, data.vocab_size) == ("captioning", (3, 48, 48), 9, 19)
    assert (data.padding, data.vocabulary["end"], data.vocabulary["unknown"]) == (0, 1, None)
    assert data.attributes == {
        "color": ["red", "green", "blue", "yellow", "purple", "cyan"],
        "shape": ["circle", "square", "triangle", "cross"],
        "relation": ["over", "left of", "right of", "above", "below"],
    }


def test_a_batch_holds_images_and_captions(clean: dict[str, ShapeCaptionsDataModule]) -> None:
    data = clean["held_in"]
    assert {name: len(part) for name, part in data._parts.items()} == {"train": 360, "val": 40, "test": 1000}
    x, y = data._parts["val"].__getitems__([3, 0])
    tokens = data.vocabulary["tokens"]
    for row, i in enumerate((3, 0)):
        words = [tokens[token] for token in y[row, 0].tolist()]
        assert " ".join(words).split(" <end>")[0] == data.captions["val"][i]
        assert [tokens[token] for token in x.caption[row, 0].tolist()] == ["<end>", *words][: len(words)]
    assert (x.image.dtype, x.image.shape, y.dtype) == (torch.uint8, (2, 3, 48, 48), torch.int64)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"count": 0}, ValueError, "count must be an integer >= 1, got 0"),
        ({"size": 16}, ValueError, "size must be an integer >= 24, got 16"),
        ({"shapes": 7}, ValueError, "shapes must be an integer in 2..6, got 7"),
        ({"noise": -0.1}, ValueError, "noise must be a standard deviation >= 0, got -0.1"),
        ({"test_pairs": "both"}, ValueError, 'test_pairs must be "held_in" or "held_out", got \'both\''),
        ({"data_seed": "x"}, TypeError, "data_seed must be an integer"),
        ({"color_jitter": -1}, ValueError, "color_jitter must be a share"),
        ({"flip": True}, TypeError, "unexpected keyword argument 'flip'"),
    ],
)
def test_what_is_refused(kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ShapeCaptionsDataModule(**kwargs)
