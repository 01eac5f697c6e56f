"""What a W&B run has written, read back from its file record by record: W&B itself has no reader for it in Python."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK = 32768  # bytes; no piece of a record crosses the end of a block
_HEADER = 7  # bytes of the file's header, and of that of each piece: checksum (4), length (2), kind
_WHOLE, _LAST = 1, 4  # kinds of pieces that end a record; 2 and 3 are its first and those between


@dataclass
class Written:
    """The content of a ``.wandb`` file.

    Attributes:
        run: The record of the run: ``run_id``, ``run_group``, ``display_name``, ``project``.
        config: W&B's config.
        rows: The history, a dict of values a row, without W&B's own keys.
        summary: The last value of each key.
        axes: For each name or pattern of metrics, the one that is its x axis.
        artifacts: The records of artifacts.
        exit_code: None of a run that has not ended.
        preempting: Whether it was told that it is going to be stopped from outside.
    """

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    exit_code: int | None = None
    preempting: bool = False

    @property
    def steps_of(self) -> dict[str, list[Any]]:
        """The values of the axis at which each key has one."""
        from recipes.cli.run.wandb_run import AXIS

        names = {name for row in self.rows for name in row}
        return {name: [row.get(AXIS) for row in self.rows if name in row] for name in names}


def records(path: Path) -> Iterator[Any]:
    """Yield the records of a ``.wandb`` file, up to where it was cut off: LevelDB's log format, of protocol buffers."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    assert data[:4] in (b":W&B", b"")  # nothing of it is written yet
    position, parts = _HEADER, b""
    while position + _HEADER <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER:
            position += left
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        piece = data[position + _HEADER : position + _HEADER + length]
        position += _HEADER + length
        if kind == 0 or len(piece) < length:
            return
        parts += piece
        if kind in (_WHOLE, _LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def read_wandb(path: Path) -> Written:
    """Return what a ``.wandb`` file holds."""
    written = Written()
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            written.run = record.run
            _update(written.config, record.run.config.update)
        elif kind == "config":
            _update(written.config, record.config.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            _update(row, record.history.item)
            written.rows.append({k: v for k, v in row.items() if k not in ("_step", "_runtime", "_timestamp")})
        elif kind == "summary":
            _update(written.summary, record.summary.update)
        elif kind == "metric" and record.metric.step_metric:
            written.axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "artifact":
            written.artifacts.append(record.artifact)
        elif kind == "preempting":
            written.preempting = True
        elif kind == "exit":
            written.exit_code = record.exit.exit_code
    return written


def wandb_files(run: Path) -> list[Path]:
    """The ``.wandb`` files of a run folder, one a session, the oldest first."""
    return sorted(run.glob("wandb/*run-*/*.wandb"))


def read_finished(path: Path) -> Written:
    """Return what the file of a finished run holds: W&B's process may write the last of it a moment later."""
    for _ in range(200):
        if (written := read_wandb(path)).exit_code is not None:
            return written
        time.sleep(0.1)
    raise AssertionError(f"{path} is of a run that has not ended")


def read_run(run: Path) -> Written:
    """Return what the only ``.wandb`` file of a run folder holds, of a run that has ended."""
    (path,) = wandb_files(run)
    return read_finished(path)


def _update(target: dict[str, Any], items: Any) -> None:
    for item in items:
        *path, last = item.nested_key or [item.key]
        place = target
        for key in path:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
