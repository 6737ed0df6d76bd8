"""`python -m badhands.replicate.null study=... runs=100`: how often does a study find something where nothing is?"""

import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from badhands.home import OUTPUTS, command

if TYPE_CHECKING:
    from badhands.replicate.shuffled import Subsample
    from badhands.study.activations import ActivationCache
    from badhands.study.choice import Choice


@command("null")
def main(cfg: DictConfig) -> None:
    if cfg.runs < 1:
        raise ValueError(f"runs={cfg.runs}: give 1 or more")
    choice, images = open_study(cfg, cfg.fingerprint)
    cache, folder = images(cfg.images, 0), OUTPUTS / "null" / Path(str(cfg.study)).name
    name, workers = f"{len(cache.images)}-{cfg.permutations}", count_workers(cfg.workers)
    print(run(cache, choice.strata, folder, name, cfg.runs, cfg.permutations, workers))


def open_study(cfg: DictConfig, fingerprint: str | None) -> tuple["Choice", "Subsample"]:
    """The study's choice, and what gives so many of its images, drawn with a seed.

    Raises:
        ValueError: there is no such study, choice or cell.
    """
    from badhands.cells import choose_timesteps
    from badhands.study.choice import LabelChoice, read_choice
    from badhands.study.selection import Selection, select
    from badhands.study.study import Study, study_folder

    study = Study(study_folder(str(cfg.study)))
    labels: Any = OmegaConf.to_container(cfg.labels, resolve=True)
    choice = read_choice(study.root, LabelChoice.of(labels))
    timesteps = choose_timesteps(cfg.capture.timesteps, cfg.capture.of_steps, cfg.model.steps)

    def images(count: int, seed: int) -> "ActivationCache":
        selection = Selection(tuple(cfg.capture.blocks), timesteps, images=count, seed=seed)
        return select(study.activations(fingerprint, choice), selection, strata=choice.strata)

    return choice, images


def count_workers(workers: str | int) -> int:
    """Processes for `workers=`; auto: one a core.

    Raises:
        ValueError: neither auto nor a number above 0.
    """
    if workers == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers={workers}: write auto or a number of processes, 1 or more")
    return workers


def run(
    cache: "ActivationCache",
    strata: Mapping[str, str] | None,
    folder: Path,
    name: str,
    runs: int,
    permutations: int,
    workers: int = 1,
) -> str:
    """Shuffle and ask `runs` times; rows that `folder` has already are kept, so an interrupted command goes on."""
    from badhands.replicate.shuffled import moments_of, told

    folder.mkdir(parents=True, exist_ok=True)
    path, sums = folder / f"{name}.csv", folder / f"{name}.npz"
    rows = pd.read_csv(path).to_dict("records") if path.is_file() else []
    seeds = range(len(rows) + 1, runs + 1)
    if seeds:
        moments_of(cache, sums)
    setting = (cache.folder, cache.images, cache.cells, strata, sums, permutations)
    try:
        for found in tqdm(_ask(setting, seeds, workers), initial=len(rows), total=runs, desc="shuffled studies"):
            rows.append({**found, "any": sum(found.values()) - found["seed"]})
            partial = path.with_suffix(".tmp")
            pd.DataFrame(rows).to_csv(partial, index=False)
            partial.replace(path)
    finally:
        sums.unlink(missing_ok=True)
    return f"{told([int(row['any']) for row in rows[:runs]])}\n{path}"


def _ask(setting: tuple[Any, ...], seeds: Sequence[int], workers: int) -> Iterator[dict[str, int]]:
    """The findings of every shuffled study, in the order of seeds; each process computes on one thread."""
    if not seeds:
        return
    if min(workers, len(seeds)) == 1:
        _open(*setting)
        yield from map(_found, seeds)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(seeds)), spawn, _open_alone, setting) as pool:
        yield from pool.map(_found, seeds)


_setting: tuple[Any, ...] = ()
"""Of this process: the studied images, their sums, the strata and the number of permutations."""


def _open(folder: Path, images: Any, cells: Any, strata: Any, sums: Path, permutations: int) -> None:
    global _setting
    from badhands.measures.moments import Moments
    from badhands.study.activations import ActivationCache

    cache = ActivationCache(folder, images)
    cache.cells = cells
    _setting = (cache, strata, Moments.load(sums), permutations)


def _open_alone(*setting: Any) -> None:
    import torch

    torch.set_num_threads(1)
    _open(*setting)


def _found(seed: int) -> dict[str, int]:
    from badhands.replicate.shuffled import findings_of, shuffled

    cache, strata, moments, permutations = _setting
    study = shuffled(cache, strata, seed)
    return {"seed": seed, **findings_of(study, strata, cache.folder, seed, permutations, moments)}


if __name__ == "__main__":
    main()
