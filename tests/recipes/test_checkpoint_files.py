"""Checkpoint files: the previous one is complete at any time; files that are read are checked."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules import DigitsDataModule
from recipes.cli.errors import MachineError
from recipes.cli.run.checkpoints import AtomicCheckpointIO, Best, load
from zoo import SoftmaxRegressionClassifier, create_model

PATH = Path("checkpoints/last.ckpt")


class Unsavable:
    def __reduce__(self) -> Any:
        raise RuntimeError("cannot be saved")


def saved(path: Path = PATH) -> Any:
    return torch.load(path, weights_only=True)


def test_save_and_load(tmp_cwd: Path) -> None:
    io = AtomicCheckpointIO()
    io.save_checkpoint({"state_dict": {"a": torch.arange(3)}}, PATH)
    assert io.load_checkpoint(PATH)["state_dict"]["a"].tolist() == [0, 1, 2]
    assert os.listdir("checkpoints") == ["last.ckpt"]


@pytest.mark.parametrize("failure", [Unsavable(), KeyboardInterrupt])
def test_a_failure_keeps_the_previous_file_and_leaves_no_other(
    tmp_cwd: Path, failure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    io = AtomicCheckpointIO()
    io.save_checkpoint({"step": 1}, PATH)
    if failure is KeyboardInterrupt:

        def interrupted(descriptor: int) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("os.fsync", interrupted)
        failure = 2
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        io.save_checkpoint({"step": failure}, PATH)
    assert saved() == {"step": 1}
    assert os.listdir("checkpoints") == ["last.ckpt"]


def test_the_new_file_is_complete_before_it_replaces_the_old_one(
    tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is renamed, it is synced and in the same folder: a move between file systems is not atomic. Then the folder is."""
    io = AtomicCheckpointIO()
    io.save_checkpoint({"step": 1}, PATH)
    synced: list[int] = []
    looked = []
    replace = os.replace

    def look(source: Path, target: Path) -> None:
        assert synced == [Path(source).stat().st_ino]
        assert Path(source).parent == Path(target).parent
        assert saved(Path(source)) == {"step": 2}
        assert saved(Path(target)) == {"step": 1}
        replace(source, target)
        looked.append(target)

    monkeypatch.setattr("os.fsync", lambda number: synced.append(os.fstat(number).st_ino))
    monkeypatch.setattr("os.replace", look)
    io.save_checkpoint({"step": 2}, PATH)
    assert looked == [PATH]
    assert saved() == {"step": 2}
    assert synced[1:] == [PATH.parent.stat().st_ino]


def test_a_full_disk_is_a_machine_error(tmp_cwd: Path) -> None:
    import resource

    io = AtomicCheckpointIO()
    io.save_checkpoint({"step": 1}, PATH)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(
            MachineError, match=r"cannot save checkpoints/last.ckpt: File too large; the previous last.ckpt is kept"
        ):
            io.save_checkpoint({"step": torch.zeros(1_000_000)}, PATH)
        with pytest.raises(MachineError, match="there is no earlier one"):
            io.save_checkpoint({"step": torch.zeros(1_000_000)}, Path("checkpoints/best.ckpt"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert saved() == {"step": 1}
    assert os.listdir("checkpoints") == ["last.ckpt"]


def test_a_flipped_bit_is_detected_that_torch_does_not_detect(tmp_cwd: Path) -> None:
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"a": torch.full((1000,), 7.0)}}, PATH)
    data = bytearray(PATH.read_bytes())
    data[data.index(torch.full((1000,), 7.0).numpy().tobytes()) + 1234] ^= 1
    PATH.write_bytes(data)
    torch.load(PATH, weights_only=True)  # not a word
    with pytest.raises(ValueError, match=r"damaged: .*data/0 does not match its checksum"):
        load(PATH)


def test_load_requires_a_state_dict(tmp_cwd: Path) -> None:
    torch.save({"epoch": 1}, "x.ckpt")
    with pytest.raises(ValueError, match=r"x.ckpt is not a Lightning checkpoint: it has no state_dict"):
        load(Path("x.ckpt"))
    with pytest.raises(FileNotFoundError, match=r"none.ckpt"):
        load(Path("none.ckpt"))


