"""repair.png: what repairs cost beside new seeds, and what they mend and break."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from badhands.figures.palette import BAD, GOOD, INK, NULL
from badhands.figures.style import WIDTH, save, styled

COLOURS = {"reseed": INK, "hand": GOOD, "bad": BAD, "judge": "#009E73"}
TITLES = {"reseed": "new seeds, as dear", "hand": "whole hand again", "bad": "bad tokens again",
          "judge": "the judge's place again"}  # fmt: skip


def draw_repair(table: pd.DataFrame, path: Path) -> Path:
    """A panel for who chooses: evaluations per good hand over the share of steps drawn again; and damage outside."""
    with styled():
        figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 4.2), layout="constrained")
        for axis, chooser in zip(axes[:2], ("probe", "judge"), strict=True):
            for place, (region, colour) in enumerate(COLOURS.items()):
                part = table[(table["chosen_by"] == chooser) & (table["region"] == region)].sort_values("redo")
                low, high = part["ratio"] - part["ratio_lo"], part["ratio_hi"] - part["ratio"]
                bars = np.clip(np.nan_to_num(np.array([low, high]), posinf=1.0), 0, 1)
                axis.errorbar(100 * part["redo"] + place - 1.5, part["ratio"].clip(upper=2), yerr=bars, color=colour,
                              marker="o", ms=4, label=TITLES[region])  # fmt: skip
            axis.axhline(1, color=NULL, lw=1)
            axis.set_title(f"the {chooser} asks and chooses")
            axis.set_xticks(100 * table["redo"].unique())
            axis.set_xlabel("steps drawn again, %")
        axes[0].set_ylabel("evaluations per good hand / plain")
        ends = np.array([axis.get_ylim() for axis in axes[:2]])
        for axis in axes[:2]:
            axis.set_ylim(ends[:, 0].min(), ends[:, 1].max())
        for region in ("hand", "bad", "judge"):
            part = table[(table["chosen_by"] == "probe") & (table["region"] == region)].sort_values("redo")
            axes[2].plot(100 * part["redo"], part["psnr"], color=COLOURS[region], marker="o", ms=4)
        axes[2].set_title("outside what was redrawn")
        axes[2].set_xticks(100 * table["redo"].unique())
        axes[2].set_xlabel("steps drawn again, %")
        axes[2].set_ylabel("PSNR to the first picture, dB")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return save(figure, path)
