"""Sentences about the measures: headline probe, distances, directions. The rules that choose one are written out."""

import numpy as np
import pandas as pd

from badhands.cells import PSEUDO_BLOCKS
from badhands.report.findings.facts import Facts, Finding, best, cell_of, show
from badhands.stats.family import ALPHA, VERDICT_LEVEL

GATE = f"beyond what shuffled labels give, {ALPHA:.0%} familywise over everything this report tests"


def by_cell(cells: pd.DataFrame, comparison: str, blocks_only: bool = True) -> pd.DataFrame:
    """One row a cell, one column a metric (`probe.metric` for held-out scores, `metric_lo` and `metric_hi` beside)."""
    if cells.empty:
        return cells
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


def best_cell(facts: Facts) -> Finding | None:
    """The headline: where a ridge probe on image means tells good from bad images."""
    table = facts.metric("headline", "auroc")
    if table.empty or "auroc" not in facts.p:
        return None
    top, passed, p = best(table), facts.found["auroc"], facts.p["auroc"]
    images = f"{int(top['n'])} images, mean over cells {table['value'].mean():.2f}"
    if not passed:
        return Finding(
            "best_cell",
            f"No cell tells good from bad images {GATE} (smallest p {min(p.values()):.2g}; {images}). The largest "
            f"AUROC of {len(table)} cells, {show(top)} at {cell_of(top)}, is what chance can give.",
        )
    others = f"{len(passed)} of {len(table)} cells tell" if len(passed) > 1 else f"One of {len(table)} cells tells"
    return Finding(
        "best_cell",
        f"{others} good from bad images {GATE}. The largest AUROC is {show(top)} at {cell_of(top)} "
        f"(p = {p[cell_of(top)]:.2g}; {images}; the largest of many flatters).",
        claims=True,
    )


def separation(facts: Facts) -> Finding | None:
    """Corrected D_B of the tokens."""
    wide = by_cell(facts.table("cells"), "good_vs_bad")
    if wide.empty or "db_good_vs_bad" not in facts.p:
        return None
    passed, p = facts.found["db_good_vs_bad"], facts.p["db_good_vs_bad"]
    top = wide.loc[wide["db_corrected"].idxmax()]
    images = f"{int(top['n_good'])} good and {int(top['n_bad'])} bad images, {int(top['n_tokens']):,} tokens"
    if not passed:
        text = (
            f"In no cell good and bad hand tokens lie further apart {GATE} (smallest p over {len(wide)} cells: "
            f"{min(p.values()):.2g}; {images})."
        )
        return Finding("separation", text)
    text = (
        f"In {len(passed)} of {len(wide)} cells good and bad hand tokens lie further apart {GATE} ({images}). The "
        f"largest corrected distance is {top['db_corrected']:.2f} [{top['db_corrected_lo']:.2f}, "
        f"{top['db_corrected_hi']:.2f}] in {cell_of(top)}."
    )
    return Finding("separation", text, claims=True)


def bias(facts: Facts) -> Finding | None:
    """How much of the plug-in curve is bias: a description of the formula, not a claim about hands."""
    wide = by_cell(facts.table("cells"), "good_vs_bad")
    if wide.empty:
        return None
    share = float((wide["db_null"] / wide["db_plugin"]).median())
    plug, corrected, equal = (float(wide[name].median()) for name in ("db_plugin", "db_corrected", "mass_mean.d_eq"))
    text = (
        f"Of the plug-in D_B, a share of {share:.0%} (median over cells) also appears when labels are shuffled over "
        f"images. Median over cells: plug-in {plug:.3g}, corrected {corrected:.3g}, and {equal:.3g} judged by how well "
        "held-out tokens can be told apart (D_eq)."
    )
    if facts.found.get("db_good_vs_bad") and corrected > 3 * max(equal, 1e-9):
        text += (
            " The gap to D_eq: channels are correlated, which the diagonal formula counts many times, and a rule "
            "fitted on few images reaches less than a distance allows."
        )
    return Finding("bias", text)


