"""How fast training images come, with a crop, flip and standardization of their own, or with masks, against torchvision's way."""

from functools import partial

import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms, tv_tensors
from torchvision.transforms import v2

from benchmarks.harness import Row, alternate, clock, ratio, spread
from datamodules import ImageDataModule, ShapesDataModule
from datamodules.segmentation import Pairs

OURS, PEERS = 16_384, 1_024  # images a round


def noise(count: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Images and labels without meaning."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator)
    return images, torch.randint(10, (count,), generator=generator)


class Pictures(Dataset):
    """As torchvision's MNIST and CIFAR10: arrays in memory, one PIL image at a time through the transforms."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        images, self.labels = noise(PEERS, shape)
        self.images = images.permute(0, 2, 3, 1).squeeze(-1).numpy()  # (N, C, H, W) -> (N, H, W[, 3]), PIL's order
        mean = std = (0.5,) * shape[0]
        steps = [transforms.RandomCrop(shape[1], padding=4), transforms.RandomHorizontalFlip()]
        self.transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def time_ours(shape: tuple[int, int, int], batch_size: int, device: str) -> float:
    """Seconds an image of our datamodule, the task's standardization included."""

    class Noise(ImageDataModule):
        class_names = list("0123456789")
        native_shape = shape

        def read(self, part: str) -> tuple[Tensor, Tensor]:
            return noise(OURS, shape)

    data = Noise(batch_size=batch_size, val_fraction=0.0, crop=4, flip=True)
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    data.trainer.training = True
    data.setup("fit")
    mean, std = (t.view(-1, 1, 1).to(device) for t in (data.mean, data.std))
    count, started = 0, clock(device)
    for batch in data.train_dataloader():
        x, _ = data.on_after_batch_transfer([t.to(device) for t in batch], 0)
        count += len((x - mean) / std)
    return (clock(device) - started) / count


def time_peer(shape: tuple[int, int, int], batch_size: int, device: str) -> float:
    """Seconds an image of torchvision's pipeline in a DataLoader of this process."""
    loader = DataLoader(Pictures(shape), batch_size, shuffle=True, drop_last=True)
    count, started = 0, clock(device)
    for x, _ in loader:
        count += len(x.to(device))
    return (clock(device) - started) / count


def masks() -> Pairs:
    """Images and masks in memory, 48 x 48 pixels, which need no change."""
    data = ShapesDataModule(256, 48, val_fraction=0.0)
    data.setup("fit")
    part = data.train_dataloader().dataset
    assert isinstance(part, Pairs)
    return part


class OneByOne(Dataset):
    """The same, each image and its mask through torchvision's transforms by itself."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs, self.transform = pairs, v2.Resize((48, 48))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(tv_tensors.Image(self.pairs.x[index]), tv_tensors.Mask(self.pairs.y[index]))


def time_masks(dataset: Dataset) -> float:
    """Seconds an image with its mask takes into a batch of 32."""
    started = clock()
    count = sum(len(x) for x, _ in DataLoader(dataset, 32, collate_fn=None if isinstance(dataset, OneByOne) else tuple))
    return (clock() - started) / count


def run(device: str = "cpu") -> list[Row]:
    """All rows of this benchmark."""
    rows = []
    for shape, target in (((1, 28, 28), 20), ((3, 32, 32), 12)):
        for batch_size in (64, 128):
            times = alternate(
                {
                    "ours": partial(time_ours, shape, batch_size, device),
                    "peer": partial(time_peer, shape, batch_size, device),
                },
                rounds=7,
            )
            faster = ratio(times["peer"], times["ours"])
            rows.append(
                Row(
                    f"crop + flip + standardize {'x'.join(map(str, shape))}, batch {batch_size}",
                    f"{1 / spread(times['ours']).median:,.0f} images/s",
                    f"{1 / spread(times['peer']).median:,.0f} images/s",
                    f"{faster:.1f}x",
                    f">= {target}x",
                    faster.median >= target,
                )
            )
    pairs = masks()
    times = alternate({"ours": partial(time_masks, pairs), "peer": partial(time_masks, OneByOne(pairs))}, rounds=7)
    faster = ratio(times["peer"], times["ours"])
    rows.append(
        Row(
            "images in memory with masks, 3x48x48, batch 32, nothing drawn",
            f"{1 / spread(times['ours']).median:,.0f} images/s",
            f"{1 / spread(times['peer']).median:,.0f} images/s",
            f"{faster:.1f}x",
            ">= 5x",
            faster.median >= 5,
        )
    )
    return rows
