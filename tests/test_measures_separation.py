"""Closed forms, and the bias that this project must not fall for."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

from badhands.measures.contrasts import Contrast
from badhands.measures.nulls import LeftOut, distance_terms, labellings, over_left_out, over_permutations
from badhands.measures.reduced import full_distances, outer_sums
from badhands.measures.separation import (
    bayes_error_bounds,
    bhattacharyya,
    bhattacharyya_full,
    certified_distance,
    corrected_mean_term,
    equivalent_distance,
    kde_distance,
)
from badhands.measures.sides import CellSums, image_means, noise, observed, sides
from badhands.stats.design import Design, p_value
from badhands.stats.intervals import jackknife_variance, quadratic_interval

RNG = np.random.default_rng


def images_of(good: int, bad: int, tokens: int, d: int, seed: int, shift=0.0, image_std=0.5):
    """A contrast of pure images with a random image effect, and its sums. shift: added to the good class, [d]."""
    rng = RNG(seed)
    j = good + bad
    role = np.arange(j) < good
    x = (
        image_std * rng.normal(size=(j, 1, d))
        + rng.normal(size=(j, tokens, d))
        + np.where(role, 1, 0)[:, None, None] * shift
    )
    chosen = Contrast("good_vs_bad", np.arange(j), np.arange(j), role, np.arange(j), np.arange(j), role,
                      np.full(j, tokens), np.full(j, float(tokens)))  # fmt: skip
    return chosen, CellSums.of(chosen, x.sum(1), (x**2).sum(1)), x


def measured(chosen, sums, count=200, seed=0):
    """(plug-in, null, corrected, interval) of the whole statistic."""
    value = float(distance_terms(sides(sums, observed(chosen)))[0, :2].sum())
    design = design_of(chosen, count, seed)
    null = over_permutations(sums, labellings(chosen, design), distance_terms).sum(1).numpy()
    one_less = LeftOut.of(chosen, design)
    left_out, role = over_left_out(sums, one_less, distance_terms).sum(1).numpy(), one_less.role
    corrected = value - null.mean()
    return value, null, corrected, quadratic_interval(corrected, float(jackknife_variance(left_out, role)), null)


def design_of(chosen, permutations: int, seed: int = 0) -> Design:
    role = chosen.role.astype(int)
    return Design.of(role, range(len(role)), n_folds=3, draws=1, seed=seed, permutations=permutations)


@given(m=st.floats(-3, 3), s1=st.floats(0.2, 5), s0=st.floats(0.2, 5))
@settings(max_examples=30, deadline=None)
def test_one_channel_is_the_integral(m, s1, s0):
    """-ln of the integral of sqrt(p q), done numerically."""
    grid = np.linspace(-40, 40, 40_001)
    overlap = np.sqrt(norm.pdf(grid, m, s1**0.5) * norm.pdf(grid, 0, s0**0.5)).sum() * (grid[1] - grid[0])
    terms = bhattacharyya(*(torch.tensor([v], dtype=torch.float64) for v in (m, s1, s0)))
    assert float(terms[0] + terms[1]) == pytest.approx(-math.log(overlap), abs=1e-6)


def test_variance_term_is_ln_cosh():
    s1, s0 = torch.tensor([0.3, 2.0, 1.0]), torch.tensor([0.7, 0.5, 1.0])
    u = torch.log(s1 / s0)
    expected = 0.5 * torch.log(torch.cosh(u / 2))
    torch.testing.assert_close(bhattacharyya(torch.zeros(3), s1, s0)[1], expected)


def test_full_covariance_is_the_diagonal_one_on_diagonals_and_the_integral_otherwise():
    rng = RNG(0)
    mean, v1, v0 = rng.normal(size=4), rng.uniform(0.5, 2, 4), rng.uniform(0.5, 2, 4)
    zero = torch.zeros(4, dtype=torch.float64)
    full = bhattacharyya_full(
        torch.from_numpy(mean), zero, torch.diag(torch.from_numpy(v1)), torch.diag(torch.from_numpy(v0))
    )
    diagonal = sum(term.sum() for term in bhattacharyya(*map(torch.from_numpy, (mean, v1, v0))))
    assert float(full) == pytest.approx(float(diagonal))
    c1, c0 = np.array([[1.0, 0.6], [0.6, 1.5]]), np.array([[0.8, -0.3], [-0.3, 1.0]])
    axis = np.linspace(-9, 9, 301)
    points = np.stack(np.meshgrid(axis, axis), -1)
    p, q = multivariate_normal([0.5, -0.4], c1).pdf(points), multivariate_normal([0, 0], c0).pdf(points)
    overlap = np.sqrt(p * q).sum() * (axis[1] - axis[0]) ** 2
    found = bhattacharyya_full(
        torch.tensor([0.5, -0.4]).double(), torch.zeros(2).double(), *map(torch.from_numpy, (c1, c0))
    )
    assert float(found) == pytest.approx(-math.log(overlap), abs=1e-5)


@given(d=st.floats(0.05, 4))
@settings(max_examples=30, deadline=None)
def test_errors_and_distances_agree_for_two_normals(d):
    """Unit variance, means d apart: everything is known."""
    distance, error, auroc = d**2 / 8, norm.cdf(-d / 2), norm.cdf(d / math.sqrt(2))
    low, high = bayes_error_bounds(distance)
    assert low <= error <= high
    assert equivalent_distance(auroc) == pytest.approx(distance)
    assert 0 <= certified_distance(error) <= distance + 1e-12


def test_chance_certifies_nothing():
    assert certified_distance(0.5) == certified_distance(0.7) == equivalent_distance(0.4) == 0.0


def test_density_estimate_finds_the_gaussian_distance_and_what_gaussians_miss():
    rng = RNG(1)
    assert kde_distance(rng.normal(1.5, 1, 20_000), rng.normal(0, 1, 20_000)) == pytest.approx(1.5**2 / 8, abs=0.02)
    two_humps = np.concatenate([rng.normal(-3, 0.3, 10_000), rng.normal(3, 0.3, 10_000)])
    same_moments = rng.normal(0, two_humps.std(), 20_000)
    assert kde_distance(two_humps, same_moments) > 0.2


def test_sums_give_the_distance_of_the_tokens():
    chosen, sums, x = images_of(7, 5, 9, 6, seed=2, shift=np.arange(6) / 4)
    good, bad = x[:7].reshape(-1, 6), x[7:].reshape(-1, 6)
    expected = bhattacharyya(*map(torch.from_numpy, (good.mean(0) - bad.mean(0), good.var(0), bad.var(0))))
    found = distance_terms(sides(sums, observed(chosen)))[0]
    assert float(found[0]) == pytest.approx(float(expected[0].sum()), rel=1e-4)
    assert float(found[1]) == pytest.approx(float(expected[1].sum()), rel=1e-3)


def test_scaling_or_moving_channels_changes_nothing():
    chosen, sums, x = images_of(8, 8, 6, 10, seed=3, shift=0.4)
    rng = RNG(4)
    y = x * np.exp(rng.normal(0, 3, 10)) + 50 * rng.normal(size=10)
    other = CellSums.of(chosen, y.sum(1), (y**2).sum(1))
    for one, two in zip(measured(chosen, sums, 50), measured(chosen, other, 50), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-3, atol=2e-4)


def test_dead_channels_are_left_out():
    chosen, sums, x = images_of(5, 5, 4, 3, seed=5)
    dead = np.concatenate([x, np.full((*x.shape[:2], 1), 7.25)], axis=-1)
    other = CellSums.of(chosen, dead.sum(1), (dead**2).sum(1))
    assert other.varying_channels.tolist() == [0, 1, 2]
    assert measured(chosen, other, 24)[0] == pytest.approx(measured(chosen, sums, 24)[0], rel=1e-5)


def test_equal_classes_fool_the_plug_in_but_not_the_corrected_value():
    """60 channels, 15 + 15 images, no difference: plug-in far above 0, corrected interval holds 0."""
    held, mean_terms = 0, []
    for seed in range(40):
        chosen, sums, _ = images_of(15, 15, 10, 60, seed=seed)
        value, _, corrected, (low, high) = measured(chosen, sums, 200)
        assert value > 0.3 and abs(corrected) < 0.6 * value
        held += low <= 0 <= high
        both = sides(sums, observed(chosen))
        extra = sum(noise(*image_means(chosen, sums, side)) for side in (True, False))
        sbar = ((both.var_good + both.var_bad) / 2)[0].double().numpy()
        mean_terms.append(corrected_mean_term(both.gap[0].double().numpy(), np.asarray(extra), sbar))
    assert held >= 36
    assert abs(np.mean(mean_terms)) < 2.5 * np.std(mean_terms) / math.sqrt(len(mean_terms))


def test_planted_distance_is_recovered_and_the_interval_covers_it():
    shift = np.zeros(40)
    shift[:4] = 0.8
    truth = 4 * 0.8**2 / (8 * 1.25)
    found, held = [], 0
    for seed in range(30):
        chosen, sums, _ = images_of(25, 25, 10, 40, seed=100 + seed, shift=shift)
        _, _, corrected, (low, high) = measured(chosen, sums, 200)
        found.append(corrected)
        held += low <= truth <= high
    assert np.mean(found) == pytest.approx(truth, rel=0.1)
    assert held >= 26


def test_p_values_are_uniform_without_a_difference():
    ps = []
    for seed in range(60):
        chosen, sums, _ = images_of(8, 8, 5, 20, seed=200 + seed)
        value, null, *_ = measured(chosen, sums, 99)
        ps.append(p_value(value, null))
    ps = np.array(ps)
    assert 0.35 < ps.mean() < 0.65
    assert (ps <= 0.05).mean() < 0.15 and (ps <= 0.5).mean() > 0.3


def test_mixed_images_trade_both_kinds_of_tokens():
    """Image 0 is mixed (rows bad and good), 1 bad, 2 and 3 good."""
    chosen = Contrast("good_vs_bad", np.arange(5), np.arange(5), np.array([False, True, False, True, True]),
                      np.array([0, 0, 1, 2, 3]), np.arange(4), np.array([False, False, True, True]),
                      np.full(5, 3), np.full(5, 3.0))  # fmt: skip
    role = chosen.role.astype(np.int32)
    design = Design(role, np.arange(4), np.zeros(4, int), np.zeros(4, int), np.zeros((1, 4), int), 0, 200)
    drawn = labellings(chosen, design).numpy().astype(bool)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    assert (drawn[:, [0, 2, 3, 4]].sum(1) == 2).all()
    assert len(np.unique(drawn, axis=0)) == 6


def test_full_distance_from_sums_equals_tokens():
    rng = RNG(7)
    y, row = torch.from_numpy(rng.normal(size=(60, 3)) @ rng.normal(size=(3, 3))), torch.arange(60) % 6
    good = torch.tensor([[1.0, 1, 1, 0, 0, 0]])
    found = full_distances(outer_sums(y, row, 6), good, 1 - good)
    scaled = (y / y.std(0, correction=0)).numpy()
    sides_ = [scaled[(row < 3).numpy()], scaled[(row >= 3).numpy()]]
    covariances = [torch.from_numpy(np.cov(s.T, bias=True)) + 1e-3 * torch.eye(3) for s in sides_]
    means = [torch.from_numpy(s.mean(0)) for s in sides_]
    assert float(found[0]) == pytest.approx(float(bhattacharyya_full(*means, *covariances)), rel=1e-6)


@pytest.mark.parametrize("of_prompts", [False, True])
def test_what_is_left_when_an_image_is_taken_off_is_what_the_others_give(of_prompts):
    """Sums without a cluster are the whole minus its own; the oracle adds up the others."""
    chosen, sums, _ = images_of(20, 24, 5, 6, seed=3, shift=0.5)
    design = design_of(chosen, 24)
    one_less = LeftOut.of(chosen, design)
    if of_prompts:
        one_less = replace(one_less, of_row=one_less.of_row // 4, role=None)
    found = over_left_out(sums, one_less, distance_terms)
    for k in range(len(one_less)):
        others = torch.from_numpy(np.flatnonzero(one_less.of_row != k))
        expected = distance_terms(sides(sums.only(others), observed(chosen)[:, others]))
        torch.testing.assert_close(found[k : k + 1], expected, rtol=1e-4, atol=1e-5)