def late_minus_early(wide: pd.DataFrame, metric: str) -> float:
    """Mean over blocks of (last third of timesteps) - (first third): positive is a rise towards the image."""
    rises = []
    for _, block in wide.groupby("block"):
        ordered = block.sort_values("timestep", ascending=False)[metric].to_numpy()
        third = max(1, len(ordered) // 3)
        rises.append(ordered[-third:].mean() - ordered[:third].mean())
    return float(np.mean(rises))


def late_rise(facts: Facts) -> Finding | None:
    """Does the study's explanation hold, that D_B rises late because its Gaussian formula stops fitting there?"""
    rows, wide = facts.verdict("late_rise"), by_cell(facts.table("cells"), "good_vs_bad")
    if rows.empty or wide.empty:
        return None
    row = rows.iloc[0]
    names = ("db_plugin", "db_var_plugin", "mass_mean.d_eq", "kurtosis_channels", "top10_share")
    rise = {name: late_minus_early(wide, name) for name in names}
    text = (
        f"From the first to the last third of the timesteps the plug-in D_B changes by {rise['db_plugin']:+.3g} "
        f"(variance term {rise['db_var_plugin']:+.3g}), the corrected one by {row['value']:+.3g} "
        f"[{row['lo']:+.2g}, {row['hi']:+.2g}] ({VERDICT_LEVEL:.2%} interval), D_eq of held-out tokens by "
        f"{rise['mass_mean.d_eq']:+.3g}, excess kurtosis of channels by {rise['kurtosis_channels']:+.2g}, the share of "
        f"the ten largest channels by {rise['top10_share']:+.2g}. "
    )
    if not facts.open or row["lo"] <= 0:
        return Finding("late_rise", text + "Whether the corrected distance rises late is undecided.")
    equal = "rises with it" if rise["mass_mean.d_eq"] > 0.25 * row["value"] else "does not follow"
    shape = "become" if rise["kurtosis_channels"] > 0.2 else "do not become"
    verdict = (
        f"The corrected distance rises late. D_eq {equal} and channels {shape} less Gaussian; neither has an interval "
        "here, so the cause is left open."
    )
    return Finding("late_rise", text + verdict, claims=True)


def variance(facts: Facts) -> Finding | None:
    """Is the variance term of D_B usable information, beyond the mean term?"""
    rows, wide = facts.verdict("variance"), by_cell(facts.table("cells"), "good_vs_bad")
    if rows.empty or wide.empty:
        return None
    row, share = rows.iloc[0], float((wide["db_var_plugin"] / wide["db_plugin"]).median())
    text = (
        f"The variance term makes up {share:.0%} of the plug-in D_B (median over cells). A classifier that uses the "
        f"variances changes held-out image AUROC by {row['value']:+.3f} [{row['lo']:+.3f}, {row['hi']:+.3f}] (mean "
        f"over cells, paired, {VERDICT_LEVEL:.2%} interval): "
    )
    # Less far below one half is a gain too, and no information: the classifier itself must be above chance.
    if facts.open and row["lo"] > 0 and row["other"] > 0.5:
        return Finding("variance", text + "the variances carry information of their own.", claims=True)
    if facts.open and row["hi"] <= 0:
        return Finding("variance", text + "using them makes it worse.", claims=True)
    return Finding("variance", text + "whether they carry information of their own is undecided.")


def control(facts: Facts) -> Finding | None:
    """Tokens outside the hand."""
    cells = facts.table("cells")
    wide, other = by_cell(cells, "good_vs_bad"), by_cell(cells, "not_hand")
    if wide.empty or other.empty or "db_not_hand" not in facts.p:
        return None
    outside, on_hand = facts.found["db_not_hand"], facts.found["db_good_vs_bad"]
    hand, rest = float(wide["mass_mean.auroc"].median()), float(other["mass_mean.auroc"].median())
    text = (
        f"Control: tokens outside the hand, of good against bad images, differ in {len(outside)} of {len(other)} "
        f"cells, tokens on the hand in {len(on_hand)} of {len(wide)}, by the same gate; held-out token AUROC "
        f"{rest:.2f} there against {hand:.2f} on the hand (medians over cells)."
    )
    if outside:
        text += (
            " Part of the difference therefore lies outside the hand: another cause in the image, or the hand, which "
            "attention carries there."
        )
    return Finding("control", text, claims=bool(outside))


def agreement(facts: Facts) -> Finding | None:
    """Cosines between resolved directions."""
    agree, wide = facts.table("agreement"), by_cell(facts.table("cells"), "good_vs_bad")
    if agree.empty or wide.empty:
        return None
    use = agree.loc[(agree["comparison"] == "good_vs_bad") & (agree["metric"] == "cosine_standardised")]
    other = use.loc[(use["block"] != use["block_b"]) | (use["timestep"] != use["timestep_b"])]
    both = other.loc[other["resolved"].astype(bool)]
    resolved = int(wide["v_resolved_standardised"].sum())
    text = f"The direction from bad to good is resolved in {resolved} of {len(wide)} cells"
    if not len(both):
        return Finding("agreement", f"{text}, so no agreement between cells can be quoted.", claims=resolved > 0)
    text += (
        f". Between two of them its cosine is {both['value'].median():.2f} as measured and "
        f"{both['corrected'].median():.2f} without noise (medians over {len(both)} pairs, standardised channels); "
        f"shuffled labels alone give {both['null_mean'].median():.2f}, up to {both['null_hi'].median():.2f}, because "
        "all cells share the same images."
    )
    return Finding("agreement", text, claims=True)


def along_v(facts: Facts) -> Finding | None:
    """How much of a plot along v is made by fitting v."""
    pca = facts.table("pca")
    if pca.empty:
        return None
    use = pca[~pca["block"].isin(PSEUDO_BLOCKS)]
    gap = use.loc[use["metric"] == "gap_along_v"]
    inside, held = (float(gap.loc[gap["split"] == split]["value"].median()) for split in ("in-sample", "held-out"))
    chance = float(use.loc[use["metric"] == "gap_along_v_chance"]["value"].median())
    return Finding(
        "along_v",
        f"Drawn along a v fitted on the same images, the classes lie {inside:.1f} standard deviations of image means "
        f"apart; about {chance:.1f} are expected even of random labels. On held-out images {held:.1f} remain "
        "(medians).",
    )


def kinds(facts: Facts) -> Finding | None:
    """Local and global errors beside each other: a description."""
    local, whole = (by_cell(facts.table("cells"), f"good_vs_{kind}") for kind in ("local", "global"))
    if local.empty or whole.empty:
        return None
    parts = [
        f"{name} errors ({int(of['n_bad'].iloc[0])} images): held-out token AUROC "
        f"{of['mass_mean.auroc'].median():.2f}, corrected D_B {of['db_corrected'].median():.2g}"
        for name, of in (("local", local), ("global", whole))
    ]
    return Finding("kinds", f"Against good hands, medians over cells: {'; '.join(parts)}.")


def left_out(facts: Facts) -> Finding | None:
    """Comparisons that were not measured, and why."""
    rows = facts.verdict("left_out")
    return Finding("left_out", " ".join(rows["what"])) if len(rows) else None


MEASURED = (best_cell, separation, bias, late_rise, variance, control, agreement, along_v, kinds)
