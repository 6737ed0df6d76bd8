"""Intervals over few prompts: degrees of freedom are those of the prompts, not of their images."""

import numpy as np
import pytest

from badhands.stats.intervals import auroc_interval, mean_interval, quotient_interval


@pytest.mark.parametrize("prompts", [4, 6, 20])
def test_costs_over_few_prompts_cover(prompts):
    """With the degrees of freedom of 48 images those of 4 prompts hold the truth in 91 %."""
    rng, held = np.random.default_rng(0), 0
    prompt = np.repeat(np.arange(prompts), 12)
    for _ in range(400):
        good = rng.random(len(prompt)) < rng.beta(4, 4, prompts)[prompt]
        _, lo, hi = quotient_interval([np.full(len(prompt), 20.0), good.astype(float)], [1, -1], prompt)
        held += lo <= 40 <= hi
    assert 0.94 <= held / 400 <= 0.99


def test_means_over_few_clusters_cover():
    rng, held = np.random.default_rng(0), 0
    cluster = np.repeat(np.arange(5), 10)
    for _ in range(400):
        _, lo, hi = mean_interval(rng.normal(size=5)[cluster] + rng.normal(size=50), cluster)
        held += lo <= 0 <= hi
    assert 0.93 <= held / 400 <= 0.99


def test_fewer_units_make_a_wider_interval_and_all_pairs_alike_do_not_make_it_narrow():
    good = np.arange(40) % 2 == 0
    few, many = (auroc_interval(0.7, 0.05, good, units=units) for units in (5, 40))
    assert few[0] < many[0] < 0.7 < many[1] < few[1] and many == auroc_interval(0.7, 0.05, good)
    low, high = auroc_interval(1.0, 0.0, good)
    assert 0.8 < low < 0.9 and high == 1
