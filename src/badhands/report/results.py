"""What the tables of a run say: the one place that knows the names of metrics, for report, trackers and comparison.

Every function gives an empty frame (or None) where a run has not come so far.
"""

import json
from typing import Literal

import pandas as pd

from badhands.cells import PSEUDO_BLOCKS, Cell, block_key
from badhands.report.run import Run
from badhands.stats.family import Family
from badhands.stats.paired import OutOfFold

KEY = ["block", "timestep", "step"]
"""What tables are joined on: never on sigma, a float that two files may round differently."""
CELL = [*KEY, "sigma"]
EARLY = 0.2
"""The first fifth of the steps, in which stopping a bad image saves most of its cost."""

CURVES = {
    "auroc": "AUROC of good and bad images, held out",
    "d_b": "Bhattacharyya distance, plug-in (biased upward)",
    "d_b_corrected": "Bhattacharyya distance, corrected for bias",
}


def rows(run: Run, name: str, metric: str, **where: str) -> pd.DataFrame:
    """Rows of one metric from tables/<name>.csv; `where` picks values of its columns."""
    table = run.table(name)
    if table.empty:
        return table
    keep = table["metric"] == metric
    for column, value in where.items():
        keep &= table[column] == value
    return table[keep].reset_index(drop=True)


def auroc(run: Run) -> pd.DataFrame:
    """Headline score of each cell: AUROC of ridge on image means, within folds. CELL, value, lo, hi, n."""
    return _blocks(rows(run, "headline", "auroc", split="out_of_fold"))


def p_family(run: Run) -> pd.DataFrame:
    """CELL, value: p of each cell's headline score against the largest of everything that the run tests."""
    return _blocks(rows(run, "headline", "auroc_p_family"))


def passed(run: Run) -> dict[str, dict[str, float]]:
    """What the gate let through, {group: {cell: p}}; groups auroc, db_good_vs_bad, db_not_hand, v_raw ..."""
    path = run.folder / "family.npz"
    return Family.load(path).found() if path.is_file() else {}


def distances(run: Run) -> pd.DataFrame:
    """CELL, d_b, d_b_corrected, lo, hi, p, p_max, null: good against bad hand tokens."""
    plain = _blocks(rows(run, "cells", "db_plugin", comparison="good_vs_bad"))
    if plain.empty:
        return pd.DataFrame()
    table = plain[[*CELL, "value"]].rename(columns={"value": "d_b"})
    corrected = rows(run, "cells", "db_corrected", comparison="good_vs_bad")[[*CELL, "value", "lo", "hi"]]
    table = join(table, corrected.rename(columns={"value": "d_b_corrected"}))
    for metric, name in (("db_p", "p"), ("db_p_max", "p_max"), ("db_null", "null")):
        one = rows(run, "cells", metric, comparison="good_vs_bad")
        if not one.empty:
            table = join(table, one[[*CELL, "value"]].rename(columns={"value": name}))
    return table


def join(first: pd.DataFrame, second: pd.DataFrame, how: Literal["inner", "outer"] = "inner") -> pd.DataFrame:
    """Two tables of cells side by side; sigma from the first that has it."""
    both = first.merge(second, on=KEY, how=how, suffixes=("", "_second"))
    both["sigma"] = both["sigma"].fillna(both.pop("sigma_second"))
    return both


def cell_values(run: Run, curve: str) -> pd.DataFrame:
    """CELL, value of one of `CURVES`."""
    if curve == "auroc":
        table = auroc(run)
        return table[[*CELL, "value"]] if len(table) else table
    table = distances(run)
    return table[[*CELL, curve]].rename(columns={curve: "value"}) if len(table) else table


def cells_table(run: Run) -> pd.DataFrame:
    """One row a cell: AUROC and D_B side by side, cells in network order from noise to image."""
    scores, apart = auroc(run), distances(run)
    parts = []
    if len(scores):
        scores = scores[[*CELL, "value", "lo", "hi"]]
        parts.append(scores.rename(columns={"value": "auroc", "lo": "auroc_lo", "hi": "auroc_hi"}))
        chance = p_family(run)
        if len(chance):
            parts[0] = join(parts[0], chance[[*CELL, "value"]].rename(columns={"value": "auroc_p"}))
    if len(apart):
        parts.append(apart.rename(columns={c: f"d_b_{c}" for c in ("lo", "hi", "p", "p_max", "null")}))
    if not parts:
        return pd.DataFrame()
    table = parts[0] if len(parts) == 1 else join(parts[0], parts[1], "outer")
    order = [(*block_key(b), -t) for b, t in zip(table["block"], table["timestep"], strict=True)]
    table = table.iloc[sorted(range(len(table)), key=order.__getitem__)].reset_index(drop=True)
    table.insert(0, "cell", [str(Cell(b, int(t))) for b, t in zip(table["block"], table["timestep"], strict=True)])
    return table


def early(table: pd.DataFrame) -> pd.DataFrame:
    """The rows within the first fifth of the steps: at most one fifth of the generation has been paid for."""
    if table.empty:
        return table
    total = (table["step"] + table["timestep"]).max()
    return table[table["step"] + 1 <= max(EARLY * total, 1)]


def findings(run: Run) -> dict[str, str]:
    """The sentences that the stages wrote, each with its numbers, by name."""
    path = run.folder / "findings.json"
    found: list[dict[str, str]] = json.loads(path.read_text()) if path.is_file() else []
    return {finding["id"]: finding["sentence"] for finding in found}


def _blocks(table: pd.DataFrame) -> pd.DataFrame:
    """Without the baselines `xt` and `x0`, and without rows that belong to no cell."""
    if table.empty:
        return table
    return table[~table["block"].isin(PSEUDO_BLOCKS) & table["block"].notna()].reset_index(drop=True)


def baselines(run: Run) -> pd.DataFrame:
    """The headline probe without any block of the hand: control, title, timestep (nan: none), step, value, lo, hi."""
    table = rows(run, "baselines", "auroc")
    return table[["control", "title", "timestep", "step", "value", "lo", "hi"]] if len(table) else table


def direction_loss(run: Run) -> dict[str, float]:
    """AUROC that one shared direction loses to each cell's own probe on cells it was not learned from.

    `direction_loss` is that of the worst kind of left-out cells (block, timestep, window), with the interval of the
    verdict: the sentence about it has the same. Empty where no cell tells good from bad beyond chance: there is nothing
    to lose.
    """
    lost = run.table("verdicts")
    if lost.empty or not passed(run).get("auroc"):
        return {}
    lost = lost[(lost["verdict"] == "one_direction") & lost["what"].str.startswith("to_own:")]
    if lost.empty:
        return {}
    most = lost.loc[lost["value"].idxmax()]
    return {"direction_loss": float(most["value"]), "direction_loss_lo": float(most["lo"]),
            "direction_loss_hi": float(most["hi"])}  # fmt: skip


def out_of_fold(run: Run) -> OutOfFold | None:
    """The saved image scores; None where no probes were fitted."""
    try:
        return OutOfFold.load(run.folder)
    except ValueError:
        return None
