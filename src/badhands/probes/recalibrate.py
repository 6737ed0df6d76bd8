"""Probes moved to where they are used: another kernel or precision shifts every logit of a cell a little."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from badhands.cells import Cell
from badhands.probes.artifact import Probes

LEAST = 4
"""Fewer labelled samples of either class say too little about a shift."""


def recalibrate(probes: Probes, scores: Mapping[str, Mapping[Cell, Sequence[float]]], good: Sequence[bool]) -> Probes:
    """The same probes with one constant added to the calibrated logit of each head and cell.

    The constant is the one for which the mean probability over the samples equals their share of good hands (the
    maximum-likelihood intercept with the slope kept). Thresholds move with it, so that they mean the same probability.
    P(bad) is then calibrated to the share of bad hands among these samples.

    Args:
        scores: head (good, image) -> cell -> mean logit of each sample's hand tokens; nan where no hand was found.
        good: what a person said of each sample.

    Raises:
        ValueError: fewer than `LEAST` good or bad samples with a score in a cell.
    """
    readouts, thresholds = dict(probes.readouts), {cell: dict(of) for cell, of in probes.thresholds.items()}
    verdict = np.asarray(good, bool)
    at_half = probes.at_rate(0.5)
    for head, of in scores.items():
        for cell, values in of.items():
            score = np.asarray(values, float)
            known = np.isfinite(score)
            counts = int(verdict[known].sum()), int((~verdict[known]).sum())
            if min(counts) < LEAST:
                said = f"{counts[0]} good and {counts[1]} bad samples have a score at {cell}"
                raise ValueError(f"{said}: label {LEAST} of each or more")
            readout = probes.readout(head, cell)
            slope, offset = readout.platt
            shift = intercept(slope * score[known] + offset, verdict[known])
            readouts[head, cell] = replace(readout, platt=(slope, offset + shift))
            if head == probes.image_head and slope > 0:
                thresholds[cell] = {share: t - shift / slope for share, t in thresholds.get(cell, {}).items()}
    return replace(at_half, readouts=readouts, thresholds=thresholds)


def intercept(logit: np.ndarray, good: np.ndarray) -> float:
    """The constant c with mean sigmoid(logit + c) = mean(good): the likelihood's stationary point in the intercept."""
    wide = float(np.abs(logit).max()) + 30.0
    root: Any = brentq(lambda c: expit(logit + c).mean() - good.mean(), -wide, wide)
    return float(root)
