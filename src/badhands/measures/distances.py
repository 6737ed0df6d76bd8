"""D_B of every cell with its null and interval, from moments alone."""

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from badhands.cells import Cell
from badhands.measures.contrasts import Contrast
from badhands.measures.moments import Moments
from badhands.measures.nulls import (
    distance_terms,
    familywise,
    over_bootstraps,
    over_permutations,
    p_value,
    permuted,
    resampled,
    shifted_interval,
    top10_share,
)
from badhands.measures.separation import corrected_mean_term
from badhands.measures.settings import MeasureConfig
from badhands.measures.sides import CellSums, image_means, noise, observed, sides
from badhands.stats.long_table import LongTable

TERMS = {"db": [0, 1], "db_mean": [0], "db_var": [1]}
"""Names in the table, and the columns of `distance_terms` that they add up."""

SHARES = 200
"""Permutations for the null of the ten largest channels, which have to be sorted out."""


@dataclass
class Distances:
    """One contrast over all cells: joint permutations and bootstraps are drawn once and serve every cell."""

    chosen: Contrast
    config: MeasureConfig
    table: LongTable
    _plug_in: dict[Cell, float] = field(default_factory=dict)
    _null: dict[Cell, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._permuted: Tensor = permuted(self.chosen, self.config.permutations, self.config.seed)
        self._resampled = resampled(self.chosen, self.config.bootstraps, self.config.seed)

    def add(self, cell: Cell, sums: CellSums) -> None:
        """Rows of one cell (Eq. 6, 9, 10)."""
        both = sides(sums, observed(self.chosen))
        sbar = ((both.var_good + both.var_bad) / 2)[0].double().numpy()
        gap = both.gap[0].double().numpy()
        extra = np.add(*(noise(*image_means(self.chosen, sums, good)) for good in (True, False)))
        terms = distance_terms(both)[0].double().numpy()
        null = over_permutations(sums, self._permuted, distance_terms).double().numpy()
        drawn = over_bootstraps(sums, *self._resampled, distance_terms).double().numpy()

        for name, parts in TERMS.items():

            def pick(values: np.ndarray, parts: list[int] = parts) -> np.ndarray:
                return values[..., parts].sum(-1)

            value, chance = float(pick(terms)), pick(null)
            corrected = value - float(chance.mean())
            if name == "db_mean":
                corrected = corrected_mean_term(gap, extra, sbar)
            self._row(cell, f"{name}_plugin", value)
            self._row(cell, f"{name}_null", float(chance.mean()), np.quantile(chance, [0.025, 0.975]), "permutation")
            self._row(cell, f"{name}_corrected", corrected, shifted_interval(corrected, pick(drawn)), "corrected")
            self._row(cell, f"{name}_p", p_value(value, chance), split="permutation")
        self._row(cell, "top10_share", float(top10_share(both)[0]))
        chance = over_permutations(sums, self._permuted[:SHARES], top10_share).numpy()
        self._row(cell, "top10_share_null", chance.mean(), np.quantile(chance, [0.025, 0.975]), "permutation")
        self._plug_in[cell], self._null[cell] = float(terms[0] + terms[1]), null[:, 0] + null[:, 1]

    def finish(self) -> None:
        """p-values against the maximum over all cells, for any claim about a best cell."""
        cells = list(self._plug_in)
        found = familywise(
            np.array([self._plug_in[c] for c in cells]), np.stack([self._null[c] for c in cells], axis=1)
        )
        for cell, p in zip(cells, found, strict=True):
            self._row(cell, "db_p_max", p, split="permutation")

    def _row(self, cell: Cell, metric: str, value: float, interval=(np.nan, np.nan), split: str = "in-sample") -> None:
        self.table.add(self.chosen, cell, metric, value, interval, split=split)


def sums_of(moments: Moments, chosen: Contrast, cell: Cell) -> CellSums:
    return CellSums.of(chosen, *moments.sums(cell))
