"""An oracle from elsewhere: after least-squares concept erasure (EleutherAI's own library) no probe finds the class."""

import numpy as np
import pytest
import torch
from concept_erasure import LeaceFitter

from badhands.cells import Cell
from badhands.experiments.erase import leace
from badhands.stats.design import Design
from badhands.stats.headline import headline, plain_features
from badhands.stats.intervals import Scored
from badhands.study.activations import ActivationCache
from synthetic_cache import write_cache

CELL = Cell("single.0", 3)
FRESH = 60
"""Images on which probes are trained and tested; the eraser is fitted on all others."""


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hand tokens of 300 images as (float64[n, d], image int[n], good bool[images])."""
    folder = tmp_path_factory.mktemp("cache")
    write_cache(folder, images=300, prompts=300, cells=[CELL], d=12, shift=2.0, tokens=(4, 6), not_hand=1)
    cache = ActivationCache(folder)
    hand = np.isin(cache.tokens.label, (1, 2))
    image, label = cache.tokens.image[hand], cache.tokens.label[hand]
    good = np.zeros(300, bool)
    good[image] = label == 1
    return cache.read(CELL).double().numpy()[hand], image, good


def probe(x: np.ndarray, image: np.ndarray, good: np.ndarray) -> Scored:
    """The headline on the fresh images."""
    means = np.stack([x[image == i].mean(0) for i in range(FRESH)])
    design = Design.of(good[:FRESH].astype(int), range(FRESH), permutations=200)
    return headline(["cell"], [plain_features(means)], design)


def test_after_erasure_fresh_probes_are_at_chance_and_before_they_are_not(planted):
    x, image, good = planted
    before = probe(x, image, good)
    assert before.value[0] > 0.9 and before.intervals[0, 0] > 0.8
    others = image >= FRESH
    fitter = LeaceFitter(x.shape[1], 1, dtype=torch.float64)
    fitter.update(torch.from_numpy(x[others]), torch.from_numpy(good[image[others]]).double())
    erased = fitter.eraser(torch.from_numpy(x)).numpy()
    low, high = probe(erased, image, good).intervals[0]
    assert low < 0.5 < high
    shuffled = np.random.default_rng(0).permutation(good)
    other = LeaceFitter(x.shape[1], 1, dtype=torch.float64)
    other.update(torch.from_numpy(x[others]), torch.from_numpy(shuffled[image[others]]).double())
    assert probe(other.eraser(torch.from_numpy(x)).numpy(), image, good).value[0] > 0.8, (
        "erasing something else leaves it"
    )


def test_the_ablation_of_this_project_erases_what_the_library_erases(planted):
    x, image, good = planted
    z = good[image]
    fitter = LeaceFitter(x.shape[1], 1, dtype=torch.float64)
    fitter.update(torch.from_numpy(x), torch.from_numpy(z).double())
    theirs = fitter.eraser(torch.from_numpy(x)).numpy()
    ours = leace(x, z, np.ones(len(x)))[1](torch.from_numpy(x).float()).numpy()
    assert np.abs(ours - theirs).max() < 1e-3 * x.std(0).max()