def test_check_fits_names_the_first_difference(tmp_cwd: Path) -> None:
    from recipes.cli.errors import UserError
    from recipes.cli.run.checkpoints import check_fits

    model = create_model("lenet5")
    state = model.state_dict()
    check_fits({"state_dict": {**state, "mean": torch.zeros(3)}}, model, PATH)  # filled at the first fit
    for change, words in (
        ({"net.fc3.weight": torch.zeros(7, 84)}, r"net.fc3.weight has shape \(7, 84\) there and \(10, 84\) here"),
        ({"net.new": torch.zeros(1)}, "it has net.new"),
    ):
        with pytest.raises(UserError, match=words):
            check_fits({"state_dict": {**state, **change}}, model, PATH)
    del state["net.fc3.bias"]
    with pytest.raises(UserError, match=r"it lacks net\.fc3\.bias"):
        check_fits({"state_dict": state, "zoo": {"model": "resnet18"}}, model, PATH)


@pytest.mark.slow
def test_a_kill_while_saving_leaves_a_complete_checkpoint(tmp_cwd: Path) -> None:
    script = (
        "import torch; from pathlib import Path; from recipes.cli.run.checkpoints import AtomicCheckpointIO\n"
        "io, step = AtomicCheckpointIO(), 0\n"
        "while True:\n"
        "    step += 1; io.save_checkpoint({'step': step, 'x': torch.full((3_000_000,), step)}, Path('checkpoints/last.ckpt'))\n"
        "    print(step, flush=True)\n"
    )
    for delay in (0.0, 0.03, 0.07):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert process.stdout
        while int(process.stdout.readline()) < 3:
            pass
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        content = saved()
        assert content["step"] >= 3
        assert (content["x"] == content["step"]).all()
        assert set(os.listdir("checkpoints")) <= {"last.ckpt", ".last.ckpt.tmp"}


def test_bare_weights_of_forked_processes_are_read(tmp_path: Path) -> None:
    """Lightning's launcher writes a bare state dict with ``ddp_fork`` and ``ddp_spawn``."""
    path = tmp_path / ".temp.ckpt"
    checkpoints = AtomicCheckpointIO()
    checkpoints.save_checkpoint({"weight": torch.ones(2)}, path)
    assert torch.equal(checkpoints.load_checkpoint(path)["weight"], torch.ones(2))


def test_the_state_of_the_best_is_what_was_saved_also_in_a_folder_that_was_moved(tmp_path: Path) -> None:
    best = Best(tmp_path / "a", "val/acc", "max")
    best.best_model_path = best.kth_best_model_path = str(tmp_path / "a/best.ckpt")
    best.best_model_score = best.current_score = best.kth_value = torch.tensor(0.75)
    best.best_k_models = {best.best_model_path: torch.tensor(0.75)}
    resumed = Best(tmp_path / "b", "val/acc", "max")
    resumed.load_state_dict(best.state_dict())
    assert str(resumed.state_dict()) == str(best.state_dict()).replace(str(tmp_path / "a"), str(tmp_path / "b"))


@pytest.mark.parametrize("validates", [True, False])
def test_a_metric_missing_after_validation_is_an_error_but_not_without_validation(
    tmp_path: Path, validates: bool
) -> None:
    """Lightning's own callback warns on every fit without validation."""
    best = Best(tmp_path, "val/nothing", "max")
    trainer = Trainer(
        callbacks=[best],
        max_epochs=1,
        limit_train_batches=1,
        limit_val_batches=int(validates),
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = DigitsDataModule()
    if validates:
        with pytest.raises(MisconfigurationException, match="val/nothing"):
            trainer.fit(SoftmaxRegressionClassifier(64, 10), data)
    else:
        trainer.fit(SoftmaxRegressionClassifier(64, 10), data)
    assert os.listdir(tmp_path) == []
