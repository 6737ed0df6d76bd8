"""What the tables say, in sentences that carry their numbers. The rules that choose a sentence are written out."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from badhands.cells import PSEUDO_BLOCKS

ALPHA = 0.05


def write_findings(path: Path, tables: Mapping[str, pd.DataFrame], left_out: Sequence[str] = ()) -> list[dict]:
    """findings.json: a list of {id, sentence, numbers}."""
    found = findings(tables)
    if left_out:
        found.append({"id": "left_out", "sentence": " ".join(left_out), "numbers": {}})
    path.write_text(json.dumps(found, indent=1, allow_nan=True) + "\n")
    return found


def findings(tables: Mapping[str, pd.DataFrame]) -> list[dict]:
    """All sentences that the tables allow."""
    cells = tables["cells"]
    wide = by_cell(cells, "good_vs_bad")
    if wide.empty:
        return []
    found = [_separation(wide), _bias(wide), _rise(wide), _variance(wide), _control(wide, by_cell(cells, "not_hand"))]
    found += [_agreement(tables["agreement"], wide), _along_v(tables["pca"]), _kinds(cells)]
    return [{"id": name, "sentence": text, "numbers": numbers} for name, text, numbers in filter(None, found)]


def by_cell(cells: pd.DataFrame, comparison: str, blocks_only: bool = True) -> pd.DataFrame:
    """One row a cell, one column a metric (`probe.metric` for held-out scores, `metric_lo` and `metric_hi` beside)."""
    use = cells.loc[cells["comparison"] == comparison]
    if blocks_only:
        use = use.loc[~use["block"].isin(PSEUDO_BLOCKS)]
    name = use["metric"].where(use["probe"] == "moments", use["probe"] + "." + use["metric"])
    use = use.assign(metric=name)
    index = ["block", "timestep"]
    parts = [use.pivot(index=index, columns="metric", values="value")]
    for end in ("lo", "hi"):
        parts.append(use.pivot(index=index, columns="metric", values=end).add_suffix(f"_{end}"))
    wide = pd.concat(parts, axis=1)
    for column in ("n_good", "n_bad", "n_tokens", "sigma"):
        wide[column] = use.groupby(index)[column].first()
    order = use.drop_duplicates(index)[index]
    return wide.loc[list(order.itertuples(index=False, name=None))].reset_index() if len(wide) else wide


def _cell(row: pd.Series) -> str:
    return f"{row['block']}/t{row['timestep']}"


def _separation(wide: pd.DataFrame):
    significant = int((wide["db_p_max"] < ALPHA).sum())
    best = wide.loc[wide["mass_mean.auroc"].idxmax()]
    strongest = wide.loc[wide["db_corrected"].idxmax()]
    numbers = {
        "cells": len(wide), "significant": significant, "n_good": int(best["n_good"]), "n_bad": int(best["n_bad"]),
        "n_tokens": int(best["n_tokens"]), "peak_cell": _cell(strongest),
        "peak_corrected": strongest["db_corrected"], "peak_lo": strongest["db_corrected_lo"],
        "peak_hi": strongest["db_corrected_hi"], "peak_plugin": strongest["db_plugin"],
        "peak_p_max": strongest["db_p_max"], "best_cell": _cell(best), "best_auroc": best["mass_mean.auroc"],
        "best_auroc_lo": best["mass_mean.auroc_lo"], "best_auroc_hi": best["mass_mean.auroc_hi"],
    }  # fmt: skip
    if significant == 0:
        text = (
            f"No cell separates good from bad hand tokens beyond what shuffled labels give (smallest p over "
            f"{len(wide)} cells, corrected for looking at all of them: {wide['db_p_max'].min():.2g}; "
            f"{numbers['n_good']} good and {numbers['n_bad']} bad images)."
        )
    else:
        text = (
            f"In {significant} of {len(wide)} cells good and bad hand tokens lie further apart than under shuffled "
            f"labels (p < {ALPHA}, corrected for looking at all cells; {numbers['n_good']} good and {numbers['n_bad']} "
            f"bad images, {numbers['n_tokens']:,} tokens). The largest corrected distance is "
            f"{strongest['db_corrected']:.2f} [{strongest['db_corrected_lo']:.2f}, {strongest['db_corrected_hi']:.2f}] "
            f"in {_cell(strongest)}. Held-out tokens are told apart best in {_cell(best)}, with AUROC "
            f"{best['mass_mean.auroc']:.2f} [{best['mass_mean.auroc_lo']:.2f}, {best['mass_mean.auroc_hi']:.2f}] "
            "(the best of many cells, so somewhat flattering)."
        )
    return "separation", text, numbers


def _bias(wide: pd.DataFrame):
    share = float((wide["db_null"] / wide["db_plugin"]).median())
    plug, corrected, equal = (float(wide[name].median()) for name in ("db_plugin", "db_corrected", "mass_mean.d_eq"))
    text = (
        f"Of the plug-in D_B, a share of {share:.0%} (median over cells) also appears when labels are shuffled over "
        f"images. Median over cells: plug-in {plug:.3g}, corrected {corrected:.3g}, and {equal:.3g} judged by how well "
        "held-out tokens can be told apart (D_eq)"
    )
    correlated = corrected > 3 * max(equal, 1e-9)
    text += "; the gap to D_eq says that channels are correlated, which the diagonal formula counts many times." if (
        correlated) else "."  # fmt: skip
    return "bias", text, {"null_share": share, "plugin": plug, "corrected": corrected, "d_eq": equal}


def late_minus_early(wide: pd.DataFrame, metric: str) -> float:
    """Mean over blocks of (last third of timesteps) - (first third): positive is a rise towards the image."""
    rises = []
    for _, block in wide.groupby("block"):
        ordered = block.sort_values("timestep", ascending=False)[metric].to_numpy()
        third = max(1, len(ordered) // 3)
        rises.append(ordered[-third:].mean() - ordered[:third].mean())
    return float(np.mean(rises))


def _rise(wide: pd.DataFrame):
    """Does the study's explanation hold, that D_B rises late because its Gaussian formula stops fitting there?"""
    if wide["timestep"].nunique() < 3:
        return None
    names = ("db_plugin", "db_corrected", "db_null", "db_var_plugin", "mass_mean.d_eq", "kurtosis_channels",
             "top10_share", "qda.auroc_gain")  # fmt: skip
    rise = {name: late_minus_early(wide, name) for name in names}
    spread = float((wide["db_corrected_hi"] - wide["db_corrected_lo"]).median()) / 2
    facts = (
        f"From the first to the last third of the timesteps the plug-in D_B changes by {rise['db_plugin']:+.3g} "
        f"(variance term {rise['db_var_plugin']:+.3g}), the corrected one by {rise['db_corrected']:+.3g} (half-width "
        f"of its interval {spread:.2g}), D_eq of held-out tokens by {rise['mass_mean.d_eq']:+.3g}, excess kurtosis of "
        f"channels by {rise['kurtosis_channels']:+.2g}, the share of the ten largest channels by "
        f"{rise['top10_share']:+.2g}. "
    )
    if rise["db_corrected"] <= spread:
        verdict = "There is no late rise beyond its uncertainty, hence nothing to explain."
        if rise["db_plugin"] > spread:
            verdict = "The late rise of the plug-in curve goes away with its bias: it needs no other explanation."
    elif rise["mass_mean.d_eq"] > 0.25 * rise["db_corrected"]:
        verdict = (
            "Held-out tokens become easier to tell apart too: the late rise is real, not an artefact of the formula."
        )
    elif rise["kurtosis_channels"] > 0.2:
        verdict = (
            "D_B rises late, held-out separability does not follow, and the channels become less Gaussian: this agrees "
            "with the study's explanation that its formula does not fit there."
        )
    else:
        verdict = (
            "D_B rises late without held-out separability following, but the channels do not become less Gaussian: the "
            "study's explanation does not hold here; correlated channels, counted separately, explain it better."
        )
    return "late_rise", facts + verdict, {**{f"rise_{k}": v for k, v in rise.items()}, "half_width": spread}


