"""Sentences about what probes read out beside the headline: baselines, the hand, one direction for all cells."""

import pandas as pd

from badhands.report.findings.facts import Facts, Finding, best, cell_of, show

MARGIN = 0.05
"""AUROC that one shared direction may lose and still be called one direction."""
KINDS = {"block": "an unseen block", "timestep": "an unseen timestep", "window": "late timesteps from early ones"}


def baselines(facts: Facts) -> Finding | None:
    """The best baseline of each kind, and what the best block adds to it."""
    table = facts.table("baselines")
    if table.empty:
        return None
    parts = []
    for title, rows in table[table["metric"] == "auroc"].groupby("title", sort=False):
        top = best(rows)
        gain = table[(table["metric"] == "gain_of_best_block") & (table["title"] == title)]
        gain = gain.loc[gain["block"].fillna("") == ("" if pd.isna(top["block"]) else top["block"])]
        gain = gain[gain["timestep"].fillna(-1) == (-1 if pd.isna(top["timestep"]) else top["timestep"])]
        adds = f", the best block {gain['value'].iloc[0]:+.2f} [{gain['lo'].iloc[0]:+.2f}, {gain['hi'].iloc[0]:+.2f}]" \
            if len(gain) else ""  # fmt: skip
        where = "" if pd.isna(top["timestep"]) else f" at t{int(top['timestep'])}"
        parts.append(f"{title} {show(top)}{where}{adds}")
    text = "The same probe on what knows no block of the hand, best of each, and what the best block adds to it"
    return Finding("controls", f"{text}: {'; '.join(parts)}. The best block was chosen on these images, so its gain "
                   "flatters.") if parts else None  # fmt: skip


def hand(facts: Facts) -> Finding | None:
    """Where the hand is, against nothing but the place on the grid."""
    table = facts.metric("scores", "token_auroc", head="hand", control="none", split="out_of_fold")
    if table.empty:
        return None
    top, mean = best(table), table["value"].mean()
    text = f"The hand itself is found with token AUROC {show(top)} at {cell_of(top)} (mean over cells {mean:.2f})"
    scores = facts.table("scores")
    place = scores[(scores["metric"] == "token_auroc") & (scores["head"] == "hand") & (scores["control"] == "position")]
    if len(place):
        text += f"; the place on the grid alone gives {show(place.iloc[0])}"
    return Finding("hand", text + ".")


def one_direction(facts: Facts) -> Finding | None:
    """One direction is supported where rank 1 loses less than MARGIN to rank 3 and to each cell's own probe."""
    rows = facts.verdict("one_direction")
    if rows.empty:
        return None
    question = "Is there one good/bad direction?"
    if not facts.found.get("auroc"):
        return Finding(
            "one_direction", f"{question} Undecided: no cell tells good from bad beyond chance to begin with."
        )
    parts, answers = [], []
    for kind, name in KINDS.items():
        losses = {what: rows[rows["what"] == f"{what}:{kind}"] for what in ("to_own", "to_rank3")}
        if any(of.empty for of in losses.values()):
            continue
        own, three = (of.iloc[0] for of in losses.values())
        answers.append(answer(own, three))
        parts.append(
            f"for {name} it loses {_loss(own)} of AUROC to the cells' own probes and {_loss(three)} to three shared "
            f"directions ({answers[-1]})"
        )
    if not parts:
        return Finding("one_direction", f"{question} Undecided: one cell has nothing to share with.")
    if all(a == "yes" for a in answers):
        verdict = "yes"
    elif "no" in answers:
        verdict = "partly" if "yes" in answers else "no"
    else:
        verdict = "undecided"
    text = f"{question} {verdict.capitalize()} (less than {MARGIN} of AUROC lost counts as none): {'; '.join(parts)}."
    return Finding("one_direction", text, claims=verdict != "undecided")


def answer(own: pd.Series, three: pd.Series) -> str:
    """yes: surely less than MARGIN is lost to both; no: surely more than MARGIN is to one of them; else undecided."""
    worst = [own, three]
    if all(loss["hi"] <= MARGIN for loss in worst):
        return "yes"
    return "no" if any(loss["lo"] > MARGIN for loss in worst) else "undecided"


def _loss(row: pd.Series) -> str:
    return f"{row['value']:.3f} [{row['lo']:.3f}, {row['hi']:.3f}]"


def beyond_the_picture(facts: Facts) -> Finding | None:
    """Does the best block know more than the picture of the same step shows? Only where it beats every judge of it."""
    rows = facts.verdict("beyond_the_picture")
    if rows.empty:
        return None
    parts, cell = [], str(rows.iloc[0]["what"]).split(" ")[1]
    for row in rows.itertuples():
        name = TITLES[str(row.what).split(" ")[0]]
        parts.append(f"{row.value:+.2f} [{row.lo:+.2f}, {row.hi:+.2f}] over the {name}")
    text = f"Of all cells, {cell} does best against the picture that can be seen at its step: {' and '.join(parts)} "
    text += f"(AUROC, paired, interval for the choice among {int(rows.iloc[0]['other'])} cells). "
    if not facts.found.get("auroc"):
        return Finding("beyond_the_picture", text + "No cell is beyond chance, so this says nothing.")
    if (rows["lo"] > 0).all() and len(rows) > 1:
        return Finding("beyond_the_picture", text + "The model knows before it can be seen.", claims=True)
    if (rows["lo"] > 0).all():
        return Finding("beyond_the_picture", text + "A stronger judge of the picture was not asked (referee=).")
    return Finding("beyond_the_picture", text + "That it knows before it can be seen is not shown.")


def replication(facts: Facts) -> Finding | None:
    """What became of the run's locked claims on a second study: `python -m badhands.replicate`."""
    table = facts.table("replication")
    if table.empty:
        return None
    parts = [f"{row['outcome']}, {show(row)}: {row['sentence']}" for _, row in table.iterrows()]
    studies = int(table["studies"].max()) if "studies" in table else 1
    often = "once" if studies == 1 else f"on {studies} studies, here the last,"
    text = (
        f"Tested {often} on {int(table['n'].iloc[0])} fresh images, with cells and probes frozen before: "
        f"{' '.join(parts)}"
    )
    if studies > 1:
        text += " A claim that is confirmed by one of several studies is not confirmed."
    return Finding("replication", text, claims=studies == 1 and bool((table["outcome"] == "confirmed").all()))


TITLES = {"preview_cnn": "network trained on the same labels", "preview_referee": "referee"}
PROBED = (replication, baselines, beyond_the_picture, hand, one_direction)
