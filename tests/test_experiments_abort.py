"""Rules and costs against slow oracles and closed forms; a planted verdict must pay, a shuffled one must not."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from badhands.cells import Cell
from badhands.diffusion.scene import Pair, Scene
from badhands.diffusion.spec import ModelSpec
from badhands.experiments.abort import (
    Scores,
    abort_table,
    by_price_of,
    by_rule,
    miss_curve,
    oracle_curve,
    outcome_of,
    second_look,
)
from badhands.experiments.best import best_table, rates
from badhands.experiments.fresh_table import FreshImages, FreshTable, fill_table, preview_logits
from badhands.experiments.page import write_page
from badhands.experiments.rows import Artist, Hired
from badhands.experiments.rules import by_miss, by_price, first_stop, spend
from badhands.stats.costs import cost_row, price_of_every_kind
from badhands.watch.policies import Abort
from badhands.watch.reseed import reseed
from badhands.watch.watcher import watch
from test_watch_policies import FakeJudge
from tiny_pipeline import make_pipeline
from watch_probes import make_probes

AT = np.array([1, 2, 4, 6, 9, 13, 18])
T = 20
SPEC = ModelSpec("tiny", "tests", 64, 64, 4, 3.5, dtype="float32", max_sequence_length=16, device="cpu", batch_size=4)


def planted(prompts=40, seeds=12, knows=2.0, seed=0):
    """A table whose score separates good from bad by `knows` standard deviations from the fourth step on."""
    rng = np.random.default_rng(seed)
    prompt = np.repeat(np.arange(prompts), seeds)
    good = rng.random(len(prompt)) < rng.uniform(0.3, 0.7, prompts)[prompt]
    score = rng.normal(size=(len(good), len(AT)))
    score[:, 2:] += knows * good[:, None]
    cells = {Cell("single.2", T - int(k) + 1): score[:, i] for i, k in enumerate(AT)}
    timesteps = tuple(T - int(k) + 1 for k in AT)
    clock = {"evaluation": 1.0, "preview": 3.0, "picture": 0.0, "judge": 0.0}
    noise = rng.normal(size=score.shape)
    return FreshTable(prompt, prompt % 4, good, ~good, timesteps, AT, T, cells, noise, noise, clock)


class MovingJudge(FakeJudge):
    device = None

    def to(self, device):
        self.device = device
        return self


def own(table):
    return Scores("probe", np.stack(list(table.cells.values()), 1))


def test_costs_are_those_of_section_6():
    """One step: sums over images equal the formula in rates."""
    table = planted()
    thresholds = np.full(len(AT), -np.inf)
    thresholds[2] = 0.4
    outcome = outcome_of(table, "", first_stop(own(table).score, thresholds))
    plain = outcome_of(table, "", np.full(len(table.good), len(AT)))
    row = cost_row(outcome, plain, table.good, table.prompt, table.kind)
    p, tpr, fpr = 1 - table.good.mean(), row["stopped_rest"], row["stopped_good"]
    a = p * (1 - tpr) + (1 - p) * (1 - fpr)
    b = p * (1 - tpr) / a
    formula = (T + AT[2] * (1 - a) / a) / (1 - b)
    assert row["per_good"] == pytest.approx(formula) and row["ratio"] == pytest.approx(formula / (T / (1 - p)))
    assert row["good_share"] == pytest.approx(1 - b)
    assert (row["ratio"] < 1) == (AT[2] / T < p * (tpr - fpr) / (p * tpr + (1 - p) * fpr))
    assert row["ratio_lo"] < row["ratio"] < row["ratio_hi"] < 1
    assert row["ratio"] == pytest.approx(row["seconds_ratio"])  # nothing but evaluations takes time here


def test_the_oracle_has_its_closed_form():
    table = planted()
    p = table.good.mean()
    for row in oracle_curve(table).to_dict("records"):
        assert row["per_good"] == pytest.approx((p * T + (1 - p) * row["after"]) / p)


def test_knowing_pays_and_shuffled_scores_do_not():
    table, probes = planted(), make_probes(T, ("single.2",), tuple(T - k + 1 for k in AT))
    rows = abort_table(table, probes).set_index("method")
    assert rows.loc["probe, sequential, least cost", "ratio_hi"] < 0.9
    assert rows.loc["probe, scores shuffled, sequential, least cost", "ratio_hi"] > 1
    assert rows.loc["oracle after 4 evaluations", "ratio"] < rows.loc["probe, sequential, least cost", "ratio"]
    best = best_table(table, probes)
    at = best[(best["n"] == 4) & (best["after"] == 4)].set_index("scorer")
    assert at.loc["probe", "not_good_hi"] < 0.8 and at.loc["probe, scores shuffled", "not_good_hi"] > 1
    assert at.loc["oracle", "good_rate"] >= at.loc["probe", "good_rate"]
    assert np.allclose(best["bad"], best["not_good"])  # here nothing was abstained on
    unsure = replace(table, bad=table.bad & (np.arange(len(table.bad)) % 2 == 0))
    halved = best_table(unsure, probes)
    assert np.allclose(halved["not_good"], best["not_good"]) and (halved["bad_rate"] < best["bad_rate"]).all()
    assert (best["cost"] >= 1).all() and set(miss_curve(table, probes)["miss"]) > {0.05, 0.2}
    several = [abort_table(planted(knows=0.0, seed=s), probes).set_index("method") for s in range(8)]
    assert np.mean([t.loc["probe, sequential, least cost", "ratio"] for t in several]) > 0.99


def test_thresholds_of_least_cost_are_those_of_a_search():
    """With one step to decide at, the fixed point is the best threshold there is."""
    rng = np.random.default_rng(3)
    good = rng.random(600) < 0.5
    score, at = (good + rng.normal(size=600))[:, None], np.array([5])

    def cost(threshold):
        stop = first_stop(score, np.array([threshold]))
        return spend(stop, at, T).sum() / max(1, (good & (stop == 1)).sum())

    found = by_price(score, good, at, T)
    assert cost(found[0]) == pytest.approx(min(cost(x) for x in np.append(score[:, 0], -np.inf)), rel=0.01)
    assert (by_price(score, np.zeros(600, bool), at, T) == -np.inf).all()  # nothing is worth anything
    assert first_stop(np.full((3, 1), np.nan), np.array([np.inf])).tolist() == [1, 1, 1]  # no score, no stop


@pytest.mark.parametrize("miss", [0.02, 0.1, 0.3])
def test_a_stated_miss_rate_is_spent_and_not_exceeded(miss):
    table = planted()
    score = own(table).score.copy()
    score[::7, 1] = np.nan
    stop = first_stop(score, by_miss(score, table.good, miss))
    lost = (stop[table.good] < len(AT)).mean()
    assert miss - 0.01 < lost <= miss
    assert (stop[table.good] < 3).mean() <= miss * 3 / len(AT) + 1e-9  # evenly over the steps


def test_thresholds_come_from_the_other_prompts():
    """Labels of one half changed: what happens to that half's own images stays the same."""
    table = planted()
    half = table.prompt % 2 == 0
    changed = FreshTable(**{**vars(table), "good": np.where(half, ~table.good, table.good)})
    before, after = (by_rule(t, own(table), "", by_price_of(t)) for t in (table, changed))
    assert np.array_equal(before.delivered[half], after.delivered[half])
    assert not np.array_equal(before.delivered[~half], after.delivered[~half])


