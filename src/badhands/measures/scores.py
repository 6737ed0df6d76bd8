"""Held-out scores: one number a token, from a rule fitted on the images of other folds (Eq. 10, 11).

The rules are the two classifiers of the diagonal Gaussian model that D_B itself assumes. "mass_mean" looks along v on
standardised channels; "qda" also uses the variances, so the difference of the two is what the variance term is worth.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from badhands.measures.contrasts import Contrast
from badhands.measures.separation import bhattacharyya, certified_distance, equivalent_distance, kde_distance
from badhands.measures.sides import CellSums, Sides, sides
from badhands.stats.auroc import below
from badhands.stats.intervals import auroc_interval, standard_error
from badhands.stats.threads import blocks

BLOCK = 128
"""Tokens scored at once on a CPU."""


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
        device = self.linear.device
        shift = torch.from_numpy((centre[sums.varying_channels] - sums.mean) / sums.sd)[:, None].to(device)
        sd, linear, square = torch.from_numpy(sums.sd)[:, None].to(device), self.linear.double(), self.square.double()
        offset = self.offset + (shift * linear + shift.square() * square).sum(0)

        def spread(values: Tensor) -> Tensor:
            full = torch.zeros(len(centre), values.shape[1], device=values.device)
            full[torch.from_numpy(sums.varying_channels).to(values.device)] = values.float()
            return full

        return Rules(spread((linear + 2 * shift * square) / sd), spread(square / sd.square()), offset.float())

    def scores(self, x: Tensor) -> Tensor:
        """float32[n, d] -> [n, folds]; positive = good."""
        out = torch.empty(len(x), self.linear.shape[1], device=x.device)
        for at in blocks(x, BLOCK):
            torch.addmm(x[at] @ self.linear, x[at].square(), self.square, out=out[at])
        return out.add_(self.offset)

    @classmethod
    def joined(cls, rules: "list[Rules]") -> "Rules":
        """Several sets of rules side by side, so that one pass over the tokens scores all of them."""
        return cls(*(torch.cat([getattr(r, name) for r in rules], -1) for name in ("linear", "square", "offset")))


def training_sides(contrast: Contrast, sums: CellSums, fold: np.ndarray, folds: int) -> Sides:
    """Means and variances of both sides on the images outside each fold, [folds, d]. `fold` is int[J]."""
    keep = torch.from_numpy(np.stack([fold[contrast.image] != f for f in range(folds)]).astype(np.float32))
    good = torch.from_numpy(contrast.good.astype(np.float32))
    return sides(sums, (keep * good).to(sums.s.device), (keep * (1 - good)).to(sums.s.device))


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
class TokenPairs:
    """Token AUROC within folds, every pair of a good and a bad side of images counting the same."""

    auroc: float
    excess: np.ndarray
    """float64[rows], the share of pairs that a row wins beyond what the AUROC leads to expect, in pairs."""
    image: np.ndarray
    """int[rows]"""
    pairs: int

    @classmethod
    def of(cls, contrast: Contrast, scores: np.ndarray, row: np.ndarray, fold: np.ndarray) -> "TokenPairs":
        """`scores` float[n] of tokens in rows int[n] of the contrast; fold int[J] of its images."""
        rows = len(contrast.good)
        tokens = np.bincount(row, minlength=rows)
        weight, good, of_row = 1 / tokens[row], contrast.good[row], fold[contrast.image]
        won, met, pairs = np.zeros(rows), np.zeros(rows), 0
        for f in np.unique(of_row):
            mine = np.flatnonzero(of_row[row] == f)
            mine = mine[np.argsort(scores[mine], kind="stable")]
            ranked, side, share = scores[mine], good[mine], weight[mine]
            above = np.where(side, below(ranked, share * ~side), share[side].sum() - below(ranked, share * side))
            won += np.bincount(row[mine], share * above, minlength=rows)
            here = (of_row == f) & (tokens > 0)
            n_good, n_bad = int((here & contrast.good).sum()), int((here & ~contrast.good).sum())
            met[here] = np.where(contrast.good[here], n_bad, n_good)
            pairs += n_good * n_bad
        auroc = float(won[contrast.good].sum() / pairs)
        return cls(auroc, won - auroc * met, contrast.image, pairs)

    def influence(self, images: int) -> np.ndarray:
        """float64[images], as `stats.auroc.placements`."""
        return np.bincount(self.image, self.excess, minlength=images) * images / self.pairs


def held_out(
    contrast: Contrast, scores: np.ndarray, row: np.ndarray, fold: np.ndarray, cluster: np.ndarray, widening: float
) -> dict[str, tuple[float, float, float]]:
    """What one rule does on images it was not fitted on (Eq. 10 and 11): {metric: (value, low, high)}.

    Args:
        scores: float[n], positive = good, of tokens in rows int[n] of the contrast.
        fold, cluster: int[J] of its images. widening: what refitting adds to the spread of fixed scores.
    """
    pairs = TokenPairs.of(contrast, scores, row, fold)
    error = widening * float(standard_error(pairs.influence(len(contrast.images)), cluster))
    metrics = {"auroc": (pairs.auroc, *auroc_interval(pairs.auroc, error, contrast.role))}
    value, low, high = map(equivalent_distance, metrics["auroc"])
    metrics["d_eq"] = (value, low, high)
    metrics["error"] = _balanced_error(contrast, scores, row, widening)
    value, low, high = metrics["error"]
    metrics["certified"] = (certified_distance(value), certified_distance(high), certified_distance(low))
    good = contrast.good[row]
    metrics["db_scores"] = (_gaussian(scores[good], scores[~good]), np.nan, np.nan)
    metrics["db_scores_kde"] = (kde_distance(scores[good], scores[~good]), np.nan, np.nan)
    return metrics


def _balanced_error(
    contrast: Contrast, scores: np.ndarray, row: np.ndarray, widening: float
) -> tuple[float, float, float]:
    """Mean of the two classes' shares of wrong tokens, images counting once."""
    tokens = np.bincount(row, minlength=len(contrast.good))
    wrong = np.bincount(row, (scores > 0) != contrast.good[row], minlength=len(tokens)) / np.maximum(tokens, 1)
    sides_ = [wrong[side & (tokens > 0)] for side in (contrast.good, ~contrast.good)]
    value = float(np.mean([side.mean() for side in sides_]))
    error = widening * np.sqrt(sum(side.var(ddof=1) / len(side) for side in sides_)) / 2
    return value, max(0.0, value - 1.96 * error), min(1.0, value + 1.96 * error)


def _gaussian(good: np.ndarray, bad: np.ndarray) -> float:
    """D_B of the scores by the Gaussian formula (Eq. 11)."""
    scale = max(float(np.abs(np.concatenate([good, bad])).max()), 1e-30)
    m1, s1, m0, s0 = (torch.tensor(float(x)) for x in (good.mean(), good.var(), bad.mean(), bad.var()))
    floor = (1e-6 * scale) ** 2
    mean_term, variance_term = bhattacharyya(m1 - m0, s1.clamp(min=floor), s0.clamp(min=floor))
    return float(mean_term + variance_term)
