"""Files that version 0.1.0 wrote still load, and give the outputs that they gave then."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from kit import quiet_trainer
from torch import Tensor

import zoo
from datamodules import DigitsDataModule

FILES = Path(__file__).parents[1] / "fixtures" / "v0_1_0"
OUTPUTS = {name: torch.tensor(values) for name, values in json.loads((FILES / "outputs.json").read_text()).items()}
pytestmark = pytest.mark.filterwarnings("ignore:.*was not checked for damage")
INPUTS = {
    "lenet5.ckpt": torch.linspace(0, 1, 2 * 32 * 32).view(2, 1, 32, 32),
    "mlp_regression": torch.linspace(-0.1, 0.1, 20).view(2, 10),
}


def outputs(model: zoo.Model, name: str) -> Tensor:
    with torch.no_grad():
        return model.eval()(INPUTS[name])


@pytest.mark.parametrize("name", INPUTS)
def test_old_files_load_with_equal_outputs(name: str) -> None:
    torch.testing.assert_close(outputs(zoo.load(FILES / name), name), OUTPUTS[name], rtol=1e-6, atol=1e-6)


def test_an_old_checkpoint_keeps_its_state() -> None:
    model = zoo.load(FILES / "lenet5.ckpt")
    assert model.frozen == 1
    assert model.class_names == [str(digit) for digit in range(10)]
    assert (model.get_buffer("class_weight") != 1).any()
    again = type(model).load_from_checkpoint(FILES / "lenet5.ckpt", weights_only=True)
    torch.testing.assert_close(outputs(again, "lenet5.ckpt"), OUTPUTS["lenet5.ckpt"], rtol=1e-6, atol=1e-6)


def test_an_old_checkpoint_is_resumed() -> None:
    torch.manual_seed(0)
    task = zoo.create_model(
        "lenet5", width=1, class_weight="balanced", optimizer="SGD", optimizer_args={"momentum": 0.9}
    )
    trainer = quiet_trainer(max_epochs=2, limit_train_batches=4, limit_val_batches=1)
    trainer.fit(task, DigitsDataModule(size=32), ckpt_path=FILES / "lenet5.ckpt", weights_only=True)
    assert trainer.global_step == 8
    assert task.frozen == 1


@pytest.mark.parametrize("name", INPUTS)
def test_old_files_are_weights(name: str) -> None:
    arguments = {"lenet5.ckpt": ("lenet5", {"width": 1}), "mlp_regression": ("mlp_regression", {"widths": [4]})}
    model, sizes = arguments[name]
    started = zoo.create_model(model, weights=str(FILES / name), **sizes)
    torch.testing.assert_close(outputs(started, name), OUTPUTS[name], rtol=1e-6, atol=1e-6)


def test_an_old_folder_is_written_anew(tmp_path: Path) -> None:
    shutil.copytree(FILES / "mlp_regression", tmp_path / "model")
    zoo.load(tmp_path / "model").save_pretrained(tmp_path / "model")
    assert "buffers" not in json.loads((tmp_path / "model" / "config.json").read_text())
    again = zoo.load(tmp_path / "model")
    torch.testing.assert_close(outputs(again, "mlp_regression"), OUTPUTS["mlp_regression"], rtol=1e-6, atol=1e-6)
