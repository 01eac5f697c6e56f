"""What a GPU is for: convolutions, transformers, texts and augmentation at their usual sizes, beside what others wrote.

Under 8 minutes on an H100, all data made on the device. What the device can do at best is measured first. Where there is no GPU,
all of it runs at toy sizes, to try the command: nothing is judged then. A row that cannot be measured (a package or memory that
lacks, no time left) says why.
"""

import contextlib
import gc
import importlib
import importlib.util
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

import zoo
from benchmarks.harness import Row, clock, ratio, spread, time_fit
from callbacks import GradNorm
from datamodules.augment import Augmentation
from datamodules.samplers import generator_for
from zoo.blocks import MultiHeadAttention
from zoo.decoding import beam_search, greedy
from zoo.pretrained.language import renamed
from zoo.transformer.language_model import TransformerLM

DEVICES = ("cuda",) if torch.cuda.is_available() else ("cpu",)
SECONDS = 7.5 * 60  # after these, no row is begun
BEAM = 4


@dataclass(frozen=True)
class Sizes:
    """How large everything is; as it stands, for a GPU of 80 GB."""

    product: int = 8192
    copy: int = 4 * 10**9
    resnet: str = "resnet50"
    width: int = 64  # of the first stage, where there is no peer
    batch: int = 256
    pixels: int = 224
    vit_batch: int = 128
    vit: dict[str, int] = field(
        default_factory=lambda: {"image_size": 224, "patch_size": 16, "num_layers": 12, "num_heads": 12, "width": 768}
    )
    gpt: dict[str, int] = field(
        default_factory=lambda: {
            "vocab_size": 50257,
            "width": 768,
            "num_layers": 12,
            "num_heads": 12,
            "max_length": 1024,
        }
    )
    gpt_batch: int = 32
    texts: tuple[int, int] = (16, 128)
    images: int = 4096
    attention: tuple[int, int, int] = (8, 4096, 768)
    seconds: float = 6.0  # for the turns of a row
    turns: int = 3  # at least
    warmup: int = 5
    steps: int = 10
    compiler: str = "inductor"


TOY = Sizes(
    product=64,
    copy=10**5,
    resnet="resnet18",
    width=8,
    batch=2,
    pixels=32,
    vit_batch=2,
    vit={"image_size": 16, "patch_size": 8, "num_layers": 1, "num_heads": 2, "width": 16},
    gpt={"vocab_size": 11, "width": 16, "num_layers": 1, "num_heads": 2, "max_length": 8},
    gpt_batch=2,
    texts=(2, 4),
    images=8,
    attention=(1, 16, 16),
    seconds=0.0,
    turns=1,
    warmup=1,
    steps=1,
    compiler="eager",
)


def heading(device: str) -> str:
    """The section of the table."""
    return "gpu (cuda)" if device == "cuda" else "gpu (cpu, toy sizes)"


NOTE = (
    "To try the command, where there is no GPU: all at toy sizes, which say nothing about speed, so no target is judged. What a "
    "GPU reaches stands in the section gpu (cuda), which the same command writes where there is one; as long as that section "
    "does not stand here, it was not measured."
)


def note(device: str) -> str:
    """What stands above the table."""
    return "" if device == "cuda" else NOTE


