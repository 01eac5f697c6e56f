"""The Hugging Face hub, against a stand-in on this machine that speaks its protocol."""

from pathlib import Path

import pytest
import torch
from hub_kit import point_to

import zoo


@pytest.fixture
def task() -> zoo.Task:
    task = zoo.create_model("lenet5_relu", width=2, num_classes=4, lr=0.01)
    task.mean, task.std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 0.125])
    task.class_names = ["a", "b", "c", "d"]
    return task


def test_a_model_is_uploaded_and_loaded(hub: dict[str, dict[str, bytes]], task: zoo.Task) -> None:
    assert task.push_to_hub("me/tiny").endswith("/me/tiny")
    assert sorted(hub["me/tiny"]) == ["README.md", "config.json", "model.safetensors"]
    loaded = zoo.load("me/tiny")
    assert loaded.hparams == task.hparams
    for name, value in task.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    created = zoo.create_model("lenet5_relu", weights="me/tiny")
    assert created.load_report is not None
    assert created.load_report.complete
    assert created.class_names == task.class_names
    assert torch.equal(created.mean, task.mean)


def test_a_repository_that_was_downloaded_once_loads_without_the_hub(
    hub: dict[str, dict[str, bytes]], task: zoo.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    task.push_to_hub("me/tiny")
    zoo.load("me/tiny")
    point_to(monkeypatch, 9)  # nobody listens there
    assert zoo.load("me/tiny").class_names == task.class_names


def test_a_cut_off_download_is_refused(hub: dict[str, dict[str, bytes]], task: zoo.Task) -> None:
    task.push_to_hub("me/tiny")
    hub["me/tiny"]["model.safetensors"] = hub["me/tiny"]["model.safetensors"][:-100]
    with pytest.raises(
        ValueError, match=r"model.safetensors is damaged: its sha256 is .*, expected .*: copy or download it again"
    ):
        zoo.load("me/tiny")


def test_no_such_repository(hub: dict[str, dict[str, bytes]], tmp_cwd: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no repository 'me/nothing'.*hf auth login.*no local folder"):
        zoo.create_model("lenet5", weights="me/nothing")
    hub["me/other"] = {"config.json": b"{}", "model.safetensors": b""}
    with pytest.raises(
        ValueError,
        match=r"config.json is damaged, or not of lightning-zoo \(it has no 'model'\): give the file model.safetensors",
    ):
        zoo.load("me/other")


def test_a_hub_that_cannot_be_reached(
    hub: dict[str, dict[str, bytes]], task: zoo.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_to(monkeypatch, 9)
    with pytest.raises(ConnectionError, match=r"cannot be reached for 'me/tiny'.*or a bundled name \(.*lenet5_digits"):
        zoo.create_model("lenet5", weights="me/tiny")
    with pytest.raises(ConnectionError, match=r"cannot be reached for 'me/tiny'.*save_pretrained"):
        task.push_to_hub("me/tiny")
    with pytest.raises(ValueError, match="is no name of a repository"):
        task.push_to_hub("me/a--b")
