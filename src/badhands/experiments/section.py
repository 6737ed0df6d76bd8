"""One experiment on the page, and the rows of its table that the page begins with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd


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


def rows_of(table: pd.DataFrame, column: str, names: Sequence[str]) -> pd.DataFrame:
    """The rows whose `column` begins with one of `names`, in that order, with `what`."""
    found = [table[table[column].astype(str).str.startswith(name)] for name in names]
    rows = pd.concat(found) if found else table.iloc[:0]
    return rows.assign(what=rows[column])
