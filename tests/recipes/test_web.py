"""``zoo web``: pages of the runs for this machine alone, read-only, live, and of no other file."""

import http.client
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_kit import RECIPE, Zoo, assert_one_line
from page_kit import Page, assert_harmless

from recipes.cli.errors import UserError
from recipes.cli.pages.addresses import parts_of
from recipes.cli.pages.server import Server
from recipes.cli.run.lock import Lock
from recipes.cli.run.record import read_record, write_record
from recipes.cli.verbs.web import open_server

RUN = f"/run/{RECIPE}/version_0"
SECRET = "the secret of the machine"


class Answer:
    """What the server answers."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def text(self) -> str:
        return self.body.decode()


Ask = Callable[..., Answer]


@pytest.fixture
def ask(trained: Path, tmp_path: Path) -> Iterator[Ask]:
    """Ask a server of the folder ``runs``, with a path as it stands: no client has tidied it up."""
    (Path("secret.txt")).write_text(SECRET)
    server = Server(Path("runs"), 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def asked(path: str = "/", method: str = "GET", body: str | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        connection._validate_path = lambda _: None  # type: ignore[attr-defined]
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body.encode() if body is not None else None)
        answer = Answer(connection.getresponse())
        connection.close()
        return answer

    asked.port = server.server_port  # type: ignore[attr-defined]
    yield asked
    server.shutdown()
    server.server_close()
    thread.join()


def files(folder: Path = Path()) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# The pages -----------------------------------------------------------------------------------------------------------------


def test_the_list_and_the_page_of_a_run(ask: Ask, trained: Path) -> None:
    answer = ask("/")
    page = Page(answer.text)
    assert answer.status == 200
    assert_harmless(page, "data:|/run/")
    assert RUN in page.all_of("href")
    results = json.loads((trained / "results.json").read_text())
    record = json.loads((trained / "run.json").read_text())
    size = sum(path.stat().st_size for path in trained.rglob("*") if path.is_file())
    (row,) = [[value for tag, name, value in page.attributes if tag == "td" and name == "data-sort"]]
    test = results["metrics"]["test/acc"]
    expected = [results["best"]["value"], test, 0, record["seconds"], size]
    assert row == [f"{RECIPE}/version_0", "done", *map(str, expected), record["started"]]
    assert f"done {results['best']['value']:.4f} val/loss {test:.4f} test/acc 0 " in page.text

    run = Page(ask(RUN).text)
    assert_harmless(run, "data:|/file/|/$")
    report = Page((trained / "report.html").read_text())
    assert run.points == report.points
    assert run.text.count(record["environment"]["torch"]) == report.text.count(record["environment"]["torch"])
    pictures = run.all_of("src")
    assert sorted(ask(src).body for src in pictures) == sorted(path.read_bytes() for path in trained.rglob("*.png"))
    assert ask(pictures[0]).headers["Content-Type"] == "image/png"


def test_every_answer_has_the_policy(ask: Ask) -> None:
    for path in ("/", RUN, "/nothing", "/state"):
        headers = ask(path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers


def test_a_page_says_when_it_has_changed(ask: Ask, trained: Path) -> None:
    run = Page(ask(RUN).text)
    (address,), (version,) = run.all_of("data-address"), run.all_of("data-version")
    assert address == f"/state/{RECIPE}/version_0"
    assert json.loads(ask(address).body) == {"version": version, "state": "done"}
    (listed,) = Page(ask("/").text).all_of("data-version")
    assert json.loads(ask("/state").body) == {"version": listed}
    with (trained / "metrics.csv").open("a") as file:
        names = (trained / "metrics.csv").read_text().splitlines()[0].split(",")
        file.write(",".join({"step": "90", "epoch": "9", "val/loss": "0.123"}.get(name, "") for name in names) + "\n")
    assert json.loads(ask(address).body)["version"] != version
    assert json.loads(ask("/state").body)["version"] != listed
    page = Page(ask(RUN).text)
    assert ("val/loss", 90, "0.123") in page.points
    assert page.all_of("data-version") != [version]


def test_a_run_that_goes_on_and_one_that_was_killed(ask: Ask, trained: Path) -> None:
    record = read_record(trained)
    assert record is not None
    (trained / "results.json").unlink()
    write_record(trained, replace(record, state="running", ended=""))
    assert "stopped" in Page(ask("/").text).text  # nobody holds its lock
    assert "its process was killed" in Page(ask(RUN).text).text
    lock = Lock(trained)
    with (trained / "metrics.csv").open("a") as file:
        file.write("7,2,0.")  # a row that is being written
    try:
        assert "1 running" in Page(ask("/").text).text
        text = Page(ask(RUN).text).text
        assert f"{RECIPE}/version_0 running" in text
        assert "at step 6, epoch" in text
        assert "damaged" not in text
        running = json.loads(ask(f"/state/{RECIPE}/version_0").body)
        assert running["state"] == "running"
    finally:
        lock.release()
    assert json.loads(ask(f"/state/{RECIPE}/version_0").body)["version"] != running["version"]  # no file has changed


def test_nothing_is_written(ask: Ask) -> None:
    before = files()
    for path in ("/", RUN, "/state", f"/state/{RECIPE}/version_0", f"/file/{RECIPE}/version_0/curves.png", "/nothing"):
        for method in ("GET", "HEAD", "POST"):
            ask(path, method)
    assert files() == before


def test_trials_are_below_a_click_and_nan_is_sorted_last(ask: Ask, trained: Path) -> None:
    for name in ("tune_0/trial_0/seed_0", "seeds_0/seed_3"):
        shutil.copytree(trained, trained.parent / name)
    (trained.parent / "tune_0/study.db").write_text("")
    other = trained.parent / "seeds_0/seed_3/results.json"
    results = json.loads(other.read_text())
    other.write_text(json.dumps({**results, "metrics": {"test/acc": math.nan}}))
    page = Page(ask("/").text)
    names = [href.partition(RECIPE)[2] for href in page.all_of("href") if href.startswith("/run/")]
    assert names == ["/version_0", "/seeds_0/seed_3", "/tune_0/trial_0/seed_0"]
    assert "2 done" in page.text
    assert "1 trial of zoo tune" in page.text
    assert page.tags.count("details") == 1
    cells = [value for tag, name, value in page.attributes if (tag, name) == ("td", "data-sort")]
    assert (cells[3], cells[8 + 3]) == (str(results["metrics"]["test/acc"]), "")
    assert "nan test/acc" in page.text


# What it refuses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"])
@pytest.mark.parametrize("path", ["/", RUN])
def test_only_get_and_head(ask: Ask, method: str, path: str) -> None:
    answer = ask(path, method, body="delete=all")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert ask(path, "BREW").status == 501


def test_head_has_no_content(ask: Ask) -> None:
    head, get = ask(RUN, "HEAD"), ask(RUN)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(get.body))
    with socket.create_connection(("127.0.0.1", ask.port), timeout=20) as connection:  # type: ignore[attr-defined]
        connection.sendall(b"HEAD / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.endswith(b"\r\n\r\n")


PLACES = [
    "{up}secret.txt",
    "{up}secret.png",
    "{root}/secret.txt",
    "/{root}/secret.png",
    "{encoded_root}%2Fsecret.png",
    "C:{back}secret.png",
    "C%3A%5Csecret.png",
    "c|/secret.png",
    "..%5c..%5csecret.png",
    "{back}{back}server{back}share{back}secret.png",
    "//server/share/secret.png",
    "{run}/link.png",
    "{run}/samples/link.png",
    "{run}/../../../../secret.png",
    "{run}/checkpoints/../../../../../secret.png",
    "{run}/curves.png%00.txt",
    "{run}/curves.png\x00",
    "{run}/%00",
    "{run}/config.yaml",
    "{run}/checkpoints/last.ckpt",
    "{run}/report.html",
    "{run}/.lock",
    "{run}/.hidden.png",
    "{run}//curves.png",
    "{run}/./curves.png",
    "{run}/samples",
    "{run}/folder.png",
    "{run}/nothing.png",
    "{run}/%ff%fe.png",
    "{run}/" + "a" * 5000 + ".png",
    "{run}/" + "a/" * 3000 + "a.png",
    "outside/version_0/curves.png",
    "file:///{root}/secret.png",
    "http://127.0.0.1/{run}/curves.png",
    "loose.png",
    "%",
    "%zz",
]


def ways_up() -> list[str]:
    ups = [
        "../",
        "%2e%2e/",
        "%2e%2e%2f",
        "%252e%252e%252f",
        "..%2f",
        "..%5c",
        "..\\",
        ".%2e/",
        "%c0%ae%c0%ae/",
        "....//",
        "..;/",
    ]
    return [up * count for up in ups for count in (1, 3, 8)]


@pytest.mark.parametrize("kind", ["file", "run", "state", ""])
def test_no_file_outside_of_the_runs_is_read(ask: Ask, trained: Path, kind: str) -> None:
    root = Path.cwd()
    for name in ("secret.png", "runs/loose.png"):
        Path(name).write_text(SECRET)
    shutil.copytree(trained, "outside/version_0")
    (Path("outside/version_0") / "log.txt").write_text(SECRET)
    (root / "runs/outside").symlink_to(root / "outside")
    for link in (trained / "link.png", trained / "samples/link.png"):
        link.symlink_to(root / "secret.png")
    (trained / "folder.png").mkdir()
    (trained / ".hidden.png").write_text(SECRET)
    assert ask(RUN).status == ask(f"/file/{RECIPE}/version_0/curves.png").status == 200  # it would answer
    values = {
        "root": str(root),
        "encoded_root": str(root).replace("/", "%2F"),
        "back": "\\",
        "run": f"{RECIPE}/version_0",
    }
    places = [place.format(up=up, **values) for place in PLACES for up in (ways_up() if "{up}" in place else [""])]
    assert len(places) > 90
    for place in places:
        prefix = f"/{kind}/" if kind else "/"
        for path in (prefix + place, prefix + f"{RECIPE}/version_0/{place}"):
            answer = ask(path.replace(" ", "%20"))
            assert answer.status in (404, 400, 414), path
            assert SECRET not in answer.text, path


def test_links_that_lead_outside_are_not_followed(ask: Ask, trained: Path) -> None:
    root = Path.cwd()
    for name in ("log.txt", "diagnoses.json", "confusion.json", "samples/epoch_0001_x.txt", "table.csv"):
        (trained / name).unlink(missing_ok=True)
        (trained / name).symlink_to(root / "secret.txt")
    page = Page(ask(RUN).text)
    assert SECRET not in page.text
    shutil.rmtree(trained / "samples")
    Path("elsewhere").mkdir()
    Path("elsewhere/epoch_0001_x.txt").write_text(SECRET)
    (trained / "samples").symlink_to(root / "elsewhere")
    assert SECRET not in ask(RUN).text
    for name in (
        "config.yaml",
        "run.json",
        "metrics.csv",
        "results.json",
        ".lock",
    ):  # what tells that it is a run, and its state
        shutil.move(trained / name, root / name)
        (trained / name).symlink_to(root / name)
        assert ask(RUN).status == 404
        assert RUN not in ask("/").text
        (trained / name).unlink()
        shutil.move(root / name, trained / name)
        assert ask(RUN).status == 200


def test_links_inside_of_the_runs_are_followed(ask: Ask, trained: Path) -> None:
    (trained / "again.png").symlink_to("curves.png")
    assert ask(f"/file/{RECIPE}/version_0/again.png").body == (trained / "curves.png").read_bytes()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:8600", 200),
        ("localhost:1", 200),  # at the other end of a tunnel
        ("LOCALHOST", 200),
        ("evil.example", 403),
        ("evil.example:8600", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1@evil.example", 403),
        ("192.168.0.1", 403),
        ("0.0.0.0", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_a_page_of_another_site_gets_nothing(ask: Ask, host: str, status: int) -> None:
    for path in ("/", RUN, "/state", f"/file/{RECIPE}/version_0/curves.png"):
        answer = ask(path, Host=host)
        assert answer.status == status
        assert status == 200 or RECIPE not in answer.text


def test_a_request_without_a_host_gets_nothing(ask: Ask) -> None:
    with socket.create_connection(("127.0.0.1", ask.port), timeout=20) as connection:  # type: ignore[attr-defined]
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b" 403 " in connection.recv(4096).splitlines()[0]
    with socket.create_connection(("127.0.0.1", ask.port), timeout=20) as connection:  # type: ignore[attr-defined]
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert b" 403 " in connection.recv(4096).splitlines()[0]


def test_it_listens_on_this_machine_alone() -> None:
    with Server(Path(), 0) as server:
        assert server.server_address[0] == "127.0.0.1"
        assert server.address == f"http://127.0.0.1:{server.server_address[1]}/"


@pytest.mark.parametrize("target", ["/a/b?c=../..", "/a/b#../.."])
def test_what_follows_the_path_says_nothing(target: str) -> None:
    assert parts_of(target) == ["a", "b"]


@pytest.mark.parametrize(
    "part", ["a%2Fb", "%2Fetc", "a%5Cb", "a\\b", "C:", "%43%3A", "%00", "a%0a", "a%20", "..", "%2e%2e", "", "%ff"]
)
def test_parts_that_are_none(part: str) -> None:
    assert parts_of(f"/file/{part}/x.png") is None


# Folders as they should not be ---------------------------------------------------------------------------------------------


def test_foreign_files_and_damaged_runs_are_no_hindrance(ask: Ask, trained: Path) -> None:
    runs = Path("runs")
    (runs / "notes.txt").write_text("mine")
    (runs / "photos/summer").mkdir(parents=True)
    (runs / "photos/config.yaml").write_text("a: 1")  # a configuration, but no run
    (runs / "empty/version_0").mkdir(parents=True)
    (runs / "circle").symlink_to(runs.resolve())
    os.mkfifo(runs / "photos/pipe")
    bad = runs / "bad/version_0"
    for name in ("config.yaml", "run.json", "results.json", "metrics.csv", "log.txt", "confusion.json"):
        bad.mkdir(parents=True, exist_ok=True)
        (bad / name).write_bytes(b"\0\xff{[")
    evil = runs / "<b>&\"'/version_0"
    shutil.copytree(trained, evil)
    (evil / "log.txt").unlink()
    os.mkfifo(evil / "log.txt")  # who opens it waits for ever
    page = Page(ask("/").text)
    assert_harmless(page, "data:|/run/")
    links = [href for href in page.all_of("href") if href.startswith("/run/")]
    assert len(links) == 3
    for link in links:
        answer = ask(link)
        assert answer.status == 200
        assert_harmless(Page(answer.text), "data:|/file/|/$")
    assert (
        "metrics.csv has 1 damaged line" in Page(ask("/run/bad/version_0").text).text
        or "damaged" in ask("/run/bad/version_0").text
    )


def test_an_empty_folder_and_one_that_goes_away(ask: Ask) -> None:
    shutil.rmtree("runs/linear")
    assert "no runs yet" in ask("/").text
    assert ask(RUN).status == 404
    shutil.rmtree("runs")
    assert "no runs yet" in ask("/").text


def test_a_failure_is_told_and_the_next_request_is_answered(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("<b>oh</b>")

    with monkeypatch.context() as patch:
        patch.setattr("recipes.cli.pages.server.read_content", broken)
        answer = ask(RUN)
        assert (answer.status, answer.headers["Content-Type"]) == (500, "text/plain; charset=utf-8")
        assert "RuntimeError: <b>oh</b>" in answer.text
    assert ask(RUN).status == 200


def test_a_client_that_says_nothing_keeps_no_other_waiting(ask: Ask) -> None:
    with socket.create_connection(("127.0.0.1", ask.port)):  # type: ignore[attr-defined]
        assert ask("/").status == 200


# The verb ------------------------------------------------------------------------------------------------------------------


def test_bad_options(zoo: Zoo, tmp_cwd: Path) -> None:
    assert_one_line(zoo("web"), "there is no folder runs", "--runs FOLDER")
    Path("runs").mkdir()
    for port in ("-1", "65536"):
        assert_one_line(zoo("web", f"--port={port}"), f"--port must be a number from 0 to 65535, got {port}")
    assert_one_line(zoo("web", "--port", "x"), "--port must be a whole number, got x")
    assert_one_line(zoo("web", "--prot", "1"), "--prot")
    Path("file").write_text("")
    assert_one_line(zoo("web", "--runs", "file"), "there is no folder file")


def test_a_port_in_use(zoo: Zoo, tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("runs").mkdir()
    with Server(Path("runs"), 0) as other:
        port = other.server_port
        assert_one_line(
            zoo("web", "--port", port),
            f"port {port} is in use: give another one, or leave --port out for one that is free",
        )
        monkeypatch.setattr("recipes.cli.verbs.web._PORT", port)
        with open_server(Path("runs"), None) as server:
            assert server.server_port not in (0, port)
    with open_server(Path("runs"), None) as server:
        assert server.server_port == port
    with pytest.raises(UserError, match="0 to 65535"):
        open_server(Path("runs"), 65536)


def test_it_runs_until_ctrl_c_without_torch(trained: Path) -> None:
    code = (
        "import sys; from recipes.cli.__main__ import main; code = main(['web', '--port', '0'])\n"
        "sys.exit(7 if {'torch', 'lightning', 'numpy'} & {*sys.modules} else code)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.endswith("/  shows the runs in runs; Ctrl-C ends it\n")
    connection = http.client.HTTPConnection(line.split("/")[2], timeout=20)
    for path in ("/", RUN):
        connection.request("GET", path)
        assert b"version_0" in connection.getresponse().read()
    time.sleep(0.1)
    process.send_signal(2)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "")
