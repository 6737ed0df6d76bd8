"""How much of each cell's own AUROC a shared direction recovers, with paired intervals; the answer as one sentence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from badhands.probes.global_direction import Trial
from badhands.probes.scores import pair_wins

RESOLVED = 0.6
"""Cells whose own AUROC is below this have no recovery worth dividing by; the worst cell is sought among the others."""
ENOUGH = 0.8
"""One direction must recover this share of the own probes' AUROC above chance, beside being no worse than three."""


@dataclass(frozen=True)
class Recovery:
    """One method on one kind of split."""

    kind: str
    method: str
    cells: int
    auroc: tuple[float, float, float]
    """Mean over cells: value, lo, hi."""
    recovery: tuple[float, float, float]
    """R = (mean AUROC - 1/2) / (mean own AUROC - 1/2)."""
    worst: tuple[float, float, float]
    """R of the worst resolved cell."""
    worst_cell: str


@dataclass(frozen=True, eq=False)
class GlobalAnswer:
    rows: tuple[Recovery, ...]
    cell_auroc: dict[tuple[str, str], np.ndarray]
    """(kind, method) -> [cells]; ("", "own") for the own readouts."""
    rank_gain: dict[str, tuple[float, float, float]]
    """kind -> R of rank 3 minus R of rank 1, paired: value, lo, hi."""
    transfer: np.ndarray
    """[cells, cells] AUROC of the first cell's own weight on the second, held-out images."""
    verdict: str
    """yes, partly, no, undecided."""
    sentence: str


def auroc_draws(scores: np.ndarray, good: np.ndarray, bad: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC of score rows [m, images] under image weights [b, images] -> [m, b]."""
    up = torch.from_numpy(weights[:, good]).float()
    down = torch.from_numpy(weights[:, bad]).float()
    pairs = up.sum(1) * down.sum(1)
    out = np.empty((len(scores), len(weights)))
    for i, score in enumerate(scores):
        wins = torch.from_numpy(pair_wins(score, good, bad)).float()
        out[i] = (((up @ wins) * down).sum(1) / pairs).numpy()
    return out


def fast_auroc(scores: np.ndarray, good: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """AUROC of score rows [..., images] by ranks; ties in order."""
    both = np.concatenate([good, bad])
    ranks = scores[..., both].argsort(-1).argsort(-1) + 1.0
    return (ranks[..., : len(good)].sum(-1) - len(good) * (len(good) + 1) / 2) / (len(good) * len(bad))


def recover(trial: Trial, image_label: np.ndarray, weights: np.ndarray) -> GlobalAnswer:
    """Recovery of every method with bootstrap intervals over images, paired between methods.

    Args:
        weights: [b, images] of `scores.resample`; its first row is replaced by the sample itself.
    """
    known = np.isfinite(trial.own).all(0)
    good, bad = np.flatnonzero(known & (image_label == 1)), np.flatnonzero(known & (image_label == 0))
    drawn = np.concatenate([np.ones((1, weights.shape[1])), weights])
    drawn = drawn[(drawn[:, good].sum(1) > 0) & (drawn[:, bad].sum(1) > 0)]
    own = auroc_draws(trial.own, good, bad, drawn)
    cell_auroc = {("", "own"): own[:, 0]}
    rows, means = [], {}
    for (kind, method), scores in trial.scores.items():
        tried = np.flatnonzero(np.isfinite(scores[0][:, good[0]]))
        draws = np.mean([auroc_draws(one[tried], good, bad, drawn) for one in scores], axis=0)
        cell_auroc[kind, method] = np.full(len(trial.cells), np.nan)
        cell_auroc[kind, method][tried] = draws[:, 0]
        above = own[tried].mean(0) - 0.5
        ratio = (draws.mean(0) - 0.5) / above
        means[kind, method] = ratio
        resolved = np.flatnonzero(own[tried, 0] >= RESOLVED)
        if len(resolved):
            with np.errstate(divide="ignore", invalid="ignore"):  # a resampling may put an own AUROC at 1/2
                each = (draws[resolved] - 0.5) / (own[tried][resolved] - 0.5)
            at = int(each[:, 0].argmin())
            worst, worst_cell = _interval(each[at]), str(trial.cells[tried[resolved[at]]])
        else:
            worst, worst_cell = (np.nan, np.nan, np.nan), ""
        rows.append(Recovery(kind, method, len(tried), _interval(draws.mean(0)), _interval(ratio), worst, worst_cell))
    kinds = [kind for kind in dict.fromkeys(row.kind for row in rows)]
    gain = {kind: _interval(means[kind, "rank3"] - means[kind, "rank1"]) for kind in kinds}
    own_mean = _interval(own.mean(0))
    verdict, sentence = _answer(rows, gain, own_mean, len(good), len(bad))
    return GlobalAnswer(tuple(rows), cell_auroc, gain, fast_auroc(trial.transfer, good, bad), verdict, sentence)


def _interval(draws: np.ndarray) -> tuple[float, float, float]:
    """Value (the first draw is the sample itself), 2.5 % and 97.5 %."""
    lo, hi = np.nanquantile(draws[1:], [0.025, 0.975])
    return float(draws[0]), float(lo), float(hi)


def _answer(
    rows: Sequence[Recovery],
    gain: dict[str, tuple[float, float, float]],
    own: tuple[float, float, float],
    good: int,
    bad: int,
) -> tuple[str, str]:
    at = {(row.kind, row.method): row for row in rows}
    base = f"{good} good and {bad} bad images, held out; own directions reach a mean AUROC of {_show(own)}"
    if own[1] <= 0.5:
        return "undecided", (
            f"Is there one good/bad direction? Undecided: no direction is resolved to begin with ({base})."
        )
    parts, supported, rejected = [], [], []
    names = {"block": "an unseen block", "timestep": "an unseen timestep", "window": "late timesteps from early ones"}
    for kind, name in names.items():
        if kind not in gain:
            continue
        one, three, chance = at[kind, "rank1"], at[kind, "rank3"], at["none", "random1"]
        no_worse = gain[kind][1] <= 0
        supported.append(no_worse and one.recovery[0] >= ENOUGH and one.recovery[1] > chance.recovery[0])
        rejected.append(not no_worse or one.recovery[2] < ENOUGH)
        parts.append(
            f"for {name} one shared direction recovers {_show(one.recovery)} of it (three "
            f"{_show(three.recovery)}, gain of three over one {_show(gain[kind])}; nearest cell "
            f"{at[kind, 'nearest'].recovery[0]:.2f}, random direction {chance.recovery[0]:.2f}; worst "
            f"cell {one.worst[0]:.2f} at {one.worst_cell or 'none resolved'})"
        )
    if not parts:
        return "undecided", f"Is there one good/bad direction? Undecided: one cell has nothing to share with ({base})."
    # Neither supported nor rejected: the intervals are too wide to say.
    verdict = "yes" if all(supported) else "partly" if any(supported) else "no" if any(rejected) else "undecided"
    return verdict, f"Is there one good/bad direction? {verdict.capitalize()}: {base}; {'; '.join(parts)}."


def _show(value: tuple[float, float, float]) -> str:
    return f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]"
