import numpy as np
import pytest

from badhands.cells import Cell
from badhands.stats.paired import OutOfFold, difference, shared

CELLS = (Cell("double.0", 20), Cell("single.1", 3))


def run(strength, seed, n=120, images=None, fold_seed=0, shared_noise=0.0, noise_seed=99):
    """Scores that separate the classes by `strength`; the shared part of the noise is the image's own difficulty."""
    rng, common = np.random.default_rng(seed), np.random.default_rng(noise_seed)
    bad = np.arange(n) % 2 == 1
    difficulty = common.normal(size=n)
    noise = np.sqrt(shared_noise) * difficulty + np.sqrt(1 - shared_noise) * rng.normal(size=(len(CELLS), n))
    names = tuple(images or (f"i{k}" for k in range(n)))
    fold = np.random.default_rng(fold_seed).integers(5, size=(3, n))
    return OutOfFold(
        names,
        bad,
        tuple(f"p{k // 4}" for k in range(n)),
        fold,
        CELLS,
        np.repeat((noise + strength * ~bad)[:, None], 3, 1),
    )


def test_equal_runs_differ_significantly_in_one_of_twenty():
    p = [difference(run(1.0, k, noise_seed=k), run(1.0, k + 1000, noise_seed=k)).p for k in range(300)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09


def test_a_run_does_not_differ_from_itself_or_from_its_equal():
    same = difference(run(1.0, 0), run(1.0, 0))
    assert same.value == 0 and not same.resolved and same.same_folds
    assert not difference(run(1.0, 0), run(1.0, 1, fold_seed=3)).resolved
    assert not difference(run(1.0, 0), run(1.0, 1, fold_seed=3)).same_folds


def test_a_better_run_is_found_and_the_sign_is_second_minus_first():
    up = difference(run(0.3, 0), run(2.0, 1))
    assert up.value > 0 and up.resolved and up.p < 0.05
    down = difference(run(2.0, 1), run(0.3, 0))
    assert down.value == pytest.approx(-up.value) and down.resolved


def test_pairing_narrows_the_interval_when_images_are_hard_for_both():
    paired = difference(run(1.0, 0, shared_noise=0.95), run(1.0, 1, shared_noise=0.95))
    apart = difference(run(1.0, 0, shared_noise=0.95), run(1.0, 1, shared_noise=0.95, noise_seed=7))
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
