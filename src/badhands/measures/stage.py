"""The measure stage: every number of the activations themselves, before any probe is trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from badhands.cells import COMPARED, Cell, evenly
from badhands.measures.contrasts import Contrast
from badhands.measures.directions import Agreement, CellStack, agreement
from badhands.measures.distances import Distances, sums_of
from badhands.measures.headline import headline_table, score_cells
from badhands.measures.lengths import SCALES, Lengths
from badhands.measures.moments import Moments, stream_moments
from badhands.measures.nulls import labellings
from badhands.measures.plan import Plan, make_plan
from badhands.measures.rivals import Rivals, late_rise
from badhands.measures.settings import MeasureConfig
from badhands.measures.sides import CellSums
from badhands.measures.tokens_of_cell import TokenPass
from badhands.stats.design import Design
from badhands.stats.family import Family
from badhands.stats.intervals import Scored
from badhands.stats.long_table import LongTable
from badhands.stats.threads import spread, together
from badhands.study.activations import ActivationCache

TESTED = ("good_vs_bad", "not_hand")
"""The contrasts that the gate tests; kinds of error have no part in it."""


def measure(
    cache: ActivationCache,
    run_dir: Path | str,
    config: MeasureConfig | None = None,
    cells: Sequence[Cell] | None = None,
    label_digests: Mapping[str, str] | None = None,
    design: Design | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, pd.DataFrame]:
    """Measure every cell and write moments.npz and tables/ into the run folder.

    Tables: `headline` (ridge probe on image means), `cells` (distances, held-out checks, kurtosis, lengths of v),
    `agreement` (cosines), `pca` (explained variance, gap along v), `pca_points` (the tokens drawn) and `verdicts`.
    headline.npz and family.npz keep what paired differences and the gate need.

    Args:
        cells: which cells; None takes all that every image has.
        label_digests: image id -> digest of its label now; images whose label has changed are refused.
        design: labels, strata, folds and permutations (`selection.design_of`); None makes one with unmatched labels.
        device: where tokens are multiplied and labels permuted; reading and sums of images are the CPU's.

    Raises:
        ValueError: see `make_plan`; nothing has been written then.
    """
    config = config or MeasureConfig()
    plan = make_plan(cache, config, cells, label_digests, design)
    run_dir, _ = Path(run_dir), torch.empty(0, device=device)  # a GPU is woken before threads ask for it
    (run_dir / "tables").mkdir(parents=True, exist_ok=True)

    moments = stream_moments(
        lambda image, cell, out: cache.files[image].read_into(str(cell), out),
        cache.tokens.image,
        plan.groups,
        {cell: (cache.width(cell), cache.files[0].dtype(cell)) for cell in plan.cells},
        run_dir / "moments.npz",
        threads=config.threads,
    )
    headline = score_cells(plan, moments, device=device)
    headline.save(run_dir / "headline.npz")
    table, pca, agree = (LongTable(cache.steps) for _ in range(3))
    tables: dict[str, pd.DataFrame] = {}
    distances = {contrast.name: Distances(contrast, plan.design, table) for contrast in plan.contrasts}
    lengths = {contrast.name: Lengths(contrast, plan.design, table) for contrast in plan.contrasts}
    tokens, rules = TokenPass(cache, plan, config, table, pca, torch.device(device)), Rivals(plan)

    def one(cell: Cell) -> None:
        total = moments.sums(cell)
        sums = {contrast.name: CellSums.of(contrast, *total, device) for contrast in plan.contrasts}
        for contrast in plan.contrasts:
            distances[contrast.name].add(cell, sums[contrast.name])
            lengths[contrast.name].add(cell, sums[contrast.name])
        tokens.add(cell, sums, rules.add(cell, sums[plan.main.name]))
        bar.update()

    with tqdm(total=len(plan.cells), desc="measures", unit="cell", leave=False) as bar:
        spread(one, plan.cells, together(max(map(tokens.bytes_of, plan.cells))))
    table.sort(plan.cells)  # threads have put them in as they came
    pca.sort(plan.cells)
    family = family_of(plan, headline, distances, lengths)
    family.save(run_dir / "family.npz")
    for contrast in plan.contrasts:
        distances[contrast.name].finish(plan.blocks)
        lengths[contrast.name].decide(plan.blocks, family if contrast is plan.main else None)
    _write(run_dir, tables, "headline", headline_table(headline, family, plan, cache.steps))
    _write(run_dir, tables, "pca", pca.frame())
    _write(run_dir, tables, "pca_points", pd.concat([tokens.points[cell] for cell in plan.cells], ignore_index=True))
    rules.rows(table)
    for contrast in plan.contrasts:
        if contrast.name != "not_hand":
            _agreement(contrast, plan, moments, config, lengths[contrast.name], table, agree, device)
    _write(run_dir, tables, "cells", table.frame())
    _write(run_dir, tables, "agreement", agree.frame())
    verdicts = [rules.verdict(), *late_rise(plan, distances), *plan.unmeasured()]
    _write(run_dir, tables, "verdicts", pd.DataFrame(verdicts))
    return tables


def family_of(
    plan: Plan, headline: Scored, distances: Mapping[str, Distances], lengths: Mapping[str, Lengths]
) -> Family:
    """What a report may call a finding about a cell: it reads out, it lies apart, its direction is resolved."""
    family, blocks = Family(), plan.blocks
    names = [str(cell) for cell in blocks]
    only = headline.only(names)
    family.add("auroc", names, only.value, only.null)
    for name in TESTED:
        if name in distances:
            family.add(f"db_{name}", names, *distances[name].logarithms(blocks))
    main = lengths[plan.main.name]
    for k, scale in enumerate(SCALES):
        value, null = main.squares(blocks, k)
        family.add(f"v_{scale}", names, value, null)
    return family


def _agreement(
    contrast: Contrast,
    plan: Plan,
    moments: Moments,
    config: MeasureConfig,
    lengths: Lengths,
    table: LongTable,
    agree: LongTable,
    device: torch.device | str,
) -> None:
    """Cosines between blocks of the transformer, which have one width, and whether each direction is resolved."""
    if not plan.blocks:
        return
    labels = labellings(contrast, plan.design)[: config.cosine_permutations]
    width = moments.source[f"{plan.blocks[0]}.sum"].shape[1]
    compared = evenly(plan.blocks, COMPARED)
    for k, scale in enumerate(SCALES):

        def stack(cells: Sequence[Cell], raw: bool = scale == "raw") -> CellStack:
            sums = (sums_of(moments, contrast, cell) for cell in cells)
            return CellStack(contrast, sums, (len(cells), width), raw, device)

        can = lengths.resolved[scale]
        found = agreement(stack(compared), np.array([can[c] for c in compared]), labels, config.halves, config.seed)
        resolved = dict(zip(compared, found.resolved, strict=True))
        others = [cell for cell in plan.blocks if cell not in resolved]
        for begin in range(0, len(others), COMPARED):
            some = others[begin : begin + COMPARED]
            own = np.diag(stack(some).inner_products_halves(config.halves, config.seed))
            resolved |= {cell: can[cell] and length > 0 for cell, length in zip(some, own, strict=True)}
        for cell in plan.blocks:
            about = {"probe": "moments", **contrast.about}
            table.add(cell, f"v_length_p_{scale}", lengths.p(cell)[k], split="permutation", **about)
            table.add(cell, f"v_resolved_{scale}", float(resolved[cell]), split="corrected", **about)
        _cosine_rows(contrast, compared, scale, found, agree)


def _cosine_rows(contrast: Contrast, cells: tuple[Cell, ...], scale: str, found: Agreement, agree: LongTable) -> None:
    """One row a pair: the cosine, and in columns of their own its noise-corrected version and its null."""
    about = {"probe": "moments", "split": "in-sample", **contrast.about}
    for i, cell in enumerate(cells):
        for j, other in enumerate(cells[i:], start=i):
            agree.add(
                cell, f"cosine_{scale}", found.cosine[i, j], **about,
                block_b=other.block, timestep_b=other.timestep, corrected=found.corrected[i, j],
                null_mean=found.null_mean[i, j], null_lo=found.null_low[i, j], null_hi=found.null_high[i, j],
                p=found.p[i, j], resolved=bool(found.resolved[i] and found.resolved[j]),
            )  # fmt: skip


def _write(run_dir: Path, tables: dict[str, pd.DataFrame], name: str, frame: pd.DataFrame) -> None:
    tables[name] = frame
    frame.to_csv(run_dir / "tables" / f"{name}.csv", index=False, float_format="%.6g")
