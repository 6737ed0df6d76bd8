"""Pictures from prompts and seeds, so that any one of them can be made again alone, bit for bit."""

import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from badhands.diffusion.families import Embedding, family_of_pipe
from badhands.diffusion.fingerprint import differences, fingerprint
from badhands.diffusion.models import ModelSpec, load_pipeline
from badhands.diffusion.preview import decode

__all__ = ["Embedding", "differences", "embed_prompts", "encode", "fingerprint", "generate", "generate_latents"]


@torch.no_grad()
def encode(pipe: Any, prompts: Iterable[str], max_sequence_length: int) -> dict[str, Embedding]:
    """Embeddings of the distinct prompts, encoded one at a time so that none depends on its neighbours."""
    family = family_of_pipe(pipe)
    unwanted = family.negative_of(pipe)
    negative = None if unwanted is None else family.encode(pipe, unwanted, max_sequence_length)
    return {
        prompt: replace(family.encode(pipe, prompt, max_sequence_length), negative=negative)
        for prompt in dict.fromkeys(prompts)
    }


def embed_prompts(spec: ModelSpec, prompts: Iterable[str]) -> dict[str, Embedding]:
    """Load the text encoders alone, encode, and let them go before the transformer is loaded."""
    pipe = load_pipeline(spec, "text")
    embeddings = encode(pipe, prompts, spec.max_sequence_length)
    del pipe
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return embeddings


def generate_latents(pipe: Any, embeddings: Sequence[Embedding], seeds: Sequence[int], spec: ModelSpec) -> torch.Tensor:
    """Final packed latents [n, tokens, c] of up to `spec.batch_size` pictures.

    A shorter batch is filled up by repeating its last picture: the shapes stay those of a full batch, and so do the
    kernels and the last bits. The noise of a picture comes from its own seed on the CPU. Open taps or a capture round
    this call; members of the batch are the pictures in order, then the fill.

    Raises:
        ValueError: more pictures than the batch size, or not one seed for each embedding.
    """
    n = len(seeds)
    if len(embeddings) != n or not 1 <= n <= spec.batch_size:
        raise ValueError(f"{len(embeddings)} embeddings and {n} seeds: give as many of each, 1 to {spec.batch_size}")
    fill = spec.batch_size - n
    embeddings, seeds = [*embeddings, *[embeddings[-1]] * fill], [*seeds, *[seeds[-1]] * fill]
    family = family_of_pipe(pipe)
    last: dict[str, torch.Tensor] = {}

    def keep(_pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        last["latents"] = tensors["latents"]
        return {}

    # What a pipeline calls its latent output differs (FLUX.2 klein: the VAE's own scale); the last step's does not.
    pipe(
        height=spec.height,
        width=spec.width,
        num_inference_steps=spec.steps,
        generator=[torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds],
        output_type="latent",
        callback_on_step_end=keep,
        **family.arguments(embeddings, spec.guidance, pipe._execution_device),
    )
    return family.pack(last["latents"])[:n]


def generate(
    pipe: Any, embeddings: Sequence[Embedding], seeds: Sequence[int], spec: ModelSpec
) -> Iterator[Image.Image]:
    """Pictures in order, any number of them, made in batches of `spec.batch_size`."""
    for start in range(0, len(seeds), spec.batch_size):
        part = slice(start, start + spec.batch_size)
        latents = generate_latents(pipe, embeddings[part], seeds[part], spec)
        yield from decode(pipe, latents, spec.height, spec.width)
