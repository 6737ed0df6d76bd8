"""Best of N and repair on the random tiny pipeline: survivors are what they are alone, nothing changes outside."""

import numpy as np
import pytest
import torch

from badhands.cells import Cell
from badhands.diffusion.scene import Pair, Scene
from badhands.watch import Best, watch
from badhands.watch.region import grown, region_tokens, to_pixels
from badhands.watch.repaint import Repair, first_step, paint, repaint, repair
from badhands.watch.reseed import reseed
from badhands.watch.settings import PolicyChoice
from test_watch_policies import CELL, SPEC
from tiny_pipeline import make_pipeline
from watch_probes import make_probes

PAIRS = [Pair("a hand", seed) for seed in range(4)]


@pytest.fixture(scope="module")
def scene():
    return Scene(SPEC, ["a hand"], make_pipeline(seed=2, scale=3.0))


@pytest.fixture(scope="module")
def canvas(scene):
    return paint(scene, make_probes(), PAIRS)


@pytest.mark.parametrize("keep", [1, 2])
def test_the_best_are_finished_and_look_as_if_drawn_alone(scene, canvas, keep):
    scores = next(f for f in canvas.seen.frames if f.timestep == 3).score["single.2"]
    best = sorted(np.argsort(-scores)[:keep])
    harvest = reseed(scene, make_probes(), Best(CELL, keep), PAIRS, size=4)
    assert [pair.seed for pair, _ in harvest.kept] == best
    assert harvest.evaluations == 4 * 2 + keep * 2  # two of four steps for all, the rest for the survivors
    for pair, picture in harvest.kept:
        with watch(scene.pipe, make_probes(), previews=False):
            alone = scene.pictures(scene.latents([pair]))[0]
        # Sums over another batch size differ in the last bits of float32: at most one level of 255.
        assert np.abs(np.asarray(picture).astype(int) - np.asarray(alone)).max() <= 1


def test_no_hand_found_is_the_worst_of_all(canvas):
    frame = next(f for f in canvas.seen.frames if f.timestep == 3)
    from dataclasses import replace

    blind = replace(frame, score={"single.2": np.array([np.nan, -5.0, np.nan, -9.0])})
    assert Best(CELL, 1).stop(blind) == {0, 2, 3} and Best(CELL, 3).stop(blind) == {2}
    assert Best(Cell("single.2", 1)).stop(frame) == set()


