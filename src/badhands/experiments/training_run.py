"""The training run that probes came from: what its tables say, and the study it read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from badhands.cells import PSEUDO_BLOCKS, Cell, in_order
from badhands.study.activations import ActivationCache
from badhands.study.choice import LabelChoice, read_choice
from badhands.study.study import Study, study_folder

LEVEL = 0.05


@dataclass(frozen=True)
class TrainingRun:
    """A folder of train.py, or none."""

    folder: Path | None = None

    def known_cells(self) -> tuple[Cell, ...]:
        """Blocks and timesteps whose verdict is beyond chance, familywise, by tables/headline.csv.

        Raises:
            ValueError: no such table, or no such cell.
        """
        path = self._file("tables/headline.csv", "name cells yourself")
        table = pd.read_csv(path)
        kept = table[(table["metric"] == "auroc_p_family") & (table["value"] <= LEVEL)]
        cells = [Cell(str(row["block"]), int(row["timestep"])) for _, row in kept.iterrows()]
        cells = [cell for cell in cells if cell.block not in PSEUDO_BLOCKS]
        if not cells:
            raise ValueError(f"by {path} no cell knows the verdict: nothing to push or erase; name cells yourself")
        return in_order(cells)

    def matched(self) -> tuple[str, ...]:
        """Axes of the prompts inside whose every value the study was balanced; empty where that is not known."""
        if self.folder is None or not (self.folder / "config.yaml").is_file():
            return ()
        return tuple(self._config("")["labels"].get("match") or ())

    def cache(self) -> ActivationCache:
        """The activations that the probes were trained on.

        Raises:
            ValueError: run or study are not on this machine.
        """
        config = self._config("run only=[abort,best,repair,steer]")
        study = Study(study_folder(config["study"]))
        choice = read_choice(study.root, LabelChoice.of(config["labels"]))
        return study.activations(config["data"]["fingerprint"], choice)

    def _config(self, otherwise: str) -> dict[str, Any]:
        plain: Any = OmegaConf.to_container(OmegaConf.load(self._file("config.yaml", otherwise)))
        return plain

    def _file(self, name: str, otherwise: str) -> Path:
        if self.folder is None or not (self.folder / name).is_file():
            where = "these probes stand alone" if self.folder is None else f"{self.folder} has no {name}"
            raise ValueError(
                f"{where}, and their training run is needed: give probes= of a run's folder, or {otherwise}"
            )
        return self.folder / name


def best_each_step(cells: tuple[Cell, ...], scores: dict[str, Any]) -> tuple[Cell, ...]:
    """Of these cells the one at each timestep with the best AUROC in the training study."""
    by_step: dict[int, Cell] = {}
    for cell in cells:
        held = by_step.get(cell.timestep)
        if held is None or _auroc(scores, cell) > _auroc(scores, held):
            by_step[cell.timestep] = cell
    return in_order(by_step.values())


def _auroc(scores: dict[str, Any], cell: Cell) -> float:
    return float(scores.get(str(cell), {}).get("image_auroc", np.nan) or 0)
