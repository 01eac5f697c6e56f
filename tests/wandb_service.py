"""A stand-in on this machine for the service of Weights & Biases, which a run is really sent to; it can die or hang."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class Service:
    """A server that takes runs.

    Attributes:
        url: Its address.
        rows: The lines of history that it has got.
        exit_code: Of the run; None until it has ended.
        files: Names of the files that were uploaded.
        hanging: Requests are answered while it is not set.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.exit_code: int | None = None
        self.files: list[str] = []
        self.hanging = threading.Event()
        self.ended = threading.Event()
        handler = type("Handler", (_Handler,), {"service": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def hang(self) -> None:
        """Take requests from now on, and never answer."""
        self.hanging.set()

    def die(self) -> None:
        """Refuse connections from now on."""
        self.hanging.set()
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    service: Service

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/graphql"):
            self._answer({"data": self._data(json.loads(body))})
            return
        if self.path.endswith("/file_stream"):
            sent = json.loads(body)
            lines = sent.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            if not self.service.hanging.is_set():
                self.service.rows += [json.loads(line) for line in lines]
                self.service.exit_code = sent.get("exitcode", self.service.exit_code)
        self._answer({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.service.hanging.is_set():
            self.service.files.append(self.path)
        self._answer({})

    def do_GET(self) -> None:
        self._answer({})

    def _answer(self, content: Any) -> None:
        if self.service.hanging.is_set():
            self.service.ended.wait()
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _data(self, query: dict[str, Any]) -> dict[str, Any]:
        match, given = re.search(r"(?:query|mutation)\s+(\w+)", query["query"]), query.get("variables") or {}
        name = match[1] if match else ""
        if name == "RunResumeStatus":
            return {"model": None}  # a new one
        if name == "UpsertBucket":
            project = {"id": "p", "name": given.get("project"), "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "r", "name": given.get("name"), "displayName": given.get("displayName"), "project": project}
            return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": 0}, "inserted": True}}
        if name == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.service.url}/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """Run a service that W&B in this process and its own is pointed to, with a key."""
    import wandb

    wandb.teardown()  # its process, and what it remembers of the settings
    service = Service()
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", service.url)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    try:
        yield service
    finally:
        if not service.ended.is_set():
            service.die()
        monkeypatch.undo()
        wandb.teardown()
