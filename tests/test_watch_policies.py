"""Abort and steer on the random tiny pipeline; costs against a slow oracle and against section 6's formula."""

import itertools

import numpy as np
import pytest
import torch

from badhands.cells import Cell
from badhands.diffusion.moments import AllDropped
from badhands.diffusion.scene import Pair, Scene
from badhands.diffusion.spec import ModelSpec
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

    def to(self, device):
        return self

    def logits(self, images):
        return images.mean((1, 2, 3)) / 10 - 12.5

    def places(self, images):
        found = np.zeros(images.shape[:3], bool)
        found[:, 20:28, 20:32] = True
        return found

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


def test_fresh_pairs_avoid_the_study():
    pairs = fresh_pairs("tiny_hands", 50)
    assert pairs[:20] == fresh_pairs("tiny_hands", 20) and len({pair.seed for pair in pairs}) == 50
    known = {pair.prompt for pair in pairs[:10]}
    assert not known & {pair.prompt for pair in fresh_pairs("tiny_hands", 50, known=known)}
    assert all(a.seed != b.seed for a, b in itertools.pairwise(pairs))