def test_a_second_look_can_only_spare():
    table = planted()
    probe = own(table)
    alone = by_rule(table, probe, "", by_price_of(table))
    both = second_look(table, probe, Scores("preview", own(planted(seed=5)).score, previews=True))
    assert (both.delivered | ~alone.delivered).all() and both.delivered.sum() > alone.delivered.sum()


@pytest.mark.parametrize(("n", "keep"), [(2, 1), (4, 1), (4, 2), (5, 5)])
def test_rates_of_best_of_n_are_those_of_every_subset(n, keep):
    rng = np.random.default_rng(1)
    score, good = rng.normal(size=8), rng.random(8) < 0.5
    score[5], score[2] = np.nan, score[4]
    slow = []
    for subset in itertools.combinations(range(8), n):
        for tie in (1e-9, -1e-9):
            own_score = np.nan_to_num(score, nan=-9.0)
            own_score[4] += tie
            top = sorted(subset, key=lambda i: -own_score[i])[:keep]
            slow.append(good[top].mean())
    (fast,) = rates(score, good, np.zeros(8, int), n, keep)
    assert fast == pytest.approx(np.mean(slow))


def test_refusing_hard_prompts_is_no_saving():
    rng = np.random.default_rng(1)
    prompt = np.repeat(np.arange(60), 10)
    easy = prompt < 30
    good = rng.random(600) < np.where(easy, 0.9, 0.3)
    stopped = ~easy & (rng.random(600) < 0.9)  # knows nothing but the prompt
    spent, kept = np.where(stopped, 1.0, 20.0), (good & ~stopped).astype(float)
    plain, kind = (np.full(600, 20.0), good.astype(float)), (~easy).astype(int)
    assert spent.sum() / kept.sum() < 0.8 * 20 / good.mean()  # cheap per good hand
    ratio, low, high = price_of_every_kind((spent, kept), plain, kind, prompt)
    easily, hard = 20 / good[easy].mean(), spent[~easy].sum() / kept[~easy].sum()
    assert ratio == pytest.approx((easily + hard) / (easily + 20 / good[~easy].mean())) and low < ratio < high
    assert high > 1
    nothing = price_of_every_kind((spent, kept * easy), plain, kind, prompt)
    assert nothing == (np.inf, 0.0, np.inf)
    assert price_of_every_kind(plain, plain, kind, prompt) == (1, 1, 1)


