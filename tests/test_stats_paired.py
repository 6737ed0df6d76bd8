import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from badhands.cells import Cell
from badhands.stats.paired import OutOfFold, auroc, difference, resamples, shared

CELLS = (Cell("double.0", 20), Cell("single.1", 3))


def run(strength, seed, n=120, images=None, fold_seed=0, shared_noise=0.0, noise_seed=99):
    """Scores that separate the classes by `strength`; the shared part of the noise is the image's own difficulty."""
    rng, common = np.random.default_rng(seed), np.random.default_rng(noise_seed)
    bad = np.arange(n) % 2 == 1
    difficulty = common.normal(size=n)
    noise = np.sqrt(shared_noise) * difficulty + np.sqrt(1 - shared_noise) * rng.normal(size=(len(CELLS), n))
    names = tuple(images or (f"i{k}" for k in range(n)))
    fold = np.random.default_rng(fold_seed).integers(5, size=n)
    return OutOfFold(names, bad, tuple(f"p{k // 4}" for k in range(n)), fold, CELLS, noise + strength * ~bad)


def test_auroc_is_scikit_learns_also_with_ties_and_weights():
    rng = np.random.default_rng(0)
    score, bad = rng.integers(0, 6, 50).astype(float), rng.random(50) < 0.4
    weight = resamples([str(k) for k in range(50)], 5)
    expected = [roc_auc_score(~bad, score, sample_weight=w) for w in weight]
    np.testing.assert_allclose(auroc(score, bad, weight), expected, atol=1e-12)


def test_a_resample_without_one_class_has_no_auroc():
    assert np.isnan(auroc(np.arange(3.0), np.array([True, False, False]), np.array([[0.0, 1.0, 2.0]]))).all()


def test_images_of_a_prompt_are_drawn_together():
    weight = resamples(["a", "a", "b", "b", "c"], 50)
    assert (weight[:, 0] == weight[:, 1]).all() and (weight[:, 2] == weight[:, 3]).all()
    assert (weight[0] == 1).all()


def test_a_run_does_not_differ_from_itself_or_from_its_equal():
    same = difference(run(1.0, 0), run(1.0, 0), count=300)
    assert same.value == 0 and not same.resolved and same.same_folds
    assert not difference(run(1.0, 0), run(1.0, 1, fold_seed=3), count=300).resolved
    assert not difference(run(1.0, 0), run(1.0, 1, fold_seed=3), count=300).same_folds


def test_a_better_run_is_found_and_the_sign_is_second_minus_first():
    up = difference(run(0.3, 0), run(2.0, 1), count=300)
    assert up.value > 0 and up.resolved and up.p < 0.05
    down = difference(run(2.0, 1), run(0.3, 0), count=300)
    assert down.value == pytest.approx(-up.value) and down.resolved


def test_pairing_narrows_the_interval_when_images_are_hard_for_both():
    paired = difference(run(1.0, 0, shared_noise=0.95), run(1.0, 1, shared_noise=0.95), count=300)
    apart = difference(run(1.0, 0, shared_noise=0.95), run(1.0, 1, shared_noise=0.95, noise_seed=7), count=300)
    assert paired.hi - paired.lo < 0.6 * (apart.hi - apart.lo)


def test_only_common_images_are_compared_and_disagreement_is_named():
    first, second = run(1.0, 0), run(1.0, 1, images=[f"i{k + 20}" for k in range(120)])
    a, b = shared(first, second)
    assert a.images == b.images and len(a.images) == 100
    with pytest.raises(ValueError, match="0 good and 0 bad images"):
        shared(first, run(1.0, 1, images=[f"j{k}" for k in range(120)]))
    flipped = run(1.0, 1)
    object.__setattr__(flipped, "bad", ~flipped.bad)
    with pytest.raises(ValueError, match="disagree"):
        shared(first, flipped)
