"""The server of ``zoo web``: pages of the runs in a folder, for this machine alone, which change nothing. Imports no torch."""

import hashlib
import json
import os
import socketserver
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from typing_extensions import override

from recipes.cli.collection import RunRow, find_runs, read_row
from recipes.cli.pages import listing
from recipes.cli.pages.addresses import address_of, inside, parts_of
from recipes.cli.pages.content import DIAGNOSES, SAMPLES, read_content
from recipes.cli.pages.html import page, policy, text
from recipes.cli.pages.report import body_of
from recipes.cli.run.folder import CONFIG, CONFUSION, LOG, METRICS, RESULTS
from recipes.cli.run.record import RECORD, state_of

HOST = "127.0.0.1"
_NAMES = {"127.0.0.1", "localhost"}  # by which a browser may call us
_WATCHED = (CONFIG, METRICS, RESULTS, RECORD, CONFUSION, DIAGNOSES, LOG, SAMPLES)  # a page changes with these
_MISSING = "there is no such page"


class Server(ThreadingHTTPServer):
    """Serve the runs of a folder on 127.0.0.1.

    Args:
        root: The folder of all runs.
        port: The port; 0 for a free one.

    Raises:
        OSError: The port is in use, or not allowed.
    """

    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # there, another server's port would be taken

    def __init__(self, root: Path, port: int) -> None:
        self.root = root.resolve()
        self.shown = str(root)
        self._known: dict[Path, tuple[str, RunRow | None]] = {}  # with the version that a row was read of
        super().__init__((HOST, port), _Handler)

    @override
    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer asks for the machine's name, which may take long
        self.server_name, self.server_port = HOST, self.server_address[1]

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self.server_port}/"

    def rows(self) -> list[RunRow]:
        """Return the runs, of which those are read that have changed."""
        known: dict[Path, tuple[str, RunRow | None]] = {}
        for folder in find_runs(self.root):
            if listing.is_run(folder, self.root):
                version, (before, row) = version_of(folder), self._known.get(folder, ("", None))
                known[folder] = version, row if version == before else read_row(folder, self.root)
        self._known = known
        return [row for _, row in known.values() if row is not None]

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser that has gone away is no error, and others are answered."""


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, told: str) -> None:
        super().__init__(told)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "zoo", ""
    timeout = 30  # seconds that a request may take to arrive

    def do_GET(self) -> None:
        self._answer(*self._found())

    do_HEAD = do_GET

    def _read_only(self) -> None:
        self.close_connection = True  # its content is not read
        told = "only GET and HEAD: the pages change nothing"
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", f"{told}\n".encode())

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _read_only

    def _found(self) -> tuple[HTTPStatus, str, bytes]:
        try:
            self._check_host()
            kind, content = self._content()
            return HTTPStatus.OK, kind, content
        except _Refused as refused:
            status, told = refused.status, str(refused)
        except OSError:  # removed right now, or a name that is too long
            status, told = HTTPStatus.NOT_FOUND, _MISSING
        except Exception as error:
            status, told = (
                HTTPStatus.INTERNAL_SERVER_ERROR,
                f"the page could not be made: {type(error).__name__}: {error}",
            )
        return status, "text/plain; charset=utf-8", f"{told}\n".encode(errors="replace")

    def _check_host(self) -> None:
        """Refuse requests that a page of another site has led here under a name of its own (DNS rebinding).

        Any port is right: that of a tunnel (``ssh -L``) is another one.
        """
        given = self.headers.get_all("Host") or []
        try:
            name = urlsplit(f"//{given[0]}").hostname if len(given) == 1 else None
        except ValueError:
            name = None
        if name not in _NAMES:
            raise _Refused(HTTPStatus.FORBIDDEN, "this server answers to 127.0.0.1 and localhost alone")

    def _content(self) -> tuple[str, bytes]:
        parts, root = parts_of(self.path), self.server.root
        missing = _Refused(HTTPStatus.NOT_FOUND, _MISSING)
        if parts is None:
            raise missing
        if not parts:
            rows = self.server.rows()
            body = listing.body_of(rows, root, self.server.shown)
            return _html(page("runs", body, "/state", _version_of_rows(rows)))
        if parts == ["state"]:
            return _json({"version": _version_of_rows(self.server.rows())})
        path = inside(root, parts[1:])
        if path is None:
            raise missing
        if parts[0] == "run" and listing.is_run(path, root):
            return _html(self._run(path))
        if parts[0] == "state" and listing.is_run(path, root):
            return _json({"version": version_of(path), "state": state_of(path)[0]})
        if parts[0] == "file" and _is_picture(path, root):
            return "image/png", path.read_bytes()
        raise missing

    def _run(self, folder: Path) -> str:
        root, version = (
            self.server.root,
            version_of(folder),
        )  # before it is read: what changes meanwhile is asked for again

        def source(path: Path) -> str | None:
            try:
                return f"{address_of('file', path, root)}?{path.stat().st_mtime_ns}"
            except OSError:
                return None

        name = folder.relative_to(root).as_posix()
        above = f'<p class="note"><a href="/">all runs</a> / {text(name)}</p>'
        state, told = state_of(folder)
        body = body_of(read_content(folder, root), name, state, told, source, above)
        return page(name, body, address_of("state", folder, root), version)

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Security-Policy", f"{policy(served=True)}; frame-ancestors 'none'")
        for name, value in (
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "private, max-age=86400" if kind == "image/png" else "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: a page that renews itself would fill the terminal."""


def _html(content: str) -> tuple[str, bytes]:
    return "text/html; charset=utf-8", content.encode()


def _json(content: dict[str, str]) -> tuple[str, bytes]:
    return "application/json", json.dumps(content).encode()


def _is_picture(path: Path, root: Path) -> bool:
    folder = path.parent.parent if path.parent.name == SAMPLES else path.parent
    return path.suffix == ".png" and path.is_file() and listing.is_run(folder, root)


def version_of(folder: Path) -> str:
    """Return a text that changes with the page of a run."""
    seen: list[Any] = [state_of(folder)]
    for name in _WATCHED:
        try:
            status = (folder / name).stat()
            seen.append((name, status.st_mtime_ns, status.st_size))
        except OSError:
            continue
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]


def _version_of_rows(rows: list[RunRow]) -> str:
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]
