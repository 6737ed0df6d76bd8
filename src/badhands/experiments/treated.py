"""The same fresh pairs drawn plainly and under each of several treatments, judged, and compared pair by pair."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from scipy.stats import binomtest, wilcoxon

from badhands.diffusion.scene import Pair
from badhands.experiments.rows import Artist, Row
from badhands.stats.intervals import mean_interval, quotient_interval

PLAIN = "plain"
MARGIN = 4
"""Pixels round the plain picture's hand that count as hand when damage outside of it is measured."""


class Treatment(Protocol):
    """One way to interfere with a generation. Picklable."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str:
        """Treatments of one kind differ in strength only; `random` is the control."""
        ...

    @property
    def strength(self) -> float: ...

    def applied(self, artist: Artist) -> AbstractContextManager[list[float]]:
        """While open, generations are treated; the list takes |change| / |activation|."""
        ...


@dataclass(frozen=True)
class DrawTreated:
    """Rows of a batch: for every pair the plain picture, then one for each treatment."""

    treatments: Sequence[Any]

    def __call__(self, artist: Artist, batch: Sequence[Pair]) -> Iterator[Row]:
        plain = _pictures(artist, batch)
        masks = [verdict.pixel_mask for verdict in artist.judge.judge(plain)]
        outside = [np.logical_not(binary_dilation(mask, iterations=MARGIN)) for mask in masks]
        about = {"treatment": PLAIN, "kind": PLAIN, "strength": 0.0}
        columns = [_rows(artist, batch, plain, plain, outside, about, [])]
        for treatment in self.treatments:
            with treatment.applied(artist) as lengths:
                pictures = _pictures(artist, batch)
            about = {"treatment": treatment.name, "kind": treatment.kind, "strength": treatment.strength}
            columns.append(_rows(artist, batch, pictures, plain, outside, about, lengths))
        for of_pair in zip(*columns, strict=True):
            yield from of_pair


def _pictures(artist: Artist, batch: Sequence[Pair]) -> NDArray[np.uint8]:
    scene = artist.scene
    return np.stack([np.asarray(picture) for picture in scene.pictures(scene.latents(batch))])


def _rows(
    artist: Artist, batch: Sequence[Pair], pictures: NDArray[np.uint8], plain: NDArray[np.uint8],
    outside: Sequence[NDArray[np.bool_]], about: Row, lengths: Sequence[float],
) -> list[Row]:  # fmt: skip
    logits, verdicts = artist.judge.logits(pictures), artist.judge.judge(pictures)
    finite = [x for x in lengths if np.isfinite(x)]
    rows = []
    for i, pair in enumerate(batch):
        change = np.abs(pictures[i].astype(float) - plain[i]).mean(-1)
        rows.append({
            "prompt": pair.prompt, "seed": pair.seed, **about, "verdict": verdicts[i].verdict,
            "logit": round(float(logits[i]), 5), "relative_length": float(np.mean(finite)) if finite else None,
            "outside": float(change[outside[i]].mean()) if outside[i].any() else 0.0,
            "inside": float(change[~outside[i]].mean()) if (~outside[i]).any() else 0.0,
            "equal": bool((pictures[i] == plain[i]).all()),
        })  # fmt: skip
    return rows


def effects(rows: pd.DataFrame) -> pd.DataFrame:
    """One line a treatment, paired with the plain pictures of the same prompts and seeds; intervals over prompts.

    `shift`: mean change of the judge's logit of a good hand, and the Wilcoxon p; `bad`, `not_good`: change of these
    rates; `better`, `worse`: verdicts that became good or ceased to be, with the exact sign test's p; `ratio`:
    evaluations per good hand over those of plain drawing; `outside`: mean absolute change of pixels outside the hand,
    0..255; `relative_length`: |change| / |activation|.
    """
    plain = rows[rows["treatment"] == PLAIN].set_index("seed")
    cluster = np.unique(plain["prompt"], return_inverse=True)[1].reshape(-1)
    was = plain["verdict"].to_numpy()
    lines = []
    for name, part in rows[rows["treatment"] != PLAIN].groupby("treatment", sort=False):
        part = part.set_index("seed").loc[plain.index]
        now, shift = part["verdict"].to_numpy(), (part["logit"] - plain["logit"]).to_numpy(float)
        better, worse = int(((now == "good") & (was != "good")).sum()), int(((was == "good") & (now != "good")).sum())
        line: Row = {"treatment": name, "kind": part["kind"].iloc[0], "strength": part["strength"].iloc[0],
                     "n": len(part), "prompts": int(cluster.max()) + 1}  # fmt: skip
        for key, values in (
            ("shift", shift),
            ("bad", (now == "bad").astype(float) - (was == "bad")),
            ("not_good", (now != "good").astype(float) - (was != "good")),
        ):
            line[key], line[f"{key}_lo"], line[f"{key}_hi"] = mean_interval(values, cluster)
        ratio = quotient_interval([(was == "good").astype(float), (now == "good").astype(float)], [1, -1], cluster)
        line["ratio"], line["ratio_lo"], line["ratio_hi"] = ratio
        lines.append(line | {
            "good_share": (now == "good").mean(), "plain_good_share": (was == "good").mean(),
            "bad_share": (now == "bad").mean(), "plain_bad_share": (was == "bad").mean(),
            "wilcoxon_p": paired_p(shift), "better": better, "worse": worse,
            "sign_p": float(binomtest(better, better + worse).pvalue) if better + worse else 1.0,
            "no_hand": float((now == "no_hand").mean()), "outside": part["outside"].mean(),
            "inside": part["inside"].mean(), "relative_length": part["relative_length"].mean(),
            "all_equal": bool(part["equal"].all()),
        })  # fmt: skip
    return pd.DataFrame(lines)


def paired_p(change: NDArray[np.float64]) -> float:
    """Wilcoxon's signed-rank test of float[n pairs] against no change; 1 where nothing changed."""
    if not np.any(change != 0):
        return 1.0
    result: Any = wilcoxon(change)
    return float(result.pvalue)


def p_against(value: float, random: NDArray[np.float64], *, two_sided: bool = False) -> float:
    """Share of random treatments that do as much, the observed one counted among them."""
    reached = np.abs(random) >= abs(value) if two_sided else random >= value
    return (1 + int(reached.sum())) / (1 + len(random))
