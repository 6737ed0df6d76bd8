"""Cosines between the directions of all cells, with what shared images alone would give."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from badhands.cells import Cell, in_order
from badhands.figures.palette import COSINE_CMAP, INK
from badhands.figures.style import WIDTH, sample_size, save, styled

UNRESOLVED = "#E3E3E3"


def draw_agreement(agree: pd.DataFrame, path: Path, comparison: str = "good_vs_bad") -> Path | None:
    """Four heatmaps on one scale: raw, standardised, without noise, and the null; None with fewer than two cells."""
    use = agree.loc[agree["comparison"] == comparison] if len(agree) else agree
    if len(use) < 3:
        return None
    raw, standard = (use.loc[use["metric"] == f"cosine_{scale}"] for scale in ("raw", "standardised"))
    cells = in_order(Cell(b, int(t)) for b, t in zip(use["block"], use["timestep"], strict=True))
    wanted = ((raw, "value", "raw channels"), (standard, "value", "standardised channels"),
              (standard, "corrected", "standardised, without noise (disjoint halves)"),
              (standard, "null_mean", "standardised, labels shuffled (mean)"))  # fmt: skip
    with styled():
        figure, axes = plt.subplots(2, 2, figsize=(WIDTH, WIDTH + 0.6), layout="constrained", sharex=True, sharey=True)
        for axis in axes[1]:
            axis.set_xlabel("block; timesteps count down within each")
        for axis, (rows, column, title) in zip(axes.ravel(), wanted, strict=True):
            _heatmap(axis, cells, rows, column)
            lost = len(cells) - _resolved(rows)
            axis.set_title(
                title if column == "null_mean" or not lost else f"{title}\n{lost} of {len(cells)} not resolved"
            )
        figure.colorbar(
            axes[0, 0].images[0], ax=axes, shrink=0.5, label="cosine", aspect=40, location="bottom", pad=0.01
        )
        versus = comparison.replace("_", " ")
        figure.suptitle(
            f"Do cells agree on the direction? Cosine of v between cells ({versus})\n{sample_size(use)}\n"
            "grey: one of the two directions is not resolved, so no cosine is quoted",
            fontsize=11,
        )
        return save(figure, path)


def _heatmap(axis: Axes, cells: tuple[Cell, ...], rows: pd.DataFrame, column: str) -> None:
    place = {(cell.block, cell.timestep): k for k, cell in enumerate(cells)}
    matrix = np.full((len(cells), len(cells)), np.nan)
    keep = rows if column == "null_mean" else rows.loc[rows["resolved"].astype(bool)]
    for row in keep.itertuples():
        i, j = place[row.block, row.timestep], place[row.block_b, row.timestep_b]
        matrix[i, j] = matrix[j, i] = getattr(row, column)
    axis.set_facecolor(UNRESOLVED)
    axis.grid(False)
    axis.imshow(matrix, cmap=COSINE_CMAP, vmin=-1, vmax=1, interpolation="nearest")
    blocks = [cell.block for cell in cells]
    edges = [k for k in range(1, len(cells)) if blocks[k] != blocks[k - 1]]
    for edge in edges:
        axis.axhline(edge - 0.5, color=INK, linewidth=0.5)
        axis.axvline(edge - 0.5, color=INK, linewidth=0.5)
    bounds = [0, *edges, len(cells)]
    middles = [(a + b - 1) / 2 for a, b in pairwise(bounds)]
    names = [blocks[a] for a in bounds[:-1]]
    axis.set_xticks(middles, names, rotation=90)
    axis.set_yticks(middles, names)
    axis.tick_params(length=0)


def _resolved(rows: pd.DataFrame) -> int:
    own = rows.loc[(rows["block"] == rows["block_b"]) & (rows["timestep"] == rows["timestep_b"])]
    return int(own["resolved"].astype(bool).sum())
