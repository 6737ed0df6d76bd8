"""Time and memory of a stage, its child processes included."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import torch


class Meter:
    """Context manager: seconds, the most host memory of a followed process and its children, the most GPU memory.

    GPU memory is what the whole device gave out since the stage began, so nothing else should run on it.
    """

    def __init__(self, name: str, device: torch.device, every: float = 0.25) -> None:
        self.name, self.seconds = name, 0.0
        self.host_bytes = self.device_bytes = 0
        self._device, self._every = device, every
        self._process = os.getpid()
        self._stop = threading.Event()

    def __enter__(self) -> "Meter":
        self._before = self._used()
        self._start = time.perf_counter()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self._start
        self._stop.set()
        self._thread.join()

    def follow(self, process: int) -> None:
        """Measure this process and its children instead of the own one."""
        self._process, self.host_bytes = process, 0

    def line(self) -> str:
        """What it found, as text."""
        memory = [f"{self.host_bytes / 1e9:.1f} GB of memory"] if self.host_bytes else []
        memory += [f"{self.device_bytes / 1e9:.1f} GB on the GPU"] if self.device_bytes else []
        return ", ".join([f"{self.name}: {self.seconds:.0f} s", *memory])

    def record(self) -> dict[str, float]:
        return {"seconds": self.seconds, "host_bytes": self.host_bytes, "device_bytes": self.device_bytes}

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self.host_bytes = max(self.host_bytes, tree_bytes(self._process))
            self.device_bytes = max(self.device_bytes, self._used() - self._before)

    def _used(self) -> int:
        if self._device.type != "cuda":
            return 0
        cards = range(torch.cuda.device_count()) if self._device.index is None else [self._device.index]
        return max(total - free for free, total in map(torch.cuda.mem_get_info, cards))


def tree_bytes(root: int) -> int:
    """Resident memory of a process and everything that it started; 0 where /proc does not tell."""
    parents: dict[int, int] = {}
    resident: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue  # it has ended meanwhile
        pid = int(entry.parent.name)
        parents[pid], resident[pid] = int(fields[1]), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")

    def inside(pid: int) -> bool:
        while pid in parents:
            if pid == root:
                return True
            pid = parents[pid]
        return False

    return sum(value for pid, value in resident.items() if inside(pid))
