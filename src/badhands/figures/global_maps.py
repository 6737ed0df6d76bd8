"""Is there one direction? What shared directions lose on cells they were not learned from; transfer between cells."""

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


def draw_losses(table: pd.DataFrame, path: Path) -> Path | None:
    """AUROC that each method loses to the cells' own probes, mean over the cells that were left out."""
    rows = table.loc[table["metric"] == "loss"] if len(table) else table
    if rows.empty:
        return None
    kinds = [kind for kind in KINDS if (rows["split"] == kind).any()]
    with styled():
        figure, axis = plt.subplots(figsize=(WIDTH, 5.0), layout="constrained")
        for m, (method, (name, colour)) in enumerate(METHODS.items()):
            here = rows.loc[rows["probe"] == method].set_index("split")
            for k, kind in enumerate(kind for kind in kinds if kind in here.index):
                x = kinds.index(kind) + (m - (len(METHODS) - 1) / 2) * 0.11
                row = here.loc[kind]
                axis.plot(x, row["value"], "o", color=colour, markersize=7, label=name if k == 0 else "")
                axis.plot([x, x], [row["lo"], row["hi"]], color=colour, linewidth=2)
        axis.axhline(0, color=INK, linewidth=0.8)
        axis.set_xticks(range(len(kinds)), [KINDS[kind] for kind in kinds])
        axis.grid(axis="x", visible=False)
        axis.invert_yaxis()
        axis.set_ylabel("AUROC lost (own − shared)")
        axis.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.12))
        axis.set_title("What a shared direction loses to each cell's own probe, on held-out images\n"
                       "0: nothing; mean over the cells left out, 95 % paired intervals over images")  # fmt: skip
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
