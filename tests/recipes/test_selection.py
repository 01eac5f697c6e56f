"""The best checkpoint is the best one, and whatever uses a run uses it.

A module of the user's own logs scores that are given, so the best validation is known. A callback of the user's own writes the
weights that each validation and each test is made with, so its weights are known, too.
"""

import csv
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cli_kit import Result, Zoo, assert_one_line
from kit import Patterns, PatternTask, quiet_trainer
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import zoo as library
from datamodules import DigitsDataModule
from recipes.cli.run.checkpoints import Best, Last

OWN = """
from pathlib import Path

import torch
import zoo
from lightning.pytorch import Callback


class Scripted(zoo.SoftmaxRegressionClassifier):
    def __init__(self, scores: list, best: str = "max", num_classes: int = 10, in_features: int = 64, **task):
        super().__init__(num_classes=num_classes, in_features=in_features, **task)

    @property
    def monitor(self):
        return "val/score", self.hparams["best"]

    def on_validation_epoch_end(self):
        super().on_validation_epoch_end()
        self.log("val/score", self.hparams["scores"][self.current_epoch], batch_size=1, sync_dist=True)


zoo.register("scripted", Scripted)


class Record(Callback):
    def write(self, trainer, module, number, name):
        if number == 0 and trainer.is_global_zero and not trainer.sanity_checking:
            Path("seen").mkdir(exist_ok=True)
            torch.save(module.state_dict(), f"seen/{name}.pt")

    def on_validation_batch_start(self, trainer, module, batch, number, dataloader_idx=0):
        self.write(trainer, module, number, module.current_epoch if trainer.state.fn == "fit" else "validated")

    def on_test_batch_start(self, trainer, module, batch, number, dataloader_idx=0):
        self.write(trainer, module, number, "tested")
"""
RUN = Path("runs/mine/version_0")
SCORES = [0.25, 0.875, 0.125, 0.5]  # neither the first nor the last is the largest, or the smallest


@pytest.fixture
def own(tmp_cwd: Path) -> None:
    Path("scripted_scores.py").write_text(OWN)


def fit(zoo: Zoo, *args: str, callbacks: Sequence[str] = (), **model: Any) -> Result:
    names = ["scripted_scores.Record", "callbacks.ModelFolder", *callbacks]
    recipe = {
        "seed_everything": 0,
        "model": {"class_path": "scripted_scores.Scripted", "init_args": {"scores": SCORES, "lr": 0.05, **model}},
        "data": {"class_path": "datamodules.DigitsDataModule"},
        "trainer": {
            "max_epochs": 4,
            "limit_train_batches": 3,
            "limit_val_batches": 1,
            "limit_test_batches": 1,
            "callbacks": [{"class_path": name} for name in names],
        },
    }
    Path("mine.yaml").write_text(yaml.safe_dump(recipe))
    result = zoo("fit", "mine.yaml", *args)
    assert result.code == 0, result.err
    return result


def read(path: Path | str) -> dict[str, Tensor]:
    content = torch.load(path, weights_only=True)
    weights: dict[str, Tensor] = content.get("state_dict", content)
    return weights


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def assert_kept(best: int) -> None:
    """Assert that the files of the run and the test at its end have the weights of an epoch."""
    wanted = read(f"seen/{best}.pt")
    assert not same(wanted, read("seen/3.pt"))
    assert same(read(RUN / "checkpoints/best.ckpt"), wanted)
    assert same(read("seen/tested.pt"), wanted)
    assert same(library.load(str(RUN / "model")).state_dict(), wanted)


def assert_used(zoo: Zoo, best: int) -> None:
    """Assert that the verbs that take a run use the weights of an epoch."""
    wanted, other = read(f"seen/{best}.pt"), read("seen/3.pt")
    for args in (("test", RUN), ("test", "mine.yaml"), ("validate", RUN)):
        name = Path("seen", f"{'validated' if args[0] == 'validate' else 'tested'}.pt")
        name.unlink(missing_ok=True)
        assert zoo(*args).code == 0
        assert same(read(name), wanted)

    data = DigitsDataModule()
    data.setup("test")
    x = data._parts["test"].x[5]
    Image.fromarray(x[0].numpy()).save("digit.png")
    result = zoo("predict", RUN, "digit.png", "--json", "--top", "10")
    (row,) = json.loads(result.out)
    found = torch.tensor([each["probability"] for each in sorted(row["top"], key=lambda each: each["label"])])

    def by_hand(weights: dict[str, Tensor]) -> Tensor:
        inputs = (x.double().flatten() / 255 - weights["mean"].double()) / weights["std"].double()
        return (weights["net.fc.weight"].double() @ inputs + weights["net.fc.bias"].double()).softmax(0).float()

    torch.testing.assert_close(found, by_hand(wanted), atol=1e-5, rtol=0)
    assert (found - by_hand(other)).abs().max() > 1e-3
    assert zoo("export", RUN, "-o", "model.safetensors").code == 0
    assert torch.equal(load_file("model.safetensors")["net.fc.weight"], wanted["net.fc.weight"])


