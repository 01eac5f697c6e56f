"""``zoo web``: the runs in a browser."""

import errno
from pathlib import Path

from recipes.cli.errors import OK, UserError
from recipes.cli.pages.server import HOST, Server
from recipes.cli.run.options import Parser

_PORT = 8600  # where it is found again; another free one if this one is in use

HELP = f"""zoo web [--runs FOLDER] [--port N]: show all runs in a browser, live while they train.

  --runs FOLDER   the folder of the runs (default: runs)
  --port N        the port, 0 for any free one (default: {_PORT}, or a free one if that is in use)

It prints an address to open. The list tells each run's state, best value, test, seed, time and size; a click on a column sorts by
it. The page of a run is its report.html, made anew from its folder. Only this machine can open the pages ({HOST}), they change
nothing, and no file outside of the folder is read. From another machine: ssh -L {_PORT}:{HOST}:{_PORT} THIS_MACHINE.
Ctrl-C ends it.

Examples:
  zoo web
  zoo web --runs runs/cnn --port 8601
"""


def run(args: list[str]) -> int:
    """Run the verb ``web``."""
    parser = Parser("zoo web")
    parser.add_argument("--runs", metavar="FOLDER", type=Path, default=Path("runs"))
    parser.add_argument("--port", metavar="N", type=int)
    options = parser.parse_args(args)
    if not options.runs.is_dir():
        raise UserError(
            f"there is no folder {options.runs}: give that of your runs with --runs FOLDER, or train one first: zoo fit RECIPE"
        )
    with open_server(options.runs, options.port) as server:
        print(f"{server.address}  shows the runs in {options.runs}; Ctrl-C ends it", flush=True)
        server.serve_forever()
    return OK


def open_server(runs: Path, port: int | None) -> Server:
    """Return the server of a folder of runs, on a port.

    Args:
        runs: The folder.
        port: The port, 0 for any free one; None for the usual one, or a free one if that is in use.

    Raises:
        UserError: There is no such port, or it is in use or not allowed.
    """
    if port is not None and not 0 <= port <= 65535:
        raise UserError(f"--port must be a number from 0 to 65535, got {port}")
    try:
        return Server(runs, _PORT if port is None else port)
    except OSError as error:
        if port is None:
            return Server(runs, 0)
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} is in use: give another one, or leave --port out for one that is free"
            ) from None
        raise UserError(f"port {port} cannot be opened: {error.strerror}; give another one, above 1023") from None
