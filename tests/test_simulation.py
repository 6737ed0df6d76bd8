"""The coverage command: intervals of the project hold the known truth, and ones that do not are named."""

import numpy as np
import pandas as pd
import pytest

from badhands.replicate.coverage import run
from badhands.replicate.simulated import TITLES, coverage, told
from badhands.replicate.simulated_studies import CELLS, CHANNELS, Study, distance

SETS = 8


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("coverage")
    run(folder, [40], SETS // 2, 40)
    text = run(folder, [40], SETS, 40)  # goes on
    rows = pd.concat([pd.read_csv(folder / f"{kind}-40-40.csv") for kind in ("null", "planted")])
    return text, pd.read_csv(folder / "coverage.csv"), rows


def test_every_kind_of_interval_is_simulated_without_and_with_a_difference(found):
    text, table, rows = found
    assert set(table["what"]) == set(TITLES) and (table["data_sets"] == SETS).all()
    assert (table.groupby("what")["planted"].nunique() == 2).all() and "| headline AUROC |" in text
    assert len(rows) == len(rows.drop_duplicates(["planted", "seed", "what"])), "an interrupted command repeats nothing"


def test_intervals_hold_the_truth_about_as_often_as_they_say(found):
    _, table, rows = found
    assert 0.88 < table["coverage"].mean() < 1
    squeezed = rows.assign(
        lo=rows["value"] - (rows["value"] - rows["lo"]) / 4, hi=rows["value"] + (rows["hi"] - rows["value"]) / 4
    )
    assert coverage(squeezed)["coverage"].mean() < 0.75, "too narrow ones are noticed"


def test_a_kind_that_misses_the_bar_is_named():
    rows = pd.DataFrame({"seed": range(300), "images": 40, "planted": False, "what": "auroc", "value": 0.5,
                         "hi": 0.6, "truth": 0.5, "lo": np.where(np.arange(300) < 45, 0.55, 0.4)})  # fmt: skip
    assert "1 of 1 miss the bar of 92% to 98%: headline AUROC (null, 40): 85.0%" in told(coverage(rows))
    assert "0 of 1 miss" in told(coverage(rows.assign(lo=np.where(rows["seed"] < 18, 0.55, 0.4))))
    assert "1 of 1 miss" in told(coverage(rows.assign(lo=0.4))), "always right is too wide"


def test_the_planted_distance_is_that_of_the_population():
    study = Study.draw(6000, planted=True, seed=0, permutations=24)
    for cell in CELLS[-1:]:
        x = study.tokens[cell].reshape(6000, -1, CHANNELS)
        good, bad = (x[side].reshape(-1, CHANNELS) for side in (study.design.good, ~study.design.good))
        s1, s0 = good.var(0), bad.var(0)
        gap = (good.mean(0) - bad.mean(0)) ** 2 / (4 * (s1 + s0))
        spread = 0.5 * np.log((s1 + s0) / (2 * np.sqrt(s1 * s0)))
        assert (gap + spread).sum() == pytest.approx(distance(cell, True), rel=0.05)


def test_images_of_few_prompts_are_simulated_too(tmp_path):
    text = run(tmp_path, [40], 4, 40, prompts=20)
    assert "| headline AUROC |" in text and text.endswith("coverage-20-prompts.csv")
    study, again = (Study.draw(80, planted=True, seed=seed, permutations=24, prompts=20) for seed in (0, 1))
    assert study.design.matched and len(np.unique(study.design.unit)) == 20
    good, stratum = study.design.good, study.design.stratum
    assert all(good[stratum == s].sum() == 2 for s in range(20))
    means = [np.stack([one.tokens[CELLS[0]][stratum == s].mean((0, 1)) for s in range(20)]) for one in (study, again)]
    assert np.corrcoef(means[0].ravel(), means[1].ravel())[0, 1] > 0.3, "the same prompts in every data set"
