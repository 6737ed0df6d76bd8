"""What sentences are made from: the tables of a run and its family of tested statistics."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from badhands.cells import PSEUDO_BLOCKS
from badhands.stats.family import Family

TABLES = ("headline", "cells", "agreement", "pca", "verdicts", "scores", "baselines", "global_direction",
          "replication")  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One sentence of the report."""

    id: str
    sentence: str
    claims: bool = False
    """It says that something is there; only the gate can let it."""

    @property
    def record(self) -> dict[str, object]:
        return {"id": self.id, "sentence": self.sentence, "claims": self.claims}


@dataclass(frozen=True, eq=False)
class Facts:
    """Tables that exist so far, by name, and the gate."""

    tables: Mapping[str, pd.DataFrame]
    family: Family

    @classmethod
    def of(cls, folder: Path) -> "Facts":
        """Of a run folder, as far as it has come."""
        paths = {name: folder / "tables" / f"{name}.csv" for name in TABLES}
        tables = {name: pd.read_csv(path) for name, path in paths.items() if path.is_file() and path.stat().st_size > 2}
        path = folder / "family.npz"
        return cls(tables, Family.load(path) if path.is_file() else Family())

    def table(self, name: str) -> pd.DataFrame:
        return self.tables.get(name, pd.DataFrame())

    @cached_property
    def found(self) -> dict[str, dict[str, float]]:
        """{group: {cell: familywise p}} of what passed the gate."""
        return self.family.found()

    @cached_property
    def p(self) -> dict[str, dict[str, float]]:
        """{group: {cell: familywise p}} of everything."""
        return {g: dict(zip(self.family.names[g], map(float, p), strict=True)) for g, p in self.family.p().items()}

    @property
    def open(self) -> bool:
        """Some cell passed, so verdicts about cells may be asked."""
        return any(self.found.values())

    def verdict(self, name: str) -> pd.DataFrame:
        """Rows `what, value, lo, hi, other` of tables/verdicts.csv."""
        table = self.table("verdicts")
        return table[table["verdict"] == name] if len(table) else table

    def metric(self, name: str, metric: str, **where: str) -> pd.DataFrame:
        """Rows of one metric of a table, blocks alone."""
        table = self.table(name)
        if table.empty:
            return table
        keep = (table["metric"] == metric) & ~table["block"].isin(PSEUDO_BLOCKS)
        for column, value in where.items():
            keep &= table[column] == value
        return table[keep]


def cell_of(row: pd.Series) -> str:
    return f"{row['block']}/t{int(row['timestep'])}"


def show(row: pd.Series) -> str:
    """A value with its interval."""
    return f"{row['value']:.2f} [{row['lo']:.2f}, {row['hi']:.2f}]"


def best(table: pd.DataFrame) -> pd.Series:
    return table.loc[table["value"].idxmax()]