# Measuring --------------------------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """One run of all rows."""

    device: str
    sizes: Sizes
    product: float = 0.0  # TFLOP/s
    rows: list[Row] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def measure(self, what: str, function: Callable[["Bench"], None]) -> None:
        """Add the rows of a function; where they cannot be measured, one that says why."""
        if time.monotonic() - self.started > SECONDS:
            self.rows.append(Row(what, "", "", "not measured: no time left", "", None))
            return
        try:
            function(self)
        except (ImportError, torch.OutOfMemoryError) as error:
            self.rows.append(Row(what, "", "", f"not measured: {_first_line(error)}", "", None))
        except Exception as error:  # the other rows are measured nevertheless
            traceback.print_exc()
            self.rows.append(Row(what, "", "", f"failed: {_first_line(error)}", "", False))
        finally:
            gc.collect()
            if self.device == "cuda":
                torch.cuda.empty_cache()

    def add(self, what: str, ours: str, peer: str, comparison: str, target: str = "", met: bool | None = None) -> None:
        """Add a row; toy sizes are not judged."""
        real = self.device == "cuda"
        self.rows.append(Row(what, ours, peer, comparison, target if real else "", met if real else None))

    def faster(self, what: str, ours: list[float], peer: list[float], name: str, work: float, unit: str) -> None:
        """Add a row for seconds that ours and a peer take for as much work; ours is to be as fast, to the digits that are shown."""
        times = ratio(peer, ours)
        mine, theirs = (f"{work / spread(seconds).median:,.0f} {unit}/s" for seconds in (ours, peer))
        self.add(what, mine, f"{theirs}, {name}", f"{times:.2f}x", ">= 1.0x", round(times.median, 2) >= 1)

    def slower(self, what: str, ours: list[float], peer: list[float], name: str, most: float) -> None:
        """Add a row for seconds of a step that is to take at most so many times as long as the peer's."""
        times = ratio(ours, peer)
        mine, theirs = (f"{1e3 * spread(seconds).median:.1f} ms" for seconds in (ours, peer))
        self.add(what, mine, f"{theirs}, {name}", f"{times:.3f}x", f"<= {most}x", times.median <= most)

    def turns(self, variants: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
        """Let the variants take turns after one that does not count, until the time is over."""
        names, times, turn = list(variants), {name: [] for name in variants}, -1
        until = float("inf")
        while turn < self.sizes.turns or time.monotonic() < until:
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                seconds = variants[name]()
                if turn >= 0:
                    times[name].append(seconds)
            if turn < 0:
                until = time.monotonic() + self.sizes.seconds
            turn += 1
        return times

    def timed(self, step: Callable[[], Any], steps: int | None = None) -> float:
        """Seconds a call takes."""
        count = steps or self.sizes.steps
        before = clock(self.device)
        for _ in range(count):
            step()
        return (clock(self.device) - before) / count

    def fit(self, task: LightningModule, batch: tuple[Tensor, ...], *callbacks: Callback) -> float:
        """Seconds a step of ``Trainer.fit`` takes, in mixed bfloat16."""
        steps, warmup = self.sizes.steps, self.sizes.warmup
        options = {"warmup": warmup, "device": self.device, "precision": "bf16-mixed", "benchmark": True}
        return time_fit(task, batch, steps, callbacks=callbacks, **options)


def _first_line(error: BaseException) -> str:
    line = f"{type(error).__name__}: {error}".splitlines()[0]
    return line[:120].replace("|", "/")


def needs(package: str) -> str:
    """The version of a package.

    Raises:
        ImportError: It is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"{package} is not installed (pip install {package})")
    return f"{package} {importlib.import_module(package).__version__}"


@contextlib.contextmanager
def arithmetic(device: str, tf32: bool) -> Iterator[None]:
    """Float32 products with 10 bits (TF32), or with all."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def training_step(
    net: Callable[[Tensor], Tensor], parameters: Any, x: Tensor, y: Tensor, device: str, *, bf16: bool = True
) -> Callable[[], Tensor]:
    """A step as one writes it by hand: autocast, cross-entropy of the last axis, fused AdamW."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> Tensor:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
            logits = net(x)
            loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), y.view(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


# The device ------------------------------------------------------------------------------------------------------------


def device_itself(b: Bench) -> None:
    """Its name, and what it can do at best."""
    if b.device == "cuda":
        b.add(f"device: {torch.cuda.get_device_name()}", _driver(), "", f"CUDA {torch.version.cuda}, cuDNN {_cudnn()}")
    n = b.sizes.product
    one, other = (torch.randn(n, n, device=b.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = b.turns({"product": partial(b.timed, lambda: one @ other, 20)})["product"]
    b.product = 2 * n**3 / spread(seconds).median / 1e12
    b.add(f"ceiling: product of {n} x {n} in bfloat16", f"{b.product:.3g} TFLOP/s", "", "")
    source = torch.empty(b.sizes.copy, dtype=torch.uint8, device=b.device)
    target = torch.empty_like(source)
    seconds = b.turns({"copy": partial(b.timed, lambda: target.copy_(source))})["copy"]
    speed = 2 * b.sizes.copy / spread(seconds).median / 1e9
    b.add(f"ceiling: copy of {b.sizes.copy / 1e9:g} GB, read and written", f"{speed:,.0f} GB/s", "", "")


def _driver() -> str:
    ask = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
    try:
        found = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return f"driver unknown, {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB"
    return f"driver {found}"


def _cudnn() -> str:
    return str(torch.backends.cudnn.version())


# Images ----------------------------------------------------------------------------------------------------------------


def images(b: Bench, batch: int, pixels: int) -> tuple[Tensor, Tensor]:
    """A batch on the device, channels last in memory."""
    x = torch.rand(batch, 3, pixels, pixels, device=b.device).contiguous(memory_format=torch.channels_last)
    return x, torch.randint(1000, (batch,), device=b.device)


def ladder(b: Bench) -> None:
    """The same step with one more switch at each rung."""
    x, y = images(b, b.sizes.batch, b.sizes.pixels)
    rungs = ["float32", "tf32", "bfloat16", "channels last", "compiled"]
    before: list[float] = []
    for rung, name in enumerate(rungs):
        net: Any = zoo.create_model(b.sizes.resnet, width=b.sizes.width).net.to(b.device).train()
        layout = torch.channels_last if rung >= 3 else torch.contiguous_format
        run = torch.compile(net.to(memory_format=layout), backend=b.sizes.compiler) if rung >= 4 else net
        with arithmetic(b.device, tf32=rung >= 1):
            batch = x.contiguous(memory_format=layout)
            step = training_step(run, net.parameters(), batch, y, b.device, bf16=rung >= 2)
            b.timed(step, b.sizes.warmup)
            seconds = b.turns({"step": partial(b.timed, step, max(1, b.sizes.steps // 2))})["step"]
        speed = len(x) / spread(seconds).median
        more = spread(before).median / spread(seconds).median if before else 1.0
        what = f"{b.sizes.resnet}, batch {len(x)} at {b.sizes.pixels} px, a plain loop over our net: {name}"
        comparison = f"{more:.2f}x the rung before" if before else ""
        b.add(what, f"{speed:,.0f} images/s", "", comparison, ">= 1.0x" if before else "", not before or more >= 1)
        before = seconds
        del net, run, step
        gc.collect()


def in_trainer(b: Bench, name: str, task: Any, batch: tuple[Tensor, Tensor], twin: nn.Module) -> None:
    """A step of the task in a Trainer, beside the plain loop over the same net."""
    twin.to(b.device).train()
    plain = training_step(lambda x: twin((x - 0.5) / 0.5), twin.parameters(), *batch, b.device)
    b.timed(plain, b.sizes.warmup)
    times = b.turns({"ours": partial(b.fit, task, batch), "plain": partial(b.timed, plain)})
    what = f"{name}, batch {len(batch[0])}, bfloat16: a step of our task in a Trainer"
    b.slower(what, times["ours"], times["plain"], "plain loop over the same net", 1.02)


def beside(b: Bench, name: str, nets: dict[str, tuple[nn.Module, str]], batch: tuple[Tensor, Tensor]) -> None:
    """A plain loop over our net, and the same over others."""
    steps: dict[str, Callable[[], float]] = {}
    for key, (net, _) in nets.items():
        net.to(b.device, memory_format=torch.channels_last).train()
        step = training_step(net, net.parameters(), *batch, b.device)
        b.timed(step, b.sizes.warmup)
        steps[key] = partial(b.timed, step)
    times = b.turns(steps)
    for key, (_, version) in nets.items():
        if key != "ours":
            what = f"{name}, batch {len(batch[0])}, bfloat16: a plain loop over our net"
            b.faster(what, times["ours"], times[key], version, len(batch[0]), "images")


def convolutions(b: Bench) -> None:
    """ResNet in a Trainer, and beside others'."""
    name, batch = b.sizes.resnet, images(b, b.sizes.batch, b.sizes.pixels)
    task, twin = (zoo.create_model(name, width=b.sizes.width) for _ in range(2))
    for model in (task, twin):
        model.net.to(memory_format=torch.channels_last)
    in_trainer(b, f"{name} at {b.sizes.pixels} px", task, batch, twin.net)


