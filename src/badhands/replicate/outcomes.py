"""Test every claim of a lock once on another study: frozen probes, no fit, no choice, DeLong's interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from badhands.cells import Cell
from badhands.probes.artifact import Probes
from badhands.replicate.lock import Claim, Lock
from badhands.stats.auroc import auroc, placements
from badhands.stats.folds import GOOD_IMAGE, image_labels
from badhands.stats.intervals import auroc_interval, standard_error
from badhands.study.activations import ActivationCache
from badhands.study.choice import LabelChoice, read_choice
from badhands.study.classes import BAD, GOOD
from badhands.study.selection import refuse_copies
from badhands.study.study import Study


@dataclass(frozen=True)
class Outcome:
    """What became of one claim on study B."""

    claim: Claim
    value: float
    lo: float
    hi: float
    n: int

    @property
    def confirmed(self) -> bool:
        return self.lo > self.claim.above

    @property
    def row(self) -> dict[str, Any]:
        cell = Cell.parse(self.claim.cell)
        said = "confirmed" if self.confirmed else "not confirmed"
        return {
            "block": cell.block, "timestep": cell.timestep, "sentence": self.claim.sentence, "above": self.claim.above,
            "value": self.value, "lo": self.lo, "hi": self.hi, "n": self.n, "outcome": said,
        }  # fmt: skip


def replicate(lock: Lock, probes: Probes, study: Study, fingerprint: str | None = None) -> list[Outcome]:
    """The claims of `lock` on study B, in the lock's order.

    Raises:
        ValueError: B shares seeds with A, was labelled or balanced by another rule, was made by another model, lacks a
            cell, holds copies, or its labels have changed since extraction.
    """
    rule = LabelChoice(**{**lock.labels, "match": tuple(lock.labels["match"])})
    choice = read_choice(study.root, rule)
    if changed := study.relabelled(choice):
        raise ValueError(
            f"{len(changed)} labels of study {study.name} have changed since extraction ({', '.join(changed[:3])} "
            "...): run extract.py again"
        )
    cache = study.activations(fingerprint, choice)
    refuse_copies(cache)
    if cache.folder.name != probes.fingerprint:
        raise ValueError(
            f"study {study.name} was generated with fingerprint {cache.folder.name}, the lock's probes belong to "
            f"{probes.fingerprint}: replicate with images of the same model and settings"
        )
    shared = {info.seed for info in cache.images} & set(lock.seeds)
    if shared:
        raise ValueError(
            f"study {study.name} shares {len(shared)} seeds with study {lock.study}, e.g. {min(shared)}: a replication "
            "needs fresh images, make them with seeds= above"
        )
    return [_test(claim, probes, cache) for claim in lock.claims]


def _test(claim: Claim, probes: Probes, cache: ActivationCache) -> Outcome:
    cell = Cell.parse(claim.cell)
    score = image_scores(probes, cache, cell)
    label = image_labels(cache.tokens.image, cache.tokens.label, len(cache.images))
    known = np.flatnonzero(label >= 0)
    good = label[known] == GOOD_IMAGE
    value, lo, hi = frozen_auroc(score[known], good, [cache.images[i].prompt for i in known])
    return Outcome(claim, value, lo, hi, len(known))


def frozen_auroc(
    score: NDArray[np.float64], good: NDArray[np.bool_], prompts: Sequence[str]
) -> tuple[float, float, float]:
    """AUROC of scores float[n] that owe nothing to these images, with DeLong's interval over prompts.

    Images of one prompt are not independent; the fewer prompts, the wider. With one prompt the interval is over its
    images and speaks of that prompt alone.
    """
    cluster = np.unique(np.asarray(prompts), return_inverse=True)[1].reshape(-1).astype(np.int64)
    if not cluster.any():
        cluster = np.arange(len(good))
    value = float(auroc(score, good))
    error = float(standard_error(placements(score, good), cluster))
    return value, *auroc_interval(value, error, good, units=int(cluster.max()) + 1)


def image_scores(probes: Probes, cache: ActivationCache, cell: Cell) -> NDArray[np.float64]:
    """float64[images]: the frozen probe's logit of the mean hand token; nan for images without one.

    Raises:
        ValueError: the study has no activations of the cell.
    """
    hand = np.flatnonzero(np.isin(cache.tokens.label, (GOOD, BAD)))
    image = cache.tokens.image[hand]
    logit = probes.logit(probes.image_head, cell, cache.read(cell, hand)).double().numpy()
    count = np.bincount(image, minlength=len(cache.images))
    with np.errstate(invalid="ignore"):
        return np.bincount(image, logit, minlength=len(cache.images)) / np.where(count, count, np.nan)


def told(lock: Lock, outcomes: list[Outcome], study: Study, tested: Sequence[str] = ()) -> str:
    """The outcomes as text. `tested`: studies on which the lock has been tested so far (`record`)."""
    lines = [f"lock of study {lock.study} (run {lock.run}), tested once on study {study.name}:"]
    for outcome in outcomes:
        said = "CONFIRMED    " if outcome.confirmed else "not confirmed"
        lines.append(f"  {said}  {outcome.value:.3f} [{outcome.lo:.3f}, {outcome.hi:.3f}]  {outcome.claim.sentence}")
    if len(tested) > 1:
        lines.append(
            f"This lock has been tested on {len(tested)} studies ({', '.join(tested)}): a claim that is confirmed by "
            "one of several is not confirmed."
        )
    return "\n".join(lines)


def record(lock: Path, study: Study, outcomes: list[Outcome]) -> tuple[str, ...]:
    """Add the outcomes to `<lock>-tests.csv`, which forgets nothing; the names of all studies in it."""
    path = lock.with_name(f"{lock.stem}-tests.csv")
    rows = pd.DataFrame([{"study": study.name, **outcome.row} for outcome in outcomes])
    before = pd.read_csv(path) if path.is_file() else rows[:0]
    every = pd.concat([before[before["study"] != study.name], rows]) if len(before) else rows
    every.to_csv(path, index=False)
    return tuple(dict.fromkeys(every["study"].astype(str)))


def write_outcomes(outcomes: list[Outcome], path: Path, tested: Sequence[str] = ("",)) -> None:
    """replication.csv: the report of study A's run shows it. `tested`: as in `told`."""
    pd.DataFrame([{**outcome.row, "studies": len(tested)} for outcome in outcomes]).to_csv(path, index=False)
