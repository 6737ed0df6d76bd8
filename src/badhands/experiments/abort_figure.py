"""costs.png: when to stop, and what it buys."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from badhands.figures.palette import BLOCK_COLOURS, INK
from badhands.figures.style import WIDTH, save, styled, timestep_axis


def draw_costs(main: pd.DataFrame, every: pd.DataFrame, block: str, path: Path) -> Path:
    """Left: cost ratio over the timestep of the decision, one block, by miss rate. Right: the methods."""
    with styled():
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 4.6), layout="constrained")
        shown = every[every["block"] == block].sort_values("timestep", ascending=False)
        for k, (miss, rows) in enumerate(shown.groupby("miss")):
            colour = BLOCK_COLOURS[2 * k % len(BLOCK_COLOURS)]
            ratio = np.clip(rows["ratio"].to_numpy(float), 0, 2)  # beyond twice the cost nothing is to be read
            ends = np.clip(np.nan_to_num(rows[["ratio_lo", "ratio_hi"]].to_numpy(float).T, nan=1.0), 0, 2)
            bars = np.abs(ends - ratio)
            left.errorbar(
                rows["timestep"] + 0.08 * (k - 2), ratio, yerr=bars, color=colour, marker="o", ms=4, label=f"{miss:g}"
            )
        left.axhline(1, color=INK, lw=1)
        timestep_axis(left, [int(t) for t in shown["timestep"].unique()])
        left.set_ylabel("evaluations per good hand / plain reseeding")
        left.set_title(f"stopped at a timestep, {block};\nblock and thresholds from the training study")
        left.legend(title="good hands it may lose")
        for k, row in enumerate(main.to_dict("records")):
            label = f"{row['method']} (n = {row['n']})"
            if not np.isfinite(row["per_good"]):
                right.plot([], [], " ", label=f"{label}: no good hand came through")
                continue
            lo, hi = max(row["per_good"] - row["lo"], 0), max(min(row["hi"], 1e5) - row["per_good"], 0)
            right.errorbar(
                row["per_good"], 100 * row["good_share"], xerr=[[lo], [hi]],
                marker="osD^vP*"[k % 7], ms=8, color=BLOCK_COLOURS[k % len(BLOCK_COLOURS)], label=label,
            )  # fmt: skip
        right.set_xlabel("transformer evaluations per good hand")
        right.set_ylabel("good hands among the delivered, %")
        right.set_title("lower cost to the left, purer delivery above")
        right.legend(loc="best", fontsize=8)
        return save(figure, path)
