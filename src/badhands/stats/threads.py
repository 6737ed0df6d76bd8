"""Many small computations on a few cores: each thread computes alone.

Splitting every small product over cores instead makes the cores wait for each other after each one; on a busy machine
that is ten times slower.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None) -> list[Result]:
    """`work` on every item, results in order; as many threads as torch has, unless told otherwise."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads or before, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(before)
