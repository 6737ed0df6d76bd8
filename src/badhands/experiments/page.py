"""experiments.html: what costs how much, and what helps. Read from the folder's tables, whichever are there."""

from pathlib import Path

import pandas as pd

from badhands.experiments.sections import SECTIONS
from badhands.report.compare_page import with_interval
from badhands.report.page import data_uri, render

SUMMARY = {
    "ratio": "evaluations per good hand / reseeding",
    "seconds_ratio": "wall clock per good hand / reseeding",
    "every_kind": "one good hand of every kind of prompt / reseeding",
    "good_share": "good among the delivered",
}


def write_page(folder: Path, model: str) -> Path:
    """Write the page of what `folder` holds."""
    shown, top = [], []
    for section in SECTIONS:
        path = folder / f"{section.name}.csv"
        if not path.is_file():
            continue
        table = pd.read_csv(path)
        if table.empty:
            continue
        figure = folder / f"{section.name}.png"
        top += [(section, row) for _, row in section.summary(table).iterrows()]
        shown.append({
            "name": section.name, "title": section.title, "text": section.text,
            "figure": data_uri(figure) if figure.is_file() else "",
            "heads": list(section.columns.values()),
            "rows": [[_cell(row, key) for key in section.columns] for _, row in table.iterrows()],
        })  # fmt: skip
    page = render(
        "experiments.html", title=f"Does knowing help? {model}", folder=str(folder), sections=shown,
        heads=list(SUMMARY.values()),
        rows=[{"section": s.name, "what": row["what"], "cells": [_cell(row, key) for key in SUMMARY]}
              for s, row in top],
    )  # fmt: skip
    path = folder / "experiments.html"
    path.write_text(page, encoding="utf-8")
    return path


def _cell(row: pd.Series, key: str) -> str:
    value = row.get(key)
    if isinstance(value, (int, bool)) or (isinstance(value, float) and key in ("n", "pairs", "after", "prompts")):
        return f"{value:.0f}"
    return with_interval(row, key)
