"""Rows of a long table: one number with its interval, and everything needed to know what it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from badhands.cells import Cell
from badhands.measures.contrasts import Contrast

COLUMNS = ["block", "timestep", "step", "sigma", "probe", "metric", "split", "n", "value", "lo", "hi"]
"""What every table of the project has, in this order, after columns of its own."""


@dataclass
class LongTable:
    """Collects rows; `frame()` sorts cells into network order."""

    steps: Mapping[int, tuple[int, float]]
    """Timestep -> (step, sigma)."""
    rows: list[dict] = field(default_factory=list)

    def add(
        self,
        chosen: Contrast,
        cell: Cell,
        metric: str,
        value: float,
        interval: Sequence[float] | np.ndarray = (np.nan, np.nan),
        probe: str = "moments",
        split: str = "in-sample",
        **more: object,
    ) -> None:
        """n is the number of images; the tokens and the two classes stand in columns of their own."""
        step, sigma = self.steps[cell.timestep]
        good, bad = chosen.counts
        self.rows.append(
            {
                "comparison": chosen.name,
                **more,
                "n_good": good,
                "n_bad": bad,
                "n_tokens": int(chosen.tokens.sum()),
                "block": cell.block,
                "timestep": cell.timestep,
                "step": step,
                "sigma": sigma,
                "probe": probe,
                "metric": metric,
                "split": split,
                "n": good + bad,
                "value": float(value),
                "lo": float(interval[0]),
                "hi": float(interval[1]),
            }
        )

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=None if self.rows else COLUMNS)
