"""The measure stage: every number and figure of the activations themselves, before any probe is trained."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from badhands.cells import PSEUDO_BLOCKS, Cell
from badhands.figures.measures import draw_measures
from badhands.measures.contrasts import Contrast
from badhands.measures.directions import Agreement, CellStack, agreement, direction
from badhands.measures.distances import Distances, sums_of
from badhands.measures.findings import write_findings
from badhands.measures.moments import Moments, stream_moments
from badhands.measures.nulls import permuted
from badhands.measures.plan import Plan, make_plan
from badhands.measures.settings import MeasureConfig
from badhands.measures.sides import CellSums
from badhands.measures.tokens_of_cell import TokenPass
from badhands.stats.long_table import LongTable
from badhands.study.activations import ActivationCache


def measure(
    cache: ActivationCache,
    run_dir: Path | str,
    config: MeasureConfig | None = None,
    cells: Sequence[Cell] | None = None,
    label_digests: Mapping[str, str] | None = None,
    figures: bool = True,
) -> dict[str, pd.DataFrame]:
    """Measure every cell and write moments.npz, tables/, figures/ and findings.json into the run folder.

    Tables: `cells` (distances, held-out checks, kurtosis, lengths of v), `agreement` (cosines), `pca` (explained
    variance, gap along v) and `pca_points` (the tokens drawn). Each is written as soon as it is complete.

    Args:
        cells: which cells; None takes all that every image has.
        label_digests: image id -> digest of its label now; images whose label has changed are refused.
        figures: draw them too; `python -m badhands.figures.measures RUN` does so later.

    Raises:
        ValueError: see `make_plan`; nothing has been written then.
    """
    config = config or MeasureConfig()
    plan = make_plan(cache, config, cells, label_digests)
    run_dir = Path(run_dir)
    for name in ("tables", "figures"):
        (run_dir / name).mkdir(parents=True, exist_ok=True)

    moments = stream_moments(
        lambda image, cell, out: cache.files[image].read_into(str(cell), out),
        cache.tokens.image,
        plan.groups,
        {cell: (cache.width(cell), cache.files[0].dtype(cell)) for cell in plan.cells},
        run_dir / "moments.npz",
        threads=config.threads,
    )
    table, pca, agree = (LongTable(cache.steps) for _ in range(3))
    tables: dict[str, pd.DataFrame] = {}
    distances = {chosen.name: Distances(chosen, config, table) for chosen in plan.contrasts}
    tokens = TokenPass(cache, plan, config, table, pca)
    for cell in tqdm(plan.cells, desc="measures", unit="cell", leave=False):
        sums = {chosen.name: sums_of(moments, chosen, cell) for chosen in plan.contrasts}
        for name, one in distances.items():
            one.add(cell, sums[name])
        tokens.add(cell, sums)
    for one in distances.values():
        one.finish()
    _write(run_dir, tables, "pca", pca.frame())
    _write(run_dir, tables, "pca_points", pd.concat(tokens.points, ignore_index=True))
    for chosen in plan.contrasts:
        _agreement(chosen, plan, moments, config, table, agree)
    _write(run_dir, tables, "cells", table.frame())
    _write(run_dir, tables, "agreement", agree.frame())
    write_findings(run_dir / "findings.json", tables, plan.left_out)
    if figures:
        draw_measures(run_dir / "figures", tables)
    return tables


def _agreement(
    chosen: Contrast, plan: Plan, moments: Moments, config: MeasureConfig, table: LongTable, agree: LongTable
) -> None:
    """Lengths of v for every cell, and cosines between all blocks of the transformer, which have one width."""
    kept: dict[Cell, CellSums] = {}
    found = {}
    for cell in plan.cells:
        sums = sums_of(moments, chosen, cell)
        found[cell] = direction(chosen, sums)
        if cell.block not in PSEUDO_BLOCKS:
            kept[cell] = replace(sums, q=torch.empty(0))
    labels = permuted(chosen, config.cosine_permutations, config.seed)
    for scale in ("raw", "standardised"):
        raw = scale == "raw"
        for cell, one in found.items():
            v, squared = (one.v, one.squared) if raw else (one.v_standard, one.squared_standard)
            table.add(chosen, cell, f"v_length_{scale}", float((v @ v) ** 0.5))
            table.add(chosen, cell, f"v_squared_unbiased_{scale}", squared, split="corrected")
        if not kept or chosen.name == "not_hand":
            continue
        squared = [found[c].squared if raw else found[c].squared_standard for c in kept]
        stack = CellStack(chosen, list(kept.values()), raw)
        result = agreement(stack, torch.tensor(squared).numpy(), labels, config.halves, config.seed)
        for k, cell in enumerate(kept):
            table.add(chosen, cell, f"v_length_p_{scale}", result.length_p[k], split="permutation")
            table.add(chosen, cell, f"v_resolved_{scale}", float(result.resolved[k]), split="corrected")
        _cosine_rows(chosen, tuple(kept), scale, result, agree)


def _cosine_rows(chosen: Contrast, cells: tuple[Cell, ...], scale: str, found: Agreement, agree: LongTable) -> None:
    """One row a pair: the cosine, and in columns of their own its noise-corrected version and its null."""
    for i, cell in enumerate(cells):
        for j, other in enumerate(cells[i:], start=i):
            agree.add(
                chosen, cell, f"cosine_{scale}", found.cosine[i, j],
                block_b=other.block, timestep_b=other.timestep, corrected=found.corrected[i, j],
                null_mean=found.null_mean[i, j], null_lo=found.null_low[i, j], null_hi=found.null_high[i, j],
                p=found.p[i, j], resolved=bool(found.resolved[i] and found.resolved[j]),
            )  # fmt: skip


def _write(run_dir: Path, tables: dict[str, pd.DataFrame], name: str, frame: pd.DataFrame) -> None:
    tables[name] = frame
    frame.to_csv(run_dir / "tables" / f"{name}.csv", index=False, float_format="%.6g")
