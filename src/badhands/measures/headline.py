"""The headline table: how well a ridge probe on image means tells good from bad images, in every cell."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from badhands.cells import Cell
from badhands.measures.distances import sums_of
from badhands.measures.image_scores import image_features
from badhands.measures.moments import Moments
from badhands.measures.plan import Plan
from badhands.stats.design import p_value
from badhands.stats.family import Family
from badhands.stats.headline import INFLUENCES, headline
from badhands.stats.intervals import Scored
from badhands.stats.long_table import LongTable
from badhands.stats.threads import spread

RIDGE = "ridge"


def score_cells(
    plan: Plan,
    moments: Moments,
    cells: Sequence[Cell] | None = None,
    influences: int = INFLUENCES,
    device: torch.device | str = "cpu",
) -> Scored:
    """Out-of-fold AUROC with its null; of all cells, the latents included, unless told which. `influences`: see
    `stats.headline.headline`."""
    assert np.array_equal(plan.main.images, plan.design.known), "the headline compares all labelled images"

    def one(cell: Cell) -> Scored:
        features = image_features(plan.main, sums_of(moments, plan.main, cell, device))
        return headline([str(cell)], [features], plan.design, 1, influences)

    return Scored.joined(spread(one, plan.cells if cells is None else cells))


def headline_table(found: Scored, family: Family, plan: Plan, steps: Mapping[int, tuple[int, float]]) -> pd.DataFrame:
    """tables/headline.csv: per cell `auroc`, its null, p alone, p against the largest cell, and p in the family."""
    table, n = LongTable(steps), len(found.good)
    alone = Family()
    names = [str(cell) for cell in plan.blocks]
    blocks = found.only(names)
    alone.add("auroc", names, blocks.value, blocks.null)
    p_max, p_family = (dict(zip(names, of.p()["auroc"], strict=True)) for of in (alone, family))
    for k, name in enumerate(found.names):
        cell, null = Cell.parse(name), found.null[:, k]
        table.add(cell, "auroc", found.value[k], found.intervals[k], n=n, probe=RIDGE, split="out_of_fold")
        about = {"n": n, "probe": RIDGE, "split": "permutation"}
        table.add(cell, "auroc_null", null.mean(), np.quantile(null, [0.025, 0.975]), **about)
        table.add(cell, "auroc_p", float(p_value(found.value[k], null)), **about)
        if name in p_max:
            table.add(cell, "auroc_p_max", p_max[name], **about)
            table.add(cell, "auroc_p_family", p_family[name], **about)
    return table.frame()
