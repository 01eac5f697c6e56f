"""Models that are artifacts of Weights & Biases, on a stub of its API: no server was asked."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.pretrained import tracked


class Api:
    """Has one artifact, whose files are in a folder."""

    files: Path
    calls: list[str]
    version = "v3"

    def artifact(self, name: str) -> Any:
        self.calls.append(name)
        if not name.startswith("me/digits/model:"):
            raise ValueError("artifact not found")
        return self

    def download(self, root: str) -> str:
        self.calls.append("download")
        return str(shutil.copytree(self.files, root, dirs_exist_ok=True))


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Api]:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    stub = type("Stub", (Api,), {"files": tmp_path / "files", "calls": []})
    monkeypatch.setattr("wandb.Api", stub)
    return stub


@pytest.mark.parametrize("alias", ["best", "v3"])
def test_a_folder_is_loaded_with_one_call(api: type[Api], tmp_path: Path, alias: str) -> None:
    task = zoo.create_model("lenet5_relu", width=2, num_classes=4)
    task.save_pretrained(api.files)
    loaded = zoo.load(f"wandb://me/digits/model:{alias}")
    assert api.calls == [f"me/digits/model:{alias}", "download"]
    assert (tmp_path / "hub/wandb/me/digits/model/v3/config.json").is_file()
    for name, value in task.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_one_checkpoint_is_found_and_several_are_not_chosen_from(api: type[Api], tmp_path: Path) -> None:
    api.files.mkdir()
    with pytest.raises(ValueError, match=r"must hold one checkpoint .* its checkpoints: none"):
        zoo.load("wandb://me/digits/model:best")
    for name in ("best.ckpt", "last.ckpt"):
        (api.files / name).write_bytes(b"")
        found = tracked.download if name == "best.ckpt" else None
        if found is not None:
            assert found("wandb://me/digits/model:best").name == name
    with pytest.raises(ValueError, match=r"its checkpoints: best.ckpt, last.ckpt"):
        zoo.load("wandb://me/digits/model:best")


@pytest.mark.parametrize(
    "address", ["wandb://model", "wandb://me/digits/model", "wandb://../digits/model:best", "wandb://a/b/c:"]
)
def test_an_address_that_is_none_is_refused_without_a_call(api: type[Api], address: str) -> None:
    with pytest.raises(ValueError, match="give wandb://entity/project/artifact:alias"):
        zoo.load(address)
    assert api.calls == []


def test_no_such_artifact(api: type[Api]) -> None:
    with pytest.raises(FileNotFoundError, match=r"W&B has no artifact me/digits/other:best.*wandb login"):
        zoo.load(Path("wandb://me/digits/other:best"))


def test_no_server(api: type[Api], monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: Api, name: str) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(api, "artifact", lost)
    with pytest.raises(ConnectionError, match=r"W&B cannot be reached for me/digits/model:best.*no route"):
        zoo.load("wandb://me/digits/model:best")


def test_wandb_is_imported_for_its_addresses_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    zoo.create_model("lenet5_relu", width=2).save_pretrained(tmp_path / "model")
    zoo.load(tmp_path / "model")
    with pytest.raises(ImportError, match="needs the package wandb: pip install wandb"):
        zoo.load("wandb://me/digits/model:best")
