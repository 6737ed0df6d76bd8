"""Scores against scikit-learn and torchmetrics, nulls that are null, and the baselines."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score, brier_score_loss, roc_auc_score
from torchmetrics.functional.classification import binary_calibration_error

from badhands.probes.image_means import image_means
from badhands.probes.scores import TokenScores, image_score, image_scores, mean_pool, token_scores, worst_pool
from badhands.probes.training_rows import good_rows
from badhands.stats.folds import image_labels, make_folds
from badhands.stats.resampling import image_draws
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


def everything(logit, p, y, image, label, fold=None):
    fold = np.zeros(len(label), int) if fold is None else fold
    of = TokenScores(logit, p, y, image, np.ones(len(y)), label, fold)
    return image_scores(of, np.arange(60), 1.0) + token_scores(of, image_draws(60, 400), 1.0, "good")


def test_metrics_are_scikit_learns_and_torchmetrics(tokens):
    image, label, y, logit, p = tokens
    found = {s.metric: s for s in everything(logit, p, y, image, label)}
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
    once = everything(logit, p, y, image, label)
    thrice = everything(*(np.repeat(a, 3) for a in (logit, p, y, image)), label)
    for a, b in zip(once, thrice, strict=True):
        # Copies are ties, which average precision takes in order, and a tenth of an odd number of tokens rounds up.
        if a.metric not in ("token_average_precision", "image_auroc_worst10"):
            assert (b.lo, b.hi) == pytest.approx((a.lo, a.hi), abs=2e-3), a.metric
    assert once[0].hi - once[0].lo > 0.1  # and not the width that thousands of independent tokens would have


def test_an_image_score_compares_within_folds_and_widens_its_interval(tokens):
    image, label, _, logit, _ = tokens
    fold = np.arange(60) // 2 % 3
    shifted = mean_pool(logit, image, 60) + 100 * fold  # folds of different scale
    plain = image_score("image_auroc", shifted, label, fold, np.arange(60), 1.0)
    wide = image_score("image_auroc", shifted, label, fold, np.arange(60), 1.5)
    assert plain.value == wide.value > 0.6 and wide.hi - wide.lo > 1.3 * (plain.hi - plain.lo)
    assert plain.value > roc_auc_score(label, shifted) + 0.05
    shifted[:4] = np.nan
    assert image_score("image_auroc", shifted, label, fold, np.arange(60), 1.0).n == 56


@pytest.fixture(scope="module")
def null_study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("null")
    planted = write_cache(folder, images=60, prompts=60, d=24, shift=0.0, kinds=False, seed=5)
    cache = ActivationCache(folder)
    label = image_labels(cache.tokens.image, cache.tokens.label, 60)
    return planted, cache, label, good_rows(cache.tokens.image, cache.tokens.label, make_folds(label, range(60), 5))


def test_random_directions_have_the_within_class_covariance(null_study):
    planted, cache, _, training = null_study
    many = image_means(planted.cells[:1], lambda c: cache.read(c, training.rows), training, draws=4000)
    x = cache.read(planted.cells[0], training.rows).double()
    weight = torch.from_numpy(training.base)
    y = torch.from_numpy(training.y)
    centred = (
        x - torch.stack([(x[y == k] * weight[y == k, None]).sum(0) / weight[y == k].sum() for k in (0, 1)])[y.long()]
    )
    within = [(centred[y == k].square() * weight[y == k, None]).sum(0) / weight[y == k].sum() for k in (0, 1)]
    assert torch.allclose(many.draws[0].double().var(0), (within[0] + within[1]) / 2, rtol=0.15)
    assert many.draws[0].mean(0).abs().max() < 0.1 * many.draws[0].std(0).max()
