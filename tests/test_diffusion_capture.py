"""Captured rows are the truth: against a forward pass written by hand, and without a trace on the picture."""

import gc
import math
import weakref

import numpy as np
import pytest
import torch
from einops import rearrange

from badhands.cells import Cell
from badhands.diffusion.capture import capture
from tiny_pipeline import NEGATIVE, make_pipeline

STEPS = 5
PROMPTS = ["a hand holding a cup", "two fists"]
BLOCKS = ["xt", "x0", "double.0", "double.2", "single.0", "single.5"]
TIMESTEPS = [5, 3, 1]
TOKENS = [np.array([3, 0, 150]), np.array([7, 8, 9, 191, 20])]
HEIGHT, WIDTH = 64, 48  # 16 x 12 tokens


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline(seed=1)


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def run(pipe, prompts=PROMPTS, **options):
    options = {
        "height": HEIGHT,
        "width": WIDTH,
        "num_inference_steps": STEPS,
        "max_sequence_length": 16,
        "generator": seeded(*range(len(prompts))),
        "output_type": "latent",
        **options,
    }
    return pipe(prompts, **options).images


@torch.no_grad()
def blocks_by_hand(transformer, x, sigma, guidance, embeds, pooled, h, w):
    """The transformer's forward, written out: every block's image tokens, and the velocity."""
    batch = len(x)
    ids = torch.zeros(embeds.shape[1] + h * w, 3)
    ids[embeds.shape[1] :, 1] = torch.arange(h).repeat_interleave(w)
    ids[embeds.shape[1] :, 2] = torch.arange(w).repeat(h)
    rotary = transformer.pos_embed(ids)
    time = (sigma * 1000).expand(batch) / 1000 * 1000
    temb = transformer.time_text_embed(time, torch.full([batch], guidance) * 1000, pooled)
    image, text = transformer.x_embedder(x), transformer.context_embedder(embeds)
    outputs = {}
    for kind, blocks in (("double", transformer.transformer_blocks), ("single", transformer.single_transformer_blocks)):
        for i, block in enumerate(blocks):
            text, image = block(hidden_states=image, encoder_hidden_states=text, temb=temb, image_rotary_emb=rotary)
            outputs[f"{kind}.{i}"] = image
    return outputs, transformer.proj_out(transformer.norm_out(image, temb))


@torch.no_grad()
def pipeline_by_hand(pipe, prompts, seeds, true_cfg=None):
    """Sampling written out: per timestep {block: [B, n, d]}, the same of the other branch, and the last latent."""
    h, w = HEIGHT // 4, WIDTH // 4
    noise = torch.cat([torch.randn(1, 8, 2 * h, 2 * w, generator=torch.Generator().manual_seed(s)) for s in seeds])
    x = rearrange(noise, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)
    embeds, pooled, _ = pipe.encode_prompt(prompts, None, max_sequence_length=16)
    if true_cfg:
        bad, bad_pooled, _ = pipe.encode_prompt([NEGATIVE] * len(prompts), None, max_sequence_length=16)
    flat = np.linspace(1, 1 / STEPS, STEPS).astype(np.float32)
    mu = 0.5 + (h * w - 256) * (1.15 - 0.5) / (4096 - 256)
    sigmas = [*torch.from_numpy(math.exp(mu) / (math.exp(mu) + (1 / flat - 1) ** 1.0)), torch.tensor(0.0)]
    seen, seen_bad = {}, {}
    for k in range(STEPS):
        outputs, v = blocks_by_hand(pipe.transformer, x, sigmas[k], 3.5, embeds, pooled, h, w)
        if true_cfg:
            seen_bad[STEPS - k], v_bad = blocks_by_hand(pipe.transformer, x, sigmas[k], 3.5, bad, bad_pooled, h, w)
            v = v_bad + true_cfg * (v - v_bad)
        seen[STEPS - k] = {**outputs, "xt": x, "x0": x - sigmas[k] * v}
        x = x + (sigmas[k + 1] - sigmas[k]) * v
    return seen, seen_bad, x


def assert_rows(taken, seen, timesteps=TIMESTEPS, tokens=TOKENS, blocks=BLOCKS):
    assert set(taken) == {Cell(b, t) for b in blocks for t in timesteps}
    for cell, rows in taken.items():
        truth = torch.cat([seen[cell.timestep][cell.block][b][index] for b, index in enumerate(tokens)])
        assert torch.equal(rows, truth), (str(cell), (rows - truth).abs().max())


def hooks(pipe):
    modules = list(pipe.transformer.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules), "step" in vars(pipe.scheduler)


