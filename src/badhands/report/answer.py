"""The report's first sentence: as much as the gate of the statistics allows, and not more."""

from badhands.cells import Cell
from badhands.report.headline import summary
from badhands.report.results import auroc, baselines, passed
from badhands.report.run import Run


def answer(run: Run) -> str | None:
    """One sentence that answers "does the model know?"; None where nothing has been measured yet.

    What one study shows is a hint, whatever its p: only what a second study has confirmed is called shown.
    """
    scores, found = auroc(run), summary(run)
    if scores.empty or "cells_found" not in found:
        return None
    rivals = _rivals(run)
    if not found["cells_found"]:
        return (
            f"Undecided: no cell tells good from bad hands beyond chance (p = {found['best_p']:.2g} for the best of "
            f"{len(scores)}){rivals and f'; {rivals}'}."
        )
    confirmed, asked = _replicated(run)
    through = passed(run)["auroc"]
    named = [str(Cell(row.block, int(row.timestep))) for row in scores.itertuples()]
    best = max((value, name) for value, name in zip(scores["value"], named, strict=True) if name in through)
    where = f"in {'one cell' if len(through) == 1 else f'{len(through)} of {len(scores)} cells, up to'}"
    if asked and confirmed:
        return (
            f"Shown: {confirmed} of {asked} locked claims hold on a second study; on this one good and bad hands are "
            f"told apart {where} {best[0]:.2f} at {best[1]}{rivals and f'; {rivals}'}."
        )
    failed = f", and none of {asked} locked claims held on a second study" if asked else ""
    value = (
        f"{best[0]:.2f} {where}" if len(through) == 1 else f"good and bad hands are told apart {where} {best[0]:.2f}"
    )
    return f"A hint: {value}, at {best[1]}{failed}{rivals and f'; {rivals}'}."


def _replicated(run: Run) -> tuple[int, int]:
    table = run.table("replication")
    return (int((table["outcome"] == "confirmed").sum()), len(table)) if len(table) else (0, 0)


def _rivals(run: Run) -> str:
    """What needs no block: size and place, and the best of the others."""
    table = baselines(run)
    if table.empty:
        return ""
    said = []
    place = table[table["control"] == "geometry"]
    if len(place):
        said.append(f"hand size and place alone reach {place['value'].max():.2f}")
    others = table[table["control"] != "geometry"]
    if len(others):
        best = others.loc[others["value"].idxmax()]
        said.append(f"{best['title']} reaches {best['value']:.2f}")
    return ", ".join(said)
