"""Paired differences between runs: both score the same images, so chance that they share cancels.

With 100 + 100 images an AUROC of 0.8 has a standard error of 0.03. Two probes on the same images and folds can be told
apart far below that, by what each image adds to the difference itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from badhands.cells import Cell, in_order
from badhands.stats.auroc import auroc, placements
from badhands.stats.design import FEW_UNITS
from badhands.stats.intervals import standard_error

Floats = NDArray[np.float64]
OUT_OF_FOLD = "oof.npz"
"""In a run folder: every score that a probe gave to an image whose prompt it had not seen."""


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Image scores of one run, each from probes that have not seen the image's prompt."""

    images: tuple[str, ...]
    bad: NDArray[np.bool_]
    """[n]"""
    group: tuple[str, ...]
    """[n], the prompt: images of one prompt are not independent."""
    fold: NDArray[np.int64]
    """[draws, n]"""
    cells: tuple[Cell, ...]
    score: Floats
    """[c, draws, n], of the headline probe: low means bad."""
    widening: float = 1.0
    """What refitting adds to the spread of these fixed scores (`Scored.widening`)."""

    @classmethod
    def load(cls, run_folder: Path | str) -> "OutOfFold":
        """Image scores of a run.

        Raises:
            ValueError: the run has no out-of-fold scores.
        """
        path = Path(run_folder) / OUT_OF_FOLD
        if not path.is_file():
            raise ValueError(f"{run_folder} has no {OUT_OF_FOLD}: its probes were not fitted")
        with np.load(path) as found:
            return cls(
                tuple(found["images"].tolist()),
                found["bad"],
                tuple(found["group"].tolist()),
                found["fold"],
                tuple(Cell.parse(name) for name in found["cells"].tolist()),
                found["score"],
                float(found["widening"]),
            )

    def take(self, images: Sequence[str], cells: Sequence[Cell]) -> "OutOfFold":
        row = {name: i for i, name in enumerate(self.images)}
        column = {cell: i for i, cell in enumerate(self.cells)}
        rows = np.array([row[name] for name in images], int)
        keep = np.array([column[cell] for cell in cells], int)
        return OutOfFold(
            tuple(images),
            self.bad[rows],
            tuple(self.group[i] for i in rows),
            self.fold[:, rows],
            tuple(cells),
            self.score[keep][..., rows],
            self.widening,
        )


@dataclass(frozen=True)
class Difference:
    """AUROC of the second run minus AUROC of the first, with a 95 % interval."""

    value: float
    lo: float
    hi: float
    p: float
    """Two-sided."""
    images: int
    cells: int
    same_folds: bool

    @property
    def resolved(self) -> bool:
        """The interval leaves out 0."""
        return self.lo > 0 or self.hi < 0


def shared(first: OutOfFold, second: OutOfFold) -> tuple[OutOfFold, OutOfFold]:
    """Both, cut down to the images and cells that they have in common, in one order.

    Raises:
        ValueError: they share no cell, fewer than 4 images a class, or disagree about which images are bad.
    """
    images = [name for name in first.images if name in set(second.images)]
    cells = in_order(set(first.cells) & set(second.cells))
    a, b = first.take(images, cells), second.take(images, cells)
    if not cells:
        raise ValueError("the runs share no cell")
    if min(a.bad.sum(), (~a.bad).sum()) < 4:
        good, bad = int((~a.bad).sum()), int(a.bad.sum())
        raise ValueError(f"the runs share {good} good and {bad} bad images: paired differences need 4 of each")
    if not np.array_equal(a.bad, b.bad):
        raise ValueError("the runs disagree about which images are bad")
    return a, b


def difference(first: OutOfFold, second: OutOfFold) -> Difference:
    """Mean over the shared cells of AUROC(second) - AUROC(first), within folds, averaged over the draws of both."""
    a, b = shared(first, second)
    (before, moved), (after, moved_too) = (_mean(one) for one in (a, b))
    influence = moved_too - moved
    groups = np.unique(np.asarray(a.group), return_inverse=True)[1].reshape(-1)
    cluster = groups if groups.max() + 1 >= FEW_UNITS else np.arange(len(groups))
    error = max(a.widening, b.widening) * float(standard_error(influence, cluster))
    value, freedom = after - before, len(a.images) - 2
    wide = float(t.ppf(0.975, freedom)) * error
    p = float(2 * t.sf(abs(value) / error, freedom)) if error > 0 else 1.0
    same = bool(np.array_equal(a.fold, b.fold))
    return Difference(value, value - wide, value + wide, p, len(a.images), len(a.cells), same)


def _mean(run: OutOfFold) -> tuple[float, Floats]:
    """AUROC, mean over cells and draws, and what each image adds to it."""
    good = ~run.bad
    values = [auroc(run.score[:, r], good, fold=fold) for r, fold in enumerate(run.fold)]
    moved = [placements(run.score[:, r], good, fold).mean(0) for r, fold in enumerate(run.fold)]
    return float(np.nanmean(values)), np.mean(moved, axis=0)
