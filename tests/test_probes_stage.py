"""The stage end to end: tables, artefact, refusals, and what is kept when it fails."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge

from badhands.cells import Cell, grid
from badhands.measures.settings import MeasureConfig
from badhands.measures.stage import measure
from badhands.probes import stage
from badhands.probes.artifact import Probes
from badhands.probes.controls import CONTROLS
from badhands.probes.settings import ProbeSettings
from badhands.probes.stage import fit_probes
from badhands.report.findings.write import write_findings
from badhands.stats.auroc import auroc
from badhands.stats.folds import image_labels
from badhands.stats.intervals import Scored
from badhands.stats.paired import OUT_OF_FOLD, OutOfFold
from badhands.study.activations import ActivationCache
from badhands.study.selection import design_of
from synthetic_cache import write_cache

CELLS = grid(["xt", "x0", "double.1", "single.2"], [20, 8])
CHEAP = ProbeSettings(penalties=(0.1, 1.0), bootstraps=60)
QUICK = MeasureConfig(cosine_permutations=20, halves=2, points=5, contrasts=("good_vs_bad",))
CARD = {"fingerprint": "0123456789ab", "model": "tiny", "generation": {"steps": 20, "width": 64}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage")
    write_cache(folder / "cache", images=60, prompts=30, d=16, cells=CELLS, shift=1.5)
    return folder, *both_stages(folder, card=CARD)


def both_stages(folder, **more):
    """(cache, tables): the headline is measured first."""
    cache = ActivationCache(folder / "cache")
    design = design_of(cache, n_folds=4, draws=3, permutations=100)
    tables = measure(cache, folder, QUICK, design=design)
    return cache, {**tables, **fit_probes(cache, folder, CHEAP, design=design, **more)}


def test_the_tables_hold_claims_token_probes_and_baselines(run):
    folder, _, tables = run
    headline = tables["headline"].query("metric == 'auroc'").set_index(["block", "timestep"])
    assert list(headline.index) == [(c.block, c.timestep) for c in CELLS]
    blocks = headline.loc[["double.1", "single.2"]]
    assert (blocks["value"] > 0.75).all() and (blocks["lo"] < blocks["value"]).all()
    assert (
        blocks["sigma"].notna().all() and (tables["headline"].query("metric == 'auroc_p_family'")["value"] < 0.05).any()
    )
    scores = pd.read_csv(folder / "tables" / "scores.csv")
    assert len(scores) == len(tables["scores"]) and {"good_vs_local", "good_vs_global"} < set(scores["split"])
    tokens = scores.query("head == 'good' and metric == 'image_auroc' and split == 'out_of_fold'")
    assert (tokens["value"] > 0.7).all() and (tokens["step"] + tokens["timestep"] == 20).all()
    hand = scores.query("head == 'hand' and metric == 'token_auroc'").set_index("control")["value"]
    assert hand["none"].min() > 0.9 and hand["position"] < hand["none"].min()
    assert "the place on the grid alone gives" in told(folder)["hand"]
    rivals = tables["baselines"]
    assert set(rivals["control"]) == {control.name for control in CONTROLS}
    outside = rivals.query("control == 'not_hand_tokens' and metric == 'auroc'")["value"]
    assert outside.mean() < blocks["value"].mean() - 0.15  # the shift is planted in the hand alone
    gain = rivals.query("control == 'geometry' and metric == 'gain_of_best_block'").iloc[0]
    place = rivals.query("control == 'geometry' and metric == 'auroc'").iloc[0]
    assert gain["value"] == pytest.approx(blocks["value"].max() - place["value"]) and gain["lo"] > 0


def test_out_of_fold_scores_are_the_tables(run):
    folder, _, tables = run
    found = OutOfFold.load(folder)
    assert len(found.images) == 60 and found.cells == CELLS[4:] and found.widening >= 1
    headline = tables["headline"].query("metric == 'auroc' and block == 'double.1'")
    for k in (0, 1):
        area = np.mean([auroc(found.score[k, r], ~found.bad, fold=fold) for r, fold in enumerate(found.fold)])
        assert area == pytest.approx(headline["value"].iloc[k])
    for fold in found.fold:
        of = dict(zip(found.group, fold, strict=True))
        assert all(of[g] == f for g, f in zip(found.group, fold, strict=True))
    with np.load(folder / OUT_OF_FOLD) as arrays:
        assert arrays["good_logit"].shape == (4, len(arrays["good_rows"]))
        assert arrays["hand_p"].min() >= 0 and arrays["hand_p"].max() <= 1
    with pytest.raises(ValueError, match="probes were not fitted"):
        OutOfFold.load(folder / "tables")


def test_the_artefact_reads_back_and_scores_like_the_run(run):
    folder, cache, _ = run
    probes = Probes.load(folder / "probes", fingerprint=CARD["fingerprint"], width=16)
    assert probes.cells == CELLS[4:] and probes.heads == ("hand", "good", "image")
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
    probes, headline = Probes.load(folder / "probes"), Scored.load(folder / "headline.npz")
    for cell in probes.cells:
        good = headline.score[headline.names.index(str(cell))].mean(0)[headline.good]
        for share, threshold in probes.thresholds[cell].items():
            assert (good < threshold - 1e-6).mean() <= share
        assert sorted(probes.thresholds[cell].values()) == list(probes.thresholds[cell].values())


def test_the_image_head_is_scikit_learn_s_ridge_on_image_means(run):
    folder, cache, _ = run
    probes, cell = Probes.load(folder / "probes"), Cell("single.2", 8)
    label = image_labels(cache.tokens.image, cache.tokens.label, 60)
    rows = [cache.read_image(i, [cell])[cell].double() for i in range(60)]
    hands = [x[torch.from_numpy(cache.tokens.label[cache.tokens.image == i] != 3)] for i, x in enumerate(rows)]
    mean = torch.stack([x.mean(0) for x in hands]).numpy()
    square = torch.stack([x.square().mean(0) for x in hands]).numpy()
    z = (mean - mean.mean(0)) / np.sqrt(square.mean(0) - mean.mean(0) ** 2)
    ridge = Ridge(alpha=(z**2).sum(1).mean()).fit(z, np.where(label == 1, 1.0, -1.0))
    ours = [probes.image_score(cell, x.float()) for x in hands]
    np.testing.assert_allclose(ours, ridge.predict(z), atol=2e-3)


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
    folder, cache, _ = run
    shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("cache", "probes", "oof.npz", "scores.csv"))
    monkeypatch.setattr(stage, "try_directions", lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        fit_probes(cache, tmp_path / "run", CHEAP, design=design_of(cache, n_folds=4, draws=3, permutations=100))
    assert len(pd.read_csv(tmp_path / "run" / "tables" / "scores.csv").query("control == 'none'")) == 60
    assert "best_cell" in told(tmp_path / "run")
    assert (tmp_path / "run" / "probes" / "card.json").exists() and (tmp_path / "run" / OUT_OF_FOLD).exists()


def told(folder) -> dict[str, str]:
    return {one.id: one.sentence for one in write_findings(folder)}


def test_findings_are_sentences_with_their_numbers(run):
    found = told(run[0])
    assert found["one_direction"].startswith("Is there one good/bad direction?")
    for key in ("best_cell", "controls", "hand"):
        assert any(c.isdigit() for c in found[key]) and found[key].endswith(".")


def test_probes_without_measures_are_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"no headline.npz: measure the cells first"):
        fit_probes(run[1], tmp_path, CHEAP, design=design_of(run[1], n_folds=4))


def test_too_few_images_for_the_folds(tmp_path):
    write_cache(tmp_path / "cache", images=8, prompts=8, d=16, cells=CELLS)
    with pytest.raises(
        ValueError, match=r"4 (good|bad) images are too few for 5 folds: label more, or set data.folds lower"
    ):
        design_of(ActivationCache(tmp_path / "cache"))


def test_shuffled_labels_leave_no_finding(tmp_path):
    write_cache(tmp_path / "cache", images=60, prompts=60, d=16, cells=CELLS, shift=2.0, shuffled=True)
    _, tables = both_stages(tmp_path)
    assert (tables["headline"].query("metric == 'auroc_p_family'")["value"] > 0.05).all()
    assert not any(one.claims for one in write_findings(tmp_path))
    assert "Undecided" in told(tmp_path)["one_direction"] and "what chance can give" in told(tmp_path)["best_cell"]
