"""The shipped folders load and draw with the network off; what is damaged is named; the recipe resumes."""

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from badhands.diffusion.generation import embed_prompts, generate
from badhands.diffusion.models import ModelSpec, load_pipeline
from badhands.tiny_hands import CHECKPOINTS
from badhands.tiny_hands.anatomy import sample_hands
from badhands.tiny_hands.attributes import random_captions
from badhands.tiny_hands.autoencoder import collages, encode_tokens, normalise, psnr, round_trip
from badhands.tiny_hands.flow import FlowTraining, caption_index, embed_captions, encode_corpus
from badhands.tiny_hands.pipeline import PRESETS, assemble, build_transformer, build_vae, preset
from badhands.tiny_hands.renderer import render
from badhands.tiny_hands.train import Stage, fit, start_from, use_snapshot


def spec(path: Path, **changes) -> ModelSpec:
    values = {"name": "tiny", "path": str(path), "height": 64, "width": 64, "steps": 2, "guidance": 3.5,
              "max_sequence_length": 24, "device": "cpu", "batch_size": 2}  # fmt: skip
    return ModelSpec(**{**values, **changes})


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise OSError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("name", ["clean", "mixed"])
def test_a_shipped_folder_draws_without_a_network(name, offline):
    folder = CHECKPOINTS / name
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= 10e6
    prompts = [text for text, _ in random_captions(2, seed=5)]
    embeddings = embed_prompts(spec(folder), prompts)
    pipe = load_pipeline(spec(folder), "image")
    assert len(pipe.transformer.transformer_blocks) == 3 and len(pipe.transformer.single_transformer_blocks) == 6
    images = [np.asarray(i) for i in generate(pipe, [embeddings[p] for p in prompts], [0, 1], spec(folder))]
    assert images[0].shape == (64, 64, 3) and not np.array_equal(images[0], images[1])


def test_the_vae_keeps_fingers():
    vae = load_pipeline(spec(CHECKPOINTS / "clean", dtype="float32"), "image").vae
    for share in (0.0, 1.0):
        images = render(sample_hands(24, seed=991, bad_share=share)).images
        assert psnr(round_trip(vae, images), images).mean() >= 30
    tokens = encode_tokens(vae, images)
    assert tokens.shape == (24, 256, 32) and abs(tokens.mean()) < 0.2 and abs(tokens.std() - 1) < 0.2


def test_a_missing_or_damaged_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        load_pipeline(spec(tmp_path / "nowhere"))
    broken = tmp_path / "broken"
    shutil.copytree(CHECKPOINTS / "clean", broken)
    weights = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="diffusion_pytorch_model"):
        load_pipeline(spec(broken))


def test_normalised_latents_have_unit_variance_and_decode_as_before():
    torch.manual_seed(0)
    vae = build_vae(PRESETS["s"]).eval()
    images = collages(48, seed=1, device="cpu")
    with torch.no_grad():
        before = vae.decode(vae.encode(images).latent_dist.mode()).sample
        normalise(vae, images)
        latents = vae.encode(images).latent_dist.mode()
        after = vae.decode(latents).sample
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(8), atol=1e-4)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(8), atol=1e-3)
    inside = (slice(None), slice(None), slice(16, 48), slice(16, 48))
    assert (before - after)[inside].abs().mean() < 0.05 * before[inside].std()


def test_the_text_tells_every_caption_apart():
    codes = sample_hands(64, seed=0).codes
    pipe = assemble(build_vae(PRESETS["s"]), build_transformer(PRESETS["s"]))
    captions = [text for text, _ in random_captions(40, seed=0)]
    prompt, pooled, _ = pipe.encode_prompt(captions, captions, max_sequence_length=24)
    assert torch.pdist(prompt.flatten(1)).min() > 1 and torch.pdist(pooled).min() > 0.1
    assert caption_index(codes).max() < 4608


@pytest.mark.filterwarnings("ignore")
def test_training_goes_on_from_where_it_was_stopped(tmp_path):
    torch.manual_seed(0)
    vae = build_vae(PRESETS["s"]).eval()
    options = {"accelerator": "cpu", "devices": 1, "precision": "bf16-mixed", "gradient_clip_val": 1.0}

    def module() -> FlowTraining:
        transformer = build_transformer(PRESETS["s"])
        made = FlowTraining(transformer, steps=40, batch_size=2, lr=1e-3, warmup=5, ema_decay=0.9, seed=0)
        latents, captions = encode_corpus(vae, 8, 0.25, 0, torch.device("cpu"))
        made.use(latents, captions, *embed_captions(assemble(vae, transformer)))
        return made

    class Killed(Exception):
        pass

    first = module()
    step = first.training_step

    def dies(*args):
        if first.global_step == 27:
            raise Killed
        return step(*args)

    first.training_step = dies  # type: ignore[method-assign]
    stage = Stage(steps=40, batch_size=2, lr=1e-3)
    with pytest.raises(Killed):
        fit(first, stage, tmp_path, {**options, "save_every": 10}, False, [])
    second = module()
    seen = []
    step_of_second = second.training_step
    second.training_step = lambda *args: (seen.append(second.global_step), step_of_second(*args))[1]  # type: ignore
    fit(second, stage, tmp_path, {**options, "save_every": 10}, False, [])
    assert seen == list(range(20, 40)), "from the last checkpoint, to the end"
    assert int(second.ema.n_averaged) == 5 and second.elapsed > 0


def test_a_snapshot_becomes_a_pipeline(tmp_path):
    folder = tmp_path / "pipeline"
    shutil.copytree(CHECKPOINTS / "mixed", folder)
    weights = load_file(CHECKPOINTS / "clean" / "transformer" / "diffusion_pytorch_model.safetensors")
    save_file(weights, tmp_path / "step-000100.safetensors")
    use_snapshot(folder, tmp_path / "step-000100.safetensors")
    taken = load_pipeline(spec(folder), "image").transformer.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in taken.items())


def test_training_can_start_from_a_shipped_folder_of_its_own_size(tmp_path):
    _, transformer = start_from(CHECKPOINTS / "clean", preset("m"))
    stored = load_file(CHECKPOINTS / "clean" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(value, stored[name].float()) for name, value in transformer.state_dict().items())
    with pytest.raises(ValueError, match="another width"):
        start_from(CHECKPOINTS / "clean", preset("l"))
    with pytest.raises(ValueError, match="no pipeline there"):
        start_from(tmp_path, preset("m"))


def test_presets_share_blocks_and_differ_in_width():
    widths = {name: build_transformer(preset(name)).inner_dim for name in PRESETS}
    assert widths == {"s": 96, "m": 128, "l": 192}
    with pytest.raises(ValueError, match="unknown preset 'xl': choose one of s, m, l"):
        preset("xl")
    with pytest.raises(ValueError, match="steps >= 40"):
        Stage(steps=3, batch_size=2, lr=1e-3)
