"""Runs side by side: what differs in their configuration, what came out, and whether it differs by more than chance.

    python -m badhands.report.compare RUN RUN ... out=FOLDER

Writes compare.html, compare.csv (a row a run) and compare_pairs.csv (a row a pair of runs). A multirun of train.py ends
with the same.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from badhands.home import command, paths_as
from badhands.report.compare_page import write_page
from badhands.report.headline import summary
from badhands.report.results import out_of_fold
from badhands.report.run import Run, runs_under
from badhands.stats.paired import difference

ABSENT = "–"


def compare(runs: Sequence[Run], folder: Path) -> Path:
    """Write the comparison into `folder`; returns the page.

    Raises:
        ValueError: fewer than two runs.
    """
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} run to compare: give two or more run folders")
    differing = differences(runs)
    rows = [
        {"run": run.folder.name, **setting, **summary(run), "stopped": run.failed.error if run.failed else ""}
        for run, setting in zip(runs, differing, strict=True)
    ]
    table = pd.DataFrame(rows)
    pairs = paired(runs, labels(runs, differing))
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "compare.csv", index=False)
    pairs.to_csv(folder / "compare_pairs.csv", index=False)
    return write_page(folder / "compare.html", runs, labels(runs, differing), differing, table, pairs)


def differences(runs: Sequence[Run]) -> list[dict[str, str]]:
    """The settings in which the runs differ: options of groups first, then single values that someone has overridden.

    Values that only follow from an option (the probe's penalties, the model's path) are not listed beside it.
    """
    groups = list(dict.fromkeys(group for run in runs for group in run.choices if not group.startswith("hydra")))
    touched = list(dict.fromkeys(item.split("=")[0].lstrip("+~") for run in runs for item in run.overrides))
    columns: dict[str, list[str]] = {g: [str(run.choices.get(g, ABSENT)) for run in runs] for g in groups}
    for key in touched:
        if key not in columns and not key.startswith("hydra") and "/" not in key:
            columns[key] = [str(_value(run.config, key)) for run in runs]
    columns["commit"] = [run.commit[:10] + ("+" if "+" in run.commit else "") for run in runs]
    kept = {name: values for name, values in columns.items() if len(set(values)) > 1}
    return [{name: values[i] for name, values in kept.items()} for i in range(len(runs))]


def labels(runs: Sequence[Run], differing: Sequence[dict[str, str]]) -> list[str]:
    """A short name for each run: its own settings where they tell it apart, its folder otherwise."""
    named = [" ".join(v for k, v in setting.items() if k != "commit") for setting in differing]
    return [name if name and named.count(name) == 1 else run.folder.name for name, run in zip(named, runs, strict=True)]


def paired(runs: Sequence[Run], names: Sequence[str]) -> pd.DataFrame:
    """One row a pair of runs: mean difference in image AUROC over their common cells and images (second - first)."""
    rows: list[dict[str, Any]] = []
    scores = [out_of_fold(run) for run in runs]
    for i, first in enumerate(scores):
        for j, second in enumerate(scores[i + 1 :], i + 1):
            row: dict[str, Any] = {"first": names[i], "second": names[j]}
            try:
                if first is None or second is None:
                    raise ValueError("a run has no out-of-fold scores")
                found = difference(first, second)
                row |= {"value": found.value, "lo": found.lo, "hi": found.hi, "p": found.p}
                row |= {"images": found.images, "cells": found.cells, "same_folds": found.same_folds, "note": ""}
            except ValueError as reason:
                row |= {"note": str(reason)}
            rows.append(row)
    columns = ["first", "second", "value", "lo", "hi", "p", "images", "cells", "same_folds", "note"]
    return pd.DataFrame(rows).reindex(columns=columns)


def _value(config: dict[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return ABSENT
        value = value[part]
    return value


def compare_folders(folders: Sequence[Path], out: Path) -> Path:
    """`compare` of these run folders, or of all runs in a folder that holds several.

    Raises:
        ValueError: fewer than two runs.
    """
    runs = [run for path in folders for run in ([Run.open(path)] if is_run(path) else runs_under(path))]
    if len(runs) < 2:
        raise ValueError(f"{' '.join(map(str, folders))}: {len(runs)} run found; give two or more run folders")
    return compare(runs, out)


def is_run(path: Path) -> bool:
    return (path / "run.json").is_file()


@command("compare")
def main(cfg: DictConfig) -> None:
    print(compare_folders([Path(str(run)) for run in cfg.runs], Path(cfg.out)))


if __name__ == "__main__":
    sys.argv[1:] = paths_as("runs", many=True)
    main()
