"""JPEGs decoded at a fraction of their size: at which, where in the image, how far from exact, and never a mask."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import save
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from datamodules import ImageFolderDataModule, MaskFolderDataModule
from datamodules.decode import Box, decode, open_image, read_part, upright_size
from datamodules.samplers import TrainingEpoch


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """An image of which no two decodings agree."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def waves(width: int, height: int) -> Image.Image:
    """An image whose red changes with the column and whose green with the row, by up to 5 levels a pixel."""
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    levels = [128 + 110 * np.sin(2 * np.pi * axis / 140) for axis in (across, down)]
    return Image.fromarray(np.stack([*levels, 0 * down], 2).round().astype(np.uint8))


def turned(image: Image.Image, orientation: int) -> tuple[Image.Image, Image.Exif]:
    """The image as a camera stores it, and the EXIF data that turn it upright."""
    turn = Image.Transpose
    how = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_90,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    return image.transpose(how[orientation]) if orientation in how else image, exif


def difference(path: Path, **kwargs: Any) -> float:
    """Mean difference of the two decodings in gray levels."""
    exact, drafted = (decode(path, draft=draft, **kwargs).float() for draft in (False, True))
    return float((exact - drafted).abs().mean())


@pytest.mark.parametrize(
    ("side", "scale"), [(63, 1), (64, 2), (127, 2), (128, 4), (255, 4), (256, 8), (257, 8), (600, 8)]
)
@pytest.mark.parametrize("color", ["RGB", "L"])
def test_at_least_twice_the_result_is_decoded(tmp_path: Path, side: int, scale: int, color: str) -> None:
    """16 pixels of the shorter side; what Pillow's own draft gives for the fraction, resized, is the oracle."""
    channels = len(color) if color == "RGB" else 1
    path = save(tmp_path / "a.jpg", noise(side, side + 40))
    with Image.open(path) as image:
        if scale > 1:
            image.draft(color, (side // scale, (side + 40) // scale))
        assert image.size == (math.ceil(side / scale), math.ceil((side + 40) / scale))
        box = (0, 20 / scale, side / scale, (20 + side) / scale)
        wanted = np.asarray(image.convert(color).resize((16, 16), Image.Resampling.BILINEAR, box=box))
    found = decode(path, channels, 16, draft=True)
    assert torch.equal(found, torch.from_numpy(wanted.copy()).reshape(16, 16, channels).permute(2, 0, 1))
    assert torch.equal(found, decode(path, channels, 16)) == (scale == 1)


@pytest.mark.parametrize(
    ("box", "drafted"),
    [((10, 10, 74, 138), True), ((10, 10, 73, 138), False), ((10, 10, 138, 73), False), ((10, 10, 138, 74), True)],
)
def test_the_part_that_is_kept_decides(tmp_path: Path, box: Box, drafted: bool) -> None:
    path = save(tmp_path / "a.jpg", noise(400, 400))
    one, other = (decode(path, 3, 16, crop=lambda own: box, draft=draft) for draft in (True, False))
    assert torch.equal(one, other) != drafted


def test_a_result_that_is_not_square(tmp_path: Path) -> None:
    """60 x 20 pixels want 240 x 80 of the file; the other way round they want more than it has."""
    path = save(tmp_path / "a.jpg", noise(240, 100))
    assert difference(path, channels=3, size=(20, 60)) > 1
    assert difference(path, channels=3, size=(60, 20)) == 0
    assert difference(path, channels=3, size=(20, 60), share=0.99) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(513, 417), (519, 423)])  # of the last 8 pixels one, or seven are there
@pytest.mark.parametrize("crop", [None, lambda own: (own[0] - 300, own[1] - 260, own[0], own[1])])
def test_the_same_place_is_seen_however_the_camera_was_held(
    tmp_path: Path, orientation: int, size: tuple[int, int], crop: Any
) -> None:
    stored, exif = turned(waves(*size), orientation)
    path = save(tmp_path / "a.jpg", stored, exif=exif, quality=95, subsampling=0)
    with open_image(path) as image:
        assert upright_size(image) == size
    for side in (13, 26, 52):
        exact, drafted = (decode(path, 3, side, crop=crop, draft=draft).float() for draft in (False, True))
        change = (drafted - exact)[:2].abs()
        assert 0 < change.mean() < 1  # off by the rest of a block of 8, it is 1.4 to 20
        assert change.max() < 8


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_of_a_jpeg(tmp_path: Path, mode: str, channels: int) -> None:
    path = save(tmp_path / "a.jpg", waves(400, 300).convert(mode), quality=95)
    for side in (16, 30, 70):
        assert difference(path, channels=channels, size=side) < 0.6
    assert decode(path, channels, 16, draft=True).shape == (channels, 16, 16)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp"])
