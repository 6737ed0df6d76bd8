"""Small multiples of the tokens: rows are blocks in network order, columns timesteps from noise to image."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from badhands.cells import PSEUDO_BLOCKS
from badhands.show.palette import BAD, GOOD
from badhands.show.style import WIDTH, blocks_in_order, sample_size, save, styled, timesteps_in_order


def draw_pca(points: pd.DataFrame, pca: pd.DataFrame, path: Path) -> Path:
    """The two leading components (Eq. 3) with their explained variance."""
    first, second = (_values(pca, f"explained_{k}") for k in (1, 2))

    def note(block: str, timestep: int) -> str:
        return f"{first[block, timestep]:.0%} + {second[block, timestep]:.0%}"

    title = "PCA of hand tokens: first component across, second up; share of variance in each corner"
    return _page(points, pca, path, ("pc1", "pc2"), title, note)


def draw_pca_v(points: pd.DataFrame, pca: pd.DataFrame, path: Path, held_out: bool) -> Path:
    """v across, leading component beside it up (Eq. 4). In-sample as the study drew it, or on held-out images."""
    split = "held-out" if held_out else "in-sample"
    gap = _values(pca[pca["split"] == split], "gap_along_v")
    chance = _values(pca, "gap_along_v_chance")

    def note(block: str, timestep: int) -> str:
        here = f"{gap[block, timestep]:.1f} sd"
        return here if held_out else f"{here}, chance {chance[block, timestep]:.1f}"

    if held_out:
        title = "Held-out: each image along a v that was fitted without its fold; corner: gap of the classes"
        columns = ("v_held_out", "beside_v_held_out")
    else:
        title = (
            "In-sample: v fitted on the very images shown, so a gap is guaranteed;\n"
            "corner: gap of the classes, and the gap that random labels would give"
        )
        columns = ("v", "beside_v")
    return _page(points, pca, path, columns, title, note, "v (bad → good)", "leading component beside v")


def _page(
    points: pd.DataFrame, pca: pd.DataFrame, path: Path, columns: tuple[str, str], title: str, note,
    across: str = "first component", up: str = "second component",
) -> Path:  # fmt: skip
    points = points[~points["block"].isin(PSEUDO_BLOCKS)] if (~points["block"].isin(PSEUDO_BLOCKS)).any() else points
    blocks, timesteps = blocks_in_order(points), timesteps_in_order(points)
    width = max(WIDTH, 0.8 + 0.75 * len(timesteps))
    side = (width - 0.8) / len(timesteps)
    small = max(4.5, min(8.0, 7.0 * side))
    cells = dict(tuple(points.groupby(["block", "timestep"])))
    with styled():
        figure, axes = plt.subplots(
            len(blocks), len(timesteps), figsize=(width, 1.5 + max(side, 0.9) * len(blocks)), layout="constrained",
            squeeze=False,
        )  # fmt: skip
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
        for i, block in enumerate(blocks):
            for j, timestep in enumerate(timesteps):
                axis = axes[i, j]
                axis.set(xticks=[], yticks=[])
                axis.grid(False)
                for spine in axis.spines.values():
                    spine.set(visible=True, linewidth=0.5, color="#999999")
                if (block, timestep) not in cells:
                    axis.set_visible(False)
                    continue
                _scatter(axis, cells[block, timestep], columns, 7.0 if side > 1 else 3.0)
                axis.set_title(note(block, timestep), fontsize=small, pad=2)
                if i == len(blocks) - 1:
                    axis.set_xlabel(f"t = {timestep}", fontsize=9)
                if j == 0:
                    axis.set_ylabel(block, fontsize=9)
        shown = points.groupby(["block", "timestep"]).size().max()
        figure.suptitle(f"{title}\n{sample_size(pca)} ({shown} drawn per panel)", fontsize=11)
        axes_named = f"across: {across}; up: {up}; raw units, each panel on its own scale.   timestep (noise → image)"
        figure.supxlabel(axes_named, fontsize=9)
        handles = [Line2D([], [], color=colour, marker="o", linestyle="", label=name)
                   for colour, name in ((GOOD, "good"), (BAD, "bad"))]  # fmt: skip
        figure.legend(handles=handles, loc="outside upper right", ncols=2)
        return save(figure, path)


def _scatter(axis: Axes, points: pd.DataFrame, columns: tuple[str, str], size: float) -> None:
    """Tokens in mixed order, so that neither class lies on top; a few far outliers may fall outside the panel."""
    colours = np.where(points["good"], GOOD, BAD)
    axis.scatter(points[columns[0]], points[columns[1]], c=colours, s=size, alpha=0.55, linewidths=0)
    for name, limit in zip(columns, (axis.set_xlim, axis.set_ylim), strict=True):
        low, high = np.quantile(points[name], [0.005, 0.995])
        margin = 0.12 * (high - low) + 1e-9
        limit(low - margin, high + margin)


def _values(frame: pd.DataFrame, metric: str) -> dict[tuple[str, int], float]:
    use = frame[frame["metric"] == metric]
    return {(b, t): v for b, t, v in zip(use["block"], use["timestep"], use["value"], strict=True)}
