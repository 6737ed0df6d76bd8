"""The probe stage of train.py: token probes that watch, baselines of the headline, the search for one direction.

Everything is written as soon as it is known, so a run that fails later keeps it: probes/, oof.npz, tables/scores.csv,
tables/baselines.csv, tables/global_direction.csv, tables/transfer.csv.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
import torch

from badhands.cells import COMPARED, PSEUDO_BLOCKS, Cell, evenly
from badhands.probes.bank import ProbeBank, quiet_trainer, train_bank
from badhands.probes.controls import CONTROLS
from badhands.probes.data import ProbeData, common_width
from badhands.probes.global_direction import try_directions
from badhands.probes.image_means import ImageMeans, image_means
from badhands.probes.losses import Losses
from badhands.probes.out_of_fold import save_out_of_fold
from badhands.probes.picture import Previews, Referee, add_picture_rows, beyond_the_picture, picture_scores
from badhands.probes.saving import Vectors, to_probes
from badhands.probes.score_rows import add_baseline, add_kinds, add_position, add_scores
from badhands.probes.settings import ProbeSettings
from badhands.stats.design import Design
from badhands.stats.intervals import Scored
from badhands.stats.long_table import LongTable
from badhands.study.activations import ActivationCache
from badhands.study.study import Study

Trainer = Callable[[], lightning.Trainer]


def fit_probes(
    cache: ActivationCache,
    run_dir: Path | str,
    settings: ProbeSettings | None = None,
    *,
    design: Design,
    card: Mapping[str, Any] | None = None,
    trainer: Trainer | None = None,
) -> dict[str, pd.DataFrame]:
    """Everything this room knows about a cache.

    Args:
        cache: the cells and images of the run; blocks of one width, with `xt` and `x0` as baselines where present.
        run_dir: the run folder, in which `measure` has written headline.npz with the same design.
        design: labels, folds and permutations (`selection.design_of`).
        card: what the artefact shall say about its origin: fingerprint, model, study, generation (a dict), commit.
        trainer: makes a fresh one-epoch Trainer; its device is the one everything runs on.

    Returns:
        tables by name: scores, baselines, global_direction, transfer.

    Raises:
        ValueError: blocks of several widths, or a run folder without measures.
    """
    settings, folder = settings or ProbeSettings(), Path(run_dir)
    common_width(cache)
    if not (folder / "headline.npz").is_file():
        raise ValueError(f"{folder} has no headline.npz: measure the cells first (badhands.measures.stage.measure)")
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    data = ProbeData.of(cache, settings, design, Scored.load(folder / "headline.npz"))
    scores = LongTable(cache.steps, folder / "tables" / "scores.csv")
    baselines = LongTable(cache.steps, folder / "tables" / "baselines.csv")
    try:
        trainer = trainer or quiet_trainer
        device = trainer().strategy.root_device
        banks = _token_probes(data, scores, trainer)
        save_out_of_fold(folder, [info.id for info in cache.images], data, banks)
        vectors, means = _vectors(data, device)
        to_probes(data, banks, vectors, card or {}, scores.write()).save(folder / "probes")
        best = _best_block(data)
        for control in CONTROLS:
            add_baseline(baselines, data, control, best)
        return {"scores": scores.write(), "baselines": baselines.write(), **_one_direction(data, means, folder, device)}
    finally:
        scores.write()
        baselines.write()


def see_pictures(
    study: Study,
    cache: ActivationCache,
    run_dir: Path | str,
    design: Design,
    referee: Referee | None = None,
    device: torch.device | str = "cpu",
) -> pd.DataFrame:
    """Judge the pictures so far, beside the blocks: rows of tables/baselines.csv and a verdict; {} without previews.

    Args:
        run_dir: a run folder in which `measure` and `fit_probes` have written. referee: see `picture.Referee`.
    """
    folder = Path(run_dir)
    headline = Scored.load(folder / "headline.npz")
    cells = [cell for cell in map(Cell.parse, headline.names) if cell.block not in PSEUDO_BLOCKS]
    previews = Previews.of(study, cache, design, tuple({cell.timestep for cell in cells}))
    if previews is None:
        return pd.DataFrame()
    scores = picture_scores(previews, design, headline, referee, device)
    table = LongTable(cache.steps)
    add_picture_rows(table, scores, headline, cells)
    path = folder / "tables" / "baselines.csv"
    rows = pd.concat([pd.read_csv(path), table.frame()]) if path.is_file() else table.frame()
    rows.to_csv(path, index=False, float_format="%.6g")
    add_verdicts(folder, beyond_the_picture(scores, headline, cells))
    return rows


def _token_probes(data: ProbeData, table: LongTable, trainer: Trainer) -> list[ProbeBank]:
    """Probes of both heads: what the overlay, the policies and the heatmaps read."""
    good = train_bank(data.cells, data.width, data.good, data.settings, data.read(data.good), trainer)
    add_scores(table, data, good)
    add_kinds(table, data, good)
    if data.hand is None:
        return [good]
    # Which penalty finds hands best matters little, and there are many tokens: every second one is tried.
    penalties = data.settings.penalties
    few = replace(data.settings, penalties=penalties[1::2] if len(penalties) > 2 else penalties)
    hand = train_bank(data.cells, data.width, data.hand, few, data.read(data.hand), trainer)
    add_scores(table, data, hand)
    add_position(table, data)
    return [good, hand]


def _vectors(data: ProbeData, device: torch.device) -> tuple[Vectors, ImageMeans]:
    """What the artefact takes from each cell, some cells at a time; and the means of those that are compared."""
    vectors, compared = Vectors(), evenly(data.cells, COMPARED)

    def means_of(cells: Sequence[Cell]) -> ImageMeans:
        return image_means(cells, data.read(data.good), data.good, seed=data.settings.seed, device=device)

    means = means_of(compared)
    vectors.add(data, means)
    others = [cell for cell in data.cells if cell not in set(compared)]
    for begin in range(0, len(others), COMPARED):
        vectors.add(data, means_of(others[begin : begin + COMPARED]))
    return vectors, means


def _best_block(data: ProbeData) -> Scored:
    blocks = data.headline.only([str(cell) for cell in data.cells])
    return blocks.only([blocks.names[int(np.argmax(blocks.value))]])


def _one_direction(data: ProbeData, means: ImageMeans, folder: Path, device: torch.device) -> dict[str, pd.DataFrame]:
    num_steps = {t: t + step for t, (step, _) in data.cache.steps.items()}
    trial = try_directions(means, data.image_label, data.folds, num_steps, data.settings.seed, device)
    losses = Losses(trial, data.design, data.widening)
    tables = {"global_direction": losses.table(data.cache.steps), "transfer": losses.transfer_table()}
    for name, table in tables.items():
        table.to_csv(folder / "tables" / f"{name}.csv", index=False)
    add_verdicts(folder, losses.verdict_rows())
    return tables


def add_verdicts(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Put rows into tables/verdicts.csv, in place of older ones of the same verdict."""
    path = folder / "tables" / "verdicts.csv"
    old = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["verdict"])
    new = pd.DataFrame(list(rows), columns=["verdict", "what", "value", "lo", "hi", "other"])
    kept = old[~old["verdict"].isin(new["verdict"])]
    pd.concat([part for part in (kept, new) if len(part)] or [new]).to_csv(path, index=False)
