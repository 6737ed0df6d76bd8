"""From banks to the artefact: readouts, steering vectors, abort thresholds and the card."""

import datetime
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from badhands.probes.artifact import Probes
from badhands.probes.bank import ProbeBank
from badhands.probes.data import ProbeData
from badhands.probes.image_means import ImageMeans
from badhands.probes.scores import mean_pool
from badhands.stats.folds import GOOD_IMAGE

LOSSES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Shares of good images that an abort threshold may cost."""


def to_probes(
    data: ProbeData, banks: list[ProbeBank], means: ImageMeans, card: Mapping[str, Any], scores: pd.DataFrame
) -> Probes:
    """The models that were fitted on all images; thresholds come from out-of-fold scores of good images."""
    good = next(bank for bank in banks if bank.task.head == "good")
    directions, midpoints, random = {}, {}, {}
    for c, cell in enumerate(means.cells):
        bad_mean, good_mean = means.class_mean[c]
        directions[cell] = good_mean - bad_mean
        midpoints[cell] = (good_mean + bad_mean) / 2
        draws = means.draws[c]
        random[cell] = draws * (directions[cell].norm() / draws.norm(dim=1, keepdim=True).clamp(min=1e-12))
    keep = (scores["head"] == "good") & (scores["control"] == "none") & (scores["split"] == "out_of_fold")
    headline = scores.loc[keep & scores["metric"].isin(["image_auroc", "token_auroc"])]
    numbers: dict[str, dict[str, float]] = {}
    for block, timestep, metric, value in headline[["block", "timestep", "metric", "value"]].itertuples(index=False):
        numbers.setdefault(f"{block}/t{timestep}", {})[metric] = round(float(value), 4)
    return Probes(
        readouts={(bank.task.head, cell): bank.readout(cell) for bank in banks for cell in bank.cells},
        directions=directions,
        means=midpoints,
        steps={t: (step, sigma, t + step) for t, (step, sigma) in data.cache.steps.items()},
        thresholds=thresholds(data, good),
        random_directions=random,
        card={
            **card,
            "probe": data.settings.kind,
            "settings": {k: list(v) if isinstance(v, tuple) else v for k, v in vars(data.settings).items()},
            "images": {"good": int((data.image_label == 1).sum()), "bad": int((data.image_label == 0).sum())},
            "scores": numbers,
            "converged": {bank.task.head: bool(bank.converged.all()) for bank in banks},
            "calibration": "Platt on out-of-fold logits; P(hand) for whole pictures, P(bad) for the study's classes",
            "thresholds_are": "image scores over labelled hand tokens, out of fold; key: share of good images below",
            "date": datetime.date.today().isoformat(),
        },
    )


def thresholds(data: ProbeData, bank: ProbeBank) -> dict:
    """cell -> {share of good images that would be stopped -> image score}."""
    found = {}
    for cell, logit in zip(bank.cells, bank.logit.double().numpy(), strict=True):
        score = mean_pool(logit, bank.task.image, len(data.image_label))
        of_good = score[(data.image_label == GOOD_IMAGE) & np.isfinite(score)]
        # method="lower": at most the stated share lies strictly below the threshold
        found[cell] = {loss: float(np.quantile(of_good, loss, method="lower")) for loss in LOSSES}
    return found