def test_the_table_resumes_and_the_policy_does_what_it_says(tmp_path):
    probes, pipe = make_probes(), make_pipeline(seed=2, scale=3.0)
    pairs = FreshImages(8, 4).pairs("tiny_hands")
    assert len({pair.prompt for pair in pairs}) == 8 and len({pair.seed for pair in pairs}) == 32
    assert pairs[:16] == FreshImages(8, 4).pairs("tiny_hands")[:16]
    pairs, scene, path = pairs[:16], Scene(SPEC, [pair.prompt for pair in pairs], pipe), tmp_path / "images.jsonl"
    artist = Artist(scene, probes, FakeJudge())
    rows = fill_table(path, pairs, artist, {"a": 1})
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:9]) + lines[9][:30])  # killed while it wrote
    again = fill_table(path, pairs, artist, {"a": 1})
    assert [r["scores"] for r in again[:8]] == [r["scores"] for r in rows[:8]] and len(again) == 16
    with pytest.raises(ValueError, match="another folder"):
        fill_table(path, pairs, artist, {"a": 2})
    table = FreshTable.of(rows)
    cell = Cell("single.2", 3)
    threshold = float(np.median(table.cells[cell]))
    harvest = reseed(scene, probes, Abort({cell: threshold}), pairs)
    thresholds = np.where(np.array(table.timesteps) == 3, threshold, -np.inf)
    told = outcome_of(table, "", first_stop(table.path([Cell("single.2", t) for t in table.timesteps]), thresholds))
    assert harvest.evaluations == told.evaluations.sum()
    assert {pair.seed for pair, _ in harvest.kept} == {
        p.seed for p, ok in zip(pairs, told.delivered, strict=True) if ok
    }
    assert json.loads(lines[0])["preview"].keys() == {"4", "3", "2", "1"}


def test_previews_judged_together_are_those_judged_one_by_one():
    pairs = [Pair("a hand", 1), Pair("a fist", 2)]
    scene = Scene(SPEC, [pair.prompt for pair in pairs], make_pipeline(seed=2, scale=3.0))
    with watch(scene.pipe, make_probes()) as seen:
        scene.latents(pairs)
    artist = Artist(scene, seen.probes, FakeJudge())
    alone = [[FakeJudge().logits(np.array(seen.preview(f, i))[None])[0] for f in seen.frames] for i in range(2)]
    together = preview_logits(artist, seen)
    assert together.shape == (2, len(seen.frames)) and np.ptp(together, axis=0).min() > 0.02
    assert together == pytest.approx(np.array(alone), abs=0.001)


def test_the_judge_of_another_process_works_where_its_model_does():
    hired = Hired.like(Artist(Scene(SPEC, [], make_pipeline()), make_probes(), MovingJudge()))
    assert hired(SPEC).judge.device == SPEC.torch_device()


def test_the_page_shows_what_is_there(tmp_path):
    table, probes = planted(), make_probes(T, ("single.2",), tuple(T - k + 1 for k in AT))
    abort_table(table, probes).to_csv(tmp_path / "abort.csv", index=False)
    text = write_page(tmp_path, "tiny").read_text()
    assert "oracle after 4 evaluations" in text and "Best of N" not in text
    best_table(table, probes).to_csv(tmp_path / "best.csv", index=False)
    assert "Best of N" in write_page(tmp_path, "tiny").read_text()
    row = pd.read_csv(tmp_path / "abort.csv").set_index("method").loc["plain reseeding"]
    assert f"{row['per_good']:.3f}" in text
