"""Whole studies in which nothing is to be found: labels exchanged inside strata, then the run's own gate is asked."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from badhands.measures.distances import Distances, sums_of
from badhands.measures.headline import score_cells
from badhands.measures.lengths import Lengths
from badhands.measures.moments import stream_moments
from badhands.measures.plan import make_plan
from badhands.measures.settings import MeasureConfig
from badhands.measures.stage import family_of
from badhands.stats.design import permuted
from badhands.stats.family import ALPHA
from badhands.stats.long_table import LongTable
from badhands.study.activations import ActivationCache, TokenTable
from badhands.study.classes import BAD, GOOD
from badhands.study.selection import design_of

Subsample = Callable[[int, int], ActivationCache]
"""(images, seed) -> that many of a study's images, half good and half bad."""

CONTRASTS = ("good_vs_bad", "not_hand")
"""What the gate tests; kinds of error have no part in it."""


def shuffled(cache: ActivationCache, strata: Mapping[str, str] | None, seed: int) -> ActivationCache:
    """The same activations with the classes of images exchanged inside strata: a bad image's tokens become good."""
    design = design_of(cache, strata)
    drawn = permuted(design.good, design.stratum[design.known], 1, seed)[0]
    turned = np.zeros(len(cache.images), bool)
    turned[design.known] = drawn != design.good
    label = cache.tokens.label.copy()
    rows = turned[cache.tokens.image]
    label[rows & (cache.tokens.label == GOOD)] = BAD
    label[rows & (cache.tokens.label == BAD)] = GOOD
    other = ActivationCache(cache.folder, cache.images)
    other.cells = cache.cells
    other.tokens = TokenTable(cache.tokens.image, cache.tokens.token, label, np.zeros_like(cache.tokens.kind))
    return other


def findings_of(
    cache: ActivationCache, strata: Mapping[str, str] | None, folder: Path, seed: int = 0, permutations: int = 1000
) -> dict[str, int]:
    """How many cells of each tested group pass the gate of a run on this cache; verdicts are asked only if some do.

    Args:
        folder: for the moments, which are written and removed.
    """
    config = replace(MeasureConfig(), contrasts=CONTRASTS)
    design = design_of(cache, strata, seed=seed, permutations=permutations)
    plan = make_plan(cache, config, design=design)
    path = folder / f"null-{seed}.npz"
    moments = stream_moments(
        lambda image, cell, out: cache.files[image].read_into(str(cell), out),
        cache.tokens.image,
        plan.groups,
        {cell: (cache.width(cell), cache.files[0].dtype(cell)) for cell in plan.cells},
        path,
    )
    try:
        table = LongTable(cache.steps)
        distances = {contrast.name: Distances(contrast, plan.design, table) for contrast in plan.contrasts}
        lengths = {contrast.name: Lengths(contrast, plan.design, table) for contrast in plan.contrasts}
        for cell in plan.cells:
            for contrast in plan.contrasts:
                sums = sums_of(moments, contrast, cell)
                distances[contrast.name].add(cell, sums)
                lengths[contrast.name].add(cell, sums)
        family = family_of(plan, score_cells(plan, moments), distances, lengths)
    finally:
        path.unlink(missing_ok=True)
    return {group: len(cells) for group, cells in family.found().items()}


def told(found: list[int]) -> str:
    """One line: in how many of the shuffled studies something was found, with the 95 % interval of that share."""
    hits, runs = sum(count > 0 for count in found), len(found)
    share = binomtest(hits, runs).proportion_ci(method="wilson")
    verdict = "holds" if share.low <= ALPHA else "is broken"
    return (
        f"{hits} of {runs} shuffled studies claim a finding: {hits / runs:.1%} [{share.low:.1%}, {share.high:.1%}]; "
        f"the gate of {ALPHA:.0%} {verdict}"
    )
