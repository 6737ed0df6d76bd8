"""only=steer: does adding a * (mean of good - mean of bad) make better hands? The same pairs for every push.

It is called an effect only if the response to the strength is monotone, the opposite sign does the opposite, and the
direction does more than random ones of the same length drawn from the within-class covariance. A negative result is
written down like any other.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest, wilcoxon

from badhands.diffusion.models import ModelSpec
from badhands.diffusion.scene import Scene
from badhands.experiments.referee import made_with, referee
from badhands.experiments.steer_figure import draw_doses
from badhands.experiments.steer_table import NAME, Push, fill_pushes
from badhands.probes.artifact import Probes
from badhands.watch.fresh import FIRST_SEED, fresh_pairs
from badhands.watch.settings import PolicyChoice

RESAMPLES = 2000


@dataclass(frozen=True)
class SteerStudy:
    """How large, and where to push."""

    images: int = 48
    strengths: tuple[float, ...] = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
    random: int = 20
    choice: PolicyChoice = field(default_factory=PolicyChoice)

    def __post_init__(self) -> None:
        if self.images < 8 or self.random < 1:
            raise ValueError("steer needs images >= 8 and random >= 1 (20 for evidence)")
        if not {-1.0, 0.0, 1.0} <= {float(a) for a in self.strengths}:
            raise ValueError("steer.strengths must hold -1, 0 and 1: the opposite sign, the identity, the push")

    def run(
        self, spec: ModelSpec, probes: Probes, source: str, folder: Path, *, known: Collection[str] = (),
        pipe: Any = None, judge: Any = None,
    ) -> str:  # fmt: skip
        """Draw, judge, test; writes pushes.jsonl, doses.csv, doses.png, report.txt.

        Args:
            source, known: see `fresh_pairs`.

        Raises:
            ValueError: no judge for this size, too few random directions, a folder with other pushes.
        """
        judge = judge or referee(spec)
        cells = self.choice.cells(probes)
        pushes = [Push(float(a)) for a in sorted(self.strengths)] + [Push(1.0, k) for k in range(self.random)]
        pairs = fresh_pairs(source, self.images, known=known, first_seed=2 * FIRST_SEED, shuffle=2)
        scene = Scene(spec, [pair.prompt for pair in pairs], pipe)
        where = self.choice.where
        said = {**made_with(spec, probes, pairs, source), "cells": [str(cell) for cell in cells], "where": where}
        rows = pd.DataFrame(fill_pushes(folder / NAME, pairs, pushes, cells, where, scene, probes, judge, said))
        table = doses(rows)
        table.to_csv(folder / "doses.csv", index=False)
        draw_doses(table, folder / "doses.png")
        text = tell(rows, table) + f"Pushed at {', '.join(map(str, cells))}, {where} tokens.\n{folder}\n"
        (folder / "report.txt").write_text(text)
        return text


def doses(rows: pd.DataFrame) -> pd.DataFrame:
    """One line a push, paired with the plain pictures of the same pairs.

    `shift`: mean change of the judge's logit of a good hand, with a 95 % interval over pairs and the Wilcoxon p;
    `better`, `worse`: pairs whose verdict became good or ceased to be, with the exact sign test's p; `outside`: mean
    absolute change of pixels outside the hand, 0..255; `relative_length`: |delta| / |h|.
    """
    plain = rows[rows["push"] == "plain"].set_index("seed")
    rng = np.random.default_rng(0)
    lines = []
    for name, part in rows[rows["push"] != "plain"].groupby("push", sort=False):
        part = part.set_index("seed").loc[plain.index]
        shift = (part["logit"] - plain["logit"]).to_numpy(float)
        drawn = shift[rng.integers(len(shift), size=(RESAMPLES, len(shift)))].mean(1)
        was, now = (plain["verdict"] == "good").to_numpy(), (part["verdict"] == "good").to_numpy()
        better, worse = int((now & ~was).sum()), int((was & ~now).sum())
        lines.append({
            "push": name, "strength": part["strength"].iloc[0], "random": part["random"].iloc[0], "n": len(part),
            "good_rate": now.mean(), "plain_good_rate": was.mean(), "shift": shift.mean(),
            "lo": np.quantile(drawn, 0.025), "hi": np.quantile(drawn, 0.975),
            "wilcoxon_p": paired_p(shift),
            "better": better, "worse": worse,
            "sign_p": float(binomtest(better, better + worse).pvalue) if better + worse else 1.0,
            "no_hand": float((part["verdict"] == "no_hand").mean()), "outside": part["outside"].mean(),
            "inside": part["inside"].mean(), "relative_length": part["relative_length"].mean(),
            "all_equal": bool(part["equal"].all()),
        })  # fmt: skip
    return pd.DataFrame(lines)


def paired_p(change: np.ndarray) -> float:
    """Wilcoxon's signed-rank test of float[n pairs] against no change; 1 where nothing changed."""
    if not np.any(change != 0):
        return 1.0
    result: Any = wilcoxon(change)
    return float(result.pvalue)


