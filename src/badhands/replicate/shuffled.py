"""Whole studies in which nothing is to be found: labels exchanged inside strata, then the run's own gate is asked."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from badhands.measures.distances import Distances, sums_of
from badhands.measures.headline import score_cells
from badhands.measures.lengths import Lengths
from badhands.measures.moments import Moments, stream_moments
from badhands.measures.plan import Plan, make_plan
from badhands.measures.settings import MeasureConfig
from badhands.measures.stage import TESTED, family_of
from badhands.stats.design import permuted
from badhands.stats.family import ALPHA
from badhands.stats.long_table import LongTable
from badhands.study.activations import ActivationCache, TokenTable
from badhands.study.classes import BAD, GOOD
from badhands.study.selection import design_of

Subsample = Callable[[int, int], ActivationCache]
"""(images, seed) -> that many of a study's images, half good and half bad."""


def relabelled(cache: ActivationCache, label: np.ndarray) -> ActivationCache:
    """The same activations with other token classes uint8[n], and no kinds of error."""
    other = ActivationCache(cache.folder, cache.images)
    other.cells = cache.cells
    other.tokens = TokenTable(cache.tokens.image, cache.tokens.token, label, np.zeros_like(cache.tokens.kind))
    return other


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
    return relabelled(cache, label)


def moments_of(cache: ActivationCache, path: Path) -> Moments:
    """The sums that every shuffled study of these images shares, kinds of error left out; written to `path`."""
    plain = relabelled(cache, cache.tokens.label)
    return _moments(plain, make_plan(plain, replace(MeasureConfig(), contrasts=TESTED)), path)


def findings_of(
    cache: ActivationCache,
    strata: Mapping[str, str] | None,
    folder: Path,
    seed: int = 0,
    permutations: int = 1000,
    moments: Moments | None = None,
) -> dict[str, int]:
    """How many cells of each tested group pass the gate of a run on this cache; verdicts are asked only if some do.

    Args:
        folder: for the moments, which are written and removed.
        moments: of the same images under other labels (`moments_of`), so that no activation is read again.
    """
    plan = make_plan(
        cache,
        replace(MeasureConfig(), contrasts=TESTED),
        design=design_of(cache, strata, seed=seed, permutations=permutations),
    )
    if moments is not None:
        return _findings(plan, moments.grouped(plan.groups))
    path = folder / f"null-{seed}.npz"
    try:
        return _findings(plan, _moments(cache, plan, path))
    finally:
        path.unlink(missing_ok=True)


def _findings(plan: Plan, moments: Moments) -> dict[str, int]:
    table = LongTable({})
    distances = {contrast.name: Distances(contrast, plan.design, table) for contrast in plan.contrasts}
    lengths = {plan.main.name: Lengths(plan.main, plan.design, table)}
    for cell in plan.blocks:
        for contrast in plan.contrasts:
            sums = sums_of(moments, contrast, cell)
            distances[contrast.name].test(cell, sums)
            if contrast is plan.main:
                lengths[contrast.name].test(cell, sums)
    family = family_of(plan, score_cells(plan, moments, plan.blocks, influences=0), distances, lengths)
    return {group: len(cells) for group, cells in family.found().items()}


def _moments(cache: ActivationCache, plan: Plan, path: Path) -> Moments:
    return stream_moments(
        lambda image, cell, out: cache.files[image].read_into(str(cell), out),
        cache.tokens.image,
        plan.groups,
        {cell: (cache.width(cell), cache.files[0].dtype(cell)) for cell in plan.blocks},
        path,
    )


def told(found: list[int]) -> str:
    """One line: in how many of the shuffled studies something was found, with the 95 % interval of that share."""
    hits, runs = sum(count > 0 for count in found), len(found)
    share = binomtest(hits, runs).proportion_ci(method="wilson")
    verdict = "holds" if share.low <= ALPHA else "is broken"
    return (
        f"{hits} of {runs} shuffled studies claim a finding: {hits / runs:.1%} [{share.low:.1%}, {share.high:.1%}]; "
        f"the gate of {ALPHA:.0%} {verdict}"
    )
