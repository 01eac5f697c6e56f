"""``zoo check --resume``: what is planted is named with its cure, what resumes exactly passes, and nothing is left behind."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_kit import RECIPE, Zoo, assert_one_line

from recipes.cli.check.one_run import Recorded
from recipes.cli.check.recorder import Record, digest
from recipes.cli.check.resume import Difference, cure_of, described, differences

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")

slow = pytest.mark.slow
OWN = """
import os
import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import datamodules

GLOBAL = np.random.default_rng(0)
Y = torch.arange(48) % 3
X = torch.randn(48, 4, generator=torch.Generator().manual_seed(0)) + Y[:, None]


class Data(datamodules.DataModule):
    input_shape, kind = (4,), "classification"
    num_classes, class_names, has_test = 3, list("abc"), False
    def examples(self, part): return datamodules.Examples(X, Y)


class Shuffled(LightningDataModule):
    def __init__(self):
        super().__init__()
        self.rows = torch.Generator().manual_seed(3)
    def train_dataloader(self):
        return DataLoader(TensorDataset(X, Y), 8, shuffle=True, generator=self.rows)
    def val_dataloader(self):
        return DataLoader(TensorDataset(X, Y), 8)


class Net(LightningModule):
    monitor = ("val/loss", "max")  # the first epoch is the best: no new one follows a resume

    def __init__(self, fault: str = ""):
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.fault = fault
        self.source = np.random.default_rng(1)
        self.calls = 0
        self.noted = 0

    def training_step(self, batch, batch_idx):
        x, y = batch[0], batch[1]
        self.noted = 2  # as soon as it has trained: of no harm
        if self.fault == "generator": x = x + float(self.source.normal())
        if self.fault == "attribute":
            self.calls += 1
            x = x * self.calls
        if self.fault == "global": x = x + float(GLOBAL.normal())
        if self.fault == "urandom": x = x + int.from_bytes(os.urandom(2), "big") / 2**16
        loss = nn.functional.cross_entropy(self.fc(x), y)
        self.log("train/loss", loss, on_step=True, on_epoch=self.fault == "mean", batch_size=len(y))
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", nn.functional.cross_entropy(self.fc(batch[0]), batch[1]), batch_size=len(batch[1]))

    def configure_optimizers(self): return torch.optim.Adam(self.parameters(), 0.01)


class Counting(Callback):
    def __init__(self, unlike: bool = False, refuses: bool = False):
        self.seen, self.unlike, self.refuses = 0, unlike, refuses
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen += len(batch[1])
    def state_dict(self): return {"x": 1} if self.refuses else {}
    def load_state_dict(self, state): raise KeyError("seen is what I want")


class Saved(Callback):
    def __init__(self): self.seen = 0
    def on_train_batch_end(self, *args): self.seen += 1
    def state_dict(self): return {"seen": self.seen}
    def load_state_dict(self, state): self.seen = state["seen"]


class Touching(Callback):
    def on_train_start(self, trainer, pl_module):
        with torch.no_grad(): pl_module.fc.bias.add_(0.5)
"""
TEMPLATE = """
seed_everything: 1
model: {{class_path: {name}.Net, init_args: {{fault: "{fault}"}}}}
data: {{class_path: {name}.{data}}}
trainer: {{max_epochs: 3, callbacks: [{callbacks}]}}
"""


@pytest.fixture
def own(zoo: Zoo, tmp_cwd: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Check a recipe of classes of the user's; return the exit code, and the checks by name."""
    name = f"own_{tmp_cwd.name}".replace("-", "_")
    Path(f"{name}.py").write_text(OWN)
    temporary = tmp_path_factory.mktemp("temporary")  # not the system's, where other tests' folders come and go
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def check(
        fault: str = "", data: str = "Data", callbacks: tuple[str, ...] = ()
    ) -> tuple[int, dict[str, dict[str, Any]]]:
        listed = ", ".join(f"{{class_path: {name}.{callback}" + "}" for callback in callbacks)
        Path("own.yaml").write_text(TEMPLATE.format(name=name, fault=fault, data=data, callbacks=listed))
        before = {*Path().rglob("*"), *temporary.glob("zoo_check_*")}
        result = zoo(
            "check",
            "--resume",
            "-c",
            "own.yaml",
            "--json",
            "--data.batch_size=8" if data == "Data" else "--trainer.max_epochs=3",
        )
        assert not result.err, result.err
        after = {path for path in Path().rglob("*") if "__pycache__" not in path.parts}
        assert {*after, *temporary.glob("zoo_check_*")} == before
        report = json.loads(result.out)
        return result.code, {check["check"]: check for check in report["checks"]}

    return check


