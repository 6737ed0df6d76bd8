"""Two verdicts of the measures: do variances carry information, and does D_B rise late? Paired, at the gate's level."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from badhands.cells import Cell
from badhands.measures.distances import Distances
from badhands.measures.image_scores import rule_scores
from badhands.measures.nulls import labellings
from badhands.measures.plan import Plan
from badhands.measures.scores import mass_mean, qda
from badhands.measures.sides import CellSums
from badhands.stats.family import VERDICT_LEVEL
from badhands.stats.intervals import Scored
from badhands.stats.long_table import LongTable


@dataclass(eq=False)
class Rivals:
    """The linear rule and the one that uses variances, on held-out images of every cell."""

    plan: Plan
    found: dict[Cell, tuple[Scored, Scored]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._labels = labellings(self.plan.main, self.plan.design)

    def add(self, cell: Cell, sums: CellSums) -> float:
        """Score one cell; returns by how much refitting widens the spread of fixed scores (`Scored.widening`)."""
        linear, square = rule_scores(self.plan.main, cell, sums, self._labels, self.plan.design, (mass_mean, qda))
        self.found[cell] = linear, square
        return linear.widening

    def rows(self, table: LongTable) -> None:
        """Image AUROC of both rules, and what the second gains, paired."""
        about = {"split": "held-out", **self.plan.main.about}
        for cell in self.plan.cells:
            linear, square = self.found[cell]
            for probe, one in (("mass_mean", linear), ("qda", square)):
                table.add(cell, "image_auroc", one.value[0], one.intervals[0], probe=probe, **about)
            value, lo, hi = Scored.joined([linear, square]).combined([-1.0, 1.0])
            table.add(cell, "auroc_gain", value[0], (lo[0], hi[0]), probe="qda", **about)

    def verdict(self) -> dict[str, Any]:
        """Mean gain over the blocks' cells, with the interval of a verdict."""
        both = [self.found[cell] for cell in self.plan.blocks]
        linear, square = (Scored.joined([pair[k] for pair in both]) for k in (0, 1))
        mix = np.full(len(both), 1 / len(both))
        value, lo, hi = Scored.joined([linear, square]).combined([*-mix, *mix], VERDICT_LEVEL)
        above = square.combined(mix, VERDICT_LEVEL)[1]
        return {"verdict": "variance", "what": "gain", "value": value[0], "lo": lo[0], "hi": hi[0], "other": above[0]}


def late_rise(plan: Plan, distances: Mapping[str, Distances]) -> list[dict[str, Any]]:
    """Corrected D_B of the last third of the timesteps minus that of the first, mean over blocks; [] with too few."""
    weights: dict[Cell, float] = {}
    blocks = list(dict.fromkeys(cell.block for cell in plan.blocks))
    for block in blocks:
        cells = sorted((c for c in plan.blocks if c.block == block), key=lambda c: -c.timestep)
        third = len(cells) // 3
        if not third:
            return []
        for cell in cells[:third]:
            weights[cell] = -1 / (third * len(blocks))
        for cell in cells[-third:]:
            weights[cell] = 1 / (third * len(blocks))
    if not weights:
        return []
    value, lo, hi = distances["good_vs_bad"].combined(weights, VERDICT_LEVEL)
    return [{"verdict": "late_rise", "what": "rise", "value": value, "lo": lo, "hi": hi, "other": np.nan}]
