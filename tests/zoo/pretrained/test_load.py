"""zoo.load: complete, strict, and safe with files of any origin."""

import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import quiet_trainer
from torch.utils.data import DataLoader, TensorDataset

import zoo
from zoo.pretrained import load_weights


@pytest.fixture
def task() -> zoo.Task:
    task = zoo.create_model("lenet5_relu", width=3, num_classes=4, lr=0.01, class_weight=[1.0, 2.0, 3.0, 4.0])
    task.mean, task.std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 1 / 3])
    task.class_names, task.input_shape = ["a", "b", "c", "d"], (3, 32, 32)
    return task


@pytest.fixture
def folder(task: zoo.Task, tmp_path: Path) -> Path:
    return task.save_pretrained(tmp_path / "model")


@pytest.fixture
def checkpoint(task: zoo.Task, tmp_path: Path) -> Path:
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path)
    data = DataLoader(TensorDataset(torch.rand(4, 3, 32, 32), torch.arange(4)), 4)
    trainer.fit(task, data, data)
    trainer.save_checkpoint(tmp_path / "model.ckpt", weights_only=False)
    return tmp_path / "model.ckpt"


@pytest.mark.parametrize("kind", ["folder", "checkpoint"])
def test_everything_comes_back(kind: str, task: zoo.Task, request: pytest.FixtureRequest) -> None:
    loaded = zoo.load(request.getfixturevalue(kind))
    assert type(loaded) is type(task)
    assert loaded.hparams == task.hparams
    assert loaded.device.type == "cpu"  # and not that of the skeleton it was built on
    assert (loaded.class_names, loaded.input_shape) == (task.class_names, task.input_shape)
    for name, value in task.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert loaded.load_report.complete
    assert all(p.requires_grad for p in loaded.parameters())


def test_the_folder_holds_the_state_dict_and_a_card(task: zoo.Task, folder: Path) -> None:
    from safetensors.torch import load_file

    tensors, state = load_file(folder / "model.safetensors"), task.state_dict()
    assert tensors.keys() == state.keys() >= {"mean", "std", "class_weight", "net.fc3.weight"}
    assert all(torch.equal(tensors[name], value) for name, value in state.items())
    card = (folder / "README.md").read_text()
    assert "LeCun et al. 1998" in card
    assert "a, b, c, d" in card
    config = json.loads((folder / "config.json").read_text())
    assert config["model"] == "lenet5_relu"
    assert config["hparams"] == dict(task.hparams)
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert len({p.stat().st_mode for p in folder.iterdir()}) == 1


