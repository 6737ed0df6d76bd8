"""48 logistic probes, 5 folds, 5 penalties: this project against a scikit-learn loop, on the 4.7 GB cache.

    python tests/benchmarks/probes.py [--cells 48] [--reference 3]

Two jobs, each timed on both sides from activations on disk to out-of-fold scores, in one run:

grid     every penalty on every fold: 25 fits a cell
nested   the penalty of each fold by an inner grouped cross-validation on the same folds, then a refit: 105 fits a cell
         for the loop, 56 here (inner models are shared between outer folds)

The loop does what a careful user writes: StandardScaler and LogisticRegression (lbfgs, its default tolerance), with the
same weights. It is timed on `--reference` cells spread over the grid and scaled to all; ours is timed on all.
Differences of AUROC are taken over the reference cells.
"""

import argparse
import itertools
import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parent))
from synthetic import FOLDER, full_cache

from badhands.cells import Cell
from badhands.probes.bank import train_bank
from badhands.probes.kinds import fit
from badhands.probes.settings import ProbeSettings
from badhands.probes.standardise import standardise
from badhands.probes.training_rows import TrainingRows, good_rows
from badhands.stats.folds import image_labels, make_folds
from badhands.stats.threads import spread
from badhands.study.activations import ActivationCache

T = TypeVar("T")
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)
SETTINGS = ProbeSettings(penalties=PENALTIES)


def ours_grid(cache: ActivationCache, training: TrainingRows, cell: Cell) -> np.ndarray:
    """float32[penalties, n] out-of-fold logits."""
    x = standardise(cache.read(cell, None), training)
    sets = [training.outer(k) for k in range(training.n_folds) for _ in PENALTIES]
    done = fit(x, training, sets, list(PENALTIES) * training.n_folds, SETTINGS)
    logits = done.logits(x.x).view(-1, training.n_folds, len(PENALTIES))
    fold = torch.from_numpy(training.fold).long()
    return logits[torch.arange(len(fold)), fold].T.numpy()


def fitted(
    x: np.ndarray, training: TrainingRows, left_out: set[int], penalties: tuple[float, ...]
) -> dict[float, LogisticRegression]:
    train = ~np.isin(training.fold, list(left_out))
    s = training.pair(*left_out) if len(left_out) == 2 else training.outer(*left_out)
    weight = training.weights([s])[:, 0].numpy()[train]
    scaler = StandardScaler().fit(x[train], sample_weight=weight)
    scaled = scaler.transform(x[train])
    models = {}
    for penalty in penalties:
        model = LogisticRegression(C=1 / penalty, max_iter=1000).fit(scaled, training.y[train], sample_weight=weight)
        model.coef_ = model.coef_ / scaler.scale_
        model.intercept_ = model.intercept_ - model.coef_[0] @ scaler.mean_
        models[penalty] = model
    return models


def theirs_grid(cache: ActivationCache, training: TrainingRows, cell: Cell) -> np.ndarray:
    x = cache.read(cell, None).float().numpy()
    out = np.empty((len(PENALTIES), len(x)), np.float32)
    for k in range(training.n_folds):
        for i, model in enumerate(fitted(x, training, {k}, PENALTIES).values()):
            out[i, training.fold == k] = model.decision_function(x[training.fold == k])
    return out


def theirs_nested(cache: ActivationCache, training: TrainingRows, cell: Cell) -> np.ndarray:
    x = cache.read(cell, None).float().numpy()
    out = np.empty(len(x), np.float32)
    for k in range(training.n_folds):
        areas = dict.fromkeys(PENALTIES, 0.0)
        for j in set(range(training.n_folds)) - {k}:
            held = training.fold == j
            images, first = np.unique(training.image[held], return_index=True)
            for penalty, model in fitted(x, training, {j, k}, PENALTIES).items():
                z = model.decision_function(x[held])
                means = [z[training.image[held] == i].mean() for i in images]
                areas[penalty] += float(roc_auc_score(training.y[held][first], means))
        best = max(PENALTIES, key=lambda penalty: (round(areas[penalty], 9), penalty))
        out[training.fold == k] = fitted(x, training, {k}, (best,))[best].decision_function(x[training.fold == k])
    return out


