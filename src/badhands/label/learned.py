"""Masks that learn while one paints: a hand probe on the sketches, fitted again after every eight painted images."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from badhands.study.classes import BAD, GOOD, NOT_HAND
from badhands.study.labels import LabelRecord
from badhands.study.manifest import ImageEntry
from badhands.study.sketches import read_sketch, sketch_path
from badhands.study.study import Study

EVERY = 8
"""Painted images from one fit to the next."""
MOST = 48
"""Newest painted images that a fit uses."""
OTHERS = 1000
"""Tokens of an image, beside its hands, that a fit uses: a seeded sample, weighted to stand for all of them."""
THRESHOLD = 0.5
"""P(hand) from which a token is proposed; the page's slider starts here."""


def features(sketch: NDArray[np.float16], grid: tuple[int, int]) -> NDArray[np.float32]:
    """float32[tokens, 128]: each token's sketch, and the mean over it and its eight neighbours."""
    own = sketch.astype(np.float32).reshape(*grid, -1)
    padded = np.pad(own, ((1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = grid
    around = sum(padded[i : i + height, j : j + width] for i in range(3) for j in range(3)) / 9
    return np.concatenate([own, around], axis=-1).reshape(height * width, -1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class HandProbe:
    """P(hand) of a token: logistic regression on standardised features."""

    weight: NDArray[np.float32]
    bias: float

    def chances(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[n] of features float32[n, 128]."""
        return (1 / (1 + np.exp(-(x @ self.weight + self.bias)))).astype(np.float32)


def fit_hands(images: Sequence[tuple[NDArray[np.float32], LabelRecord]]) -> HandProbe:
    """The probe of these painted images; features float32[tokens, 128] beside each record.

    What a person left unlabelled on an image is taken for no hand, unless tokens of it are marked so.
    """
    from sklearn.linear_model import LogisticRegression  # not before it is needed: the page is served without

    rows, labels, weights = [], [], []
    for number, (x, record) in enumerate(images):
        classes = record.classes.ravel()
        hand = np.flatnonzero((classes == GOOD) | (classes == BAD))
        other = np.flatnonzero(classes == (NOT_HAND if np.any(classes == NOT_HAND) else 0))
        some = np.random.default_rng(number).permutation(other)[:OTHERS]
        rows += [x[hand], x[some]]
        labels += [np.ones(len(hand)), np.zeros(len(some))]
        weights += [np.ones(len(hand)), np.full(len(some), len(other) / max(1, len(some)))]
    x, y, weight = np.concatenate(rows), np.concatenate(labels), np.concatenate(weights)
    mean, scale = x.mean(0), x.std(0) + 1e-6
    if not 0 < y.mean() < 1:
        raise ValueError("the painted images have no token that is not a hand: nothing can be learned from them")
    fitted = LogisticRegression(C=0.1, max_iter=200).fit((x - mean) / scale, y, weight)
    coefficients = (fitted.coef_[0] / scale).astype(np.float32)
    return HandProbe(coefficients, float(fitted.intercept_[0] - mean @ coefficients))


class LearnedMasks:
    """The probes of a study's annotators. Thread-safe; a fit takes a second or so, and others wait for it."""

    def __init__(self, study: Study):
        self._study = study
        self._lock = threading.Lock()
        self._probes: dict[str, tuple[int, HandProbe | None]] = {}

    def chances(
        self, entry: ImageEntry, annotator: str, painted: Sequence[str]
    ) -> tuple[int, NDArray[np.float32]] | None:
        """After how many images it was fitted, and P(hand) float32[tokens]; None: too few images, or no sketches.

        Args:
            painted: images that this annotator has painted, the newest last.
        """
        count = len(painted) // EVERY * EVERY
        if not count or entry.id in painted:
            return None
        try:
            x = self.features_of(entry)
            with self._lock:
                if self._probes.get(annotator, (0, None))[0] != count:
                    self._probes[annotator] = (count, None)  # a fit that fails is not tried for every image
                    self._probes[annotator] = (count, self._fit(annotator, painted[-MOST:]))
                probe = self._probes[annotator][1]
        except ValueError:
            return None
        return None if probe is None else (count, probe.chances(x))

    def features_of(self, entry: ImageEntry) -> NDArray[np.float32]:
        """Raises ValueError: the image has no sketch, or a damaged one."""
        path = sketch_path(self._study.root, entry.fingerprint, entry.id)
        return features(read_sketch(path, entry.grid[0] * entry.grid[1])[1], entry.grid)

    def _fit(self, annotator: str, ids: Sequence[str]) -> HandProbe:
        entries = self._study.manifest.by_id
        records = self._study.labels.read((image_id, annotator, 0) for image_id in ids)
        return fit_hands([(self.features_of(entries[key[0]]), record) for key, record in records.items()])
