"""How long commands take to answer, and a run to its first step, each time in a fresh process, its own start included."""

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.harness import Row, alternate, difference, spread

DEVICES = ("cpu",)
ROUNDS, FITS = 9, 3
HEAVY = {"torch", "lightning"}


def command(*arguments: str) -> str:
    """The source of a process that is ``zoo ARGUMENTS``."""
    return f"""
from recipes.cli.__main__ import main
try:
    code = main({list(arguments)!r})
except SystemExit as end:
    code = end.code
assert not code, code
"""


CASES = {
    "import zoo": ("import zoo", 0.1),
    "zoo --help": (command("--help"), 0.5),
    "zoo --version": (command("--version"), 0.5),
    "zoo recipes": (command("recipes"), 0.5),
}


# The end of a process at the first batch of training, before any step.
AT_FIRST_STEP = """
import os
from lightning.pytorch import Callback
class AtFirstStep(Callback):
    def on_train_batch_start(self, *_):
        os._exit(0)
"""
FIT = command("fit", "-c", "cnn/lenet_digits", "--trainer.callbacks+=at_first_step.AtFirstStep")
STOCK = """
import torch
from at_first_step import AtFirstStep
from lightning.pytorch import LightningModule, Trainer
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

class Digits(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())

digits = load_digits()
data = TensorDataset(torch.tensor(digits.images).float(), torch.tensor(digits.target))
Trainer(callbacks=[AtFirstStep()], max_epochs=1, enable_progress_bar=False).fit(Digits(), DataLoader(data, 64))
"""
IMPORTS = {
    "torch": "import torch",
    "torch, lightning": "import torch, lightning.pytorch",
    "torch, and of what torchmetrics imports torchvision, scipy.signal, matplotlib": (
        "import torch, torchvision, scipy.signal, matplotlib.pyplot"
    ),
}


def start(source: str) -> tuple[float, float, set[str]]:
    """CPU time and wall clock of a fresh interpreter, in seconds, and the heavy modules it has imported at its end."""
    source += f"\nimport sys\nprint(*({HEAVY!r} & sys.modules.keys()), file=sys.stderr)"
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    told = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall, process.returncode = time.perf_counter() - started, os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"a process ended with {process.returncode}: {told}")
    return usage.ru_utime + usage.ru_stime, wall, set(told.split())


def first_step() -> list[Row]:
    """CPU time of a fit until its first step, and what of it are imports."""
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "at_first_step.py").write_text(AT_FIRST_STEP)
        path = f"import sys\nsys.path[:0] = [{here!r}, {folder!r}]\n"
        sources = {"fit": FIT, "stock": STOCK, **IMPORTS}
        os.chdir(folder)  # the runs go there
        try:
            times = alternate({name: lambda s=s: start(path + s)[0] for name, s in sources.items()}, FITS)
        finally:
            os.chdir(here)
    more = difference(times["fit"], times["stock"])
    rows = [
        Row(
            "`zoo fit -c cnn/lenet_digits` until its first step: CPU time",
            f"{spread(times['fit']):.2f} s",
            f"{spread(times['stock']):.2f} s, a script with a bare Trainer and scikit-learn's digits",
            f"+{more:.2f} s",
            "<= +1 s",
            more.median <= 1,
        )
    ]
    return rows + [
        Row(f"of which `import {name}`", "", f"{spread(times[name]):.2f} s", "", "", None) for name in IMPORTS
    ]


def run(device: str = "cpu") -> list[Row]:
    """All rows of this benchmark."""
    walls: dict[str, list[float]] = {name: [] for name in CASES}
    heavy: dict[str, set[str]] = {}

    def timed(name: str) -> float:
        cpu, wall, heavy[name] = start(CASES[name][0])
        walls[name].append(wall)
        return cpu

    times = alternate({name: partial(timed, name) for name in CASES}, ROUNDS)
    rows = []
    for name, (_, limit) in CASES.items():
        cpu, wall = spread(times[name]), spread(walls[name][1:])
        imports = ", ".join(sorted(heavy[name])) or "neither torch nor lightning"
        rows.append(
            Row(
                f"`{name}`: CPU time",
                f"{cpu:.3f} s",
                "",
                f"wall clock {wall:.3f} s; imports {imports}",
                f"< {limit} s, neither torch nor lightning",
                cpu.median < limit and not heavy[name],
            )
        )
    return rows + first_step()