@pytest.mark.parametrize(("mode", "best"), [("max", 1), ("min", 2)])
def test_all_that_follows_a_fit_uses_the_best(zoo: Zoo, own: None, mode: str, best: int) -> None:
    result = fit(zoo, best=mode)
    assert re.search(rf"best val/score +{SCORES[best]:.4f}\n", result.out)
    assert re.search(r"test/acc +0\.\d+ \(best\.ckpt\)\n", result.out)
    rows = [row for row in csv.DictReader((RUN / "metrics.csv").read_text().splitlines()) if row["val/score"]]
    assert [float(row["val/score"]) for row in rows] == SCORES
    losses = [float(row["val/loss"]) for row in rows]
    assert best not in (losses.index(min(losses)), losses.index(max(losses)))  # it is this metric that decides
    assert_kept(best)
    assert_used(zoo, best)


@pytest.mark.parametrize(
    ("scores", "best"), [pytest.param(SCORES, 1, marks=pytest.mark.slow), ([0.25, 0.125, 0.875, 0.5], 2)]
)
def test_the_best_before_and_after_a_resume(zoo: Zoo, own: None, scores: list[float], best: int) -> None:
    fit(zoo, "--trainer.max_epochs=2", scores=scores)
    shutil.move("runs", "moved")
    result = zoo("fit", "--resume", Path("moved", *RUN.parts[1:]), "--runs", "moved", "--trainer.max_epochs=4")
    assert result.code == 0, result.err
    assert "resumes at step 6" in result.out  # from the last, not from the best
    shutil.move("moved", "runs")
    assert re.search(r"best val/score +0\.8750\n", result.out)
    assert_kept(best)


def test_the_average_that_was_evaluated_is_the_best(zoo: Zoo, own: None) -> None:
    fit(zoo, callbacks=["callbacks.EMA"])
    assert_kept(1)
    saved = torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)
    assert not torch.equal(saved["ema"]["other"]["net.fc.weight"], saved["state_dict"]["net.fc.weight"])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_several_processes_agree_on_the_best(zoo: Zoo, own: None) -> None:
    fit(zoo, "--trainer.devices=2", "--trainer.strategy=ddp_fork")
    assert_kept(1)


def test_the_last_good_checkpoint_of_a_run_that_fails_is_the_last(zoo: Zoo, own: None) -> None:
    path = Path("scripted_fails.py")
    path.write_text(
        "from lightning.pytorch import Callback\n\n\nclass Fails(Callback):\n"
        "    def on_train_batch_start(self, trainer, *rest):\n"
        "        if trainer.current_epoch == 3:\n            raise FloatingPointError('the loss is nan')\n"
    )
    fit(zoo, "--trainer.max_epochs=1")
    result = zoo("fit", "mine.yaml", "--trainer.callbacks+=scripted_fails.Fails")
    assert_one_line(
        result, "the loss is nan", "the last good checkpoint is runs/mine/version_1/checkpoints/last.ckpt", started=True
    )
    assert torch.load("runs/mine/version_1/checkpoints/last.ckpt", weights_only=True)["epoch"] == 2


# When validation runs, and what it logs ---------------------------------------------------------------------------------


class Scores(Callback):
    """Logs scores, one for each validation, and keeps the weights that each is made with."""

    def __init__(self, scores: Sequence[float]) -> None:
        self.scores = scores
        self.weights: list[dict[str, Tensor]] = []

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("val/score", self.scores[len(self.weights)], batch_size=1)
        self.weights.append({name: value.clone() for name, value in pl_module.state_dict().items()})


NAN = float("nan")


@pytest.mark.parametrize(
    ("when", "scores", "mode", "best"),
    [
        ({"max_epochs": 4}, [0.1, 0.9, 0.9, 0.2], "max", 1),  # of equal ones the first
        ({"max_epochs": 4}, [0.9, 0.1, 0.1, 0.2], "min", 1),
        ({"max_epochs": 4}, [NAN, 0.9, 0.1, NAN], "max", 1),
        ({"max_epochs": 4}, [NAN, 0.9, 0.1, NAN], "min", 2),
        ({"max_epochs": 4}, [-0.5, -0.1, -0.9, -0.3], "max", 1),
        ({"max_epochs": 8, "check_val_every_n_epoch": 2}, [0.3, 0.9, 0.1, 0.5], "max", 1),
        ({"max_epochs": 2, "val_check_interval": 0.4}, [0.3, 0.1, 0.9, 0.5], "max", 2),
        (
            {"max_epochs": 2, "val_check_interval": 1, "limit_train_batches": 2},
            [0.3, 0.1, 0.9, 0.5],
            "max",
            2,
        ),  # a number of batches
        ({"max_steps": 12, "val_check_interval": 3, "check_val_every_n_epoch": None}, [0.3, 0.9, 0.1, 0.5], "max", 1),
    ],
    ids=str,
)
def test_best_of_a_script(tmp_path: Path, when: dict[str, Any], scores: list[float], mode: str, best: int) -> None:
    seed_everything(0, verbose=False)
    script = Scores(scores)
    trainer = quiet_trainer(script, Best(tmp_path, "val/score", mode), **when)
    trainer.fit(PatternTask(), datamodule=Patterns())
    assert len(script.weights) == 4
    assert same(read(tmp_path / "best.ckpt"), script.weights[best])
    assert not any(same(script.weights[i], script.weights[i + 1]) for i in range(3))


def test_the_last_is_that_of_every_epoch_whenever_validation_runs(tmp_path: Path) -> None:
    script = Scores([0.5])
    trainer = quiet_trainer(script, Last(tmp_path), max_epochs=3, check_val_every_n_epoch=2, limit_train_batches=2)
    task = PatternTask()
    trainer.fit(task, datamodule=Patterns())
    assert len(script.weights) == 1
    assert same(read(tmp_path / "last.ckpt"), task.state_dict())
