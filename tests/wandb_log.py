"""Reads an offline W&B run back: LevelDB's log format round protobuf records."""

import json
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32768
HEADER = 7


def records(path: Path) -> Iterator[Record]:
    """Every record of a .wandb file, in order."""
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    at, parts = HEADER, []
    while at + HEADER <= len(content):
        left = BLOCK - at % BLOCK
        if left < HEADER:  # a header never crosses a block
            at += left
            continue
        checksum, length, kind = struct.unpack("<IHB", content[at : at + HEADER])
        data = content[at + HEADER : at + HEADER + length]
        assert zlib.crc32(bytes([kind]) + data) == checksum
        at += HEADER + length
        parts.append(data)
        if kind in (1, 4):  # whole, or last part
            record = Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


@dataclass
class OfflineRun:
    """What one offline run holds."""

    name: str = ""
    group: str = ""
    job_type: str = ""
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    """Metric or glob -> its step metric."""
    artifacts: list[tuple[str, str]] = field(default_factory=list)
    """(type, name)"""
    exit_code: int | None = None
    folder: Path = Path()
    files: tuple[Path, ...] = ()
    """Every file beside the log."""
    promised: list[str] = field(default_factory=list)
    """Files that the log names as the run's own, relative to `folder`/files."""
    staged: list[Path] = field(default_factory=list)
    """Files that an artifact is made of, where the log says they lie."""

    def keys(self) -> set[str]:
        """Logged keys; a picture or table counts once, not once a field."""
        return {key.split("._type")[0] for row in self.history for key in row if "." not in key or "._type" in key or
                key.startswith("curve/")}  # fmt: skip


def offline_runs(folder: Path) -> list[OfflineRun]:
    """Every offline run under a folder, by path. W&B's own process may still be writing the last block: wait for it."""
    return [_ended(path) for path in sorted(Path(folder).rglob("offline-run-*/*.wandb"))]


def _ended(path: Path, seconds: float = 20.0) -> OfflineRun:
    until = time.monotonic() + seconds
    while (run := read(path)).exit_code is None and time.monotonic() < until:
        time.sleep(0.1)
    return run


def read(path: Path) -> OfflineRun:
    run = OfflineRun(folder=path.parent)
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.name, run.group, run.job_type = record.run.display_name, record.run.run_group, record.run.job_type
            run.tags = tuple(record.run.tags)
            _update(run.config, record.run.config.update)
        elif kind == "config":
            _update(run.config, record.config.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            _update(row, record.history.item)
            run.history.append(row)
        elif kind == "summary":
            _update(run.summary, record.summary.update)
        elif kind == "metric":
            run.metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "artifact":
            run.artifacts.append((record.artifact.type, record.artifact.name))
            run.staged += [Path(entry.local_path) for entry in record.artifact.manifest.contents]
        elif kind == "files":
            run.promised += [entry.path for entry in record.files.files]
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    run.files = tuple(sorted(p for p in (path.parent / "files").rglob("*") if p.is_file()))
    return run


def _update(into: dict[str, Any], items: Any) -> None:
    for item in items:
        into[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
