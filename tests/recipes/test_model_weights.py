"""``--model.weights`` in a recipe or on the command line; a checkpoint needs none."""

from pathlib import Path

import pytest
import torch
from cli_kit import Zoo, assert_one_line

import zoo as package

FIT = ("fit", "-c", "cnn/resnet_digits", "--model.depth=8", "--model.width=4", "--trainer.limit_train_batches=2")


@pytest.fixture
def folder(tmp_cwd: Path) -> Path:
    torch.manual_seed(1)
    task = package.create_model("resnet20", depth=8, width=4, in_channels=1)
    task.mean, task.std = torch.tensor([0.25]), torch.tensor([0.5])
    return task.save_pretrained(Path("start"))


def test_a_fit_starts_from_the_weights_and_its_checkpoint_does_not_need_them(zoo: Zoo, folder: Path) -> None:
    done = zoo(*FIT, "--model.weights=start", "--trainer.max_epochs=1", "--model.lr=1e-9")
    assert done.code == 0, done.err
    run = Path("runs/cnn/resnet_digits/version_0")
    assert "weights: start" in (run / "config.yaml").read_text()
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert "weights" not in checkpoint["hyper_parameters"]
    for name, value in package.load(folder).named_parameters():  # with so small a rate they are still as they were
        torch.testing.assert_close(checkpoint["state_dict"][name], value.detach(), atol=1e-6, rtol=0)
    assert checkpoint["state_dict"]["mean"].tolist() == [0.25]
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert zoo("test", "--ckpt", run).code == 0
    resumed = zoo("fit", "--resume", run, "--trainer.max_epochs=2")
    assert resumed.code == 0, resumed.err
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1


def test_a_checkpoint_does_not_need_the_weights_of_its_encoder(zoo: Zoo, folder: Path) -> None:
    Path("own.yaml").write_text("""
model:
  class_path: zoo.UNetSegmenter
  init_args: {encoder: resnet20, encoder_args: {depth: 8, width: 4}, encoder_weights: start.pt}
data: {class_path: datamodules.ShapesDataModule, init_args: {count: 40, size: 16}}
trainer: {max_epochs: 1, limit_train_batches: 1, limit_test_batches: 1}
""")
    encoder = package.create_model("resnet20", depth=8, width=4, in_channels=3)
    torch.save(encoder.net.state_dict(), "start.pt")
    done = zoo("fit", "-c", "own.yaml")
    assert done.code == 0, done.err
    Path("start.pt").unlink()
    run = Path("runs/own/version_0")
    tested = zoo("test", "--ckpt", run)
    assert tested.code == 0, tested.err
    resumed = zoo("fit", "--resume", run, "--trainer.max_epochs=2")
    assert resumed.code == 0, resumed.err


def test_weights_that_do_not_fit_are_refused(zoo: Zoo, folder: Path) -> None:
    assert_one_line(zoo(*FIT, "--model.weights=start", "--model.width=5"), "width is 4 there and 5 here")
    assert_one_line(
        zoo(*FIT, "--model.weights=resnet20_digit"), "has no weights 'resnet20_digit', did you mean 'resnet20_digits'?"
    )
    Path("evil.pth").write_bytes(b"\x80\x02cos\nsystem\n.")
    assert_one_line(zoo(*FIT, "--model.weights=evil.pth"), "evil.pth", "os.system", "refused")
    assert not Path("runs").exists()


def test_the_class_path_form_takes_a_net_from_outside_and_resumes(zoo: Zoo) -> None:
    Path("own.yaml").write_text("""
model:
  class_path: zoo.ClassificationTask
  init_args:
    net: {class_path: zoo.cnn.LeNet, init_args: {num_classes: 10}}
    lr: 0.01
data: {class_path: datamodules.DigitsDataModule, init_args: {size: 32}}
trainer: {max_epochs: 1, limit_train_batches: 2}
""")
    assert zoo("fit", "-c", "own.yaml").code == 0
    resumed = zoo("fit", "-c", "own.yaml", "--resume", "--trainer.max_epochs=2")
    assert resumed.code == 0, resumed.err
    wrong = zoo("fit", "-c", "own.yaml", "--model.net.init_args.num_classes=7")
    assert_one_line(wrong, "LeNet gives (7,) an example, ClassificationTask wants (10,)", started=True)
