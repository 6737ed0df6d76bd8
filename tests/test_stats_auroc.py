"""AUROC against scikit-learn, pair by pair and batch by batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from badhands.stats.auroc import auroc, placements


def by_pairs(score, good, weight, fold):
    won = pairs = 0.0
    for i in np.flatnonzero(good):
        for j in np.flatnonzero(~good):
            if fold[i] == fold[j]:
                w = weight[i] * weight[j]
                won, pairs = won + w * ((score[i] > score[j]) + 0.5 * (score[i] == score[j])), pairs + w
    return won / pairs if pairs else np.nan


@given(st.integers(0, 10_000), st.integers(2, 6), st.booleans())
@settings(max_examples=40, deadline=None)
def test_it_is_the_share_of_pairs_won_with_ties_weights_and_folds(seed, levels, weighted):
    rng = np.random.default_rng(seed)
    score, good = rng.integers(0, levels, (3, 18)).astype(float), rng.random((2, 1, 18)) < 0.5
    fold, weight = rng.integers(0, 3, 18), rng.integers(0, 4, 18).astype(float) if weighted else None
    found = auroc(score, good, weight, fold)
    assert found.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            expected = by_pairs(score[j], good[i, 0], np.ones(18) if weight is None else weight, fold)
            assert found[i, j] == pytest.approx(expected, nan_ok=True)


AWKWARD = [0.0, -0.0, 1.0, 1 + 2**-23, -1.0, -1 - 2**-23, 1e-45, -1e-45, 3e38, -3e38, np.inf, -np.inf]


@given(st.integers(0, 10_000), st.sampled_from([np.float32, np.float64, np.int64]))
@settings(max_examples=60, deadline=None)
def test_a_labelling_of_its_own_for_every_row_of_scores_changes_nothing(seed, dtype):
    """There scores are sorted as whole numbers with the class in their last bit: zeros, neighbours, infinities."""
    rng = np.random.default_rng(seed)
    pool = np.array(AWKWARD) if dtype is not np.int64 else np.arange(-3, 3)
    score, good = rng.choice(pool, (4, 15)).astype(dtype), rng.random((4, 15)) < 0.5
    fold = np.sort(rng.integers(0, 3, 15)) if seed % 2 else rng.integers(0, 3, 15)
    found = auroc(score, good, fold=fold)
    assert found.tolist() == pytest.approx(
        [by_pairs(s, g, np.ones(15), fold) for s, g in zip(score, good, strict=True)], nan_ok=True
    )
    assert auroc(np.zeros((2, 15), dtype), good[:2]) == pytest.approx(np.full(2, 0.5), nan_ok=True)


def test_it_is_scikit_learns_with_and_without_weights():
    rng = np.random.default_rng(0)
    score, good = np.round(rng.normal(size=(4, 80)), 1), rng.random(80) < 0.4
    weight = rng.multinomial(80, np.full(80, 1 / 80), 5).astype(float)
    assert auroc(score, good) == pytest.approx([roc_auc_score(good, s) for s in score])
    expected = [[roc_auc_score(good, s, sample_weight=w) for s in score] for w in weight]
    assert auroc(score, good, weight[:, None]) == pytest.approx(np.array(expected))


def test_a_probe_of_two_scales_is_scored_within_its_folds():
    score = np.array([1.0, 2.0, 101.0, 102.0])
    good = np.array([False, True, False, True])
    assert auroc(score, good, fold=np.array([0, 0, 1, 1])) == 1 and auroc(score, good) == 0.75


def test_one_class_alone_has_no_auroc_and_a_constant_score_is_one_half():
    assert np.isnan(auroc(np.arange(3.0), np.ones(3, bool)))
    assert auroc(np.zeros((2, 6)), np.arange(6) % 2 == 0).tolist() == [0.5, 0.5]


def test_placements_are_what_leaving_one_image_out_changes():
    """Their sum is 0 and they are the jackknife's influence values, up to terms of order 1 / n."""
    rng = np.random.default_rng(2)
    score, good, fold = np.round(rng.normal(size=(2, 60)), 1), np.arange(60) % 2 == 0, np.arange(60) // 20
    found = placements(score, good, fold)
    assert found.sum(-1) == pytest.approx(0, abs=1e-9)
    for i in range(60):
        keep = np.arange(60) != i
        change = auroc(score, good, fold=fold) - auroc(score[:, keep], good[keep], fold=fold[keep])
        assert found[:, i] / 60 == pytest.approx(change, abs=0.004)
    assert np.abs(found[0]).max() > 0.3
