"""The curves of a run: one value a block and timestep, as lines over the steps."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from badhands.cells import block_key
from badhands.report.results import CURVES, cell_values
from badhands.report.run import Run


@dataclass(frozen=True)
class Curve:
    """One measure over the steps, a line for each block."""

    name: str
    title: str
    steps: list[int]
    """Count up from 0, pure noise."""
    timesteps: list[int]
    """The same steps, counting down."""
    sigmas: list[float]
    lines: dict[str, list[float]]
    """Block, in network order -> a value a step; nan where the cell is not there."""

    def rows(self) -> pd.DataFrame:
        """Long form: key, step, timestep, sigma, value."""
        axes = {"step": self.steps, "timestep": self.timesteps, "sigma": self.sigmas}
        parts = [pd.DataFrame({"key": f"{self.name}/{b}", **axes, "value": line}) for b, line in self.lines.items()]
        return pd.concat(parts, ignore_index=True)


def series(run: Run, skip: set[str]) -> Iterator[Curve]:
    """Every curve that the run's tables hold by now. Names already in `skip` are left out; new ones are added to it."""
    for name, title in CURVES.items():
        if name in skip:
            continue
        table = cell_values(run, name)
        if table.empty:
            continue
        skip.add(name)
        axes = table[["step", "timestep", "sigma"]].drop_duplicates("step").sort_values("step")
        grid = table.pivot_table(index="block", columns="step", values="value", dropna=False)
        grid = grid.reindex(columns=axes["step"])
        yield Curve(
            name,
            title,
            [int(s) for s in axes["step"]],
            [int(t) for t in axes["timestep"]],
            [float(s) for s in axes["sigma"]],
            {b: [float(v) for v in np.asarray(grid.loc[b], float)] for b in sorted(grid.index, key=block_key)},
        )