def test_other_formats_are_decoded_exactly(tmp_path: Path, suffix: str) -> None:
    kwargs = {"compression": "jpeg"} if suffix == "tif" else {}
    path = save(tmp_path / f"a.{suffix}", noise(400, 300), **kwargs)
    assert difference(path, channels=3, size=16) == 0


def test_an_mpo_is_a_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "a.mpo"
    noise(400, 300).save(path, save_all=True, append_images=[noise(400, 300, seed=1)])
    first = save(tmp_path / "a.jpg", noise(400, 300))
    assert torch.equal(decode(path, 3, 16, draft=True), decode(first, 3, 16, draft=True))


def test_a_damaged_jpeg_is_named_at_any_size(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", noise(400, 300))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read as an image \(.+\): it is damaged"):
        decode(path, 3, 8, draft=True)


WAYS = ("bilinear", "bicubic", "lanczos", "nearest")


@pytest.mark.parametrize("way", WAYS)
def test_interpolation_is_pillows(tmp_path: Path, way: Any) -> None:
    path, large = save(tmp_path / "a.png", noise(60, 40)), save(tmp_path / "a.jpg", noise(160, 120))
    resampling = Image.Resampling[way.upper()]
    wanted = noise(60, 40).resize((16, 16), resampling, box=(10, 0, 50, 40))
    found = decode(path, 3, 16, interpolation=way)
    assert torch.equal(found, torch.from_numpy(np.array(wanted)).permute(2, 0, 1))
    with Image.open(large) as image:
        if way != "nearest":  # single pixels are those of the file
            image.draft("RGB", (40, 30))
        side = image.height
        box = ((image.width - side) / 2, 0, (image.width + side) / 2, side)
        wanted = image.resize((15, 15), resampling, box=box)
    found = decode(large, 3, 15, draft=True, interpolation=way)
    assert torch.equal(found, torch.from_numpy(np.array(wanted)).permute(2, 0, 1))


