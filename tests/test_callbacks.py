"""The diffusers callback on the random tiny pipeline, and the watcher on a modular one."""

import runpy

import pytest
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.modular_pipelines import FluxAutoBlocks

from badhands import Abort, BadHandCallback, Cell, Steer, watch
from badhands.diffusion.moments import AllDropped
from badhands.home import ROOT
from tiny_pipeline import make_pipeline
from watch_probes import make_probes

CELL = Cell("single.2", 3)
ALWAYS, NEVER = Abort({CELL: float("inf")}), Abort({CELL: float("-inf")})


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline(seed=2, scale=3.0)


def draw(pipe, n=2, **options):
    return pipe(["a hand", "two fists"][:n], height=64, width=64, num_inference_steps=4, max_sequence_length=16,
                output_type="latent", generator=[torch.Generator().manual_seed(s) for s in range(n)],
                **options).images  # fmt: skip


def test_looking_leaves_the_image_bit_equal_and_no_hook_behind(pipe):
    plain = draw(pipe)
    with BadHandCallback(make_probes(), NEVER, previews=False).on(pipe) as callback:
        seen = draw(pipe, callback_on_step_end=callback)
    assert torch.equal(plain, seen) and not callback.interrupted
    assert [frame.timestep for frame in callback.seen.frames] == [4, 3, 2, 1]
    assert not pipe.transformer._forward_pre_hooks and not any(
        block._forward_hooks for block in pipe.transformer.single_transformer_blocks
    )


def test_it_reads_what_the_context_manager_reads(pipe):
    probes = make_probes()
    with watch(pipe, probes, previews=False) as seen:
        draw(pipe)
    with BadHandCallback(probes, previews=False).on(pipe) as callback:
        draw(pipe, callback_on_step_end=callback)
    assert seen.rows().equals(callback.seen.rows())


def test_a_policy_interrupts_the_call_where_the_watcher_would_raise(pipe):
    with pytest.raises(AllDropped), watch(pipe, make_probes(), ALWAYS, previews=False):
        draw(pipe)
    calls = []
    undo = pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    with BadHandCallback(make_probes(), ALWAYS, previews=False).on(pipe) as callback:
        draw(pipe, callback_on_step_end=callback)
        assert callback.interrupted and len(calls) == 2  # steps 4 and 3; nothing after the verdict
        assert callback.seen.stopped == {(0, 0): 3, (0, 1): 3}
        callback.policy = NEVER  # the next call of the same block starts anew
        draw(pipe, callback_on_step_end=callback)
    undo.remove()
    assert not callback.interrupted and len(calls) == 6


def test_a_batch_goes_on_until_every_member_was_stopped(pipe):
    with watch(pipe, make_probes(), previews=False) as seen:
        draw(pipe)
    scores = next(frame for frame in seen.frames if frame.timestep == 3).score[CELL.block]
    between = Abort({CELL: float(scores.mean())})
    with BadHandCallback(make_probes(), between, previews=False).on(pipe) as callback:
        draw(pipe, callback_on_step_end=callback)
    assert not callback.interrupted and list(callback.seen.stopped) == [(0, int(scores.argmin()))]


def test_steering_through_the_callback_equals_steering_through_the_watcher(pipe):
    probes = make_probes()
    steer = Steer.of(probes, [CELL], 2.0, where="all")
    with watch(pipe, probes, steer, previews=False):
        expected = draw(pipe)
    with BadHandCallback(probes, steer, previews=False).on(pipe) as callback:
        steered = draw(pipe, callback_on_step_end=callback)
    assert torch.equal(expected, steered) and not torch.equal(expected, draw(pipe))


def test_it_is_an_official_callback_and_joins_others(pipe):
    class Latents(PipelineCallback):
        tensor_inputs = ["latents"]  # noqa: RUF012
        shapes: list = []  # noqa: RUF012

        def callback_fn(self, pipeline, step_index, timesteps, callback_kwargs):
            self.shapes.append(callback_kwargs["latents"].shape)
            return callback_kwargs

    other = Latents()
    with BadHandCallback(make_probes(), ALWAYS, previews=False).on(pipe) as callback:
        draw(pipe, callback_on_step_end=MultiPipelineCallbacks([callback, other]))
    assert callback.interrupted and len(other.shapes) == 2


def test_without_hooks_it_says_what_to_do(pipe):
    with pytest.raises(ValueError, match=r"inside `with callback.on\(pipe\):`"):
        draw(pipe, callback_on_step_end=BadHandCallback(make_probes()))


def test_a_modular_pipeline_can_be_watched_and_reads_the_same_scores(pipe):
    modular = FluxAutoBlocks().init_pipeline()
    modular.update_components(**{name: part for name, part in pipe.components.items()
                                 if name in modular.components})  # fmt: skip
    probes = make_probes()
    call = dict(prompt=["a hand"], height=64, width=64, num_inference_steps=4, max_sequence_length=16,
                output="latents")  # fmt: skip
    modular.set_progress_bar_config(disable=True)
    plain = modular(**call, generator=torch.Generator().manual_seed(0))
    with watch(modular, probes, previews=False) as seen:
        watched = modular(**call, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain, watched) and len(seen.frames) == 4


@pytest.mark.parametrize("name", ["flux1", "modular"])
def test_the_example_scripts_run_on_any_flux_folder(name, pipe, tmp_path, monkeypatch, capsys):
    pipe.save_pretrained(tmp_path / "model")
    make_probes(hand_bias=9.0).save(tmp_path / "probes")
    options = ["--model", str(tmp_path / "model"), "--size", "64", "--out", str(tmp_path / "image.png")]
    more = ["--tries", "4", "--miss", "0.2"] if name == "flux1" else []
    monkeypatch.setattr("sys.argv", [name, str(tmp_path / "probes"), *options, *more])
    runpy.run_path(str(ROOT / "integrations" / "diffusers" / f"{name}.py"), run_name="__main__")
    assert "single.2" in (told := capsys.readouterr().out) or "evaluations" in told
