"""Folds do not leak, and this can be seen: with token-level folds random labels look like a finding."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from badhands.probes.bank import train_bank
from badhands.probes.settings import ProbeSettings
from badhands.probes.training_rows import TrainingRows, good_rows
from badhands.stats.folds import BAD_IMAGE, GOOD_IMAGE, image_labels, make_folds
from badhands.study.activations import ActivationCache
from synthetic_cache import write_cache


@given(st.integers(0, 1000), st.integers(3, 6), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_prompts_stay_together_and_every_fold_has_both_classes(seed, n_folds, per_prompt):
    rng = np.random.default_rng(seed)
    prompt = np.repeat(np.arange(40), per_prompt)
    label = rng.integers(0, 2, len(prompt))
    folds = make_folds(label, prompt, n_folds, seed)
    for p in range(40):
        assert len(set(folds[prompt == p])) == 1
    for k in range(n_folds):
        assert set(label[folds == k]) == {0, 1}
        assert abs((folds == k).mean() - 1 / n_folds) < 0.15
    assert np.array_equal(folds, make_folds(label, prompt, n_folds, seed))


def test_one_bad_token_makes_a_bad_image():
    label = image_labels(np.array([0, 0, 1, 1, 2]), np.array([1, 2, 1, 1, 3], np.uint8), 3)
    assert label.tolist() == [BAD_IMAGE, GOOD_IMAGE, -1]


@pytest.mark.parametrize(
    ("label", "prompt", "words"),
    [
        ([1] * 20, range(20), "one class"),
        ([1] * 18 + [0] * 2, range(20), "2 bad images are too few"),
        ([1, 0] * 10, [0] * 10 + [1] * 10, "2 prompts"),
    ],
)
def test_what_cannot_be_split_is_refused_with_its_fix(label, prompt, words):
    with pytest.raises(ValueError, match=words) as error:
        make_folds(np.array(label), list(prompt), 5)
    assert "label" in str(error.value) or "add prompts" in str(error.value)


@dataclasses.dataclass(frozen=True, eq=False)
class TokenFolds(TrainingRows):
    """The mistake: folds drawn over tokens."""

    @property
    def fold(self):
        return np.random.default_rng(0).integers(0, 5, len(self.rows))


def test_random_labels_are_chance_with_these_folds_and_a_finding_with_token_folds(tmp_path):
    planted = write_cache(tmp_path, images=40, prompts=40, d=128, shift=0.0, kinds=False)
    cache = ActivationCache(tmp_path)
    tokens = cache.tokens
    label = image_labels(tokens.image, tokens.label, 40)
    training = good_rows(tokens.image, tokens.label, make_folds(label, range(40), 5))
    cells, one = planted.cells[:4], ProbeSettings(penalties=(0.01,))

    def areas(of: TrainingRows) -> list[float]:
        bank = train_bank(cells, 128, of, one, lambda cell: cache.read(cell, of.rows))
        return [roc_auc_score(of.y, z) for z in bank.logit.numpy()]

    wrong = TokenFolds(**{f.name: getattr(training, f.name) for f in dataclasses.fields(training)})
    assert abs(np.mean(areas(training)) - 0.5) < 0.1
    assert min(areas(wrong)) > 0.8


def test_penalty_and_calibration_of_a_fold_do_not_see_it(tmp_path):
    """Turning the labels of one fold round changes nothing in the model that is scored on it."""
    planted = write_cache(tmp_path, images=40, prompts=20, d=16, kinds=False)
    cache = ActivationCache(tmp_path)
    tokens = cache.tokens
    folds = make_folds(image_labels(tokens.image, tokens.label, 40), [m["prompt_id"] for m in cache.meta], 4)
    training = good_rows(tokens.image, tokens.label, folds)
    turned = training.relabelled(np.where(training.fold == 2, 1 - training.y, training.y))
    settings_ = ProbeSettings(precision="float64", tolerance=1e-8)
    cell = planted.cells[0]
    banks = [train_bank([cell], 16, t, settings_, lambda c: cache.read(c, training.rows)) for t in (training, turned)]
    rows = torch.from_numpy(training.fold == 2)
    assert torch.equal(banks[0].penalty[0, 2], banks[1].penalty[0, 2])
    assert torch.allclose(banks[0].weight[0, 2], banks[1].weight[0, 2], atol=1e-6)
    assert torch.allclose(banks[0].platt[0, 2], banks[1].platt[0, 2], atol=1e-5)
    assert torch.allclose(banks[0].probability[0, rows], banks[1].probability[0, rows], atol=1e-5)
    assert not torch.allclose(banks[0].weight[0, 1], banks[1].weight[0, 1], atol=1e-3)