def test_a_new_head_is_reported(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"do not fit LeNetClassifier.*net.fc3.weight is \(4, 42\), wanted \(7, 42\).*strict=False"
    ):
        zoo.load(folder, num_classes=7, class_weight=None)
    task = zoo.load(folder, num_classes=7, class_weight=None, strict=False)
    assert task.load_report.reinitialized == ["net.fc3.weight", "net.fc3.bias"]
    assert not any(t.is_meta for t in task.state_dict().values())
    assert task(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert task.class_names is None


def test_other_channels_adapt_the_first_convolution(folder: Path, task: zoo.Task) -> None:
    gray = zoo.load(folder, in_channels=1, strict=False)
    assert gray.load_report.adapted == ["net.conv1.weight"]
    assert gray.input_shape == (1, 32, 32)
    x = torch.rand(2, 1, 32, 32)
    for t in (gray, task):  # a gray image, as it is or on three equal channels, gives the same maps
        t.mean, t.std = torch.zeros(1), torch.ones(1)
    torch.testing.assert_close(gray(x), task(x.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-5)


def test_report_of_a_foreign_state_dict() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    state = {"0.weight": torch.ones(3, 2), "1.weight": torch.ones(2, 2), "extra": torch.ones(1)}
    report = load_weights(net, state, strict=False)
    assert report.loaded == ["0.weight"]
    assert report.reinitialized == ["1.weight"]
    assert report.missing == ["0.bias", "1.bias"]
    assert report.unexpected == ["extra"]
    assert str(report) == "1 tensors loaded; reinitialized: 1.weight; missing: 0.bias, 1.bias; unexpected: extra"
    assert torch.equal(net[0].weight.data, torch.ones(3, 2))
    before = net[0].bias.clone()
    with pytest.raises(ValueError, match="do not fit Sequential"):
        load_weights(net, {**state, "0.bias": torch.zeros(3)})
    assert torch.equal(net[0].bias, before)
    with pytest.raises(ValueError, match="no tensor of the file fits"):
        load_weights(net, {"extra": torch.ones(1)}, strict=False)


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("open('owned', 'w').close()",)


def test_hostile_files_run_nothing(tmp_cwd: Path, checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["lr"] = Evil()
    torch.save(content, "evil.ckpt")
    Path("plain.ckpt").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.ckpt", "plain.ckpt"):
        with pytest.raises(ValueError, match=r"asks to run or import .*exec: refused"):
            zoo.load(name)
    assert not Path("owned").exists()


def test_nothing_is_imported_for_a_file(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["hparams"]["optimizer"] = "evil_module.Optimizer"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"asks for the optimizer 'evil_module.Optimizer' to be imported, which load never does"
    ):
        zoo.load(folder)
    assert zoo.load(folder, optimizer="SGD").hparams["optimizer"] == "SGD"
    config["model"] = "os.system"
    config["hparams"]["optimizer"] = "SGD"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"asks for the net 'os.system' to be imported, which load never does"):
        zoo.load(folder)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_cut_off_files(folder: Path, checkpoint: Path, share: float) -> None:
    for path, what in [
        (checkpoint, checkpoint),
        (folder / "model.safetensors", folder),
        (folder / "config.json", folder),
    ]:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ValueError, match=r"damaged"):
            zoo.load(what)
        path.write_bytes(content)
    zoo.load(folder)


def test_a_flipped_bit_is_noticed(checkpoint: Path, task: zoo.Task) -> None:
    data = bytearray(checkpoint.read_bytes())
    data[data.index(task.net.fc1.weight.detach().numpy().tobytes()) + 1234] ^= 1
    checkpoint.write_bytes(data)
    torch.load(checkpoint, weights_only=True)  # torch loads it silently
    with pytest.raises(ValueError, match="does not match its checksum"):
        zoo.load(checkpoint)


def test_garbage(tmp_path: Path) -> None:
    generator = random.Random(0)
    path = tmp_path / "garbage.ckpt"
    texts = [b"root:x:0:0:root:/root:/bin/bash\n", b"", b"\x80", b"PK\x03\x04", b"(lp0\n.", b"}."]
    for content in [*texts, *(generator.randbytes(50) for _ in range(200))]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"garbage.ckpt (is damaged|is no|holds a|asks)"):
            zoo.load(path)


@pytest.mark.parametrize("state", [{"net.conv1.weight": 3}, {}, "conv1"])
def test_a_checkpoint_without_tensors_is_refused(state: Any, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "forged.ckpt"
    torch.save({**torch.load(checkpoint, weights_only=True), "state_dict": state}, path)
    with pytest.raises(ValueError, match=r"forged\.ckpt (holds no state dict|is no lightning-zoo checkpoint)"):
        zoo.load(path)
    with pytest.raises(ValueError, match=r"forged\.ckpt holds no state dict \(tensors by name\)"):
        zoo.create_model("lenet5_relu", weights=path)


@pytest.mark.parametrize("key", ["zoo", "hyper_parameters"])
def test_a_description_of_another_form_is_refused_or_ignored(key: str, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "forged.ckpt"
    torch.save({**torch.load(checkpoint, weights_only=True), key: ["lenet5"]}, path)
    with pytest.raises(ValueError, match=r"forged\.ckpt is no lightning-zoo checkpoint"):
        zoo.load(path)
    task = zoo.create_model("lenet5_relu", weights=path, width=3, num_classes=4)  # the tensors are all that is needed
    assert task.load_report is not None
    assert task.load_report.complete


def test_no_file_and_no_zoo_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*nothing\.ckpt"):
        zoo.load(tmp_path / "nothing.ckpt")
    with pytest.raises(FileNotFoundError, match=r"has no config.json"):
        zoo.load(tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="is no lightning-zoo checkpoint"):
        zoo.load(tmp_path / "other.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match="holds a list, not a checkpoint"):
        zoo.load(tmp_path / "list.ckpt")


def test_a_class_that_is_not_registered_says_so(tmp_path: Path) -> None:
    class Mine(zoo.ClassificationTask):
        def __init__(self) -> None:
            super().__init__(torch.nn.Linear(2, 3), 3)

    with pytest.raises(ValueError, match="Mine is not registered"):
        Mine().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="was given from outside, so nobody could rebuild it from a folder"):
        zoo.ClassificationTask(torch.nn.Linear(2, 3), 3).save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_run_folder_is_told_where_its_checkpoint_lies(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=r"has no config.json.*: of a run folder give .*checkpoints/best.ckpt"):
        zoo.load(tmp_path)
