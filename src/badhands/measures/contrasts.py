"""Which groups of the moments stand against which: good against bad, against local errors, against global errors."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from badhands.measures.moments import Groups
from badhands.study.classes import BAD, GLOBAL, GOOD, LOCAL, NOT_HAND

HAND = (GOOD, BAD)

CONTRASTS = ("good_vs_bad", "good_vs_local", "good_vs_global", "not_hand")
"""The last one is a control: not-hand tokens of good images against not-hand tokens of bad images."""


@dataclass(frozen=True, eq=False)
class Contrast:
    """Two sets of groups, and the images they come from.

    An image is bad if any of its tokens is bad. Its good tokens, if it has some ("mixed" image), still count as good
    tokens in every mean; when labels are permuted over images, its two kinds of tokens trade places with its label.
    """

    name: str
    group: np.ndarray
    """int[m], the groups of the moments in use, sorted by row."""
    starts: np.ndarray
    """int[r], where each row begins in `group`. A row is one side of one image."""
    good: np.ndarray
    """bool[r], the row is on the good side."""
    image: np.ndarray
    """int[r], 0..J-1, the image of each row."""
    images: np.ndarray
    """int[J], index of these images in the cache."""
    role: np.ndarray
    """bool[J], the image counts as good."""
    tokens: np.ndarray
    """int64[r], tokens of each row."""
    n: np.ndarray
    """float64[r], weight of each row in the means of its side: its tokens, or 1 when each image counts once."""

    @property
    def counts(self) -> tuple[int, int]:
        """Good images, bad images."""
        return int(self.role.sum()), int((~self.role).sum())

    @property
    def about(self) -> dict[str, Any]:
        """Columns of the long tables that say what is compared; n counts images."""
        good, bad = self.counts
        return {
            "comparison": self.name, "n_good": good, "n_bad": bad, "n_tokens": int(self.tokens.sum()), "n": good + bad
        }  # fmt: skip

    @property
    def row_of_group(self) -> np.ndarray:
        """int[g], the row of each group of the moments (up to the last one in use); -1 for groups not in use."""
        rows = np.full(1 + int(self.group.max(initial=-1)), -1)
        rows[self.group] = np.repeat(np.arange(len(self.starts)), np.diff(self.starts, append=len(self.group)))
        return rows

    def rows_of_tokens(self, group_of_token: np.ndarray) -> np.ndarray:
        """int[tokens], the row of each token; -1 for tokens not in use. `group_of_token` is `Groups.of_token`."""
        rows = np.append(self.row_of_group, -1)
        return rows[np.where(group_of_token < len(rows) - 1, group_of_token, -1)]

    def take(self, sums: np.ndarray) -> np.ndarray:
        """Sums by group [g, d] as weighted sums by row, float64[r, d]."""
        rows = np.add.reduceat(sums[self.group], self.starts, axis=0)
        return rows * (self.n / self.tokens)[:, None]


def make_contrast(groups: Groups, name: str, images: int, weighting: str = "token") -> Contrast:
    """Build one of `CONTRASTS`. `images` is the number of images of the cache. A side may come out empty.

    Args:
        weighting: "token", every token counts once, as in the study; or "image", every image counts once.
    """
    bad_image = np.zeros(images, bool)
    good_image = np.zeros(images, bool)
    bad_image[groups.image[groups.label == BAD]] = True
    good_image[groups.image[groups.label == GOOD]] = True
    good_image &= ~bad_image
    if name == "not_hand":
        use = (groups.label == NOT_HAND) & (bad_image | good_image)[groups.image]
        good = good_image[groups.image]
    else:
        kind = {"good_vs_bad": None, "good_vs_local": LOCAL, "good_vs_global": GLOBAL}[name]
        bad = (groups.label == BAD) & (True if kind is None else groups.kind == kind)
        good = groups.label == GOOD
        of_kind = np.zeros(images, bool)
        of_kind[groups.image[bad]] = True
        use = bad | (good & (good_image | of_kind)[groups.image])
    used = np.flatnonzero(use)
    used = used[np.lexsort((good[used], groups.image[used]))]
    key = groups.image[used].astype(np.int64) * 2 + good[used]
    _, starts = np.unique(key, return_index=True)
    first = used[starts]
    tokens = np.add.reduceat(groups.n[used], starts) if len(used) else np.zeros(0, np.int64)
    found, image = np.unique(groups.image[first], return_inverse=True)
    weight = tokens.astype(np.float64) if weighting == "token" else np.ones(len(first))
    return Contrast(name, used, starts, good[first], image.reshape(-1), found, good_image[found], tokens, weight)


def check_counts(contrast: Contrast, fewest: int) -> None:
    """Raises ValueError when one class is absent or has fewer than `fewest` images."""
    for count, name in zip(contrast.counts, ("good", "bad"), strict=True):
        if count == 0:
            raise ValueError(f"the study has no {name} hands: label images of both classes, then run extract.py again")
        if count < fewest:
            raise ValueError(
                f"{count} {name} images are too few to measure anything: label at least {fewest} of each class"
            )
