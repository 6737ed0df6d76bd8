"""What the tables of a run say: the one place that knows the names of metrics, for report, trackers and comparison.

Every function gives an empty frame (or None) where a run has not come so far.
"""

import json
from typing import Any

import pandas as pd

from badhands.cells import PSEUDO_BLOCKS, Cell, block_key
from badhands.run import Run
from badhands.stats.paired import OutOfFold

CELL = ["block", "timestep", "step", "sigma"]
EARLY = 0.2
"""The first fifth of the steps, in which stopping a bad image saves most of its cost."""

CURVES = {
    "auroc": "Image AUROC, out of fold",
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
    """Headline score of each cell: image AUROC of the mean token logit, out of fold. CELL, value, lo, hi, n."""
    return _blocks(rows(run, "scores", "image_auroc", head="good", control="none", split="out_of_fold"))


def p_max(run: Run) -> pd.DataFrame:
    """CELL, value: share of label shufflings whose largest cell reaches this cell.

    Of the ridge probe on image means, which can be refitted a thousand times; not of the run's own probe.
    """
    return _blocks(rows(run, "scores", "image_auroc_p_max", head="good"))


def ridge(run: Run) -> pd.DataFrame:
    """CELL, value, p: out-of-fold image AUROC of the ridge probe on image means, beside its `p_max`."""
    table, chance = _blocks(rows(run, "scores", "ridge_auroc", head="good")), p_max(run)
    if table.empty or chance.empty:
        return pd.DataFrame()
    return table[[*CELL, "value"]].merge(chance[[*CELL, "value"]].rename(columns={"value": "p"}), on=CELL)


def distances(run: Run) -> pd.DataFrame:
    """CELL, d_b, d_b_corrected, lo, hi, p, p_max, null: good against bad hand tokens."""
    plain = _blocks(rows(run, "cells", "db_plugin", comparison="good_vs_bad"))
    if plain.empty:
        return pd.DataFrame()
    table = plain[[*CELL, "value"]].rename(columns={"value": "d_b"})
    corrected = rows(run, "cells", "db_corrected", comparison="good_vs_bad")[[*CELL, "value", "lo", "hi"]]
    table = table.merge(corrected.rename(columns={"value": "d_b_corrected"}), on=CELL)
    for metric, name in (("db_p", "p"), ("db_p_max", "p_max"), ("db_null", "null")):
        one = rows(run, "cells", metric, comparison="good_vs_bad")
        if not one.empty:
            table = table.merge(one[[*CELL, "value"]].rename(columns={"value": name}), on=CELL)
    return table


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
        chance = p_max(run)
        if len(chance):
            parts[0] = parts[0].merge(chance[[*CELL, "value"]].rename(columns={"value": "auroc_p_max"}), on=CELL)
    if len(apart):
        parts.append(apart.rename(columns={c: f"d_b_{c}" for c in ("lo", "hi", "p", "p_max", "null")}))
    if not parts:
        return pd.DataFrame()
    table = parts[0] if len(parts) == 1 else parts[0].merge(parts[1], on=CELL, how="outer")
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
    told: dict[str, str] = {}
    for name in ("findings.json", "probe_findings.json"):
        path = run.folder / name
        found: Any = json.loads(path.read_text()) if path.is_file() else {}
        if isinstance(found, list):
            found = {finding["id"]: finding["sentence"] for finding in found}
        told |= {key: text for key, text in found.items() if isinstance(text, str) and " " in text}
    return told


def _blocks(table: pd.DataFrame) -> pd.DataFrame:
    """Without the baselines `xt` and `x0`, and without rows that belong to no cell."""
    if table.empty:
        return table
    return table[~table["block"].isin(PSEUDO_BLOCKS) & table["block"].notna()].reset_index(drop=True)


BASELINES = {
    "xt": "latent",
    "x0": "predicted clean latent",
    "x0_variance": "x0-variance so far",
    "geometry": "size and place",
    "prompt": "words of the prompt",
}
"""What needs no block of the transformer."""


def baselines(run: Run) -> pd.DataFrame:
    """The same headline score without any block: name, timestep (nan for size and place), step, value, lo, hi."""
    table = rows(run, "scores", "image_auroc", head="good", split="out_of_fold")
    if table.empty:
        return pd.DataFrame()
    plain = table[table["control"].isin(BASELINES)].copy()
    plain["name"] = [
        BASELINES[control] + (f" at t{int(t)}" if control not in ("geometry", "prompt") and pd.notna(t) else "")
        for control, t in zip(plain["control"], plain["timestep"], strict=True)
    ]
    return plain[["name", "timestep", "step", "value", "lo", "hi"]].reset_index(drop=True)


def recovery(run: Run) -> dict[str, float]:
    """Share of the cells' own AUROC above 1/2 that one shared direction keeps on cells it was not learned from.

    `recovery` is that of the worst kind of left-out cells (block, timestep, window), with its interval; beside it the
    mean over the kinds and the worst cell of all.
    """
    kept = rows(run, "global_direction", "recovery", probe="rank1")
    kept = kept[kept["split"].isin(("block", "timestep", "window"))] if len(kept) else kept
    if kept.empty:
        return {}
    least = kept.loc[kept["value"].idxmin()]
    found = {"recovery": float(least["value"]), "recovery_lo": float(least["lo"]), "recovery_hi": float(least["hi"])}
    found["recovery_mean"] = float(kept["value"].mean())
    worst = rows(run, "global_direction", "recovery_worst", probe="rank1")
    worst = worst[worst["split"].isin(("block", "timestep", "window"))] if len(worst) else worst
    if len(worst) and worst["value"].notna().any():
        found["recovery_worst"] = float(worst["value"].min())
    return found


def out_of_fold(run: Run) -> OutOfFold | None:
    """The saved image scores; None where no probes were fitted."""
    from badhands.probes.out_of_fold import load  # brings torch and Lightning along

    try:
        return load(run.folder)
    except ValueError:
        return None
