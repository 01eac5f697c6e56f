"""Dense prediction and generative models: a step of our tasks against the same nets in a loop written by hand."""

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

import zoo
from benchmarks.harness import Repeat, Row, alternate, clock, peak_memory, quiet, ratio, spread, time_fit

Batch = tuple[Tensor, Tensor]
Step = Callable[[Tensor, Tensor], None]
WARMUP, STEPS, ROUNDS = 2, 8, 7
RANK_STEPS = 40  # by the wall clock, which is less steady


def unet() -> tuple[zoo.Task, Batch]:
    """U-Net of width 16, 64 pixels, four classes."""
    g = torch.Generator().manual_seed(0)
    model = zoo.create_model("unet", encoder_args={"width": 16}, num_classes=4)
    return model, (torch.rand(16, 3, 64, 64, generator=g), torch.randint(4, (16, 64, 64), generator=g))


def vae() -> tuple[zoo.Task, Batch]:
    """A convolutional variational autoencoder, 32 pixels."""
    g = torch.Generator().manual_seed(0)
    model = zoo.create_model("vae_conv", input_shape=[1, 32, 32], width=32, depth=3)
    return model, (torch.rand(128, 1, 32, 32, generator=g), torch.zeros(128, dtype=torch.long))


def wgan() -> tuple[zoo.Task, Batch]:
    """WGAN-GP of DCGAN's nets, 32 pixels; every batch a step of both."""
    g = torch.Generator().manual_seed(0)
    model = zoo.create_model("wgan_gp_dcgan", input_shape=[1, 32, 32], width=32, n_critic=1)
    return model, (torch.rand(32, 1, 32, 32, generator=g), torch.zeros(32, dtype=torch.long))


MODELS = {"U-Net": unet, "VAE": vae, "WGAN-GP": wgan}


def fresh(name: str) -> tuple[Any, Batch]:
    """The model of a row, with the weights of always the same seed, and its batch."""
    torch.manual_seed(0)
    return MODELS[name]()