def textured(width: int, height: int) -> Image.Image:
    """An image with the spectrum of photographs, whose amplitudes fall with the frequency."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1.0
    layers = [
        np.fft.irfft2(np.exp(2j * np.pi * rng.random(frequency.shape)) / frequency, (height, width)) for _ in "rgb"
    ]
    levels = np.stack([128 + 45 * layer / layer.std() for layer in layers], 2)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def test_a_photograph_changes_by_less_than_a_gray_level(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", textured(1000, 750), quality=90)
    for side in (32, 64, 150):  # at 1/8, 1/4, 1/2
        assert 0 < difference(path, channels=3, size=side) < 1
        assert 0 < difference(path, channels=3, size=side, interpolation="bicubic") < 1


# Datamodules ------------------------------------------------------------------------------------------------------------


def photos(root: Path) -> str:
    for i in range(12):
        save(root / "ab"[i % 2] / f"{i:02}.jpg", noise(150, 130, seed=i))
    return str(root)


def training(data: Any) -> tuple[Tensor, ...]:
    """All batches of a second epoch, as one."""
    data.setup("fit")
    part = data._parts["train"].for_training(TrainingEpoch(5, 1))
    return part.batch(torch.arange(len(part)))


def test_images_in_folders_are_drafted_in_training_and_evaluation_unless_told_not_to(tmp_path: Path) -> None:
    root = photos(tmp_path)
    drafts, exact = (
        ImageFolderDataModule(root, size=16, num_workers=0, val_fraction=0.3, **more) for more in ({}, {"draft": False})
    )
    assert (drafts.preparation["draft"], exact.preparation["draft"]) == (True, False)
    for data in (drafts, exact):
        x, _ = training(data)
        for part, pixels in (("train", x), ("val", data._parts["val"].inputs(torch.arange(1)))):
            assert torch.equal(pixels[0], decode(tmp_path / data._parts[part].name_of(0), 3, 16, draft=data.draft))
    assert not torch.equal(training(drafts)[0], training(exact)[0])


def test_interpolation_is_that_of_all_parts_and_of_no_mask(tmp_path: Path) -> None:
    for i in range(8):
        mask = np.kron(np.random.default_rng(i).integers(0, 2, (8, 8), dtype=np.uint8), np.ones((5, 5), np.uint8))
        save(tmp_path / "masked" / "images" / f"{i}.png", noise(40, 40, seed=i))
        save(tmp_path / "masked" / "masks" / f"{i}.png", Image.fromarray(mask))
    folders, masked = photos(tmp_path / "photos"), str(tmp_path / "masked")
    kwargs: dict[str, Any] = {"num_workers": 0, "val_fraction": 0.3, "draft": False}
    masks = []
    for way in WAYS:
        data = ImageFolderDataModule(folders, size=16, interpolation=way, center=0.9, **kwargs)
        assert (data.preparation["interpolation"], data.preparation["center"]) == (way, 0.9)
        x, _ = training(data)
        for part, pixels in (("train", x), ("val", data._parts["val"].inputs(torch.arange(1)))):
            path = Path(folders) / data._parts[part].name_of(0)
            assert torch.equal(pixels[0], decode(path, 3, 16, 0.9, interpolation=way))
        pairs = MaskFolderDataModule(masked, class_names=["a", "b"], size=16, interpolation=way, **kwargs)
        assert pairs.preparation["interpolation"] == way
        x, y = training(pairs)
        path = Path(masked) / pairs._parts["train"].name_of(0)
        assert torch.equal(x[0], decode(path, 3, 16, interpolation=way))
        masks.append(y)
    assert all(torch.equal(y, masks[0]) for y in masks)
    wrong: Any = "cubic"
    with pytest.raises(
        ValueError, match="interpolation must be one of bilinear, bicubic, lanczos, nearest, got 'cubic'"
    ):
        ImageFolderDataModule(folders, interpolation=wrong)
    with pytest.raises(ValueError, match="interpolation must be one of"):
        MaskFolderDataModule(masked, class_names=["a", "b"], interpolation=wrong)


def test_a_random_crop_is_the_same_box_and_decoded_exactly_where_it_is_small(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / "ab"[i % 2] / f"{i:02}.jpg", waves(203, 151), quality=95, subsampling=0)
    kwargs: dict[str, Any] = {"size": 25, "num_workers": 0, "resized_crop": 0.1, "val_fraction": 0, "test_fraction": 0}
    data = ImageFolderDataModule(str(tmp_path), **kwargs)
    (drafted, _), (exact, _) = training(data), training(ImageFolderDataModule(str(tmp_path), draft=False, **kwargs))
    part = data._parts["train"].for_training(TrainingEpoch(5, 1))
    small = []
    for i in range(12):
        part.seed(i)
        box = RandomResizedCrop.get_params(Image.new("L", (203, 151)), [0.1, 1.0], [3 / 4, 4 / 3])
        small.append(min(box[2:]) < 4 * 25)
        assert torch.equal(drafted[i], exact[i]) == small[i]
    assert 2 < sum(small) < 10
    assert (drafted.float() - exact.float()).abs().mean() < 1


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_masks_are_read_exactly_and_stay_with_their_images(tmp_path: Path, orientation: int) -> None:
    """Blocks of 21 x 17 pixels, white where the mask says 1, under every transform."""
    rng = np.random.default_rng(0)
    for i in range(8):
        mask = np.kron(rng.integers(0, 2, (7, 9), dtype=np.uint8), np.ones((21, 17), np.uint8))  # (147, 153)
        for folder, pixels, suffix in (("images", mask * 255, "jpg"), ("masks", mask, "png")):
            stored, exif = turned(Image.fromarray(pixels), orientation)
            save(tmp_path / folder / f"{i}.{suffix}", stored, exif=exif)
    kwargs: dict[str, Any] = {"class_names": ["ground", "thing"], "size": [20, 24], "num_workers": 0}
    moves = {"flip": True, "resized_crop": 0.5, "test_fraction": 0, "color_jitter": 0.1}
    seen = {}
    for draft in (True, False):
        data = MaskFolderDataModule(str(tmp_path), draft=draft, **kwargs, **moves)
        assert data.preparation == {"whole": True, "draft": draft, "interpolation": "bilinear"}
        x, y = training(data)
        whole_x, whole_y = data._parts["train"].batch(torch.arange(len(x)))
        agree = [float(((a[:, 0] > 127) == b).float().mean()) for a, b in ((x, y), (whole_x, whole_y))]
        assert min(agree) > 0.97, agree
        seen[draft] = (x, y, whole_x, whole_y)
    for one, other, equal in zip(seen[True], seen[False], (False, True, False, True), strict=True):
        assert torch.equal(one, other) == equal


def test_a_part_of_an_image_that_was_looked_at(tmp_path: Path) -> None:
    """The size may be asked before and after the pixels are read."""
    stored, exif = turned(waves(200, 104), 8)
    for name in ("a.jpg", "a.png", "a.tif"):
        with open_image(save(tmp_path / name, stored, exif=exif)) as image:
            assert upright_size(image) == (200, 104)
            part = read_part(image, 3, (25, 13), (0, 0, 200, 104), draft=True)
            wanted = waves(200, 104).resize((25, 13), Image.Resampling.BILINEAR)
            assert part.size == upright_size(part) == (25, 13)
            assert np.abs(np.asarray(part)[..., :2].astype(int) - np.asarray(wanted)[..., :2]).mean() < 2