@slow
def test_what_resumes_exactly_passes(own: Any) -> None:
    stock = "ModelCheckpoint, init_args: {monitor: val/loss, mode: max, filename: highest}"
    code, checks = own(callbacks=("Saved", stock))
    assert code == 0, checks
    assert {name: check["status"] for name, check in checks.items()} == {
        "uninterrupted": "pass",
        "mid-epoch": "pass",
        "end of an epoch": "pass",
    }
    assert checks["uninterrupted"]["more"] == {"steps": 8, "batches": 8, "epochs": 2}
    assert [checks[name]["more"]["stopped_at"] for name in ("mid-epoch", "end of an epoch")] == [2, 4]


@slow
def test_a_callback_without_state_and_a_private_generator_are_named(own: Any) -> None:
    """Both in one run: the cure is that of the callback, which comes first."""
    code, checks = own("generator", callbacks=("Counting",))
    assert code == 2
    for name, seen, batch in (("mid-epoch", 16, 3), ("end of an epoch", 32, 5)):
        check = checks[name]
        assert check["status"] == "fail"
        assert f"source of your model at batch {batch}" in check["detail"]
        assert f"seen of your callback Counting at batch {batch} ({seen}, resumed 0)" in check["detail"]
        assert f"the loss of batch {batch}" in check["detail"]
        assert "train/loss in metrics.csv" in " ".join(check["more"]["differences"])
        assert "weight" not in check["detail"].partition("the loss")[0]
        assert "Counting needs state_dict and load_state_dict" in check["cure"]
    assert checks["run twice"]["status"] == "pass"


@slow
def test_a_state_that_moves_no_bit_is_a_warning(own: Any) -> None:
    code, checks = own(callbacks=("Counting",))
    assert code == 0
    assert checks["mid-epoch"]["status"] == "warn"
    assert (
        "the same bits, but these differ: seen of your callback Counting at batch 8 (56, resumed 40)"
        in checks["mid-epoch"]["detail"]
    )


@slow
def test_a_mean_over_the_epoch_that_is_begun_anew_is_a_warning(own: Any) -> None:
    """Lightning keeps it in no checkpoint."""
    code, checks = own("mean")
    assert code == 0
    assert checks["mid-epoch"]["status"] == "warn"
    assert checks["mid-epoch"]["more"]["differences"][0].startswith("train/loss_epoch in metrics.csv (")
    assert len(checks["mid-epoch"]["more"]["differences"]) == 1
    assert "self.log(..., on_epoch=True)" in checks["mid-epoch"]["cure"]
    assert checks["end of an epoch"]["status"] == "pass"


@slow
@pytest.mark.parametrize(
    ("fault", "words", "cure"),
    [
        ("generator", "source of your model at batch 3", "a generator's state"),
        ("attribute", "calls of your model at batch 3 (2, resumed 0)", "on_save_checkpoint"),
        ("global", "the loss of batch 3", "something that no file holds"),
    ],
)
def test_a_model_that_draws_or_counts_by_itself(own: Any, fault: str, words: str, cure: str) -> None:
    code, checks = own(fault)
    assert code == 2
    assert checks["mid-epoch"]["status"] == checks["end of an epoch"]["status"] == "fail"
    assert words in checks["mid-epoch"]["detail"]
    assert "noted" not in checks["mid-epoch"]["detail"]
    assert cure in checks["mid-epoch"]["cure"]
    assert checks["run twice"]["status"] == "pass"


@slow
def test_data_with_a_shuffle_of_their_own(own: Any) -> None:
    code, checks = own(data="Shuffled")
    assert code == 2
    assert "the examples of batch 3" in checks["mid-epoch"]["detail"]
    assert "rows of your" not in checks["mid-epoch"]["detail"]  # it has drawn once in both
    assert "a datamodules.DataModule" in checks["mid-epoch"]["cure"]
    assert "rows of your Shuffled at batch 5" in checks["end of an epoch"]["detail"]
    assert "the examples of batch 5" in checks["end of an epoch"]["detail"]


