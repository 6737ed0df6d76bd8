"""What the probe tables say, as sentences that carry their numbers."""

from typing import Any

import pandas as pd


def _headline(
    scores: pd.DataFrame, head: str = "good", metric: str = "image_auroc", control: str = "none"
) -> pd.DataFrame:
    wanted = {"head": head, "control": control, "metric": metric, "split": "out_of_fold"}
    return scores.loc[(scores[list(wanted)] == pd.Series(wanted)).all(axis=1)]


def _at(row: pd.Series) -> str:
    return "" if pd.isna(row["block"]) else f"{row['block']}/t{row['timestep']}"


def _show(row: pd.Series) -> str:
    return f"{row['value']:.2f} [{row['lo']:.2f}, {row['hi']:.2f}]"


def best_cell(scores: pd.DataFrame, null: dict[str, Any]) -> str:
    """The largest of all cells, with the price of having chosen it."""
    table = _headline(scores)
    best = table.loc[table["value"].idxmax()]
    above = best["lo"] > 0.5
    if null["p_max"] >= 0.05:
        sure = "within what chance gives"
    else:
        sure = "not explained by chance" if above else "not above chance itself, though another probe is"
    return (
        f"The best of {len(table)} cells, {_at(best)}, tells good from bad images with AUROC {_show(best)} out of fold "
        f"({int(best['n'])} images; mean over cells {table['value'].mean():.2f}); {sure}: a ridge probe on image "
        f"means, refitted on {null['permutations']} joint permutations of labels, reaches {null['auroc']:.2f} "
        f"in its best cell against {null['null_max_95']:.2f} for the 95 % point of the largest cell under permutation "
        f"(p = {null['p_max']:.2g})."
    )


def control_sentence(scores: pd.DataFrame) -> str | None:
    """The best baseline of each kind beside the best cell."""
    names = {
        "geometry": "token count and position alone",
        "prompt": "the words of the prompt alone",
        "not_hand_tokens": "tokens outside the hand",
        "xt": "the noisy latent x_t",
        "x0": "the predicted clean latent",
        "x0_variance": "variance of the predicted clean latent so far",
    }
    parts = []
    for control, name in names.items():
        table = _headline(scores, control=control)
        if len(table):
            best = table.loc[table["value"].idxmax()]
            where = f" at {_at(best)}" if _at(best) else ""
            parts.append(f"{name} {_show(best)}{where}")
    return f"Image AUROC of what knows no hand block, best cell of each: {'; '.join(parts)}." if parts else None


def selectivity_sentence(scores: pd.DataFrame) -> str | None:
    table = scores.loc[scores["metric"] == "selectivity"]
    null = scores.loc[(scores["metric"] == "image_auroc") & (scores["control"] == "random_labels")]
    if table.empty:
        return None
    return (
        f"The same probes on random labels per image reach AUROC {null['value'].mean():.2f} on average (largest "
        f"of all cells and refits {null['hi'].max():.2f}); selectivity, the gap, is {table['value'].mean():.2f} on "
        f"average and {table['value'].max():.2f} at most."
    )


def hand_sentence(scores: pd.DataFrame) -> str | None:
    table = _headline(scores, head="hand", metric="token_auroc")
    if table.empty:
        return None
    best = table.loc[table["value"].idxmax()]
    mean = table["value"].mean()
    return f"The hand itself is found with token AUROC {_show(best)} at {_at(best)} (mean over cells {mean:.2f})."
