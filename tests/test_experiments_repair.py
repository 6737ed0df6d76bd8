"""Rules of repair against a slow oracle and planted tables; the mask's figures; the experiment from drawing to page."""

import json

import numpy as np
import pandas as pd
import pytest

from badhands.experiments.masks import iou, mask_row, mask_table
from badhands.experiments.page import write_page
from badhands.experiments.repair import HUGE, DrawRepairs, RepairStudy, outside_psnr, run_repair
from badhands.experiments.repair_rules import Repairs, follow, repair_table
from badhands.watch.region import region_tokens, to_pixels
from badhands.watch.repaint import paint
from test_experiments_treated import bench
from tiny_pipeline import make_pipeline
from watch_probes import make_probes

T = 20


def planted(pairs=80, mends=0.6, reseeds_good=0.3, knows=2.0, seed=0):
    """Rows of a study: redrawing the hand mends a share `mends` of the bad, a new seed is good so often."""
    rng, rows = np.random.default_rng(seed), []
    for pair in range(pairs):
        about = {"prompt": f"p{pair // 2}", "seed": pair, "judge_seconds": 0.01}
        plain = rng.random() < 0.3

        def row(good, what, redo, number, psnr=None, about=about):
            score = knows * (1 if good else -1) + rng.normal()
            return {**about, "what": what, "redo": redo, "number": number, "verdict": "good" if good else "bad",
                    "logit": 5.0 if good else -5.0, "score": score, "p_bad": 1 / (1 + np.exp(score)), "psnr": psnr,
                    "evaluation": 0.02}  # fmt: skip

        rows.append(row(plain, "plain", 1.0, 0))
        rows += [row(rng.random() < reseeds_good, "reseed", 1.0, k) for k in range(2)]
        for what in ("hand", "bad", "judge"):
            rows += [row(plain or (what == "hand" and rng.random() < mends), what, 0.5, k, 40.0) for k in range(4)]
    return rows


def test_a_rule_tries_until_one_is_accepted_and_keeps_the_best():
    rng = np.random.default_rng(1)
    accept, score = rng.random((200, 5)) < 0.3, rng.normal(size=(200, 5))
    score[::9, 0] = -np.inf
    for most in (1, 4):
        made, kept = follow(accept, score, most)
        for i in range(200):
            count = 0
            while not accept[i, count] and count < most:
                count += 1
            assert made[i] == count and kept[i] == np.argmax(score[i, : count + 1])


def test_repairs_that_mend_pay_and_others_do_not():
    table = repair_table(Repairs.of(planted(), T, ("hand", "bad", "judge"))).set_index("method")
    hand, seeds = table.loc["judge: whole hand again"], table.loc["judge: new seeds"]
    assert hand["mended"] > 0.9 and hand["broken"] == 0 and hand["ratio_hi"] < 0.9 and hand["against_seeds_hi"] < 1
    assert table.loc["judge: bad tokens again", "mended"] == 0 and table.loc["judge: bad tokens again", "ratio"] > 1
    assert seeds["against_seeds"] == 1 and seeds["tries"] == 2  # four halves cost two wholes
    assert hand["evaluations"] <= T + 4 * T / 2 and hand["psnr"] == 40.0 and np.isnan(seeds["psnr"])
    assert table.loc["probe: whole hand again", "ratio"] < table.loc["probe, shuffled: whole hand again", "ratio"]
    assert hand["ratio"] < hand["seconds_ratio"]  # the judge has to look at every picture
    assert (table["plain_good_share"] == table["plain_good_share"].iloc[0]).all()


