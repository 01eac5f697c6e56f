"""Time and memory of a large CSV file, from the file to the first batch, against plain readers of NumPy and pyarrow.

Peak memory is what a process takes beyond what it held after all imports, pyarrow's included: the median of three processes,
beside the size of features (a column for each category) and target in float32.
"""

import gc
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import compute, csv  # noqa: F401 (imported before memory is measured)

from benchmarks.harness import Row, alternate, clock, peak_memory, spread
from datamodules import CSVDataModule

DEVICES = ("cpu",)
ROWS, COLUMNS = 1_000_000, 10
PEER_ROWS = 100_000  # of NumPy's reader
TIME, MEMORY = 3.0, 3.0  # seconds; times the float32 table
FOLDER = (
    Path(tempfile.gettempdir()) / "lightning-zoo-benchmark"
)  # the process that measures memory reads the same files


def written(categories: int, rows: int) -> Path:
    """Return a file of columns of numbers with six decimals, of which some are texts, and the last is a class."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{rows}x{COLUMNS}_{categories}.csv"
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        file.write(",".join([*(f"x{i}" for i in range(COLUMNS - 1)), "y"]) + "\n")
        for start in range(0, rows, 10_000):
            count = min(10_000, rows - start)
            columns = [[f"{value:.6f}" for value in rng.normal(size=count)] for _ in range(COLUMNS - 1 - categories)]
            columns += [[f"kind {value}" for value in rng.integers(8, size=count)] for _ in range(categories)]
            columns.append([f"{value}" for value in rng.integers(2, size=count)])
            file.writelines(",".join(row) + "\n" for row in zip(*columns, strict=True))
    return path


def ours(path: Path) -> None:
    """Read, split and describe, and take the first batch."""
    data = CSVDataModule(str(path), "y")
    data.prepare_data()
    data.setup("fit")
    next(iter(data.train_dataloader()))


def by_arrow(path: Path) -> None:
    """Read and convert: no split, no statistics, no categories, no checks."""
    csv.read_csv(path, csv.ReadOptions(use_threads=False))


def by_numpy(path: Path) -> None:
    """Read and convert, numbers alone."""
    np.loadtxt(path, np.float32, delimiter=",", skiprows=1)


def timed(read: Callable[[Path], None], path: Path) -> float:
    """Seconds of reading."""
    started = clock()
    read(path)
    seconds = clock() - started
    gc.collect()
    return seconds


def read_numbers(device: str) -> None:
    """Read the file of numbers, in the process whose memory is measured."""
    ours(FOLDER / f"{ROWS}x{COLUMNS}_0.csv")


def read_categories(device: str) -> None:
    """Read the file with two columns of categories."""
    ours(FOLDER / f"{ROWS}x{COLUMNS}_2.csv")


def run(device: str = "cpu") -> list[Row]:
    """All rows of this benchmark."""
    rows = []
    pyarrow.set_cpu_count(1)
    for categories, features, name, in_memory in (
        (0, COLUMNS - 1, "numbers", read_numbers),
        (2, COLUMNS - 3 + 16, "numbers and two columns of 8 categories", read_categories),
    ):
        path = written(categories, ROWS)
        readers = {"ours": partial(timed, ours, path), "arrow": partial(timed, by_arrow, path)}
        if not categories:
            readers["numpy"] = partial(timed, by_numpy, written(0, PEER_ROWS))
        times = alternate(readers, rounds=2)
        peers = [f"{spread(times['arrow']).median:.2f} s for pyarrow to read it, no more"]
        if not categories:
            peers.append(
                f"{spread(times['numpy']).median * ROWS / PEER_ROWS:.1f} s for np.loadtxt, by a tenth of the rows"
            )
        mine = spread(times["ours"])
        what = f"CSV of {ROWS:,} rows of {COLUMNS} columns, {name}: from the file to the first batch"
        rows.append(Row(what, f"{mine:.2f} s", "; ".join(peers), "", f"<= {TIME:g} s", mine.median <= TIME))
        table = (features + 1) * ROWS * 4 / 1e6  # MB, the target included
        peak = statistics.median(peak_memory(in_memory, device) for _ in range(3))
        rows.append(
            Row(
                "the same: peak memory",
                f"{peak:.0f} MB",
                f"{table:.0f} MB, the table in float32",
                f"{peak / table:.2f}x",
                f"<= {MEMORY:g}x",
                peak <= MEMORY * table,
            )
        )
    for file in FOLDER.iterdir():
        file.unlink()
    FOLDER.rmdir()
    return rows
