"""Does a 95 % interval hold the truth in 95 % of data sets? Every kind of interval that a report shows, simulated."""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
from scipy.special import expit, ndtr
from scipy.stats import binomtest

from badhands.measures.distances import Distances
from badhands.measures.image_scores import image_features
from badhands.probes.global_direction import try_directions
from badhands.probes.losses import Losses
from badhands.probes.scores import TokenScores, token_scores
from badhands.replicate.simulated_studies import CELLS, Study, distance
from badhands.stats.auroc import auroc, placements
from badhands.stats.costs import Outcome, cost_row
from badhands.stats.headline import fixed_scores, headline
from badhands.stats.intervals import Scored, auroc_interval, standard_error
from badhands.stats.long_table import LongTable
from badhands.stats.resampling import image_draws

LOW, HIGH = 0.92, 0.98
"""The bar: between these lies the coverage of a 95 % interval that may be shown."""
TITLES = {
    "auroc": "headline AUROC",
    "gap": "gap between two cells",
    "mean_over_cells": "mean over cells",
    "auroc_borrowed": "baseline that is not refitted",
    "gain_over_a_baseline": "gain over such a baseline",
    "loss_of_one_direction": "loss of one direction",
    "token_auroc": "token AUROC",
    "token_balanced_accuracy": "token balanced accuracy",
    "corrected_db": "corrected D_B",
    "db_rise": "late rise of D_B",
    "auroc_of_frozen_probe": "AUROC of a frozen probe",
    "cost_per_good": "evaluations per good hand",
    "cost_ratio": "/ plain reseeding",
    "cost_every_kind": "/ plain reseeding, every kind",
}
TOKEN_METRICS = ("token_auroc", "token_balanced_accuracy")
STEPS = {cell.timestep: (20 - cell.timestep, cell.timestep / 20) for cell in CELLS}

Row = dict[str, object]
"""`what`, `value`, `lo`, `hi`, and `truth` (nan: the mean of all data sets stands for it)."""


def intervals_of(images: int, planted: bool, seed: int, permutations: int, prompts: int | None = None) -> list[Row]:
    """Every interval of one simulated data set; with `prompts` (`Study.draw`) those that rest on a study's images."""
    study = Study.draw(images, planted, seed, permutations, prompts)
    rows, widening = _readouts(study, planted)
    rows += [*_tokens(study, planted, widening), *_distances(study, planted, known=not prompts)]
    return rows if prompts else [*rows, *_costs(images, planted, seed)]


def _readouts(study: Study, planted: bool) -> tuple[list[Row], float]:
    """Headline AUROC, the gap between cells, fixed scores that borrow its widening, losses of one shared direction; and
    that widening."""
    names = [str(cell) for cell in CELLS]
    features = [image_features(study.contrast, study.sums(cell)) for cell in CELLS]
    found = headline(names, features, study.design, threads=1)
    truth = np.nan if planted else 0.5
    rows = [_row("auroc", found.value[-1], found.intervals[-1], truth)]
    gap, *ends = found.difference(names[0], names[-1])
    rows.append(_row("gap", gap, ends, np.nan if planted else 0.0))
    mean, low, high = found.combined(np.full(len(names), 1 / len(names)))
    rows.append(_row("mean_over_cells", mean[0], (low[0], high[0]), truth))
    fixed = fixed_scores(names[-1:], found.score[-1:], study.design.folds, study.design, like=found)
    rows.append(_row("auroc_borrowed", fixed.value[0], fixed.intervals[0], truth))
    beyond = Scored.joined([found.only(names[:1]).alone(), fixed.alone()])
    gain, low, high = beyond.combined([-1.0, 1.0])
    rows.append(_row("gain_over_a_baseline", gain[0], (low[0], high[0]), np.nan if planted else 0.0))
    trial = try_directions(study.image_means(), study.design.label, study.design.base, {20: 20, 3: 20})
    losses = Losses(trial, study.design, found.widening)
    lost = losses.own(losses.cells_tried("block", "rank1")).minus(losses.method("block", "rank1"))
    rows.append(_row("loss_of_one_direction", lost.value, losses.interval(lost), np.nan if planted else 0.0))
    return rows, found.widening


def _tokens(study: Study, planted: bool, widening: float) -> list[Row]:
    """Metrics of a token probe (mass mean) on the images of the folds that it has not seen."""
    x, fold, good = study.tokens[CELLS[-1]], study.design.base, study.design.good
    images, n, _ = x.shape
    logit = np.empty((images, n))
    for f in np.unique(fold):
        train, test = fold != f, fold == f
        ends = [x[train & side].mean((0, 1)) for side in (good, ~good)]
        logit[test] = (x[test] - (ends[0] + ends[1]) / 2) @ (ends[0] - ends[1])
    image = np.repeat(np.arange(images), n)
    of = TokenScores(
        logit.ravel(), expit(logit.ravel()), good[image], image, np.ones(len(image)), study.design.label, fold
    )
    found = token_scores(of, image_draws(images, 200), widening, "good")
    truth = np.nan if planted else 0.5
    return [_row(s.metric, s.value, (s.lo, s.hi), truth) for s in found if s.metric in TOKEN_METRICS]