def test_costs_of_repairs_by_hand():
    rows = planted(pairs=10)
    repairs = Repairs.of(rows, T, ("hand",))
    tries = repairs.tries["hand", 0.5]
    spent = good = 0.0
    for own, good_own, score in zip(tries.p_bad, tries.good, tries.score, strict=True):
        count = next((k for k in range(5) if own[k] < 0.5), 4)
        spent += T + 10 * count
        good += good_own[int(np.argmax(score[: count + 1]))]
    row = repair_table(repairs).set_index("method").loc["probe: whole hand again"]
    assert row["evaluations"] == pytest.approx(spent / 10)
    assert row["ratio"] == pytest.approx((spent / good) / (10 * T / tries.good[:, 0].sum()))


def test_damage_is_measured_outside_the_region_alone():
    rng = np.random.default_rng(0)
    before = rng.integers(0, 200, (64, 64, 3)).astype(np.uint8)
    region = np.zeros((16, 16), bool)
    region[2:5, 2:6] = True
    after = before.copy()
    after[8:20, 8:24] += 50
    assert outside_psnr(before, after, region) == HUGE
    after[40] += 8
    expected = 10 * np.log10(255**2 / (64 * 8**2 / (64 * 64 - 12 * 16)))
    assert outside_psnr(before, after, region) == pytest.approx(expected)
    assert outside_psnr(before, after, ~np.zeros_like(region)) is None


def test_masks_meet_the_place_they_should():
    scene = bench(None, make_pipeline(seed=2, scale=3.0)).artist.scene
    from badhands.diffusion.scene import Pair

    scene.embed(["a hand"])
    canvas = paint(scene, make_probes(), [Pair("a hand", 0), Pair("a hand", 1)])
    bad = region_tokens(canvas.seen.probes, canvas.seen.grid, canvas.seen.of()[-1], 1, "bad")
    row = mask_row(canvas, 1, to_pixels(bad, (64, 64)))
    assert row is not None and row["bad"] == 1.0 and row["auroc"] == 1.0 and 0 < row["random"] < 1
    assert row["hand"] == pytest.approx(bad.sum() / canvas.region("hand", grow=0)[1].sum(), abs=1e-4)
    assert mask_row(canvas, 1, np.zeros((64, 64), bool)) is None
    assert iou(np.eye(4, dtype=bool), np.eye(4, dtype=bool)) == 1 and iou(np.zeros(3, bool), np.zeros(3, bool)) == 0
    rows = [{"prompt": f"p{i}", "verdict": v, "mask": m} for i, (v, m) in enumerate(
        [("bad", row), ("bad", row), ("good", row), ("bad", None)])]  # fmt: skip
    table = mask_table(rows).set_index("mask")
    assert table.loc["bad tokens", "n"] == 2 and table.loc["bad tokens", "iou"] == 1.0


def test_the_experiment_ends_in_its_section(tmp_path):
    study = RepairStudy(pairs=8, tries=1, redo=(0.5,))
    here = bench(tmp_path, make_pipeline(seed=2, scale=3.0))
    text = run_repair(here, study)
    rows = [json.loads(line) for line in (tmp_path / "repair.jsonl").read_text().splitlines()]
    draw = DrawRepairs(study.tries, study.redo, study.reseeds)
    assert len(rows) == 8 * draw.each and all(row["psnr"] > 15 for row in rows if row["what"] == "judge")
    assert run_repair(here, study) == text and "whole hand again" in text
    with pytest.raises(ValueError, match="another folder"):
        run_repair(here, RepairStudy(pairs=8, tries=2, redo=(0.5,)))
    page = write_page(tmp_path, "tiny").read_text()
    assert "Repair: draw the bad hand again" in page and "repair, probe: new seeds" in page
    assert len(pd.read_csv(tmp_path / "repair.csv")) == 2 * 4 + 2


def test_what_cannot_be_compared_is_told():
    for wrong in ({"pairs": 4}, {"redo": ()}, {"tries": 0}, {"redo": (1.5,)}):
        with pytest.raises(ValueError, match=r"repair\.pairs|at least one try|share of the steps"):
            RepairStudy(**wrong)
    assert RepairStudy().reseeds == 3 and DrawRepairs(4, (0.25, 0.5, 0.75), 3).each == 40
