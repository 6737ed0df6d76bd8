"""only=best: start N seeds of a prompt, score them at step k, finish the best K."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import hypergeom

from badhands.experiments.abort import Scores, sources
from badhands.experiments.fresh_table import FreshTable
from badhands.probes.artifact import Probes
from badhands.stats.intervals import quotient_interval

Floats = NDArray[np.float64]
SIZES = (2, 4, 8)
"""N: seeds started for each picture that is finished."""


def best_table(table: FreshTable, probes: Probes, keep: int = 1) -> pd.DataFrame:
    """A line for every N, watched step and scorer: rate of good hands delivered, its cost, and both beside plain.

    Rates are exact averages over all choices of N among the seeds of a prompt; intervals take prompts as independent.
    """
    judge = Scores("judge on the finished image", np.tile(np.where(table.good, 1.0, 0.0)[:, None], len(table.at)))
    rows: list[dict[str, object]] = []
    for n in SIZES:
        if n > int(np.bincount(table.prompt).min()):
            continue
        rows.append(_row(table, judge, n, keep, len(table.at) - 1, finished=True))
        for source in (*sources(table, probes), _oracle(table)):
            rows += [_row(table, source, n, keep, k) for k in range(len(table.at))]
    return pd.DataFrame(rows)


def _oracle(table: FreshTable) -> Scores:
    return Scores("oracle", np.tile(table.good.astype(float)[:, None], len(table.at)))


def _row(table: FreshTable, source: Scores, n: int, keep: int, k: int, finished: bool = False) -> dict[str, object]:
    at = table.steps if finished else int(table.at[k])
    evaluations = n * at + keep * (table.steps - at)
    clock = table.seconds
    looks = n * clock["judge"] + (n - keep) * clock["picture"] if finished else n * clock["preview"] * source.previews
    seconds = evaluations * clock["evaluation"] + keep * clock["picture"] + looks
    plain_seconds = table.steps * clock["evaluation"] + clock["picture"]
    good, plain, rest, plain_rest, bad, plain_bad = (
        np.array(list(rates(source.score[:, k], what, table.prompt, n, m)))
        for what in (table.good, ~table.good, table.bad)
        for m in (keep, n)
    )
    row: dict[str, object] = {
        "scorer": source.name, "n": n, "keep": keep, "timestep": 0 if finished else table.timesteps[k],
        "after": at, "prompts": len(good), "evaluations": evaluations / keep,
        "cost": evaluations / keep / table.steps, "seconds_cost": seconds / keep / plain_seconds,
        "good_rate": good.mean(), "plain_good_rate": plain.mean(),
        "bad_rate": bad.mean(), "plain_bad_rate": plain_bad.mean(),
    }  # fmt: skip
    for name, value in (
        ("gain", quotient_interval([good, plain], [1, -1])),
        ("not_good", quotient_interval([rest, plain_rest], [1, -1])),
        ("bad", quotient_interval([bad, plain_bad], [1, -1])),
    ):
        row[name], row[f"{name}_lo"], row[f"{name}_hi"] = value
    value, lo, hi = quotient_interval([plain, good], [1, -1])
    for name, factor in (("ratio", row["cost"]), ("seconds_ratio", row["seconds_cost"])):
        row[name], row[f"{name}_lo"], row[f"{name}_hi"] = (float(factor) * x for x in (value, lo, hi))  # type: ignore[arg-type]
    return row


def rates(score: Floats, what: NDArray[np.bool_], prompt: NDArray[np.int64], n: int, keep: int) -> Iterator[float]:
    """For each prompt the expected share of `what` among the `keep` best of n of its seeds, drawn without replacement.

    The image of rank r (0 best) among S is kept if fewer than `keep` of the n - 1 others lie above it. No score counts
    as the worst; ties share their places.
    """
    for p in range(int(prompt.max()) + 1):
        own = np.nan_to_num(score[prompt == p], nan=-np.inf)
        is_what = what[prompt == p]
        order = np.argsort(-own, kind="stable")
        ranked, s = own[order], len(own)
        kept = hypergeom.cdf(keep - 1, s - 1, np.arange(s), n - 1)
        share = np.array([kept[ranked == value].mean() for value in ranked])  # ties: the mean of their places
        yield float((share * is_what[order]).sum() * n / (s * keep))
