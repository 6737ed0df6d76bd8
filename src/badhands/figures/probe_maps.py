"""What the probes read out, cell by cell: heatmap block by timestep, and the best block beside the baselines."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from badhands.cells import PSEUDO_BLOCKS
from badhands.figures.palette import BAD, FAINT, GLOBAL, GOOD, INK, LOCAL, NOT_HAND, NULL
from badhands.figures.style import WIDTH, blocks_in_order, save, styled, timestep_axis, timesteps_in_order
from badhands.stats.family import CELLS

AUROC_CMAP = LinearSegmentedColormap.from_list("auroc", ["#FFFFFF", "#B9D8EA", GOOD, "#00314F"])
"""From chance (white) to 1; the fixed scale `AUROC_RANGE`."""
AUROC_RANGE = (0.5, 1.0)

COLOURS = {
    "geometry": (NULL, "-"),
    "prompt": (NULL, "--"),
    "xt": (LOCAL, "-"),
    "x0": (BAD, "-"),
    "x0_variance": (GLOBAL, "-"),
    "not_hand_tokens": (NOT_HAND, "-"),
    "preview_cnn": ("#CC79A7", "-"),
    "preview_referee": ("#117733", "-"),
}
"""Of baselines: colour and line; others take the next free ones."""
SPARE = ("#44AA99", "#999933", "#332288")


def claimed(scores: pd.DataFrame, head: str, metric: str) -> pd.DataFrame:
    """Out-of-fold rows of one metric of the token probes."""
    if scores.empty:
        return scores
    wanted = {"head": head, "control": "none", "metric": metric, "split": "out_of_fold"}
    return scores.loc[(scores[list(wanted)] == pd.Series(wanted)).all(axis=1)]


def blocks_of(headline: pd.DataFrame, metric: str = "auroc") -> pd.DataFrame:
    """Rows of one metric of tables/headline.csv, blocks of the transformer alone."""
    if headline.empty:
        return headline
    return headline.loc[(headline["metric"] == metric) & ~headline["block"].isin(PSEUDO_BLOCKS)]


def draw_probe_maps(headline: pd.DataFrame, scores: pd.DataFrame, path: Path) -> Path | None:
    """The headline's AUROC, token AUROC and the hand's token AUROC of every cell, one scale; None without any."""
    wanted = (
        (blocks_of(headline), "good or bad, image\n(ridge on image means)"),
        (claimed(scores, "good", "token_auroc"), "good or bad, token"),
        (claimed(scores, "hand", "token_auroc"), "hand or not, token"),
    )
    shown = [(table, title) for table, title in wanted if len(table)]
    if not shown:
        return None
    blocks, timesteps = blocks_in_order(shown[0][0]), timesteps_in_order(shown[0][0])
    p = blocks_of(headline, "auroc_p_family")
    with styled():
        figure, axes = plt.subplots(
            1, len(shown), figsize=(WIDTH, 1.9 + 0.42 * len(blocks)), layout="constrained", sharey=True, squeeze=False
        )
        for axis, (table, title) in zip(axes[0], shown, strict=True):
            image = _map(axis, table, blocks, timesteps)
            axis.set_title(title)
        for row in p.loc[p["value"] <= CELLS].itertuples() if len(p) else ():
            corner = (timesteps.index(row.timestep) - 0.5, blocks.index(row.block) - 0.5)
            axes[0, 0].add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=BAD, linewidth=1.6))
        figure.colorbar(image, ax=axes, label="AUROC, held out", aspect=12)
        note = "framed: beyond chance, 5 % familywise over everything the run tests" if len(p) else ""
        figure.suptitle(f"What probes read out; n = {int(shown[0][0].iloc[0]['n'])} images\n{note}", fontsize=11)
        return save(figure, path)


def _map(axis: Axes, table: pd.DataFrame, blocks: list[str], timesteps: list[int]) -> AxesImage:
    values = table.pivot(index="block", columns="timestep", values="value").reindex(blocks)[timesteps].to_numpy(float)
    image = axis.imshow(values, cmap=AUROC_CMAP, vmin=AUROC_RANGE[0], vmax=AUROC_RANGE[1], aspect="auto")
    some = slice(None, None, -(-len(timesteps) // 10))  # so that labels stay apart
    axis.set_xticks(range(len(timesteps))[some], [str(t) for t in timesteps[some]])
    axis.set_yticks(range(len(blocks)), blocks)
    axis.tick_params(length=0)
    axis.grid(False)
    axis.set_xlabel("timestep (noise → image)")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value) and len(timesteps) <= 10:
            text = f"{value:.2f}".removeprefix("0")
            axis.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if value > 0.78 else INK)
    return image


def draw_baselines(headline: pd.DataFrame, baselines: pd.DataFrame, path: Path) -> Path | None:
    """The best block at each timestep against everything that needs no block of the hand."""
    own = blocks_of(headline)
    if own.empty:
        return None
    with styled():
        figure, axis = plt.subplots(figsize=(WIDTH, 6.2), layout="constrained")
        best = own.loc[own.groupby("timestep")["value"].idxmax()].sort_values("timestep")
        _band(axis, best, GOOD, "best block at each timestep", width=2.6)
        mean = own.groupby("timestep")["value"].mean()
        axis.plot(mean.index.astype(int), mean.to_numpy(), color=GOOD, linestyle=":", label="mean over blocks")
        spare = iter(SPARE)
        found = baselines.loc[baselines["metric"] == "auroc"] if len(baselines) else baselines
        for (control, title), table in found.groupby(["control", "title"], sort=False) if len(found) else ():
            colour, line = COLOURS[control] if control in COLOURS else (next(spare, INK), "-")
            if table["timestep"].isna().all():
                axis.axhspan(table["lo"].iloc[0], table["hi"].iloc[0], color=FAINT, alpha=0.4, zorder=0)
                axis.axhline(table["value"].iloc[0], color=colour, linewidth=1.4, linestyle=line, label=title)
            else:
                top = table.loc[table.groupby("timestep")["value"].idxmax()].sort_values("timestep")
                _band(axis, top, colour, title)
        axis.axhline(0.5, color=INK, linewidth=0.8)
        timestep_axis(axis, timesteps_in_order(own))
        axis.set_ylabel("image AUROC, held out")
        axis.set_ylim(min(0.4, axis.get_ylim()[0]), 1.0)
        figure.legend(*axis.get_legend_handles_labels(), ncols=3, loc="outside lower center")
        axis.set_title(
            f"Blocks of the hand against baselines; n = {int(own['n'].iloc[0])} images, bands: 95 % over images\n"
            "the best of several blocks or timesteps flatters"
        )
        return save(figure, path)


def _band(axis: Axes, table: pd.DataFrame, colour: str, name: str, width: float = 1.8) -> None:
    x = table["timestep"].astype(int).to_numpy()
    axis.plot(x, table["value"].to_numpy(), color=colour, linewidth=width, marker="o", markersize=4, label=name)
    axis.fill_between(x, table["lo"].to_numpy(), table["hi"].to_numpy(), color=colour, alpha=0.13, linewidth=0)