def convolutions_of(package: str, b: Bench) -> None:
    """ResNet beside that of one package."""
    version, name = needs(package), b.sizes.resnet
    if package == "torchvision":
        from torchvision import models

        peer = getattr(models, name)()
    else:
        import timm

        peer = timm.create_model(name)
    batch = images(b, b.sizes.batch, b.sizes.pixels)
    beside(
        b, f"{name} at {b.sizes.pixels} px", {"ours": (zoo.create_model(name).net, ""), "peer": (peer, version)}, batch
    )


def vit(b: Bench) -> Any:
    """Ours."""
    s = b.sizes.vit
    sizes = {name: s[name] for name in ("image_size", "patch_size", "num_layers", "num_heads")}
    return zoo.create_model("vit_b_16", **sizes, hidden_dim=s["width"], mlp_dim=4 * s["width"])


def vision_transformer(b: Bench) -> None:
    """ViT in a Trainer."""
    s, batch = b.sizes.vit, images(b, b.sizes.vit_batch, b.sizes.vit["image_size"])
    in_trainer(b, f"ViT-B/{s['patch_size']} at {s['image_size']} px", vit(b), batch, vit(b).net)


def vision_transformer_of(package: str, b: Bench) -> None:
    """ViT beside that of one package."""
    version, s = needs(package), b.sizes.vit
    if package == "torchvision":
        from torchvision.models import VisionTransformer

        sizes = [s[name] for name in ("image_size", "patch_size", "num_layers", "num_heads", "width")]
        peer: nn.Module = VisionTransformer(*sizes, 4 * s["width"])
    else:
        from timm.models import VisionTransformer as Peer

        sizes = {"img_size": s["image_size"], "patch_size": s["patch_size"], "depth": s["num_layers"]}
        peer = Peer(**sizes, num_heads=s["num_heads"], embed_dim=s["width"])
    batch = images(b, b.sizes.vit_batch, s["image_size"])
    name = f"ViT-B/{s['patch_size']} at {s['image_size']} px"
    beside(b, name, {"ours": (vit(b).net, ""), "peer": (peer, version)}, batch)


