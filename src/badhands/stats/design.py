"""What a comparison of good with bad images rests on: labels, what may be exchanged for what, and folds. Made once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from badhands.stats.folds import GOOD_IMAGE, check_folds, draw_folds, make_folds, units_of

DRAWS = 10
"""Fold draws behind every headline score."""
PERMUTATIONS = 1000
ROUNDING = 1e-4
"""Differences of float32 sums, in standard deviations of a null, that no p-value may rest on."""
FEWEST_PERMUTATIONS = 24
"""With fewer no p-value can reach the 4 % of the gate (`stats.family`): the smallest is 1 / (1 + permutations)."""
FEW_UNITS = 30
"""Units (prompts) below which their own spread says little, and images are taken as independent instead."""


@dataclass(frozen=True, eq=False)
class Design:
    """The images of a run; every measure and every probe uses this one."""

    label: NDArray[np.int32]
    """[n], classes of `stats.folds`: 1 good, 0 bad, -1 no hand."""
    unit: NDArray[np.int64]
    """[n], images that share a fold: equal text, and the whole stratum where labels are matched."""
    stratum: NDArray[np.int64]
    """[n], inside which labels are permuted: all 0 where labels are not matched."""
    base: NDArray[np.int32]
    """[n], one set of folds with both classes in each, for the token probes and the held-out measures."""
    folds: NDArray[np.int32]
    """[draws, n], blind to labels, for the headline."""
    seed: int = 0
    permutations: int = PERMUTATIONS
    """Labellings behind every null: the same ones for every measure and probe, so that all have one maximum."""

    @classmethod
    def of(
        cls,
        label: np.ndarray,
        text: Sequence[Any] | np.ndarray,
        stratum: Sequence[Any] | np.ndarray | None = None,
        n_folds: int = 5,
        draws: int = DRAWS,
        seed: int = 0,
        permutations: int = PERMUTATIONS,
    ) -> "Design":
        """From n labels, prompts and (where labels were matched) matching keys.

        With fewer strata than folds a stratum cannot stay whole: images of equal text still do. Where all images are of
        one text, each stands for itself.

        Raises:
            ValueError: one class only, or too few images or prompts for the folds.
        """
        if permutations < FEWEST_PERMUTATIONS or draws < 1:
            raise ValueError(
                f"data.permutations={permutations}, data.draws={draws}: a finding needs {FEWEST_PERMUTATIONS} "
                "permutations or more, a score 1 draw of folds or more"
            )
        label = np.asarray(label, np.int32)
        keys = np.zeros(len(label), np.int64)
        if stratum is not None:
            keys = np.unique(np.asarray(stratum), return_inverse=True)[1].reshape(-1).astype(np.int64)
        unit = units_of(text, keys)
        if stratum is None or not _enough(label, unit, n_folds):
            unit = units_of(text)
        if not unit.any():  # one prompt for all: there is no other that a probe could have seen, or fail on
            unit = np.arange(len(unit))
        check_folds(label, unit, n_folds)
        base, folds = make_folds(label, unit, n_folds, seed), draw_folds(unit, n_folds, draws, seed)
        return cls(label, unit, keys, base, folds, seed, permutations)

    @property
    def n_folds(self) -> int:
        return int(self.base.max()) + 1

    @cached_property
    def known(self) -> NDArray[np.intp]:
        """int[m], the images that are good or bad."""
        return np.flatnonzero(self.label >= 0)

    @cached_property
    def good(self) -> NDArray[np.bool_]:
        """bool[m], of the known images."""
        return self.label[self.known] == GOOD_IMAGE

    @property
    def matched(self) -> bool:
        """Labels were balanced inside strata."""
        return bool(self.stratum.any())

    @cached_property
    def labellings(self) -> NDArray[np.bool_]:
        """bool[1 + permutations, m]: the true labels of the known images, then permuted ones. True is good."""
        drawn = permuted(self.good, self.stratum[self.known], self.permutations, self.seed)
        return np.concatenate([self.good[None], drawn])

    def clusters(self, images: np.ndarray) -> NDArray[np.int64]:
        """int64[len(images)]: which of these images depend on each other, numbered from 0.

        Their units, where there are enough of them to tell how much these vary; else each image alone.
        """
        unit = np.unique(self.unit[images], return_inverse=True)[1].reshape(-1)
        return unit.astype(np.int64) if unit.max(initial=0) + 1 >= FEW_UNITS else np.arange(len(images))

    def shuffled(self, seed: int) -> "Design":
        """The same design with labels permuted: a study in which nothing is to be found."""
        label = self.label.copy()
        label[self.known] = permuted(self.good, self.stratum[self.known], 1, seed)[0]
        base = make_folds(label, self.unit, self.n_folds, self.seed)
        return replace(self, label=label, base=base)


def permuted(good: np.ndarray, stratum: np.ndarray, count: int, seed: int) -> NDArray[np.bool_]:
    """bool[count, m]: labels bool[m] exchanged between images of one stratum int[m] only."""
    rng = np.random.default_rng([seed, 1])
    order = np.argsort(stratum, kind="stable")
    out = np.empty((count, len(good)), bool)
    for part in np.split(order, np.flatnonzero(np.diff(stratum[order])) + 1):
        out[:, part] = rng.permuted(np.tile(good[part], (count, 1)), axis=1)
    return out


def p_value(observed: np.ndarray | float, null: np.ndarray) -> NDArray[np.float64]:
    """Share of permutations that reach the observed value, itself counted as one of them: [permutations, ...] -> [...].

    Never 0 (Phipson and Smyth 2010). Few images have few labellings, and the true one is drawn again: the same value,
    but for rounding, and that counts as reached.
    """
    return (1 + (null >= observed - ROUNDING * null.std(0)).sum(0)) / (1 + len(null))


def _enough(label: np.ndarray, unit: np.ndarray, n_folds: int) -> bool:
    return all(len(np.unique(unit[label == c])) >= n_folds for c in (0, 1))
