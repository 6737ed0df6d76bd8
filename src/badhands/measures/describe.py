"""What the data of one run are: a table of its images, and sheets of them with their labels."""

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from badhands.figures.sheets import Labelled, sheet
from badhands.study.activations import ActivationCache
from badhands.study.selection import image_table
from badhands.study.study import Study


def describe(
    study: Study | None, cache: ActivationCache, folder: Path, pictures: int = 32, conflicts: Collection[str] = ()
) -> pd.DataFrame:
    """Write tables/images.csv and, where the study has the pictures, figures/sheet_good.png and sheet_bad.png.

    Args:
        conflicts: images on whose label people disagree (`Choice.conflicts`).
    """
    table = image_table(cache)
    table["conflict"] = table["image"].isin(set(conflicts))
    table.to_csv(folder / "tables" / "images.csv", index=False)
    if study is not None:
        for name in ("good", "bad"):
            images = np.flatnonzero(table["class"] == name)
            spread = images[np.linspace(0, len(images) - 1, min(pictures, len(images))).round().astype(int)]
            if len(spread):
                sheet(list(labelled(study, cache, spread))).save(folder / "figures" / f"sheet_{name}.png")
    return table


def labelled(study: Study, cache: ActivationCache, images: np.ndarray) -> Iterator[Labelled]:
    """The pictures with the labels that the cache was made with."""
    for i in images:
        info = cache.images[i]
        rows = cache.tokens.image == i
        classes = np.zeros(info.grid[0] * info.grid[1], np.uint8)
        classes[cache.tokens.token[rows]] = cache.tokens.label[rows]
        yield Labelled(study.image(info.id), classes.reshape(info.grid), info.id)
