"""Does a 95 % interval hold the truth in 95 % of data sets? Every kind of interval that a report shows, simulated."""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from badhands.experiments.abort_costs import Rule, cost, draws
from badhands.measures.distances import Distances
from badhands.measures.image_scores import image_features
from badhands.probes.global_direction import try_directions
from badhands.probes.losses import Losses
from badhands.simulation.studies import CELLS, Study, distance
from badhands.stats.auroc import auroc, placements
from badhands.stats.headline import fixed_scores, headline
from badhands.stats.intervals import auroc_interval, standard_error
from badhands.stats.long_table import LongTable

LOW, HIGH = 0.92, 0.98
"""The bar: between these lies the coverage of a 95 % interval that may be shown."""
STEPS = {cell.timestep: (20 - cell.timestep, cell.timestep / 20) for cell in CELLS}

Row = dict[str, object]
"""`what`, `value`, `lo`, `hi`, and `truth` (nan: the mean of all data sets stands for it)."""


def intervals_of(images: int, planted: bool, seed: int, permutations: int) -> list[Row]:
    """Every interval of one simulated data set."""
    study = Study.draw(images, planted, seed, permutations)
    return [*_readouts(study, planted), *_distances(study, planted), *_costs(images, planted, seed)]


def _readouts(study: Study, planted: bool) -> list[Row]:
    """Headline AUROC, the gap between cells, fixed scores that borrow its widening, losses of one shared direction."""
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
    trial = try_directions(study.image_means(), study.design.label, study.design.base, {20: 20, 3: 20})
    losses = Losses(trial, study.design, found.widening)
    lost = losses.own(losses.cells_tried("block", "rank1")).minus(losses.method("block", "rank1"))
    rows.append(_row("loss_of_one_direction", lost.value, losses.interval(lost), np.nan if planted else 0.0))
    return rows


def _distances(study: Study, planted: bool) -> list[Row]:
    """Corrected D_B of one cell, and its rise from one timestep to another."""
    found = Distances(study.contrast, study.design, LongTable(STEPS))
    early, late = CELLS[-2:]
    for cell in (early, late):
        found.add(cell, study.sums(cell))
    truth = {cell: distance(cell, planted) for cell in (early, late)}
    return [
        _row("corrected_db", *_split(found.combined({late: 1.0}, 0.95)), truth[late]),
        _row("db_rise", *_split(found.combined({late: 1.0, early: -1.0}, 0.95)), truth[late] - truth[early]),
    ]


def _costs(images: int, planted: bool, seed: int) -> list[Row]:
    """A frozen rule on fresh images: AUROC of its scores, cost per good hand, and its ratio to plain reseeding."""
    rng = np.random.default_rng([seed, images, planted, 1])
    good = rng.random(images) < 0.5
    shift, steps, after = (1.2 if planted else 0.0), 20, 5
    score = rng.normal(size=images) + shift * good
    value = float(auroc(score, good))
    error = float(standard_error(placements(score, good), np.arange(images)))
    rows = [_row("auroc_of_frozen_probe", value, auroc_interval(value, error, good), _normal(shift / 2**0.5))]
    one = cost(good, Rule("frozen", score, 0.0, after), steps, draws(images, 500, seed))
    lost, stopped = _normal(-shift), 0.5  # below the threshold 0: of good ones, of bad ones
    accepted = 0.5 * (1 - lost)
    spent = steps - (steps - after) * (0.5 * lost + 0.5 * stopped)
    rows.append(_row("cost_per_good", one.per_good, (one.lo, one.hi), spent / accepted))
    rows.append(_row("cost_ratio", one.ratio, (one.ratio_lo, one.ratio_hi), spent / accepted / (steps / 0.5)))
    return rows


def _row(what: str, value: float, ends: Iterable[float], truth: float) -> Row:
    low, high = ends
    return {"what": what, "value": float(value), "lo": float(low), "hi": float(high), "truth": float(truth)}


def _split(found: tuple[float, float, float]) -> tuple[float, tuple[float, float]]:
    return found[0], found[1:]


def _normal(x: float) -> float:
    from scipy.special import ndtr

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


def told(table: pd.DataFrame) -> str:
    """The table as text, kinds by rows, and which of them miss the bar."""
    column = [f"{'planted' if p else 'null'} {n}" for p, n in zip(table["planted"], table["images"], strict=True)]
    wide = table.assign(column=column).pivot(index="what", columns="column", values="coverage")
    wide = wide.loc[list(dict.fromkeys(table["what"])), list(dict.fromkeys(column))]
    percent: Callable[[float], str] = lambda share: f"{100 * share:.0f}"  # noqa: E731
    head = "| interval | " + " | ".join(wide.columns) + " |\n|" + "---|" * (len(wide.columns) + 1)
    lines = [f"| {what} | {' | '.join(percent(v) for v in row)} |" for what, row in zip(wide.index, wide.to_numpy())]  # noqa: B905
    # A share of few data sets scatters: only what lies outside by more than that misses the bar.
    slack = 1.96 * np.sqrt(0.95 * 0.05 / table["data_sets"])
    out = table[(table["coverage"] < LOW - slack) | (table["coverage"] > HIGH + slack)]
    verdict = f"{len(out)} of {len(table)} miss the bar of {LOW:.0%} to {HIGH:.0%}"
    names = ", ".join(
        f"{r.what} ({'planted' if r.planted else 'null'}, {r.images}): {r.coverage:.1%}" for r in out.itertuples()
    )
    return "\n".join([head, *lines, "", verdict + (f": {names}" if names else "")])
