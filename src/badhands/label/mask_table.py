"""How good masks are that learn from a few painted images."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from badhands.label.desk import labelling_order
from badhands.label.differences import iou
from badhands.label.learned import THRESHOLD, LearnedMasks, fit_hands
from badhands.study.classes import BAD, GOOD
from badhands.study.study import Study


def mask_table(study: Study, annotator: str, draws: int = 5) -> pd.DataFrame:
    """How well masks learned from a few images of this annotator meet the rest of them.

    Returns:
        columns images (fitted on), iou (mean over all other painted images and `draws` orders), lowest (of the orders),
        of (images); in the study's labelling order first, then in random ones.

    Raises:
        ValueError: too few painted images with a sketch.
    """
    latest = study.labels.latest()
    painted = {i: record for (i, name), record in latest.items() if name == annotator and record.painted}
    entries = study.manifest.by_id
    known: dict[str, NDArray[np.float32]] = {}
    masks = LearnedMasks(study)
    for image_id in labelling_order(painted):
        try:
            known[image_id] = masks.features_of(entries[image_id])
        except ValueError:
            continue
    sizes = [size for size in (8, 16, 32) if size <= len(known) - 8]
    if not sizes:
        raise ValueError(
            f"study {study.name} has {len(known)} images that {annotator} painted and that have a sketch: 16 are "
            "needed. Sketches are kept by extract.py while it draws; images drawn before have none"
        )
    orders = [list(known)]
    orders += [
        [list(known)[i] for i in np.random.default_rng(seed).permutation(len(known))] for seed in range(draws - 1)
    ]
    rows = []
    for size in sizes:
        means = []
        for order in orders:
            probe = fit_hands([(known[i], painted[i]) for i in order[:size]])
            hands = {i: np.isin(painted[i].classes.ravel(), (GOOD, BAD)) for i in order[size:]}
            means.append(np.mean([iou(probe.chances(known[i]) >= THRESHOLD, hand) for i, hand in hands.items()]))
        rows.append((size, float(np.mean(means)), float(np.min(means)), len(known) - size))
    return pd.DataFrame(rows, columns=["images", "iou", "lowest", "of"])
