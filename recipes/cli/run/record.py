"""``run.json`` of a run folder: whether a run goes on or how it has ended, and how it was made. Imports no torch."""

import json
import math
import os
import shlex
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from recipes.cli.run.folder import RESULTS
from recipes.cli.run.lock import is_held
from zoo.writing import replacing

RECORD = "run.json"
State = Literal["running", "done", "stopped", "failed"]


@dataclass(frozen=True)
class Record:
    """What ``run.json`` tells of a run.

    Args:
        state: "running"; "done"; "stopped" by a signal, Ctrl-C or a time limit; or "failed".
        message: How it was stopped, or the error in one line.
        started: Begin of the first session, UTC, as in ISO 8601.
        ended: End of the last session; "" while it runs.
        seconds: Duration of the sessions that have ended, together.
        pid: Process that writes the run.
        host: Its machine.
        commands: Command lines of the first session and of each that went on.
        environment: Versions, machine and commit of the last session.
        slurm_job: Job of SLURM's; "" without one.
        monitor: Name of the metric that decides what is best, and "min" or "max"; empty without one.
    """

    state: State = "running"
    message: str = ""
    started: str = ""
    ended: str = ""
    seconds: float = 0.0
    pid: int = 0
    host: str = ""
    commands: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    slurm_job: str = ""
    monitor: list[str] = field(default_factory=list)


def begun(
    before: Record | None, command: list[str], environment: dict[str, str], monitor: Sequence[str] = ()
) -> Record:
    """Return the record of a run that begins, or goes on.

    Args:
        before: Its record so far.
        command: The arguments of ``zoo``.
        environment: Versions, machine and commit.
        monitor: Name and mode of what decides what is best.
    """
    before = before or Record()
    return replace(
        before,
        state="running",
        message="",
        started=before.started or _now(),
        ended="",
        pid=os.getpid(),
        host=socket.gethostname(),
        commands=[*before.commands, shlex.join(["zoo", *command])],
        environment=environment,
        slurm_job=os.environ.get("SLURM_JOB_ID", ""),
        monitor=[*monitor],
    )


def ended(record: Record, state: State, message: str, seconds: float) -> Record:
    """Return the record of a run whose session has ended after some seconds."""
    return replace(record, state=state, message=message, ended=_now(), seconds=round(record.seconds + seconds, 3))


def write_record(folder: Path, record: Record) -> None:
    """Write ``run.json``."""
    with replacing(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")


def read_record(folder: Path) -> Record | None:
    """Return what ``run.json`` tells; None if it is missing, as in older runs, or damaged."""
    try:
        content: Any = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        known = {f.name: content[f.name] for f in fields(Record) if f.name in content}
        record = Record(**{**known, "state": content["state"]})
        return record if _is_whole(record) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _is_whole(record: Record) -> bool:
    """Return whether all that a record holds is of its kind: tables sort by it, and count with it."""
    values = vars(record)
    number = record.seconds
    return (
        record.state in get_args(State)
        and all(isinstance(values[name], str) for name in ("message", "started", "ended", "host", "slurm_job"))
        and all(isinstance(values[name], list) for name in ("commands", "monitor"))
        and all(isinstance(text, str) for text in [*record.commands, *record.monitor])
        and isinstance(record.environment, dict)
        and all(isinstance(text, str) for text in record.environment.values())
        and isinstance(number, int | float)
        and math.isfinite(number)
        and isinstance(record.pid, int)
    )


def state_of(folder: Path) -> tuple[State, str]:
    """Return the state that a run is really in, and how it was stopped or has failed."""
    if is_held(folder):
        return "running", ""
    record = read_record(folder)
    if record is None:
        return ("done", "") if (folder / RESULTS).is_file() else ("stopped", "")
    if record.state == "running":
        return "stopped", "its process was killed"
    return record.state, record.message


def is_gone(record: Record) -> bool:
    """Return whether the process that has written a run is known to have ended: it ran on this machine."""
    if record.host != socket.gethostname() or record.pid <= 0 or os.name == "nt":  # where signal 0 is none that asks
        return False
    try:
        os.kill(record.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
    return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
