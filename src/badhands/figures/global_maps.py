"""Is there one direction? Recovery of shared directions on cells they were not learned from; transfer between cells."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from badhands.cells import Cell, in_order
from badhands.figures.palette import COSINE_CMAP, GOOD, INK, LOCAL, NULL
from badhands.figures.style import WIDTH, save, styled

METHODS = {
    "G1": ("singular vector of directions v (G1)", "#56B4E9"),
    "rank1": ("one shared direction (G2)", GOOD),
    "rank2": ("two shared directions", "#CC79A7"),
    "rank3": ("three shared directions", "#882255"),
    "nearest": ("the nearest cell's own", LOCAL),
    "random1": ("random direction", NULL),
    "random3": ("three random directions", "#C9C9C9"),
}
KINDS = {
    "none": "no cell left out",
    "block": "block left out",
    "timestep": "timestep left out",
    "window": "late timesteps,\nlearned on early ones",
}


def draw_recovery(table: pd.DataFrame, path: Path) -> Path | None:
    """Share of the own probes' AUROC above chance that each method keeps; dot: mean over cells, cross: worst cell."""
    rows = table.loc[table["metric"].isin(["recovery", "recovery_worst"])]
    if rows.empty:
        return None
    kinds = [kind for kind in KINDS if (rows["split"] == kind).any()]
    with styled():
        figure, axis = plt.subplots(figsize=(WIDTH, 5.4), layout="constrained")
        for m, (method, (name, colour)) in enumerate(METHODS.items()):
            label = name
            for k, kind in enumerate(kinds):
                here = rows.loc[(rows["split"] == kind) & (rows["probe"] == method)]
                x = k + (m - (len(METHODS) - 1) / 2) * 0.11
                for row in here.itertuples():
                    worst = row.metric == "recovery_worst"
                    if worst and method not in ("G1", "rank1", "rank2", "rank3", "nearest"):
                        continue
                    axis.plot(x, row.value, marker="x" if worst else "o", color=colour, markersize=6 if worst else 7,
                              linestyle="", label="" if worst else label)  # fmt: skip
                    if not worst:
                        axis.plot([x, x], [row.lo, row.hi], color=colour, linewidth=2)
                        label = ""
        axis.axhline(1, color=INK, linewidth=0.8)
        axis.axhline(0, color=INK, linewidth=0.8)
        axis.set_xticks(range(len(kinds)), [KINDS[kind] for kind in kinds])
        axis.grid(axis="x", visible=False)
        axis.set_ylabel("recovery R = (AUROC − ½) / (own AUROC − ½)")
        axis.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.12))
        axis.set_title("How much of each cell's own probe a shared direction keeps, on held-out images\n"
                       "dot: mean over cells with 95 % interval (images); cross: worst cell")  # fmt: skip
        return save(figure, path)


def draw_transfer(table: pd.DataFrame, path: Path) -> Path | None:
    """AUROC of the own direction of one cell (row) on another (column), held-out images."""
    if len(table) < 4:
        return None
    cells = in_order(Cell(b, int(t)) for b, t in zip(table["block"], table["timestep"], strict=True))
    place = {cell: k for k, cell in enumerate(cells)}
    matrix = np.full((len(cells), len(cells)), np.nan)
    for row in table.itertuples():
        start, end = Cell(row.from_block, int(row.from_timestep)), Cell(row.block, int(row.timestep))
        matrix[place[start], place[end]] = row.value
    blocks = [cell.block for cell in cells]
    bounds = [0, *(k for k in range(1, len(cells)) if blocks[k] != blocks[k - 1]), len(cells)]
    with styled():
        figure, axis = plt.subplots(figsize=(WIDTH * 0.85, WIDTH * 0.78), layout="constrained")
        # 1/2 is chance; below it a direction is turned round in the other cell, which deserves a colour of its own
        image = axis.imshow(matrix, cmap=COSINE_CMAP, vmin=0, vmax=1, interpolation="nearest")
        for edge in bounds[1:-1]:
            axis.axhline(edge - 0.5, color=INK, linewidth=0.5)
            axis.axvline(edge - 0.5, color=INK, linewidth=0.5)
        middles = [(a + b - 1) / 2 for a, b in pairwise(bounds)]
        names = [blocks[a] for a in bounds[:-1]]
        axis.set_xticks(middles, names, rotation=90)
        axis.set_yticks(middles, names)
        axis.tick_params(length=0)
        axis.grid(False)
        axis.set_xlabel("tried on (timesteps count down within each block)")
        axis.set_ylabel("learned on")
        figure.colorbar(image, ax=axis, label="image AUROC, held-out images", shrink=0.8)
        axis.set_title("Transfer: the direction of one cell read out in another")
        return save(figure, path)
