"""How far the activations are from what the formula of D_B supposes, and whether it matters."""

from pathlib import Path

import pandas as pd

from badhands.figures.db_curves import block_legend, lines
from badhands.figures.palette import INK
from badhands.figures.style import blocks_in_order, panels, sample_size, save, styled, timestep_axis, timesteps_in_order


def draw_gaussianity(cells: pd.DataFrame, path: Path) -> Path:
    """Kurtosis of channels and of held-out scores, share of the ten largest channels, gain of a variance-aware rule."""
    use = cells.loc[cells["comparison"] == "good_vs_bad"]
    blocks, timesteps = blocks_in_order(use), timesteps_in_order(use)
    wanted = (
        ("kurtosis_channels", "moments", "excess kurtosis of channels (median), about image means", "0 = Gaussian"),
        ("kurtosis_scores", "mass_mean", "excess kurtosis of held-out scores, about image means", "0 = Gaussian"),
        ("top10_share", "moments", "share of D_B in the ten largest channels", "share"),
        ("auroc_gain", "qda", "held-out AUROC gained by using the variances", "AUROC(QDA) − AUROC(linear)"),
    )
    with styled():
        figure, axes = panels(4, 2, 3.0, top=1.4, sharex=True)
        for k, (axis, (name, probe, title, unit)) in enumerate(zip(axes, wanted, strict=True)):
            lines(axis, use, name, blocks, probe)
            axis.set_title(title)
            axis.set_ylabel(unit)
            if name != "top10_share":
                axis.axhline(0, color=INK, linewidth=0.8)
            else:
                axis.set_ylim(bottom=0)
            timestep_axis(axis, timesteps, label=k >= 2)
        block_legend(figure, blocks)
        figure.suptitle(f"Does the Gaussian formula fit?\n{sample_size(use)}")
        return save(figure, path)
