"""How every figure of the measures looks: sizes that are readable 1,200 pixels wide, axes that name their direction."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from badhands.cells import block_key
from badhands.figures.palette import FAINT, INK, PAPER

WIDTH = 10.0
"""Inches; at `DPI` this is 1,200 pixels, the width at which W&B shows an image."""
DPI = 120

SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "figure.titlesize": 13,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "lines.linewidth": 1.8,
}


@contextmanager
def styled() -> Iterator[None]:
    """The project's settings, for one figure; no display is needed."""
    matplotlib.use("Agg", force=False)
    with plt.rc_context(SETTINGS):
        yield


def save(figure: Figure, path: Path) -> Path:
    """Write the PNG and let go of the figure. Nothing is cut off: the page is laid out, not cropped."""
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
    return path


def blocks_in_order(frame: pd.DataFrame) -> list[str]:
    return sorted(frame["block"].unique(), key=block_key)


def timesteps_in_order(frame: pd.DataFrame) -> list[int]:
    """From noise to image: counting down."""
    return sorted((int(t) for t in frame["timestep"].unique()), reverse=True)


def timestep_axis(axis: Axes, timesteps: Sequence[int], label: bool = True, most: int = 10) -> None:
    """Timesteps on x, spaced by their number, noise on the left and the image on the right."""
    highest, lowest = max(timesteps), min(timesteps)
    margin = 0.04 * (highest - lowest) + 0.2
    axis.set_xlim(highest + margin, lowest - margin)
    axis.set_xticks(_apart(sorted(timesteps, reverse=True), most))
    if label:
        axis.set_xlabel("timestep (noise → image)")


def _apart(timesteps: Sequence[int], most: int) -> list[int]:
    """As many as have room, the first and the last among them."""
    gap = max(1.0, (timesteps[0] - timesteps[-1]) / most)
    kept = [timesteps[0]]
    for t in timesteps[1:-1]:
        if kept[-1] - t >= gap and t - timesteps[-1] >= gap:
            kept.append(t)
    return kept + ([timesteps[-1]] if len(timesteps) > 1 else [])


def panels(count: int, columns: int, height: float, top: float = 0.9, **more) -> tuple[Figure, np.ndarray]:
    """A page of `count` equal panels; the unused ones are hidden. Returns the figure and float axes [count]."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, rows * height + top), layout="constrained", squeeze=False, **more
    )
    for axis in axes.ravel()[count:]:
        axis.set_visible(False)
    return figure, axes.ravel()[:count]


def sample_size(frame: pd.DataFrame) -> str:
    """n, as it stands on every figure."""
    row = frame.iloc[0]
    return f"n = {int(row['n_good'])} good + {int(row['n_bad'])} bad images, {int(row['n_tokens']):,} tokens"


def metric(frame: pd.DataFrame, name: str, probe: str | None = None) -> pd.DataFrame:
    """The rows of one metric, blocks in network order, timesteps counting down."""
    use = frame.loc[frame["metric"] == name]
    if probe is not None:
        use = use.loc[use["probe"] == probe]
    order = use["block"].map(block_key)
    return use.assign(_block=order).sort_values(["_block", "timestep"], ascending=[True, False]).drop(columns="_block")
