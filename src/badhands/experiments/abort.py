"""only=abort: what does a good hand cost if bad ones are stopped early?"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from badhands.experiments.fresh_table import FreshTable
from badhands.experiments.rules import Treat, by_miss, by_price, crossed, first_stop, spend
from badhands.probes.artifact import Probes
from badhands.stats.auroc import auroc
from badhands.stats.costs import Outcome, cost_row
from badhands.watch.compatibility import early_timesteps, ranked_blocks

Floats = NDArray[np.float64]
MISS = 0.05
"""The stated target: at most this share of good hands is lost. Fixed before any fresh image was drawn."""
MISSES = (0.02, 0.05, 0.1, 0.2, 0.3)
"""Of the curve."""
PLAIN = "plain reseeding"
Thresholds = Callable[[Floats, NDArray[np.bool_]], Floats]
"""(scores [n, K], bool[n] the images to choose on) -> [K]."""
ORACLE = 4
"""Evaluations after which the oracle of the headline knows: a fifth of twenty steps."""


@dataclass(frozen=True, eq=False)
class Scores:
    """One thing that can speak at every watched step."""

    name: str
    score: Floats
    """[n, K]"""
    previews: bool = False
    """It needs a decoded preview at each step it is asked."""


def outcome_of(table: FreshTable, method: str, stop: NDArray[np.int64], looks: Floats | None = None) -> Outcome:
    """What stopping after watched step int64[n] costs.

    Args:
        looks: float[n] previews that were decoded and judged.
    """
    spent, done = spend(stop, table.at, table.steps), stop == len(table.at)
    clock = table.seconds
    seconds = spent * clock["evaluation"] + done * clock["picture"]
    if looks is not None:
        seconds = seconds + looks * clock["preview"]
    return Outcome(method, spent, seconds, done)


def sources(table: FreshTable, probes: Probes, seed: int = 0) -> list[Scores]:
    """What may decide: the probe, the judge on the preview, the variance of x0, and the probe's scores shuffled."""
    probe = table.path(table.best_cells(probes))
    return [
        Scores("probe", probe),
        Scores("judge on the preview", table.preview, previews=True),
        Scores("x0 variance", turned(table.change, table.good, table.prompt)),
        Scores("probe, scores shuffled", np.random.default_rng(seed).permutation(probe)),
    ]


def turned(score: Floats, good: NDArray[np.bool_], prompt: NDArray[np.int64]) -> Floats:
    """[n, K]: the score with the sign, step by step, that the other half of the prompts asks for."""

    def fit(train):
        signs = np.ones(score.shape[1])
        for k in range(score.shape[1]):
            known = train & np.isfinite(score[:, k])
            if known.any() and 0 < good[known].sum() < known.sum():
                signs[k] = 1.0 if float(auroc(score[known, k], good[known])) >= 0.5 else -1.0
        return lambda test: score[test] * signs

    return crossed(fit, prompt)


def abort_table(table: FreshTable, probes: Probes) -> pd.DataFrame:
    """Every rule on all images, one line each; `chosen` says on what its thresholds were chosen."""
    plain = outcome_of(table, PLAIN, np.full(len(table.good), len(table.at)))
    rows = [
        {"chosen": chosen, **cost_row(outcome, plain, table.good, table.prompt, table.kind)}
        for chosen, outcome in (("nothing", plain), *_rules(table, probes))
    ]
    return pd.DataFrame(rows)


def _rules(table: FreshTable, probes: Probes) -> Iterator[tuple[str, Outcome]]:
    k, good = len(table.at), table.good
    end = np.full(len(good), k)
    finished = outcome_of(table, "judge on the finished image", end)
    seconds = finished.seconds + table.seconds["judge"]
    yield "nothing", Outcome(finished.method, finished.evaluations, seconds, good)
    for index in (int(np.searchsorted(table.at, ORACLE)), 0):
        name = f"oracle after {table.at[index]} evaluation{'s' if table.at[index] > 1 else ''}"
        yield "the truth", outcome_of(table, name, np.where(good, k, index))
    fixed = study_rule(table, probes)
    if fixed is not None:
        name, scores, thresholds = fixed
        yield "the training study", outcome_of(table, name, first_stop(scores, thresholds))
    probe, preview, *others = sources(table, probes)
    for source in (probe, preview, *others):
        yield "the other prompts", by_rule(table, source, f"{source.name}, sequential, least cost", by_price_of(table))
        if source is probe or source is preview:
            miss = f"{source.name}, sequential, miss {MISS:g}"
            yield "the other prompts", by_rule(table, source, miss, by_miss_of(table, MISS))
            yield "the other prompts", one_step(table, source)
    yield "the other prompts", second_look(table, probe, preview)


def by_price_of(table: FreshTable) -> Thresholds:
    """Thresholds of least cost, from the images of a mask."""
    return lambda scores, train: by_price(scores[train], table.good[train], table.at, table.steps)


