"""Baselines read what they say, and nothing of the hand's blocks."""

import numpy as np
import pytest
import torch

from badhands.cells import Cell
from badhands.probes.controls import geometry, prompt_words, x0_variances
from badhands.probes.position import position_logit
from badhands.probes.training_rows import TrainingRows, good_rows
from badhands.stats.auroc import auroc


def test_words_of_the_prompt_are_those_that_tell_prompts_apart():
    x = prompt_words(["A hand, upwards", "a hand downwards", "a big hand, upwards"])
    # `a` and `hand` stand in all, `big` and `downwards` in one: only `upwards` is left.
    assert x.tolist() == [[1.0], [0.0], [1.0]]
    assert prompt_words(["same", "same", "same"]).shape == (3, 0)


def test_the_place_alone_finds_hands_where_they_lie_and_nothing_where_they_do_not():
    rng, images, side = np.random.default_rng(0), 20, 16
    image, token = np.repeat(np.arange(images), side**2), np.tile(np.arange(side**2), images)
    corner = (token // side < 5) & (token % side < 5)
    folds = np.arange(images) % 4

    def found(hand: np.ndarray) -> float:
        training = TrainingRows(
            "hand", np.arange(len(token)), image, hand.astype(np.float32), folds, np.ones(len(token))
        )
        return float(auroc(position_logit(training, token, np.full((images, 2), side)), hand, fold=folds[image]))

    assert found(corner ^ (rng.random(len(token)) < 0.02)) > 0.9
    assert abs(found(rng.random(len(token)) < 0.1) - 0.5) < 0.05


def test_geometry_is_size_and_place():
    token, image = np.array([17, 18, 33, 5]), np.array([0, 0, 0, 1])
    training = good_rows(image, np.array([1, 1, 3, 2], np.uint8), np.array([0, 1]))
    features = geometry(training, token, np.array([[16, 16], [16, 16]]))
    assert features[0, 1] == pytest.approx(2 * 1.5 / 16 - 1) and features[0, 2] == pytest.approx(2 * 1.5 / 16 - 1)
    assert np.exp(features[:, 0]).tolist() == pytest.approx([2, 2, 1])


def test_variance_of_x0_counts_the_steps_so_far():
    steps = {Cell("x0", t): torch.randn(5, 3, generator=torch.Generator().manual_seed(t)) for t in (20, 15, 8)}
    found = x0_variances(list(steps), steps.__getitem__)
    assert list(found) == [Cell("x0", 15), Cell("x0", 8)]
    expected = torch.stack(list(steps.values())).var(0, unbiased=False).mean(1).log()
    assert torch.allclose(found[Cell("x0", 8)][:, 0], expected, atol=1e-4)
