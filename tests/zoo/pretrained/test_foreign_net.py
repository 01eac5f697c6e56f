"""A net from outside in a task: trained, saved, and loaded again with the net passed once more."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from kit import quiet_trainer
from lightning.pytorch import LightningDataModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import zoo
from zoo.tasks import ClassificationTask, RegressionTask


class Data(LightningDataModule):
    """Eight images of four classes."""

    num_classes = 4
    input_shape = (3, 32, 32)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(torch.rand(8, 3, 32, 32), torch.arange(8) % 4), 8)

    val_dataloader = train_dataloader


def trainer(folder: Path) -> Trainer:
    return quiet_trainer(max_epochs=1, default_root_dir=folder)


class Several(nn.Module):
    """Returns more than logits."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.mean(dim=(2, 3)), x


def backbone(outputs: int = 4) -> nn.Module:
    return torchvision.models.shufflenet_v2_x0_5(num_classes=outputs)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    task = ClassificationTask(backbone(), 4, lr=0.01)
    before = task.net.fc.weight.clone()
    fit = trainer(tmp_path)
    fit.fit(task, Data())
    assert not torch.equal(task.net.fc.weight, before)
    fit.save_checkpoint(tmp_path / "foreign.ckpt")
    torch.save(task.state_dict(), tmp_path / "state.pth")
    return tmp_path / "foreign.ckpt"


def test_it_reloads_with_its_net(checkpoint: Path) -> None:
    task = ClassificationTask.load_from_checkpoint(checkpoint, net=backbone(), weights_only=True)
    for name, value in torch.load(checkpoint.parent / "state.pth", weights_only=True).items():
        assert torch.equal(task.state_dict()[name], value), name
    assert task.hparams["lr"] == 0.01
    assert task.input_shape == (3, 32, 32)
    assert task.hparams["net"] == "torchvision.models.shufflenetv2.ShuffleNetV2"


def test_without_the_net_the_message_names_it(checkpoint: Path) -> None:
    message = (
        r"a torchvision\.models\.shufflenetv2\.ShuffleNetV2.* given .*from outside, and no file holds a net.*net=net"
    )
    with pytest.raises(
        TypeError, match=r"ClassificationTask was given its net, a torchvision.*load_from_checkpoint\(path, net=net"
    ):
        ClassificationTask.load_from_checkpoint(checkpoint, weights_only=True)
    with pytest.raises(ValueError, match=rf"foreign.ckpt.*{message}|{message}"):
        zoo.load(checkpoint)


def test_a_registered_family_does_not_name_its_net() -> None:
    assert "net" not in zoo.create_model("lenet5").hparams


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            lambda: ClassificationTask(backbone(1000), 4),
            r"ShuffleNetV2 gives \(1000,\) an example, ClassificationTask wants \(4,\)",
        ),
        (lambda: ClassificationTask(nn.Conv2d(3, 4, 3), 4), r"Conv2d gives \(4, 30, 30\) an example"),
        (lambda: ClassificationTask(Several(), 4), r"Several gives tuple an example"),
        (lambda: RegressionTask(backbone(2), 3), r"gives \(2,\) an example, RegressionTask wants \(3,\)"),
    ],
)
def test_a_head_that_does_not_fit_is_refused_before_training(task: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path).fit(task(), Data())
