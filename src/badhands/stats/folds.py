"""Folds that do not leak: whole prompts, hence whole images, stay on one side; the same folds serve every cell.

Tokens of one image are nearly copies of each other. With labels drawn at random per image a linear probe still reaches
AUROC 0.9 when its folds are drawn over tokens, because it recognises the image; over images it falls to 0.5.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

GOOD_IMAGE, BAD_IMAGE, NO_HAND_IMAGE = 1, 0, -1
"""Image classes: all hand tokens good; at least one bad; no labelled hand token."""


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


def make_folds(
    image_label: np.ndarray, prompt_id: Sequence | np.ndarray, n_folds: int = 5, seed: int = 0
) -> np.ndarray:
    """Fold of every image: images of one prompt share a fold, and every fold holds every class.

    Args:
        image_label: int[n_images], class of each image (`image_labels`); negative: no hand, placed but not required.
        prompt_id: n_images names or numbers; equal means one prompt.

    Returns:
        int32[n_images] in 0..n_folds-1. Depends only on the arguments.

    Raises:
        ValueError: fewer than two folds, one class only, or too few images or prompts for the folds.
    """
    image_label = np.asarray(image_label)
    group = np.unique(np.asarray(prompt_id), return_inverse=True)[1]
    assert image_label.shape == group.shape, "one prompt an image"
    if n_folds < 3:
        raise ValueError(f"{n_folds} folds: nested folds need at least 3, set probe.folds=3 or more")
    names = {GOOD_IMAGE: "good", BAD_IMAGE: "bad"}
    classes = [c for c in np.unique(image_label) if c >= 0]
    if len(classes) < 2:
        have = names.get(int(classes[0]), str(classes[0])) if classes else "no labelled"
        raise ValueError(f"all {len(image_label)} images are of one class ({have}): label images of both classes")
    for c in classes:
        of_class = image_label == c
        name = names.get(int(c), str(c))
        if of_class.sum() < n_folds:
            raise ValueError(
                f"{of_class.sum()} {name} images are too few for {n_folds} folds: label more, or set probe.folds lower"
            )
        if len(np.unique(group[of_class])) < n_folds:
            raise ValueError(
                f"the {name} images come from {len(np.unique(group[of_class]))} prompts, and those of one prompt share "
                f"a fold: {n_folds} folds need {n_folds} prompts or more; add prompts, or set probe.folds lower"
            )
    folds = np.full(len(image_label), -1, np.int32)
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a rare class (no hand) may be smaller than the number of folds
        for fold, (_, held_out) in enumerate(splitter.split(image_label, image_label, group)):
            folds[held_out] = fold
    assert (folds >= 0).all()
    for fold in range(n_folds):
        for c in classes:
            if not ((folds == fold) & (image_label == c)).any():
                raise ValueError(
                    f"fold {fold} of {n_folds} has no {names.get(int(c), str(c))} image, since images of one prompt "
                    "share a fold: label images of more prompts, or set probe.folds lower"
                )
    return folds
