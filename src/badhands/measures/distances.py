"""D_B of every cell with its null and interval, from moments alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from badhands.cells import Cell
from badhands.measures.contrasts import Contrast
from badhands.measures.moments import Moments
from badhands.measures.nulls import (
    LeftOut,
    distance_terms,
    labellings,
    over_left_out,
    over_permutations,
    top10_share,
)
from badhands.measures.separation import corrected_mean_term
from badhands.measures.sides import CellSums, image_means, noise, observed, sides
from badhands.stats.design import Design, p_value
from badhands.stats.family import Family
from badhands.stats.intervals import jackknife_variance, quadratic_interval
from badhands.stats.long_table import LongTable

TERMS = {"db": [0, 1], "db_mean": [0], "db_var": [1]}
"""Names in the table, and the columns of `distance_terms` that they add up."""

SHARES = 200
"""Permutations for the null of the ten largest channels, which have to be sorted out."""


@dataclass(frozen=True, eq=False)
class Distance:
    """Plug-in D_B of one cell: mean term and variance term."""

    terms: np.ndarray
    """float64[2]"""
    null: np.ndarray
    """float64[permutations, 2]"""


@dataclass
class Distances:
    """One contrast over all cells: joint permutations are drawn once and serve every cell."""

    contrast: Contrast
    design: Design
    table: LongTable
    found: dict[Cell, Distance] = field(default_factory=dict)
    left_out: dict[Cell, np.ndarray] = field(default_factory=dict)
    """float64[k, 2], with one image (or prompt) left out: what intervals need."""

    def __post_init__(self) -> None:
        self._permuted: Tensor = labellings(self.contrast, self.design)
        self._one_less = LeftOut.of(self.contrast, self.design)

    def test(self, cell: Cell, sums: CellSums) -> Distance:
        """Of one cell, what the gate asks for."""
        one = self.found[cell] = Distance(
            distance_terms(sides(sums, observed(self.contrast)).cpu())[0].double().numpy(),
            over_permutations(sums, self._permuted, distance_terms).double().numpy(),
        )
        return one

    def add(self, cell: Cell, sums: CellSums) -> None:
        """The same, and all rows of the cell (Eq. 6, 9, 10)."""
        one = self.test(cell, sums)
        both = sides(sums, observed(self.contrast)).cpu()
        sbar = ((both.var_good + both.var_bad) / 2)[0].double().numpy()
        gap = both.gap[0].double().numpy()
        extra = np.add(*(noise(*image_means(self.contrast, sums, good)) for good in (True, False)))
        share = float(top10_share(both)[0])
        self.left_out[cell] = over_left_out(sums, self._one_less, distance_terms).double().numpy()
        for name in TERMS:
            unbiased = corrected_mean_term(gap, extra, sbar) if name == "db_mean" else None
            self._term_rows(cell, one, name, unbiased)
        self._row(cell, "top10_share", share)
        chance = over_permutations(sums, self._permuted[:SHARES], top10_share).numpy()
        self._row(cell, "top10_share_null", chance.mean(), np.quantile(chance, [0.025, 0.975]), "permutation")

    def _term_rows(self, cell: Cell, one: Distance, name: str, unbiased: float | None) -> None:
        parts = TERMS[name]
        value, null = float(one.terms[parts].sum()), one.null[:, parts].sum(1)
        variance = float(jackknife_variance(self.left_out[cell][:, parts].sum(1), self._one_less.role))
        corrected = value - float(null.mean()) if unbiased is None else unbiased
        self._row(cell, f"{name}_plugin", value)
        self._row(cell, f"{name}_null", float(null.mean()), np.quantile(null, [0.025, 0.975]), "permutation")
        self._row(cell, f"{name}_corrected", corrected, quadratic_interval(corrected, variance, null), "corrected")
        self._row(cell, f"{name}_p", float(p_value(value, null)), split="permutation")

    def logarithms(self, cells: Sequence[Cell]) -> tuple[np.ndarray, np.ndarray]:
        """log D_B [k] and under permutation [permutations, k]."""
        value = log([self.found[c].terms.sum() for c in cells])
        return value, log(np.stack([self.found[c].null.sum(1) for c in cells], axis=1))

    def finish(self, cells: Sequence[Cell]) -> None:
        """Rows of p-values against the largest cell of this contrast alone."""
        alone = Family()
        alone.add("db", [str(c) for c in cells], *self.logarithms(cells))
        for cell, p in zip(cells, alone.p()["db"], strict=True):
            self._row(cell, "db_p_max", float(p), split="permutation")

    def combined(self, weights: dict[Cell, float], level: float) -> tuple[float, float, float]:
        """Corrected D_B summed over cells with weights, such as late minus early, with its interval."""
        value, null = 0.0, np.zeros(len(self._permuted))
        left_out = np.zeros(len(self._one_less))
        for cell, weight in weights.items():
            one = self.found[cell]
            value += weight * float(one.terms.sum() - one.null.sum(1).mean())
            null += weight * one.null.sum(1)
            left_out += weight * self.left_out[cell].sum(1)
        variance, distance = float(jackknife_variance(left_out, self._one_less.role)), min(weights.values()) > 0
        return value, *quadratic_interval(value, variance, null, level, distance)

    def _row(
        self,
        cell: Cell,
        metric: str,
        value: float,
        interval: Sequence[float] | np.ndarray = (np.nan, np.nan),
        split: str = "in-sample",
    ) -> None:
        self.table.add(cell, metric, value, interval, probe="moments", split=split, **self.contrast.about)


def log(squares: ArrayLike) -> np.ndarray:
    """Logarithm of squared distances, which makes their null about normal; a cell where nothing varies has none."""
    return np.log(np.maximum(np.asarray(squares, np.float64), 1e-12))


def sums_of(moments: Moments, contrast: Contrast, cell: Cell, device: torch.device | str = "cpu") -> CellSums:
    return CellSums.of(contrast, *moments.sums(cell), device)
