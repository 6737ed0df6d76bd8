"""From banks to the artefact: readouts, steering vectors, abort thresholds and the card."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from badhands.cells import Cell
from badhands.probes.artifact import Probes
from badhands.probes.bank import ProbeBank
from badhands.probes.data import ProbeData
from badhands.probes.image_means import ImageMeans
from badhands.probes.nested import fit_platt
from badhands.probes.readout import Readout
from badhands.stats.ridge import ridge_weights

LOSSES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Shares of good images that an abort threshold may cost."""


def to_probes(
    data: ProbeData, banks: list[ProbeBank], vectors: "Vectors", card: Mapping[str, Any], scores: pd.DataFrame
) -> Probes:
    """The models that were fitted on all images; calibration and thresholds come from held-out scores."""
    keep = (scores["head"] == "good") & (scores["control"] == "none") & (scores["split"] == "out_of_fold")
    headline = scores.loc[keep & (scores["metric"] == "token_auroc")]
    numbers: dict[str, dict[str, float]] = {}
    for block, timestep, metric, value in headline[["block", "timestep", "metric", "value"]].itertuples(index=False):
        numbers.setdefault(f"{block}/t{timestep}", {})[metric] = round(float(value), 4)
    for cell in data.cells:
        value = data.headline.value[data.headline.names.index(str(cell))]
        numbers.setdefault(str(cell), {})["image_auroc"] = round(float(value), 4)
    tokens = {(bank.trained_on.head, cell): bank.readout(cell) for bank in banks for cell in bank.cells}
    return Probes(
        readouts=tokens | vectors.images,
        directions=vectors.directions,
        midpoints=vectors.midpoints,
        steps={t: (step, sigma, t + step) for t, (step, sigma) in data.cache.steps.items()},
        thresholds={cell: thresholds(data, cell) for cell in data.cells},
        random_directions=vectors.random,
        card={
            **card,
            "probe": data.settings.kind,
            "settings": {k: list(v) if isinstance(v, tuple) else v for k, v in vars(data.settings).items()},
            "images": {"good": int((data.image_label == 1).sum()), "bad": int((data.image_label == 0).sum())},
            "scores": numbers,
            "converged": {bank.trained_on.head: bool(bank.converged.all()) for bank in banks},
            "calibration": "Platt on held-out logits, for equal classes; P(bad) is moved to bad_rate by Bayes' rule",
            "thresholds_are": "held-out scores of the image head over labelled tokens; key: share of good images below",
            "date": datetime.date.today().isoformat(),
        },
    )


@dataclass
class Vectors:
    """What the artefact takes from the tokens' means, cell by cell."""

    directions: dict[Cell, Tensor] = field(default_factory=dict)
    midpoints: dict[Cell, Tensor] = field(default_factory=dict)
    random: dict[Cell, Tensor] = field(default_factory=dict)
    images: dict[tuple[str, Cell], Readout] = field(default_factory=dict)
    """Readouts of the head `image`."""

    def add(self, data: ProbeData, means: ImageMeans) -> None:
        for c, cell in enumerate(means.cells):
            bad_mean, good_mean = means.class_mean[c]
            direction = good_mean - bad_mean
            draws = means.draws[c]
            self.directions[cell], self.midpoints[cell] = direction, (good_mean + bad_mean) / 2
            self.random[cell] = draws * (direction.norm() / draws.norm(dim=1, keepdim=True).clamp(min=1e-12))
            self.images["image", cell] = image_readout(data, means, cell)


def image_readout(data: ProbeData, means: ImageMeans, cell: Cell) -> Readout:
    """The headline's ridge, fitted on all labelled images, as a readout of raw activations.

    Its logit of the mean hand token is the ridge's score (labels +1 good, -1 bad); Platt's fit is on held-out scores.
    """
    c, known = means.cells.index(cell), data.design.known
    centre = means.mean[c, known].mean(0)
    variance = means.square[c, known].mean(0) - centre.square()
    scale = torch.where(variance > 1e-9, variance.clamp(min=1e-9).sqrt(), torch.inf)
    y = torch.from_numpy(np.where(data.design.good, 1.0, -1.0)).float()
    weight = ridge_weights((means.mean[c, known] - centre) / scale, y) / scale
    bias = float(y.mean() - weight @ (means.pivot[c] + centre))
    return Readout(weight, bias, image_platt(data, cell))


def image_platt(data: ProbeData, cell: Cell) -> tuple[float, float]:
    """Slope and offset that make held-out image scores probabilities of good, both classes counting the same."""
    good = torch.from_numpy(data.design.good)
    weight = torch.where(good, 0.5 / good.double().mean(), 0.5 / (~good).double().mean())
    return fit_platt(torch.from_numpy(held_out(data, cell)), good.double(), weight)


def held_out(data: ProbeData, cell: Cell) -> np.ndarray:
    """float64[m]: held-out scores of the labelled images, mean over fold draws."""
    return data.headline.score[data.headline.names.index(str(cell))].astype(np.float64).mean(0)


def thresholds(data: ProbeData, cell: Cell) -> dict[float, float]:
    """{share of good images that would be stopped: image score}."""
    of_good = held_out(data, cell)[data.design.good]
    # method="lower": at most the stated share lies strictly below the threshold
    return {loss: float(np.quantile(of_good, loss, method="lower")) for loss in LOSSES}
