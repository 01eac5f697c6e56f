"""What a training step costs beyond a loop written by hand: our task with its default logging, and the stock habit."""

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

import zoo
from benchmarks.harness import Row, alternate, clock, difference, peak_memory, ratio, spread, time_fit

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
