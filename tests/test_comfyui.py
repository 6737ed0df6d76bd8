"""The ComfyUI node pack against a stand-in of ComfyUI's interface over the random tiny FLUX."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from einops import rearrange

import comfy_standin
from badhands import Cell, watch
from badhands.figures.palette import P_BAD_CMAP
from badhands.home import ROOT
from badhands.probes.recalibrate import intercept, recalibrate
from tiny_pipeline import make_pipeline
from watch_probes import make_probes

PACK = ROOT / "integrations" / "comfyui"
STEPS = 4


def load_pack():
    """As ComfyUI loads a folder of custom_nodes."""
    name = "custom_nodes_badhands"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, PACK / "__init__.py", submodule_search_locations=[str(PACK)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline(seed=2, scale=3.0)


@pytest.fixture
def nodes(monkeypatch):
    comfy_standin.install(monkeypatch)
    return {name: cls() for name, cls in load_pack().NODE_CLASS_MAPPINGS.items()}


@pytest.fixture(scope="module")
def probes():
    return make_probes(hand_bias=0.5)


@pytest.fixture
def model(pipe):
    def sigmas(steps):
        pipe.scheduler.set_timesteps(sigmas=[1 - k / steps for k in range(steps)], mu=0.5)
        return pipe.scheduler.sigmas.clone()

    return comfy_standin.Patcher(comfy_standin.Flux(pipe.transformer), sigmas)


@pytest.fixture(scope="module")
def conditions(pipe):
    def encode(text):
        with torch.no_grad():
            context, pooled, _ = pipe.encode_prompt(text, text, max_sequence_length=16)
        return [[context, {"pooled_output": pooled, "guidance": torch.full((1,), 3.5)}]]

    return encode("a hand"), encode("bad hand")


LATENT = {"samples": torch.zeros(1, 8, 32, 32)}


def sample(model, conditions, seed=0, cfg=1.0, batch=1):
    latent = {"samples": torch.zeros(batch, 8, 32, 32)}
    return comfy_standin.common_ksampler(model, seed, STEPS, cfg, "euler", "simple", *conditions, latent)[0]


def test_the_image_is_unchanged_when_only_watching_and_the_model_stays_as_it_was(nodes, model, conditions, probes):
    for cfg in (1.0, 2.0):
        plain = sample(model, conditions, cfg=cfg)["samples"]
        patched, recorder = nodes["BadHandsWatch"].watch(model, probes, 0.5)
        assert torch.equal(plain, sample(patched, conditions, cfg=cfg)["samples"])
        assert len(recorder.readings) == STEPS * 2
    assert not model.wrappers and "patches_replace" not in model.model_options["transformer_options"]


def test_scores_are_those_of_the_watcher_on_the_same_generation(nodes, model, conditions, probes, pipe):
    patched, recorder = nodes["BadHandsWatch"].watch(model, probes, 0.5)
    noise = torch.randn(1, 8, 32, 32, generator=torch.Generator().manual_seed(5))
    sample(patched, conditions, seed=5)
    with watch(pipe, probes, previews=False) as seen:
        pipe("a hand", height=64, width=64, num_inference_steps=STEPS, max_sequence_length=16, output_type="latent",
             latents=rearrange(noise, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2))  # fmt: skip
    assert len(recorder.readings) == sum(len(frame.cells) for frame in seen.frames)
    for reading in recorder.readings:
        (frame,) = [f for f in seen.frames if f.timestep == reading.cell.timestep]
        assert reading.sigma == pytest.approx(frame.sigma, abs=1e-6) and reading.step == frame.step
        block = reading.cell.block
        assert np.allclose(reading.score, frame.score[block], atol=2e-4, equal_nan=True)
        assert np.allclose(reading.p_bad.reshape(1, -1), frame.p_bad[block], atol=2e-4)


def test_with_two_conditions_in_a_batch_the_conditional_one_is_read(nodes, model, conditions, probes):
    _, first = one = nodes["BadHandsWatch"].watch(model, probes, 0.5)
    sample(one[0], conditions, seed=3)
    patched, recorder = nodes["BadHandsWatch"].watch(model, probes, 0.5)
    sample(patched, conditions, seed=3, cfg=2.0)
    assert torch.allclose(first.readings[0].p_bad, recorder.readings[0].p_bad, atol=1e-5)  # same noise at step 0
    sample(patched, (conditions[1], conditions[0]), seed=3, cfg=2.0)
    assert not torch.allclose(first.readings[0].p_bad, recorder.readings[0].p_bad, atol=1e-5)


def test_a_replacement_of_another_node_is_still_called(nodes, model, conditions, probes):
    calls = []

    def other(args, extra):
        calls.append(args["img"].shape)
        return {**extra["original_block"](args)}

    model.set_model_patch_replace(other, "dit", "single_block", 2)
    patched, recorder = nodes["BadHandsWatch"].watch(model, probes, 0.5)
    sample(patched, conditions)
    assert len(calls) == STEPS and recorder.of_block("single.2")


def test_every_step_yields_score_heatmap_and_mask(nodes, model, conditions, probes):
    patched, recorder = nodes["BadHandsWatch"].watch(model, probes, 0.5)
    samples = sample(patched, conditions, batch=2)
    score, heat, mask, told = nodes["BadHandsVerdict"].show(recorder, samples, "all", "", 0.5)
    assert heat.shape == (STEPS * 2, 256, 256, 3) and mask.shape == (STEPS * 2, 256, 256)
    assert heat.dtype == mask.dtype == torch.float32 and heat.min() >= 0 and heat.max() <= 1
    assert isinstance(score, float) and len(told.splitlines()) == STEPS
    last = recorder.of_block("single.2")[-1]
    expected = (last.hand & (last.p_bad >= 0.5)).float()
    assert torch.equal(mask[-2:, 8::16, 8::16], expected)
    white = torch.ones(1, 64, 64, 3)
    _, over, small, _ = nodes["BadHandsVerdict"].show(
        recorder, sample(patched, conditions), "last", "double.1", 2.0, white
    )
    assert over.shape == (1, 64, 64, 3) and small.sum() == 0
    outside = ~recorder.of_block("double.1")[-1].hand.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.equal(over[outside], white[outside])


def test_colours_are_the_projects_fixed_scale():
    pictures = load_pack().nodes.__dict__["heatmap"].__globals__
    p = torch.linspace(0, 1, 11)
    assert np.allclose(pictures["colours"](p).numpy(), P_BAD_CMAP(p.numpy())[:, :3], atol=0.01)


def test_stop_and_retry_stops_bad_seeds_early_and_gives_the_plain_image_of_the_next(nodes, model, conditions, probes):
    options = dict(steps=STEPS, cfg=1.0, sampler_name="euler", scheduler="simple", positive=conditions[0],
                   negative=conditions[1], latent_image=LATENT, block="single.2", decide_at=0.5)  # fmt: skip
    patched, recorder = nodes["BadHandsWatch"].watch(model, probes, 0.5)
    early = {}
    for seed in range(6):
        sample(patched, conditions, seed)
        early[seed] = [float(r.score) for r in recorder.of_block("single.2")[:2]]
    low = sorted(min(scores) for scores in early.values())[3]
    strict = probes.__class__(**{**vars(probes), "thresholds": {c: {0.05: low} for c in probes.cells}})
    first = next(seed for seed, scores in early.items() if min(scores) >= low)
    assert first > 0, "the test needs a seed that is stopped"
    before = model.flux.evaluations
    samples, seed, _, told = nodes["BadHandsStopAndRetry"].sample(model, strict, seed=0, tries=6, miss=0.05, **options)
    assert seed == first and torch.equal(samples["samples"], sample(model, conditions, seed)["samples"])
    assert told.count("stopped") == first
    assert model.flux.evaluations - before - STEPS < (first + 1) * STEPS  # stopped ones cost less
    with pytest.raises(ValueError, match="no threshold"):
        nodes["BadHandsStopAndRetry"].sample(model, probes, seed=0, tries=2, miss=0.1, **options)


def test_best_of_n_keeps_the_highest_early_score(nodes, model, conditions, probes):
    options = dict(steps=STEPS, cfg=1.0, sampler_name="euler", scheduler="simple", positive=conditions[0],
                   negative=conditions[1], latent_image=LATENT, block="single.2", decide_at=0.5)  # fmt: skip
    patched, recorder = nodes["BadHandsWatch"].watch(model, probes, 0.5)
    scores = {}
    for seed in range(3):
        sample(patched, conditions, seed)
        scores[seed] = float(recorder.of_block("single.2")[1].score)
    before = model.flux.evaluations
    samples, seed, score, told = nodes["BadHandsBestOfN"].sample(model, probes, seed=0, n=3, **options)
    assert seed == max(scores, key=scores.get) and score == pytest.approx(scores[seed], abs=1e-5)
    assert model.flux.evaluations - before == 3 * 2 + STEPS and told.count("kept") == 1
    assert torch.equal(samples["samples"], sample(model, conditions, seed)["samples"])


def test_labels_written_in_comfyui_recalibrate_the_probes(nodes, model, conditions, probes, tmp_path):
    file = str(tmp_path / "labels.jsonl")
    patched, recorder = nodes["BadHandsWatch"].watch(model, probes, 0.5)
    for seed in range(10):
        samples = sample(patched, conditions, seed)
        (count,) = nodes["BadHandsLabel"].label(recorder, samples, "good" if seed % 2 else "bad", file)
    assert count == 10
    (moved,) = nodes["BadHandsRecalibrate"].fit(probes, file)
    cell = Cell("single.2", 2)
    lines = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    rows = [line["is_good"] for line in lines]
    score = torch.tensor([line[probes.image_head][str(cell)] for line in lines])
    slope, offset = moved.readouts[probes.image_head, cell].platt
    assert torch.sigmoid(slope * score + offset).mean().item() == pytest.approx(np.mean(rows), abs=1e-5)
    with pytest.raises(ValueError, match="there are no labels"):
        nodes["BadHandsRecalibrate"].fit(probes, str(tmp_path / "none"))


def test_recalibration_finds_a_planted_shift_and_takes_the_thresholds_along(probes):
    rng, cell, head = np.random.default_rng(0), Cell("single.2", 3), probes.image_head
    slope, offset = probes.readouts[head, cell].platt
    score = rng.normal(0, 3, 20000)
    good = rng.random(20000) < 1 / (1 + np.exp(-(slope * score + offset)))
    moved = recalibrate(probes, {head: {cell: score + 2.0}}, good)  # kernels that add 2 to every score
    assert moved.readouts[head, cell].platt[1] == pytest.approx(offset - 2.0 * slope, abs=0.06)
    assert moved.thresholds[cell][0.2] == pytest.approx(probes.thresholds[cell][0.2] + 2.0, abs=0.1)
    assert intercept(np.zeros(4), np.array([1, 1, 1, 0])) == pytest.approx(np.log(3))
    with pytest.raises(ValueError, match="4 of each or more"):
        recalibrate(probes, {head: {cell: [1.0, 2.0]}}, [True, False])


def test_the_pack_imports_the_probes_numerics_and_nothing_heavier():
    code = (
        "import sys, importlib.util as u; "
        f"s = u.spec_from_file_location('pack', r'{PACK / '__init__.py'}', submodule_search_locations=[r'{PACK}']); "
        "m = u.module_from_spec(s); sys.modules['pack'] = m; s.loader.exec_module(m); "
        "print(sorted(set(n.split('.')[0] for n in sys.modules) & {'diffusers', 'hydra', 'lightning', 'matplotlib', "
        "'transformers', 'wandb', 'sklearn', 'pandas'}), sorted(n for n in sys.modules if n.startswith('badhands.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] ")
    assert "badhands.diffusion" not in done.stdout and "badhands.watch" not in done.stdout


def test_the_example_workflow_names_nodes_that_exist_and_links_fit(nodes):
    flow = json.loads((PACK / "workflow.json").read_text())
    ours = {name: type(node) for name, node in nodes.items()}
    for node in flow.values():
        for value in node["inputs"].values():
            if isinstance(value, list):
                assert value[0] in flow
        if node["class_type"] in ours:
            spec = ours[node["class_type"]].INPUT_TYPES()
            assert set(spec["required"]) <= set(node["inputs"]) <= set(spec["required"]) | set(spec.get("optional", {}))
            for name, value in node["inputs"].items():
                if isinstance(value, list) and flow[value[0]]["class_type"] in ours:
                    given = ours[flow[value[0]]["class_type"]].RETURN_TYPES[value[1]]
                    wanted = {**spec["required"], **spec.get("optional", {})}[name][0]
                    assert given == wanted
    assert {"UNETLoader", "VAEDecode", "SaveImage"} <= {node["class_type"] for node in flow.values()}
