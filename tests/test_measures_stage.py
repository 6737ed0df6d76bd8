"""The measure stage on small caches: what is planted is found, what is random vanishes, bad input is one sentence."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from badhands.cells import Cell, grid
from badhands.figures.table import draw_figures
from badhands.measures.settings import MeasureConfig
from badhands.measures.stage import measure
from badhands.report.findings.facts import Facts
from badhands.report.findings.measured import by_cell, variance
from badhands.report.findings.write import write_findings
from badhands.stats.design import Design
from badhands.stats.family import Family
from badhands.stats.long_table import COLUMNS
from badhands.study.activations import ActivationCache, write_image
from badhands.study.selection import design_of
from synthetic_cache import write_cache

QUICK = MeasureConfig(cosine_permutations=60, halves=10, points=20)
CELLS = grid(["double.1", "single.2"], [20, 12, 3])
STRONG, WEAK = Cell("single.2", 3), Cell("double.1", 20)


def few(cache: ActivationCache, permutations: int = 200) -> Design:
    return design_of(cache, n_folds=3, draws=3, permutations=permutations)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Rising towards the image, nothing in the first timestep of double.1."""
    folder = tmp_path_factory.mktemp("planted")
    shift = {cell: {20: 0.0, 12: 1.0, 3: 1.6}[cell.timestep] for cell in CELLS}
    truth = write_cache(folder / "cache", images=40, prompts=20, cells=CELLS, d=24, shift=shift, seed=5)
    cache = ActivationCache(folder / "cache")
    tables = measure(cache, folder / "run", QUICK, design=few(cache))
    write_findings(folder / "run")
    draw_figures(folder / "run")
    return truth, cache, folder / "run", tables


def test_tables_figures_and_sentences_are_written(planted):
    _, _, run, tables = planted
    for name, frame in tables.items():
        read = pd.read_csv(run / "tables" / f"{name}.csv")
        assert len(read) == len(frame) > 0
    for name in ("cells", "agreement", "pca"):
        assert list(tables[name].columns)[-len(COLUMNS) :] == list(COLUMNS)
    assert (run / "moments.npz").exists()
    sentences = {one["id"]: one["sentence"] for one in json.loads((run / "findings.json").read_text())}
    assert {
        "best_cell",
        "separation",
        "bias",
        "late_rise",
        "variance",
        "control",
        "agreement",
        "along_v",
        "kinds",
    } <= set(sentences)
    assert "single.2/t3" in sentences["separation"] or "double.1/t3" in sentences["separation"]


def test_a_figure_is_drawn_again_only_when_a_table_of_it_is_newer(planted):
    run = planted[2]
    assert draw_figures(run) == []
    (run / "tables" / "pca.csv").touch()
    assert {path.stem for path in draw_figures(run)} == {"pca", "pca_v_in_sample", "pca_v_held_out"}
    assert draw_figures(run) == []


def test_figures_have_the_width_of_a_page(planted):
    figures = sorted((planted[2] / "figures").glob("*.png"))
    assert {"db_curves", "db_terms", "db_checks", "db_kinds", "gaussianity", "pca", "pca_v_in_sample", "pca_v_held_out",
            "agreement"} <= {path.stem for path in figures}  # fmt: skip
    for path in figures:
        with Image.open(path) as image:
            assert image.width == 1200, path
            margin = np.asarray(image.convert("L"))
            assert margin[:, :2].min() > 200 and margin[:, -2:].min() > 200, f"{path.name}: something is cut off"


def test_planted_cells_are_found_and_the_empty_one_is_not(planted):
    truth, cache, _, tables = planted
    wide = by_cell(tables["cells"], "good_vs_bad").set_index(["block", "timestep"])
    assert list(wide.index) == [(c.block, c.timestep) for c in truth.cells]
    assert wide.loc[STRONG, "db_p_max"] < 0.05 and wide.loc[STRONG, "db_corrected_lo"] > 0
    assert wide.loc[STRONG, "mass_mean.auroc_lo"] > 0.6
    assert wide.loc[WEAK, "db_p_max"] > 0.05
    assert wide.loc[WEAK, "db_corrected_lo"] < 0 < wide.loc[WEAK, "db_plugin"]
    squared = wide.loc[STRONG, "v_squared_unbiased_standardised"]
    assert 0 < squared < wide.loc[STRONG, "v_length_standardised"] ** 2
    control = by_cell(tables["cells"], "not_hand").set_index(["block", "timestep"])
    assert control.loc[STRONG, "db_p_max"] > 0.05
    n = cache.tokens.label
    assert wide.loc[STRONG, "n_tokens"] == (np.isin(n, (1, 2))).sum()
    rows = tables["cells"]
    one = rows[(rows["block"] == "single.2") & (rows["timestep"] == 3)].iloc[0]
    assert (one["step"], one["sigma"]) == (17, 0.15)


