"""Our convolutional nets against torchvision's, channels-last memory, bfloat16, and what freezing the lower layers saves."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import zoo
from benchmarks.harness import Row, alternate, clock, peak_memory, ratio, spread

NETS = ("resnet50", "vgg16", "densenet121", "googlenet")
Batch = tuple[Tensor, Tensor]


def batch_of(count: int, size: int, device: str) -> Batch:
    """Random images and labels."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, size, size, generator=g)
    return x.to(device), torch.randint(10, (count,), generator=g).to(device)


def loss_of(output: object, y: Tensor) -> Tensor:
    """Cross-entropy of the logits and of any auxiliary ones."""
    logits = [output] if isinstance(output, Tensor) else list(_flat(output))
    return torch.stack([F.cross_entropy(one, y) for one in logits]).sum()


def _flat(output: object) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else [t for part in output for t in _flat(part)]  # type: ignore[attr-defined]


def build(name: str, ours: bool, device: str) -> nn.Module:
    """The net with 10 classes; torchvision's has our weights."""
    torch.manual_seed(0)
    net = zoo.create_model(name, num_classes=10).net
    if not ours:
        theirs = getattr(torchvision.models, name)(
            num_classes=10, **{"init_weights": False} if name in ("googlenet", "vgg16") else {}
        )
        theirs.load_state_dict(net.state_dict())
        net = theirs
    return net.to(device).train()


def steps(net: nn.Module, batch: Batch, count: int, device: str, bf16: bool = False) -> float:
    """Seconds of a forward and a backward pass."""
    x, y = batch
    started = clock(device)
    for _ in range(count):
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = loss_of(net(x), y)
        net.zero_grad()
        loss.backward()
    return (clock(device) - started) / count


def once(name: str, ours: bool, device: str) -> None:
    """For the peak memory of a fresh process."""
    steps(build(name, ours, device), batch_of(8, 64, device), 2, device)


def against_torchvision(name: str, device: str) -> list[Row]:
    """Time and memory of one net; before that its outputs are compared."""
    ours, theirs = build(name, True, device), build(name, False, device)
    batch = batch_of(8, 64, device)
    equal = torch.equal(ours.eval()(batch[0]), theirs.eval()(batch[0]))
    if not equal:
        raise AssertionError(f"{name} does not give torchvision's logits")
    ours.train(), theirs.train()
    times = alternate(
        {"ours": lambda: steps(ours, batch, 1, device), "theirs": lambda: steps(theirs, batch, 1, device)}, rounds=9
    )
    slower = ratio(times["ours"], times["theirs"])
    what = f"{name} at 64 px, batch 8, equal logits: forward and backward"
    rows = [_row(what, times["ours"], times["theirs"], f"{slower:.3f}x", "<= 1.03x", slower.median <= 1.03)]
    memory = {k: [peak_memory(partial(once, name, k == "ours"), device) for _ in range(2)] for k in ("ours", "theirs")}
    more = ratio(memory["ours"], memory["theirs"])
    mine, peer = (f"{spread(memory[k]).median:.0f} MB" for k in ("ours", "theirs"))
    return [*rows, Row("the same: peak memory", mine, peer, f"{more:.3f}x", "<= 1.05x", more.median <= 1.05)]


def _row(what: str, ours: list[float], peer: list[float], comparison: str, target: str, met: bool) -> Row:
    return Row(
        what, f"{1e3 * spread(ours).median:.0f} ms", f"{1e3 * spread(peer).median:.0f} ms", comparison, target, met
    )


def faster(what: str, variants: dict[str, Callable[[], float]], target: float) -> Row:
    """A row for "ours" and "peer", with how often faster ours is."""
    times = alternate(variants, rounds=7)
    gain = ratio(times["peer"], times["ours"])
    return _row(what, times["ours"], times["peer"], f"{gain:.2f}x", f">= {target}x", gain.median >= target)


def memory_order(device: str) -> list[Row]:
    """Channels last, our default, against the usual order; and with bfloat16, as ``--fast`` adds."""
    rows = []
    x, y = batch_of(128, 32, device)  # the batch of the paper
    usual = build("resnet20", True, device)
    ours = build("resnet20", True, device).to(memory_format=torch.channels_last)
    last = (x.contiguous(memory_format=torch.channels_last), y)
    for what, bf16, target in (
        ("channels last, our default", False, 1.1),
        ("the same and bfloat16, --fast", True, 2.0),
    ):
        rows.append(
            faster(
                f"resnet20 at 32 px, batch 128: {what}, against the usual order",
                {
                    "ours": lambda bf16=bf16: steps(ours, last, 1, device, bf16),  # type: ignore[misc]
                    "peer": lambda: steps(usual, (x, y), 1, device),
                },
                target,
            )
        )
    return rows


def head_only(device: str) -> Row:
    """Fine-tuning the head of a ResNet-18 against fine-tuning all of it."""
    batch = batch_of(16, 64, device)
    variants: dict[str, Callable[[], float]] = {}
    for name, frozen in (("ours", -1), ("peer", 0)):
        task = zoo.create_model("resnet18", num_classes=10).to(device).freeze(frozen).train()
        variants[name] = partial(steps, task.net, batch, 2, device)
    return faster("resnet18 at 64 px, batch 16: training the head alone, against all of it", variants, 2.5)


def run(device: str = "cpu") -> list[Row]:
    """All rows of this benchmark."""
    rows = [row for name in NETS for row in against_torchvision(name, device)]
    return [*rows, *memory_order(device), head_only(device)]
