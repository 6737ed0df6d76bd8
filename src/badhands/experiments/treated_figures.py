"""steer.png: response to the strength, random directions, damage outside the hand. ablation.png: erased and random."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from badhands.figures.palette import BAD, GOOD, INK, NULL
from badhands.figures.style import WIDTH, save, styled

KINDS = {"mean": (GOOD, "mean good − mean bad"), "ridge": (BAD, "ridge weights"),
         "subspace": ("#009E73", "subspace that all cells share")}  # fmt: skip


def draw_doses(table: pd.DataFrame, path: Path) -> Path:
    """Left: shift of the judge's logit with its interval over prompts. Right: pixels outside the hand."""
    random = table[table["kind"] == "random"]
    with styled():
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 4.2), layout="constrained")
        for kind, (colour, label) in KINDS.items():
            doses = table[(table["kind"] == kind) | (table["strength"] == 0)].sort_values("strength")
            if kind not in set(table["kind"]):
                continue
            bars = [doses["shift"] - doses["shift_lo"], doses["shift_hi"] - doses["shift"]]
            left.errorbar(doses["strength"], doses["shift"], yerr=bars, color=colour, marker="o", label=label)
            right.plot(doses["strength"], doses["outside"], color=colour, marker="o", zorder=2)
        left.scatter(random["strength"], random["shift"], color=NULL, s=14, zorder=3,
                     label=f"{len(random)} random directions, as long")  # fmt: skip
        right.scatter(random["strength"], random["outside"], color=NULL, s=14, zorder=3)
        left.axhline(0, color=INK, lw=1)
        left.set_ylabel("change of the judge's logit of a good hand")
        left.set_title(f"n = {int(table['n'].iloc[0])} pairs, each its own control")
        right.set_ylabel("mean change outside the hand, of 255")
        right.set_title("damage elsewhere")
        for axis in (left, right):
            axis.set_xlabel("strength, in lengths of the mean difference")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return save(figure, path)


def draw_ablation(table: pd.DataFrame, left_over: pd.DataFrame, path: Path) -> Path:
    """Left: change of the bad rate, erased verdict and random subspaces. Right: what a fresh probe still reads."""
    shown = table.sort_values("bad").reset_index(drop=True)
    own = (shown["kind"] != "random").to_numpy()
    with styled():
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 4.4), layout="constrained", width_ratios=(3, 2))
        for colour, keep, label in ((NULL, ~own, f"{(~own).sum()} random subspaces"), (BAD, own, "the verdict")):
            part = shown[keep]
            bars = 100 * np.array([part["bad"] - part["bad_lo"], part["bad_hi"] - part["bad"]])
            left.errorbar(part.index, 100 * part["bad"], yerr=bars, fmt="o", color=colour, label=f"erased: {label}")
        left.axhline(0, color=INK, lw=1)
        left.set_xticks([])
        left.set_ylabel("change of the rate of bad hands, percentage points")
        left.set_title(f"n = {int(table['n'].iloc[0])} pairs, each its own control")
        left.legend(loc="best", fontsize=8)
        place = range(len(left_over))
        right.plot(left_over["before"], place, "o", color=GOOD, label="before")
        right.plot(left_over["after"], place, "o", color=BAD, label="erased by other images' eraser")
        right.axvline(0.5, color=INK, lw=1)
        right.set_yticks(place, left_over["cell"], fontsize=6)
        right.set_xlabel("AUROC of a fresh probe, out of fold")
        right.legend(loc="best", fontsize=8)
        return save(figure, path)