def test_rows_equal_a_forward_written_by_hand(pipe):
    with capture(pipe, BLOCKS, TIMESTEPS, TOKENS) as taken:
        image = run(pipe, guidance_scale=3.5)
    seen, _, x = pipeline_by_hand(pipe, PROMPTS, [0, 1])
    assert torch.equal(image, x)
    assert_rows(taken, seen)
    assert [list(t) for t in taken.tokens] == [list(t) for t in TOKENS]
    assert {t: step for t, (step, _) in taken.steps.items()} == {5: 0, 3: 2, 1: 4}
    assert taken.steps[5][1] == 1.0 and 0 < taken.steps[1][1] < taken.steps[3][1] < 1
    assert torch.equal(taken.member(1)[Cell("single.5", 3)], seen[3]["single.5"][1][TOKENS[1]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_picture_is_the_same_with_and_without(dtype):
    pipe = make_pipeline(dtype=dtype)
    before = run(pipe, output_type="np")
    with capture(pipe, BLOCKS, range(1, STEPS + 1)) as taken:
        during = run(pipe, output_type="np")
    after = run(pipe, output_type="np")
    assert np.array_equal(before, during) and np.array_equal(before, after)
    assert {rows.dtype for rows in taken.values()} == {dtype}
    assert taken[Cell("single.0", 4)].shape == (2 * 192, 128) and taken[Cell("xt", 4)].shape == (2 * 192, 32)
    assert hooks(pipe) == (0, False)


def test_a_second_generation_in_the_same_process(pipe):
    for seeds in ([0, 1], [5, 9]):
        with capture(pipe, BLOCKS, TIMESTEPS, TOKENS) as taken:
            run(pipe, generator=seeded(*seeds))
        assert_rows(taken, pipeline_by_hand(pipe, PROMPTS, seeds)[0])


def test_a_second_generation_in_one_capture_is_refused(pipe):
    with pytest.raises(RuntimeError, match="open a new capture"), capture(pipe, ["single.0"], [3]):
        run(pipe)
        run(pipe)
    assert hooks(pipe) == (0, False)


@pytest.mark.parametrize("branch", [0, 1])
def test_true_guidance_calls_twice_a_step(pipe, branch):
    with capture(pipe, ["xt", "x0", "double.1", "single.3"], [5, 2], TOKENS, branch=branch) as taken:
        image = run(pipe, negative_prompt=[NEGATIVE] * 2, true_cfg_scale=3.0)
    seen, seen_bad, x = pipeline_by_hand(pipe, PROMPTS, [0, 1], true_cfg=3.0)
    assert torch.equal(image, x)
    for cell, rows in taken.items():
        latent = cell.block in ("xt", "x0")
        source = seen if latent or branch == 0 else seen_bad
        truth = torch.cat([source[cell.timestep][cell.block][b][index] for b, index in enumerate(TOKENS)])
        assert torch.equal(rows, truth), str(cell)
    assert not torch.equal(seen[5]["single.3"], seen_bad[5]["single.3"])  # control: the branches differ


def test_no_second_branch_without_a_negative_prompt(pipe):
    with pytest.raises(RuntimeError, match="branch 1 never ran"), capture(pipe, ["single.0"], [3], branch=1):
        run(pipe)


def test_image_to_image_begins_late_in_the_schedule(pipe):
    from diffusers import FluxImg2ImgPipeline

    late = FluxImg2ImgPipeline.from_pipe(pipe)
    late.set_progress_bar_config(disable=True)

    def repaint(strength=0.6):
        picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
        return late(
            PROMPTS[0], image=picture, strength=strength, height=64, width=64, num_inference_steps=5,
            max_sequence_length=16, generator=torch.Generator().manual_seed(0), output_type="latent",
        ).images  # fmt: skip

    plain, seen = repaint(), []
    handle = pipe.transformer.single_transformer_blocks[2].register_forward_hook(
        lambda _m, _a, output: seen.append((float(pipe.scheduler.sigmas[-4 + len(seen)]), output[1][0].clone()))
    )
    repaint()
    handle.remove()
    assert len(seen) == 3  # strength 0.6 of 5 steps runs the last three
    with capture(late, ["single.2"], [3, 2, 1], None) as taken:
        assert torch.equal(repaint(), plain)
    for timestep, (sigma, truth) in zip([3, 2, 1], seen, strict=True):
        assert torch.equal(taken[Cell("single.2", timestep)], truth)
        assert taken.steps[timestep] == (5 - timestep, pytest.approx(sigma))
    with pytest.raises(RuntimeError, match=r"timesteps \[5, 4\] never came"), capture(late, ["single.2"], [5, 4, 3]):
        repaint()


def test_an_exception_leaves_no_hook(pipe):
    def explode(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), capture(pipe, BLOCKS, TIMESTEPS):
        run(pipe, callback_on_step_end=explode)
    assert hooks(pipe) == (0, False)
    with capture(pipe, BLOCKS, TIMESTEPS, TOKENS) as taken:
        run(pipe)
    assert_rows(taken, pipeline_by_hand(pipe, PROMPTS, [0, 1])[0])


def test_repeated_blocks_may_be_compiled():
    torch._dynamo.reset()
    pipe = make_pipeline(seed=1)
    pipe.transformer.compile_repeated_blocks(backend="eager", fullgraph=True)
    plain = run(pipe)
    compiled = pipe.transformer.transformer_blocks[0]._compiled_call_impl
    torch._dynamo.utils.counters.clear()
    with capture(pipe, BLOCKS, TIMESTEPS, TOKENS) as taken:
        assert torch.equal(run(pipe), plain)
    assert not torch._dynamo.utils.counters["stats"], "the capture made blocks compile anew"
    assert pipe.transformer.transformer_blocks[0]._compiled_call_impl is compiled
    assert_rows(taken, pipeline_by_hand(pipe, PROMPTS, [0, 1])[0])
    torch._dynamo.reset()


def test_memory_is_stated_and_does_not_keep_whole_streams(pipe):
    with capture(pipe, ["double.1", "single.4"], TIMESTEPS, TOKENS) as taken:
        run(pipe)
    assert taken.host_bytes == 2 * 3 * 8 * 128 * 4 and taken.device_bytes == 0
    storage = {rows.untyped_storage().data_ptr(): rows.untyped_storage().nbytes() for rows in taken.values()}
    assert sum(storage.values()) == taken.host_bytes


def test_rows_are_freed_as_soon_as_nobody_reads_them(pipe):
    # Pinned memory is taken up by the next image only if the last one's is free by then, not at some later collection.
    gc.collect()
    gc.disable()
    try:
        capturing = capture(pipe, BLOCKS, TIMESTEPS, TOKENS)
        with capturing as taken:
            run(pipe)
        left = [weakref.ref(capturing), weakref.ref(taken)]
        assert len(taken[taken.cells[0]])
        del capturing, taken
        assert [reference() for reference in left] == [None, None]
    finally:
        gc.enable()


def test_non_finite_cells_are_named():
    pipe = make_pipeline(seed=1)
    pipe.transformer.single_transformer_blocks[3].proj_out.bias.data[7] = math.inf
    with capture(pipe, ["single.2", "single.3"], [5], TOKENS) as taken:
        run(pipe)
    assert taken.nonfinite() == (Cell("single.3", 5),)


def test_padding_members_without_tokens(pipe):
    with capture(pipe, ["single.1"], [4], [TOKENS[0]]) as taken:
        run(pipe)
    assert [len(t) for t in taken.tokens] == [3, 0]
    assert taken[Cell("single.1", 4)].shape == (3, 128) and taken.member(1)[Cell("single.1", 4)].shape == (0, 128)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["single.6"], [3]), "no block single.6: it has double.0 to double.2, single.0 to single.5"),
        ((["middle.6"], [3]), "unknown block"),
        (([], [3]), "nothing to capture"),
        ((["single.0"], [6]), r"timesteps \[6\] do not exist in 5 steps"),
        ((["single.0"], [0]), r"timesteps \[0\] do not exist"),
        ((["single.0"], [3], [[192]]), "batch member 0 leave the grid of 192 tokens"),
        ((["single.0"], [3], [[1], [-1]]), "batch member 1 leave the grid"),
        ((["single.0"], [3], [[1], [2], [3]]), "for 3 images, but the batch has 2"),
        ((["single.0"], [3], [[0.5]]), "flat list of integers"),
    ],
)
def test_what_cannot_be_is_refused(pipe, arguments, message):
    with pytest.raises(ValueError, match=message), capture(pipe, *arguments):
        run(pipe)
    assert hooks(pipe) == (0, False)


def test_nothing_ran(pipe):
    with pytest.raises(RuntimeError, match="never came"), capture(pipe, ["single.0"], [3]):
        pass
    with capture(pipe, ["single.0"], [3]) as taken:
        with pytest.raises(RuntimeError, match="still running"):
            taken[Cell("single.0", 3)]
        run(pipe)
