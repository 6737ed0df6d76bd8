"""Scores against scikit-learn and torchmetrics, nulls that are null, and the baselines."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score, brier_score_loss, roc_auc_score
from torchmetrics.functional.classification import binary_calibration_error

from badhands.cells import Cell
from badhands.probes.bank import train_bank
from badhands.probes.controls import geometry, x0_variances
from badhands.probes.image_means import image_means
from badhands.probes.nulls import p_value, permuted_labels, refit_null, ridge_null
from badhands.probes.scores import image_auroc, mean_pool, resample, score_cell, worst_pool
from badhands.probes.settings import ProbeSettings
from badhands.probes.task import good_task
from badhands.stats.folds import image_labels, make_folds
from badhands.study.activations import ActivationCache
from synthetic_cache import write_cache


@pytest.fixture
def tokens():
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(60), rng.integers(3, 40, 60))
    label = (np.arange(60) % 2).astype(np.int32)
    y = label[image].astype(np.float32)
    logit = rng.normal(size=len(image)) + (y - 0.5) + rng.normal(size=60)[image]
    return image, label, y, logit, 1 / (1 + np.exp(-logit))


def test_metrics_are_scikit_learns_and_torchmetrics(tokens):
    image, label, y, logit, p = tokens
    found = {s.metric: s for s in score_cell(logit, p, y, image, np.ones(len(y)), label, resample(60, 200))}
    pooled = mean_pool(logit, image, 60)
    expected = {
        "image_auroc": roc_auc_score(label, pooled),
        "image_auroc_worst10": roc_auc_score(label, worst_pool(logit, image, 60)),
        "image_balanced_accuracy": balanced_accuracy_score(label, mean_pool(p, image, 60) > 0.5),
        "token_auroc": roc_auc_score(y, logit),
        "token_average_precision": average_precision_score(1 - y, -logit),
        "token_balanced_accuracy": balanced_accuracy_score(y, p > 0.5),
        "token_brier": brier_score_loss(y, p),
        "token_calibration_error": binary_calibration_error(torch.tensor(p), torch.tensor(y).int(), n_bins=15).item(),
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-6), name
        assert found[name].lo <= found[name].value <= found[name].hi, name
    assert found["image_auroc"].n == 60 and found["token_auroc"].n == len(y)


def test_pooling_the_worst_tenth(tokens):
    image, _, _, logit, _ = tokens
    for i in (0, 7, 59):
        own = np.sort(logit[image == i])
        assert worst_pool(logit, image, 60)[i] == pytest.approx(own[: max(1, int(np.ceil(0.1 * len(own))))].mean())


def test_the_bootstrap_is_over_images(tokens):
    """Copying every token of every image changes no interval of an image metric, and no token interval to speak of."""
    image, label, y, logit, p = tokens
    weights = resample(60, 400)
    once = score_cell(logit, p, y, image, np.ones(len(y)), label, weights)
    thrice = score_cell(*(np.repeat(a, 3) for a in (logit, p, y, image)), np.ones(3 * len(y)), label, weights)
    for a, b in zip(once, thrice, strict=True):
        # Copies are ties, which average precision takes in order, and a tenth of an odd number of tokens rounds up.
        if a.metric not in ("token_average_precision", "image_auroc_worst10"):
            assert (b.lo, b.hi) == pytest.approx((a.lo, a.hi), abs=2e-3), a.metric
    assert once[0].hi - once[0].lo > 0.1  # and not the width that thousands of independent tokens would have


def test_weighted_auroc_counts_an_image_as_often_as_it_was_drawn(tokens):
    _, label, _, _, _ = tokens
    rng = np.random.default_rng(1)
    score = np.round(rng.normal(size=60), 1)  # with ties
    weights = resample(60, 5, seed=2)
    for w, value in zip(weights, image_auroc(score, label, weights), strict=True):
        many = np.repeat(np.arange(60), w.astype(int))
        assert value == pytest.approx(roc_auc_score(label[many], score[many]))


@pytest.fixture(scope="module")
def null_study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("null")
    planted = write_cache(folder, images=60, prompts=60, d=24, shift=0.0, kinds=False, seed=5)
    cache = ActivationCache(folder)
    label = image_labels(cache.tokens.image, cache.tokens.label, 60)
    return planted, cache, label, good_task(cache.tokens.image, cache.tokens.label, make_folds(label, range(60), 5))


def test_where_nothing_is_planted_nothing_is_found(null_study):
    planted, cache, label, task = null_study
    means = image_means(planted.cells, lambda c: cache.read(c, task.rows), task)
    areas = ridge_null(means, task.folds, np.concatenate([label[None], permuted_labels(label, 300)]))
    assert abs(areas[1:].mean() - 0.5) < 0.05  # folds of 12 images pull a null a little below one half
    family = p_value(areas[0], areas[1:].max(1, keepdims=True))
    assert family.min() > 0.05
    assert (family >= p_value(areas[0], areas[1:])).all()  # choosing the best cell has its price


def test_the_cheap_null_is_as_wide_as_refitting_the_probe(null_study):
    planted, cache, label, task = null_study
    cells, drawn = planted.cells[:3], permuted_labels(label, 60)
    read = lambda c: cache.read(c, task.rows)  # noqa: E731
    refitted = refit_null(cells, read, task, ProbeSettings(), [1.0] * 3, drawn)
    cheap = ridge_null(image_means(cells, read, task), task.folds, drawn)
    assert abs(refitted.mean() - cheap.mean()) < 0.04
    assert refitted.std() / cheap.std() == pytest.approx(1, abs=0.25)


def test_refitting_on_a_permutation_is_training_on_it(null_study):
    """Twelve permutations as columns of one fit equal a bank trained on one of them."""
    planted, cache, label, task = null_study
    drawn = permuted_labels(label, 12)
    read = lambda c: cache.read(c, task.rows)  # noqa: E731
    settings = ProbeSettings(penalties=(0.5,), tolerance=1e-6)
    areas = refit_null(planted.cells[:1], read, task, settings, [0.5], drawn)
    other = task.relabelled((drawn[7][task.image] == 1).astype(np.float32))
    bank = train_bank(planted.cells[:1], 24, other, settings, read)
    score = mean_pool(bank.logit[0].double().numpy(), task.image, 60)
    assert areas[7, 0] == pytest.approx(image_auroc(score, drawn[7])[0], abs=0.003)


def test_a_planted_shift_is_significant_after_paying_for_the_best_cell(tmp_path):
    planted = write_cache(tmp_path, images=60, prompts=60, d=24, shift=1.5, seed=1)
    cache = ActivationCache(tmp_path)
    label = image_labels(cache.tokens.image, cache.tokens.label, 60)
    task = good_task(cache.tokens.image, cache.tokens.label, make_folds(label, range(60), 5))
    means = image_means(planted.cells, lambda c: cache.read(c, task.rows), task)
    areas = ridge_null(means, task.folds, np.concatenate([label[None], permuted_labels(label, 200)]))
    assert p_value(areas[0], areas[1:].max(1, keepdims=True)).min() < 0.01
    gap = means.class_mean[:, 1] - means.class_mean[:, 0]
    for c, cell in enumerate(planted.cells):
        assert torch.nn.functional.cosine_similarity(gap[c], torch.tensor(planted.shift[cell]).float(), dim=0) > 0.3


def test_random_directions_have_the_within_class_covariance(null_study):
    planted, cache, _, task = null_study
    many = image_means(planted.cells[:1], lambda c: cache.read(c, task.rows), task, draws=4000)
    x = cache.read(planted.cells[0], task.rows).double()
    weight = torch.from_numpy(task.base)
    y = torch.from_numpy(task.y)
    centred = (
        x - torch.stack([(x[y == k] * weight[y == k, None]).sum(0) / weight[y == k].sum() for k in (0, 1)])[y.long()]
    )
    within = [(centred[y == k].square() * weight[y == k, None]).sum(0) / weight[y == k].sum() for k in (0, 1)]
    assert torch.allclose(many.draws[0].double().var(0), (within[0] + within[1]) / 2, rtol=0.15)
    assert many.draws[0].mean(0).abs().max() < 0.1 * many.draws[0].std(0).max()


def test_geometry_and_x0_variance(null_study):
    _, cache, _, task = null_study
    features = geometry(task, cache.tokens.token, np.array([i.grid for i in cache.images]))
    first = task.rows[0]
    row, column = divmod(int(cache.tokens.token[first]), 16)
    assert features[0, 1].item() == pytest.approx(2 * (row + 0.5) / 16 - 1)
    assert features[0, 2].item() == pytest.approx(2 * (column + 0.5) / 16 - 1)
    assert features[0, 0].exp().item() == pytest.approx((task.image == task.image[0]).sum())
    steps = {Cell("x0", t): torch.randn(5, 3, generator=torch.Generator().manual_seed(t)) for t in (20, 15, 8)}
    found = x0_variances(list(steps), steps.__getitem__)
    assert list(found) == [Cell("x0_variance", 15), Cell("x0_variance", 8)]
    expected = torch.stack(list(steps.values())).var(0, unbiased=False).mean(1).log()
    assert torch.allclose(found[Cell("x0_variance", 8)][:, 0], expected, atol=1e-4)
