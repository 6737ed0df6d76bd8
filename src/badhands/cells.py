"""A cell is one (block, timestep) pair: the atom of every table, cache key, plot axis and W&B key."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

PSEUDO_BLOCKS = ("xt", "x0")
"""Not blocks of the transformer, but captured beside them as baselines: packed latent and predicted clean latent."""

COMPARED = 96
"""Cells that are compared each with each other (cosines, one shared direction); of more, so many, evenly spread. Also
how many are held in memory together."""

_BLOCK = re.compile(r"(double|single)\.(\d+)|xt|x0")
_CELL = re.compile(r"(?P<block>[a-z0-9.]+)/t(?P<timestep>\d+)")


@lru_cache(maxsize=1024)
def block_key(block: str) -> tuple[int, int]:
    """Sort key that puts blocks in network order: xt, x0, double.0, double.1, ..., single.0, ...

    Raises:
        ValueError: the name is none of these.
    """
    match = _BLOCK.fullmatch(block)
    if match is None:
        raise ValueError(f"unknown block {block!r}: write double.3, single.8, xt or x0")
    if match[1] is None:
        return (0, PSEUDO_BLOCKS.index(block))
    return (1 if match[1] == "double" else 2, int(match[2]))


class Cell(NamedTuple):
    """One block at one timestep. `str(cell)` is its key everywhere: `single.8/t20`."""

    block: str
    timestep: int
    """Counts down: with T steps, T is the first (pure noise) and 1 the last."""

    def __str__(self) -> str:
        return f"{self.block}/t{self.timestep}"

    @classmethod
    @lru_cache(maxsize=8192)  # every image's file names the same cells
    def parse(cls, text: str) -> "Cell":
        """Inverse of `str`.

        Raises:
            ValueError: `text` is not of the form `single.8/t20`.
        """
        match = _CELL.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a cell: write it as single.8/t20")
        block_key(match["block"])
        return cls(match["block"], int(match["timestep"]))

    @property
    def sort_key(self) -> tuple[int, int, int]:
        """Network order; within a block from noise to image, so timesteps count down."""
        return (*block_key(self.block), -self.timestep)


def in_order(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """The cells without repeats, sorted by block in network order, then from noise to image."""
    return tuple(sorted(set(cells), key=lambda cell: cell.sort_key))


def grid(blocks: Iterable[str], timesteps: Iterable[int]) -> tuple[Cell, ...]:
    """Every block at every timestep, in order."""
    steps = tuple(timesteps)
    return in_order(Cell(block, t) for block in blocks for t in steps)


def evenly(cells: Sequence[Cell], most: int) -> tuple[Cell, ...]:
    """At most so many of the cells of a grid, spread over its blocks and timesteps; all, where they are no more."""
    if len(cells) <= most:
        return tuple(cells)
    blocks, timesteps = list(dict.fromkeys(cell.block for cell in cells)), sorted({cell.timestep for cell in cells})
    many = min(len(timesteps), most, max(1, round((most * len(timesteps) / len(blocks)) ** 0.5)))
    few = min(len(blocks), most // many)
    many = min(len(timesteps), most // few)

    def some(values: Sequence[Any], count: int) -> list[Any]:
        return [values[round(i * (len(values) - 1) / max(count - 1, 1))] for i in range(count)]

    chosen = set(grid(some(blocks, few), some(timesteps, many)))
    return tuple(cell for cell in cells if cell in chosen)


def choose_timesteps(wanted: Iterable[int] | Literal["all"], of_steps: int, steps: int) -> tuple[int, ...]:
    """Timesteps chosen on a schedule of `of_steps`, for a schedule of `steps`, counting down without repeats.

    The rule: t becomes t * steps / of_steps rounded half up, at least 1. So the first and the last step stay the first
    and the last, and 20, 19, 18, 17, 15, 12, 8, 3 of 20 become 4, 3, 2, 1 of 4. `all` is every timestep.

    Raises:
        ValueError: a timestep outside 1..of_steps.
    """
    if wanted == "all":
        return tuple(range(steps, 0, -1))
    timesteps = [int(t) for t in wanted]
    outside = [t for t in timesteps if not 1 <= t <= of_steps]
    if outside:
        raise ValueError(f"timesteps {outside} are not in 1..{of_steps}")
    return tuple(sorted({max(1, (2 * t * steps + of_steps) // (2 * of_steps)) for t in timesteps}, reverse=True))
