"""Is the direction from bad to good longer than chance makes it? Only then is it resolved, and a cosine quoted."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from badhands.cells import Cell
from badhands.measures.contrasts import Contrast
from badhands.measures.directions import Direction, direction, squared_lengths
from badhands.measures.distances import log
from badhands.measures.nulls import labellings, over_permutations
from badhands.measures.sides import CellSums, observed, sides
from badhands.stats.design import Design, p_value
from badhands.stats.family import CELLS, Family
from badhands.stats.long_table import LongTable

SCALES = ("raw", "standardised")


@dataclass
class Lengths:
    """|v|^2 of one contrast in all cells, with its joint null."""

    contrast: Contrast
    design: Design
    table: LongTable
    value: dict[Cell, np.ndarray] = field(default_factory=dict)
    """float64[2], plug-in |v|^2 by scale."""
    null: dict[Cell, np.ndarray] = field(default_factory=dict)
    """float64[permutations, 2]"""
    unbiased: dict[Cell, Direction] = field(default_factory=dict)
    resolved: dict[str, dict[Cell, bool]] = field(default_factory=dict)
    """By scale; known after `decide`."""

    def __post_init__(self) -> None:
        self._permuted = labellings(self.contrast, self.design)

    def test(self, cell: Cell, sums: CellSums) -> None:
        """Of one cell, what the gate asks for."""
        lengths = squared_lengths(sums)
        self.value[cell] = lengths(sides(sums, observed(self.contrast)))[0].double().cpu().numpy()
        self.null[cell] = over_permutations(sums, self._permuted, lengths).double().numpy()

    def add(self, cell: Cell, sums: CellSums) -> None:
        """The same, and all rows of the cell."""
        self.test(cell, sums)
        one = self.unbiased[cell] = direction(self.contrast, sums)
        about = {"probe": "moments", **self.contrast.about}
        for scale, value, squared in zip(SCALES, self.value[cell], (one.squared, one.squared_standard), strict=True):
            self.table.add(cell, f"v_length_{scale}", float(value) ** 0.5, split="in-sample", **about)
            self.table.add(cell, f"v_squared_unbiased_{scale}", squared, split="corrected", **about)

    def squares(self, cells: Sequence[Cell], scale: int) -> tuple[np.ndarray, np.ndarray]:
        """log |v|^2 [k] and under permutation [permutations, k]."""
        value = np.array([self.value[c][scale] for c in cells])
        null = np.stack([self.null[c][:, scale] for c in cells], axis=1)
        return log(value), log(null)

    def p(self, cell: Cell) -> np.ndarray:
        """float64[2], of this cell alone, by scale."""
        return p_value(self.value[cell], self.null[cell])

    def decide(self, cells: Sequence[Cell], family: Family | None) -> None:
        """A direction is resolved where it passed the gate and its unbiased |v|^2 (Eq. 2) is positive.

        Args:
            family: of the whole run; None for comparisons beside it, which answer for their own cells alone.
        """
        for k, scale in enumerate(SCALES):
            judge = family or Family()
            if family is None:
                judge.add(f"v_{scale}", [str(c) for c in cells], *self.squares(cells, k))
            p = judge.p()[f"v_{scale}"]
            self.resolved[scale] = {
                cell: bool(p[i] <= CELLS and (self.unbiased[cell].squared, self.unbiased[cell].squared_standard)[k] > 0)
                for i, cell in enumerate(cells)
            }
