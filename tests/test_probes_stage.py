"""The stage end to end: tables, artefact, refusals, and what is kept when it fails."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from badhands.cells import Cell, grid
from badhands.probes import out_of_fold, stage
from badhands.probes.artifact import Probes
from badhands.probes.settings import ProbeSettings
from badhands.probes.stage import fit_probes
from badhands.stats.folds import image_labels
from badhands.study.activations import ActivationCache
from synthetic_cache import write_cache

CELLS = grid(["xt", "x0", "double.1", "single.2"], [20, 8])
CHEAP = ProbeSettings(penalties=(0.1, 1.0), folds=4, refits=3, permutations=100, bootstraps=60)
CARD = {"fingerprint": "0123456789ab", "model": "tiny", "generation": {"steps": 20, "width": 64}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage")
    write_cache(folder / "cache", images=60, prompts=30, d=16, cells=CELLS, shift=1.5)
    cache = ActivationCache(folder / "cache")
    return folder, cache, fit_probes(cache, folder, CHEAP, card=CARD)


def test_the_score_table_holds_claims_controls_and_nulls(run):
    folder, _, tables = run
    scores = pd.read_csv(folder / "tables" / "scores.csv")
    assert len(scores) == len(tables["scores"])
    headline = scores.query(
        "head == 'good' and control == 'none' and metric == 'image_auroc' and split == 'out_of_fold'"
    )
    assert list(zip(headline["block"], headline["timestep"], strict=True)) == [
        ("double.1", 20), ("double.1", 8), ("single.2", 20), ("single.2", 8)]  # fmt: skip
    assert (headline["value"] > 0.75).all() and (headline["lo"] < headline["value"]).all()
    assert headline["sigma"].notna().all() and (headline["step"] + headline["timestep"] == 20).all()
    assert set(scores["control"]) == {
        "none", "geometry", "prompt", "xt", "x0", "x0_variance", "not_hand_tokens", "random_labels"}  # fmt: skip
    assert {"good_vs_local", "good_vs_global", "permutation"} < set(scores["split"])
    outside = scores.query("control == 'not_hand_tokens' and metric == 'image_auroc'")["value"]
    assert outside.mean() < headline["value"].mean() - 0.15  # the shift is planted in the hand alone
    assert (scores.query("metric == 'selectivity'")["value"] > 0.1).all()
    assert (scores.query("metric == 'image_auroc_p_max'")["value"] < 0.05).any()
    assert scores.query("head == 'hand' and metric == 'token_auroc'")["value"].min() > 0.9


def test_out_of_fold_scores_are_the_tables(run):
    folder, _, tables = run
    found = out_of_fold.load(folder)
    assert len(found.images) == 60 and found.cells == CELLS[4:]
    scores = tables["scores"].query("metric == 'image_auroc' and control == 'none' and split == 'out_of_fold'")
    good, bad = found.score[0][~found.bad], found.score[0][found.bad]
    assert (good[:, None] > bad[None]).mean() == pytest.approx(scores["value"].iloc[0])
    prompts = dict(zip(found.group, found.fold, strict=True))
    assert all(prompts[g] == f for g, f in zip(found.group, found.fold, strict=True))
    with np.load(folder / out_of_fold.NAME) as arrays:
        assert arrays["good_logit"].shape == (4, len(arrays["good_rows"]))
        assert arrays["hand_p"].min() >= 0 and arrays["hand_p"].max() <= 1
    with pytest.raises(ValueError, match="probes were not fitted"):
        out_of_fold.load(folder / "tables")


def test_the_artefact_reads_back_and_scores_like_the_run(run):
    folder, cache, _ = run
    probes = Probes.load(folder / "probes", fingerprint=CARD["fingerprint"], width=16)
    assert probes.cells == CELLS[4:] and probes.heads == ("hand", "good")
    cell = Cell("single.2", 8)
    label = image_labels(cache.tokens.image, cache.tokens.label, 60)
    scores = []
    for i in range(60):
        x = cache.read_image(i, [cell])[cell]
        hand = torch.from_numpy(cache.tokens.label[cache.tokens.image == i] != 3)
        scores.append(probes.image_score(cell, x, hand))
        assert probes.p_bad(cell, x).shape == (len(x),) and probes.p_bad(cell, x).min() >= 0
        assert probes.p_hand(cell, x)[hand].mean() > 5 * probes.p_hand(cell, x)[~hand].mean()
    scores = np.array(scores)
    assert (scores[label == 1][:, None] > scores[label == 0][None]).mean() > 0.85
    assert np.isnan(probes.image_score(cell, x, torch.zeros(len(x), dtype=torch.bool)))
    assert probes.steps[8] == (12, pytest.approx(0.4), 20)
    lengths = probes.random_directions[cell].norm(dim=1)
    assert torch.allclose(lengths, probes.directions[cell].norm().expand(24), rtol=1e-4)
    again = Probes.load(probes.save(folder / "again"))
    assert torch.equal(again.p_bad(cell, x), probes.p_bad(cell, x)) and again.thresholds == probes.thresholds
    assert again.card["scores"] == probes.card["scores"]


def test_thresholds_cost_at_most_the_stated_share_of_good_images(run):
    folder, _, _ = run
    probes, found = Probes.load(folder / "probes"), out_of_fold.load(folder)
    for c, cell in enumerate(found.cells):
        good = found.score[c][~found.bad]
        for share, threshold in probes.thresholds[cell].items():
            assert (good < threshold - 1e-6).mean() <= share
        assert sorted(probes.thresholds[cell].values()) == list(probes.thresholds[cell].values())


def test_another_model_is_refused_by_name(run):
    folder, _, _ = run
    with pytest.raises(
        ValueError, match=r"trained on tiny .* not on fingerprint ffff.*differing: steps \(20, here 28\)"
    ):
        Probes.load(folder / "probes", fingerprint="ffff", generation={"steps": 28, "width": 64})
    with pytest.raises(ValueError, match=r"read 16 channels .* this model has 3072"):
        Probes.load(folder / "probes", width=3072)
    with pytest.raises(ValueError, match="no probes in"):
        Probes.load(folder)
    with pytest.raises(ValueError, match=r"no good probe was trained on single.9/t3: use one of double.1/t20"):
        Probes.load(folder / "probes").logit("good", Cell("single.9", 3), torch.zeros(16))
    with pytest.raises(ValueError, match="no head 'foot': use one of hand, good"):
        Probes.load(folder / "probes").logit("foot", Cell("single.2", 8), torch.zeros(16))


def test_what_was_computed_is_kept_when_a_later_part_fails(run, tmp_path, monkeypatch):
    _, cache, _ = run
    monkeypatch.setattr(stage, "try_directions", lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        fit_probes(cache, tmp_path, CHEAP)
    assert len(pd.read_csv(tmp_path / "tables" / "scores.csv")) > 100
    assert "best_cell" in json.loads((tmp_path / "probe_findings.json").read_text())
    assert (tmp_path / "probes" / "card.json").exists() and (tmp_path / out_of_fold.NAME).exists()


def test_findings_are_sentences_with_their_numbers(run):
    folder, _, _ = run
    found = json.loads((folder / "probe_findings.json").read_text())
    assert found["one_direction"].startswith("Is there one good/bad direction?")
    assert found["one_direction_verdict"] in ("yes", "partly", "no", "undecided")
    for key in ("best_cell", "controls", "selectivity", "hand"):
        assert any(c.isdigit() for c in found[key]) and found[key].endswith(".")


def test_too_few_images_for_the_folds(tmp_path):
    write_cache(tmp_path / "cache", images=8, prompts=8, d=16, cells=CELLS)
    with pytest.raises(
        ValueError, match=r"4 (good|bad) images are too few for 5 folds: label more, or set probe.folds lower"
    ):
        fit_probes(ActivationCache(tmp_path / "cache"), tmp_path, ProbeSettings())


def test_shuffled_labels_leave_no_finding(tmp_path):
    write_cache(tmp_path / "cache", images=60, prompts=60, d=16, cells=CELLS, shift=0.0)
    tables = fit_probes(ActivationCache(tmp_path / "cache"), tmp_path, CHEAP)
    scores = tables["scores"]
    assert (scores.query("metric == 'image_auroc_p_max'")["value"] > 0.05).all()
    found = json.loads((tmp_path / "probe_findings.json").read_text())
    assert found["one_direction_verdict"] == "undecided"
    assert "within what chance gives" in found["best_cell"]
