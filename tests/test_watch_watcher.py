"""Watching changes nothing, records what the probes say, leaves nothing behind, and refuses what it cannot read."""

import numpy as np
import pytest
import torch
from PIL import Image

from badhands.cells import Cell
from badhands.diffusion.capture import capture
from badhands.diffusion.preview import decode
from badhands.diffusion.readback import Readback
from badhands.probes.steps import SIGMA_TOLERANCE, match_steps
from badhands.watch import Abort, watch
from tiny_pipeline import NEGATIVE, make_pipeline
from watch_probes import BLOCKS, make_probes

PROMPTS = ["a hand", "two fists", "fingers"]


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline(seed=2, scale=3.0)


def run(pipe, n=1, **options):
    options = {"height": 64, "width": 64, "num_inference_steps": 4, "max_sequence_length": 16, "output_type": "latent",
               "generator": [torch.Generator().manual_seed(s) for s in range(n)], **options}  # fmt: skip
    return pipe(PROMPTS[:n], **options).images


def hooks(pipe):
    modules = list(pipe.transformer.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules), "step" in vars(pipe.scheduler)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("guided", [False, True])
def test_watching_changes_nothing(pipe, n, guided):
    options = {"negative_prompt": [NEGATIVE] * n, "true_cfg_scale": 2.0} if guided else {}
    plain = run(pipe, n, **options)
    with watch(pipe, make_probes()) as seen:
        watched = run(pipe, n, **options)
        for frame in seen.frames:
            seen.preview(frame)
        again = run(pipe, n, **options)
    assert torch.equal(watched, plain) and torch.equal(again, plain)
    assert hooks(pipe) == (0, False)
    assert [(f.generation, f.timestep) for f in seen.frames] == [(g, t) for g in (0, 1) for t in (4, 3, 2, 1)]
    assert seen.evaluations == 2 * 4 * n * (1 + guided)
    images = decode(pipe, plain, 64, 64)
    finished = [seen.final(member=i) for i in range(n)]
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(images, finished, strict=True))


def test_with_true_cfg_the_conditional_call_is_read(pipe):
    """At the first step both calls start from the same noise, so the record must be that of plain generation."""
    with watch(pipe, make_probes()) as plain:
        run(pipe)
    with watch(pipe, make_probes()) as guided:
        run(pipe, negative_prompt=[NEGATIVE], true_cfg_scale=2.0)
    for block in BLOCKS:
        assert np.array_equal(guided.frames[0].good_logit[block], plain.frames[0].good_logit[block])
        assert not np.array_equal(guided.frames[1].good_logit[block], plain.frames[1].good_logit[block])


def test_the_record_is_what_the_probes_say_of_captured_activations(pipe):
    probes = make_probes()
    with watch(pipe, probes) as seen:
        run(pipe, 2, height=48, width=64)
    assert seen.grid == (12, 16) and seen.size() == (48, 64)
    with capture(pipe, [*BLOCKS, "x0"], [4, 3, 2, 1], [range(192), range(192)]) as taken:
        run(pipe, 2, height=48, width=64)
    for frame in seen.frames:
        for cell in frame.cells:
            for member in (0, 1):
                x = taken.member(member)[cell]
                mask = probes.p_hand(cell, x) >= 0.5
                assert torch.equal(mask, torch.from_numpy(frame.hand[cell.block][member]))
                assert np.allclose(frame.p_bad[cell.block][member], probes.p_bad(cell, x), atol=1e-5)
                score = probes.image_score(cell, x, mask)
                assert frame.score[cell.block][member] == pytest.approx(score, abs=1e-4)
    so_far = torch.stack([taken.member(1)[Cell("x0", t)] for t in (4, 3)]).float()
    expected = torch.log(so_far.var(0, unbiased=False).mean(-1) + 1e-8)
    assert np.allclose(seen.frames[1].x0_change[1], expected, atol=1e-4)
    rows = seen.rows()
    assert len(rows) == 4 * 2 * 2 and list(rows["timestep"]) == sorted(rows["timestep"], reverse=True)


def test_previews_are_the_predicted_image_and_can_be_left_out(pipe):
    with watch(pipe, make_probes(), previews=2, preview_scale=2, blocks=["single.2"]) as seen:
        run(pipe)
    assert [frame.x0 is not None for frame in seen.frames] == [True, False, True, False]
    preview = seen.preview(seen.frames[0])
    assert preview is not None and preview.size == (32, 32) and seen.preview(seen.frames[1]) is None
    with watch(pipe, make_probes(), previews=False) as none:
        run(pipe)
    assert all(frame.x0 is None for frame in none.frames) and none.final() is None


