"""Figures of the comparison: heatmaps of all runs in one colour scale, and paired differences as a forest plot."""

import io
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from badhands.cells import block_key
from badhands.figures.palette import FAINT, INK, NULL
from badhands.figures.probe_maps import AUROC_CMAP
from badhands.stats.family import ALPHA

PER_ROW = 4


def heatmaps(runs: Mapping[str, pd.DataFrame], unit: str, low: float, high: float | None) -> bytes:
    """One block x timestep map a run, all on one colour scale.

    Args:
        runs: name -> columns block, timestep, value. Blocks and timesteps of all runs are shown in all maps.
        low, high: ends of the scale; high None takes the largest value of all runs.

    Returns:
        PNG bytes.
    """
    everything = pd.concat(runs.values())
    blocks = sorted(everything["block"].unique(), key=block_key)
    timesteps = sorted(everything["timestep"].unique(), reverse=True)
    top = float(np.nanmax(everything["value"])) if high is None else high
    norm = Normalize(low, max(top, low + 1e-6))
    columns = min(PER_ROW, len(runs))
    rows = -(-len(runs) // columns)
    width = max(2.6, 0.34 * len(timesteps) + 1.2)
    figure = Figure(figsize=(columns * width + 1.2, rows * (0.27 * len(blocks) + 1.1)), layout="constrained", dpi=130)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    image = None
    for axis, (name, values) in zip(axes.flat, runs.items(), strict=False):
        grid = values.pivot_table(index="block", columns="timestep", values="value").reindex(blocks)[
            [t for t in timesteps if t in set(values["timestep"])]
        ]
        grid = grid.reindex(columns=timesteps)
        image = axis.imshow(grid.to_numpy(float), norm=norm, cmap=AUROC_CMAP, aspect="auto")
        best = values.loc[values["value"].idxmax()]
        axis.plot(timesteps.index(best["timestep"]), blocks.index(best["block"]), "*", color="#D55E00", markersize=11,
                  markeredgecolor="white")  # fmt: skip
        axis.set_title(name, fontsize=9.5, color=INK)
        some = slice(None, None, -(-len(timesteps) // 14))  # so that labels stay apart
        axis.set_xticks(range(len(timesteps))[some], [str(int(t)) for t in timesteps[some]], fontsize=7)
        axis.set_yticks(range(len(blocks)), blocks, fontsize=7.5)
        axis.set_facecolor(FAINT)
    for axis in list(axes.flat)[len(runs) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("timestep (noise → image)", fontsize=8)
    assert image is not None
    figure.colorbar(image, ax=axes, label=unit, shrink=0.9)
    return _png(figure)


def forest(pairs: pd.DataFrame) -> bytes:
    """Paired differences with their intervals, one line a pair (columns first, second, value, lo, hi). PNG bytes."""
    figure = Figure(figsize=(8.4, 0.32 * len(pairs) + 1.1), layout="constrained", dpi=130)
    axis = figure.subplots()
    for y, (_, pair) in enumerate(pairs.iterrows()):
        resolved = pair["lo"] > 0 or pair["hi"] < 0
        colour = "#0072B2" if resolved else NULL
        axis.plot([pair["lo"], pair["hi"]], [y, y], color=colour, linewidth=2)
        axis.plot(pair["value"], y, "o", color=colour, markerfacecolor=colour if resolved else "white")
    axis.axvline(0, color=INK, linewidth=0.8)
    axis.set_yticks(range(len(pairs)), [f"{p['second']}  −  {p['first']}" for _, p in pairs.iterrows()], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("difference in image AUROC (mean over common cells)", fontsize=9)
    axis.grid(axis="x", color=FAINT)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    return _png(figure)


def power(curve: pd.DataFrame) -> bytes:
    """Detection over the number of images (columns images, detected, lo, hi, cells). PNG bytes."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained", dpi=130)
    axis = figure.subplots()
    x, y = curve["images"], 100 * curve["detected"]
    error = [y - 100 * curve["lo"], 100 * curve["hi"] - y]
    axis.errorbar(x, y, yerr=np.abs(error), fmt="o-", color="#0072B2", capsize=3, label="found, 95 % interval")
    axis.axhline(100 * ALPHA, color=INK, linewidth=0.8, linestyle=":", label="allowed where nothing is to be found")
    for n, share, cells in zip(x, y, curve["cells"], strict=True):
        axis.annotate(f"{cells:g} cells", (n, share), (6, -13), textcoords="offset points", fontsize=8, color=INK)
    axis.set_xticks(x, [str(n) for n in x])
    axis.set(xlim=(0, 1.12 * x.max()), ylim=(-3, 106))
    axis.set(xlabel="labelled images", ylabel="subsamples with a finding, %")
    axis.legend(fontsize=8, frameon=False, loc="center right")
    axis.grid(axis="y", color=FAINT)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()
