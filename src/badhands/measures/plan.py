"""What is measured against what, decided (and refused) before any work starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from badhands.cells import PSEUDO_BLOCKS, Cell, in_order
from badhands.measures.contrasts import HAND, Contrast, check_counts, make_contrast
from badhands.measures.moments import Groups
from badhands.measures.settings import MeasureConfig
from badhands.stats.design import Design
from badhands.study.activations import ActivationCache
from badhands.study.classes import NOT_HAND
from badhands.study.selection import design_of


@dataclass(frozen=True, eq=False)
class Plan:
    """The groups of tokens, the contrasts that have enough images, and the folds of all cells."""

    cells: tuple[Cell, ...]
    groups: Groups
    contrasts: tuple[Contrast, ...]
    """good_vs_bad comes first."""
    left_out: tuple[str, ...]
    """A sentence for each contrast with too few images."""
    design: Design

    @property
    def blocks(self) -> tuple[Cell, ...]:
        """The cells that are blocks of the transformer, not the latents beside them."""
        return tuple(cell for cell in self.cells if cell.block not in PSEUDO_BLOCKS)

    @property
    def main(self) -> Contrast:
        return self.contrasts[0]

    def unmeasured(self) -> list[dict[str, object]]:
        """Rows of tables/verdicts.csv: the sentences of `left_out`."""
        return [{"verdict": "left_out", "what": sentence} for sentence in self.left_out]

    def folds_of(self, contrast: Contrast) -> np.ndarray:
        """int32[J], fold of each image of a contrast."""
        return self.design.base[contrast.images]


def make_plan(
    cache: ActivationCache,
    config: MeasureConfig,
    cells: Sequence[Cell] | None = None,
    label_digests: Mapping[str, str] | None = None,
    design: Design | None = None,
) -> Plan:
    """Check everything that a user can have got wrong. Without a design, one with unmatched labels is made.

    Raises:
        ValueError: a cell that some images lack, labels changed since extraction, one class only, fewer than
            `config.fewest` images a class, too few prompts for the folds.
    """
    chosen = _cells(cache, cells)
    _check_labels(cache, label_digests or {})
    tokens = cache.tokens
    groups = Groups.of(tokens.image, tokens.label, tokens.kind, (*HAND, NOT_HAND))
    found, left_out = [], []
    for name in sorted(config.contrasts, key=lambda name: name != "good_vs_bad"):
        one = make_contrast(groups, name, len(cache.images), config.weighting)
        if name == "good_vs_bad":
            check_counts(one, config.fewest)
        elif min(one.counts) < config.fewest:
            left_out.append(
                f"{name.replace('_', ' ')}: {one.counts[0]} good and {one.counts[1]} other images, not measured."
            )
            continue
        found.append(one)
    design = design or design_of(cache)
    for one in list(found[1:]):
        if not _every_fold_can_be_left_out(one, design.base[one.images]):
            found.remove(one)
            left_out.append(f"{one.name.replace('_', ' ')}: its images lie in too few folds, not measured.")
    return Plan(chosen, groups, tuple(found), tuple(left_out), design)


def _cells(cache: ActivationCache, cells: Sequence[Cell] | None) -> tuple[Cell, ...]:
    if cells is None:
        if not cache.cells:
            raise ValueError(
                f"no cell is in every image of {cache.folder}: run extract.py again, it adds what is missing"
            )
        return cache.cells
    for cell in in_order(cells):
        if cell in cache.missing:
            lacking = cache.missing[cell]
            raise ValueError(
                f"{cell} is missing from {len(lacking)} of {len(cache.images)} images ({lacking[0]} ...): "
                "run extract.py again, it adds what is missing"
            )
        if cell not in cache.cells:
            raise ValueError(f"{cell} was not extracted: add it to the capture and run extract.py again")
    return in_order(cells)


def _check_labels(cache: ActivationCache, digests: Mapping[str, str]) -> None:
    changed = [
        info.id
        for info, meta in zip(cache.images, cache.meta, strict=True)
        if info.id in digests and digests[info.id] != meta.get("label_digest")
    ]
    if changed:
        raise ValueError(
            f"the labels of {len(changed)} images ({changed[0]} ...) have changed since their activations were "
            "extracted: run extract.py again"
        )


def _every_fold_can_be_left_out(contrast: Contrast, fold: np.ndarray) -> bool:
    return all(
        (side & (fold[contrast.image] != f)).sum() >= 2
        for f in np.unique(fold)
        for side in (contrast.good, ~contrast.good)
    )
