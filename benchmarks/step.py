"""What a training step costs: our task with its default logging, a bare Trainer, the stock habit, and a loop written by hand."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

import zoo
from benchmarks.harness import Row, alternate, clock, difference, peak_memory, ratio, spread, time_fit
from zoo.optim import build_optimizer

Batch = tuple[Tensor, Tensor]


class Stock(LightningModule):
    """What one writes after the tutorial; ``logged`` of three quantities at every step."""

    def __init__(self, net: nn.Module, logged: bool) -> None:
        super().__init__()
        self.net, self.logged = net, logged

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy."""
        x, y = batch
        logits = self.net((x - 0.5) / 0.5)
        loss = F.cross_entropy(logits, y)
        if self.logged:
            hits = (logits.argmax(dim=1) == y).float().mean()
            self.log("train/loss", loss, prog_bar=True)
            self.log("train/acc", hits, on_epoch=True)
            self.log("train/error", 1 - hits, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The same as our default."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class StockVAE(LightningModule):
    """A variational autoencoder after the tutorial, without any logging."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Minus the bound of the log-likelihood."""
        x, net = batch[0], self.net
        mean, log_variance = net.encode((x - 0.5) / 0.5)  # type: ignore[operator]
        z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        reconstruction = F.binary_cross_entropy_with_logits(net.decode(z), x, reduction="none")  # type: ignore[operator]
        kl = (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1) / 2
        return (kl + reconstruction.flatten(1).sum(dim=1)).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The recipe's, without its schedule."""
        return AdamW(self.parameters(), lr=3e-3, weight_decay=0.1)


def by_hand(net: nn.Module, batch: Batch, steps: int, device: str, warmup: int = 5) -> float:
    """Seconds a step of a loop written by hand, without any logging."""
    net.to(device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    started = 0.0
    for index in range(warmup + steps):
        if index == warmup:
            started = clock(device)
        x, y = (t.to(device) for t in batch)
        loss = F.cross_entropy(net((x - 0.5) / 0.5), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (clock(device) - started) / steps


def small() -> tuple[zoo.Task, Batch]:
    """A model so small that the step is almost nothing but overhead."""
    torch.manual_seed(0)
    model = zoo.create_model("softmax_regression", in_features=64)
    return model, (torch.rand(64, 1, 8, 8), torch.randint(10, (64,)))


def mlp() -> tuple[zoo.Task, Batch]:
    """A multilayer perceptron on rows of 64 numbers."""
    torch.manual_seed(0)
    return zoo.create_model("mlp", in_features=64, num_classes=10), (torch.rand(64, 64), torch.randint(10, (64,)))


def lenet() -> tuple[zoo.Task, Batch]:
    """LeNet-5 on its 32 pixels."""
    torch.manual_seed(0)
    return zoo.create_model("lenet5"), (torch.rand(64, 1, 32, 32), torch.randint(10, (64,)))


def vae() -> tuple[zoo.Task, Batch]:
    """The model of the recipe autoencoder/vae8_digits."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"input_shape": [1, 8, 8], "latent_dim": 8, "widths": [256, 128]}
    model = zoo.VAE(**sizes, importance_samples=500, lr=3e-3, weight_decay=0.1)
    return model, (torch.rand(64, 1, 8, 8).round(), torch.randint(10, (64,)))


def steps_of(build: Callable[[nn.Module], Optimizer], count: int = 300) -> float:
    """Seconds a step of an optimizer takes, over five layers: ten tensors."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(64, 64) for _ in range(5)))
    optimizer = build(net)
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    started = clock()
    for _ in range(count):
        optimizer.step()
    return (clock() - started) / count


def our_optimizer(net: nn.Module) -> Optimizer:
    """Weights that decay, and biases that do not: two groups."""
    return build_optimizer(net, "AdamW", 1e-3, 0.1, {}, decay_norm_and_bias=False)


def stock_optimizer(net: nn.Module) -> Optimizer:
    """The same groups with torch's defaults."""
    weights, biases = ([p for p in net.parameters() if p.ndim == dims] for dims in (2, 1))
    return AdamW([{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}], lr=1e-3)


def large() -> tuple[zoo.Task, Batch]:
    """ResNet-18 at 64 pixels, 32 images."""
    torch.manual_seed(0)
    return zoo.create_model("resnet18", num_classes=10), (torch.rand(32, 3, 64, 64), torch.randint(10, (32,)))


def large_ours(device: str) -> None:
    """A few steps of ours, for its peak memory."""
    time_fit(*large(), steps=4, warmup=1, device=device)


def large_by_hand(device: str) -> None:
    """The same by hand."""
    model, batch = large()
    by_hand(model.net, batch, steps=4, warmup=1, device=device)


def bare_classifier(model: zoo.Task) -> LightningModule:
    """The net of a classifier in a module without logging."""
    return Stock(model.net, logged=False)


def bare_vae(model: zoo.Task) -> LightningModule:
    """The net of a variational autoencoder in a module without logging."""
    return StockVAE(model.net)


CASES: list[tuple[str, Callable[[], tuple[zoo.Task, Batch]], Callable[[zoo.Task], LightningModule]]] = [
    ("MLP, batch 64", mlp, bare_classifier),
    ("LeNet-5, batch 64", lenet, bare_classifier),
    ("VAE of autoencoder/vae8_digits, batch 64", vae, bare_vae),
]


def against_bare(
    what: str,
    make: Callable[[], tuple[zoo.Task, Batch]],
    bare: Callable[[zoo.Task], LightningModule],
    device: str,
) -> Row:
    """Our task with its default logging against a module without any, which has torch's default optimizer."""
    batch = make()[1]
    times = alternate(
        {
            "ours": lambda: time_fit(make()[0], batch, 300, device=device),
            "bare": lambda: time_fit(bare(make()[0]), batch, 300, device=device),
        },
        rounds=9,
    )
    slower = ratio(times["ours"], times["bare"])
    ours, peer = (f"{1e3 * spread(times[name]).median:.2f} ms" for name in ("ours", "bare"))
    step = f"{what}: step of our task, default logging, against a bare Trainer's with torch's default optimizer"
    return Row(step, ours, peer, f"{slower:.2f}x", "<= 1.0x", slower.median <= 1.0)


def optimizers() -> Row:
    """The step of AdamW alone."""
    times = alternate({"ours": lambda: steps_of(our_optimizer), "stock": lambda: steps_of(stock_optimizer)}, rounds=9)
    faster = ratio(times["ours"], times["stock"])
    ours, peer = (f"{1e6 * spread(times[name]).median:.0f} us" for name in ("ours", "stock"))
    what = "AdamW over two parameter groups, ten tensors: a step, against torch's default"
    return Row(what, ours, peer, f"{faster:.2f}x", "<= 0.5x", faster.median <= 0.5)


def run(device: str = "cpu") -> list[Row]:
    """All rows of this benchmark."""
    rows = []
    batch = small()[1]
    times = alternate(
        {
            "hand": lambda: by_hand(small()[0].net, batch, 300, device),
            "ours": lambda: time_fit(small()[0], batch, 300, device=device),
            "bare": lambda: time_fit(Stock(small()[0].net, False), batch, 300, device=device),
            "stock": lambda: time_fit(Stock(small()[0].net, True), batch, 300, device=device),
        },
        rounds=9,
    )
    ms = {name: [1e3 * t for t in values] for name, values in times.items()}
    for name, what, target in (
        ("ours", "step of our task, default logging, beyond a hand-written loop", 0.5),
        ("bare", "step of a bare Trainer, no logging at all, beyond the same loop", None),
        ("stock", "step of the stock habit, three self.log, beyond the same loop", None),
    ):
        added = difference(ms[name], ms["hand"])
        rows.append(
            Row(
                what,
                f"{spread(ms[name]).median:.2f} ms",
                f"{spread(ms['hand']).median:.2f} ms",
                f"{added:+.2f} ms",
                "<= +0.5 ms" if target else "",
                added.median <= target if target else None,
            )
        )

    rows += [against_bare(*case, device) for case in CASES]
    if device == "cpu":
        rows.append(optimizers())

    model, batch = large()
    times = alternate(
        {
            "hand": lambda: by_hand(model.net, batch, 6, device, warmup=1),
            "ours": lambda: time_fit(model, batch, 6, warmup=1, device=device),
        },
        rounds=5,
    )
    slower = ratio(times["ours"], times["hand"])
    rows.append(
        Row(
            "ResNet-18 at 64 px, batch 32: time of a step",
            f"{1e3 * spread(times['ours']).median:.1f} ms",
            f"{1e3 * spread(times['hand']).median:.1f} ms",
            f"{slower:.3f}x",
            "<= 1.03x",
            slower.median <= 1.03,
        )
    )
    ours, hand = ([peak_memory(f, device) for _ in range(3)] for f in (large_ours, large_by_hand))
    more = ratio(ours, hand)
    rows.append(
        Row(
            "the same: peak memory",
            f"{spread(ours).median:.0f} MB",
            f"{spread(hand).median:.0f} MB",
            f"{more:.3f}x",
            "<= 1.05x",
            more.median <= 1.05,
        )
    )
    return rows