# Texts -----------------------------------------------------------------------------------------------------------------


class NanoGPT(nn.Module):
    """GPT-2 as one writes it by hand, after github.com/karpathy/nanoGPT: one matrix for the three projections, tied embeddings."""

    def __init__(self, vocab_size: int, width: int, num_layers: int, num_heads: int, max_length: int) -> None:
        super().__init__()
        self.heads = num_heads
        self.tokens, self.places = nn.Embedding(vocab_size, width), nn.Embedding(max_length, width)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width),
                    "qkv": nn.Linear(width, 3 * width),
                    "join": nn.Linear(width, width),
                    "norm2": nn.LayerNorm(width),
                    "up": nn.Linear(width, 4 * width),
                    "down": nn.Linear(4 * width, width),
                }
            )
            for _ in range(num_layers)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        for embedding in (self.tokens, self.places):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``(B, T)`` -> logits ``(B, T, V)``."""
        y = self.tokens(x) + self.places(torch.arange(x.shape[1], device=x.device))
        for layer in self.layers:
            parts = layer["qkv"](layer["norm1"](y)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(*parts, is_causal=True)
            y = y + layer["join"](attended.transpose(1, 2).flatten(2))
            y = y + layer["down"](F.gelu(layer["up"](layer["norm2"](y)), approximate="tanh"))
        return self.head(self.norm(y))


def tokens(b: Bench) -> tuple[Tensor, Tensor]:
    """A batch of random texts on the device, and their next tokens."""
    text = torch.randint(b.sizes.gpt["vocab_size"], (b.sizes.gpt_batch, b.sizes.gpt["max_length"] + 1), device=b.device)
    return text[:, :-1].contiguous(), text[:, 1:].contiguous()


def gpt(b: Bench) -> Any:
    """Ours."""
    return zoo.create_model("gpt2", **b.sizes.gpt, dropout=0.0)


def language_model(b: Bench) -> None:
    """GPT-2 in a Trainer, compiled, beside the loop by hand."""
    s, batch = b.sizes.gpt, tokens(b)
    task, hand = gpt(b), NanoGPT(**s).to(b.device).train()
    count = sum(p.numel() for p in hand.parameters())
    task.net.compile(backend=b.sizes.compiler)
    plain = training_step(torch.compile(hand, backend=b.sizes.compiler), hand.parameters(), *batch, b.device)
    with arithmetic(b.device, tf32=True):
        b.timed(plain, b.sizes.warmup)
        times = b.turns({"ours": partial(b.fit, task, batch), "hand": partial(b.timed, plain)})
    work = batch[0].numel()
    what = f"GPT of {count / 1e6:.3g} M, batch {len(batch[0])} of {s['max_length']} tokens, bfloat16, compiled"
    b.faster(f"{what}: our task in a Trainer", times["ours"], times["hand"], "loop by hand (nanoGPT)", work, "tokens")
    # 6 for each weight, and of attention 12 T for each layer and channel (PaLM, arXiv:2204.02311, appendix B)
    each = 6 * count + 12 * s["num_layers"] * s["width"] * s["max_length"]
    share = each * work / spread(times["ours"]).median / 1e12 / b.product
    b.add(f"{what}: share of the measured product", f"{share:.0%}", "", f"{each / 1e9:.3g} GFLOP a token")


def texts(b: Bench) -> None:
    """Greedy and beam search beside ``transformers.generate``, on the same weights."""
    version = needs("transformers")
    from transformers import GPT2Config, GPT2LMHeadModel, logging

    logging.set_verbosity_error()
    s, (count, length) = b.sizes.gpt, b.sizes.texts
    torch.manual_seed(0)
    names = {"vocab_size": "vocab_size", "n_embd": "width", "n_layer": "num_layers", "n_head": "num_heads"}
    config = GPT2Config(
        **{theirs: s[ours] for theirs, ours in names.items()},
        n_positions=length + 1 + s["max_length"],
        initializer_range=0.15 * (256 / s["width"]) ** 0.5,  # large, so that it does not say the same at each step
        bos_token_id=None,
        eos_token_id=None,
    )
    peer: Any = GPT2LMHeadModel(config).eval().to(b.device)
    sizes = [s[name] for name in ("vocab_size", "width", "num_layers", "num_heads")]
    net = TransformerLM(*sizes, max_length=config.n_positions, feed_forward="gelu_tanh", positions="learned")
    net.load_state_dict(renamed(peer.state_dict()))
    net.to(b.device).eval()
    start = torch.arange(2, 2 + count, device=b.device)
    given = {"attention_mask": torch.ones_like(start[:, None]), "eos_token_id": None, "bos_token_id": None}
    options = {"do_sample": False, "max_new_tokens": length, "pad_token_id": 0, **given}

    def ours(beam: int) -> Tensor:
        state = net.init_state(count)
        if beam == 1:
            return greedy(net, state, start, length).tokens
        return beam_search(net, state, start, length, beam=beam).tokens[:, 0]

    def theirs(beam: int) -> Tensor:
        return peer.generate(start[:, None], num_beams=beam, **options)[:, 1:]

    with torch.no_grad():
        for name, beam in (("greedy search", 1), (f"beam search of {BEAM}", BEAM)):
            same = (ours(beam) == theirs(beam)).all(dim=1).float().mean()
            calls = {
                "ours": partial(b.timed, partial(ours, beam), 1),
                "peer": partial(b.timed, partial(theirs, beam), 1),
            }
            times = b.turns(calls)
            what = f"{name}, GPT-2 of {s['num_layers']} layers of {s['width']}, {count} texts of {length} tokens"
            what = f"{what}, float32, {same:.0%} of the texts the same"
            b.faster(what, times["ours"], times["peer"], f"generate of {version}", count * length, "tokens")


# Parts -----------------------------------------------------------------------------------------------------------------


def augmentation(b: Bench) -> None:
    """Crop, flip and cutout of whole batches, their random numbers drawn on the CPU, as in ``on_after_batch_transfer``."""
    batch = torch.randint(256, (b.sizes.images, 3, 32, 32), dtype=torch.uint8, device=b.device)
    change, number = Augmentation(crop=4, flip=True, cutout=8), iter(range(10**9))

    def step() -> Tensor:
        draws = change.draw(len(batch), (32, 32), generator_for(0, next(number), 2))
        mine = {name: values.to(b.device, non_blocking=True) for name, values in draws.items()}
        return change.apply(batch, mine).float().div_(255)

    seconds = b.turns({"ours": partial(b.timed, step)})["ours"]
    speed = len(batch) / spread(seconds).median
    what = f"augmentation on the device: crop, flip, cutout, 3x32x32, batch {len(batch)}"
    b.add(what, f"{speed:,.0f} images/s", "", "", ">= 2,000,000 images/s", speed >= 2e6)


class PlainAttention(nn.Module):
    """Self-attention as one writes it, with the weights of ours; ``fused`` or by products and a softmax."""

    def __init__(self, ours: MultiHeadAttention, fused: bool) -> None:
        super().__init__()
        self.ours, self.fused = ours, fused

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, D)`` -> the same."""
        o = self.ours
        parts = F.linear(x, o.in_proj_weight, o.in_proj_bias).unflatten(2, (3, o.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = F.scaled_dot_product_attention(*parts, is_causal=True)
        else:
            q, k, v = parts
            later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
            y = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(later, -torch.inf).softmax(-1) @ v
        return o.out_proj(y.transpose(1, 2).flatten(2))


def attention(b: Bench) -> None:
    """Causal self-attention over long texts: time and memory, forward and backward."""
    count, length, width = b.sizes.attention
    ours = MultiHeadAttention(width, b.sizes.gpt["num_heads"]).to(b.device, torch.bfloat16)
    x = torch.randn(count, length, width, device=b.device, dtype=torch.bfloat16, requires_grad=True)
    plain, by_products = PlainAttention(ours, True), PlainAttention(ours, False)
    few = x[:1].detach().requires_grad_()  # by products, one text is enough

    def step(net: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
        return lambda: net(x).sum().backward()

    steps = {"ours": step(lambda x: ours(x, causal=True), x), "plain": step(plain, x)}
    times = b.turns({name: partial(b.timed, one) for name, one in steps.items()})
    what = f"causal self-attention, {count} x {length} x {width}, bfloat16, forward and backward"
    b.slower(f"{what}: time", times["ours"], times["plain"], "projections and SDPA by hand", 1.02)
    if b.device == "cuda":
        peaks = {name: _peak(one) for name, one in steps.items()}
        whole = _peak(step(by_products, few)) * count
        more = peaks["ours"] / peaks["plain"]
        others = f"{peaks['plain']:,.0f} MB, SDPA by hand; {whole:,.0f} MB by products and a softmax"
        b.add(f"{what}: memory", f"{peaks['ours']:,.0f} MB", others, f"{more:.3f}x", "<= 1.02x", more <= 1.02)


def _peak(step: Callable[[], Any]) -> float:
    """MB that a step takes at its peak beyond what is there before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


class NoWaiting(Callback):
    """Makes it an error to wait for the GPU, from the backward pass to the end of the step."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Begin."""
        torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, *_: Any) -> None:
        """End, before other callbacks write rows."""
        torch.cuda.set_sync_debug_mode("default")


def gradient_norm(b: Bench) -> None:
    """What ``GradNorm`` of every step costs."""
    task, batch = gpt(b), tokens(b)

    def times(*callbacks: Callback) -> float:
        return b.fit(task, batch, *callbacks)

    found = b.turns({"with": lambda: times(GradNorm(every_n_steps=1)), "without": times})
    what = f"GPT, batch {len(batch[0])}: a step with the gradient norm, every step"
    b.slower(what, found["with"], found["without"], "without", 1.01)
    if b.device == "cuda":
        try:
            times(NoWaiting(), GradNorm(every_n_steps=1))
            waits = "none"
        except RuntimeError as error:
            waits = _first_line(error)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        b.add("the same: what the CPU waits for from the backward pass on", waits, "", "", "none", waits == "none")


# All -------------------------------------------------------------------------------------------------------------------

ROWS: list[tuple[str, Callable[[Bench], None]]] = [
    ("device", device_itself),
    ("ResNet: our task in a Trainer", convolutions),
    ("ResNet beside torchvision", partial(convolutions_of, "torchvision")),
    ("ResNet beside timm", partial(convolutions_of, "timm")),
    ("GPT: our task in a Trainer", language_model),
    ("greedy and beam search beside transformers", texts),
    ("augmentation on the device", augmentation),
    ("causal self-attention", attention),
    ("gradient norm", gradient_norm),
    ("ResNet: the ladder", ladder),
    ("ViT: our task in a Trainer", vision_transformer),
    ("ViT beside torchvision", partial(vision_transformer_of, "torchvision")),
    ("ViT beside timm", partial(vision_transformer_of, "timm")),
]


def run(device: str = "cuda") -> list[Row]:
    """All rows of this benchmark."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    bench = Bench(device, Sizes() if device == "cuda" else TOY)
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    for what, function in ROWS:
        bench.measure(what, function)
    torch.backends.cudnn.benchmark = before
    return bench.rows
