"""Held-out scores: one number a token, from a rule fitted on the images of other folds (Eq. 10, 11).

The rules are the two classifiers of the diagonal Gaussian model that D_B itself assumes. "mass_mean" looks along v on
standardised channels; "qda" also uses the variances, so the difference of the two is what the variance term is worth.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from badhands.measures.contrasts import Contrast
from badhands.measures.nulls import shifted_interval
from badhands.measures.separation import bhattacharyya, certified_distance, equivalent_distance, kde_distance
from badhands.measures.sides import CellSums, Sides, sides

BLOCK = 2048
"""Tokens scored at once."""


@dataclass(frozen=True, eq=False)
class Rules:
    """The rules of all folds; column f was fitted without fold f. A score is x @ linear + x^2 @ square + offset."""

    linear: Tensor
    """float32[d, folds], on channels centred and scaled as in `CellSums`."""
    square: Tensor
    """float32[d, folds]; zeros for a linear rule."""
    offset: Tensor
    """float32[folds]; 0 is the threshold midway."""

    def on_raw(self, sums: CellSums, centre: np.ndarray) -> "Rules":
        """The same rules for tokens x - `centre` in raw units, float64[D] with all channels."""
        shift = torch.from_numpy((centre[sums.alive] - sums.mean) / sums.sd)[:, None]
        sd, linear, square = torch.from_numpy(sums.sd)[:, None], self.linear.double(), self.square.double()
        offset = self.offset + (shift * linear + shift.square() * square).sum(0)

        def spread(values: Tensor) -> Tensor:
            full = torch.zeros(len(centre), values.shape[1])
            full[torch.from_numpy(sums.alive)] = values.float()
            return full

        return Rules(spread((linear + 2 * shift * square) / sd), spread(square / sd.square()), offset.float())

    def scores(self, x: Tensor) -> Tensor:
        """float32[n, d] -> [n, folds]; positive = good."""
        chunks = [part @ self.linear + part.square() @ self.square for part in x.split(BLOCK)]
        return torch.cat(chunks) + self.offset

    @classmethod
    def joined(cls, rules: "list[Rules]") -> "Rules":
        """Several sets of rules side by side, so that one pass over the tokens scores all of them."""
        return cls(*(torch.cat([getattr(r, name) for r in rules], -1) for name in ("linear", "square", "offset")))


def training_sides(chosen: Contrast, sums: CellSums, fold: np.ndarray, folds: int) -> Sides:
    """Means and variances of both sides on the images outside each fold, [folds, d]. `fold` is int[J]."""
    keep = torch.from_numpy(np.stack([fold[chosen.image] != f for f in range(folds)]).astype(np.float32))
    good = torch.from_numpy(chosen.good.astype(np.float32))
    return sides(sums, keep * good, keep * (1 - good))


def mass_mean(fitted: Sides) -> Rules:
    """w = v / sbar, threshold midway between the class means."""
    w = fitted.gap / ((fitted.var_good + fitted.var_bad) / 2)
    return Rules(w.T.contiguous(), torch.zeros_like(w).T, -(w * (fitted.mean_good + fitted.mean_bad) / 2).sum(-1))


def qda(fitted: Sides) -> Rules:
    """ln N(x; m1, s1) - ln N(x; m0, s0) for diagonal Gaussians."""
    (m1, s1), (m0, s0) = (fitted.mean_good, fitted.var_good), (fitted.mean_bad, fitted.var_bad)
    offset = 0.5 * (m0.square() / s0 - m1.square() / s1 + torch.log(s0 / s1)).sum(-1)
    return Rules((m1 / s1 - m0 / s0).T.contiguous(), (0.5 * (1 / s0 - 1 / s1)).T.contiguous(), offset)


@dataclass(frozen=True, eq=False)
class PairTable:
    """For every good image i and bad image j, the chance that a token of i scores above a token of j.

    Token AUROC with images weighted equally is its mean, and every image bootstrap of it two small products.
    """

    above: np.ndarray
    """float64[good rows, bad rows]."""
    good_image: np.ndarray
    bad_image: np.ndarray

    @classmethod
    def of(cls, chosen: Contrast, scores: np.ndarray, row: np.ndarray) -> "PairTable":
        """`scores` float[n] of tokens in rows int[n] of the contrast."""
        order = np.argsort(row, kind="stable")
        scores, row = scores[order], row[order]
        good = chosen.good[row]
        good_rows, starts, sizes = np.unique(row[good], return_index=True, return_counts=True)
        bad_rows, column, bad_sizes = np.unique(row[~good], return_inverse=True, return_counts=True)
        ranked = np.argsort(scores[~good])
        below = np.zeros((len(ranked) + 1, len(bad_rows)), np.float32)
        below[np.arange(1, len(ranked) + 1), column.reshape(-1)[ranked]] = 1
        below = below.cumsum(0, out=below)
        sorted_bad = scores[~good][ranked]
        left, right = (np.searchsorted(sorted_bad, scores[good], side) for side in ("left", "right"))
        wins = np.add.reduceat(below[left].astype(np.float64) + below[right], starts, axis=0)
        above = wins / (2 * sizes[:, None] * bad_sizes)
        return cls(above, chosen.image[good_rows], chosen.image[bad_rows])

    @property
    def auroc(self) -> float:
        return float(self.above.mean())

    def resampled(self, counts: np.ndarray) -> np.ndarray:
        """AUROC in each bootstrap; counts float[b, J] (`nulls.image_counts`) -> float64[b]."""
        good, bad = counts[:, self.good_image], counts[:, self.bad_image]
        return ((good @ self.above) * bad).sum(1) / (good.sum(1) * bad.sum(1))


@dataclass(frozen=True)
class HeldOut:
    """What one rule does on images it was not fitted on: {metric: (value, low, high)}."""

    metrics: dict[str, tuple[float, float, float]]
    aurocs: np.ndarray
    """float64[b], token AUROC in the bootstraps; the same images in every cell and rule, so differences are paired."""


def held_out(chosen: Contrast, scores: np.ndarray, row: np.ndarray, counts: np.ndarray) -> HeldOut:
    """Everything that Eq. 10 and 11 want beside D_B.

    Args:
        scores: float[n], positive = good, of tokens in rows int[n] of the contrast.
        counts: float64[b, J], how often each image is drawn in each bootstrap (`nulls.image_counts`).
    """
    pairs = PairTable.of(chosen, scores, row)
    aurocs = pairs.resampled(counts)
    interval = tuple(np.quantile(aurocs, [0.025, 0.975]))
    metrics: dict[str, tuple[float, float, float]] = {"auroc": (pairs.auroc, *interval)}
    value, low, high = map(equivalent_distance, metrics["auroc"])
    metrics["d_eq"] = (value, low, high)

    tokens = np.bincount(row, minlength=len(chosen.good)).astype(float)
    wrong = np.bincount(row, (scores > 0) != chosen.good[row], minlength=len(tokens)) / tokens
    weight = counts[:, chosen.image]
    error, errors = 0.0, np.zeros(len(counts))
    for side in (chosen.good, ~chosen.good):
        error += wrong[side].mean() / 2
        errors += (weight[:, side] @ wrong[side]) / weight[:, side].sum(1) / 2
    low, high = np.quantile(errors, [0.025, 0.975])
    metrics["error"] = (float(error), float(low), float(high))
    metrics["certified"] = (certified_distance(error), certified_distance(high), certified_distance(low))

    good = chosen.good[row]
    by_row = [np.bincount(row, scores**power, minlength=len(tokens)) for power in (1, 2)]
    metrics["db_scores"] = _gaussian(chosen, weight, tokens, *by_row)
    metrics["db_scores_kde"] = (kde_distance(scores[good], scores[~good]), np.nan, np.nan)
    return HeldOut(metrics, aurocs)


def _gaussian(
    chosen: Contrast, weight: np.ndarray, n: np.ndarray, s: np.ndarray, q: np.ndarray
) -> tuple[float, float, float]:
    """D_B of the scores by the Gaussian formula (Eq. 11), with its image bootstrap."""
    scale = np.sqrt(q.sum() / n.sum()) + 1e-30
    s, q = s / scale, q / scale**2

    def distance(good: np.ndarray, bad: np.ndarray) -> np.ndarray:
        parts = []
        for w in (good, bad):
            mean = (w @ s) / (w @ n)
            parts += [mean, np.maximum((w @ q) / (w @ n) - mean**2, 1e-9)]
        m1, s1, m0, s0 = (torch.from_numpy(np.asarray(part)) for part in parts)
        mean_term, variance_term = bhattacharyya(m1 - m0, s1, s0)
        return (mean_term + variance_term).numpy()

    value = float(distance(chosen.good[None].astype(float), (~chosen.good)[None].astype(float))[0])
    return (value, *shifted_interval(value, distance(weight * chosen.good, weight * ~chosen.good)))
