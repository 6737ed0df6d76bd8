"""Model specs, loading, fingerprints, and pictures that can be made again one by one."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from badhands.cells import Cell
from badhands.diffusion import fingerprint as fingerprints
from badhands.diffusion.capture import capture
from badhands.diffusion.generation import embed_prompts, encode, fingerprint, generate, generate_latents
from badhands.diffusion.models import ModelSpec, check_folder, load_pipeline, token_grid, transformer_config
from badhands.diffusion.preview import decode, predicted_x0
from tiny_pipeline import make_pipeline, save_tiny

PROMPTS = ["a hand", "two fists", "fingers", "pointing", "a fist"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"), seed=3)


@pytest.fixture(scope="module")
def spec(folder):
    return ModelSpec(
        name="tiny", path=str(folder), height=64, width=48, steps=4, guidance=3.5, dtype="float32",
        max_sequence_length=16, batch_size=3, device="cpu",
    )  # fmt: skip


def changed(spec, **options):
    return dataclasses.replace(spec, **options)


def test_loaded_equals_made_in_memory(spec):
    """Bit for bit, so the alignment of mapped weights does not matter."""
    loaded, made = load_pipeline(spec), make_pipeline(seed=3)
    embeddings = [list(encode(p, PROMPTS[:3], 16).values()) for p in (loaded, made)]
    assert torch.equal(embeddings[0][2].prompt_embeds, embeddings[1][2].prompt_embeds)
    pair = [generate_latents(p, e, [0, 1, 2], spec) for p, e in zip((loaded, made), embeddings, strict=True)]
    assert torch.equal(*pair)
    assert {t.data_ptr() % 64 for t in loaded.transformer.parameters()} == {0}
    assert loaded.dtype == torch.float32 and load_pipeline(changed(spec, dtype="bfloat16")).dtype == torch.bfloat16


def test_parts(spec):
    text, image = load_pipeline(spec, "text"), load_pipeline(spec, "image")
    assert text.transformer is None and text.vae is None and image.text_encoder_2 is None and image.tokenizer is None
    whole = load_pipeline(spec)
    embeddings, again = embed_prompts(spec, PROMPTS), encode(whole, PROMPTS, 16)
    assert all(torch.equal(embeddings[p].prompt_embeds, again[p].prompt_embeds) for p in PROMPTS)
    assert not torch.equal(embeddings[PROMPTS[0]].pooled_prompt_embeds, embeddings[PROMPTS[1]].pooled_prompt_embeds)
    pictures = [next(generate(p, [embeddings[PROMPTS[0]]], [7], spec)) for p in (whole, image)]
    assert pictures[0].tobytes() == pictures[1].tobytes() and pictures[0].size == (48, 64)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_any_subset_is_made_again_bit_for_bit(spec, dtype):
    spec = changed(spec, dtype=dtype)
    pipe = load_pipeline(spec)
    embeddings = list(encode(pipe, PROMPTS, 16).values())
    pictures = [p.tobytes() for p in generate(pipe, embeddings, range(5), spec)]
    assert len(set(pictures)) == 5
    for subset in ([4], [2, 0], [3, 1, 4], [0, 1, 2, 3]):
        again = generate(pipe, [embeddings[i] for i in subset], subset, spec)
        assert [p.tobytes() for p in again] == [pictures[i] for i in subset]
    with capture(pipe, ["single.0"], [2], [[5]]) as taken:  # one picture in a batch filled to three
        latents = generate_latents(pipe, embeddings[1:2], [1], spec)
    assert decode(pipe, latents, 64, 48)[0].tobytes() == pictures[1]
    assert taken[Cell("single.0", 2)].shape == (1, 128)
    with pytest.raises(ValueError, match="4 embeddings and 4 seeds: give as many of each, 1 to 3"):
        generate_latents(pipe, embeddings[:4], range(4), spec)


def test_decoding_is_the_pipelines_own(spec):
    pipe = load_pipeline(spec)
    options = dict(height=64, width=48, num_inference_steps=3, max_sequence_length=16)
    latent, picture = (
        pipe("a hand", generator=torch.Generator().manual_seed(1), output_type=kind, **options).images
        for kind in ("latent", "pil")
    )
    assert np.array_equal(np.asarray(decode(pipe, latent, 64, 48)[0]), np.asarray(picture[0]))
    assert torch.equal(predicted_x0(latent, torch.ones_like(latent), 0.25), latent - 0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 0}, "model.height=0: it must be a positive whole number"),
        ({"steps": 2.5}, "model.steps=2.5"),
        ({"dtype": "fp16"}, "model.dtype='fp16': use one of float32, bfloat16, float16"),
        ({"offload": "disk"}, "model.offload='disk': use one of none, model, group"),
        ({"quantization": "int4"}, "model.quantization='int4': use one of none, nf4, int8"),
        ({"device": "gpu"}, "model.device='gpu'"),
        ({"max_sequence_length": 0}, "model.max_sequence_length=0"),
        ({"path": ""}, "model.path is empty"),
    ],
)
def test_a_spec_that_cannot_be(spec, options, message):
    with pytest.raises(ValueError, match=message):
        changed(spec, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 66}, "66 x 48 px: height and width must be positive multiples of 4 px"),
        ({"path": "/nowhere/flux"}, "there is no such folder"),
        ({"max_sequence_length": 513}, "max_sequence_length=513: FLUX.1 takes at most 512"),
        ({"path": "src/badhands/tiny_hands/checkpoints/none"}, "there is no such folder"),
        ({"offload": "model"}, "model.offload=model needs a GPU"),
        ({"quantization": "nf4"}, "model.quantization=nf4 needs a GPU"),
    ],
)
def test_what_cannot_be_loaded(spec, options, message):
    with pytest.raises(ValueError, match=message):
        load_pipeline(changed(spec, **options))


def test_a_gpu_that_is_not_there(spec, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"model.device=cuda:1, but no GPU was found: use model.device=cpu"):
        load_pipeline(changed(spec, device="cuda:1"))


def test_a_quantization_library_that_is_not_there(spec, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    with pytest.raises(ValueError, match="needs bitsandbytes: pip install bitsandbytes"):
        load_pipeline(changed(spec, device="cuda", quantization="nf4"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f / "vae"), "vae"),
        (lambda f: (f / "model_index.json").unlink(), "no model_index.json"),
        (lambda f: (f / "model_index.json").write_text("{"), "model_index.json is damaged"),
        (lambda f: (f / "transformer" / "config.json").write_text("{"), "config.json is damaged"),
        (lambda f: (f / "transformer" / "diffusion_pytorch_model.safetensors").unlink(), "cannot be loaded"),
        (lambda f: _cut(f / "transformer" / "diffusion_pytorch_model.safetensors", 1000), "cut short"),
        (lambda f: _cut(f / "text_encoder_2" / "model.safetensors", 10**6), "cut short"),
        (lambda f: _cut(f / "text_encoder" / "model.safetensors", None), "cut short"),
    ],
)
def test_a_damaged_folder_is_told_in_one_sentence(spec, tmp_path, damage, message):
    copied = shutil.copytree(spec.path, tmp_path / "model")
    damage(copied)
    with pytest.raises(ValueError, match=message) as caught:
        load_pipeline(changed(spec, path=str(copied)))
    assert "\n" not in str(caught.value)


def _cut(file, lost):
    data = file.read_bytes()
    file.write_bytes(data[: len(data) - lost] if lost else b"")


def test_the_config_before_any_weight(spec, tmp_path):
    bare = tmp_path / "bare"
    for part in ("transformer", "vae"):
        (bare / part).mkdir(parents=True)
        shutil.copy(Path(spec.path) / part / "config.json", bare / part)
    assert transformer_config(changed(spec, path=str(bare)))["num_single_layers"] == 6
    assert len(token_grid(changed(spec, path=str(bare)))) == 16 * 12
    published = changed(spec, path="black-forest-labs/FLUX.1-schnell", height=1024, width=1024)
    assert transformer_config(published)["num_single_layers"] == 38 and len(token_grid(published)) == 4096


def test_the_fingerprint_tells_what_changed(spec, folder, tmp_path):
    first, facts = fingerprint(spec)
    assert fingerprint(spec)[0] == first and len(first) == 12 and json.loads(json.dumps(facts)) == facts
    assert fingerprint(changed(spec, name="other"))[0] == first
    copied = shutil.copytree(folder, tmp_path / "elsewhere")
    assert fingerprint(changed(spec, path=str(copied)))[0] == first
    for options in (
        {"height": 48},
        {"steps": 5},
        {"guidance": 1.0},
        {"dtype": "bfloat16"},
        {"batch_size": 4},
        {"max_sequence_length": 24},
    ):
        other, other_facts = fingerprint(changed(spec, **options))
        (key, value), (line,) = next(iter(options.items())), fingerprints.differences(facts, other_facts)
        assert other != first and line.startswith(f"{key}: ") and line.endswith(f"{value} now")
    scheduler = copied / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace('"shift": 3.0', '"shift": 2.0'))
    assert fingerprint(changed(spec, path=str(copied)))[0] != first
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert fingerprints.differences(facts, fingerprint(spec)[1]) == [f"threads: {threads} then, {threads + 1} now"]
    finally:
        torch.set_num_threads(threads)


def test_large_folders_are_sampled(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "_WHOLE", 1000)
    monkeypatch.setattr(fingerprints, "_SAMPLE", 1000)
    copied = shutil.copytree(folder, tmp_path / "large")
    before = fingerprints.folder_hash(copied)
    assert before.startswith("sampled:") and before == fingerprints.folder_hash(folder)
    weights = copied / "transformer" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert fingerprints.folder_hash(copied) != before


def test_check_folder_passes_a_good_one(folder):
    assert check_folder(folder)["transformer"] == ["diffusers", "FluxTransformer2DModel"]
