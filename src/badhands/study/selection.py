"""The data of one run: which cells and images of a study's cache it uses."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from badhands.cells import PSEUDO_BLOCKS, grid, in_order
from badhands.stats.design import Design
from badhands.stats.folds import image_labels
from badhands.study.activations import ActivationCache
from badhands.study.classes import BAD, GLOBAL, GOOD, LOCAL, NOT_HAND

KINDS = {"all": None, "local": LOCAL, "global": GLOBAL}
FEWEST = 4
"""Images a class below which nothing can be measured, let alone cross-validated."""


@dataclass(frozen=True)
class Selection:
    """What a run takes from a study."""

    blocks: tuple[str, ...]
    timesteps: tuple[int, ...]
    """Count down."""
    images: int | None = None
    """At most this many images, half of them good and half bad; None takes all."""
    kinds: str = "all"
    """all, or the bad images whose errors are `local` or `global` alone, against all good images."""
    seed: int = 0
    """Of the choice of `images`. Smaller choices are part of larger ones."""

    def __post_init__(self) -> None:
        if not self.blocks or not self.timesteps:
            raise ValueError("the capture names no blocks or no timesteps: set capture.blocks and capture.timesteps")
        if self.kinds not in KINDS:
            raise ValueError(f"data.kinds={self.kinds}: write one of {', '.join(KINDS)}")
        if self.images is not None and self.images < 2 * FEWEST:
            raise ValueError(f"data.images={self.images}: at least {FEWEST} good and {FEWEST} bad images are needed")


def select(
    cache: ActivationCache,
    selection: Selection,
    extract: str = "python extract.py",
    strata: Mapping[str, str] | None = None,
) -> ActivationCache:
    """The part of the cache that a run uses: its cells, the baselines `xt` and `x0` at the same timesteps, its images.

    Args:
        extract: the command that would make what is missing, for the error.
        strata: matching key of each image by id (`Choice.strata`): a smaller choice is balanced inside them too.

    Raises:
        ValueError: cells that the cache lacks, one class only, fewer than 4 images a class, one picture under two ids.
    """
    wanted = grid(selection.blocks, selection.timesteps)
    lacking = [cell for cell in wanted if cell not in cache.cells]
    if lacking:
        names = ", ".join(map(str, lacking[:4])) + (" ..." if len(lacking) > 4 else "")
        partly = sum(cell in cache.missing for cell in lacking)
        some = f" ({partly} of them in some images)" if partly else ""
        raise ValueError(
            f"{len(lacking)} of {len(wanted)} cells are not extracted{some}: {names}; make them with `{extract}`"
        )
    chosen = choose_images(cache, selection, strata)
    if len(chosen) < len(cache.images):
        cache = ActivationCache(cache.folder, [cache.images[i] for i in chosen], opened=cache)
    refuse_copies(cache)
    baselines = [c for c in cache.cells if c.block in PSEUDO_BLOCKS and c.timestep in selection.timesteps]
    cache.cells = in_order([*wanted, *baselines])
    return cache


def refuse_copies(cache: ActivationCache) -> None:
    """Raises ValueError where two images with a hand are equal to the pixel: one observation would count as two."""
    first: dict[str, str] = {}
    copies: list[tuple[str, str]] = []
    for i in np.unique(cache.tokens.image[np.isin(cache.tokens.label, (GOOD, BAD))]):
        pixels, name = cache.meta[i].get("image_sha256"), cache.images[i].id
        if pixels is not None and first.setdefault(pixels, name) != name:
            copies.append((name, first[pixels]))
    if copies:
        name, of = copies[0]
        raise ValueError(
            f"{len(copies)} images are copies of others to the pixel, such as {name} of {of}: a copy counts twice and "
            "looks like proof; take the copies out of the study's manifest and labels, then run extract.py again"
        )


def choose_images(cache: ActivationCache, selection: Selection, strata: Mapping[str, str] | None = None) -> list[int]:
    """Indices into `cache.images`, ascending.

    Raises:
        ValueError: fewer than 4 images of a class, or fewer than `selection.images` asks for.
    """
    table = image_table(cache)
    good = np.flatnonzero(table["class"] == "good")
    bad = np.flatnonzero(table["class"] == "bad")
    if selection.kinds != "all":
        bad = np.flatnonzero((table["class"] == "bad") & (table["kind"] == selection.kinds))
    if selection.images is not None:
        half = selection.images // 2
        if min(len(good), len(bad)) < half:
            raise ValueError(
                f"data.images={selection.images} needs {half} good and {half} bad images; there are {len(good)} and "
                f"{len(bad)}: extract more, or ask for fewer"
            )
        rng = np.random.default_rng(selection.seed)
        good, bad = rng.permutation(good), rng.permutation(bad)
        if strata is not None:
            good, bad = _pairs(good, bad, [strata[info.id] for info in cache.images], rng)
            if len(good) < half:
                raise ValueError(
                    f"data.images={selection.images} needs {half} good and {half} bad images that match; there are "
                    f"{len(good)} pairs: extract more, or ask for fewer"
                )
        good, bad = good[:half], bad[:half]
    for name, images in (("good", good), ("bad", bad)):
        if len(images) < FEWEST:
            of_kind = f" of kind {selection.kinds}" if selection.kinds != "all" and name == "bad" else ""
            raise ValueError(
                f"{len(images)} {name} images{of_kind} are too few: label at least {FEWEST} of each class, then extract"
            )
    rest = [] if selection.images is not None else np.flatnonzero(table["class"] == "no hand")
    return sorted(int(i) for i in [*good, *bad, *rest])


def _pairs(
    good: np.ndarray, bad: np.ndarray, key: list[str], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The images in pairs of one good and one bad image of equal key, pairs in random order."""
    found: list[tuple[int, int]] = []
    for value in dict.fromkeys(key):
        of_good, of_bad = ([i for i in images if key[i] == value] for images in (good, bad))
        found += zip(of_good, of_bad, strict=False)
    pairs = rng.permutation(np.array(found, int).reshape(-1, 2))
    return pairs[:, 0], pairs[:, 1]


