"""compare.html: runs side by side, for a time when W&B is offline."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from badhands.figures.compare_figures import forest, heatmaps, power
from badhands.report.headline import undecided
from badhands.report.page import data_uri, render
from badhands.report.results import cell_values
from badhands.report.run import Run

SCORES = (
    ("best_cell", "best cell"),
    ("best_auroc", "its AUROC"),
    ("best_p", "p (familywise)"),
    ("mean_auroc", "mean AUROC"),
    ("early_auroc", "best in first fifth"),
    ("direction_loss", "lost by one direction"),
    ("d_b_peak_cell", "D_B peak at"),
    ("d_b_peak", "D_B, corrected"),
)
"""Columns of compare.csv shown on the page, in order; `_lo` and `_hi` beside them become an interval."""

MAPS = (
    ("auroc", "Image AUROC, out of fold", "AUROC", 0.5, 1.0),
    ("d_b_corrected", "Bhattacharyya distance, corrected for bias", "D_B", 0.0, None),
)


def write_page(
    path: Path,
    runs: Sequence[Run],
    names: Sequence[str],
    differing: Sequence[dict[str, str]],
    table: pd.DataFrame,
    pairs: pd.DataFrame,
) -> Path:
    """Write the page; every figure is inside it."""
    figures: list[dict[str, str]] = []
    for curve, title, unit, low, high in MAPS:
        maps = {name: cell_values(run, curve) for name, run in zip(names, runs, strict=True)}
        drawn = {name: values for name, values in maps.items() if not values.empty}
        if drawn:
            png = heatmaps(drawn, unit, low, high)
            scale = "One colour scale for all runs; a star marks each run's best cell."
            figures.append({"name": title, "uri": data_uri(png), "caption": f"{title}. {scale}"})
    told = pairs[pairs["value"].notna()]
    if len(told):
        caption = (
            "Difference in image AUROC, second run minus first, averaged over the cells that both have; lines are 95 % "
            "intervals over images, of which both have the same. Filled: the interval leaves out 0."
        )
        figures.insert(0, {"name": "Paired differences", "uri": data_uri(forest(told)), "caption": caption})
    curve = path.parent / "power.csv"
    if curve.is_file():
        detected = pd.read_csv(curve)
        caption = (
            f"Share of {int(detected['subsamples'].min())} subsamples of the study, for each number of images, in "
            "which some cell tells good from bad hands beyond chance, with the median number of such cells. Subsamples "
            "overlap, the more the larger they are."
        )
        png = power(detected)
        (path.parent / "power.png").write_bytes(png)
        figures.insert(0, {"name": "Power", "uri": data_uri(png), "caption": caption})
    lines = [line for _, line in table.iterrows()]
    path.write_text(
        render(
            "compare.html",
            title=f"{len(runs)} runs side by side",
            folder=str(path.parent),
            settings=list(differing[0]) if differing else [],
            scores=[label for key, label in SCORES if key in table],
            rows=[_row(path.parent, *of) for of in zip(names, runs, differing, lines, strict=True)],
            figures=figures,
            pairs=[_pair(line) for _, line in pairs.iterrows()],
        ),
        encoding="utf-8",
    )
    return path


def _row(folder: Path, name: str, run: Run, setting: dict[str, str], line: pd.Series) -> dict[str, Any]:
    return {
        "name": name,
        "link": os.path.relpath(run.report, folder) if run.report.is_file() else "",
        "settings": list(setting.values()),
        "scores": [number(line, key) for key, _ in SCORES if key in line.index],
        "stopped": run.failed,
    }


def number(line: pd.Series, key: str) -> str:
    """An AUROC or a difference of two with its interval, or that the interval is too wide to say anything."""
    return "undecided" if undecided(line, key) else with_interval(line, key)


def with_interval(line: pd.Series, key: str) -> str:
    """A value with its interval where there is one; a dash where there is none."""
    value = line.get(key)
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "–"
    if isinstance(value, str):
        return value
    text = f"{value:.3f}"
    lo, hi = line.get(f"{key}_lo"), line.get(f"{key}_hi")
    if lo is not None and hi is not None and pd.notna(lo) and pd.notna(hi):
        text += f" [{lo:.3f}, {hi:.3f}]"
    return text


def _pair(line: pd.Series) -> dict[str, Any]:
    told = bool(pd.notna(line["value"]))
    return {
        "first": line["first"],
        "second": line["second"],
        "text": f"{line['value']:+.3f} [{line['lo']:+.3f}, {line['hi']:+.3f}]" if told else "not comparable",
        "resolved": told and bool(line["lo"] > 0 or line["hi"] < 0),
        "p": f"{line['p']:.3f}" if told else "",
        "images": int(line["images"]) if told else "",
        "cells": int(line["cells"]) if told else "",
        "note": line["note"] if not told else "" if line["same_folds"] else "other folds",
    }
