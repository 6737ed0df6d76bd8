"""The headline probe against scikit-learn; its folds, its null and its intervals."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge

from badhands.stats.auroc import auroc
from badhands.stats.design import Design
from badhands.stats.folds import units_of
from badhands.stats.headline import fixed_scores, headline, plain_features
from badhands.stats.intervals import Scored

N = 80
LABEL = np.random.default_rng(0).permuted(np.arange(N) % 2)


def design(**options) -> Design:
    return Design.of(LABEL, range(N), **options)


def matrix(shift: float, d: int = 20, seed: int = 1) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(N, d))
    x[:, :4] += shift * (LABEL - 0.5)[:, None]
    return x * np.geomspace(1, 1000, d) + 50  # scales that standardising must undo


@pytest.mark.parametrize("channels", [8, 20, 120])
def test_held_out_scores_are_scikit_learns_ridge_with_the_mean_eigenvalue_as_penalty(channels):
    """With more channels than images by the kernel of images, else by the covariance of channels."""
    x, d = matrix(1.0, channels), design(draws=2, permutations=24)
    one = headline(["x"], [plain_features(x)], d)
    found = one.score[0]
    for row, fold in zip(found, d.folds, strict=True):
        for k in range(5):
            train, test = fold != k, fold == k
            z = (x - x[train].mean(0)) / x[train].std(0)
            penalty = np.linalg.eigvalsh(z[train] @ z[train].T).mean()
            y = np.where(LABEL == 1, 1.0, -1.0)
            expected = SklearnRidge(alpha=penalty).fit(z[train], y[train]).predict(z[test]) - y[train].mean()
            assert row[test] == pytest.approx(expected, abs=1e-3)
    assert one.value[0] == pytest.approx(
        np.mean([auroc(s, LABEL == 1, fold=f) for s, f in zip(found, d.folds, strict=True)])
    )


def test_a_planted_difference_is_found_and_noise_is_not(tmp_path):
    found = headline(
        ["noise", "planted"], [plain_features(matrix(0.0)), plain_features(matrix(1.5))], design(permutations=200)
    )
    assert found.value[1] > 0.85 and found.intervals[1, 0] > 0.6
    assert found.intervals[0, 0] < 0.5 < found.intervals[0, 1]
    assert abs(found.null.mean() - 0.5) < 0.02
    gain, lo, hi = found.difference("noise", "planted")
    assert lo > 0 and lo < gain < hi
    again = Scored.joined([found, found])
    assert again.combined(np.array([0, 1, 0, -1.0]))[0] == pytest.approx(0)
    found.save(tmp_path / "found.npz")
    assert Scored.load(tmp_path / "found.npz").only(["planted"]).intervals == pytest.approx(found.intervals[1:])


def test_intervals_are_wider_than_those_of_fixed_scores():
    """Refitting varies too: bootstrapping or DeLong on fixed out-of-fold scores leaves that out."""
    d, x = design(permutations=200), plain_features(matrix(0.0))
    refitted = headline(["x"], [x], d)
    scores = refitted.score
    alone = fixed_scores(["x"], scores, d.folds, d)
    assert alone.value == pytest.approx(refitted.value, abs=1e-6)
    assert refitted.errors[0] > 1.2 * alone.errors[0]
    assert fixed_scores(["x"], scores, d.folds, d, like=refitted).errors == pytest.approx(refitted.errors)


def test_constant_channels_and_cells_know_nothing():
    x = np.ones((N, 6), np.float32) * 1e-7
    found = headline(["constant"], [plain_features(x)], design(permutations=24))
    assert found.value[0] == 0.5 and (found.null == 0.5).all()
    x[:, 0] = matrix(2.0)[:, 0] * 1e-9
    assert headline(["one"], [plain_features(x)], design(permutations=24)).value[0] > 0.7
    assert torch.isfinite(plain_features(x)(np.arange(40))).all()


def test_permutations_stay_inside_strata_and_strata_share_a_fold():
    stratum = np.repeat(np.arange(20), 4)
    label = np.tile([0, 1], 40)
    d = Design.of(label, range(N), stratum, permutations=200)
    drawn = d.labellings[1:]
    assert (drawn.reshape(200, 20, 4).sum(-1) == 2).all() and len(np.unique(drawn, axis=0)) > 190
    for fold in [d.base, *d.folds]:
        assert all(len(set(fold[stratum == s])) == 1 for s in range(20))
    assert d.matched and not Design.of(label, range(N)).matched


def test_folds_do_not_look_at_labels():
    turned = Design.of(1 - LABEL, range(N))
    assert np.array_equal(turned.folds, design().folds)
    assert np.array_equal(design().shuffled(3).folds, design().folds)
    assert len(np.unique(design().folds, axis=0)) == 10


def test_texts_and_strata_that_overlap_are_one_unit():
    unit = units_of(["a", "a", "b", "c", "d"], ["1", "2", "2", "3", "3"])
    assert unit[0] == unit[1] == unit[2] != unit[3] and unit[3] == unit[4]
    few = Design.of(LABEL, range(N), np.arange(N) % 2)  # two strata cannot fill five folds
    assert len(np.unique(few.unit)) == N


def test_matched_pairs_split_over_folds_are_below_chance_and_whole_ones_are_not():
    """What the rule of whole strata is for: each pair shares what it looks like."""
    rng = np.random.default_rng(3)
    pair, label = np.repeat(np.arange(40), 2), np.tile([0, 1], 40)
    found = {}
    for name, stratum in (("split", None), ("whole", pair)):
        areas = []
        for _ in range(6):
            x = rng.normal(size=(40, 10))[pair] * 2 + rng.normal(size=(N, 10))
            d = Design.of(label, range(N), stratum, draws=4, permutations=24)
            areas.append(np.mean([auroc(s, label == 1) for s in headline(["x"], [plain_features(x)], d).score[0]]))
        found[name] = np.mean(areas)
    assert found["split"] < 0.44 and abs(found["whole"] - 0.5) < 0.06
