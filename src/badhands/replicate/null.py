"""`python -m badhands.replicate.null study=... runs=100`: how often does a study find something where nothing is?"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from badhands.home import CONF_DIR, OUTPUTS

if TYPE_CHECKING:
    from badhands.replicate.shuffled import Subsample
    from badhands.study.activations import ActivationCache
    from badhands.study.choice import Choice

os.environ.setdefault("BADHANDS_OUTPUTS", str(OUTPUTS))


@hydra.main(config_path=str(CONF_DIR), config_name="null", version_base="1.3")
def main(cfg: DictConfig) -> None:
    try:
        if cfg.runs < 1:
            raise ValueError(f"runs={cfg.runs}: give 1 or more")
        choice, images = open_study(cfg, cfg.fingerprint)
        cache, folder = images(cfg.images, 0), OUTPUTS / "null" / Path(str(cfg.study)).name
        print(run(cache, choice.strata, folder, f"{len(cache.images)}-{cfg.permutations}", cfg.runs, cfg.permutations))
    except ValueError as error:
        sys.exit(f"error: {error}")


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


def run(cache: Any, strata: Any, folder: Path, name: str, runs: int, permutations: int) -> str:
    """Shuffle and ask `runs` times; rows that `folder` has already are kept, so an interrupted command goes on."""
    from badhands.replicate.shuffled import findings_of, shuffled, told

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    rows = pd.read_csv(path).to_dict("records") if path.is_file() else []
    for seed in tqdm(range(len(rows), runs), initial=len(rows), total=runs, desc="shuffled studies", unit="study"):
        found = findings_of(shuffled(cache, strata, seed + 1), strata, folder, seed + 1, permutations)
        rows.append({"seed": seed + 1, **found, "any": sum(found.values())})
        partial = path.with_suffix(".tmp")
        pd.DataFrame(rows).to_csv(partial, index=False)
        partial.replace(path)
    return f"{told([int(row['any']) for row in rows[:runs]])}\n{path}"


if __name__ == "__main__":
    main()
