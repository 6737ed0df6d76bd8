"""`python -m badhands.null study=... runs=100`: how often does a study find something where nothing is?"""

import os
import sys
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from badhands import CONF_DIR, OUTPUTS

os.environ.setdefault("BADHANDS_OUTPUTS", str(OUTPUTS))


@hydra.main(config_path=str(CONF_DIR), config_name="null", version_base="1.3")
def main(cfg: DictConfig) -> None:
    from badhands.diffusion.schedule import choose_timesteps
    from badhands.study.choice import LabelChoice, read_choice
    from badhands.study.selection import Selection, select
    from badhands.study.study import Study, study_folder

    options: Any = OmegaConf.to_container(cfg, resolve=True)
    try:
        if cfg.runs < 1:
            raise ValueError(f"runs={cfg.runs}: give 1 or more")
        study = Study(study_folder(str(cfg.study)))
        choice = read_choice(study.root, LabelChoice.of(options["labels"]))
        selection = Selection(
            blocks=tuple(options["capture"]["blocks"]),
            timesteps=choose_timesteps(options["capture"]["timesteps"], cfg.capture.of_steps, cfg.model.steps),
            images=cfg.images,
        )
        cache = select(study.activations(cfg.fingerprint, choice), selection, strata=choice.strata)
        folder = OUTPUTS / "null" / study.name
        print(run(cache, choice.strata, folder, f"{len(cache.images)}-{cfg.permutations}", cfg.runs, cfg.permutations))
    except ValueError as error:
        sys.exit(f"error: {error}")


def run(cache: Any, strata: Any, folder: Path, name: str, runs: int, permutations: int) -> str:
    """Shuffle and ask `runs` times; rows that `folder` has already are kept, so an interrupted command goes on."""
    from badhands.measures.null_runs import findings_of, shuffled, told

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
