"""Is P(bad) what it says? Fresh, unselected images of fresh prompts; the hand is found by the hand head, as in use."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from scipy.special import expit

from badhands.cells import Cell
from badhands.experiments.bench import Bench
from badhands.experiments.fresh_table import FreshImages, FreshTable
from badhands.figures.palette import INK, NULL
from badhands.figures.style import WIDTH, save, styled
from badhands.probes.artifact import Probes
from badhands.probes.reliability import bins_of, reliability

SMALL = 0.1
"""An error that a user can live with."""


def run_reliability(bench: Bench, settings: FreshImages) -> str:
    """reliability.csv (a row a cell), reliability.png."""
    fresh = bench.fresh(settings)
    table = reliability_table(fresh, bench.probes)
    bench.write("reliability", table)
    draw_reliability(fresh, bench.probes, table, bench.folder / "reliability.png")
    best = table[table["best"]]
    worst = best.loc[best["error"].idxmax()]
    return (
        f"P(bad) at a rate of {bench.probes.bad_rate:.2f}, on {worst['n']} fresh images of which {worst['came']:.2f} "
        f"are bad ({worst['unsure']:.2f} of all were left out: the judge abstained or saw no hand): error "
        f"{best['error'].median():.3f} (median of {len(best)} timesteps, best block), at most {worst['error']:.3f} "
        f"({worst['cell']}); {(table['error'] <= SMALL).sum()} of {len(table)} cells are within {SMALL}"
    )


def p_bad(fresh: FreshTable, probes: Probes, cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """(P(bad) float64[m] at the probes' rate, int[m] images) of images that are good or bad and show a hand."""
    score = fresh.cells[cell]
    at = np.flatnonzero(np.isfinite(score) & (fresh.good | fresh.bad))
    slope, offset = probes.readout(probes.image_head, cell).platt
    return expit(-(slope * score[at] + offset + probes.shift(probes.image_head))), at


def reliability_table(fresh: FreshTable, probes: Probes) -> pd.DataFrame:
    """A row a cell: fields of `Reliability`, cell, timestep, and whether it is the best block there in training."""
    best, rows = fresh.best_cells(probes), []
    for cell in fresh.cells:
        said, at = p_bad(fresh, probes, cell)
        if len(at):
            prompt = np.unique(fresh.prompt[at], return_inverse=True)[1].reshape(-1).astype(np.int64)
            about = {"cell": str(cell), "timestep": cell.timestep, "best": cell in best, "rate": probes.bad_rate}
            unsure = 1 - float((fresh.good | fresh.bad).mean())
            rows.append({**about, "unsure": unsure, **asdict(reliability(said, fresh.bad[at], prompt))})
    return pd.DataFrame(rows)


def draw_reliability(fresh: FreshTable, probes: Probes, table: pd.DataFrame, path: Path) -> Path:
    """Left: share of bad hands over P(bad), a line a timestep. Right: the error over the steps, beside chance."""
    with styled():
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 4.2), layout="constrained")
        best = table[table["best"]].reset_index(drop=True)
        colours = plt.get_cmap("viridis")(np.linspace(0.9, 0.1, len(best)))
        left.plot([0, 1], [0, 1], color=INK, lw=1)
        for colour, cell in zip(colours, best["cell"], strict=True):
            said, at = p_bad(fresh, probes, Cell.parse(cell))
            _, x, y = bins_of(said, fresh.bad[at]).T
            left.plot(x, y, "o-", ms=3.5, color=colour, label=cell)
        left.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="P(bad)", ylabel="share of bad hands")
        left.legend(fontsize=7, loc="upper left")
        place = range(len(best))
        right.plot(place, best["error"], "o-", color=INK, label="error")
        right.plot(place, best["chance"], "o--", color=NULL, label="error of perfect probabilities, so many images")
        right.axhline(SMALL, color=INK, lw=1, ls=":")
        right.set_xticks(place, [f"t{t}" for t in best["timestep"]])
        right.set(ylim=(0, None), xlabel="timestep (noise → image)", ylabel="calibration error")
        right.legend(fontsize=8)
        return save(figure, path)
