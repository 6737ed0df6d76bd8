"""Cost per good hand of stopping early, from a table of images that were all drawn to the end. Numbers only.

With weights w over images (ones, or how often a bootstrap drew each): evaluations = sum w e, where e is T, or k for an
image stopped after k evaluations; accepted good hands = sum w [good and not stopped]; their quotient is the cost per
good hand. With rates instead of counts it is E / (1 - b) of method.md section 6.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

QUANTILES = np.linspace(0.02, 0.7, 35)
"""Of the scores, tried as thresholds when a rule is tuned."""


@dataclass(frozen=True)
class Rule:
    """Stop where sign * score < threshold, once `after` evaluations are spent."""

    name: str
    score: np.ndarray
    """float[n]; nan never stops."""
    threshold: float
    after: int
    sign: int = 1

    def stops(self) -> np.ndarray:
        """bool[n]"""
        return self.sign * self.score < self.threshold

    def at(self, images: np.ndarray) -> "Rule":
        """The same rule on some of the images."""
        return Rule(self.name, self.score[images], self.threshold, self.after, self.sign)


@dataclass(frozen=True)
class Cost:
    """What a rule costs, with 95 % intervals over images; infinite where no good hand was accepted."""

    n: int
    stopped_bad: float
    """Share of the images that are not good hands which were stopped (TPR)."""
    stopped_good: float
    """Share of the good hands lost (FPR)."""
    per_good: float
    """Transformer evaluations per accepted good hand."""
    lo: float
    hi: float
    ratio: float
    """Against drawing everything to the end (plain reseeding), on the same images."""
    ratio_lo: float
    ratio_hi: float
    good_share: float
    """Of the accepted images."""
    plain_good_share: float


def draws(n: int, count: int, seed: int = 0) -> np.ndarray:
    """float[count, n]: how often each bootstrap drew each image."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=count).astype(np.float64)


def per_good(good: np.ndarray, stops: np.ndarray, after: int, steps: int, weights: np.ndarray) -> np.ndarray:
    """Evaluations per accepted good hand, for each row of weights float[m, n] -> float[m]; infinite without one."""
    spent = weights @ np.where(stops, after, steps).astype(np.float64)
    accepted = weights @ (good & ~stops).astype(np.float64)
    return np.divide(spent, accepted, out=np.full(len(spent), np.inf), where=accepted > 0)


def cost(good: np.ndarray, rule: Rule, steps: int, weights: np.ndarray) -> Cost:
    """A rule's cost and what it does.

    Args:
        good: bool[n], the judge's verdict on the finished images. steps: T. weights: of the bootstrap, [m, n].
    """
    stops, ones = rule.stops(), np.ones((1, len(good)))
    never = np.zeros(len(good), bool)
    value = per_good(good, stops, rule.after, steps, ones)[0]
    plain = per_good(good, never, steps, steps, ones)[0]
    many = per_good(good, stops, rule.after, steps, weights)
    with np.errstate(invalid="ignore"):
        ratios = many / per_good(good, never, steps, steps, weights)
    lo, hi = _interval(many)
    ratio_lo, ratio_hi = _interval(ratios)
    return Cost(
        len(good), _share(stops, ~good), _share(stops, good), float(value), lo, hi,
        float(value / plain) if np.isfinite(plain) else float("nan"), ratio_lo, ratio_hi,
        _share(good, ~stops), float(good.mean()),
    )  # fmt: skip


def tune(good: np.ndarray, candidates: Sequence[Rule], steps: int, signs: Sequence[int] = (1,)) -> Rule:
    """The candidate, threshold and sign of least cost per good hand on these images.

    Its cost here is too low, because it was chosen here: report it on other images.
    """
    best, least = None, np.inf
    ones = np.ones((1, len(good)))
    for rule in candidates:
        for sign in signs:
            known = sign * rule.score[np.isfinite(rule.score)]
            for threshold in np.quantile(known, QUANTILES) if len(known) else ():
                one = Rule(rule.name, rule.score, float(threshold), rule.after, sign)
                value = per_good(good, one.stops(), one.after, steps, ones)[0]
                if value < least:
                    best, least = one, value
    if best is None:
        raise ValueError("no rule keeps a good hand: are there any among the images?")
    return best


def by_group(good: np.ndarray, rule: Rule, steps: int, group: np.ndarray, weights: np.ndarray) -> tuple[float, ...]:
    """Cost of one good hand of every group, against plain reseeding: (ratio, lo, hi).

    A rule that stops whatever a hard prompt draws is cheap per good hand and delivers easy prompts only. Here every
    group of prompts has to deliver as much as the others. Groups of which plain reseeding delivers nothing are left
    out: their cost is infinite either way.
    """
    stops, never = rule.stops(), np.zeros(len(good), bool)

    def total(which: np.ndarray, after: int, w: np.ndarray) -> np.ndarray:
        parts = [(group == g) for g in np.unique(group[good])]
        return np.sum([per_good(good[p], which[p], after, steps, w[:, p]) for p in parts], axis=0)

    ones = np.ones((1, len(good)))
    with np.errstate(invalid="ignore"):
        value = total(stops, rule.after, ones) / total(never, steps, ones)
        many = total(stops, rule.after, weights) / total(never, steps, weights)
    return float(value[0]), *_interval(many)


def _share(of: np.ndarray, among: np.ndarray) -> float:
    return float(of[among].mean()) if among.any() else float("nan")


def _interval(values: np.ndarray) -> tuple[float, float]:
    """2.5 % and 97.5 % points; infinite costs count as such."""
    values = np.sort(values[~np.isnan(values)])
    if not len(values):
        return float("nan"), float("nan")
    at = [int(q * (len(values) - 1)) for q in (0.025, 0.975)]
    return float(values[at[0]]), float(values[min(at[1] + 1, len(values) - 1)])