def test_a_choice_that_cannot_be_made_is_refused():
    probes = make_probes()
    for wrong, told in (
        ({"n": 1}, r"policy\.n=1 policy\.keep=1: start more seeds"), ({"n": 4, "keep": 4}, "start more seeds"),
        ({"n": 4, "at": 9}, r"policy\.at: 9 was not trained"), ({"n": 4, "timesteps": (3,)}, "decides once"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            PolicyChoice("best", **wrong).build(probes)
    assert PolicyChoice("best", n=4, at=3).build(probes) == Best(CELL)


def test_a_repair_changes_the_region_alone(scene, canvas):
    region = np.zeros((4, 16, 16), bool)
    region[:, 4:8, 4:10] = True
    drawn = repaint(scene, make_probes(), canvas, region, 0.5, 0)
    inside = torch.from_numpy(region.reshape(4, -1))
    assert torch.equal(drawn.latents[~inside], canvas.latents[~inside])
    assert float((drawn.latents - canvas.latents)[inside].abs().mean()) > 0.05
    again, other = (repaint(scene, make_probes(), canvas, region, 0.5, k) for k in (0, 1))
    assert torch.equal(again.latents, drawn.latents) and not torch.equal(other.latents, drawn.latents)


def test_noising_back_and_forth_with_the_own_noise_is_the_identity(scene, canvas):
    """Nothing to draw again: every step follows the straight line, and ends at the clean latent exactly."""
    nothing = repaint(scene, make_probes(), canvas, np.zeros((4, 16, 16), bool), 0.75, 0)
    assert torch.equal(nothing.latents, canvas.latents)


def test_redrawing_everything_is_the_model_at_work_from_the_middle(scene, canvas):
    """With the whole picture as region the outside plays no part: an Euler loop by hand from the same noise."""
    drawn = repaint(scene, make_probes(), canvas, np.ones((4, 16, 16), bool), 0.5, 0)
    from badhands.watch.repaint import _noise

    sigma = canvas.sigmas[2]
    x = (1 - sigma) * canvas.latents + sigma * torch.stack([_noise(p, 0, canvas.noise[0]) for p in PAIRS])
    pipe, velocities = scene.pipe, []

    def record(_module, args, kwargs, output):
        velocities.append(output[0])

    handle = pipe.transformer.register_forward_hook(record, with_kwargs=True)
    repaint(scene, make_probes(), canvas, np.ones((4, 16, 16), bool), 0.5, 0)
    handle.remove()
    for velocity, now, then in zip(velocities, canvas.sigmas[2:], canvas.sigmas[3:], strict=False):
        x = x + (then - now) * velocity
    assert len(velocities) == 2 and torch.allclose(x, drawn.latents, atol=1e-4)


def test_repair_keeps_what_scores_better(scene, canvas):
    probes = make_probes().at_rate(0.999)  # nearly every hand is called bad
    start = paint(scene, probes, PAIRS)
    after, tries = repair(scene, probes, start, Repair(2, 0.5))
    assert max(tries) == 2 and (after.score >= start.score).all() and (after.score > start.score).any()
    same = after.score == start.score
    assert torch.equal(after.latents[torch.from_numpy(same)], start.latents[torch.from_numpy(same)])
    fine, none = repair(scene, probes.at_rate(0.001), paint(scene, probes.at_rate(0.001), PAIRS), Repair())
    assert none == [0] * 4 and torch.equal(fine.latents, start.latents)


def test_what_cannot_be_repaired_is_told(scene, canvas):
    with pytest.raises(ValueError, match="at least one try"):
        Repair(0)
    with pytest.raises(ValueError, match="share of the steps"):
        Repair(1, 1.0)
    with pytest.raises(ValueError, match=r"policy\.p_bad=1\.2"):
        Repair(1, 0.5, p_bad=1.2)
    assert [first_step(20, redo) for redo in (0.99, 0.5, 0.01)] == [1, 10, 19]
    shifted = type(canvas)(**{**vars(canvas), "sigmas": tuple(s * 0.9 for s in canvas.sigmas)})
    with pytest.raises(ValueError, match="cannot be begun in the middle"):
        repaint(scene, make_probes(), shifted, np.ones((4, 16, 16), bool), 0.5, 0)


def test_the_mask_is_the_bad_tokens_in_pixels(canvas):
    seen, frame = canvas.seen, canvas.seen.of()[-1]
    bad, hand = (region_tokens(seen.probes, seen.grid, frame, 1, what) for what in ("bad", "hand"))
    assert 0 < bad.sum() < hand.sum() and not (bad & ~hand).any()
    assert np.array_equal(bad, hand & (frame.p_bad["single.2"][1] >= 0.5).reshape(16, 16))
    plain = np.asarray(seen.mask(1, grow=0))
    assert plain.shape == (64, 64) and set(np.unique(plain)) == {0, 255}
    assert np.array_equal(plain[::4, ::4] > 0, bad) and np.array_equal(plain > 0, to_pixels(bad, (64, 64)))
    wide = np.asarray(seen.mask(1)) > 0
    assert np.array_equal(wide, to_pixels(grown(bad), (64, 64))) and wide.sum() > (plain > 0).sum()
    assert np.array_equal(np.asarray(seen.mask(1, what="hand", grow=0)) > 0, to_pixels(hand, (64, 64)))
    one = np.zeros((5, 5), bool)
    one[2, 2] = True
    assert grown(one).sum() == 9 and grown(~one & one).sum() == 0
    with pytest.raises(ValueError, match="region=thumb"):
        seen.mask(what="thumb")
