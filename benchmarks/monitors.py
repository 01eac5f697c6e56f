"""What all monitors together cost when they measure every tenth step; by default they measure with the rows, every 50th."""

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

EVERY = 10


def monitors() -> list[Callback]:
    """All of them, each layer's numbers included."""
    return [
        *(GradNorm(per_layer=True), UpdateRatio(per_layer=True), WeightNorm(per_layer=True), ActivationStats()),
        *(GradientNoiseScale(), Throughput(), DataWait(), PeakMemory()),
    ]


def run(device: str = "cpu") -> list[Row]:
    """The one row of this benchmark; the timed steps have one measurement and its row."""

    def step(*callbacks: Callback) -> float:
        return time_fit(*large(), EVERY, warmup=1, device=device, callbacks=callbacks, log_every_n_steps=EVERY)

    times = alternate({"with": lambda: step(*monitors()), "without": lambda: step()}, rounds=5)
    slower = ratio(times["with"], times["without"])
    return [
        Row(
            f"ResNet-18 at 64 px, batch 32: a step with all monitors, every {EVERY}th step",
            f"{1e3 * spread(times['with']).median:.1f} ms",
            f"{1e3 * spread(times['without']).median:.1f} ms without",
            f"{slower:.3f}x",
            "<= 1.03x",
            slower.median <= 1.03,
        )
    ]
