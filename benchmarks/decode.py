"""How fast a large photograph becomes an input of 224 pixels, and how far from its exact decoding that is."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms.v2 import functional as TF

from benchmarks.harness import Row, alternate, clock, ratio, spread
from datamodules.decode import decode

DEVICES = ("cpu",)
ROUNDS, REPEATS = 7, 3
WIDTH, HEIGHT = 4000, 3000


def photograph() -> Image.Image:
    """Draw an image with the spectrum of photographs: amplitudes that fall with the frequency, and channels that are alike."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
    frequency[0, 0] = 1.0
    gray, *colors = (
        np.fft.irfft2(np.exp(2j * np.pi * rng.random(frequency.shape)) / frequency**1.2, (HEIGHT, WIDTH))
        for _ in range(4)
    )
    layers = [gray + 0.3 * color for color in colors]
    levels = np.stack([120 + 50 * layer / layer.std() for layer in layers], 2)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def by_pillow(path: Path, side: int) -> Tensor:
    """Decode all pixels of the photograph, and resize its center square."""
    left = (WIDTH - HEIGHT) // 2
    with Image.open(path) as image:
        square = image.convert("RGB").resize(
            (side, side), Image.Resampling.BILINEAR, box=(left, 0, left + HEIGHT, HEIGHT)
        )
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def by_torchvision(path: Path, side: int) -> Tensor:
    """Do the same by torchvision alone."""
    left = (WIDTH - HEIGHT) // 2
    pixels = decode_jpeg(read_file(str(path)), mode=ImageReadMode.RGB)
    return TF.resize(pixels[:, :, left : left + HEIGHT], [side, side], antialias=True)


def run(device: str = "cpu") -> list[Row]:
    """All rows of this benchmark."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "photo.jpg")
        photograph().save(path, quality=90)
        for side, scale in ((448, 2), (224, 4), (160, 8)):
            ways: dict[str, Callable[[], Tensor]] = {
                "ours": lambda side=side: decode(path, 3, side, draft=True),
                "Pillow": lambda side=side: by_pillow(path, side),
                "torchvision": lambda side=side: by_torchvision(path, side),
            }

            def seconds(way: Callable[[], Tensor]) -> float:
                started = clock()
                for _ in range(REPEATS):
                    way()
                return (clock() - started) / REPEATS

            times = alternate({name: partial(seconds, way) for name, way in ways.items()}, ROUNDS)
            speeds = {name: f"{1 / spread(values).median:.1f} images/s" for name, values in times.items()}
            what = f"JPEG of {WIDTH}x{HEIGHT}, {path.stat().st_size / 1e6:.1f} MB, to {side}x{side}"
            faster = ratio(times["Pillow"], times["ours"])
            target = {2: 1.5, 4: 2.0, 8: 2.5}[scale]
            rows.append(
                Row(
                    f"{what}, decoded at 1/{scale}",
                    speeds["ours"],
                    f"{speeds['Pillow']} exactly, Pillow {PIL.__version__}",
                    f"{faster:.2f}x",
                    f">= {target}x",
                    faster.median >= target,
                )
            )
            faster = ratio(times["torchvision"], times["ours"])
            rows.append(
                Row("the same", speeds["ours"], f"{speeds['torchvision']}, torchvision", f"{faster:.2f}x", "", None)
            )
            ours, exact = ways["ours"]().float(), ways["Pillow"]().float()
            change, other = (ours - exact).abs(), (ways["torchvision"]().float() - exact).abs()
            rows.append(
                Row(
                    "the same: difference from the exact pixels, of 255 gray levels",
                    f"{change.mean():.2f} on average, {change.max():.0f} at most",
                    f"{other.mean():.2f} on average, {other.max():.0f} at most, torchvision",
                    "",
                    "< 1 on average",
                    bool(change.mean() < 1),
                )
            )
    return rows
