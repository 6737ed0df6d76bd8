"""only=ablation: does the rate of bad hands change when the model cannot represent the verdict?

Fitted on the hand tokens of the training study, every image counting once, so that image means of good and bad hands
coincide too. The control erases random subspaces of equal rank, drawn from the within-class covariance.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from badhands.cells import Cell, in_order
from badhands.experiments.bench import Bench
from badhands.experiments.erase import Erasure, Floats, leace
from badhands.experiments.treated import DrawTreated, effects, p_against
from badhands.experiments.treated_figures import draw_ablation
from badhands.probes.artifact import Probes
from badhands.stats.design import Design
from badhands.stats.headline import plain_features, score_labellings
from badhands.study.activations import ActivationCache
from badhands.study.classes import BAD, GOOD

VERDICT, RANDOM = "verdict", "random"


@dataclass(frozen=True)
class AblationStudy:
    """How large, and where to erase."""

    pairs: int = 128
    random: int = 20
    cells: tuple[str, ...] | None = None
    """None: every cell where the run knows the verdict."""
    where: Literal["hand", "all"] = "hand"

    def __post_init__(self) -> None:
        if self.pairs < 8 or self.random < 1:
            raise ValueError("ablation needs ablation.pairs >= 8 and ablation.random >= 1 (100 and 20 for evidence)")
        for cell in self.cells or ():
            Cell.parse(cell)


@dataclass(frozen=True, eq=False)
class HandTokens:
    """The labelled hand tokens of a study, and which images they belong to."""

    cache: ActivationCache
    rows: NDArray[np.intp]
    image: NDArray[np.int64]
    """[n], 0 .. images - 1."""
    good: NDArray[np.bool_]
    """[images]: no token of it is bad."""
    prompt: tuple[str, ...]
    """[images]"""

    @classmethod
    def of(cls, cache: ActivationCache) -> "HandTokens":
        tokens = cache.tokens
        rows = np.flatnonzero(np.isin(tokens.label, (GOOD, BAD)))
        present, image = np.unique(tokens.image[rows], return_inverse=True)
        image = image.reshape(-1).astype(np.int64)
        bad = np.bincount(image, tokens.label[rows] == BAD) > 0
        return cls(cache, rows, image, ~bad, tuple(cache.images[i].prompt for i in present))

    @property
    def weight(self) -> Floats:
        """[n]: every image counts once."""
        return 1.0 / np.bincount(self.image)[self.image]

    def read(self, cell: Cell) -> Floats:
        return self.cache.read(cell, self.rows).double().numpy()

    def means(self, x: Floats) -> Floats:
        """[images, d] of rows [n, d]."""
        out = np.zeros((len(self.good), x.shape[1]))
        np.add.at(out, self.image, x * self.weight[:, None])
        return out


def run_ablation(bench: Bench, study: AblationStudy) -> str:
    """Fit, draw, judge, test; writes ablation.jsonl, ablation.csv, ablation_left.csv, ablation.png.

    Raises:
        ValueError: no training run or study behind the probes, no cell, a folder with other erasures.
    """
    cells = tuple(map(Cell.parse, study.cells)) if study.cells else bench.run.known_cells()
    tokens = HandTokens.of(bench.run.cache())
    erasures = erase_all(tokens, bench.probes, cells, study)
    pairs = bench.pairs(study.pairs, 3)
    made_with = {"cells": [str(cell) for cell in cells], "erasures": [e.name for e in erasures], "where": study.where,
            "images": len(tokens.good)}  # fmt: skip
    rows = bench.fill("ablation", pairs, DrawTreated(erasures), made_with, "erased pairs", each=1 + len(erasures))
    table = effects(pd.DataFrame(rows))
    own, random = table[table["kind"] == VERDICT].iloc[0], table[table["kind"] == RANDOM]
    p = {key: p_against(float(own[key]), random[key].to_numpy(float), two_sided=True) for key in ("bad", "shift")}
    table["p_random"] = np.where(table["kind"] == VERDICT, p["bad"], np.nan)
    table["p_random_shift"] = np.where(table["kind"] == VERDICT, p["shift"], np.nan)
    left = what_is_left(tokens, cells)
    bench.write("ablation", table)
    bench.write("ablation_left", left)
    draw_ablation(table, left, bench.folder / "ablation.png")
    return (
        f"verdict erased at {len(cells)} cells, {study.where} tokens: bad {own['bad_share']:.0%} (plain "
        f"{own['plain_bad_share']:.0%}), change {own['bad']:+.3f} [{own['bad_lo']:+.3f}, {own['bad_hi']:+.3f}], "
        f"n = {own['n']} pairs; random subspaces: {random['bad'].min():+.3f} to {random['bad'].max():+.3f}, "
        f"p = {p['bad']:.3f}. A fresh probe on images that the eraser has not seen: AUROC "
        f"{left['before'].mean():.3f} before, {left['after'].mean():.3f} after (mean over cells)."
    )


def erase_all(tokens: HandTokens, probes: Probes, cells: tuple[Cell, ...], study: AblationStudy) -> list[Erasure]:
    """The erasure of the verdict, and those of the random subspaces: the same cells, rank, and way of erasing.

    Raises:
        ValueError: a cell that the study or the probes lack, or too few random directions in them.
    """
    by_name: dict[str, dict[Cell, object]] = {}
    for cell in cells:
        draws = probes.random_directions.get(cell)
        if draws is None or len(draws) < study.random:
            raise ValueError(f"these probes have {0 if draws is None else len(draws)} random directions for {cell}: "
                             f"ablation.random={study.random} needs as many")  # fmt: skip
        spread, eraser = leace(tokens.read(cell), tokens.good[tokens.image], tokens.weight)
        by_name.setdefault(VERDICT, {})[cell] = eraser
        for number in range(study.random):
            random = spread.erasing(draws[number].double().numpy()[None])
            by_name.setdefault(f"{RANDOM} {number}", {})[cell] = random
    return [_erasure(name, erasers, study) for name, erasers in by_name.items()]


def _erasure(name: str, erasers: Mapping, study: AblationStudy) -> Erasure:
    kind, _, number = name.partition(" ")
    return Erasure(kind, erasers, study.where, int(number) if number else None)


def what_is_left(tokens: HandTokens, cells: tuple[Cell, ...]) -> pd.DataFrame:
    """AUROC of a fresh probe at each cell, before and after erasing with an eraser of *other* images.

    On the images that it was fitted on an eraser leaves nothing, by construction. On others it leaves what half of the
    study could not pin down. So each half of the prompts is erased by the other's eraser, and probed within itself.
    """
    half = np.unique(tokens.prompt, return_inverse=True)[1].reshape(-1) % 2 == 0
    lines = []
    for cell in in_order(cells):
        x = tokens.read(cell)
        before, after = [], []
        for own in (half, ~half):
            fit = ~own[tokens.image]
            _, eraser = leace(x[fit], tokens.good[tokens.image][fit], tokens.weight[fit])
            plain = tokens.means(x)
            change = (plain - eraser.mean) @ eraser.read.T.astype(float) @ eraser.write.astype(float)
            for store, means in ((before, plain), (after, plain - change)):
                store.append(_auroc(means[own], tokens.good[own], np.asarray(tokens.prompt)[own]))
        lines.append({"cell": str(cell), "block": cell.block, "timestep": cell.timestep, "n": len(half),
                      "before": float(np.mean(before)), "after": float(np.mean(after))})  # fmt: skip
    return pd.DataFrame(lines)


def _auroc(means: Floats, good: NDArray[np.bool_], prompt: NDArray[np.str_]) -> float:
    """The headline's: ridge on image means, within folds of whole prompts, averaged over fold draws."""
    folds = min(5, len(set(prompt)))
    design = Design.of(good.astype(np.int32), prompt, n_folds=folds, permutations=24)
    return float(score_labellings(plain_features(means), good[None], design.folds)[0][0])
