"""What the probes read out, cell by cell: heatmap block by timestep, and the best block beside the baselines."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

from badhands.cells import PSEUDO_BLOCKS
from badhands.figures.palette import BAD, FAINT, GLOBAL, GOOD, INK, LOCAL, NOT_HAND, NULL
from badhands.figures.style import WIDTH, blocks_in_order, save, styled, timestep_axis, timesteps_in_order

AUROC_CMAP = LinearSegmentedColormap.from_list("auroc", ["#FFFFFF", "#B9D8EA", GOOD, "#00314F"])
"""From chance (white) to 1; the fixed scale `AUROC_RANGE`."""
AUROC_RANGE = (0.5, 1.0)

BASELINES = {
    "xt": ("noisy latent x_t", LOCAL),
    "x0": ("predicted clean latent x0", BAD),
    "x0_variance": ("variance of x0 so far", GLOBAL),
    "not_hand_tokens": ("blocks, tokens outside the hand (best)", NOT_HAND),
}


def claimed(
    scores: pd.DataFrame, head: str = "good", metric: str = "image_auroc", control: str = "none"
) -> pd.DataFrame:
    """Out-of-fold rows of one metric."""
    wanted = {"head": head, "control": control, "metric": metric, "split": "out_of_fold"}
    return scores.loc[(scores[list(wanted)] == pd.Series(wanted)).all(axis=1)]


def draw_probe_maps(scores: pd.DataFrame, path: Path) -> Path | None:
    """Image AUROC, token AUROC and the hand's token AUROC of every cell, one scale; None without scores."""
    wanted = (
        (claimed(scores), "good or bad, image\n(mean token logit)"),
        (claimed(scores, metric="token_auroc"), "good or bad, token"),
        (claimed(scores, head="hand", metric="token_auroc"), "hand or not, token"),
    )
    shown = [(table, title) for table, title in wanted if len(table)]
    if not shown:
        return None
    blocks, timesteps = blocks_in_order(shown[0][0]), timesteps_in_order(shown[0][0])
    chance = scores.loc[(scores["metric"] == "image_auroc_p_max") & (scores["head"] == "good")]
    with styled():
        figure, axes = plt.subplots(
            1, len(shown), figsize=(WIDTH, 1.9 + 0.42 * len(blocks)), layout="constrained", sharey=True, squeeze=False
        )
        for axis, (table, title) in zip(axes[0], shown, strict=True):
            values = (
                table.pivot(index="block", columns="timestep", values="value").reindex(blocks)[timesteps].to_numpy()
            )
            image = axis.imshow(values, cmap=AUROC_CMAP, vmin=AUROC_RANGE[0], vmax=AUROC_RANGE[1], aspect="auto")
            some = slice(None, None, -(-len(timesteps) // 10))  # so that labels stay apart
            axis.set_xticks(range(len(timesteps))[some], timesteps[some])
            axis.set_yticks(range(len(blocks)), blocks)
            axis.tick_params(length=0)
            axis.grid(False)
            axis.set_title(title)
            axis.set_xlabel("timestep (noise → image)")
            for (i, j), value in np.ndenumerate(values):
                if np.isfinite(value) and len(timesteps) <= 10:
                    text = f"{value:.2f}".removeprefix("0")
                    axis.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if value > 0.78 else INK)
        own = shown[0][0].set_index(["block", "timestep"])["lo"]
        for row in chance.loc[chance["value"] < 0.05].itertuples():
            if own[row.block, row.timestep] <= 0.5:
                continue  # the null is another probe's (ridge on image means): this one finds nothing here
            corner = (timesteps.index(row.timestep) - 0.5, blocks.index(row.block) - 0.5)
            axes[0, 0].add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=BAD, linewidth=1.6))
        figure.colorbar(image, ax=axes, label="AUROC, out of fold", aspect=12)
        first = shown[0][0].iloc[0]
        note = "framed: beyond chance (p < 0.05, largest of all cells under shuffled labels)" if len(chance) else ""
        figure.suptitle(f"What a {first['probe']} probe reads out; n = {int(first['n'])} images\n{note}", fontsize=11)
        return save(figure, path)


def draw_baselines(scores: pd.DataFrame, path: Path) -> Path | None:
    """The best block at each timestep against everything that needs no block of the hand."""
    own = claimed(scores)
    own = own.loc[~own["block"].isin(PSEUDO_BLOCKS)]
    if own.empty:
        return None
    with styled():
        figure, axis = plt.subplots(figsize=(WIDTH, 5.2), layout="constrained")
        best = own.loc[own.groupby("timestep")["value"].idxmax()].sort_values("timestep")
        _band(axis, best, GOOD, "best block at each timestep", width=2.6)
        mean = own.groupby("timestep")["value"].mean()
        axis.plot(mean.index.astype(int), mean.to_numpy(), color=GOOD, linestyle=":", label="mean over blocks")
        for control, (name, colour) in BASELINES.items():
            table = claimed(scores, control=control)
            if len(table):
                table = table.loc[table.groupby("timestep")["value"].idxmax()].sort_values("timestep")
                _band(axis, table, colour, name)
        for control, name, style in (
            ("geometry", "token count and position alone", "-"),
            ("prompt", "words of the prompt", "--"),
        ):
            row = claimed(scores, control=control)
            if len(row):
                axis.axhspan(row["lo"].iloc[0], row["hi"].iloc[0], color=FAINT, alpha=0.4, zorder=0)
                axis.axhline(row["value"].iloc[0], color=NULL, linewidth=1.4, linestyle=style, label=name)
        axis.axhline(0.5, color=INK, linewidth=0.8)
        timestep_axis(axis, timesteps_in_order(own))
        axis.set_ylabel("image AUROC, out of fold")
        axis.set_ylim(min(0.4, axis.get_ylim()[0]), 1.0)
        axis.legend(ncols=2, loc="upper right")
        axis.set_title(
            f"Blocks of the hand against baselines; n = {int(own['n'].iloc[0])} images, bands: 95 % over images"
        )
        return save(figure, path)


def _band(axis: Axes, table: pd.DataFrame, colour: str, name: str, width: float = 1.8) -> None:
    x = table["timestep"].astype(int).to_numpy()
    axis.plot(x, table["value"].to_numpy(), color=colour, linewidth=width, marker="o", markersize=4, label=name)
    axis.fill_between(x, table["lo"].to_numpy(), table["hi"].to_numpy(), color=colour, alpha=0.13, linewidth=0)
