"""What ``callbacks.GradNorm`` costs when it measures every step."""

from benchmarks.harness import Row, alternate, ratio, spread, time_fit
from benchmarks.step import large
from callbacks import GradNorm


def run(device: str = "cpu") -> list[Row]:
    """The one row of this benchmark."""
    times = alternate(
        {
            "with": lambda: time_fit(*large(), 6, warmup=1, device=device, callbacks=[GradNorm(every_n_steps=1)]),
            "without": lambda: time_fit(*large(), 6, warmup=1, device=device),
        },
        rounds=7,
    )
    slower = ratio(times["with"], times["without"])
    return [
        Row(
            "ResNet-18 at 64 px, batch 32: a step with the gradient norm, every step",
            f"{1e3 * spread(times['with']).median:.1f} ms",
            f"{1e3 * spread(times['without']).median:.1f} ms without",
            f"{slower:.3f}x",
            "<= 1.03x",
            slower.median <= 1.03,
        )
    ]