def test_held_out_points_lie_closer_than_in_sample_ones(planted):
    pca = planted[3]["pca"]
    gap = pca[pca["metric"] == "gap_along_v"].pivot_table(index=["block", "timestep"], columns="split", values="value")
    assert (gap["in-sample"] > gap["held-out"]).all()
    chance = pca[pca["metric"] == "gap_along_v_chance"]["value"]
    assert gap.loc[WEAK, "in-sample"] < 2.5 * chance.median()


def test_the_same_command_gives_the_same_numbers(planted, tmp_path):
    _, cache, _, tables = planted
    again = measure(cache, tmp_path, QUICK, cells=[STRONG], design=few(cache))["cells"]
    first = tables["cells"]
    first = first[(first["block"] == STRONG.block) & (first["timestep"] == STRONG.timestep)]
    # "p against all cells", and with it what is resolved, depends on the other cells.
    alone = [~f["metric"].str.contains("p_max|resolved") for f in (first, again)]
    both = [frame[keep]["value"].to_numpy() for frame, keep in zip((first, again), alone, strict=True)]
    np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-5)


def test_random_labels_over_images_make_every_finding_vanish(tmp_path):
    """The cache is full of structure and of a strong planted shift, but the recorded classes are shuffled."""
    p, p_max, aurocs, covered, claimed = [], [], [], [], 0
    config = MeasureConfig(cosine_permutations=20, halves=5, points=5)
    cells = grid(["double.1", "single.2"], [12, 3])
    for seed in range(8):
        folder = tmp_path / str(seed)
        write_cache(folder, images=24, prompts=24, cells=cells, d=16, shift=2.0, seed=seed, shuffled=True, kinds=False)
        cache = ActivationCache(folder)
        table = measure(cache, folder / "run", config, design=few(cache, 199))["cells"]
        wide = by_cell(table, "good_vs_bad")
        p.append(wide["db_p"].mean())
        p_max.append(wide["db_p_max"].min())
        aurocs.append(wide["mass_mean.auroc"].mean())
        covered += list((wide["db_corrected_lo"] <= 0) & (wide["db_corrected_hi"] >= 0))
        claimed += any(one.claims for one in write_findings(folder / "run"))
    assert 0.25 < np.mean(p) < 0.75, p
    assert sum(x < 0.05 for x in p_max) <= 2, p_max
    assert abs(np.mean(aurocs) - 0.5) < 0.1, aurocs
    assert np.mean(covered) > 0.8
    assert claimed <= 1


def test_few_images_of_a_kind_are_left_out_and_said(tmp_path):
    write_cache(tmp_path / "cache", images=12, prompts=12, cells=CELLS[:1], d=8, seed=1)
    tables = measure(ActivationCache(tmp_path / "cache"), tmp_path / "run", QUICK)
    assert set(tables["cells"]["comparison"]) == {"good_vs_bad", "not_hand"}
    last = write_findings(tmp_path / "run")[-1]
    assert last.id == "left_out" and "good vs local: 6 good and 3 other images" in last.sentence


def test_latents_of_another_width_stand_beside_the_blocks(tmp_path):
    cells = [Cell("double.1", 20), Cell("double.1", 3), Cell("single.2", 3)]
    write_cache(tmp_path / "cache", images=16, prompts=16, cells=cells, d=24, shift=1.5, kinds=False)
    cache = ActivationCache(tmp_path / "cache")
    rng = np.random.default_rng(0)
    import torch

    for i, info in enumerate(cache.images):
        rows = cache.tokens.image == i
        extra = {Cell("x0", t): torch.from_numpy(rng.normal(size=(rows.sum(), 6)).astype(np.float32)) for t in (20, 3)}
        write_image(tmp_path / "cache", info.id, extra, cache.tokens.token[rows], cache.tokens.label[rows],
                    cache.tokens.kind[rows], cache.meta[i])  # fmt: skip
    tables = measure(ActivationCache(tmp_path / "cache"), tmp_path / "run", QUICK)
    assert "x0" in set(tables["cells"]["block"]) and "x0" not in set(tables["agreement"]["block"])


