"""Truncated backpropagation through time: what a step keeps in memory after a long text, and its time beside layers of torch."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import Row, alternate, clock, ratio, spread
from datamodules import Segment
from zoo import RecurrentLanguageModel

DEVICES = ("cpu",)
ROUNDS = 9
VOCABULARY, WIDTH, LANES, LENGTH, SEGMENTS = 75, 128, 12, 64, 64
STEPS = 10  # timed at once


def segments(count: int, length: int = LENGTH) -> Iterator[tuple[Segment, Tensor]]:
    """Lanes of random tokens, segment by segment."""
    g = torch.Generator().manual_seed(0)
    text = torch.randint(VOCABULARY, (LANES, count * length + 1), generator=g)
    for i in range(count):
        part = text[:, i * length : (i + 1) * length + 1]
        yield Segment(part[:, :-1], torch.full((LANES,), i == 0)), part[:, 1:]


def model() -> RecurrentLanguageModel:
    """A GRU."""
    torch.manual_seed(0)
    return RecurrentLanguageModel(VOCABULARY, "gru", width=WIDTH)


def kept(count: int, length: int = LENGTH) -> int:
    """Bytes that the last of some segments keeps for its backward pass, all that its loss depends on."""
    task, sizes = model(), [0]

    def pack(x: Tensor) -> Tensor:
        sizes[0] += x.numel() * x.element_size()
        return x

    loss = torch.zeros(())
    for batch in segments(count, length):
        sizes[0] = 0
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            task._before = task._after  # as at the start of a batch of a fit
            loss = task.training_losses(batch)[0]
    loss.backward()
    return sizes[0]


def memory() -> Row:
    """What a step keeps after a long text."""
    first, last, whole = kept(1), kept(SEGMENTS), kept(1, SEGMENTS * LENGTH)
    return Row(
        f"GRU of {WIDTH}, {LANES} rows: kept for the gradient of {LENGTH} tokens after {(SEGMENTS - 1) * LENGTH:,} others",
        f"{last / 2**20:.2f} MiB",
        f"{first / 2**20:.2f} MiB, as the first tokens; {whole / 2**20:.1f} MiB, all {SEGMENTS * LENGTH:,} at once",
        f"{last / first:.2f}x",
        "<= 1x",
        last <= first,
    )


def ours() -> Callable[[], float]:
    """Steps of the task, without a trainer."""
    task, batches = model(), list(segments(SEGMENTS))
    optimizer: Any = task.configure_optimizers()

    def step(batch: tuple[Segment, Tensor]) -> None:
        task._before = task._after
        optimizer.zero_grad()
        task.training_losses(batch)[0].backward()
        optimizer.step()

    return partial(timed, step, batches)


def plain() -> Callable[[], float]:
    """The same by layers of torch."""
    torch.manual_seed(0)
    embedding = nn.Embedding(VOCABULARY, WIDTH)
    gru, fc = nn.GRU(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, VOCABULARY)
    parameters = [*embedding.parameters(), *gru.parameters(), *fc.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)
    states = [torch.zeros(1, LANES, WIDTH)]

    def step(batch: tuple[Segment, Tensor]) -> None:
        (tokens, _), y = batch
        optimizer.zero_grad()
        outputs, state = gru(embedding(tokens), states[0])
        states[0] = state.detach()
        F.cross_entropy(fc(outputs).flatten(0, 1), y.flatten()).backward()
        optimizer.step()

    return partial(timed, step, list(segments(SEGMENTS)))


def timed(step: Callable[[Any], None], batches: list[Any]) -> float:
    """Time of some steps."""
    started = clock()
    for batch in batches[:STEPS]:
        step(batch)
    return clock() - started


def run(device: str = "cpu") -> list[Row]:
    """All rows of this benchmark."""
    torch.set_num_threads(1)
    times = alternate({"ours": ours(), "plain": plain()}, ROUNDS)
    slower = ratio(times["ours"], times["plain"])
    milliseconds = {name: f"{1e3 * spread(values).median / STEPS:.1f} ms" for name, values in times.items()}
    return [
        memory(),
        Row(
            f"training step of the same net, {LANES} x {LENGTH} tokens, the state carried on",
            milliseconds["ours"],
            f"{milliseconds['plain']}, layers of torch",
            f"{slower:.2f}x",
            "<= 1.1x",
            slower.median <= 1.1,
        ),
    ]
