"""Worker processes, each with its own renderer; with one worker everything runs in this process."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import islice
from multiprocessing.queues import SimpleQueue
from typing import Any, TypeVar

import torch

from badhands.diffusion.spec import ModelSpec

Task = TypeVar("Task")
Made = TypeVar("Made")
Result = TypeVar("Result")
MakeRenderer = Callable[[ModelSpec], Any]
"""Makes what draws in a process: a `Renderer`, or whatever the functions given to `Workers.map` expect."""

TOGETHER = 4
"""Tasks that a process takes at once where something follows on each: the last one's has no next task beside it."""

_renderer: Any = None


def use_threads(count: int) -> None:
    """Torch threads of this process; the fingerprint records them, because sums come out differently with more."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


class Workers:
    """Context manager: runs `function(renderer, task)` for many tasks.

    Args:
        make: called in each process once; must be importable (a class or module-level function).
        count: processes. Small models on CPUs do better with a process a core than with many threads; on GPUs each
            process has a card of its own, in turn.
        threads: torch threads in each of them, and in this process.
    """

    def __init__(self, make: MakeRenderer, spec: ModelSpec, count: int, threads: int):
        self._make, self._spec, self._count, self._threads = make, spec, count, threads
        self._pool: ProcessPoolExecutor | None = None
        self._here: Any = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def here(self) -> Any:
        """The renderer of this process."""
        if self._here is None:
            self._here = self._make(self._spec)
        return self._here

    def map(
        self,
        function: Callable[[Any, Task], Made],
        tasks: Iterable[Task],
        finish: Callable[[Task, Made], Result] | None = None,
    ) -> Iterator[Any]:
        """Results as they come; an exception in a task ends the rest. Tasks are drawn as workers get free.

        Args:
            finish: what follows on `function(renderer, task)` without the renderer, such as writing files: it runs
                beside the next task of the same worker. Results are then pairs (task, what it returned).
        """
        if self._count == 1:
            yield from _run(function, finish, self.here, tasks)
            return
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            devices = context.SimpleQueue()  # every process takes one as it starts
            for device in self._spec.devices(self._count):
                devices.put(device)
            self._pool = ProcessPoolExecutor(
                self._count,
                mp_context=context,
                initializer=_start,
                initargs=(self._make, self._spec, devices, self._threads, os.getpid()),
            )
        queue, running = iter(tasks), set[Future[list[Any]]]()
        at_once = TOGETHER if finish else 1
        while True:
            while len(running) < 2 * self._count and (some := list(islice(queue, at_once))):
                running.add(self._pool.submit(_call, function, finish, some))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield from future.result()


def _run(
    function: Callable[[Any, Task], Made],
    finish: Callable[[Task, Made], Result] | None,
    renderer: Any,
    tasks: Iterable[Task],
) -> Iterator[Any]:
    """One task after the other; `finish` of one beside `function` of the next."""
    if finish is None:
        for task in tasks:
            yield function(renderer, task)
        return
    with ThreadPoolExecutor(1) as beside:
        finishing: tuple[Task, Future[Result]] | None = None
        for task in tasks:
            made = function(renderer, task)
            if finishing is not None:
                yield finishing[0], finishing[1].result()
            finishing = task, beside.submit(finish, task, made)
            del made  # while the next one is made, only what is being written is held
        if finishing is not None:
            yield finishing[0], finishing[1].result()


def _start(make: MakeRenderer, spec: ModelSpec, devices: "SimpleQueue[str]", threads: int, parent: int) -> None:
    global _renderer
    use_threads(threads)
    _renderer = make(replace(spec, device=devices.get()))
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    """A killed parent cannot tell its workers to stop: they see that they were orphaned."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _call(
    function: Callable[[Any, Task], Made], finish: Callable[[Task, Made], Result] | None, tasks: list[Task]
) -> list[Any]:
    assert _renderer is not None
    return list(_run(function, finish, _renderer, tasks))
