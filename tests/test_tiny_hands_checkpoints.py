"""The shipped folders load and draw with the network off; what is damaged is named."""

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

from badhands.diffusion.generation import embed_prompts, generate
from badhands.diffusion.models import ModelSpec, load_pipeline
from badhands.tiny_hands import CHECKPOINTS
from badhands.tiny_hands.anatomy import sample_hands
from badhands.tiny_hands.attributes import random_captions
from badhands.tiny_hands.making.autoencoder import encode_tokens, psnr, round_trip
from badhands.tiny_hands.renderer import render


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


MODELS = ("mixed", "clean", "clean_s", "clean_l")


def test_what_ships_stays_small():
    assert sum(f.stat().st_size for name in MODELS for f in (CHECKPOINTS / name).rglob("*") if f.is_file()) <= 45e6


def test_the_sizes_share_everything_but_their_width(offline):
    pipes = {name: load_pipeline(spec(CHECKPOINTS / name), "image") for name in MODELS}
    widths = {name: p.transformer.config.num_attention_heads * 32 for name, p in pipes.items()}
    assert widths == {"mixed": 128, "clean": 128, "clean_s": 96, "clean_l": 192}
    assert len({(len(p.transformer.transformer_blocks), p.vae.config.latent_channels) for p in pipes.values()}) == 1


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_folder_draws_without_a_network(name, offline):
    folder = CHECKPOINTS / name
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
    assert tokens.shape == (24, 256, 16) and abs(tokens.mean()) < 0.2 and abs(tokens.std() - 1) < 0.2


def test_a_missing_or_damaged_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        load_pipeline(spec(tmp_path / "nowhere"))
    broken = tmp_path / "broken"
    shutil.copytree(CHECKPOINTS / "clean", broken)
    weights = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="diffusion_pytorch_model"):
        load_pipeline(spec(broken))