def design_of(
    cache: ActivationCache, strata: Mapping[str, str] | None = None, n_folds: int = 5, **options: int
) -> Design:
    """Labels, strata, folds and permutations of a run's images, for every measure and probe.

    Args:
        strata: matching key of each image by id, as `Choice.strata` has it; None where labels were not matched.
        options: draws, seed, permutations of `Design.of`.

    Raises:
        ValueError: one class only, or too few images or prompts for the folds.
    """
    label = image_labels(cache.tokens.image, cache.tokens.label, len(cache.images))
    keys = None if strata is None else [strata[info.id] for info in cache.images]
    return Design.of(label, [info.prompt for info in cache.images], keys, n_folds, **options)


def image_table(cache: ActivationCache) -> pd.DataFrame:
    """One row an image: id, prompt, seed, class (bad if any hand token is), kind of error, tokens of each class, who
    labelled it, and its prompt's axes as JSON."""
    tokens, n = cache.tokens, len(cache.images)

    def count(keep: np.ndarray) -> np.ndarray:
        return np.bincount(tokens.image[keep], minlength=n)

    good, bad = count(tokens.label == GOOD), count(tokens.label == BAD)
    local, whole = count(tokens.kind == LOCAL), count(tokens.kind == GLOBAL)
    kind = np.select([(local > 0) & (whole > 0), local > 0, whole > 0], ["both", "local", "global"], "")
    return pd.DataFrame(
        {
            "image": [info.id for info in cache.images],
            "prompt": [info.prompt for info in cache.images],
            "seed": [info.seed for info in cache.images],
            "class": np.select([bad > 0, good > 0], ["bad", "good"], "no hand"),
            "kind": np.where(bad > 0, kind, ""),
            "good_tokens": good,
            "bad_tokens": bad,
            "not_hand_tokens": count(tokens.label == NOT_HAND),
            "annotator": [str(meta.get("annotator", "")) for meta in cache.meta],
            "axes": [json.dumps(meta.get("axes") or {}, sort_keys=True) for meta in cache.meta],
        }
    )
