"""Folds that do not leak, drawn many times: equal texts, and whole strata where labels are matched, share a fold.

Tokens of one image are nearly copies of each other. With labels drawn at random per image a linear probe still reaches
AUROC 0.9 when its folds are drawn over tokens, because it recognises the image; over images it falls to 0.5.

One draw of folds decides a score by luck (0.66 to 0.78 for the same cell were seen), so scores are averaged over many.
Folds do not look at labels: folds stratified for the labels as they are would favour these over shuffled ones.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

GOOD_IMAGE, BAD_IMAGE, NO_HAND_IMAGE = 1, 0, -1
"""Image classes: all hand tokens good; at least one bad; no labelled hand token."""
TRIES = 2000
"""Blind draws until one has both classes in every fold."""


def image_labels(image: np.ndarray, label: np.ndarray, n_images: int) -> np.ndarray:
    """Class of every image from its tokens: one bad token makes a bad image.

    Args:
        image: int[n], image index of each token.
        label: uint8[n], token classes (1 good, 2 bad, 3 not hand, 0 unlabelled).

    Returns:
        int32[n_images] of GOOD_IMAGE, BAD_IMAGE, NO_HAND_IMAGE.
    """
    good = np.bincount(image[label == 1], minlength=n_images) > 0
    bad = np.bincount(image[label == 2], minlength=n_images) > 0
    return np.where(bad, BAD_IMAGE, np.where(good, GOOD_IMAGE, NO_HAND_IMAGE)).astype(np.int32)


def units_of(text: Sequence[Any] | np.ndarray, stratum: Sequence[Any] | np.ndarray | None = None) -> NDArray[np.int64]:
    """int64[n]: what shares a fold. Images of equal text do; with strata, so do all images of one stratum.

    A stratum (images of one matching key) holds as many good as bad images. With some of them in training and some held
    out, the held-out one is of the class that training has less of: chance is then below one half.
    """
    texts = np.unique(np.asarray(text), return_inverse=True)[1].reshape(-1)
    if stratum is None:
        return texts
    strata = np.unique(np.asarray(stratum), return_inverse=True)[1].reshape(-1)
    assert strata.shape == texts.shape, "one stratum an image"
    n_texts = int(texts.max()) + 1
    nodes = n_texts + int(strata.max()) + 1
    link = coo_array((np.ones(len(texts)), (texts, n_texts + strata)), shape=(nodes, nodes))
    return connected_components(link, directed=False)[1][texts].astype(np.int64)


def blind_folds(unit: np.ndarray, n_folds: int, seed: int | Sequence[int] = 0) -> NDArray[np.int32]:
    """One draw: whole units, in random order, go to the fold that has fewest images so far. int32[n]."""
    rng = np.random.default_rng(seed)
    sizes = np.bincount(unit)
    load, fold_of = np.zeros(n_folds), np.zeros(len(sizes), np.int32)
    for u in rng.permutation(len(sizes)):
        least = np.flatnonzero(load == load.min())
        fold_of[u] = rng.choice(least)
        load[fold_of[u]] += sizes[u]
    return fold_of[unit]


def draw_folds(unit: np.ndarray, n_folds: int, draws: int, seed: int = 0) -> NDArray[np.int32]:
    """`draws` blind draws, int32[draws, n]."""
    return np.stack([blind_folds(unit, n_folds, [seed, k]) for k in range(draws)])


def make_folds(
    image_label: np.ndarray,
    text: Sequence[Any] | np.ndarray,
    n_folds: int = 5,
    seed: int = 0,
    stratum: Sequence[Any] | np.ndarray | None = None,
) -> NDArray[np.int32]:
    """The first blind draw that has both classes in every fold, for probes that need both: int32[n_images].

    Args:
        image_label: int[n_images], class of each image (`image_labels`); negative: no hand, placed but not required.
        text: n_images prompts; images of equal text share a fold. stratum: matching keys, where labels were matched.

    Raises:
        ValueError: fewer than three folds, one class only, or too few images or prompts for the folds.
    """
    image_label = np.asarray(image_label)
    unit = units_of(text, stratum)
    assert image_label.shape == unit.shape, "one prompt an image"
    check_folds(image_label, unit, n_folds)
    for k in range(TRIES):
        folds = blind_folds(unit, n_folds, [seed, k])
        if all(len(np.unique(folds[image_label == c])) == n_folds for c in (GOOD_IMAGE, BAD_IMAGE)):
            return folds
    raise ValueError(
        f"no way was found to give each of {n_folds} folds a good and a bad image, since images of one prompt share a "
        "fold: label images of more prompts, or set data.folds lower"
    )


def check_folds(image_label: np.ndarray, unit: np.ndarray, n_folds: int) -> None:
    """Raises ValueError, with the fix, where these images cannot be split into so many folds."""
    if n_folds < 3:
        raise ValueError(f"{n_folds} folds: nested folds need at least 3, set data.folds=3 or more")
    names = {GOOD_IMAGE: "good", BAD_IMAGE: "bad"}
    have = [name for c, name in names.items() if (image_label == c).any()]
    if len(have) < 2:
        only = have[0] if have else "no labelled"
        raise ValueError(f"all {len(image_label)} images are of one class ({only}): label images of both classes")
    for c, name in names.items():
        of_class = image_label == c
        if of_class.sum() < n_folds:
            raise ValueError(
                f"{of_class.sum()} {name} images are too few for {n_folds} folds: label more, or set data.folds lower"
            )
        units = len(np.unique(unit[of_class]))
        if units < n_folds:
            fewer = f", or set data.folds={units}" if units >= 3 else ""
            raise ValueError(
                f"the {name} images come from {units} {'prompts' if units > 1 else 'prompt'}, and those of one share a "
                f"fold: {n_folds} folds need {n_folds} or more; add prompts{fewer}"
            )