def speed_of_memory(cache: ActivationCache, cell: Cell) -> tuple[float, float]:
    """GB/s of summing a cell's rows in memory, and seconds of one pass of the solver's two products for 25 columns."""
    x = cache.read(cell, None)
    weight, slope = torch.randn(x.shape[1], 25).bfloat16(), torch.randn(len(x), 25).bfloat16()
    flat = x.view(torch.int16).reshape(-1).view(torch.int64)

    def best(work) -> float:
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
        return min(times)

    return x.nbytes / best(flat.sum) / 1e9, best(lambda: (x @ weight, x.T @ slope))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--cells", type=int, default=48)
    parser.add_argument("--reference", type=int, default=3)
    parser.add_argument("--nested-reference", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    threadpool_limits(given.threads)
    warnings.simplefilter("ignore")
    cache = full_cache(given.folder)
    tokens = cache.tokens
    label = image_labels(tokens.image, tokens.label, len(cache.images))
    training = good_rows(tokens.image, tokens.label, make_folds(label, [m["prompt_id"] for m in cache.meta], 5))
    assert len(training.rows) == len(tokens), "hand tokens only"
    cells = cache.cells[: given.cells]
    picked = [cells[i] for i in np.linspace(0, len(cells) - 1, given.reference).round().astype(int)]
    ours_grid(cache, training, cells[0])  # warm: pages, threads

    # As ProbeBank does it: each thread a cell.
    grid, ours = timed(
        lambda: dict(zip(cells, spread(lambda cell: ours_grid(cache, training, cell), cells), strict=True))
    )
    # --nested-reference 0: the grid alone
    nested_cells = cells if given.nested_reference else cells[:1]
    bank, ours_nested = timed(
        lambda: train_bank(nested_cells, cache.width(cells[0]), training, SETTINGS, lambda cell: cache.read(cell, None))
    )
    ours_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    times, gaps = [], []
    for cell in picked:
        reference, spent = timed(lambda cell=cell: theirs_grid(cache, training, cell))
        times.append(spent)
        gaps += [abs(area(training, z) - area(training, z0)) for z, z0 in zip(grid[cell], reference, strict=True)]
        print(f"  {cell}: loop {spent[0]:.1f} s, largest AUROC difference {max(gaps[-5:]):.5f}", flush=True)
    nested_times, nested_gaps = [], []
    for cell in itertools.islice(reversed(picked), given.nested_reference):
        z0, spent = timed(lambda cell=cell: theirs_nested(cache, training, cell))
        nested_times.append(spent)
        nested_gaps.append(abs(area(training, bank.logit[cells.index(cell)].numpy()) - area(training, z0)))
    bandwidth, one_pass = speed_of_memory(cache, picked[0])
    report = {
        "cells": len(cells), "reference_cells": len(picked), "threads": torch.get_num_threads(),
        "grid": compared(ours, times, len(cells), max(gaps)),
        "nested": compared(ours_nested, nested_times, len(cells), max(nested_gaps)) if nested_gaps else None,
        "passes_mean_nested": round(float(bank.passes.mean()), 1), "peak_gb_ours": round(ours_peak, 2),
        "memory_gb_per_s": round(bandwidth, 1), "one_pass_25_columns_s": round(one_pass, 4),
    }  # fmt: skip
    print(json.dumps(report, indent=1))


def area(training: TrainingRows, logit: np.ndarray) -> float:
    return float(roc_auc_score(training.y, logit))


def timed(work: Callable[[], T]) -> tuple[T, tuple[float, float]]:
    """The result, and seconds of wall clock and of processor time: on a shared machine the second repeats better."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, (time.perf_counter() - wall, time.process_time() - cpu)


def compared(ours: tuple[float, float], loop: list[tuple[float, float]], cells: int, gap: float) -> dict[str, float]:
    scaled = [float(np.mean([spent[i] for spent in loop])) * cells for i in (0, 1)]
    return {
        "ours_wall_s": round(ours[0], 1), "loop_wall_s_scaled": round(scaled[0], 1),
        "ratio_wall": round(scaled[0] / ours[0], 1), "ours_cpu_s": round(ours[1], 1),
        "loop_cpu_s_scaled": round(scaled[1], 1), "ratio_cpu": round(scaled[1] / ours[1], 1),
        "auroc_gap_max": round(gap, 5),
    }  # fmt: skip


if __name__ == "__main__":
    main()
