"""The gate: shuffled studies claim something no more often than it promises, and what is planted is found."""

import numpy as np
import pandas as pd
import pytest
import torch

from badhands.cells import grid
from badhands.measures.moments import stream_moments
from badhands.measures.plan import make_plan
from badhands.measures.settings import MeasureConfig
from badhands.replicate.null import run
from badhands.replicate.shuffled import findings_of, moments_of, shuffled, told
from badhands.study.activations import ActivationCache
from badhands.study.classes import BAD, GOOD
from synthetic_cache import write_cache

CELLS = grid(["single.0", "single.1"], [20, 3])


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> ActivationCache:
    folder = tmp_path_factory.mktemp("cache")
    write_cache(folder, images=40, prompts=40, cells=CELLS, d=12, shift={CELLS[1]: 2.0}, tokens=(6, 10), not_hand=4)
    return ActivationCache(folder)


def test_shuffling_exchanges_classes_of_whole_images_and_nothing_else(cache):
    other = shuffled(cache, None, 3)
    changed = other.tokens.label != cache.tokens.label
    turned = np.unique(cache.tokens.image[changed])
    assert 0 < len(turned) < 40
    for image in turned:
        rows = cache.tokens.image == image
        hand = np.isin(cache.tokens.label[rows], (GOOD, BAD))
        assert changed[rows][hand].all() and not changed[rows][~hand].any()

    def count(of: ActivationCache) -> int:
        return len({i for i, label in zip(of.tokens.image, of.tokens.label, strict=True) if label == BAD})

    assert count(other) == count(cache), "as many bad images as before"


def test_strata_exchange_among_themselves(cache):
    strata = {info.id: str(i % 4) for i, info in enumerate(cache.images)}
    other = shuffled(cache, strata, 5)
    for name in "0123":
        images = [i for i, info in enumerate(cache.images) if strata[info.id] == name]

        def bad(of: ActivationCache, images: list[int] = images) -> int:
            return sum((of.tokens.label[of.tokens.image == i] == BAD).any() for i in images)

        assert bad(other) == bad(cache)


def test_what_is_planted_passes_the_gate_and_shuffled_studies_rarely_do(cache, tmp_path):
    assert findings_of(cache, None, tmp_path, permutations=200)["auroc"] >= 1
    text = run(cache, None, tmp_path / "out", "small", runs=6, permutations=60)
    assert "gate of 5% holds" in text
    again = run(cache, None, tmp_path / "out", "small", runs=6, permutations=60)
    assert again == text, "kept rows are not made again"
    assert not list((tmp_path / "out").glob("*.npz"))


@pytest.mark.parametrize("mixed", [0.0, 0.5], ids=["whole", "mixed"])
def test_sums_read_once_serve_every_shuffled_study(mixed, tmp_path):
    write_cache(tmp_path, images=24, prompts=24, cells=CELLS[:2], d=6, tokens=(6, 10), not_hand=4, mixed=mixed)
    cache = ActivationCache(tmp_path)
    shared = moments_of(cache, tmp_path / "shared.npz")
    for seed in (1, 2):
        study = shuffled(cache, None, seed)
        plan = make_plan(study, MeasureConfig())
        again = stream_moments(
            lambda image, cell, out: cache.files[image].read_into(str(cell), out),
            cache.tokens.image, plan.groups, {c: (6, torch.bfloat16) for c in cache.cells}, tmp_path / "again.npz",
        )  # fmt: skip
        for cell in cache.cells:
            for one, other in zip(shared.grouped(plan.groups).sums(cell), again.sums(cell), strict=True):
                assert np.array_equal(one, other)


def test_processes_find_what_one_finds(cache, tmp_path):
    """What it finds beside the intervals: the same as a run that reads the activations for itself."""
    alone = run(cache, None, tmp_path / "one", "small", runs=3, permutations=60)
    several = run(cache, None, tmp_path / "two", "small", runs=3, permutations=60, workers=2)
    one, two = (pd.read_csv(tmp_path / name / "small.csv") for name in ("one", "two"))
    assert one.equals(two) and alone.split("\n")[0] == several.split("\n")[0]
    for seed, row in zip((1, 2, 3), one.to_dict("records"), strict=True):
        found = findings_of(shuffled(cache, None, seed), None, tmp_path, seed, 60)
        assert row == {"seed": seed, **found, "any": sum(found.values())}


def test_a_broken_gate_is_called_broken():
    assert "0 of 100" in told([0] * 100) and "holds" in told([0] * 93 + [2] * 7)
    assert "is broken" in told([1] * 15 + [0] * 85)
