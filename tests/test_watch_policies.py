"""Abort and steer on the random tiny pipeline; costs against a slow oracle and against section 6's formula."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from badhands.cells import Cell
from badhands.diffusion.models import ModelSpec
from badhands.diffusion.scene import Pair, Scene
from badhands.diffusion.taps import AllDropped
from badhands.experiments.abort_costs import Rule, by_group, cost, draws, per_good, tune
from badhands.experiments.abort_study import AbortStudy
from badhands.experiments.steer_study import SteerStudy
from badhands.watch import Abort, Steer, watch
from badhands.watch.fresh import fresh_pairs
from badhands.watch.reseed import reseed
from badhands.watch.settings import PolicyChoice
from tiny_pipeline import make_pipeline
from watch_probes import make_probes

SPEC = ModelSpec("tiny", "tests", 64, 64, 4, 3.5, dtype="float32", max_sequence_length=16, device="cpu", batch_size=4)
CELL = Cell("single.2", 3)


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline(seed=2, scale=3.0)


def run(pipe, n=3):
    return pipe(["a hand", "two fists", "fingers"][:n], height=64, width=64, num_inference_steps=4,
                max_sequence_length=16, output_type="latent",
                generator=[torch.Generator().manual_seed(s) for s in range(n)]).images  # fmt: skip


@pytest.fixture(scope="module")
def looked(pipe):
    with watch(pipe, make_probes()) as seen:
        latents = run(pipe)
    return latents, seen


class FakeJudge:
    """Good where the picture is bright on average: arbitrary, but a function of the picture alone."""

    def logits(self, images):
        return images.mean((1, 2, 3)) / 10 - 12.5

    def judge(self, images):
        mask = np.zeros((64, 64), bool)
        mask[16:40, 16:40] = True
        return [
            type("V", (), {"verdict": "good" if z > 0 else "bad", "confidence": 0.9, "pixel_mask": mask})()
            for z in self.logits(images) - np.median(self.logits(images))
        ]


def test_abort_stops_the_low_and_keeps_the_others(pipe, looked):
    latents, seen = looked
    frame = next(f for f in seen.frames if f.timestep == 3)
    scores = frame.score["single.2"]
    order = np.argsort(scores)
    policy = Abort({CELL: float(scores[order[:2]].mean())})
    with watch(pipe, make_probes(), policy) as stopping:
        kept = run(pipe)
    alive = sorted(order[1:])
    assert stopping.stopped == {(0, order[0]): 3} and stopping.evaluations == 3 + 3 + 2 + 2
    assert torch.allclose(kept, latents[alive], atol=1e-4)
    assert stopping.final(member=int(order[0])) is None and stopping.final(member=int(alive[1])) is not None
    assert np.allclose(stopping.frames[-1].x0_change, seen.frames[-1].x0_change[alive], atol=1e-3)
    with pytest.raises(AllDropped), watch(pipe, make_probes(), Abort({CELL: 1e9})) as none:
        run(pipe)
    assert len(none.frames) == 2 and none.evaluations == 6
    with watch(pipe, make_probes(hand_bias=-30.0), Abort({CELL: 1e9})) as blind:
        run(pipe, 1)
    assert not blind.stopped  # where no hand is found there is nothing to judge


def test_a_policy_without_its_threshold_is_refused():
    probes = make_probes()
    with pytest.raises(ValueError, match=r"give policy\.miss"):
        Abort.of(probes, [CELL], None)
    with pytest.raises(ValueError, match=r"policy\.miss=0\.07: thresholds were kept for 0\.05, 0\.2"):
        Abort.of(probes, [CELL], 0.07)
    with pytest.raises(ValueError, match=r"no threshold for double\.0/t3"):
        Abort.of(probes, [Cell("double.0", 3)], 0.05)
    with pytest.raises(ValueError, match=r"policy\.timesteps: 9 was not trained"):
        PolicyChoice("abort", timesteps=(9,), miss=0.05).build(probes)
    assert PolicyChoice("abort", miss=0.05).cells(probes) == (Cell("single.2", 4),)
    with pytest.raises(ValueError, match="number 20 is none"):
        Steer.of(probes, [CELL], 1.0, random=20)


def test_a_policy_whose_step_the_schedule_lacks_is_refused(pipe):
    policy = Abort({Cell("single.2", 3): 0.0})
    refused = pytest.raises(ValueError, match="no step of this schedule has their sigma")
    with refused, watch(pipe, make_probes(), policy):
        pipe("a hand", height=64, width=64, num_inference_steps=1, max_sequence_length=16, output_type="latent")


@pytest.mark.parametrize("where", ["hand", "all"])
def test_steering(pipe, looked, where):
    latents, seen = looked
    probes = make_probes()
    with watch(pipe, probes, Steer.of(probes, [CELL], 0.0, where)):
        assert torch.equal(run(pipe), latents)  # bit-identical
    moved = []
    for strength in (0.1, 1.0):
        policy = Steer.of(probes, [CELL], strength, where)
        with watch(pipe, probes, policy) as steered:
            moved.append(float((run(pipe) - latents).abs().mean()))
        assert np.isfinite(policy.lengths[CELL]).all()
        # What is recorded at the cell is what the block put out; later cells have moved.
        assert np.array_equal(steered.frames[1].good_logit["single.2"], seen.frames[1].good_logit["single.2"])
        assert not np.array_equal(steered.frames[2].good_logit["single.2"], seen.frames[2].good_logit["single.2"])
    assert 0 < moved[0] < moved[1]


def test_reseeding_works_through_the_pairs(pipe):
    probes = make_probes()
    pairs = [Pair("a hand", seed) for seed in range(6)]
    scene = Scene(SPEC, ["a hand"], pipe)
    with watch(pipe, probes) as seen:
        for part in (pairs[:4], pairs[4:]):
            scene.latents(part)
    scores = np.concatenate([f.score["single.2"] for f in seen.frames if f.timestep == 3])
    middle = float(np.sort(scores)[2:4].mean())
    harvest = reseed(scene, probes, Abort({CELL: middle}), pairs)
    assert {pair.seed for pair, _ in harvest.kept} == set(np.flatnonzero(scores >= middle))
    assert {pair.seed for pair, _ in harvest.stopped} == set(np.flatnonzero(scores < middle))
    assert harvest.evaluations == 3 * 4 + 3 * 2
    assert all(picture.size == (64, 64) for _, picture in harvest.kept)
    assert len(reseed(scene, probes, Abort({CELL: -1e9}), pairs, wanted=3).kept) == 4  # the second batch is not drawn


def test_costs_are_those_of_section_6():
    rng = np.random.default_rng(0)
    good = rng.random(400) < 0.3
    score = good + rng.normal(size=400)
    score[:5] = np.nan
    rule, steps = Rule("", score, 0.4, 4), 20
    found = cost(good, rule, steps, draws(400, 200))
    spent = accepted = 0
    for is_good, value in zip(good, score, strict=True):
        stopped = bool(value < 0.4)
        spent += 4 if stopped else 20
        accepted += is_good and not stopped
    assert found.per_good == pytest.approx(spent / accepted)
    p, tpr, fpr = 1 - good.mean(), found.stopped_bad, found.stopped_good
    a = p * (1 - tpr) + (1 - p) * (1 - fpr)
    b = p * (1 - tpr) / a
    formula = (steps + 4 * (1 - a) / a) / (1 - b)
    assert found.per_good == pytest.approx(formula) and found.ratio == pytest.approx(formula / (steps / (1 - p)))
    assert found.good_share == pytest.approx(1 - b)
    pays = 4 / steps < p * (tpr - fpr) / (p * tpr + (1 - p) * fpr)
    assert pays == (found.ratio < 1)
    assert found.lo < found.per_good < found.hi and found.ratio_hi < 1
    blind = cost(good, Rule("", rng.normal(size=400), 0.0, 4), steps, draws(400, 200))
    assert blind.ratio_hi > 1  # a score that knows nothing does not pay
    none = cost(good, Rule("", np.nan_to_num(score), np.inf, 4), steps, draws(400, 10))
    assert none.per_good == np.inf


def test_tuning_and_groups():
    rng = np.random.default_rng(1)
    good = rng.random(600) < 0.5
    knowing, ignorant = good + 0.5 * rng.normal(size=600), rng.normal(size=600)
    best = tune(good, [Rule("late", knowing, 0, 15), Rule("early", knowing, 0, 2), Rule("blind", ignorant, 0, 1)], 20)
    assert best.name == "early"
    turned = tune(good, [Rule("turned", -knowing, 0, 2)], 20, signs=(1, -1))
    assert turned.sign == -1
    group = np.repeat(["easy", "hard"], 300)
    good = rng.random(600) < np.where(group == "easy", 0.9, 0.1)
    rule = Rule("stops every hard prompt", np.where(group == "easy", 1.0, -1.0) + 0.01 * rng.normal(size=600), 0, 1)
    weights = draws(600, 200)
    assert cost(good, rule, 20, weights).ratio_hi < 1 and by_group(good, rule, 20, group, weights)[0] == np.inf
    group, good = np.append(group, ["hopeless"] * 50), np.append(good, np.zeros(50, bool))
    kept = Rule("stops what never comes out well", np.where(group == "hopeless", -1.0, 1.0), 0, 1)
    assert by_group(good, kept, 20, group, draws(650, 200)) == (1, 1, 1)  # and saves nothing on what does
    group, good = group[:600], good[:600]
    assert per_good(good, np.zeros(600, bool), 20, 20, np.ones((1, 600)))[0] == pytest.approx(20 / good.mean())


def test_the_abort_study_resumes_and_its_policy_does_what_the_table_says(pipe, tmp_path):
    study, probes = AbortStudy(images=24, live=8, bootstraps=100), make_probes()
    text = study.run(SPEC, probes, "tiny_hands", tmp_path, pipe=pipe, judge=FakeJudge())
    assert "plain reseeding" in text and "x0-variance, tuned" in text and "probe, tuned" in text
    lines = (tmp_path / "images.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 24 and {p.name for p in tmp_path.iterdir()} >= {
        "costs.csv",
        "costs.png",
        "live.csv",
        "auroc.csv",
    }
    live = (tmp_path / "live.csv").read_text().splitlines()
    told = dict(zip(live[0].split(","), live[1].split(","), strict=True))
    assert float(told["agree"]) == 1 and told["evaluations"] == told["evaluations_by_the_table"]
    (tmp_path / "images.jsonl").write_bytes(b"".join(lines[:20]) + lines[20][:30])  # killed while it wrote
    again = study.run(SPEC, probes, "tiny_hands", tmp_path, pipe=pipe, judge=FakeJudge())
    rows = [json.loads(line) for line in (tmp_path / "images.jsonl").read_text().splitlines()]
    assert [row["scores"] for row in rows] == [json.loads(line)["scores"] for line in lines] and again == text
    with pytest.raises(ValueError, match="another folder"):
        study.run(SPEC, make_probes(steps=4), "hands", tmp_path, pipe=pipe, judge=FakeJudge())


def test_the_steering_study(pipe, tmp_path):
    study = SteerStudy(images=8, strengths=(-1, 0, 1), random=1, choice=PolicyChoice(timesteps=(4, 3)))
    text = study.run(SPEC, make_probes(), "tiny_hands", tmp_path, pipe=pipe, judge=FakeJudge())
    assert "Strength 0 gives the identical pictures." in text and "Against 1 random directions" in text
    rows = [json.loads(line) for line in (tmp_path / "pushes.jsonl").read_text().splitlines()]
    assert len(rows) == 8 * 5 and sum(row["equal"] for row in rows) == 16
    (tmp_path / "pushes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:23]) + '{"torn')
    assert study.run(SPEC, make_probes(), "tiny_hands", tmp_path, pipe=pipe, judge=FakeJudge()) == text
    kept = (tmp_path / "pushes.jsonl").read_bytes()
    elsewhere = replace(study, choice=PolicyChoice(timesteps=(2,)))
    with pytest.raises(ValueError, match="another folder"):
        elsewhere.run(SPEC, make_probes(), "tiny_hands", tmp_path, pipe=pipe, judge=FakeJudge())
    assert (tmp_path / "pushes.jsonl").read_bytes() == kept


def test_fresh_pairs_avoid_the_study():
    pairs = fresh_pairs("tiny_hands", 50)
    assert pairs[:20] == fresh_pairs("tiny_hands", 20) and len({pair.seed for pair in pairs}) == 50
    known = {pair.prompt for pair in pairs[:10]}
    assert not known & {pair.prompt for pair in fresh_pairs("tiny_hands", 50, known=known)}
    assert all(a.seed != b.seed for a, b in itertools.pairwise(pairs))
