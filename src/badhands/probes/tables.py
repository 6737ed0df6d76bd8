"""The probes' long tables: one row a number, written as CSV as soon as there is something to write."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from badhands.cells import Cell, in_order
from badhands.probes.recovery import GlobalAnswer
from badhands.probes.scores import Score

COLUMNS = (
    "head",
    "control",
    "block",
    "timestep",
    "step",
    "sigma",
    "probe",
    "metric",
    "split",
    "n",
    "value",
    "lo",
    "hi",
)


class ScoreTable:
    """Rows of tables/scores.csv.

    `control` is `none` for what is claimed; random_labels, geometry, prompt, not_hand_tokens, xt, x0 and x0_variance
    for what it is held against. `split` is out_of_fold, good_vs_local, good_vs_global (the same scores, fewer bad
    images), or permutation.
    """

    def __init__(self, steps: Mapping[int, tuple[int, float]], path: Path | None = None):
        self.steps, self.path, self.rows = steps, path, []

    def add(
        self,
        cell: Cell | None,
        metric: str,
        value: float,
        lo: float = np.nan,
        hi: float = np.nan,
        *,
        n: int,
        probe: str,
        head: str = "good",
        control: str = "none",
        split: str = "out_of_fold",
    ) -> None:
        step, sigma = self.steps.get(cell.timestep, (np.nan, np.nan)) if cell else (np.nan, np.nan)
        where = (cell.block, cell.timestep) if cell else (np.nan, np.nan)
        values = (head, control, *where, step, sigma, probe, metric, split, n, value, lo, hi)
        self.rows.append(dict(zip(COLUMNS, values, strict=True)))

    def extend(self, cell: Cell | None, scores: Iterable[Score], **where: Any) -> None:
        for score in scores:
            self.add(cell, score.metric, score.value, score.lo, score.hi, n=score.n, **where)

    def write(self) -> pd.DataFrame:
        table = pd.DataFrame(self.rows, columns=list(COLUMNS)).astype({"timestep": "Int64", "step": "Int64"})
        if self.path is not None:
            table.to_csv(self.path, index=False)
        return table


def global_table(answer: GlobalAnswer, cells: tuple[Cell, ...], steps: Mapping[int, tuple[int, float]]) -> pd.DataFrame:
    """tables/global_direction.csv: columns as in scores.csv without head and control; `split` is the left-out kind.

    Rows without block are means over cells (metrics image_auroc, recovery, recovery_worst, rank3_minus_rank1); rows
    with block and timestep are the cells' own image_auroc under each method.
    """
    rows = []

    def add(cell: Cell | None, method: str, metric: str, kind: str, n: int, value: tuple[float, float, float]) -> None:
        at = (cell.block, cell.timestep, *steps.get(cell.timestep, (None, None))) if cell else (None,) * 4
        rows.append((*at, method, metric, kind, n, *value))

    for row in answer.rows:
        add(None, row.method, "image_auroc", row.kind, row.cells, row.auroc)
        add(None, row.method, "recovery", row.kind, row.cells, row.recovery)
        worst = Cell.parse(row.worst_cell) if row.worst_cell else None
        add(worst, row.method, "recovery_worst", row.kind, row.cells, row.worst)
    for kind, gain in answer.rank_gain.items():
        add(None, "rank3", "rank3_minus_rank1", kind, len(cells), gain)
    for (kind, method), values in answer.cell_auroc.items():
        for cell, value in zip(cells, values, strict=True):
            if np.isfinite(value):
                add(cell, method, "image_auroc", kind or "own", 1, (float(value), np.nan, np.nan))
    columns = ["block", "timestep", "step", "sigma", "probe", "metric", "split", "n", "value", "lo", "hi"]
    return pd.DataFrame(rows, columns=columns).astype({"timestep": "Int64", "step": "Int64"})


def transfer_table(answer: GlobalAnswer, cells: tuple[Cell, ...]) -> pd.DataFrame:
    """tables/transfer.csv: AUROC of the weight of (from_block, from_timestep) on (block, timestep), held-out images."""
    assert cells == in_order(cells)
    return pd.DataFrame(
        [
            (a.block, a.timestep, b.block, b.timestep, "ridge", "image_auroc", "out_of_fold", answer.transfer[i, j])
            for i, a in enumerate(cells)
            for j, b in enumerate(cells)
        ],
        columns=["from_block", "from_timestep", "block", "timestep", "probe", "metric", "split", "value"],
    )
