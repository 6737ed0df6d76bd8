"""Many small computations on a few cores: each thread computes alone.

Splitting every small product over cores instead makes the cores wait for each other after each one; on a busy machine
that is ten times slower.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None) -> list[Result]:
    """`work` on every item, results in order; as many threads as torch has, unless told otherwise."""
    before = torch.get_num_threads()
    if torch.cuda.is_initialized():
        _load_linear_algebra()
    try:
        with ThreadPoolExecutor(threads or before, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=1)
def _load_linear_algebra() -> None:
    """On a GPU torch loads it when it is first used, and fails in all but one of the threads that use it at once."""
    torch.linalg.inv(torch.eye(2, device="cuda"))


def blocks(x: Tensor, rows: int) -> list[slice]:
    """Slices of so many rows of x, for work that goes over them several times; on a GPU, one slice of them all."""
    step = rows if x.device.type == "cpu" else max(1, len(x))
    return [slice(begin, begin + step) for begin in range(0, len(x), step)]


def together(bytes_each: int, budget: int = 4 * 2**30) -> int:
    """How many threads may each hold so many bytes: as many as torch has, as long as they stay within the budget."""
    return max(1, min(torch.get_num_threads(), budget // max(1, bytes_each)))
