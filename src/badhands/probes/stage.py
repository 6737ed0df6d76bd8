"""The probe stage of train.py: fit, save what watches, score, hold against controls and nulls, look for one direction.

Everything is written as soon as it is known, so a run that fails later keeps it: probes/, oof.npz, tables/scores.csv,
tables/global_direction.csv, tables/transfer.csv, probe_findings.json, and figures of them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pandas as pd
import torch

from badhands.cells import Cell
from badhands.figures.global_maps import draw_recovery, draw_transfer
from badhands.figures.probe_maps import draw_baselines, draw_probe_maps
from badhands.probes import out_of_fold
from badhands.probes.bank import ProbeBank, quiet_trainer, train_bank
from badhands.probes.controls import GEOMETRY, PROMPT, geometry, prompt_words, x0_variances
from badhands.probes.data import ProbeData
from badhands.probes.findings import best_cell, control_sentence, hand_sentence, selectivity_sentence
from badhands.probes.global_direction import try_directions
from badhands.probes.image_means import ImageMeans, image_means
from badhands.probes.recovery import recover
from badhands.probes.saving import to_probes
from badhands.probes.score_rows import add_cheap_null, add_kinds, add_refit_null, add_scores
from badhands.probes.settings import ProbeSettings
from badhands.probes.tables import ScoreTable, global_table, transfer_table
from badhands.probes.task import Task
from badhands.study.activations import ActivationCache

GLOBAL_BOOTSTRAPS = 300
"""Resamplings behind the intervals of recovery: thousands of scores are resampled at once."""


def fit_probes(
    cache: ActivationCache,
    run_dir: Path | str,
    settings: ProbeSettings | None = None,
    *,
    card: Mapping[str, Any] | None = None,
    trainer: Callable[[], lightning.Trainer] | None = None,
) -> dict[str, pd.DataFrame]:
    """Everything this room knows about a cache.

    Args:
        cache: the cells and images of the run; blocks of one width, with `xt` and `x0` as baselines where present.
        run_dir: the run folder.
        card: what the artefact shall say about its origin: fingerprint, model, study, generation (a dict), commit.
        trainer: makes a fresh one-epoch Trainer; its device is the one everything runs on.

    Returns:
        tables by name: scores, global_direction, transfer.

    Raises:
        ValueError: too few images or prompts for the folds, one class only, blocks of several widths.
    """
    settings, folder = settings or ProbeSettings(), Path(run_dir)
    for name in ("tables", "figures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    trainer = trainer or quiet_trainer
    data = ProbeData.of(cache, settings)
    table = ScoreTable(cache.steps, folder / "tables" / "scores.csv")
    found: dict[str, Any] = {}
    try:
        good = _bank(data, data.cells, data.good, trainer)
        add_scores(table, data, good)
        add_kinds(table, data, good)
        banks = [good]
        if data.hand is not None:
            # Which penalty finds hands best matters little, and there are many tokens: every second one is tried.
            few = settings.penalties[1::2] if len(settings.penalties) > 2 else settings.penalties
            banks.append(_bank(data, data.cells, data.hand, trainer, grid=few))
            add_scores(table, data, banks[-1])
        ids = [info.id for info in cache.images]
        out_of_fold.save(folder / out_of_fold.NAME, ids, list(data.prompts), data.image_label, data.folds, banks)
        means = image_means(data.cells, data.read(data.good), data.good, seed=settings.seed)
        to_probes(data, banks, means, card or {}, table.write()).save(folder / "probes")

        null = add_cheap_null(table, data, means)
        found |= {"best_cell": best_cell(table.write(), null), "chance": null}
        add_refit_null(table, data, good, trainer().strategy.root_device)
        _baselines(table, data, trainer)
        scores = table.write()
        sentences = {"controls": control_sentence(scores), "selectivity": selectivity_sentence(scores)}
        found |= {k: v for k, v in (sentences | {"hand": hand_sentence(scores)}).items() if v}
        return {"scores": scores, **_one_direction(data, means, folder, found)}
    finally:
        scores = table.write()
        draw_probe_maps(scores, folder / "figures" / "probe_auroc.png")
        draw_baselines(scores, folder / "figures" / "baselines.png")
        (folder / "probe_findings.json").write_text(json.dumps(found, indent=1) + "\n")


def _bank(
    data: ProbeData,
    cells: Sequence[Cell],
    task: Task,
    trainer: Callable[[], lightning.Trainer],
    read: Callable[[Cell], torch.Tensor] | None = None,
    grid: tuple[float, ...] | None = None,
    width: int | None = None,
) -> ProbeBank:
    settings = replace(data.settings, penalties=grid) if grid else data.settings
    return train_bank(cells, width or data.width, task, settings, read or data.read(task), trainer)


def _baselines(table: ScoreTable, data: ProbeData, trainer: Callable[[], lightning.Trainer]) -> None:
    """The same probe on what knows no hand block."""
    cache, grid = data.cache, data.settings.penalties[::2]
    token, grids = cache.tokens.token, data.grids
    features = {GEOMETRY: geometry(data.good, token, grids)}
    add_scores(
        table, data, _bank(data, [GEOMETRY], data.good, trainer, lambda c: features[c].clone(), grid, 6), "geometry"
    )
    words = prompt_words(data.good, [image.prompt for image in cache.images])
    if words.shape[1]:
        bank = _bank(data, [PROMPT], data.good, trainer, lambda c: words.clone(), grid, words.shape[1])
        add_scores(table, data, bank, "prompt")
    for block in ("xt", "x0"):
        cells = [cell for cell in cache.cells if cell.block == block]
        if cells:
            bank = _bank(data, cells, data.good, trainer, grid=grid, width=cache.width(cells[0]))
            add_scores(table, data, bank, block)
        if block == "x0" and len(cells) > 1:
            moved = x0_variances(cells, data.read(data.good))
            bank = _bank(data, list(moved), data.good, trainer, lambda c, of=moved: of[c].clone(), grid, 1)
            add_scores(table, data, bank, "x0_variance")
    if data.scene is not None:
        add_scores(table, data, _bank(data, data.cells, data.scene, trainer, grid=grid), "not_hand_tokens")


def _one_direction(data: ProbeData, means: ImageMeans, folder: Path, found: dict[str, Any]) -> dict[str, pd.DataFrame]:
    num_steps = {t: t + step for t, (step, _) in data.cache.steps.items()}
    trial = try_directions(means, data.image_label, data.folds, num_steps, data.settings.seed)
    answer = recover(trial, data.image_label, data.weights[:GLOBAL_BOOTSTRAPS])
    tables = {
        "global_direction": global_table(answer, data.cells, data.cache.steps),
        "transfer": transfer_table(answer, data.cells),
    }
    for name, table in tables.items():
        table.to_csv(folder / "tables" / f"{name}.csv", index=False)
    draw_recovery(tables["global_direction"], folder / "figures" / "recovery.png")
    draw_transfer(tables["transfer"], folder / "figures" / "transfer.png")
    found |= {"one_direction": answer.sentence, "one_direction_verdict": answer.verdict}
    return tables
