"""Append-only JSON lines that survive a kill, and files that exist only when they are complete."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's exclusive lock (flock on the folder itself, so no lock file is left behind).

    It is released by the kernel when the process dies. It is not reentrant.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_locked(path: Path, data: bytes) -> None:
    """Write a temporary file, fsync it, rename it to `path`. The caller holds `folder_lock(path.parent)`.

    Under the lock one temporary name a file is enough, so a killed writer's rest is overwritten by its successor.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)  # the rename itself
    finally:
        os.close(handle)


def write_whole(path: Path, data: bytes) -> None:
    """Make the file appear in one piece: after a kill at any moment it is either absent (or old) or complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with folder_lock(path.parent):
        write_locked(path, data)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed writers left. Under the lock nobody is writing, so every temporary file is such a rest."""
    if folder.is_dir():
        with folder_lock(folder):
            for path in folder.glob(".*.tmp"):
                path.unlink()


class Journal:
    """One JSON object a line. A line counts once its newline is on disk; a torn last line does not."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self._rows: list[dict[str, Any]] = []
        self._offset = 0
        self._inode = -1
        self._last = b""

    def rows(self) -> list[dict[str, Any]]:
        """All complete lines, in order. Only what was appended since the last call is read again.

        Raises:
            ValueError: a line inside the file is not a JSON object; file and line are named.
        """
        try:
            with self.path.open("rb") as file:
                self._read(file.fileno())
        except FileNotFoundError:
            self._rows, self._offset, self._inode, self._last = [], 0, -1, b""
        return list(self._rows)

    def append(self, row: dict[str, Any], unless: Callable[[list[dict[str, Any]]], bool] | None = None) -> bool:
        """Add one line, on disk when this returns. `unless(rows so far)`, asked under the lock, can call it off.

        Returns:
            Whether the line was added.
        """
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        with self._locked() as handle:
            self._read(handle)
            if unless is not None and unless(list(self._rows)):
                return False
            os.ftruncate(handle, self._offset)  # cuts off a torn line, whose writer never had its append acknowledged
            written = 0
            while written < len(line):
                written += os.pwrite(handle, line[written:], self._offset + written)
            os.fsync(handle)
            self._rows.append(json.loads(line))
            self._offset += len(line)
            self._last = line
        return True

    def sort(self, key: Callable[[dict[str, Any]], Any]) -> None:
        """Bring the lines into one order (stable), as if one writer had written them. A kill leaves old or new."""
        if not self.path.exists():
            return
        with self._locked() as handle:
            self._read(handle)
            ordered = sorted(self._rows, key=key)
            if ordered != self._rows:
                lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in ordered)
                write_whole(self.path, "".join(lines).encode())
        self._inode = -1

    @contextmanager
    def _locked(self) -> Iterator[int]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                try:
                    same = os.fstat(handle).st_ino == self.path.stat().st_ino
                except FileNotFoundError:
                    same = False
                if same:  # else: replaced by `sort` while we waited; take the new file
                    yield handle
                    return
            finally:
                os.close(handle)

    def _read(self, handle: int) -> None:
        stat = os.fstat(handle)
        tail = os.pread(handle, len(self._last), max(0, self._offset - len(self._last)))
        if stat.st_ino != self._inode or tail != self._last:  # another file, or edited: not what we read before
            self._rows, self._offset, self._inode, self._last = [], 0, stat.st_ino, b""
        data = b""
        while chunk := os.pread(handle, 1 << 24, self._offset + len(data)):
            data += chunk
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"{self.path}, line {len(self._rows) + 1}: not a JSON object; mend or remove the line")
            self._rows.append(row)
            self._offset += len(line)
            self._last = line
