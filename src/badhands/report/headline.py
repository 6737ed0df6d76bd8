"""The numbers that a run is known by: for the terminal, the report's cards, W&B's table of runs and the comparison."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from badhands.cells import Cell
from badhands.report.results import auroc, direction_loss, distances, early, p_family, passed
from badhands.report.run import Run
from badhands.stats.family import VERDICT_LEVEL

Value = float | int | str

WIDE = 0.5
"""An AUROC, or a difference of two, whose interval is wider than this is known to nobody: "undecided" stands for it."""


def summary(run: Run) -> dict[str, Value]:
    """Flat numbers, with `_lo` and `_hi` beside those that have an interval; only what the run has computed."""
    found: dict[str, Value] = {}
    images = run.table("images")
    if len(images):
        found |= {
            "images": len(images),
            "good_images": int((images["class"] == "good").sum()),
            "bad_images": int((images["class"] == "bad").sum()),
        }
    scores = auroc(run)
    if len(scores):
        found |= _best(scores, "best")
        chance = p_family(run)
        if len(chance):
            found["best_p"] = float(chance["value"].min())
            found["cells_found"] = len(passed(run).get("auroc", {}))
        first = early(scores)
        if len(first):
            found |= _best(first, "early")
        found["mean_auroc"] = float(scores["value"].mean())
        found |= {
            f"auroc/{block}": float(v) for block, v in scores.groupby("block", sort=False)["value"].mean().items()
        }
    apart = distances(run)
    if len(apart) and passed(run).get("db_good_vs_bad"):
        peak = apart.loc[apart["d_b_corrected"].idxmax()]
        found |= {"d_b_peak_cell": _name(peak), "d_b_peak": float(peak["d_b_corrected"])}
        found |= {"d_b_peak_lo": float(peak["lo"]), "d_b_peak_hi": float(peak["hi"])}
    found |= direction_loss(run)
    found |= {f"seconds/{stage.name}": stage.seconds for stage in run.stages}
    return found


def headline(run: Run) -> str:
    """What train.py prints at its end."""
    found = summary(run)
    lines = [("run", run.name)]
    if "images" in found:
        lines.append(("images", f"{found['good_images']} good, {found['bad_images']} bad hands"))
    if _undecided(found):
        lines.append(("good from bad", f"undecided: no cell is beyond chance, {_p(found)}"))
    else:
        for key, label in (("best", "best cell"), ("early", "best in the first fifth of the steps")):
            if f"{key}_cell" in found:
                lines.append((label, f"{found[f'{key}_cell']}: image AUROC {interval(found, f'{key}_auroc')}"))
        if "cells_found" in found:
            lines.append(("beyond chance", f"{found['cells_found']} cells, {_p(found)}"))
    if "mean_auroc" in found:
        lines.append(("mean over cells", f"image AUROC {found['mean_auroc']:.3f}"))
    if "direction_loss" in found:
        lines.append(("one shared direction", f"loses {interval(found, 'direction_loss')} of AUROC in unseen cells"))
    if "d_b_peak_cell" in found:
        lines.append(("D_B, corrected, peaks at", f"{found['d_b_peak_cell']}: {interval(found, 'd_b_peak')}"))
    lines.append(("report", str(run.report)))
    wide = max(len(label) for label, _ in lines)
    return "\n".join(f"  {label:<{wide}}  {text}" for label, text in lines)


def cards(run: Run) -> list[dict[str, str]]:
    """The same as cards on top of the report."""
    found = summary(run)
    made: list[dict[str, str]] = []

    def card(label: str, value: str, note: str = "") -> None:
        made.append({"label": label, "value": value, "note": note})

    if "images" in found:
        card("labelled images", str(found["images"]), f"{found['good_images']} good, {found['bad_images']} bad hands")
    if _undecided(found):
        card("good from bad", "undecided", f"no cell is beyond chance, {_p(found)}")
    else:
        if "best_auroc" in found:
            card("image AUROC of the best cell", f"{found['best_auroc']:.2f}", _at(found, "best"))
        if "cells_found" in found:
            card("cells beyond chance", str(found["cells_found"]), _p(found))
        if "early_auroc" in found:
            card("best in the first fifth of the steps", f"{found['early_auroc']:.2f}", _at(found, "early"))
    if "direction_loss" in found:
        share = f"AUROC, in cells it has not seen{_range(found, 'direction_loss')}, {VERDICT_LEVEL:.2%} interval"
        open_ = undecided(found, "direction_loss")
        card("lost by one direction", "undecided" if open_ else f"{found['direction_loss']:.3f}", share)
    if "d_b_peak" in found:
        card("D_B peaks at", str(found["d_b_peak_cell"]), f"corrected {interval(found, 'd_b_peak')}")
    return made


def interval(found: Mapping[str, Any], key: str) -> str:
    """A value with its interval; "undecided" where the interval leaves everything open."""
    if undecided(found, key):
        return "undecided"
    return f"{found[key]:.3f}{_range(found, key)}"


def undecided(found: "Mapping[str, Any] | pd.Series", key: str) -> bool:
    """Whether the interval of an AUROC, or of a difference of two, is too wide to say anything."""
    lo, hi = found.get(f"{key}_lo"), found.get(f"{key}_hi")
    return lo is not None and hi is not None and hi - lo > WIDE and not key.startswith("d_b")


def _p(found: dict[str, Any]) -> str:
    return f"p = {found['best_p']:.3g} against the largest of everything tested under shuffled labels"


def _undecided(found: dict[str, Any]) -> bool:
    """No cell passed the gate: then no cell's number is a headline."""
    return found.get("cells_found") == 0


def _range(found: Mapping[str, Any], key: str) -> str:
    lo, hi = found.get(f"{key}_lo"), found.get(f"{key}_hi")
    return f" [{lo:.3f}, {hi:.3f}]" if lo is not None and hi is not None else ""


def _at(found: dict[str, Any], key: str) -> str:
    return f"{found[f'{key}_cell']},{_range(found, f'{key}_auroc')}"


def _best(table: pd.DataFrame, key: str) -> dict[str, Value]:
    best = table.loc[table["value"].idxmax()]
    found: dict[str, Value] = {f"{key}_cell": _name(best), f"{key}_auroc": float(best["value"])}
    if pd.notna(best["lo"]):
        found |= {f"{key}_auroc_lo": float(best["lo"]), f"{key}_auroc_hi": float(best["hi"])}
    return found


def _name(row: pd.Series) -> str:
    return str(Cell(row["block"], int(row["timestep"])))
