"""Kappa and IoU against scikit-learn and by hand; who is compared with whom."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, jaccard_score

from badhands.label.__main__ import stats
from badhands.label.agreement import agreement_table, cohen_kappa
from badhands.label.differences import disagree, gist, iou
from badhands.study.classes import BAD, GOOD, NOT_HAND
from badhands.study.labels import LabelRecord


def record(image_id, annotator, classes, verdict=None, repeat=0):
    return LabelRecord(image_id, annotator, "", 1.0, np.asarray(classes, np.uint8), verdict=verdict, repeat=repeat)


def by_key(records):
    return {(r.image_id, r.annotator, r.repeat): r for r in records}


def test_kappa_and_iou_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = rng.integers(0, 3, (2, 60))
        b = np.where(rng.random(60) < 0.5, a, b)
        assert cohen_kappa(a, b) == pytest.approx(cohen_kappa_score(a, b))
        assert iou(a == 1, b == 1) == pytest.approx(jaccard_score(a == 1, b == 1))
    assert np.isnan(cohen_kappa([1, 1], [1, 1]))
    assert np.isnan(iou(np.zeros(3, bool), np.zeros(3, bool)))


def test_random_labels_agree_by_chance_only_and_equal_labels_fully():
    rng = np.random.default_rng(0)
    masks = rng.integers(1, 4, (40, 8, 8))
    same = by_key([record(f"i{i}", name, masks[i]) for i in range(40) for name in ("anna", "ben")])
    table = agreement_table(same, resamples=50).set_index("metric")
    assert table.value.drop("verdict_kappa").tolist() == [1.0] * 5
    shuffled = [rng.permutation(mask.ravel()).reshape(8, 8) for mask in masks]
    pairs = {"anna": masks, "ben": shuffled}
    other = by_key([record(f"i{i}", name, pairs[name][i]) for i in range(40) for name in pairs])
    table = agreement_table(other, resamples=200).set_index("metric")
    assert abs(table.value["token_kappa"]) < 0.05
    assert table.lo["token_kappa"] <= table.value["token_kappa"] <= table.hi["token_kappa"]
    assert table.n["token_kappa"] == 40


def test_unlabelled_tokens_are_not_counted_as_agreement():
    a = record("i", "anna", [[GOOD, BAD, 0, 0]])
    b = record("i", "ben", [[BAD, GOOD, 0, 0]])
    table = agreement_table(by_key([a, b]), resamples=10).set_index("metric")
    assert table.value["token_kappa"] == -1.0
    assert (table.value["hand_iou"], table.value["bad_iou"]) == (1.0, 0.0)


def test_a_repetition_is_compared_with_its_own_annotator_alone():
    records = [record("i", name, [[GOOD, NOT_HAND]], "good", repeat) for name in ("anna", "ben") for repeat in (0, 1)]
    table = agreement_table(by_key(records), resamples=10)
    assert sorted(set(zip(table["first"], table["second"], strict=True))) == [
        ("anna", "anna again"), ("anna", "ben"), ("ben", "ben again")]  # fmt: skip


def test_what_is_listed_as_a_disagreement():
    mine = record("i", "anna", [[BAD, BAD, BAD, 0]])
    assert not disagree(gist(mine), gist(record("i", "ben", [[BAD, BAD, 0, 0]])))
    assert disagree(gist(mine), gist(record("i", "ben", [[BAD, 0, 0, 0]])))
    assert disagree(gist(mine), gist(record("i", "ben", [[GOOD, 0, 0, 0]])))
    assert disagree(gist(mine), gist(record("i", "ben", [[0, 0, 0, 0]], "no_hand")))
    assert not disagree(gist(mine), gist(record("i", "ben", [[0, 0, 0, 0]])))  # ben has not decided


def test_stats_print_progress_and_agreement(tmp_path):
    from demo_study import make_study

    study = make_study(tmp_path / "study", images=2, judged=False)
    assert "no labels yet" in stats(study)
    study.labels.append(record("img0000", "anna", np.full((16, 16), GOOD), "good"))
    assert "second annotator" in stats(study)
    study.labels.append(record("img0000", "anna", np.full((16, 16), BAD), "bad", repeat=1))
    text = stats(study)
    assert "anna again" in text and "verdict_agreement" in text
