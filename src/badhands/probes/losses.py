"""How much AUROC a shared direction loses against each cell's own, by paired differences over images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from badhands.cells import Cell, in_order
from badhands.probes.global_direction import Trial
from badhands.stats.auroc import auroc, placements
from badhands.stats.design import Design
from badhands.stats.family import VERDICT_LEVEL
from badhands.stats.intervals import standard_error
from badhands.stats.long_table import LongTable

LEFT_OUT = ("block", "timestep", "window")
"""Kinds of splits that leave cells out: what the verdict is about."""


@dataclass(frozen=True, eq=False)
class Mean:
    """Mean AUROC over some cells, within folds, with what each image adds to it."""

    value: float
    influence: np.ndarray
    """float64[m]"""

    def minus(self, other: "Mean") -> "Mean":
        return Mean(self.value - other.value, self.influence - other.influence)


@dataclass(frozen=True, eq=False)
class Losses:
    """Every method of a trial, on the images of a design that are good or bad."""

    trial: Trial
    design: Design
    widening: float
    """What refitting adds to the spread of fixed scores."""

    @property
    def _fold(self) -> np.ndarray:
        return self.design.base[self.design.known]

    def cells_tried(self, kind: str, method: str) -> np.ndarray:
        """int[k], cells that this kind leaves out."""
        return np.flatnonzero(np.isfinite(self.trial.scores[kind, method][0][:, self.design.known]).all(1))

    def mean(self, scores: np.ndarray) -> Mean:
        """Of score rows [..., n images]: averaged over all leading axes."""
        known = scores[..., self.design.known]
        value = auroc(known, self.design.good, fold=self._fold)
        moved = placements(known, self.design.good, self._fold)
        return Mean(float(value.mean()), moved.reshape(-1, moved.shape[-1]).mean(0))

    def own(self, cells: np.ndarray | slice = slice(None)) -> Mean:
        return self.mean(self.trial.own[cells])

    def method(self, kind: str, method: str) -> Mean:
        return self.mean(self.trial.scores[kind, method][:, self.cells_tried(kind, method)])

    def interval(self, mean: Mean, level: float = 0.95) -> tuple[float, float]:
        fixed = float(standard_error(mean.influence, self.design.clusters(self.design.known)))
        # Both sides of a loss are refitted on the same images and share about half of what that adds (simulated:
        # with the whole factor 98 to 100 % of intervals hold the truth, with its root 95 to 98 %).
        error = fixed * self.widening**0.5
        wide = float(t.ppf((1 + level) / 2, len(self.design.known) - 2)) * error
        return mean.value - wide, mean.value + wide

    def verdict_rows(self) -> list[dict[str, Any]]:
        """What rank 1 loses to each cell's own probe and to rank 3, for every kind of left-out cells."""
        rows = []
        for kind in LEFT_OUT:
            if (kind, "rank1") not in self.trial.scores:
                continue
            one = self.method(kind, "rank1")
            for what, against in (
                ("to_own", self.own(self.cells_tried(kind, "rank1"))),
                ("to_rank3", self.method(kind, "rank3")),
            ):
                loss = against.minus(one)
                lo, hi = self.interval(loss, VERDICT_LEVEL)
                rows.append({"verdict": "one_direction", "what": f"{what}:{kind}", "value": loss.value, "lo": lo,
                             "hi": hi, "other": np.nan})  # fmt: skip
        return rows

    def table(self, steps: Mapping[int, tuple[int, float]]) -> pd.DataFrame:
        """tables/global_direction.csv: `probe` is the method, `split` the kind of cells left out, n images.

        Rows without block are means over cells: `image_auroc`, and `loss` against the cells' own probes on the same
        cells; rows with block are the cells' own `image_auroc`.
        """
        table, n = LongTable(steps), len(self.design.known)
        for c, cell in enumerate(self.trial.cells):
            table.add(cell, "image_auroc", self.own(slice(c, c + 1)).value, n=n, probe="own", split="own")
        for (kind, method), scores in self.trial.scores.items():
            about = {"n": n, "probe": method, "split": kind}
            tried = self.cells_tried(kind, method)
            mean = self.method(kind, method)
            loss = self.own(tried).minus(mean)
            table.add(None, "image_auroc", mean.value, self.interval(mean), **about)
            table.add(None, "loss", loss.value, self.interval(loss), **about)
            for c in tried:
                table.add(self.trial.cells[c], "image_auroc", self.mean(scores[:, c]).value, **about)
        return table.frame()

    def transfer_table(self) -> pd.DataFrame:
        """tables/transfer.csv: AUROC of the weight of (from_block, from_timestep) on (block, timestep), held out."""
        cells = self.trial.cells
        assert cells == in_order(cells)
        found = auroc(self.trial.transfer[..., self.design.known], self.design.good, fold=self._fold)
        pairs = [(i, j) for i in range(len(cells)) for j in range(len(cells))]

        def row(a: Cell, b: Cell, value: float) -> dict[str, Any]:
            return {"from_block": a.block, "from_timestep": a.timestep, "block": b.block, "timestep": b.timestep,
                    "probe": "ridge", "metric": "image_auroc", "split": "out_of_fold", "value": value}  # fmt: skip

        return pd.DataFrame([row(cells[i], cells[j], float(found[i, j])) for i, j in pairs])