def _variance(wide: pd.DataFrame):
    share = float((wide["db_var_plugin"] / wide["db_plugin"]).median())
    better = int((wide["qda.auroc_gain_lo"] > 0).sum())
    worse = int((wide["qda.auroc_gain_hi"] < 0).sum())
    gain = float(wide["qda.auroc_gain"].median())
    kurtosis = float(wide["kurtosis_channels"].median())
    # Less far below one half is a gain too, and no information: the classifier itself must be above chance.
    sound = int(((wide["qda.auroc_gain_lo"] > 0) & (wide["qda.auroc_lo"] > 0.5)).sum())
    useful = sound > max(worse, 0.1 * len(wide))
    text = (
        f"The variance term makes up {share:.0%} of the plug-in D_B (median over cells). A classifier that uses the "
        f"variances changes held-out AUROC by {gain:+.3f} (median; better in {better} of {len(wide)} cells, worse in "
        f"{worse}, by paired intervals; better and itself above one half in {sound}): the variance term carries "
        f"{'some' if useful else 'no'} usable information. "
        f"Median excess kurtosis of channels about their image: {kurtosis:.2g}."
    )
    return "variance", text, {"variance_share": share, "gain": gain, "better": better, "worse": worse,
                              "sound": sound, "kurtosis": kurtosis}  # fmt: skip