def by_miss_of(table: FreshTable, miss: float) -> Thresholds:
    """Thresholds that spend a stated miss rate, from the images of a mask."""
    return lambda scores, train: by_miss(scores[train], table.good[train], miss)


def by_rule(table: FreshTable, source: Scores, name: str, thresholds: Thresholds) -> Outcome:
    """The rule at work on each half of the prompts, with thresholds of the other half."""

    def fit(train: NDArray[np.bool_]) -> Treat:
        chosen = thresholds(source.score, train)
        return lambda test: first_stop(source.score[test], chosen)

    stop = crossed(fit, table.prompt).astype(np.int64)
    asked = np.minimum(stop + 1, len(table.at)).astype(float) if source.previews else None
    return outcome_of(table, name, stop, asked)


def one_step(table: FreshTable, source: Scores) -> Outcome:
    """Asked once: at the step, and with the threshold, of least wall clock per good hand on the other prompts."""
    k = len(table.at)

    def alone(step: int, train: NDArray[np.bool_]) -> Floats:
        score = np.full(source.score[train].shape, np.nan)
        score[:, step] = source.score[train, step]
        return by_price(score, table.good[train], table.at, table.steps)

    def seconds(step: int, thresholds: Floats, train: NDArray[np.bool_]) -> float:
        stop = first_stop(source.score[train], thresholds)
        accepted = (table.good[train] & (stop == k)).sum()
        spent = outcome_of(table, "", stop, np.ones(len(stop)) if source.previews else None).seconds.sum()
        return float(spent / accepted) if accepted else np.inf

    def fit(train: NDArray[np.bool_]) -> Treat:
        rules = [alone(step, train) for step in range(k)]
        best = min(range(k), key=lambda step: seconds(step, rules[step], train))
        return lambda test: first_stop(source.score[test], rules[best])

    stop = crossed(fit, table.prompt).astype(np.int64)
    looks = np.ones(len(stop)) if source.previews else None
    return outcome_of(table, f"{source.name}, one step, least wall clock", stop, looks)


def second_look(table: FreshTable, probe: Scores, preview: Scores) -> Outcome:
    """The probe raises its hand, the judge on the preview of that step has to agree: only then is a preview decoded."""

    def fit(train: NDArray[np.bool_]) -> Treat:
        first, second = (by_price(s.score[train], table.good[train], table.at, table.steps) for s in (probe, preview))

        def treat(test: NDArray[np.bool_]) -> NDArray[Any]:
            asks = probe.score[test] < first
            agreed = asks & (preview.score[test] < second)
            stop = np.where(agreed.any(1), agreed.argmax(1), len(table.at))
            before = np.arange(len(table.at)) <= stop[:, None]
            return np.stack([stop, (asks & before).sum(1)], 1)

        return treat

    both = crossed(fit, table.prompt).astype(np.int64)
    return outcome_of(table, "probe, then the judge on its preview", both[:, 0], both[:, 1].astype(float))


def study_rule(table: FreshTable, probes: Probes) -> tuple[str, Floats, Floats] | None:
    """The rule of `policy=abort`: one step, the best block there, the artefact's threshold. None without thresholds."""
    timestep, block = early_timesteps(probes)[-1], ranked_blocks(probes)[0]
    found = next((c for c in table.cells if c == (block, timestep)), None)
    threshold = probes.thresholds.get(found, {}).get(MISS) if found else None
    if found is None or threshold is None:
        return None
    thresholds = np.full(len(table.at), -np.inf)
    thresholds[table.timesteps.index(timestep)] = threshold
    scores = np.full((len(table.good), len(table.at)), np.nan)
    scores[:, table.timesteps.index(timestep)] = table.cells[found]
    return f"probe, one step ({found}), miss {MISS:g}", scores, thresholds


def miss_curve(table: FreshTable, probes: Probes) -> pd.DataFrame:
    """Cost ratio over the stated miss rate, for the probe and the judge on the preview."""
    plain = outcome_of(table, PLAIN, np.full(len(table.good), len(table.at)))
    rows = []
    for source in sources(table, probes)[:2]:
        for miss in MISSES:
            outcome = by_rule(table, source, source.name, by_miss_of(table, miss))
            rows.append({"miss": miss, **cost_row(outcome, plain, table.good, table.prompt, table.kind)})
    return pd.DataFrame(rows)


def oracle_curve(table: FreshTable) -> pd.DataFrame:
    """Cost ratio if the truth were known after each watched step: what any rule that decides there could reach."""
    plain = outcome_of(table, PLAIN, np.full(len(table.good), len(table.at)))
    rows = []
    for index, after in enumerate(table.at):
        outcome = outcome_of(table, "oracle", np.where(table.good, len(table.at), index))
        row = cost_row(outcome, plain, table.good, table.prompt, table.kind)
        rows.append({"after": int(after), "timestep": table.timesteps[index], **row})
    return pd.DataFrame(rows)