def test_an_exception_or_ctrl_c_leaves_no_hooks_and_keeps_the_frames(pipe, tmp_path):
    def interrupt(seen, frame):
        if frame.step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), watch(pipe, make_probes(), on_frame=interrupt) as seen:
        run(pipe)
    assert hooks(pipe) == (0, False)
    assert [frame.timestep for frame in seen.frames] == [4, 3] and seen.final() is None
    seen.save(tmp_path / "kept", title="interrupted")
    assert (tmp_path / "kept" / "strip.png").exists() and len(list((tmp_path / "kept" / "steps").iterdir())) == 4
    plain = run(pipe)
    with watch(pipe, make_probes()):
        assert torch.equal(run(pipe), plain)


def test_everything_is_saved(pipe, tmp_path):
    with watch(pipe, make_probes()) as seen:
        run(pipe, 2)
    seen.save(tmp_path, members=[1], title="</script><b>fingers & co")
    for name in ("strip.png", "watch.gif", "scores.csv", "page.html", "image.png"):
        assert (tmp_path / name).stat().st_size > 0, name
    assert len(list((tmp_path / "steps").glob("*.png"))) == 4 * 2
    with Image.open(tmp_path / "watch.gif") as gif:
        assert getattr(gif, "n_frames", 1) == 5
    page = (tmp_path / "page.html").read_text()
    assert "</script><b>" not in page and "http://" not in page and "https://" not in page


def test_no_hand_is_said(pipe):
    with watch(pipe, make_probes(hand_bias=-30.0)) as seen:
        run(pipe)
    assert not seen.hand_found()
    assert seen.rows()["score"].isna().all() and (seen.rows()["tokens"] == 0).all()


def test_steps_are_matched_by_sigma():
    trained = {20: (0, 1.0, 20), 12: (8, 0.7, 20), 3: (17, 0.3, 20)}
    assert match_steps(trained, [1.0, 0.71, 0.5, 0.31, 0.0]) == {4: 20, 3: 12, 1: 3}
    assert match_steps(trained, [1.0, 0.7 + 1.1 * SIGMA_TOLERANCE, 0.5]) == {3: 20}
    close = {20: (0, 1.0, 20), 19: (1, 0.99, 20)}
    assert match_steps(close, [1.0, 0.8]) == {2: 20}  # one step is read by one trained timestep, the nearest
    with pytest.raises(ValueError, match="no step of this schedule"):
        match_steps({5: (0, 0.5, 5)}, [1.0, 0.75])


def test_another_number_of_steps_is_matched_or_refused(pipe):
    with watch(pipe, make_probes(steps=4)) as seen:
        run(pipe, num_inference_steps=8)
    assert seen.matched == {8: 4, 6: 3, 4: 2, 2: 1}
    assert [frame.timestep for frame in seen.frames] == [8, 6, 4, 2]
    with pytest.raises(ValueError, match="no step of this schedule"), watch(pipe, make_probes(timesteps=[2])):
        run(pipe, num_inference_steps=1)
    assert hooks(pipe) == (0, False)


def test_refusals(pipe, tmp_path):
    with pytest.raises(ValueError, match=r"read 64 channels.*this model has 128"):
        watch(pipe, make_probes(d=64))
    with pytest.raises(ValueError, match=r"no probe was trained on single\.5: use some of double\.1, single\.2"):
        watch(pipe, make_probes(), blocks=["single.5"])
    probes = make_probes()
    with pytest.raises(ValueError, match="no head 'hand'"):
        watch(pipe, type(probes)({k: v for k, v in probes.readouts.items() if k[0] == "good"}, {}, {}, probes.steps))
    with pytest.raises(ValueError, match=r"watch\.p_hand"):
        watch(pipe, probes, p_hand=1.5)
    pipe.save_pretrained(tmp_path)
    loaded = type(pipe).from_pretrained(tmp_path, dtype=torch.float32)
    other = type(probes)(probes.readouts, {}, {}, probes.steps, card={"generation": {"weights": "sha256:0000"}})
    with pytest.raises(ValueError, match="weights sha256:0000; this pipeline has sha256:"):
        watch(loaded, other)


def test_a_step_is_read_while_the_next_is_drawn_and_at_once_where_the_policy_acts(pipe, monkeypatch):
    """Waiting for the device after every step left it idle: 4 % of FLUX on an H100."""
    arrived: list[int] = []
    get = Readback.get

    def noted(self):
        arrived.append(drawn[0])
        return get(self)

    monkeypatch.setattr(Readback, "get", noted)
    drawn = [0]
    counter = pipe.transformer.register_forward_hook(lambda *_: drawn.__setitem__(0, drawn[0] + 1))
    try:
        with watch(pipe, make_probes()) as late:
            run(pipe)
        assert arrived == [2, 3, 4, 4]  # each after the transformer's next call, the last at the end
        arrived.clear()
        drawn[0] = 0
        with watch(pipe, make_probes(), Abort({Cell("single.2", 3): -1e9})) as acting:
            run(pipe)
        assert arrived == [2, 2, 4, 4]
    finally:
        counter.remove()
    assert [frame.timestep for frame in late.frames] == [frame.timestep for frame in acting.frames] == [4, 3, 2, 1]
