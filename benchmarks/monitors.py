"""What all monitors together cost, measuring with the rows, every 50th step by default, and every tenth."""

from lightning.pytorch import Callback

from benchmarks.harness import Row, alternate, ratio, spread, time_fit
from benchmarks.step import large
from callbacks import (
    ActivationStats,
    DataWait,
    GradientNoiseScale,
    GradNorm,
    PeakMemory,
    Throughput,
    UpdateRatio,
    WeightNorm,
)

EVERY = 50  # the trainer's default


def monitors() -> list[Callback]:
    """All of them, each layer's numbers included."""
    return [
        *(GradNorm(per_layer=True), UpdateRatio(per_layer=True), WeightNorm(per_layer=True), ActivationStats()),
        *(GradientNoiseScale(), Throughput(), DataWait(), PeakMemory()),
    ]


def run(device: str = "cpu") -> list[Row]:
    """A row for measuring as often as the trainer writes rows by default, and one for five times as often."""
    return [_row(every, rounds, device) for every, rounds in ((EVERY, 3), (EVERY // 5, 5))]


def _row(every: int, rounds: int, device: str) -> Row:
    """The timed steps have one measurement and its row."""

    def step(*callbacks: Callback) -> float:
        return time_fit(*large(), every, warmup=1, device=device, callbacks=callbacks, log_every_n_steps=every)

    times = alternate({"with": lambda: step(*monitors()), "without": lambda: step()}, rounds)
    slower = ratio(times["with"], times["without"])
    is_default = every == EVERY
    return Row(
        f"ResNet-18 at 64 px, batch 32: a step with all monitors, every {every}th step",
        f"{1e3 * spread(times['with']).median:.1f} ms",
        f"{1e3 * spread(times['without']).median:.1f} ms without",
        f"{slower:.3f}x",
        "<= 1.03x" if is_default else "",
        slower.median <= 1.03 if is_default else None,
    )