@slow
def test_draws_that_no_seed_repeats_are_told_from_a_broken_resume(own: Any) -> None:
    code, checks = own("urandom")
    assert code == 2
    assert checks["run twice"]["status"] == "fail"
    assert "the loss of batch 1" in checks["run twice"]["detail"]
    assert "deterministic" in checks["run twice"]["cure"]
    assert checks["mid-epoch"]["status"] == "pass"
    assert "but for what differs without a stop, too" in checks["mid-epoch"]["detail"]


@slow
def test_weights_that_are_changed_after_they_are_loaded(own: Any) -> None:
    code, checks = own(callbacks=("Touching",))
    assert code == 2
    assert "fc.bias at batch 3" in checks["mid-epoch"]["detail"]
    assert "fc.weight" not in checks["mid-epoch"]["detail"]
    assert "changed before the first batch" in checks["mid-epoch"]["cure"]


@slow
def test_a_resume_that_fails(own: Any) -> None:
    code, checks = own(callbacks=("Counting, init_args: {refuses: true}",))
    assert code == 2
    assert checks["mid-epoch"]["status"] == "fail"
    assert "stopped after step 2" in checks["mid-epoch"]["detail"]
    assert "seen is what I want" in checks["mid-epoch"]["detail"]


FAMILIES = {
    "trained by hand, with EMA": ("gan/gan_grid",),
    "frozen layers, with EMA": (
        "cnn/lenet_digits",
        "--trainer.callbacks=[{class_path: callbacks.LayerFreezing, init_args: {train: head, milestones: {1: all}}},"
        " {class_path: callbacks.EMA, init_args: {decay: 0.9}}]",
    ),
    "carried state": ("recurrent/text_file", "--model.width=16", "--data.batch_size=4"),
    "one batch an epoch": ("linear/softmax_digits_lbfgs",),
    "accumulated, workers": ("linear/mlp_digits", "--trainer.accumulate_grad_batches=2", "--data.num_workers=2"),
    "two processes": (RECIPE, "--trainer.devices=2", "--data.batch_size=16"),
    "one process and a long warm-up": (
        "linear/mlp_digits",
        "--trainer.callbacks=[{class_path: callbacks.LRSchedule, init_args: {schedule: cosine, warmup: 100}}]",
    ),
}


