"""All figures of the measure stage, from its tables alone.

python -m badhands.report outputs/runs/<run> figures=true      draw them again
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from badhands.figures.agreement import draw_agreement
from badhands.figures.db_curves import draw_checks, draw_db, draw_kinds, draw_terms
from badhands.figures.gaussianity import draw_gaussianity
from badhands.figures.pca import draw_pca, draw_pca_v

TABLES = ("cells", "agreement", "pca", "pca_points")


def draw_measures(folder: Path, tables: Mapping[str, pd.DataFrame]) -> list[Path]:
    """Write every figure that the tables allow; returns what was written."""
    cells, agree, pca, points = (tables[name] for name in TABLES)
    drawn = [
        draw_db(cells, folder / "db_curves.png"),
        draw_terms(cells, folder / "db_terms.png"),
        draw_checks(cells, folder / "db_checks.png"),
        draw_gaussianity(cells, folder / "gaussianity.png"),
        draw_kinds(cells, folder / "db_kinds.png"),
        draw_pca(points, pca, folder / "pca.png"),
        draw_pca_v(points, pca, folder / "pca_v_in_sample.png", held_out=False),
        draw_pca_v(points, pca, folder / "pca_v_held_out.png", held_out=True),
    ]
    for comparison in ("good_vs_bad", "good_vs_local", "good_vs_global"):
        suffix = "" if comparison == "good_vs_bad" else "_" + comparison.removeprefix("good_vs_")
        drawn.append(draw_agreement(agree, folder / f"agreement{suffix}.png", comparison))
    return [path for path in drawn if path is not None]


def draw_again(run: Path) -> list[Path]:
    """The same from a run folder's own tables.

    Raises:
        ValueError: a table is missing.
    """
    absent = [name for name in TABLES if not (run / "tables" / f"{name}.csv").exists()]
    if absent:
        raise ValueError(f"{run} has no tables/{absent[0]}.csv: give a run folder in which the measures are complete")
    return draw_measures(run / "figures", {name: pd.read_csv(run / "tables" / f"{name}.csv") for name in TABLES})
