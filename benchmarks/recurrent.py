"""Recurrent nets beside torch's own modules, and beside a loop over its cells."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Row, alternate, clock, ratio, spread
from zoo.blocks import Recurrent

DEVICES = ("cpu",)
ROUNDS = 11
BATCH, STEPS, SIZE, WIDTH = 32, 64, 32, 128
MODULES: dict[Any, Callable[..., nn.Module]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN}


def step(read: Callable[[Tensor], Tensor], x: Tensor, times: int = 6) -> Callable[[], float]:
    """Seconds of some forward and backward passes."""

    def timed() -> float:
        start = clock()
        for _ in range(times):
            read(x).square().mean().backward()
        return clock() - start

    return timed


def beside_torch(cell: Any, layers: int, bidirectional: bool) -> Row:
    """A training step of whole series: ours, and torch's module of all layers."""
    torch.manual_seed(0)
    net = Recurrent(SIZE, WIDTH, cell, layers, bidirectional)
    theirs = MODULES[cell](SIZE, WIDTH, layers, batch_first=True, bidirectional=bidirectional)
    x = torch.randn(BATCH, STEPS, SIZE)
    times = alternate({"ours": step(lambda x: net(x)[0], x), "torch": step(lambda x: theirs(x)[0], x)}, ROUNDS)
    compared = ratio(times["ours"], times["torch"])
    name = f"{'bidirectional ' if bidirectional else ''}{cell}, {layers} layer{'s' if layers > 1 else ''} of {WIDTH}"
    return Row(
        f"training step, {name}, B{BATCH} T{STEPS}",
        f"{spread(times['ours']).median / 6 * 1e3:.2f} ms",
        f"{spread(times['torch']).median / 6 * 1e3:.2f} ms, torch's module",
        f"{compared:.3f}x",
        "<= 1.05x",
        compared.median <= 1.05,
    )


def padded() -> Row:
    """A training step of series of different lengths: padded, and packed by torch."""
    torch.manual_seed(0)
    net, theirs = Recurrent(SIZE, WIDTH, "lstm"), nn.LSTM(SIZE, WIDTH, batch_first=True)
    x, lengths = torch.randn(BATCH, STEPS, SIZE), torch.randint(STEPS * 3 // 4, STEPS + 1, (BATCH,))
    lengths[0] = STEPS
    pack: Any = nn.utils.rnn.pack_padded_sequence
    unpack: Any = nn.utils.rnn.pad_packed_sequence

    def packed(x: Tensor) -> Tensor:
        outputs, _ = theirs(pack(x, lengths, batch_first=True, enforce_sorted=False))
        padded: Tensor = unpack(outputs, batch_first=True)[0]
        return padded

    times = alternate({"ours": step(lambda x: net(x, lengths)[0], x), "packed": step(packed, x)}, ROUNDS)
    compared = ratio(times["ours"], times["packed"])
    return Row(
        f"training step, lstm of {WIDTH}, lengths {STEPS * 3 // 4} to {STEPS}",
        f"{spread(times['ours']).median / 6 * 1e3:.2f} ms, padded",
        f"{spread(times['packed']).median / 6 * 1e3:.2f} ms, packed",
        f"{compared:.3f}x",
        "none",
        None,
    )


def beside_cells() -> Row:
    """One long series without a batch: ours, and a loop over torch's cell."""
    torch.manual_seed(0)
    steps = 256
    net, cell = Recurrent(SIZE, WIDTH, "lstm"), nn.LSTMCell(SIZE, WIDTH)
    x = torch.randn(1, steps, SIZE)

    def loop(x: Tensor) -> Tensor:
        state, outputs = (x.new_zeros(1, WIDTH), x.new_zeros(1, WIDTH)), []
        for x_t in x.unbind(1):
            state = cell(x_t, state)
            outputs.append(state[0])
        return torch.stack(outputs, dim=1)

    times = alternate({"ours": step(lambda x: net(x)[0], x, 1), "cells": step(loop, x, 1)}, ROUNDS)
    compared = ratio(times["ours"], times["cells"])
    return Row(
        f"training step, lstm of {WIDTH}, B1 T{steps}",
        f"{spread(times['ours']).median * 1e3:.2f} ms",
        f"{spread(times['cells']).median * 1e3:.2f} ms, a loop over nn.LSTMCell",
        f"{compared:.3f}x",
        "<= 0.25x",
        compared.median <= 0.25,
    )


def run(device: str) -> list[Row]:
    """Every row."""
    return [
        *(beside_torch(cell, 1, False) for cell in MODULES),
        beside_torch("lstm", 2, True),
        beside_cells(),
        padded(),
    ]