def unet_by_hand(model: Any) -> Step:
    """Cross-entropy over the valid pixels."""
    net, optimizer = model.net, torch.optim.AdamW(model.net.parameters(), lr=1e-3)

    def step(x: Tensor, y: Tensor) -> None:
        x = ((x - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(net(x), y, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def vae_by_hand(model: Any) -> Step:
    """The bound with one draw."""
    net, optimizer = model.net, torch.optim.AdamW(model.net.parameters(), lr=1e-3)

    def step(x: Tensor, y: Tensor) -> None:
        mean, log_variance = net.encode(((x - 0.5) / 0.5).contiguous(memory_format=torch.channels_last))
        raw = net.decode(mean + (log_variance / 2).exp() * torch.randn_like(mean))
        kl = (mean.square() + log_variance.exp() - log_variance - 1).sum() / 2
        loss = (F.binary_cross_entropy_with_logits(raw, x, reduction="sum") + kl) / len(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def wgan_by_hand(model: Any, ranks: int = 1) -> Step:
    """The critic's step with its penalty, then the generator's; gradients averaged over processes."""
    generator, critic = model.net.generator, model.net.discriminator
    optimizers = [torch.optim.Adam(net.parameters(), lr=1e-4, betas=(0.0, 0.9)) for net in (generator, critic)]

    def descend(loss: Tensor, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        parameters = list(net.parameters())
        gradients = torch.autograd.grad(loss, parameters)
        if ranks > 1:
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            parts = (flat / ranks).split([p.numel() for p in parameters])
            gradients = tuple(part.view_as(p) for part, p in zip(parts, parameters, strict=True))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()

    def made(x: Tensor) -> Tensor:
        raw = generator(torch.randn(len(x), model.net.latent_dim, device=x.device), None)
        return (raw.sigmoid() - 0.5) / 0.5 if model.hparams["output"] == "sigmoid" else raw

    def step(x: Tensor, y: Tensor) -> None:
        x = (x - 0.5) / 0.5
        with torch.no_grad():
            fake = made(x)
        share = torch.rand(len(x), 1, 1, 1, device=x.device)
        between = (share * x + (1 - share) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(critic(between, None).sum(), between, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        descend(critic(fake, None).mean() - critic(x, None).mean() + 10 * penalty, critic, optimizers[1])
        descend(-critic(made(x), None).mean(), generator, optimizers[0])

    return step


BY_HAND = {"U-Net": unet_by_hand, "VAE": vae_by_hand, "WGAN-GP": wgan_by_hand}


def by_hand(name: str, device: str, steps: int = STEPS, warmup: int = WARMUP) -> float:
    """Seconds a step of the loop written by hand."""
    model, batch = fresh(name)
    if getattr(model.net, "channels_last", False):
        model.net.to(memory_format=torch.channels_last)
    model.net.to(device).train()
    step = BY_HAND[name](model)
    started = 0.0
    for index in range(warmup + steps):
        if index == warmup:
            started = clock(device)
        step(*(part.to(device) for part in batch))
    return (clock(device) - started) / steps


def ours(name: str, device: str, steps: int = STEPS, warmup: int = WARMUP) -> float:
    """Seconds a step of our task takes in a Trainer."""
    return time_fit(*fresh(name), steps=steps, warmup=warmup, device=device)


class Wall(Callback):
    """Writes rank 0's seconds a step, by the wall clock, into a file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.started = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Read the clock at both ends."""
        if batch_idx == WARMUP:
            self.started = time.perf_counter()
        elif batch_idx == WARMUP + RANK_STEPS and trainer.is_global_zero:
            Path(self.path).write_text(json.dumps((time.perf_counter() - self.started) / RANK_STEPS))


def ranks_ours(path: str) -> None:
    """WGAN-GP on two processes, ours."""
    torch.set_num_threads(1)
    quiet()
    model, batch = fresh("WGAN-GP")
    Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        max_epochs=1,
        logger=False,
        callbacks=[Wall(path)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(model, Repeat(batch, WARMUP + RANK_STEPS + 1))


def ranks_by_hand(rank: int, path: str) -> None:
    """WGAN-GP on two processes, by hand."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}.meeting", rank=rank, world_size=2)
    model, batch = fresh("WGAN-GP")
    step = wgan_by_hand(model, ranks=2)
    started = 0.0
    for index in range(WARMUP + RANK_STEPS):
        if index == WARMUP:
            started = time.perf_counter()
        step(*batch)
    if rank == 0:
        Path(path).write_text(json.dumps((time.perf_counter() - started) / RANK_STEPS))
    dist.destroy_process_group()


def on_ranks(hand: bool) -> float:
    """Seconds a step on two processes, each started fresh."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/seconds.json"
        if hand:
            spawn(ranks_by_hand, args=(path,), nprocs=2)
        else:
            process = multiprocessing.get_context("spawn").Process(target=ranks_ours, args=(path,))
            process.start()
            process.join()
        return json.loads(Path(path).read_text())


def once(name: str, hand: bool, device: str) -> None:
    """A few steps, for their peak memory."""
    (by_hand if hand else ours)(name, device, steps=3, warmup=1)


def run(device: str = "cpu") -> list[Row]:
    """All rows of this benchmark."""
    rows = []
    sizes = {"U-Net": "width 16, 64 px, batch 16", "VAE": "conv, 32 px, batch 128", "WGAN-GP": "DCGAN, 32 px, batch 32"}
    for name, size in sizes.items():
        times = alternate({"hand": partial(by_hand, name, device), "ours": partial(ours, name, device)}, rounds=ROUNDS)
        rows.append(row(f"{name}, {size}: time of a step", times["ours"], times["hand"], 1e3, "ms"))
        ours_mb, hand_mb = (
            [peak_memory(partial(once, name, hand), device) for _ in range(3)] for hand in (False, True)
        )
        rows.append(row("the same: peak memory", ours_mb, hand_mb, 1, "MB"))
    if device == "cpu":
        times = alternate({"hand": partial(on_ranks, True), "ours": partial(on_ranks, False)}, rounds=ROUNDS)
        what = f"WGAN-GP, {sizes['WGAN-GP']} each: time of a step on two processes, wall clock"
        rows.append(row(what, times["ours"], times["hand"], 1e3, "ms"))
    return rows


def row(what: str, ours: list[float], hand: list[float], scale: float, unit: str) -> Row:
    """Ours against by hand, at most 1.05 times."""
    more = ratio(ours, hand)
    mine, theirs = (f"{scale * spread(values).median:.1f} {unit}" for values in (ours, hand))
    return Row(what, mine, theirs, f"{more:.3f}x", "<= 1.05x", more.median <= 1.05)
