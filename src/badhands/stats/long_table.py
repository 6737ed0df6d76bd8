"""Rows of a long table: one number with its interval, and everything needed to know what it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from badhands.cells import Cell

COLUMNS = ("block", "timestep", "step", "sigma", "probe", "metric", "split", "n", "value", "lo", "hi")
"""What every table of the project has, in this order, after columns of its own."""


@dataclass
class LongTable:
    """Collects rows; every table of a run is one."""

    steps: Mapping[int, tuple[int, float]]
    """Timestep -> (step, sigma)."""
    path: Path | None = None
    """Where `write` puts it."""
    rows: list[dict[str, object]] = field(default_factory=list)

    def add(
        self,
        cell: Cell | None,
        metric: str,
        value: float,
        interval: Sequence[float] | np.ndarray = (np.nan, np.nan),
        *,
        n: int,
        probe: str,
        split: str,
        **own: object,
    ) -> None:
        """One row. `cell` None: the number belongs to no cell. `n` counts images (or tokens, of token metrics)."""
        step, sigma = self.steps.get(cell.timestep, (np.nan, np.nan)) if cell else (np.nan, np.nan)
        block, timestep = cell or (np.nan, np.nan)
        low, high = (float(end) for end in interval)
        values = (block, timestep, step, sigma, probe, metric, split, n, float(value), low, high)
        self.rows.append({**own, **dict(zip(COLUMNS, values, strict=True))})

    def sort(self, cells: Sequence[Cell]) -> None:
        """Bring the rows into the order of their cells; rows of one cell stay as they were added."""
        place: dict[object, int] = {tuple(cell): i for i, cell in enumerate(cells)}
        self.rows.sort(key=lambda row: place[row["block"], row["timestep"]])

    def frame(self) -> pd.DataFrame:
        table = pd.DataFrame(self.rows, columns=None if self.rows else list(COLUMNS))
        return table.astype({"timestep": "Int64", "step": "Int64"}) if len(table) else table

    def write(self) -> pd.DataFrame:
        """The frame, also as CSV where there is a path."""
        table = self.frame()
        if self.path is not None:
            table.to_csv(self.path, index=False, float_format="%.6g")
        return table
