"""One head's rows, labels and folds: everything about a fit but the activations, and so the same for every cell."""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from badhands.stats.folds import BAD_IMAGE, GOOD_IMAGE
from badhands.study.classes import BAD, GOOD, NOT_HAND

PER_IMAGE = 16
"""Tokens of an image that the head `hand` and the control outside the hand look at: neighbours add next to nothing."""


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """Binary labels of n token rows of a cache.

    The training sets, in order: all folds but two (every pair), all folds but one (every fold), all folds. A model that
    saw neither j nor k validates penalties for k on j and for j on k, so nested cross-validation needs
    F (F - 1) / 2 sets and not F (F - 1).
    """

    head: str
    rows: np.ndarray
    """int64[n], rows of the cache's token table."""
    image: np.ndarray
    """int32[n], image of each row."""
    y: np.ndarray
    """float32[n], 1 for the positive class (hand; good)."""
    folds: np.ndarray
    """int32[images]."""
    measure: np.ndarray
    """float64[n], how many tokens of the picture a row stands for in metrics and calibration."""

    @cached_property
    def n_folds(self) -> int:
        return int(self.folds.max()) + 1

    @cached_property
    def fold(self) -> np.ndarray:
        """int32[n], fold of each row."""
        return self.folds[self.image]

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        return list(combinations(range(self.n_folds), 2))

    @cached_property
    def include(self) -> np.ndarray:
        """bool[sets, folds]: which folds a training set holds."""
        left_out = [*self.pairs, *((k,) for k in range(self.n_folds)), ()]
        return np.array([[k not in out for k in range(self.n_folds)] for out in left_out])

    def pair(self, j: int, k: int) -> int:
        """Index of the set without folds j and k."""
        return self.pairs.index((min(j, k), max(j, k)))

    def outer(self, k: int) -> int:
        """Index of the set without fold k."""
        return len(self.pairs) + k

    @property
    def full(self) -> int:
        return len(self.pairs) + self.n_folds

    @cached_property
    def base(self) -> np.ndarray:
        """float64[n], 1 / n_i: every image counts once, however large its hand."""
        return 1 / np.bincount(self.image)[self.image]

    @cached_property
    def groups(self) -> np.ndarray:
        """int64[n], fold and class of a row: 2 fold + y."""
        return 2 * self.fold.astype(np.int64) + self.y.astype(np.int64)

    @cached_property
    def factors(self) -> np.ndarray:
        """float64[sets, 2 folds]: weight of a group in a set, so that the two classes of every set weigh 1/2 each."""
        mass = np.bincount(self.groups, self.base, minlength=2 * self.n_folds)
        included = np.repeat(self.include, 2, axis=1)
        factors = np.zeros(included.shape)
        for label in (0, 1):
            total = (included[:, label::2] * mass[label::2]).sum(1)
            assert (total > 0).all(), "a training set without one class: make_folds refuses those"
            factors[:, label::2] = included[:, label::2] / (2 * total[:, None])
        return factors

    def weights(self, sets: list[int] | np.ndarray) -> Tensor:
        """float32[n, len(sets)], row weights that sum to 1 a set, 0 outside it."""
        return torch.from_numpy((self.base[:, None] * self.factors[sets].T[self.groups]).astype(np.float32))

    def relabelled(self, y: np.ndarray) -> "TrainingRows":
        """The same rows and folds with other labels [n]."""
        return TrainingRows(self.head, self.rows, self.image, y.astype(np.float32), self.folds, self.measure)


def good_rows(image: np.ndarray, label: np.ndarray, folds: np.ndarray) -> TrainingRows:
    """Good against bad on hand tokens. image, label: [tokens of the cache]; folds: [images]."""
    rows = np.flatnonzero((label == GOOD) | (label == BAD))
    return TrainingRows("good", rows, image[rows], (label[rows] == GOOD).astype(np.float32), folds, np.ones(len(rows)))


def hand_rows(image: np.ndarray, label: np.ndarray, folds: np.ndarray, grid_tokens: np.ndarray) -> TrainingRows:
    """Hand against not hand, on at most PER_IMAGE labelled tokens of each kind and image.

    The tokens are a sample, so each stands for more than one token of the picture: calibration must know.

    Args:
        grid_tokens: int[images], tokens of the whole picture.
    """
    n = len(folds)
    is_hand = (label == GOOD) | (label == BAD)
    rows = np.sort(np.concatenate([_few(image, is_hand), _few(image, label == NOT_HAND)]))
    of, hand = image[rows], is_hand[rows]
    hands = np.bincount(image[is_hand], minlength=n)
    kept_hands, kept_others = np.bincount(of[hand], minlength=n), np.bincount(of[~hand], minlength=n)
    of_hand = hands / np.maximum(kept_hands, 1)
    of_other = np.maximum((grid_tokens - hands) / np.maximum(kept_others, 1), 1.0)
    return TrainingRows("hand", rows, of, hand.astype(np.float32), folds, np.where(hand, of_hand[of], of_other[of]))


def scene_rows(image: np.ndarray, label: np.ndarray, folds: np.ndarray, image_label: np.ndarray) -> TrainingRows:
    """Control: the image's class on tokens that are not hand. What it finds is not in the hand."""
    usable = np.isin(image_label, (GOOD_IMAGE, BAD_IMAGE))
    rows = _few(image, (label == NOT_HAND) & usable[image])
    y = (image_label[image[rows]] == GOOD_IMAGE).astype(np.float32)
    return TrainingRows("good", rows, image[rows], y, folds, np.ones(len(rows)))


def _few(image: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Ascending rows of a fixed random choice of at most PER_IMAGE rows of each image among `which` (bool)."""
    rows = np.random.default_rng(0).permutation(np.flatnonzero(which))
    order = np.argsort(image[rows], kind="stable")
    rows = rows[order]
    starts = np.searchsorted(image[rows], image[rows])
    return np.sort(rows[np.arange(len(rows)) - starts < PER_IMAGE])
