"""Every figure of a run: the tables it is drawn from, where the report shows it, and what to see in it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from badhands.figures.agreement import draw_agreement
from badhands.figures.db_curves import draw_checks, draw_db, draw_kinds, draw_terms
from badhands.figures.gaussianity import draw_gaussianity
from badhands.figures.global_maps import draw_losses, draw_transfer
from badhands.figures.pca import draw_pca, draw_pca_v
from badhands.figures.probe_maps import draw_baselines, draw_probe_maps


@dataclass(frozen=True)
class Figure:
    """One figure. A new one is a function and a row in `FIGURES`."""

    name: str
    """Of its file, figures/<name>.png."""
    section: str
    """Of the report, `report.captions.SECTIONS`."""
    caption: str
    tables: tuple[str, ...] = ()
    """Names of tables/*.csv."""
    draw: Callable[..., Path | None] | None = None
    """Frames of `tables`, path -> the path, or None where they say nothing. Without it: the data stage makes it."""

    def stale(self, run: Path) -> bool:
        """A table is newer than the picture, or there is none."""
        made = run / "figures" / f"{self.name}.png"
        since = made.stat().st_mtime_ns if made.is_file() else 0
        return any(path.stat().st_mtime_ns > since for path in self.sources(run))

    def sources(self, run: Path) -> list[Path]:
        return [run / "tables" / f"{name}.csv" for name in self.tables]


FIGURES = (
    Figure("sheet_good", "data", "Images labelled good. Blue outlines: the tokens of good hands that were captured."),
    Figure("sheet_bad", "data", "Images labelled bad. Vermillion outlines: the tokens of bad hands."),
    Figure("db_curves", "measures",
           "Bhattacharyya distance of good and bad hand tokens, per block over the timesteps: the study's own curve "
           "(plug-in), and beside it the value corrected for bias, its interval over images, and what shuffled labels "
           "give. Time runs from noise (left) to image.", ("cells",), draw_db),
    Figure("db_terms", "measures", "The two terms of the distance: difference of means, and difference of variances.",
           ("cells",), draw_terms),
    Figure("db_checks", "measures",
           "The checks that belong to every D_B: the distance that held-out tokens support (D_eq), and the lower bound "
           "that their error certifies. A large D_B above a small D_eq is bias and correlated channels.",
           ("cells",), draw_checks),
    Figure("db_kinds", "measures", "The same against hands with local errors and with global errors.",
           ("cells",), draw_kinds),
    Figure("gaussianity", "measures",
           "Is the Gaussian formula in its right here? Kurtosis of channels and of held-out scores, the share of the "
           "ten largest channels, and what a classifier gains by using the variances.", ("cells",), draw_gaussianity),
    Figure("pca_v_in_sample", "measures",
           "The direction v against the largest component beside it, v fitted on the very images that are drawn: along "
           "v the classes separate even for random labels.",
           ("pca_points", "pca"), partial(draw_pca_v, held_out=False)),
    Figure("pca_v_held_out", "measures", "The same with v fitted on other images.",
           ("pca_points", "pca"), partial(draw_pca_v, held_out=True)),
    Figure("pca", "measures", "The two leading components of the hand tokens of each cell, good and bad.",
           ("pca_points", "pca"), draw_pca),
    Figure("probe_auroc", "probes",
           "AUROC of every cell, held out: the headline probe on image means, framed where it is beyond chance, and "
           "the token probes behind the overlay.", ("headline", "scores"), draw_probe_maps),
    Figure("baselines", "probes", "The best block at each step beside what needs no block.",
           ("headline", "baselines"), draw_baselines),
    Figure("agreement", "global", "Cosine between the directions of all cells; unresolved ones are left out.",
           ("agreement",), draw_agreement),
    Figure("agreement_local", "global", "The same against hands with local errors alone.",
           ("agreement",), partial(draw_agreement, comparison="good_vs_local")),
    Figure("agreement_global", "global", "The same against hands with global errors alone.",
           ("agreement",), partial(draw_agreement, comparison="good_vs_global")),
    Figure("shared_directions", "global",
           "What shared directions lose to each cell's own probe, on cells they were not learned from.",
           ("global_direction",), draw_losses),
    Figure("transfer", "global", "AUROC of the probe of one cell (row) on another (column), on held-out images.",
           ("transfer",), draw_transfer),
)  # fmt: skip
"""In the order of the report."""

MEASURED = ("cells", "agreement", "pca", "pca_points")
"""Tables of the measure stage."""


def draw_figures(run: Path, again: bool = False) -> list[Path]:
    """Draw what the tables of a run folder allow and what is not drawn yet; returns what was written.

    Args:
        again: draw all of them anew.

    Raises:
        ValueError: `again`, and a table of the measures is missing.
    """
    if again:
        absent = [name for name in MEASURED if not (run / "tables" / f"{name}.csv").is_file()]
        if absent:
            raise ValueError(f"{run} has no tables/{absent[0]}.csv: give a run folder whose measures are complete")
    (run / "figures").mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for figure in FIGURES:
        sources = figure.sources(run)
        if figure.draw is None or not all(path.is_file() for path in sources) or not (again or figure.stale(run)):
            continue
        drawn = figure.draw(*map(_frame, sources), run / "figures" / f"{figure.name}.png")
        written += [drawn] if drawn is not None else []
    return written


def _frame(path: Path) -> pd.DataFrame:
    return pd.read_csv(path) if path.stat().st_size > 2 else pd.DataFrame()