def _distances(study: Study, planted: bool, known: bool) -> list[Row]:
    """Corrected D_B of one cell, and its rise from one timestep to another. `known`: the truth can be computed."""
    found = Distances(study.contrast, study.design, LongTable(STEPS))
    early, late = CELLS[-2:]
    for cell in (early, late):
        found.add(cell, study.sums(cell))
    truth = {cell: distance(cell, planted) if known or not planted else np.nan for cell in (early, late)}
    return [
        _row("corrected_db", *_split(found.combined({late: 1.0}, 0.95)), truth[late]),
        _row("db_rise", *_split(found.combined({late: 1.0, early: -1.0}, 0.95)), truth[late] - truth[early]),
    ]


def _costs(images: int, planted: bool, seed: int) -> list[Row]:
    """A frozen rule on fresh images: AUROC of its scores, cost per good hand, and its ratios to plain reseeding."""
    rng = np.random.default_rng([seed, images, planted, 1])
    good = rng.random(images) < 0.5
    shift, steps, after = (1.2 if planted else 0.0), 20, 5
    score = rng.normal(size=images) + shift * good
    value = float(auroc(score, good))
    error = float(standard_error(placements(score, good), np.arange(images)))
    rows = [_row("auroc_of_frozen_probe", value, auroc_interval(value, error, good), _normal(shift / 2**0.5))]
    lost, stopped = _normal(-shift), 0.5  # below the threshold 0: of good ones, of bad ones
    kind, share = np.arange(images) % 2, np.array([0.7, 0.3])  # an easy and a hard kind of prompt
    good = rng.random(images) < share[kind]
    kept = rng.normal(size=images) + shift * good >= 0
    evaluations = np.where(kept, steps, after)
    rule = Outcome("rule", evaluations.astype(float), evaluations.astype(float), kept)
    plain = Outcome("plain", np.full(images, 20.0), np.full(images, 20.0), np.ones(images, bool))
    row = cost_row(rule, plain, good, np.arange(images), kind)
    spent = steps - (steps - after) * (share * lost + (1 - share) * stopped)
    accepted = share * (1 - lost)
    truth = {
        "per_good": spent.sum() / accepted.sum(),
        "ratio": spent.sum() / accepted.sum() / (steps / share.mean()),
        "every_kind": (spent / accepted).sum() / (steps / share).sum(),
    }
    return rows + [_row(f"cost_{k}", row[k], (row[f"{k}_lo"], row[f"{k}_hi"]), true) for k, true in truth.items()]


def _row(what: str, value: float, ends: Iterable[float], truth: float) -> Row:
    low, high = ends
    return {"what": what, "value": float(value), "lo": float(low), "hi": float(high), "truth": float(truth)}


def _split(found: tuple[float, float, float]) -> tuple[float, tuple[float, float]]:
    return found[0], found[1:]


def _normal(x: float) -> float:
    return float(ndtr(x))


def coverage(rows: pd.DataFrame) -> pd.DataFrame:
    """From rows of many data sets (`images`, `planted` beside those of `intervals_of`): share of intervals that hold
    the truth, for each kind, number of images, and null or planted."""
    found = []
    for (what, planted, images), part in rows.groupby(["what", "planted", "images"], sort=False):
        truth = part["truth"].fillna(part["value"].mean())
        held = (part["lo"] <= truth) & (truth <= part["hi"])
        found.append({
            "what": what, "planted": planted, "images": images, "coverage": held.mean(), "data_sets": len(part),
            "truth": truth.mean(), "mean": part["value"].mean(), "width": (part["hi"] - part["lo"]).median(),
        })  # fmt: skip
    return pd.DataFrame(found)


def _share(share: float, of: int) -> tuple[float, float]:
    found = binomtest(round(share * of), of).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def told(table: pd.DataFrame) -> str:
    """The table as text, kinds by rows, and which of them miss the bar."""
    column = [f"{'planted' if p else 'null'} {n}" for p, n in zip(table["planted"], table["images"], strict=True)]
    wide = table.assign(column=column).pivot(index="what", columns="column", values="coverage")
    wide = wide.loc[list(dict.fromkeys(table["what"])), list(dict.fromkeys(column))]
    percent: Callable[[float], str] = lambda share: f"{100 * share:.0f}"  # noqa: E731
    head = "| interval | " + " | ".join(wide.columns) + " |\n|" + "---|" * (len(wide.columns) + 1)
    lines = [
        f"| {TITLES[what]} | {' | '.join(percent(v) for v in row)} |"
        for what, row in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    # A share of few data sets scatters: only one whose own 95 % interval lies outside misses the bar.
    ends = [_share(row.coverage, row.data_sets) for row in table.itertuples()]
    out = table[[high < LOW or low > HIGH for low, high in ends]]
    verdict = f"{len(out)} of {len(table)} miss the bar of {LOW:.0%} to {HIGH:.0%}"
    names = ", ".join(
        f"{TITLES[r.what]} ({'planted' if r.planted else 'null'}, {r.images}): {r.coverage:.1%}"
        for r in out.itertuples()
    )
    return "\n".join([head, *lines, "", verdict + (f": {names}" if names else "")])
