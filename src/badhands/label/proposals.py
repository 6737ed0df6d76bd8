"""Masks offered as a starting point: the judge's labels, and folders of PNG masks such as a `hand` probe's.

Folders lie in the study, `proposals/<source>/<id>.png`; `python -m badhands.label propose` fills one from a probe.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from badhands.label.changes import JUDGE
from badhands.label.exchange.png_masks import read_mask
from badhands.study.classes import BAD
from badhands.study.labels import LabelRecord
from badhands.study.manifest import ImageEntry, check_id
from badhands.study.study import Study


@dataclass(frozen=True)
class Proposal:
    """One machine's mask of one image."""

    source: str
    classes: NDArray[np.uint8]
    """[h, w]"""
    kinds: NDArray[np.uint8]
    """[h, w]"""
    quality: bool
    """False: the source knows where hands are, but not whether they are good; the page asks the verdict."""


def proposals_folder(study: Study) -> Path:
    """Where mask folders of a study lie."""
    return study.root / "proposals"


def proposals(study: Study, entry: ImageEntry, judged: LabelRecord | None) -> list[Proposal]:
    """All proposals for an image, the judge's first. A mask that is unreadable or of another grid is not offered."""
    found = []
    if judged is not None and judged.painted and judged.grid == entry.grid:
        kinds = np.zeros(entry.grid, np.uint8) if judged.kinds is None else judged.kinds
        found.append(Proposal(JUDGE, judged.classes, kinds, quality=True))
    root = proposals_folder(study)
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        path = folder / f"{check_id(entry.id)}.png"
        if not folder.is_dir() or not path.is_file() or not path.resolve().is_relative_to(study.root.resolve()):
            continue  # a pipe, or a link out of the study or round in circles
        try:
            mask = read_mask(path, entry)
        except ValueError:
            continue
        quality = bool(np.any(mask.classes == BAD))
        found.append(Proposal(folder.name, mask.classes, mask.kinds, quality))
    return found
