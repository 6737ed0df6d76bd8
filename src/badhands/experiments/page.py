"""experiments.html: what costs how much, and what helps. Read from the folder's tables, whichever are there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from badhands.report.compare_page import number
from badhands.report.page import data_uri, render


@dataclass(frozen=True)
class Section:
    """One experiment on the page."""

    name: str
    """Its table is `<name>.csv`, its figure `<name>.png`."""
    title: str
    text: str
    columns: dict[str, str]
    """Column of the table -> heading; `<column>_lo` and `_hi` beside it become an interval."""
    summary: Callable[[pd.DataFrame], pd.DataFrame]
    """Rows for the table at the top: `what`, and the columns of `SUMMARY`."""


SUMMARY = {
    "ratio": "evaluations per good hand / reseeding",
    "seconds_ratio": "wall clock per good hand / reseeding",
    "every_kind": "one good hand of every kind of prompt / reseeding",
    "good_share": "good among the delivered",
}


def write_page(folder: Path, model: str) -> Path:
    """Write the page of what `folder` holds."""
    from badhands.experiments.sections import SECTIONS

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
    return number(row, key)


def rows_of(table: pd.DataFrame, column: str, names: Sequence[str]) -> pd.DataFrame:
    """The rows whose `column` begins with one of `names`, in that order, with `what`."""
    found = [table[table[column].astype(str).str.startswith(name)] for name in names]
    rows = pd.concat(found) if found else table.iloc[:0]
    return rows.assign(what=rows[column])
