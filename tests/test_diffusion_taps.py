"""The step clock, steering, abort and drop; and what is refused by name."""

import copy
from types import SimpleNamespace

import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig, apply_first_block_cache

from badhands.diffusion.capture import capture
from badhands.diffusion.moments import AllDropped
from badhands.diffusion.taps import Taps
from tiny_pipeline import NEGATIVE, make_pipeline

PROMPTS = ["a hand", "two fists", "fingers"]


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline(seed=2)


def run(pipe, n=3, **options):
    return pipe(
        PROMPTS[:n],
        **{
            "height": 64,
            "width": 64,
            "num_inference_steps": 4,
            "max_sequence_length": 16,
            "generator": [torch.Generator().manual_seed(s) for s in range(n)],
            "output_type": "latent",
            **options,
        },
    ).images


def hooks(pipe):
    modules = list(pipe.transformer.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules), "step" in vars(pipe.scheduler)


@pytest.mark.parametrize("guided", [False, True])
def test_the_clock(pipe, guided):
    options = {"negative_prompt": [NEGATIVE] * 3, "true_cfg_scale": 2.0} if guided else {}
    moments, steps = [], []
    with Taps(pipe, ["single.1"], on_block=lambda m, *_: moments.append(m), on_step=steps.append):
        for _ in range(2):
            last = run(pipe, **options)
    branches = (0, 1) if guided else (0,)
    expected = [(g, k, 4 - k, b) for g in (0, 1) for k in range(4) for b in branches]
    assert [(m.generation, m.step, m.timestep, m.branch) for m in moments] == expected
    assert [(s.moment.generation, s.moment.timestep) for s in steps] == [(g, t) for g in (0, 1) for t in (4, 3, 2, 1)]
    sigmas = pipe.scheduler.sigmas.tolist()
    for step in steps:
        m = step.moment
        assert (m.sigma, m.sigma_next, m.num_steps) == (sigmas[m.step], sigmas[m.step + 1], 4)
        euler = step.x_t + (pipe.scheduler.sigmas[m.step + 1] - pipe.scheduler.sigmas[m.step]) * step.velocity
        assert torch.equal(step.x_next, euler)  # so velocity is the one that was used, guidance combined
    assert torch.equal(steps[-1].x_next, last)
    assert torch.allclose(steps[-1].x0(), last, atol=1e-6)  # the last step lands on its own prediction


def test_reading_changes_nothing(pipe):
    plain = run(pipe)
    with Taps(pipe, ["double.0", "single.5"], on_block=lambda *_: None, on_step=lambda s: None):
        assert torch.equal(run(pipe), plain)
    assert hooks(pipe) == (0, False)


@pytest.mark.parametrize("block", ["double.1", "single.3"])
def test_steering(pipe, block):
    plain = run(pipe)

    def steer(length):
        direction = length * torch.randn(128, generator=torch.Generator().manual_seed(0))

        def add(moment, name, tokens):
            return tokens + direction if moment.timestep == 3 else None

        with Taps(pipe, [block], on_block=add):
            return run(pipe)

    assert torch.equal(steer(0.0), plain)
    small, large = (float((steer(length) - plain).abs().mean()) for length in (0.1, 1.0))
    assert 0 < small < large


def test_steering_one_image_leaves_the_others(pipe):
    plain = run(pipe)

    def add(moment, name, tokens):
        tokens = tokens.clone()
        tokens[1, :20] += 1.0
        return tokens

    with Taps(pipe, ["single.0"], on_block=add, timesteps=[4]):
        steered = run(pipe)
    assert torch.equal(steered[[0, 2]], plain[[0, 2]]) and not torch.equal(steered[1], plain[1])


def test_what_is_put_in_is_what_the_next_block_reads(pipe):
    seen = []
    block = pipe.transformer.single_transformer_blocks[3]
    handle = block.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs["hidden_states"]), with_kwargs=True
    )
    with Taps(pipe, ["single.2"], on_block=lambda _m, _b, tokens: torch.full_like(tokens, 7.0)):
        run(pipe, num_inference_steps=1)
    handle.remove()
    assert seen[0].shape == (3, 256, 128) and bool((seen[0] == 7).all())


def test_steering_compiled_blocks(pipe):
    def double(moment, name, tokens):
        return tokens * 2 if moment.step == 1 else None

    with Taps(pipe, ["single.2"], on_block=double):
        truth = run(pipe)
    compiled = make_pipeline(seed=2)
    compiled.transformer.compile_repeated_blocks(backend="eager")
    plain = run(compiled)
    with Taps(compiled, ["single.2"], on_block=double):
        assert torch.equal(run(compiled), truth)
    assert torch.equal(run(compiled), plain) and torch.equal(plain, run(pipe))
    torch._dynamo.reset()


