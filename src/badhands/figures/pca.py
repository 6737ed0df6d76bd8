"""Small multiples of the tokens: rows are blocks in network order, columns timesteps from noise to image."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.collections import PatchCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from badhands.cells import PSEUDO_BLOCKS
from badhands.figures.palette import BAD, GOOD
from badhands.figures.style import WIDTH, blocks_in_order, sample_size, save, styled, timesteps_in_order

LEFT = 0.75
"""Inches for the names of the blocks."""
TALL = 1.05
"""Height of a panel over its width."""
HEAD = 1.45
"""Lines of text that the note above a panel takes."""


def draw_pca(points: pd.DataFrame, pca: pd.DataFrame, path: Path) -> Path:
    """The two leading components (Eq. 3) with their explained variance."""
    first, second = (_values(pca, f"explained_{k}") for k in (1, 2))

    def note(block: str, timestep: int) -> str:
        return f"{first[block, timestep]:.0%} + {second[block, timestep]:.0%}"

    title = "PCA of hand tokens: first component across, second up; above each: their shares of variance"
    return _page(points, pca, path, ("pc1", "pc2"), title, note)


def draw_pca_v(points: pd.DataFrame, pca: pd.DataFrame, path: Path, held_out: bool) -> Path:
    """v across, leading component beside it up (Eq. 4). In-sample as the study drew it, or on held-out images."""
    split = "held-out" if held_out else "in-sample"
    gap = _values(pca.loc[pca["split"] == split], "gap_along_v")
    chance = _values(pca, "gap_along_v_chance")

    def note(block: str, timestep: int) -> str:
        here = f"{gap[block, timestep]:.1f} sd"
        return here if held_out else f"{here}, chance {chance[block, timestep]:.1f}"

    if held_out:
        title = "Held-out: each image along a v that was fitted without its fold; above: gap of the classes"
        columns = ("v_held_out", "beside_v_held_out")
    else:
        title = (
            "In-sample: v fitted on the very images shown, so a gap is guaranteed;\n"
            "above each: gap of the classes, and the gap that random labels would give"
        )
        columns = ("v", "beside_v")
    return _page(points, pca, path, columns, title, note, "v (bad → good)", "leading component beside v")


def _page(
    points: pd.DataFrame, pca: pd.DataFrame, path: Path, columns: tuple[str, str], title: str, note,
    across: str = "first component", up: str = "second component",
) -> Path:  # fmt: skip
    """One axis for the whole page, a unit square a panel: 180 panels cost no more than one."""
    points = (
        points.loc[~points["block"].isin(PSEUDO_BLOCKS)] if (~points["block"].isin(PSEUDO_BLOCKS)).any() else points
    )
    blocks, timesteps = blocks_in_order(points), timesteps_in_order(points)
    side = (WIDTH - LEFT - 0.1) / len(timesteps)
    tall = side * TALL if len(timesteps) > 3 else side / 2
    lines = title.count("\n") + 2
    top, bottom = 0.2 + 0.22 * lines, 0.55
    height = top + bottom + tall * len(blocks)
    small = max(4.5, min(9.0, 6.0 * side))
    with styled():
        figure = plt.figure(figsize=(WIDTH, height))
        axis = figure.add_axes((LEFT / WIDTH, bottom / height, 1 - (LEFT + 0.1) / WIDTH, tall * len(blocks) / height))
        axis.set(xlim=(0, len(timesteps)), ylim=(len(blocks), 0))
        axis.grid(False)
        for spine in axis.spines.values():
            spine.set_visible(False)
        axis.set_xticks(np.arange(len(timesteps)) + 0.5, [f"t = {t}" if side > 0.6 else str(t) for t in timesteps])
        axis.set_yticks(np.arange(len(blocks)) + 0.5, blocks)
        axis.tick_params(length=0)
        corner = HEAD * small / (72 * tall)  # what the note takes of a panel
        drawn, frames, colours = [], [], []
        for (block, timestep), here in points.groupby(["block", "timestep"]):
            i, j = blocks.index(block), timesteps.index(int(timestep))
            frames.append(Rectangle((j + 0.02, i + corner), 0.96, 0.98 - corner))
            axis.text(j + 0.5, i + corner * 0.9, note(block, timestep), fontsize=small, ha="center", va="bottom")
            x, y = (_fitted(here[name].to_numpy()) for name in columns)
            inside = (np.abs(x - 0.5) < 0.5) & (np.abs(y - 0.5) < 0.5)
            drawn.append(np.stack([j + 0.02 + 0.96 * x, i + 0.98 - (0.98 - corner) * y], axis=1)[inside])
            colours.append(np.where(here["good"], GOOD, BAD)[inside])
        axis.add_collection(PatchCollection(frames, facecolor="none", edgecolor="#999999", linewidth=0.5))
        place = np.concatenate(drawn)
        axis.scatter(place[:, 0], place[:, 1], c=np.concatenate(colours), s=7.0 if side > 1 else 2.5, alpha=0.55,
                     linewidths=0)  # fmt: skip
        shown = points.groupby(["block", "timestep"]).size().max()
        figure.text(0.5, 1 - 0.1 / height, f"{title}\n{sample_size(pca)} ({shown} drawn per panel)", fontsize=11,
                    ha="center", va="top")  # fmt: skip
        axes_named = f"across: {across}; up: {up}; raw units, each panel on its own scale.   timestep (noise → image)"
        figure.text(0.5, 0.1 / height, axes_named, fontsize=9, ha="center", va="bottom")
        handles = [Line2D([], [], color=colour, marker="o", linestyle="", label=name)
                   for colour, name in ((GOOD, "good"), (BAD, "bad"))]  # fmt: skip
        figure.legend(handles=handles, loc="upper right", ncols=1, bbox_to_anchor=(0.995, 1 - 0.05 / height))
        return save(figure, path)


def _fitted(values: np.ndarray) -> np.ndarray:
    """To 0..1, with a margin; the farthest 1 % of the tokens may fall outside and are not drawn."""
    low, high = np.quantile(values, [0.005, 0.995])
    margin = 0.12 * (high - low) + 1e-9
    return (values - low + margin) / (high - low + 2 * margin)


def _values(frame: pd.DataFrame, metric: str) -> dict[tuple[str, int], float]:
    use = frame.loc[frame["metric"] == metric]
    return {(b, t): v for b, t, v in zip(use["block"], use["timestep"], use["value"], strict=True)}