def one_class(folder):
    write_cache(folder / "full", images=12, prompts=12, cells=CELLS[:2], d=8)
    cache = ActivationCache(folder / "full")
    good = [info for i, info in enumerate(cache.images) if (cache.tokens.label[cache.tokens.image == i] != 2).all()]
    return ActivationCache(folder / "full", good)


def too_few(folder):
    write_cache(folder / "full", images=12, prompts=12, cells=CELLS[:2], d=8)
    cache = ActivationCache(folder / "full")
    bad = [(cache.tokens.label[cache.tokens.image == i] == 2).any() for i in range(12)]
    order = np.argsort(bad, kind="stable")[:9]
    return ActivationCache(folder / "full", [cache.images[i] for i in sorted(order)])


@pytest.mark.parametrize(("make", "sentence"), [(one_class, "no bad hands"), (too_few, "3 bad images are too few")])
def test_too_little_to_compare(tmp_path, make, sentence):
    with pytest.raises(ValueError, match=sentence):
        measure(make(tmp_path), tmp_path / "run", QUICK)
    assert not (tmp_path / "run").exists()


def test_a_cell_that_some_images_lack(tmp_path):
    write_cache(tmp_path / "c", images=10, prompts=10, cells=CELLS[:1], d=8)
    cache = ActivationCache(tmp_path / "c")
    rows = cache.tokens.image == 0
    extra = {CELLS[1]: cache.read_image(0)[CELLS[0]]}
    meta = {**cache.meta[0], "steps": {"20": [0, 1.0], "12": [8, 0.6]}}
    write_image(tmp_path / "c", cache.images[0].id, extra, cache.tokens.token[rows], cache.tokens.label[rows],
                cache.tokens.kind[rows], meta)  # fmt: skip
    cache = ActivationCache(tmp_path / "c")
    with pytest.raises(ValueError, match=r"double.1/t12 is missing from 9 of 10 images .* run extract.py again"):
        measure(cache, tmp_path / "run", QUICK, cells=CELLS[:2])
    with pytest.raises(ValueError, match=r"single.2/t3 was not extracted"):
        measure(cache, tmp_path / "run", QUICK, cells=[STRONG])


def test_labels_changed_since_extraction(planted, tmp_path):
    _, cache, _, _ = planted
    digests = {info.id: "synthetic" for info in cache.images} | {cache.images[3].id: "other"}
    with pytest.raises(ValueError, match=rf"labels of 1 images \({cache.images[3].id} ...\) have changed"):
        measure(cache, tmp_path / "run", QUICK, label_digests=digests)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("cosine_permutations", 5, "analysis.cosine_permutations=5 is too few"),
        ("weighting", "pixel", "write token or image"),
        ("reduced", 50, "2 to 20 components"),
        ("contrasts", ("good_vs_local",), "good_vs_bad and any of"),
        ("fewest", 1, "at least 4 images"),
    ],
)
def test_settings_that_make_no_sense(field, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        MeasureConfig(**{field: value})


@pytest.mark.parametrize(("level", "gate", "claims"), [(0.40, 5.0, False), (0.55, 5.0, True), (0.55, 0.0, False)])
def test_a_gain_is_information_only_above_chance_and_behind_an_open_gate(level, gate, claims):
    cells = pd.DataFrame({
        "comparison": "good_vs_bad", "block": "single.1", "timestep": 3, "sigma": 0.1, "probe": "moments",
        "n_good": 9, "n_bad": 9, "n_tokens": 99, "metric": ["db_var_plugin", "db_plugin"], "value": [0.1, 0.2],
        "lo": 0.0, "hi": 1.0,
    })  # fmt: skip
    verdicts = pd.DataFrame([{"verdict": "variance", "value": 0.05, "lo": 0.02, "hi": 0.08, "other": level}])
    family = Family()
    family.add("auroc", ["single.1/t3"], np.array([gate]), np.random.default_rng(0).normal(size=(100, 1)))
    found = variance(Facts({"cells": cells, "verdicts": verdicts}, family))
    assert found.claims == claims and ("undecided" in found.sentence) != claims
