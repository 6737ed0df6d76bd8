"""steer.png: response to the strength, random directions, damage outside the hand. ablation.png: erased and random."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from badhands.figures.palette import BAD, GOOD, INK, NULL
from badhands.figures.style import WIDTH, save, styled, timestep_axis

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
    """Changes of the bad rate and of the judge's logit, erased verdict among random subspaces; what a fresh probe
    still reads."""
    with styled():
        figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 4.6), layout="constrained", width_ratios=(3, 3, 4))
        for axis, column, scale, label in (
            (axes[0], "bad", 100, "change of the rate of bad hands, points"),
            (axes[1], "shift", 1, "change of the judge's logit of a good hand"),
        ):
            _ranked(axis, table, column, scale)
            axis.set_ylabel(label)
        axes[0].set_title(f"n = {int(table['n'].iloc[0])} pairs")
        axes[1].set_title("each its own control")
        of_step = left_over.groupby("timestep")[["before", "after"]].mean()
        for column, colour, label in (
            ("before", GOOD, "fresh probe before; mean of cells"),
            ("after", "#E69F00", "after other images' eraser"),
        ):
            axes[2].plot(left_over["timestep"], left_over[column], "o", ms=3, alpha=0.5, color=colour)
            axes[2].plot(of_step.index, of_step[column], color=colour, label=label)
        axes[2].axhline(0.5, color=INK, lw=1)
        timestep_axis(axes[2], left_over["timestep"].unique().tolist())
        axes[2].set_ylabel("AUROC on images that the eraser has not seen")
        axes[2].set_title("what is left, a dot a cell")
        handles = [x + y for x, y in zip(axes[0].get_legend_handles_labels(), axes[2].get_legend_handles_labels(),
                                         strict=True)]  # fmt: skip
        figure.legend(*handles, loc="outside lower center", ncols=4)
        return save(figure, path)


def _ranked(axis: Axes, table: pd.DataFrame, column: str, scale: float) -> None:
    """All erasures in order of their effect, with intervals."""
    shown = table.sort_values(column, kind="stable").reset_index(drop=True)
    own = (shown["kind"] != "random").to_numpy()
    for colour, keep, label in ((NULL, ~own, f"erased: {(~own).sum()} random subspaces"), (BAD, own, "the verdict")):
        part = shown[keep]
        bars = scale * np.array([part[column] - part[f"{column}_lo"], part[f"{column}_hi"] - part[column]])
        axis.errorbar(part.index, scale * part[column], yerr=bars, fmt="o", ms=4, color=colour, label=label)
    axis.axhline(0, color=INK, lw=1)
    axis.set_xticks([])
