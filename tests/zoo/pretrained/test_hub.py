"""The Hugging Face hub, against a stand-in on this machine that speaks its protocol."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

import zoo

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Serves repositories of one commit each."""

    repositories: dict[str, dict[str, bytes]]

    def answer(self, content: Any, code: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        api = parts[0] == "api"
        name = "/".join(parts[2:4] if api else parts[:2])
        files = self.repositories.get(name)
        if files is None:
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif api and parts[4] == "tree":
            entries = [("file", k, len(v), hashlib.sha1(v).hexdigest()) for k, v in files.items()]
            self.answer([dict(zip(("type", "path", "size", "oid"), entry, strict=True)) for entry in entries])
        elif api:
            self.answer({"id": name, "sha": SHA, "siblings": [{"rfilename": k} for k in files]})
        else:
            content = files[parts[-1]]
            self.answer(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=SHA)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/api/repos/create":
            request = json.loads(body)
            name = f"{request['organization']}/{request['name']}"
            self.repositories.setdefault(name, {})
            self.answer({"url": f"{constants.ENDPOINT}/{name}"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif "/commit/" in self.path:
            name = "/".join(self.path.split("/")[3:5])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitOid": SHA, "commitUrl": f"{constants.ENDPOINT}/{name}/commit/{SHA}"})
        else:
            self.answer({})

    def log_message(self, *args: Any) -> None:
        pass


def point_to(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Make the library use this machine as the hub, as HF_ENDPOINT does before it is imported."""
    endpoint = f"http://127.0.0.1:{port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, bytes]]]:
    """The repositories of a running hub."""
    monkeypatch.setattr(Hub, "repositories", {}, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    point_to(monkeypatch, server.server_port)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    yield Hub.repositories
    server.shutdown()
    server.server_close()


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
    with pytest.raises(ConnectionError, match=r"cannot be reached for 'me/tiny'.*or a bundled name \(lenet5_digits"):
        zoo.create_model("lenet5", weights="me/tiny")
    with pytest.raises(ConnectionError, match=r"cannot be reached for 'me/tiny'.*save_pretrained"):
        task.push_to_hub("me/tiny")
    with pytest.raises(ValueError, match="is no name of a repository"):
        task.push_to_hub("me/a--b")
