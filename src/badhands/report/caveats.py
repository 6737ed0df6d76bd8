"""The caveats that apply to a run, computed from its own tables: each is a reason to believe a number less."""

import math
from collections.abc import Callable

import pandas as pd

from badhands.report.headline import summary
from badhands.report.results import auroc, baselines, distances, findings, passed, rows
from badhands.report.run import Run

FEW = 50
"""Images a class below which an AUROC of 0.8 has a standard error above 0.045."""


def caveats(run: Run) -> list[str]:
    """One or two sentences each, most basic first."""
    found = [rule(run) for rule in RULES]
    return [text for text in (*found, findings(run).get("left_out")) if text]


def standard_error(area: float, good: int, bad: int) -> float:
    """Standard error of an AUROC for that many images (Hanley and McNeil 1982)."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (bad - 1) * (q1 - area**2) + (good - 1) * (q2 - area**2)
    return math.sqrt(max(variance, 0.0) / (good * bad))


def _smoke(run: Run) -> str | None:
    for tag in ("smoke", "overfit"):
        if run.choices.get("debug") == tag:
            return f"This run is a trial (debug={tag}): its settings are too cheap for its numbers to mean much."
    return None


def _few(run: Run) -> str | None:
    images = run.table("images")
    if images.empty:
        return None
    good, bad = (int((images["class"] == name).sum()) for name in ("good", "bad"))
    if not good or not bad or min(good, bad) >= FEW:
        return None
    return (
        f"Few images: with {good} good and {bad} bad ones an AUROC of 0.8 has a standard error of "
        f"{standard_error(0.8, good, bad):.3f}. Unpaired differences below twice that are noise."
    )


def _judge(run: Run) -> str | None:
    images = run.table("images")
    if images.empty or not (images["annotator"] == "judge").any():
        return None
    share = (images["annotator"] == "judge").mean()
    return (
        f"{share:.0%} of the labels come from the judge, a program. The probes learn what the judge calls bad; "
        f"images on "
        "which it abstained are not here, so the hardest hands are missing."
    )


def _balance(run: Run) -> str | None:
    images = run.table("images")
    if images.empty:
        return None
    good, bad = (int((images["class"] == name).sum()) for name in ("good", "bad"))
    if good and bad and max(good, bad) > 1.5 * min(good, bad):
        return (
            f"Unbalanced: {good} good against {bad} bad images. Token probes weigh the classes equally, and AUROC does "
            "not depend on their shares; the rarer class sets how much is known."
        )
    return None


def _size(run: Run) -> str | None:
    """Bad hands with more tokens than good ones: a probe could read the size instead of the fault."""
    images = run.table("images")
    if images.empty:
        return None
    hands = images.assign(tokens=images["good_tokens"] + images["bad_tokens"])
    good, bad = (hands.loc[hands["class"] == name, "tokens"].mean() for name in ("good", "bad"))
    if pd.notna(good) and pd.notna(bad) and max(good, bad) > 1.15 * min(good, bad):
        return (
            f"Bad hands cover {bad:.0f} tokens on average, good ones {good:.0f}: part of what is read out may be the "
            f"size "
            "of the hand. The control with token count and position alone says how much that gives."
        )
    return None


def _chance(run: Run) -> str | None:
    found = summary(run)
    p = found.get("best_p")
    if found.get("cells_found") != 0 or not isinstance(p, float):
        return None
    if any(passed(run).values()):
        return (
            f"The headline probe finds nothing (p = {p:.2g} for the best cell, against everything tested); what "
            "distances and directions find beside it does not say that good and bad images can be told apart."
        )
    return (
        f"No cell stands out from shuffled labels (p = {p:.2g} for the best one, against everything tested): all "
        "numbers below are compatible with chance."
    )


def _baseline(run: Run) -> str | None:
    """The latent itself may give as much as the blocks."""
    scores, plain = auroc(run), baselines(run)
    if scores.empty or plain.empty:
        return None
    best = scores.loc[scores["value"].idxmax()]
    rival = plain.loc[plain["value"].idxmax()]
    if rival["value"] >= best["lo"]:
        return (
            f"A baseline that needs no block, {rival['title']} ({rival['value']:.2f}), lies within the interval of "
            f"the best "
            f"cell ({best['value']:.2f} [{best['lo']:.2f}, {best['hi']:.2f}]): the blocks need not know more than "
            f"the latent."
        )
    return None


def _biased(run: Run) -> str | None:
    apart = distances(run)
    if apart.empty or "null" not in apart:
        return None
    share = (apart["null"] / apart["d_b"]).median()
    if share > 0.2:
        return (
            f"Plug-in D_B is mostly bias here: shuffled labels alone give {share:.0%} of it in the median cell. Read "
            f"the "
            "corrected values."
        )
    return None


def _unresolved(run: Run) -> str | None:
    resolved = rows(run, "cells", "v_resolved_raw", comparison="good_vs_bad")
    if resolved.empty or (resolved["value"] > 0).all():
        return None
    lost = int((resolved["value"] == 0).sum())
    return (
        f"In {lost} of {len(resolved)} cells the direction from bad to good is not resolved: its length is no more "
        f"than "
        "chance would give. No cosine is quoted for them, and nothing should be steered along them."
    )


RULES: tuple[Callable[[Run], str | None], ...] = (
    _smoke, _few, _judge, _balance, _size, _chance, _baseline, _biased, _unresolved,
)  # fmt: skip
