"""PCA against scikit-learn, PCA against v against the plain definition, kurtosis and held-out scores."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from badhands.measures.contrasts import Contrast
from badhands.measures.gaussianity import excess_kurtosis
from badhands.measures.projections import leading_beside, principal
from badhands.measures.scores import Rules, TokenPairs, held_out, mass_mean, qda, training_sides
from badhands.measures.sides import CellSums


def tokens(n: int, d: int, seed: int = 0) -> torch.Tensor:
    """Correlated channels with a slowly falling spectrum, like activations; centred."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -0.5 @ np.linalg.qr(rng.normal(size=(d, d)))[0]
    x = torch.from_numpy((x - x.mean(0)).astype(np.float32))
    return x - x.mean(0)


@pytest.mark.parametrize("d", [24, 400])
def test_pca_is_that_of_scikit_learn(d):
    x = tokens(900, d)
    found = principal(x, k=3)
    oracle = PCA(3, svd_solver="full").fit(x.numpy())
    np.testing.assert_allclose(found.explained, oracle.explained_variance_ratio_, rtol=2e-3)
    overlap = np.abs(np.sum(found.components.numpy()[:2] * oracle.components_[:2], axis=1))
    np.testing.assert_allclose(overlap, 1, atol=2e-3)


@pytest.mark.parametrize("d", [24, 400])
def test_leading_component_beside_v_is_that_of_deflated_tokens(d):
    x = tokens(700, d, seed=1)
    found = principal(x)
    v = torch.randn(d, generator=torch.Generator().manual_seed(0)) + 3 * found.components[0]
    v /= v.norm()
    component, along = leading_beside(found, v, x @ v)
    deflated = (x - (x @ v)[:, None] * v).numpy()
    oracle = PCA(1, svd_solver="full").fit(deflated)
    assert abs(float(component @ v)) < 1e-3
    assert abs(component.numpy() @ oracle.components_[0]) == pytest.approx(1, abs=5e-3)
    np.testing.assert_allclose(along, x @ component, atol=1e-3)
    flipped, _ = leading_beside(found, v, x @ v, toward=-component)
    np.testing.assert_allclose(flipped, -component, atol=1e-4)


def test_kurtosis_is_zero_for_normals_about_image_means_and_right_for_others():
    rng = np.random.default_rng(0)
    row = np.repeat(np.arange(400), 12)
    noise = np.stack([rng.normal(size=4800), rng.uniform(-1, 1, 4800), rng.laplace(size=4800)], axis=1)
    images = rng.choice([-5.0, 5.0], size=(400, 1))
    x = torch.from_numpy(noise + images[row])
    means = x.view(400, 12, 3).mean(1)
    normal, uniform, laplace = excess_kurtosis(x, torch.from_numpy(row), means).tolist()
    assert abs(normal) < 0.15
    assert uniform < -0.7
    assert laplace > 1.5


def contrast_with_tokens(j: int, d: int, seed: int, shift: float, spread: float = 1.0):
    rng = np.random.default_rng(seed)
    count = rng.integers(4, 15, j)
    row = np.repeat(np.arange(j), count)
    role = np.arange(j) % 2 == 0
    x = rng.normal(size=(len(row), d)) * np.where(role[row], 1, spread)[:, None] + 0.4 * rng.normal(size=(j, d))[row]
    x[role[row], 0] += shift
    x = x * np.linspace(1, 30, d) + 100
    chosen = Contrast("good_vs_bad", np.arange(j), np.arange(j), role, np.arange(j), np.arange(j), role,
                      count, count.astype(float))  # fmt: skip
    onehot = row == np.arange(j)[:, None]
    return chosen, CellSums.of(chosen, onehot @ x, onehot @ x**2), x, row