def _control(wide: pd.DataFrame, other: pd.DataFrame):
    if other.empty:
        return None
    hand, rest = float(wide["mass_mean.auroc"].median()), float(other["mass_mean.auroc"].median())
    significant, on_hand = int((other["db_p_max"] < ALPHA).sum()), int((wide["db_p_max"] < ALPHA).sum())
    text = (
        f"Control: tokens outside the hand, of good against bad images, differ in {significant} of {len(other)} cells, "
        f"tokens on the hand in {on_hand} of {len(wide)}; "
        f"held-out AUROC {rest:.2f} there against {hand:.2f} on the hand (medians over cells). "
    )
    if significant > 0.1 * len(other):
        text += "Part of the difference is therefore not about the hand itself."
    elif on_hand:
        text += "Where there is a difference, it sits on the hand."
    else:
        text += "On the hand nothing differs beyond chance either."
    return "control", text, {"not_hand_auroc": rest, "hand_auroc": hand, "not_hand_significant": significant}


def _agreement(agree: pd.DataFrame, wide: pd.DataFrame):
    use = (
        agree.loc[(agree["comparison"] == "good_vs_bad") & (agree["metric"] == "cosine_standardised")]
        if len(agree)
        else agree
    )
    if not len(use):
        return None
    other = use.loc[(use["block"] != use["block_b"]) | (use["timestep"] != use["timestep_b"])]
    both = other.loc[other["resolved"]]
    resolved = int(wide["v_resolved_standardised"].sum())
    numbers = {"resolved": resolved, "cells": len(wide), "pairs": len(both)}
    if not len(both):
        text = (
            f"The direction from bad to good is resolved in {resolved} of {len(wide)} cells, so no agreement between "
            "cells can be quoted."
        )
        return "agreement", text, numbers
    numbers |= {"cosine": both["value"].median(), "corrected": both["corrected"].median(),
                "null": both["null_mean"].median(), "null_hi": both["null_hi"].median()}  # fmt: skip
    text = (
        f"The direction is resolved in {resolved} of {len(wide)} cells. Between two of them its cosine is "
        f"{numbers['cosine']:.2f} as measured and {numbers['corrected']:.2f} without noise (medians over {len(both)} "
        f"pairs, standardised channels); shuffled labels alone give {numbers['null']:.2f}, up to "
        f"{numbers['null_hi']:.2f}, because all cells share the same images."
    )
    return "agreement", text, numbers


def _along_v(pca: pd.DataFrame):
    use = pca[~pca["block"].isin(PSEUDO_BLOCKS)]
    gap = use.loc[use["metric"] == "gap_along_v"]
    inside, held = (float(gap.loc[gap["split"] == split]["value"].median()) for split in ("in-sample", "held-out"))
    chance = float(use.loc[use["metric"] == "gap_along_v_chance"]["value"].median())
    text = (
        f"Drawn along a v fitted on the same images, the classes lie {inside:.1f} standard deviations of image means "
        f"apart; about {chance:.1f} are expected even of random labels. On held-out images {held:.1f} remain (medians)."
    )
    return "along_v", text, {"in_sample": inside, "chance": chance, "held_out": held}


def _kinds(cells: pd.DataFrame):
    local, whole = by_cell(cells, "good_vs_local"), by_cell(cells, "good_vs_global")
    if local.empty or whole.empty:
        return None
    a, b = (float(x["mass_mean.auroc"].median()) for x in (local, whole))
    numbers = {"local_auroc": a, "global_auroc": b, "local_images": int(local["n_bad"].iloc[0]),
               "global_images": int(whole["n_bad"].iloc[0]),
               "local_corrected": float(local["db_corrected"].median()),
               "global_corrected": float(whole["db_corrected"].median())}  # fmt: skip
    text = (
        f"Local errors ({numbers['local_images']} images) against good hands: held-out AUROC {a:.2f}, corrected D_B "
        f"{numbers['local_corrected']:.2g}; global errors ({numbers['global_images']} images): {b:.2f} and "
        f"{numbers['global_corrected']:.2g} (medians over cells)."
    )
    return "kinds", text, numbers
