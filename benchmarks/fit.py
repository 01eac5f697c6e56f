"""A whole run, ``zoo fit -c RECIPE``, against a script written by hand that does the same work.

The script has the same net, data, epochs and steps, and like the run it evaluates after each epoch, keeps the best and the last
checkpoint, writes a row of metrics.csv a logging step and a line an epoch, draws samples at the same epochs and the learning curves
at the end, and tests the best checkpoint. It keeps its data as tensors that it indexes a batch at a time, and reads its sums back
only when a row is due.

Each run is a fresh process; the time is the CPU time of the process from the first line that trains to the end.
"""

import csv
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEVICES = ("cpu",)
ROWS = 300  # of metrics.csv, about

# The script ------------------------------------------------------------------------------------------------------------


def digits() -> tuple[tuple[Tensor, Tensor], ...]:
    """Images in [0, 1] and labels of the parts train, val and test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(images).float().div(16).view(-1, 1, 8, 8), torch.from_numpy(labels)
    rest, test = train_test_split(range(len(y)), test_size=0.2, random_state=0, stratify=y)
    rest.sort()  # now the parts are those of DigitsDataModule
    train, val = train_test_split(rest, test_size=144, random_state=0, stratify=y[rest])
    return tuple((x[part], y[part]) for part in (train, val, test))


def dense(*sizes: int, last: tuple[nn.Module, ...] = ()) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-2], *last, layers[-2])


class VAE(nn.Module):
    """A variational autoencoder of black and white digits."""

    lr, weight_decay, epochs, every = 3e-3, 0.1, 150, 50
    monitor, sign = "elbo", 1  # the larger, the better
    names = ("loss", "elbo", "reconstruction", "kl")

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.encoder, self.decoder = dense(64, 256, 128, 16), dense(8, 128, 256, 64)

    @staticmethod
    def prepare(x: Tensor) -> Tensor:
        """Make black and white images."""
        return (x > 0.5).float()

    augment = staticmethod(lambda x: x)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the codes."""
        return self.encoder(((x - self.mean) / self.std).flatten(1)).chunk(2, dim=1)

    def likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Of each example, in nats."""
        logits = self.decoder(z).view(-1, 1, 8, 8)
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)

    def terms(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction and kl of each example, and the mean of its code."""
        mean, log_variance = self.encode(x)
        reconstruction = self.likelihood(x, mean + (log_variance / 2).exp() * eps)
        return reconstruction, (mean.square() + log_variance.exp() - log_variance - 1).sum(1) / 2, mean

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The loss of a batch, and what is logged."""
        reconstruction, kl, _ = self.terms(x, torch.randn(len(x), 8))
        reconstruction, kl = reconstruction.mean(), kl.mean()
        loss = kl - reconstruction
        return loss, [loss, -loss, reconstruction, kl]

    def evaluate(self, x: Tensor, y: Tensor, last: bool = False) -> dict[str, float]:
        """The metrics of a part; the importance-weighted bound at the last."""
        g = torch.Generator().manual_seed(0)
        sums, codes = torch.zeros(3), []
        for images in x.split(64):
            reconstruction, kl, code = self.terms(images, torch.randn(len(images), 8, generator=g))
            bound = self.bound(images, torch.randn(len(images), 500, 8, generator=g)) if last else kl
            sums += torch.stack([reconstruction.sum(), kl.sum(), bound.sum()])
            codes.append(code)
        reconstruction, kl, bound = (sums / len(x)).tolist()
        metrics = {"loss": kl - reconstruction, "elbo": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}
        metrics["active_units"] = float((torch.cat(codes).var(0, correction=0) > 0.01).sum())
        return metrics | ({"iwae": bound} if last else {})

    def bound(self, x: Tensor, eps: Tensor) -> Tensor:
        """The importance-weighted bound of each example."""
        mean, log_variance = (part[:, None] for part in self.encode(x))
        z = mean + (log_variance / 2).exp() * eps
        weights = (eps.square() + log_variance - z.square()).sum(2) / 2
        likelihood = self.likelihood(x.repeat_interleave(eps.shape[1], 0), z.flatten(0, 1)).view_as(weights)
        return (likelihood + weights).logsumexp(1) - math.log(eps.shape[1])

    def pictures(self, x: Tensor, y: Tensor) -> dict[str, tuple[Tensor, int]]:
        """Images and how many are in a row, by name."""
        decode = lambda z: self.decoder(z).view(-1, 1, 8, 8).sigmoid()  # noqa: E731
        code, z = self.encode(x)[0], torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
        paths = torch.lerp(code[:6, None], code[6:12, None], torch.linspace(0, 1, 12)[:, None])
        return {
            "reconstructions": (torch.cat([x[:16], decode(code[:16])]), 16),
            "samples": (decode(z), 8),
            "interpolation": (decode(paths.flatten(0, 1)), 12),
        }


class Classifier(nn.Module):
    """A classifier of digits."""

    monitor, sign = "loss", -1
    names = ("loss", "acc")
    prepare = augment = staticmethod(lambda x: x)
    net: nn.Module

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) / self.std)

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The loss of a batch, and what is logged."""
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        return loss, [loss, (logits.argmax(1) == y).float().mean()]

    def evaluate(self, x: Tensor, y: Tensor, last: bool = False) -> dict[str, float]:
        """The metrics of a part."""
        loss, confusion = torch.zeros(()), torch.zeros(100, dtype=torch.long)
        for images, labels in zip(x.split(64), y.split(64), strict=True):
            logits = self(images)
            loss += F.cross_entropy(logits, labels, reduction="sum")
            confusion += torch.bincount(10 * labels + logits.argmax(1), minlength=100)
        self.confusion = confusion.view(10, 10)
        right = self.confusion.diagonal()
        f1 = (2 * right / (self.confusion.sum(0) + self.confusion.sum(1))).mean()
        return {"loss": loss.item() / len(x), "acc": right.sum().item() / len(x), "f1": f1.item()}

    def pictures(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        """The examples with what is predicted and true, and the confusion matrix of the last evaluation."""
        from matplotlib.figure import Figure

        predicted = self(x).argmax(1).tolist()
        examples = Figure(figsize=(8, 6))
        for i, image in enumerate(F.interpolate(x, (64, 64))):
            left, bottom = i % 8 / 8 + 0.01, 0.8 - i // 8 / 4
            examples.figimage(image[0].numpy(), left * 800, bottom * 600, cmap="gray")
            examples.text(left, bottom - 0.02, f"{predicted[i]}", weight="bold")
            examples.text(left, bottom - 0.04, f"{int(y[i])}")
        confusion = Figure(figsize=(5, 5), layout="constrained")
        axes = confusion.add_subplot(xlabel="predicted", ylabel="true")
        axes.imshow(self.confusion, cmap="Blues")
        axes.set_xticks(range(10))
        axes.set_yticks(range(10))
        for row, column in self.confusion.nonzero().tolist():
            axes.text(column, row, f"{int(self.confusion[row, column])}", ha="center", va="center")
        return {"examples": examples, "confusion": confusion}


class MLP(Classifier):
    """One hidden layer with dropout."""

    lr, weight_decay, epochs, every = 3e-3, 1e-2, 60, 20

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__(mean, std)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 10))