def scores_of(chosen, sums, x, row, fold, fit) -> np.ndarray:
    centre = np.full(x.shape[1], 90.0)
    rules = fit(training_sides(chosen, sums, fold, int(fold.max()) + 1)).on_raw(sums, centre)
    every = Rules.joined([rules]).scores(torch.from_numpy(x - centre).float())
    return every.numpy()[np.arange(len(row)), fold[row]].astype(float)


def test_rules_are_the_gaussian_ones_fitted_on_other_images():
    from scipy.stats import norm

    chosen, sums, x, row = contrast_with_tokens(20, 5, 0, shift=1.0, spread=1.5)
    fold = np.arange(20) // 4 % 5
    linear, quadratic = (scores_of(chosen, sums, x, row, fold, fit) for fit in (mass_mean, qda))
    for f in range(5):
        train, test = fold[row] != f, fold[row] == f
        good, bad = x[train & chosen.role[row]], x[train & ~chosen.role[row]]
        w = (good.mean(0) - bad.mean(0)) / ((good.var(0) + bad.var(0)) / 2)
        np.testing.assert_allclose(linear[test], (x[test] - (good.mean(0) + bad.mean(0)) / 2) @ w, atol=2e-3)
        log_ratio = sum(sign * norm.logpdf(x[test], s.mean(0), s.std(0)).sum(1) for sign, s in ((1, good), (-1, bad)))
        np.testing.assert_allclose(quadratic[test], log_ratio, atol=2e-3)


def test_token_pairs_give_the_auroc_with_images_weighted_equally():
    chosen, _, x, row = contrast_with_tokens(14, 3, 1, shift=1.0)
    scores = np.round(2 * x[:, 0])  # with many ties
    weight = 1 / np.bincount(row)[row]
    expected = roc_auc_score(chosen.role[row], scores, sample_weight=weight)
    pairs = TokenPairs.of(chosen, scores, row, np.zeros(14, int))
    assert pairs.auroc == pytest.approx(expected)
    fold = np.arange(14) // 7
    token_fold, good = fold[row], chosen.role[row]
    within = [
        roc_auc_score(good[of], scores[of], sample_weight=weight[of]) for of in (token_fold == 0, token_fold == 1)
    ]
    share = [chosen.role[fold == f].sum() * (~chosen.role[fold == f]).sum() for f in (0, 1)]
    assert TokenPairs.of(chosen, scores, row, fold).auroc == pytest.approx(np.average(within, weights=share))
    moved = pairs.influence(14)
    assert moved.sum() == pytest.approx(0, abs=1e-9) and np.abs(moved).max() > 0.1


def test_held_out_scores_find_a_planted_shift_and_nothing_without_one():
    aurocs = {0.0: [], 1.5: []}
    for shift in aurocs:
        for seed in range(12):
            chosen, sums, x, row = contrast_with_tokens(30, 8, 300 + seed, shift)
            fold = np.random.default_rng(seed).permutation(30) % 5
            score = scores_of(chosen, sums, x, row, fold, mass_mean)
            found = held_out(chosen, score, row, fold, np.arange(30), widening=1.4)
            value, low, high = found["auroc"]
            assert low < value < high
            aurocs[shift].append(value)
            assert found["certified"][0] <= max(found["db_scores"][0], 0.0) + 0.1
    assert 0.35 < np.mean(aurocs[0.0]) < 0.58
    assert np.mean(aurocs[1.5]) > 0.75


def test_variances_help_qda_only_where_they_differ():
    gains = {}
    for spread in (1.0, 2.0):
        chosen, sums, x, row = contrast_with_tokens(40, 10, 9, shift=0.3, spread=spread)
        fold = np.arange(40) // 2 % 5
        auroc = [
            TokenPairs.of(chosen, scores_of(chosen, sums, x, row, fold, fit), row, fold).auroc
            for fit in (mass_mean, qda)
        ]
        gains[spread] = auroc[1] - auroc[0]
    assert gains[2.0] > 0.2 and abs(gains[1.0]) < 0.1