def test_abort_and_begin_anew(pipe):
    class Enough(Exception):
        pass

    seen = []

    def stop(step):
        seen.append((step.moment.generation, step.moment.timestep))
        if step.moment.generation == 0 and step.moment.timestep == 3:
            raise Enough

    plain = run(pipe)
    with Taps(pipe, ["single.0"], on_step=stop):
        with pytest.raises(Enough):
            run(pipe)
        assert torch.equal(run(pipe), plain)
    assert seen == [(0, 4), (0, 3), (1, 4), (1, 3), (1, 2), (1, 1)]
    with pytest.raises(Enough), Taps(pipe, ["single.0"], on_step=stop):
        seen.clear()
        run(pipe)
    assert hooks(pipe) == (0, False)


@pytest.mark.parametrize("guided", [False, True])
def test_dropped_members_cost_nothing_more(pipe, guided):
    options = {"negative_prompt": [NEGATIVE] * 3, "true_cfg_scale": 2.0} if guided else {}
    plain = run(pipe, **options)
    batches, members = [], []

    def drop(step):
        if step.moment.timestep == 3:
            step.drop([1])
            with pytest.raises(ValueError, match=r"cannot drop members \[5\]"):
                step.drop([5])
        if step.moment.timestep == 2:
            with pytest.raises(ValueError, match=r"alive are \[0, 2\]"):
                step.drop([1])
            step.drop([0])

    def watch(moment, name, tokens):
        batches.append(len(tokens))
        members.append(moment.members)

    with Taps(pipe, ["double.0"], on_block=watch, on_step=drop):
        left = run(pipe, **options)
    calls = 2 if guided else 1
    assert batches == [n for n in (3, 3, 2, 1) for _ in range(calls)] and members[-1] == (2,)
    assert left.shape[0] == 1 and torch.allclose(left[0], plain[2], atol=1e-5)
    with pytest.raises(AllDropped, match="all 3 images were dropped at timestep 4"):  # noqa: SIM117
        with Taps(pipe, on_step=lambda step: step.drop(step.moment.members)):
            run(pipe, **options)


def test_a_block_that_never_fires_is_noticed(pipe):
    blocks = pipe.transformer.single_transformer_blocks
    original = blocks[2]
    with (
        pytest.raises(RuntimeError, match=r"single\.2 did not fire exactly once"),
        Taps(pipe, ["single.1", "single.2"]),
    ):
        blocks[2] = copy.deepcopy(original)
        try:
            blocks[2]._forward_hooks.clear()
            run(pipe)
        finally:
            blocks[2] = original
    assert hooks(pipe) == (0, False)


def _cache(pipe):
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))


def _bare_cache(pipe):
    apply_first_block_cache(pipe.transformer, FirstBlockCacheConfig(threshold=0.1))


def _broadcast(pipe):
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    )
    pipe.transformer.enable_cache(config)


def _parallel(pipe):
    pipe.transformer._parallel_config = SimpleNamespace(context_parallel_config=object())


def _compiled(pipe):
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")


def _compiled_in_place(pipe):
    pipe.transformer.compile(backend="eager")


def _compiled_forward(pipe):
    pipe.transformer.forward = torch.compile(pipe.transformer.forward, backend="eager")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_cache, "FirstBlockCacheConfig is enabled"),
        (_bare_cache, "FirstBlockCache is enabled"),
        (_broadcast, "PyramidAttentionBroadcastConfig is enabled"),
        (_parallel, "context parallel is enabled"),
        (_compiled, "compiled as a whole"),
        (_compiled_in_place, "compiled as a whole"),
        (_compiled_forward, "compiled as a whole"),
    ],
)
def test_what_would_not_be_true_is_refused(change, message):
    pipe = make_pipeline(seed=2)
    with Taps(pipe, ["single.0"]):  # control
        run(pipe, 1)
    change(pipe)
    for tap in (Taps, lambda p, b: capture(p, b, [3])):
        with pytest.raises(ValueError, match=message), tap(pipe, ["single.0"]):
            run(pipe, 1)


def test_a_cache_enabled_under_the_taps_is_refused_too():
    pipe = make_pipeline(seed=2)
    with pytest.raises(ValueError, match="FirstBlockCache"), Taps(pipe, ["single.0"]):
        _cache(pipe)
        run(pipe, 1)


def test_other_refusals(pipe):
    with pytest.raises(ValueError, match="no transformer"):
        Taps(SimpleNamespace(unet=1, scheduler=1))
    with pytest.raises(ValueError, match="x0 is not a block"):
        Taps(pipe, ["x0"])
    with pytest.raises(ValueError, match="does not tell its step index"):
        Taps(SimpleNamespace(transformer=pipe.transformer, scheduler=object()))
    scheduler = pipe.scheduler
    with pytest.raises(RuntimeError, match="exchanged under the taps"), Taps(pipe, ["single.0"]):
        pipe.scheduler = copy.deepcopy(scheduler)
        try:
            run(pipe, 1)
        finally:
            pipe.scheduler = scheduler


def test_group_offloading_is_fine():
    pipe = make_pipeline(seed=2)
    with capture(pipe, ["double.2", "single.4"], [4, 1]) as truth:
        run(pipe)
    pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    with capture(pipe, ["double.2", "single.4"], [4, 1]) as taken:
        run(pipe)
    assert all(torch.equal(taken[cell], truth[cell]) for cell in truth)
