"""How often would a study of fewer images have found something? Subsamples of one study through the run's own gate."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from scipy.stats import binomtest
from tqdm import tqdm

from badhands.replicate.null import open_study
from badhands.replicate.shuffled import Subsample, findings_of
from badhands.report.run import runs_under

log = logging.getLogger(__name__)


def power_curve(
    subsample: Subsample,
    strata: Mapping[str, str] | None,
    sizes: Sequence[int],
    subsamples: int,
    folder: Path,
    permutations: int = 200,
) -> pd.DataFrame:
    """A row a size: images, subsamples, detected (share in which some cell tells good from bad beyond chance), its 95 %
    interval lo, hi (Wilson), and cells (median number of them). Also power_subsamples.csv, from which it goes on.

    Subsamples of one study overlap, the more the larger they are: the interval speaks of drawing again from *this*
    study.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "power_subsamples.csv"
    rows = pd.read_csv(path).to_dict("records") if path.is_file() else []
    done = {(int(row["images"]), int(row["seed"])) for row in rows}
    todo = [(n, seed) for n in sizes for seed in range(subsamples) if (n, seed) not in done]
    for n, seed in tqdm(todo, desc="subsamples", unit="study"):
        found = findings_of(subsample(n, seed), strata, folder, seed, permutations)
        rows.append({"images": n, "seed": seed, **found})
        partial = path.with_suffix(".tmp")
        pd.DataFrame(rows).to_csv(partial, index=False)
        partial.replace(path)
    table = pd.DataFrame(rows)
    table = table[table["images"].isin(sizes) & (table["seed"] < subsamples)]
    return pd.DataFrame([_row(int(str(n)), part["auroc"]) for n, part in table.groupby("images")])


def _row(images: int, cells: pd.Series) -> dict[str, float]:
    hits, of = int((cells > 0).sum()), len(cells)
    share = binomtest(hits, of).proportion_ci(method="wilson")
    return {"images": images, "subsamples": of, "detected": hits / of, "lo": float(share.low), "hi": float(share.high),
            "cells": float(cells.median())}  # fmt: skip


class PowerCurve(Callback):
    """Hydra callback. Writes power.csv into the sweep folder of a multirun, for the comparison's figure.

    Args:
        subsamples: of each number of images among the runs; 0: no curve.
    """

    def __init__(self, subsamples: int = 0) -> None:
        self.subsamples = subsamples

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if not self.subsamples:
            return
        folder = Path(config.hydra.sweep.dir)
        sizes = sorted({len(run.table("images")) for run in runs_under(folder) if run.finished})
        try:
            choice, subsample = open_study(config, config.data.fingerprint)
            curve = power_curve(subsample, choice.strata, [n for n in sizes if n % 2 == 0], self.subsamples, folder)
            curve.to_csv(folder / "power.csv", index=False, float_format="%.4g")
        except ValueError as error:  # a study that cannot be read leaves the runs as they are
            log.warning("no curve of detection against images: %s", error)
