"""Append-only JSON lines that survive a kill, and files that exist only when they are complete."""

import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
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


def write_locked(path: Path, data: bytes | Iterable[bytes | memoryview]) -> None:
    """Write a temporary file, fsync it, rename it to `path`. The caller holds `folder_lock(path.parent)`.

    Under the lock one temporary name a file is enough, so a killed writer's rest is overwritten by its successor.

    Args:
        data: the content, or its parts in order.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)
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
    """One JSON object a line. A torn last line, a writer's that was killed, does not count and is cut off by the next.

    A last line that is whole but for its newline counts, and is given its newline: a text editor may have left it so.
    A subclass that needs less than every row in memory overrides `_forget` and `_take`.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._restart(-1)

    def rows(self) -> list[dict[str, Any]]:
        """All complete lines, in order. Only what was appended since the last call is read again.

        Raises:
            ValueError: a line inside the file is not a JSON object; file and line are named.
        """
        self.refresh()
        return list(self._rows)

    def append(self, row: dict[str, Any], unless: Callable[[], bool] | None = None) -> bool:
        """Add one line, on disk when this returns. `unless()`, asked under the lock with all read, can call it off.

        Returns:
            Whether the line was added.
        """
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        with self._locked() as handle:
            self._read(handle)
            if unless is not None and unless():
                return False
            data = b"\n" + line if self._last and not self._last.endswith(b"\n") else line
            os.ftruncate(handle, self._offset)  # cuts off a torn line, whose writer never had its append acknowledged
            written = 0
            while written < len(data):
                written += os.pwrite(handle, data[written:], self._offset + written)
            os.fsync(handle)
            self._offset += len(data) - len(line)
            self._accept(line)
        return True

    def sort(self, key: Callable[[dict[str, Any]], Any]) -> None:
        """Bring the lines into one order (stable), as if one writer had written them. A kill leaves old or new."""
        if not self.path.exists():
            return
        with self._locked() as handle:
            self._read(handle)
            rows = [json.loads(line) for line in os.pread(handle, self._offset, 0).splitlines()]
            ordered = sorted(rows, key=key)
            if ordered != rows:
                lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in ordered)
                write_whole(self.path, "".join(lines).encode())
        self._restart(-1)

    def refresh(self) -> None:
        """Read what was appended since the last time; raises ValueError as `rows`."""
        try:
            with self._opened() as handle:
                try:
                    self._read(handle)
                except ValueError:  # a line may have been in the making: look again with no writer at work
                    fcntl.flock(handle, fcntl.LOCK_SH)
                    self._read(handle)
        except FileNotFoundError:
            self._restart(-1)

    # What is kept of a line -----------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def _take(self, row: dict[str, Any], start: int, size: int) -> None:
        """Keep a line, `size` bytes from `start`."""
        self._rows.append(row)

    # The file -------------------------------------------------------------------------------------------------------

    def _restart(self, inode: int) -> None:
        self._inode, self._offset, self._number, self._last = inode, 0, 0, b""
        self._forget()

    @contextmanager
    def _opened(self) -> Iterator[int]:
        handle = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not make us wait for its writer
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ValueError(f"{self.path} is not a file: move it away")
            yield handle
        finally:
            os.close(handle)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o644)
            try:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise ValueError(f"{self.path} is not a file: move it away")
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
        inode = os.fstat(handle).st_ino
        tail = os.pread(handle, len(self._last), max(0, self._offset - len(self._last)))
        if inode != self._inode or tail != self._last:  # another file, or edited: not what we read before
            self._restart(inode)
        if self._last and not self._last.endswith(b"\n"):
            following = os.pread(handle, 1, self._offset)
            if following == b"\n":  # its newline has come
                self._offset += 1
                self._last += b"\n"
            elif following:
                self._restart(inode)
        rest = b""
        while chunk := os.pread(handle, 1 << 20, self._offset + len(rest)):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._accept(line + b"\n")
        if rest.endswith(b"}") and _object(rest) is not None:
            self._accept(rest)

    def _accept(self, line: bytes) -> None:
        row = _object(line)
        if row is None:
            raise ValueError(f"{self.path}, line {self._number + 1}: not a JSON object; mend or remove the line")
        self._take(row, self._offset, len(line))
        self._offset += len(line)
        self._number += 1
        self._last = line


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
