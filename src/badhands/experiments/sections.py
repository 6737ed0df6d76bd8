"""What experiments.html says of each experiment."""

import pandas as pd

from badhands.experiments.page import Section, rows_of

_COST = {
    "n": "images",
    "per_good": "evaluations per good hand",
    "ratio": "/ reseeding",
    "seconds_ratio": "wall clock / reseeding",
    "every_kind": "every kind / reseeding",
    "stopped_good": "good stopped",
    "stopped_rest": "others stopped",
    "good_share": "good among the delivered",
}


def _abort(table: pd.DataFrame) -> pd.DataFrame:
    names = ("plain", "oracle after 4", "probe, sequential, least", "judge on the preview, sequential, least",
             "probe, then", "probe, scores shuffled")  # fmt: skip
    return rows_of(table, "method", names)


def _best(table: pd.DataFrame) -> pd.DataFrame:
    """Best of 4 chosen about a quarter of the way."""
    quarter = table[(table["n"] == 4) & (table["timestep"] > 0)]
    if quarter.empty:
        return quarter.assign(what="")
    after = min(quarter["after"].unique(), key=lambda k: abs(k / quarter["after"].max() - 0.3))
    rows = quarter[quarter["after"] == after]
    what = "best of 4, chosen after " + rows["after"].astype(str) + ": " + rows["scorer"]
    return rows.assign(what=what, good_share=rows["good_rate"])


SECTIONS = (
    Section(
        "abort",
        "Abort: stop what will be bad, take the next seed",
        "Fresh prompts and seeds, each drawn to the end once with every score kept; each rule's cost follows from that "
        "exactly. Thresholds of sequential rules were chosen on the other half of the prompts, the one-step rule's by "
        "the training study. What the judge does not call good (bad, no hand, abstained) counts as not good. Every "
        "kind: the price of one good hand of each direction and size, so that refusing hard prompts does not pay. "
        "Intervals are 95 %, over prompts.",
        {"method": "rule", "chosen": "thresholds from", **_COST},
        _abort,
    ),
    Section(
        "best",
        "Best of N: start N seeds, finish the best",
        "Seeds of one prompt compete; the others are dropped after the step named. Rates are exact averages over all "
        "choices of N among the prompt's seeds. Not good: the rate of hands that are not good over that of single "
        "draws. Cost: evaluations for a delivered picture, in pictures. Ratio: evaluations per good hand over those "
        "of as many independent seeds, whose good hands somebody would still have to find.",
        {
            "scorer": "chosen by", "n": "N", "keep": "kept", "after": "after evaluations", "cost": "cost",
            "seconds_cost": "wall clock", "good_rate": "good", "plain_good_rate": "good, single draws",
            "not_good": "not good / single draws", "ratio": "per good hand / independent seeds",
        },
        _best,
    ),
)  # fmt: skip