class LeNet(Classifier):
    """LeNet-5 of enlarged digits, shifted at random."""

    lr, weight_decay, epochs, every = 2e-3, 1e-4, 30, 10
    grad_norm = True

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__(mean, std)
        maps = [nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)]
        layers = [nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)]
        self.net = nn.Sequential(*maps, nn.Flatten(), *layers)

    @staticmethod
    def prepare(x: Tensor) -> Tensor:
        """Enlarge the images."""
        return F.interpolate(x, (32, 32), mode="bilinear", antialias=True)

    @staticmethod
    def augment(x: Tensor) -> Tensor:
        """Shift each image by up to four pixels."""
        top, left = torch.randint(9, (2, len(x), 1)) + torch.arange(32)
        return F.pad(x, (4, 4, 4, 4))[torch.arange(len(x))[:, None, None], 0, top[:, :, None], left[:, None, :]][
            :, None
        ]


SCRIPTS = {"autoencoder/vae8_digits": VAE, "linear/mlp_digits": MLP, "cnn/lenet_digits": LeNet}


def by_hand(recipe: str, folder: Path) -> None:
    """Train, evaluate, save, draw and test."""
    from matplotlib.figure import Figure
    from torchvision.utils import save_image

    torch.manual_seed(0)
    cls: Any = SCRIPTS[recipe]
    (x, y), val, test = ((cls.prepare(images), labels) for images, labels in digits())
    net = cls(x.mean(), x.std())
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=cls.lr, weight_decay=cls.weight_decay)
    batches = len(x) // 64
    steps = batches * cls.epochs
    warmup, row_every = round(0.1 * steps), steps // ROWS
    columns = ["step", "epoch", "grad_norm"]
    columns += [f"train/{name}_step" for name in cls.names] + [f"train/{name}" for name in cls.names]
    columns += [f"{part}/{name}" for part in ("val", "test") for name in (*cls.names, "f1", "active_units", "iwae")]
    curves: dict[str, list[tuple[float, float]]] = {}
    best = -math.inf
    started()
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        step = 0
        for epoch in range(cls.epochs):
            begin = time.monotonic()
            net.train()
            window, total = torch.zeros(len(cls.names)), torch.zeros(len(cls.names), dtype=torch.float64)
            row: dict[str, Any] = {}
            for index in torch.randperm(len(x))[: batches * 64].split(64):
                part = (step - warmup) / (steps - warmup)
                factor = (step + 1) / warmup if step < warmup else (1 + math.cos(math.pi * part)) / 2
                for group in optimizer.param_groups:
                    group["lr"] = cls.lr * factor
                loss, logged = net.loss(net.augment(x[index]), y[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                window += torch.stack(logged).detach()
                step += 1
                if step % row_every == 0:
                    if row:
                        writer.writerow(row)
                        file.flush()
                    means = (window / row_every).tolist()
                    row = {"step": step - 1, "epoch": epoch}
                    row |= {f"train/{name}_step": value for name, value in zip(cls.names, means, strict=True)}
                    if hasattr(cls, "grad_norm"):
                        gradients = [p.grad for p in net.parameters() if p.grad is not None]
                        row["grad_norm"] = torch.nn.utils.get_total_norm(gradients).item()
                    curves.setdefault("learning rate", []).append((step / batches, cls.lr * factor))
                    for name, value in row.items():
                        if name not in ("step", "epoch"):
                            curves.setdefault(name, []).append((step / batches, value))
                    total += window
                    window.zero_()
            total += window
            net.eval()
            with torch.no_grad():
                metrics = net.evaluate(*val)
                if (epoch + 1) % cls.every == 0:
                    for name, picture in net.pictures(val[0][:32], val[1][:32]).items():
                        path = folder / f"epoch_{epoch + 1:04d}_{name}.png"
                        if isinstance(picture, Figure):
                            picture.savefig(path)
                        else:
                            save_image(F.interpolate(picture[0], scale_factor=8), path, nrow=picture[1])
            ends = {f"train/{name}": value for name, value in zip(cls.names, (total / batches).tolist(), strict=True)}
            ends |= {f"val/{name}": value for name, value in metrics.items()}
            writer.writerow({"step": step - 1, "epoch": epoch, **row, **ends})
            file.flush()
            for name, value in ends.items():
                curves.setdefault(name, []).append((epoch + 1, value))
            if not math.isfinite(metrics["loss"]):
                raise FloatingPointError(metrics["loss"])
            line = "  ".join(f"{name} {value:.4f}" for name, value in sorted(ends.items()))
            print(f"epoch {epoch + 1}/{cls.epochs}  {line}  {time.monotonic() - begin:.1f} s", flush=True)
            score = cls.sign * metrics[cls.monitor]
            checkpoint = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "epoch": epoch}
            checkpoint |= {"generator": torch.get_rng_state(), "best": max(best, score)}
            torch.save(checkpoint, folder / "last.ckpt")
            if score > best:
                best = score
                torch.save(checkpoint, folder / "best.ckpt")
        net.load_state_dict(torch.load(folder / "best.ckpt")["net"])
        with torch.no_grad():
            tested = {f"test/{name}": value for name, value in net.evaluate(*test, last=True).items()}
        writer.writerow({"step": step, "epoch": cls.epochs, **tested})
    draw(curves, folder / "curves.png")
    print(tested)


def draw(curves: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """A panel for each metric, of its means over windows and epochs in training, and in validation."""
    from matplotlib.figure import Figure

    panels: dict[str, list[str]] = {}
    for name in curves:
        panels.setdefault(name.rpartition("/")[2].removesuffix("_step"), []).append(name)
    figure = Figure(figsize=(4.8 * 3, 3.4 * math.ceil(len(panels) / 3)), dpi=120, layout="constrained")
    for i, (panel, names) in enumerate(panels.items()):
        axes = figure.add_subplot(math.ceil(len(panels) / 3), 3, i + 1, ylabel=panel, xlabel="epoch")
        for name in names:
            axes.plot(*zip(*curves[name], strict=True), label=name)
        axes.grid(alpha=0.25)
        axes.legend()
    figure.savefig(path)


# Ours ------------------------------------------------------------------------------------------------------------------


def ours(recipe: str, folder: Path) -> None:
    """The command line."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure
    import matplotlib.layout_engine  # noqa: F401 (imported while training otherwise, and start-up is apart)

    from recipes.cli.__main__ import main
    from recipes.cli.run.session import Session

    fit = Session.fit

    def from_here(session: Session) -> int:
        started()
        return fit(session)

    with patch.object(Session, "fit", from_here):
        if code := main(["fit", "-c", recipe, "--runs", str(folder)]):
            sys.exit(code)


# The measurement -------------------------------------------------------------------------------------------------------

_start: dict[str, float] = {}


def started() -> None:
    """Note the times at which training starts."""
    _start.update(cpu=time.process_time(), wall=time.perf_counter())


def child(who: str, recipe: str) -> None:
    """Run one of both in this process, and print what it took to stderr."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        {"ours": ours, "hand": by_hand}[who](recipe, Path(folder))
    whole = time.process_time()
    times = {"fit": whole - _start["cpu"], "whole": whole, "wall": time.perf_counter() - _start["wall"]}
    print(json.dumps(times), file=sys.stderr)


def measure(who: str, recipe: str) -> dict[str, float]:
    """Seconds of CPU time from the start of training and of the whole process, and of the wall clock from that start."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.fit", who, recipe]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    if process.returncode:
        raise RuntimeError(f"{who} {recipe} ended with {process.returncode}: {process.stderr}")
    return json.loads(process.stderr.splitlines()[-1])


def run(device: str = "cpu") -> list[Any]:
    """All rows of this benchmark."""
    from benchmarks.harness import Row, alternate, ratio, spread  # the script itself imports no Lightning

    rows = []
    for recipe in SCRIPTS:
        runs: dict[str, list[dict[str, float]]] = {"ours": [], "hand": []}

        def timed(who: str, recipe: str = recipe, runs: dict[str, list[dict[str, float]]] = runs) -> float:
            runs[who].append(measure(who, recipe))
            return runs[who][-1]["fit"]

        times = alternate({who: partial(timed, who) for who in runs}, rounds=3)
        slower = ratio(times["ours"], times["hand"])
        whole, wall = ({who: spread(r[key] for r in runs[who]).median for who in runs} for key in ("whole", "wall"))
        rows.append(
            Row(
                f"`zoo fit -c {recipe}`, start-up apart: CPU time",
                f"{spread(times['ours']).median:.2f} s",
                f"{spread(times['hand']).median:.2f} s",
                f"{slower:.2f}x; with start-up {whole['ours']:.1f} s and {whole['hand']:.1f} s, wall clock without "
                f"{wall['ours']:.1f} s and {wall['hand']:.1f} s",
                "<= 1.4x",
                slower.median <= 1.4,
            )
        )
    return rows


if __name__ == "__main__":
    child(*sys.argv[1:])