@slow
@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_the_zoo_pass(zoo: Zoo, family: str) -> None:
    Path("text.txt").write_text("".join(f"{i} times {i % 7} is {i * (i % 7)}.\n" for i in range(200)))
    torch.cuda.is_available()  # asked before processes are forked that fork, as a session in a notebook may have
    result = zoo("check", *FAMILIES[family], "--resume")
    assert result.code == 0, result.out
    assert " 0 warn, 0 fail" in result.out
    assert ("2 processes" in result.out) is (family == "two processes")
    assert ("an epoch has one step" in result.out) is (family == "one batch an epoch")
    assert sorted(os.listdir()) == ["text.txt"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), ("no recipe given",)),
        ((RECIPE, "--trainer.enable_checkpointing=false"), ("nothing can be resumed", "leave it out")),
        ((RECIPE, "--model.lr=often"), ("model.lr must be a number, got often",)),
        ((RECIPE, "--modle.lr=1"), ("--modle.lr",)),
        ((RECIPE, "--trainer.gradient_clip_val=-1"), ("gradient_clip_val",)),
    ],
    ids=str,
)
def test_what_cannot_be_proved_is_refused(zoo: Zoo, args: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line(zoo("check", *args, "--resume"), *words)
    assert os.listdir() == []


def test_digests_tell_each_bit() -> None:
    values = [
        *(
            torch.tensor([0.0]),
            torch.tensor([-0.0]),
            torch.tensor([0.0, 0.0]),
            torch.tensor([0.0], dtype=torch.float64),
        ),
        *(torch.zeros((), dtype=torch.bfloat16), torch.zeros(1, dtype=torch.bool), np.zeros(1), np.zeros((1, 1))),
        *(0, 0.0, -0.0, False, None, "0", b"0", [0], [[0]], [0, 0], {"0": 0}, {"a": [0]}, {"a": 0}, [], {}),
    ]
    digests = [digest(value) for value in values]
    same = {(i, j) for i, a in enumerate(digests) for j, b in enumerate(digests) if i < j and a == b}
    shown = {(repr(values[i]), repr(values[j])) for i, j in same}
    assert shown == {("[0]", "{'0': 0}"), ("[]", "{}")}
    transposed = torch.arange(6.0).view(2, 3).T
    assert digest(transposed) == digest(transposed.contiguous())
    assert digest((torch.ones(2),)) == digest([torch.ones(2)])


def test_differences_in_the_users_terms() -> None:
    texts = [
        described(Difference("optimizer", "exp_avg of net.fc.weight", 6), "datamodules.X"),
        described(Difference("generator", "torch", 6), "X"),
        described(Difference("row", "train/loss", -1, ("0.5 at step 3", "0.6")), "X"),
        described(Difference("saved", "callbacks.EMA.decay", -1), "X"),
        described(Difference("weight", "fc.bias", -1), "X"),
    ]
    assert texts == [
        "the optimizer's exp_avg of net.fc.weight at batch 7",
        "torch's global generator at batch 7",
        "train/loss in metrics.csv (0.5 at step 3, resumed 0.6)",
        "EMA.decay of the callbacks in the checkpoint",
        "fc.bias at the end",
    ]


def recorded(changes: dict[tuple[int, str, str], Any], rows: tuple[str, ...] = ("0.5", "0.4")) -> Recorded:
    """Four batches of one process, each kind with one name, but for some changes."""
    kinds = ("examples", "generator", "model", "callback", "data", "weight", "optimizer", "schedule", "loss")
    records: dict[int, Record] = {b: {kind: {"x": (str(b), "")} for kind in kinds} for b in range(4)}
    end: Record = {"weight": {"x": "end"}, "saved": {"loops.x": "end"}}
    for (batch, kind, name), value in changes.items():
        (end if batch < 0 else records[batch]).setdefault(kind, {})[name] = value
    steps, epochs = {b: b + 1 for b in range(4)}, {b: b // 2 for b in range(4)}
    return Recorded([records], steps, epochs, [end], [{"step": str(i), "loss": row} for i, row in enumerate(rows)])


@pytest.mark.parametrize(
    ("changes", "rows", "found", "cure"),
    [
        ({}, ("0.5", "0.4"), [], ""),
        # the first batch alone is told, in the order in which one leads to the next
        (
            {(2, "loss", "x"): 1, (2, "examples", "x"): 1, (3, "weight", "x"): 1, (-1, "weight", "x"): 1},
            ("0.5", "0.4"),
            [("examples", "x", 2), ("loss", "x", 2)],
            "the loader begins otherwise",
        ),
        # an attribute that is the same at the end was only not set yet
        ({(1, "model", "x"): ("y", ""), (2, "loss", "x"): 1}, ("0.5", "0.4"), [("loss", "x", 2)], "no file holds"),
        (
            {(b, "model", "x"): ("y", "") for b in (1, 2, 3)} | {(2, "loss", "x"): 1},
            ("0.5", "0.4"),
            [("model", "x", 1), ("loss", "x", 2)],
            "register_buffer",
        ),
        ({(1, "data", "x"): ("y", "")}, ("0.5", "0.4"), [], ""),
        ({(3, "callback", "C.x"): ("y", "")}, ("0.5", "0.4"), [("callback", "C.x", 3)], "your callback C needs"),
        ({(1, "generator", "x"): 1}, ("0.5", "0.4"), [("generator", "x", 1)], "draws from it"),
        ({(1, "schedule", "x"): 1}, ("0.5", "0.4"), [("schedule", "x", 1)], "changed before the first batch"),
        ({}, ("0.5", "0.3"), [("row", "loss", -1)], "on_epoch=True"),
        ({}, ("0.5",), [("row", "number of rows", -1)], "on_epoch=True"),
        ({(-1, "saved", "loops.x"): 1}, ("0.5", "0.4"), [("saved", "loops.x", -1)], "what is saved"),
    ],
)  # fmt: skip
def test_the_most_telling_differences(
    changes: dict[tuple[int, str, str], Any], rows: tuple[str, ...], found: list[tuple[str, str, int]], cure: str
) -> None:
    told = differences(recorded({}), recorded(changes, rows))
    assert [(difference.kind, difference.name, difference.batch) for difference in told] == found
    if cure:
        assert cure in cure_of(told)
