"""Masks of a `hand` probe as proposals for the labelling page."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from badhands.label.exchange.png_masks import write_mask
from badhands.label.proposals import proposals_folder
from badhands.probes.artifact import Probes
from badhands.study.classes import GOOD
from badhands.study.labels import LabelRecord
from badhands.study.study import Study

SOURCE = "hand_probe"


def propose_hands(study: Study, folder: Path, threshold: float) -> int:
    """Write `proposals/hand_probe/<id>.png` for every image that has captured tokens; how many.

    The probe sees captured tokens only: capture all tokens of unlabelled images first. Hands are written as class GOOD;
    the page replaces it by the verdict, since this probe does not know which are bad.

    Args:
        folder: a run's probes.
        threshold: P(hand) above which a token is proposed, mean over the cells of the last captured timestep.

    Raises:
        ValueError: probes and study do not fit together, or the probes have no `hand` head.
    """
    probes = Probes.load(folder)
    if "hand" not in probes.heads:
        raise ValueError(f"{folder} has no hand probe: train with tokens that are not hands in the labels")
    cache = study.activations(probes.fingerprint)
    last = min(cell.timestep for cell in probes.cells)
    cells = [cell for cell in probes.cells if cell.timestep == last and cell in cache.cells]
    if not cells:
        raise ValueError(f"the study has no activations at timestep {last} of the probes' blocks: run extract again")
    entries, table, number = study.manifest.by_id, cache.tokens, 0
    for position, info in enumerate(cache.images):
        entry = entries[info.id]
        tokens = np.asarray(table.token)[np.asarray(table.image) == position]
        seen: Mapping = cache.read_image(position, cells)
        chance = np.mean([probes.p_hand(cell, seen[cell]).numpy() for cell in cells], axis=0)
        classes = np.zeros(entry.grid, np.uint8)
        classes.ravel()[tokens[chance >= threshold]] = GOOD
        path = proposals_folder(study) / SOURCE / f"{entry.id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mask(path, entry, LabelRecord(entry.id, SOURCE, "", 0.0, classes))
        number += 1
    return number
