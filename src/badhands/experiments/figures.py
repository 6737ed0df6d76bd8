"""Figures of the experiments: costs over rules, gains over N and k."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from badhands.figures.palette import BAD, GOOD, INK, NULL, PAPER
from badhands.figures.style import WIDTH, save, styled

COLOURS = {"probe": GOOD, "judge on the preview": BAD, "x0 variance": "#009E73", "probe, scores shuffled": NULL,
           "oracle": INK}  # fmt: skip
"""Who decides, in every panel of every figure."""
KNOWN = (1, 4, 9)
"""Evaluations after which the truth is known, in the figure."""
MOST = 2.0
"""Ratio beyond which nothing is to be read from a bar."""


def draw_abort(rules: pd.DataFrame, misses: pd.DataFrame, oracle: pd.DataFrame, path: Path) -> Path:
    """Left: cost ratio of every rule, in the colour of who decides. Right: over the stated miss rate, and what perfect
    knowledge would cost."""
    with styled():
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 4.8), layout="constrained", width_ratios=(3, 2))
        shown = rules.iloc[::-1].reset_index(drop=True)
        colours = shown["method"].map(colour_of)
        for colour in colours.unique():
            rows = shown[colours == colour]
            _bars(left, rows, "ratio", rows.index + 0.16, colour, horizontal=True)
            _bars(left, rows, "seconds_ratio", rows.index - 0.16, colour, horizontal=True, face=PAPER)
        left.set_yticks(range(len(shown)), shown["method"])
        left.axvline(1, color=INK, lw=1)
        left.set_xlabel("cost per good hand / plain reseeding")
        left.plot([], [], "o-", color=INK, label="transformer evaluations")
        left.plot([], [], "o-", color=INK, mfc=PAPER, label="wall clock, previews and decoding included")
        for shift, (source, part) in zip((-0.25, 0.25), misses.groupby("method", sort=False), strict=True):
            _bars(right, part, "ratio", 100 * part["miss"] + shift, COLOURS[str(source)], label=source)
        right.set_xticks(100 * misses["miss"].unique())
        right.set_xlabel("good hands that may be lost, %")
        right.set_ylabel("evaluations per good hand / plain reseeding")
        right.axhline(1, color=INK, lw=1)
        for row in oracle[oracle["after"].isin(KNOWN)].to_dict("records"):
            right.axhline(row["ratio"], color=NULL, lw=1, ls=":")
            right.annotate(f"truth known after {row['after']}", (100 * misses["miss"].max(), row["ratio"]), fontsize=7,
                           ha="right", va="bottom", color=NULL)  # fmt: skip
        right.legend(loc="best", fontsize=8)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return save(figure, path)


def draw_best(table: pd.DataFrame, path: Path) -> Path:
    """A panel for each N: rate of hands that are not good, of single draws, over the evaluations before the choice."""
    with styled():
        sizes = sorted(table["n"].unique())
        figure, axes = plt.subplots(1, len(sizes), figsize=(WIDTH, 4), layout="constrained", sharey=True, squeeze=False)
        for axis, n in zip(axes[0], sizes, strict=True):
            part = table[(table["n"] == n) & (table["timestep"] > 0)]
            for place, (scorer, rows) in enumerate(part.groupby("scorer", sort=False)):
                _bars(axis, rows, "not_good", rows["after"] + 0.12 * (place - 2), COLOURS[str(scorer)], label=scorer)
            final = table[(table["n"] == n) & (table["timestep"] == 0)].iloc[0]
            axis.axhline(final["not_good"], color=INK, lw=1, ls="--", label="all finished, the judge chooses")
            axis.axhline(1, color=INK, lw=1)
            axis.set_title(f"best of {n}: {part['cost'].min():.2f} to {part['cost'].max():.2f} times the cost")
            axis.set_xticks(sorted(part["after"].unique()))
            axis.set_xlabel("evaluations before the choice")
        axes[0][0].set_ylabel("hands that are not good / single draws")
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return save(figure, path)


def colour_of(rule: str) -> str:
    """Of a rule: the colour of who decides."""
    return next((COLOURS[who] for who in sorted(COLOURS, key=len, reverse=True) if rule.startswith(who)), INK)


def _bars(
    axis, rows: pd.DataFrame, name: str, place, colour: str, *, horizontal: bool = False, label=None, face=None
) -> None:
    """Values with their intervals, cut where nothing is to be read; `face` fills the marker."""
    value = rows[name].to_numpy(float)
    ends = np.clip(np.nan_to_num(rows[[f"{name}_lo", f"{name}_hi"]].to_numpy(float).T, posinf=MOST), 0, MOST)
    error = np.abs(ends - np.clip(value, 0, MOST))
    shown = np.where(value <= MOST, value, np.nan)
    if horizontal:
        axis.errorbar(shown, place, xerr=error, fmt="o", ms=4, color=colour, mfc=face)
    else:
        axis.errorbar(place, shown, yerr=error, marker="o", ms=4, color=colour, label=label)