def verdict(rows: pd.DataFrame, table: pd.DataFrame) -> dict[str, Any]:
    """The four questions: monotone, opposite, more than random, and what it did elsewhere."""
    real = table[table["random"].isna()].sort_values("strength")
    random = table[table["random"].notna()]
    own = rows[rows["random"].isna() & (rows["push"] != "plain")]
    slopes = [
        float(part["strength"].corr(part["logit"], method="spearman")) if part["logit"].nunique() > 1 else 0.0
        for _, part in own.groupby("seed")
    ]
    push, pull = (real[real["strength"] == a].iloc[0] for a in (1.0, -1.0))
    reached = int((random["shift"] >= push["shift"]).sum())
    found: dict[str, Any] = {
        "monotone": bool(np.all(np.diff(real["shift"]) >= 0)),
        "rank_correlation": float(np.mean(slopes)),
        "rank_correlation_p": paired_p(np.array(slopes)),
        "opposite": bool(push["shift"] > 0 > pull["shift"]),
        "p_random": (1 + reached) / (1 + len(random)), "random": len(random),
        "paired_p": float(push["wilcoxon_p"]),
    }  # fmt: skip
    found["effect"] = bool(
        found["monotone"] and found["opposite"] and found["p_random"] <= 0.05 and found["paired_p"] <= 0.05
    )
    return found


def tell(rows: pd.DataFrame, table: pd.DataFrame) -> str:
    """The result in words."""
    found = verdict(rows, table)
    real = table[table["random"].isna()].sort_values("strength")
    zero = real[real["strength"] == 0].iloc[0]
    push = real[real["strength"] == 1].iloc[0]
    records = real.to_dict("records")
    lines = [
        "Strength 0 gives the identical pictures." if zero["all_equal"] else "STRENGTH 0 CHANGED PICTURES: a fault.",
        *(f"strength {row['strength']:+g}: shift of the judge's logit {row['shift']:+.3f} [{row['lo']:+.3f}, "
          f"{row['hi']:+.3f}], good {row['good_rate']:.0%} (plain {row['plain_good_rate']:.0%}; {row['better']} became "
          f"good, {row['worse']} ceased to be, p = {row['sign_p']:.3f}), no hand {row['no_hand']:.0%}, outside the "
          f"hand {row['outside']:.2f}/255, |delta|/|h| {row['relative_length']:.2f}" for row in records),
        f"Monotone: {'yes' if found['monotone'] else 'no'} (mean rank correlation {found['rank_correlation']:+.2f}, "
        f"p = {found['rank_correlation_p']:.3g}). "
        f"Opposite sign, opposite effect: {'yes' if found['opposite'] else 'no'}. "
        f"Against {found['random']} random directions of the same length: p = {found['p_random']:.3f}. "
        f"Paired test at +1: p = {found['paired_p']:.3g}, n = {push['n']} pairs.",
        "Steering has the wanted effect by all four criteria." if found["effect"] else
        "By these criteria steering is NOT shown to make better hands.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
