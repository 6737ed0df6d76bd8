"""What experiments.html says of each experiment."""

import pandas as pd

from badhands.experiments.section import Section, rows_of

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


def _repair(table: pd.DataFrame) -> pd.DataFrame:
    """What repairs of middle depth cost, beside new seeds."""
    depths = sorted(table["redo"].unique())
    middle = table[(table["redo"] == depths[len(depths) // 2]) & table["chosen_by"].isin(["probe", "judge"])]
    rows = middle[middle["region"].isin(["reseed", "hand", "bad"])]
    return rows.assign(what="repair, " + rows["method"])


def _steer(table: pd.DataFrame) -> pd.DataFrame:
    rows = table[(table["strength"] == 1) & (table["kind"] != "random")]
    return rows.assign(what="steer " + rows["treatment"])


def _ablation(table: pd.DataFrame) -> pd.DataFrame:
    rows = table[table["kind"] != "random"]
    return rows.assign(what="ablation of the " + rows["treatment"])


def _nothing(table: pd.DataFrame) -> pd.DataFrame:
    return table.iloc[:0].assign(what="")


SECTIONS = (
    Section(
        "reliability",
        "Is P(bad) what it says?",
        "Fresh prompts and seeds, none selected; the hand is found by the hand head, P(bad) is that of the whole hand "
        "at the rate of bad hands that the probes assume. Images on which the judge abstains or sees no hand are out. "
        "Error: mean over five equal bins of the distance between P(bad) and the share of bad hands; beside it what "
        "perfect probabilities would show with so many images. More: share of bad hands minus mean P(bad), with its "
        "95 % interval over prompts.",
        {
            "cell": "cell", "rate": "rate assumed", "n": "images", "came": "bad", "said": "mean P(bad)",
            "more": "more", "error": "error", "chance": "of perfect ones",
        },
        _nothing,
    ),
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
        "draws; bad: the same of those that the judge calls bad, abstentions apart. Cost: evaluations for a delivered "
        "picture, in pictures. Ratio: evaluations per good hand over those of as many independent seeds, whose good "
        "hands somebody would still have to find.",
        {
            "scorer": "chosen by", "n": "N", "keep": "kept", "after": "after evaluations", "cost": "cost",
            "seconds_cost": "wall clock", "good_rate": "good", "plain_good_rate": "good, single draws",
            "bad": "bad / single draws", "not_good": "not good / single draws",
            "ratio": "per good hand / independent seeds",
        },
        _best,
    ),
    Section(
        "repair",
        "Repair: draw the bad hand again in its place",
        "The first picture is noised back and the region drawn again by the same model, with new noise inside and the "
        "picture's own path outside; up to so many tries, until the hand is accepted, and the best is kept. The probe "
        "asks for a try where its calibrated P(bad) is 0.5 or more; the judge where it does not say good, which is the "
        "referee choosing for itself. New seeds stand beside it with as many evaluations at most. Mended: share of the "
        "others that became good. Broken: share of the good that ceased to be. PSNR: outside the region, median of the "
        "pictures that were changed. Intervals are 95 %, over prompts.",
        {
            "method": "who asks: what is done", "redo": "steps again", "tries": "tries", "n": "pairs",
            "tried": "asked for", "evaluations": "evaluations a picture", "good_share": "good", "mended": "mended",
            "broken": "broken", "ratio": "per good hand / plain", "against_seeds": "/ new seeds",
            "seconds_ratio": "wall clock / plain", "psnr": "PSNR outside, dB",
        },
        _repair,
    ),
    Section(
        "mask",
        "The mask of the bad hand",
        "Intersection over union with the place that the judge calls malformed, on hands that it calls bad; read at "
        "the last watched step. The last line is the AUROC of P(bad) for telling malformed tokens of a hand from its "
        "others. The mask of python -m badhands.watch is the dilated one.",
        {"mask": "mask", "n": "hands", "iou": "intersection over union"},
        _nothing,
    ),
    Section(
        "steer",
        "Steering: push activations towards good",
        "The same pairs plainly and under every push, so each is its own control. All directions are as long as the "
        "mean difference; random ones come from the within-class covariance. An effect needs a monotone response, the "
        "opposite effect of the opposite sign, the paired test, and more than the random directions do. The mean "
        "difference is the question asked; ridge and subspace are looks beside it. Intervals are 95 %, over prompts.",
        {
            "treatment": "push", "n": "pairs", "shift": "judge's logit", "good_share": "good",
            "plain_good_share": "good, plain", "better": "became good", "worse": "ceased to be",
            "wilcoxon_p": "paired p", "p_random": "p against random", "effect": "effect", "no_hand": "no hand",
            "outside": "change outside the hand, of 255", "relative_length": "|push| / |activation|",
        },
        _steer,
    ),
    Section(
        "ablation",
        "Ablation: erase the verdict while the picture is made",
        "Closed-form erasure (LEACE) on hand tokens, at every step, at the cells that know the verdict; fitted on the "
        "training study's hand tokens, every image counting once. On the study itself no linear probe is left; on new "
        "images the right panel says how much is, and a null result speaks of the erased part alone. Control: "
        "random subspaces of equal rank from the within-class covariance, erased in the same way. Change of the bad "
        "rate is paired by prompt and seed; intervals are 95 %, over prompts.",
        {
            "treatment": "erased", "n": "pairs", "bad": "change of the bad rate", "bad_share": "bad",
            "plain_bad_share": "bad, plain", "not_good": "change of not good", "shift": "judge's logit",
            "p_random": "p against random", "outside": "change outside the hand, of 255",
            "relative_length": "|change| / |activation|",
        },
        _ablation,
    ),
)  # fmt: skip
