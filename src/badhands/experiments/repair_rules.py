"""What rules of repairing and reseeding would have delivered and cost, read from the table of all tries."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from badhands.stats.intervals import quotient_interval
from badhands.watch.repaint import first_step

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
RATE = 0.5
"""Calibrated P(bad) from which on the probe asks for another try."""


@dataclass(frozen=True, eq=False)
class Tries:
    """One way to try again: place 0 is the plain picture."""

    good: Bools
    """[n, 1 + m]"""
    score: Floats
    """[n, 1 + m], the probe's; -inf where it found no hand."""
    p_bad: Floats
    """[n, 1 + m]; 1 where it found no hand."""
    logit: Floats
    """[n, 1 + m], the judge's."""
    psnr: Floats
    """[n, m], outside the region; nan for new seeds."""
    cost: int
    """Evaluations of one try."""


@dataclass(frozen=True, eq=False)
class Repairs:
    """repair.jsonl as arrays."""

    prompt: NDArray[np.int64]
    steps: int
    tries: dict[tuple[str, float], Tries]
    """(`reseed` or region, share of the steps drawn again)."""
    seconds: dict[str, float]
    """What an evaluation, and a picture with its verdict take."""

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]], steps: int, regions: Sequence[str]) -> "Repairs":
        table = pd.DataFrame(rows)
        plain = table[table["what"] == "plain"].set_index("seed")
        found = {}
        for (what, redo), part in table[table["what"] != "plain"].groupby(["what", "redo"], sort=False):
            cost = steps if what == "reseed" else steps - first_step(steps, float(redo))
            found[str(what), float(redo)] = _tries(plain, part, cost)
        seconds = {"evaluation": float(plain["evaluation"].median()), "judge": float(table["judge_seconds"].median())}
        return cls(
            np.unique(plain["prompt"], return_inverse=True)[1].reshape(-1).astype(np.int64), steps, found, seconds
        )

    @property
    def redo(self) -> list[float]:
        return sorted({redo for what, redo in self.tries if what != "reseed"})


def _tries(plain: pd.DataFrame, part: pd.DataFrame, cost: int) -> Tries:
    numbers = sorted(part["number"].unique())
    columns = [plain, *(part[part["number"] == k].set_index("seed").loc[plain.index] for k in numbers)]

    def of(name: str, missing: float) -> Floats:
        return np.stack([column[name].fillna(missing).to_numpy(float) for column in columns], 1)

    good = np.stack([(column["verdict"] == "good").to_numpy() for column in columns], 1)
    psnr = np.stack([column["psnr"].to_numpy(float) for column in columns[1:]], 1)
    return Tries(good, of("score", -np.inf), of("p_bad", 1.0), of("logit", -np.inf), psnr, cost)


def follow(accept: Bools, score: Floats, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(tries made, place of the picture kept), int64[n]: try until one is accepted, keep the best.

    Args:
        accept, score: [n, 1 + m], place 0 is the plain picture.
        most: tries.
    """
    accept, score = accept[:, : most + 1], score[:, : most + 1]
    made = np.where(accept.any(1), accept.argmax(1), most)
    tried = np.arange(score.shape[1]) <= made[:, None]
    kept = np.where(tried, score, -np.inf).argmax(1)
    return made, kept


def repair_table(repairs: Repairs, seed: int = 0) -> pd.DataFrame:
    """A line a rule: good hands delivered, evaluations per good hand against plain drawing and against new seeds
    chosen in the same way for the same money, what was mended and broken, and damage outside."""
    return pd.DataFrame(list(_lines(repairs, seed)))


def _lines(repairs: Repairs, seed: int) -> Iterator[dict[str, Any]]:
    n = len(repairs.prompt)
    rng = np.random.default_rng(seed)
    for redo in repairs.redo:
        regions = {what: tries for (what, share), tries in repairs.tries.items() if share == redo and what != "reseed"}
        reseed = repairs.tries["reseed", 1.0]
        most = next(iter(regions.values())).psnr.shape[1]
        seeds = min(reseed.psnr.shape[1], max(1, round(most * next(iter(regions.values())).cost / repairs.steps)))
        shuffle = rng.permutation(n)
        for chooser in ("probe", "judge", "probe, shuffled"):
            base = _deliver(repairs, reseed, chooser, seeds, shuffle)
            yield {"method": f"{chooser}: new seeds", "region": "reseed", "redo": redo, "tries": seeds,
                   "chosen_by": chooser, **_costs(repairs, reseed, base, base)}  # fmt: skip
            for what, tries in regions.items():
                if chooser == "probe, shuffled" and what != "hand":
                    continue
                own = _deliver(repairs, tries, chooser, most, shuffle)
                yield {"method": f"{chooser}: {NAMES[what]}", "region": what, "redo": redo, "tries": most,
                       "chosen_by": chooser, **_costs(repairs, tries, own, base)}  # fmt: skip


NAMES = {"hand": "whole hand again", "bad": "bad tokens again", "judge": "the judge's place again"}
Delivered = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[np.int64], NDArray[np.int64]]
"""good[n], evaluations[n], seconds[n], tries made[n], place kept[n]."""


def _deliver(repairs: Repairs, tries: Tries, chooser: str, most: int, shuffle: NDArray) -> Delivered:
    if chooser == "judge":
        accept, score = tries.good, tries.logit
    else:
        order = shuffle if chooser == "probe, shuffled" else np.arange(len(shuffle))
        accept, score = tries.p_bad[order] < RATE, tries.score[order]
    made, kept = follow(accept, score, most)
    rows = np.arange(len(kept))
    spent = repairs.steps + made * float(tries.cost)
    looks = (1 + made) * repairs.seconds["judge"] if chooser == "judge" else 0.0
    return tries.good[rows, kept], spent, spent * repairs.seconds["evaluation"] + looks, made, kept


def _costs(repairs: Repairs, tries: Tries, own: Delivered, base: Delivered) -> dict[str, Any]:
    good, spent, seconds, made, kept = own
    n, was = len(good), tries.good[:, 0]
    plain = np.full(n, float(repairs.steps))
    row: dict[str, Any] = {"n": n, "evaluations": spent.mean(), "tried": float((made > 0).mean())}
    for name, of in (
        ("ratio", (spent, good, plain, was)),
        ("seconds_ratio", (seconds, good, plain * repairs.seconds["evaluation"], was)),
        ("against_seeds", (spent, good, base[1], base[0])),
    ):
        row[name], row[f"{name}_lo"], row[f"{name}_hi"] = quotient_interval(of, [1, -1, -1, 1], repairs.prompt)
    row |= {"good_share": good.mean(), "plain_good_share": was.mean(),
            "mended": _share(good, ~was), "broken": _share(~good, was)}  # fmt: skip
    changed = kept > 0
    outside = tries.psnr[np.flatnonzero(changed), kept[changed] - 1]
    row["psnr"] = float(np.nanmedian(outside)) if np.isfinite(outside).any() else np.nan
    return row


def _share(of: Bools, among: Bools) -> float:
    return float(of[among].mean()) if among.any() else float("nan")
