"""The baselines that look at the picture so far: they find what is drawn there, nothing in noise, and can win."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from badhands.cells import Cell
from badhands.probes.picture import (
    CNN,
    REFEREE,
    Previews,
    beyond_the_picture,
    hand_mask,
    load_referee,
    picture_scores,
)
from badhands.probes.preview_cnn import SIDE, cnn_scores, cut_out
from badhands.stats.design import Design
from badhands.stats.headline import fixed_scores, headline, plain_features
from badhands.stats.intervals import Scored
from badhands.study.activations import ActivationCache
from badhands.study.classes import GOOD
from badhands.study.previews import preview_path, write_previews
from badhands.study.study import Study
from synthetic_study import FINGERPRINT, write_study

GRID = (8, 8)
BLOCKS = (Cell("single.0", 20), Cell("single.0", 3))


def drawn(good: np.ndarray, seed: int = 0) -> np.ndarray:
    """uint8[2, m, SIDE, SIDE, 3]: noise at the first timestep; at the second, good hands have a bright stripe more."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(60, 120, (2, len(good), SIDE, SIDE, 3)).astype(np.uint8)
    pictures[1, :, :, 10:14] = 230
    pictures[1, good, :, 30:34] = 230
    return pictures


@pytest.fixture(scope="module")
def design() -> Design:
    rng = np.random.default_rng(3)
    return Design.of(rng.permuted(np.arange(60) % 2), [f"text {i}" for i in range(60)], permutations=100)


@pytest.fixture(scope="module")
def trained(design) -> np.ndarray:
    return cnn_scores(drawn(design.good), design.good, design.folds[:1])


def previews(design: Design) -> Previews:
    hands = drawn(design.good)
    return Previews((20, 3), list(hands), hands)


def test_the_network_sees_what_is_drawn_and_nothing_in_noise(design, trained):
    scores = picture_scores(previews(design), design, block(design, 0.0), None)[CNN]
    noise, picture = scores.value
    assert picture > 0.95 and abs(noise - 0.5) < 0.25
    assert scores.names == ("x0/t20", "x0/t3") and trained.shape == (2, 1, 60)


def test_shuffled_labels_leave_the_network_at_chance(design):
    drawn_for = design.good
    wrong = np.random.default_rng(1).permuted(drawn_for)
    assert abs(np.mean(wrong == drawn_for) - 0.5) < 0.1
    scores = cnn_scores(drawn(drawn_for)[1:], wrong, design.folds[:1])[0, 0]
    same = (scores[wrong][:, None] > scores[~wrong][None]).mean()
    assert abs(same - 0.5) < 0.2


def test_networks_do_not_depend_on_the_number_of_threads_or_the_global_seed(design, trained):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3 if before == 1 else 1)
        torch.manual_seed(99)
        again = cnn_scores(drawn(design.good), design.good, design.folds[:1])
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(again, trained, atol=1e-4)


def block(design: Design, strength: float) -> Scored:
    """Two cells: the first knows the labels with the given strength, the second is noise."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((len(design.known), 6))
    x[:, 0] += strength * np.where(design.good, 1.0, -1.0)
    noise = rng.standard_normal(x.shape)
    return headline([str(cell) for cell in BLOCKS], [plain_features(x), plain_features(noise)], design)


def test_knowing_more_than_the_picture_needs_every_judge_of_it_beaten():
    rng = np.random.default_rng(0)
    design = Design.of(rng.permuted(np.arange(160) % 2), [f"text {i}" for i in range(160)], permutations=100)
    folds, names = design.folds[:1, design.known], ["x0/t20", "x0/t3"]
    blind = rng.standard_normal((2, 1, 160))
    seeing = np.stack([blind[0], design.good[None] + 0.1 * blind[1]])  # at t3 the picture shows it
    scores = {CNN: fixed_scores(names, blind, folds, design), REFEREE: fixed_scores(names, seeing, folds, design)}
    knowing, ignorant = block(design, 1.5), block(design, 0.0)
    rows = beyond_the_picture(scores, knowing, BLOCKS)
    assert {row["what"] for row in rows} == {f"{CNN} single.0/t20", f"{REFEREE} single.0/t20"}
    assert all(row["lo"] > 0 and row["other"] == 2 for row in rows)
    assert min(row["lo"] for row in beyond_the_picture(scores, ignorant, BLOCKS)) < 0
    late = [BLOCKS[1]]
    assert min(row["lo"] for row in beyond_the_picture(scores, replace(knowing, names=knowing.names[::-1]), late)) < 0


def test_a_hand_is_cut_out_with_a_margin_wherever_it_lies():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[0:16, 48:64] = 200
    mask = np.zeros(GRID, bool)
    mask[0:2, 6:8] = True  # tokens of 8 px in the upper right corner
    hand = cut_out(picture, mask)
    assert hand.shape == (SIDE, SIDE, 3) and hand[SIDE // 2, SIDE // 2].min() == 200
    assert cut_out(picture, np.zeros(GRID, bool)).mean() < 30, "without a mask the whole picture, mostly dark"


def test_a_study_gives_the_pictures_of_its_labelled_images(tmp_path):
    root = tmp_path / "made"
    write_study(root, images=16, prompts=16, cells=[Cell("single.0", 20)], d=8)
    study = Study(root)
    cache = study.activations()
    design = Design.of([1 if c == GOOD else 0 for c in _classes(cache)], [i.prompt for i in cache.images], n_folds=4)
    assert Previews.of(study, cache, design, (20,)) is None
    for k, info in enumerate(cache.images):
        write_previews(preview_path(root, FINGERPRINT, info.id), {20: Image.new("RGB", (64, 64), (k, k, k))}, 64)
    found = Previews.of(study, cache, design, (20, 3))
    assert found.timesteps == (20,) and [int(p[0, 0, 0]) for p in found.pictures[0]] == list(design.known)
    assert hand_mask(cache, 0).sum() == ((cache.tokens.image == 0) & (cache.tokens.label != 3)).sum()


def _classes(cache: ActivationCache) -> list[int]:
    return [int(min(cache.tokens.label[cache.tokens.image == i])) for i in range(len(cache.images))]


@pytest.mark.parametrize("name", ["nowhere.scores", "badhands.cells.nothing", "plain", "badhands.cells.PSEUDO_BLOCKS"])
def test_a_referee_that_is_none_is_named(name):
    with pytest.raises(ValueError, match=f"referee={name} .* name .*package.module.name"):
        load_referee(name)


def test_a_referee_must_give_one_finite_number_a_picture(design):
    assert load_referee(None) is None and callable(load_referee("badhands.tiny_hands.judge.good_logits"))
    for wrong, sentence in ((lambda p: 1.0, "one score each"), (lambda p: [np.nan] * len(p), "not finite")):
        with pytest.raises(ValueError, match=sentence):
            picture_scores(previews(design), design, block(design, 0.0), wrong)
