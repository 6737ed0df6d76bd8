"""The separation of good and bad tokens over timesteps: the study's curve, the corrected one, and what chance gives."""

from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from badhands.cells import PSEUDO_BLOCKS
from badhands.figures.palette import BAD, GLOBAL, GOOD, INK, LOCAL, NULL, block_colour
from badhands.figures.style import (
    WIDTH,
    blocks_in_order,
    metric,
    panels,
    sample_size,
    save,
    styled,
    timestep_axis,
    timesteps_in_order,
)

MARKERS = "os^Dv<>Ph*"


def draw_db(cells: pd.DataFrame, path: Path) -> Path:
    """All blocks together (study's curve beside the corrected one), then each block with interval, null and D_eq."""
    use = cells.loc[cells["comparison"] == "good_vs_bad"]
    blocks, timesteps = blocks_in_order(use), timesteps_in_order(use)
    columns = _columns(len(blocks))
    rows = -(-len(blocks) // columns)
    with styled():
        figure = plt.figure(figsize=(WIDTH, 4.1 + 2.3 * rows), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=[3.9, 2.3 * rows + 0.5], squeeze=False)[:, 0]
        left, right = above.subplots(1, 2, sharey=True)
        lines(left, use, "db_plugin", blocks)
        left.set_title("the study's curve: plug-in, token-weighted")
        left.set_ylabel("D_B (nats)")
        lines(right, use, "db_corrected", blocks)
        right.set_title("corrected: minus what shuffled labels give")
        right.axhline(0, color=INK, linewidth=0.8)
        for axis in (left, right):
            timestep_axis(axis, timesteps)
        block_legend(above, blocks)
        figure.suptitle(f"Bhattacharyya distance of good and bad hand tokens\n{sample_size(use)}")
        axes = below.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for k, axis in enumerate(axes):
            axis.set_visible(k < len(blocks))
            if k < len(blocks):
                _one_block(axis, use.loc[use["block"] == blocks[k]], blocks[k])
                timestep_axis(axis, timesteps, label=False, most=6)
                axis.tick_params(labelbottom=k + columns >= len(blocks))
        below.supylabel("D_B (nats)", fontsize=10)
        below.supxlabel("timestep (noise → image)", fontsize=10)
        below.legend(handles=[
            Line2D([], [], color=BAD, label="plug-in"), Line2D([], [], color=GOOD, label="corrected, 95 % over images"),
            Patch(color=NULL, alpha=0.5, label="shuffled labels, 95 %"),
            Line2D([], [], color=INK, linestyle=":", label="D_eq (held-out AUROC)"),
        ], loc="outside upper center", ncols=4)  # fmt: skip
        return save(figure, path)


def _one_block(axis: Axes, rows: pd.DataFrame, block: str) -> None:
    null = metric(rows, "db_null")
    band(axis, null, NULL, 0.45)
    axis.plot(null["timestep"], null["value"], color=NULL, linewidth=1)
    plug = metric(rows, "db_plugin")
    axis.plot(plug["timestep"], plug["value"], color=BAD, marker="o", markersize=3)
    corrected = metric(rows, "db_corrected")
    band(axis, corrected, GOOD, 0.25)
    axis.plot(corrected["timestep"], corrected["value"], color=GOOD, marker="o", markersize=3)
    held = metric(rows, "d_eq", "mass_mean")
    axis.plot(held["timestep"], held["value"], color=INK, linestyle=":")
    axis.axhline(0, color=INK, linewidth=0.8)
    axis.set_title(_named(block))


def draw_terms(cells: pd.DataFrame, path: Path) -> Path:
    """Mean term and variance term apart: plug-in above, corrected below."""
    use = cells.loc[cells["comparison"] == "good_vs_bad"]
    blocks, timesteps = blocks_in_order(use), timesteps_in_order(use)
    wanted = (("db_mean_plugin", "mean term, plug-in"), ("db_var_plugin", "variance term, plug-in"),
              ("db_mean_corrected", "mean term, corrected (unbiased numerator)"),
              ("db_var_corrected", "variance term, minus shuffled labels"))  # fmt: skip
    with styled():
        figure, axes = panels(4, 2, 3.0, top=1.4, sharex=True)
        for axis, (name, title) in zip(axes, wanted, strict=True):
            lines(axis, use, name, blocks)
            axis.set_title(title)
            axis.set_ylabel("nats")
            if name.endswith("corrected"):
                axis.axhline(0, color=INK, linewidth=0.8)
            else:
                axis.set_ylim(bottom=0)
            timestep_axis(axis, timesteps, label=name.endswith("corrected"))
        block_legend(figure, blocks)
        figure.suptitle(f"The two terms of D_B\n{sample_size(use)}")
        return save(figure, path)


def draw_checks(cells: pd.DataFrame, path: Path) -> Path:
    """What stands beside every D_B (Eq. 10, 11): p-values, held-out AUROC, distances that held-out scores support."""
    use = cells.loc[cells["comparison"] == "good_vs_bad"]
    blocks, timesteps = blocks_in_order(use), timesteps_in_order(use)
    wanted = (
        ("auroc", "mass_mean", "AUROC of held-out tokens", "AUROC"),
        ("d_eq", "mass_mean", "D_eq: distance with that AUROC", "nats"),
        ("db_scores", "mass_mean", "D_B of held-out scores, Gaussian formula", "nats"),
        ("db_scores_kde", "mass_mean", "D_B of held-out scores, density estimate", "nats"),
        ("certified", "mass_mean", "certified: at least this, from the held-out error", "nats"),
        ("db_p_max", "moments", "p against the maximum over cells", "p"),
    )
    with styled():
        figure, axes = panels(6, 2, 2.7, top=1.4, sharex=True)
        for k, (axis, (name, probe, title, unit)) in enumerate(zip(axes, wanted, strict=True)):
            lines(axis, use, name, blocks, probe)
            axis.set_title(title)
            axis.set_ylabel(unit)
            if unit == "AUROC":
                axis.axhline(0.5, color=INK, linewidth=0.8)
            if unit == "p":
                axis.set_yscale("log")
                axis.axhline(0.05, color=INK, linestyle="--", linewidth=1)
                axis.annotate(
                    "0.05", (1, 0.05), xycoords=("axes fraction", "data"), fontsize=9, va="bottom", ha="right"
                )
            timestep_axis(axis, timesteps, label=k >= 4)
        block_legend(figure, blocks)
        figure.suptitle(f"Checks beside D_B: what images outside the fit support\n{sample_size(use)}")
        return save(figure, path)


def draw_kinds(cells: pd.DataFrame, path: Path) -> Path | None:
    """Local against global errors, each against the same good images; None where labels carry no kinds."""
    names = {"good_vs_local": (LOCAL, "local errors"), "good_vs_global": (GLOBAL, "global errors"),
             "not_hand": (NULL, "control: tokens outside the hand")}  # fmt: skip
    names = {name: x for name, x in names.items() if (cells["comparison"] == name).any()}
    if not {"good_vs_local", "good_vs_global"} & set(names):
        return None
    blocks, timesteps = blocks_in_order(cells), timesteps_in_order(cells)
    columns = _columns(len(blocks))
    rows = -(-len(blocks) // columns)
    with styled():
        figure = plt.figure(figsize=(WIDTH, 1.5 + 2 * (2.1 * rows + 0.5)), layout="constrained")
        for part, (name, probe, title) in zip(
            figure.subfigures(2, 1, squeeze=False)[:, 0],
            (("db_corrected", "moments", "corrected D_B (nats)"), ("auroc", "mass_mean", "AUROC of held-out tokens")),
            strict=True,
        ):
            axes = part.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
            for k, axis in enumerate(axes):
                axis.set_visible(k < len(blocks))
                if k >= len(blocks):
                    continue
                for comparison, (colour, _) in names.items():
                    rows_of = cells.loc[(cells["comparison"] == comparison) & (cells["block"] == blocks[k])]
                    one = metric(rows_of, name, probe)
                    band(axis, one, colour, 0.18)
                    axis.plot(one["timestep"], one["value"], color=colour, marker="o", markersize=3)
                axis.axhline(0.5 if name == "auroc" else 0, color=INK, linewidth=0.8)
                axis.set_title(_named(blocks[k]))
                timestep_axis(axis, timesteps, label=False, most=6)
                axis.tick_params(labelbottom=k + columns >= len(blocks))
            part.supylabel(title, fontsize=10)
            part.supxlabel("timestep (noise → image)", fontsize=10)
        sizes = []
        for name, (_, title) in names.items():
            row = cells.loc[cells["comparison"] == name].iloc[0]
            sizes.append(f"{title}: {int(row['n_good'])} good + {int(row['n_bad'])} bad images")
        handles = [Line2D([], [], color=colour, label=title) for colour, title in names.values()]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        heading = "Local and global errors against good hands (bands: 95 % over images)"
        figure.suptitle("\n".join([heading, *sizes]), fontsize=11)
        return save(figure, path)


def lines(axis: Axes, rows: pd.DataFrame, name: str, blocks: list[str], probe: str | None = None) -> None:
    """One line a block over timesteps counting down."""
    for k, block in enumerate(blocks):
        one = metric(rows.loc[rows["block"] == block], name, probe)
        baseline = block in PSEUDO_BLOCKS
        axis.plot(
            one["timestep"], one["value"], color=NULL if baseline else _colour(block, blocks),
            linestyle="--" if baseline else "-", marker=MARKERS[k % len(MARKERS)], markersize=4,
        )  # fmt: skip


def band(axis: Axes, rows: pd.DataFrame, colour: str, alpha: float) -> None:
    if rows["lo"].notna().any():
        axis.fill_between(rows["timestep"], rows["lo"], rows["hi"], color=colour, alpha=alpha, linewidth=0)


def block_legend(figure: Figure, blocks: list[str]) -> None:
    """Blocks in network order under the panels."""
    handles = [
        Line2D([], [], color=NULL if block in PSEUDO_BLOCKS else _colour(block, blocks),
               marker=MARKERS[k % len(MARKERS)], linestyle="--" if block in PSEUDO_BLOCKS else "-",
               markersize=4, label=_named(block))
        for k, block in enumerate(blocks)
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(blocks), 6))


def _columns(blocks: int) -> int:
    """Panels in a row, so that few places stay empty."""
    return 3 if blocks <= 6 else 5 if blocks in (9, 10) else 4


def _colour(block: str, blocks: list[str]) -> str:
    real = [name for name in blocks if name not in PSEUDO_BLOCKS]
    return block_colour(real.index(block), len(real))


def _named(block: str) -> str:
    return {"xt": "latent x_t", "x0": "predicted x0"}.get(block, block)
