"""FLUX.1-dev's architecture with random weights, made on the GPU; or a tiny stand-in for rehearsal."""

import gc
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from badhands.diffusion.blocks import TokenGrid, block_names
from badhands.diffusion.generation import Embedding, generate_latents
from badhands.diffusion.preview import decode
from badhands.diffusion.random_model import make_component, published
from badhands.diffusion.spec import ModelSpec

POST = ("double.12", "single.8", "single.12", "single.16", "single.24", "single.32")
POST_TIMESTEPS = (20, 19, 18, 17, 15, 12, 8, 3)


class Setup:
    """The pipeline, its spec, and what the sections share."""

    def __init__(self, pipe: Any, spec: ModelSpec, embeddings: list[Embedding], folder: Path, rehearse: bool) -> None:
        self.pipe, self.spec, self.embeddings, self.rehearse = pipe, spec, embeddings, rehearse
        self.scratch = folder if rehearse else Path(tempfile.gettempdir()) / "flux_gpu"
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.rounds = 2 if rehearse else 5
        self.grid = TokenGrid.of(spec.height, spec.width, 4 if rehearse else 16)
        self.post_blocks = ("double.1", "single.2", "single.4") if rehearse else POST
        self.post_timesteps = (4, 2, 1) if rehearse else POST_TIMESTEPS
        self.all_timesteps = tuple(range(spec.steps, 0, -1))
        self.all_blocks: tuple[str, ...] = ()
        self.description = "none"
        if pipe is not None:
            transformer = pipe.transformer
            self.all_blocks = block_names({**transformer.config, "_class_name": "FluxTransformer2DModel"})
            count = sum(p.numel() for p in transformer.parameters()) / 1e9
            self.description = (
                f"{transformer.config.num_layers} double and {transformer.config.num_single_layers} single blocks, "
                f"{count:.2f} B random weights, {spec.dtype}, {spec.height} x {spec.width}, {spec.steps} steps"
            )

    def latents(self, seeds: list[int], batch: int = 1, steps: int | None = None) -> torch.Tensor:
        """Final packed latents through the project's own generation."""
        spec = replace(self.spec, batch_size=batch, steps=steps or self.spec.steps)
        return generate_latents(self.pipe, [self.embeddings[seed] for seed in seeds], seeds, spec)

    def tokens(self, count: int) -> list[np.ndarray]:
        """Token indices of one image."""
        count = min(count, len(self.grid) // 2)
        return [np.sort(np.random.default_rng(count).choice(len(self.grid), count, replace=False)).astype(np.int32)]

    def decode(self, packed: torch.Tensor) -> Any:
        """The pictures of packed latents, on the host."""
        return decode(self.pipe, packed, self.spec.height, self.spec.width)

    def compare(self, a: torch.Tensor, b: torch.Tensor) -> str:
        """Two latents: bit-equal, or how far apart they and their pictures are."""
        if torch.equal(a, b):
            return "bit-equal"
        device = self.pipe._execution_device
        first, second = (np.asarray(self.decode(x.to(device))[0], np.float64) for x in (a, b))
        gap, mse = float((a.float() - b.float().to(a.device)).abs().max()), float(np.mean((first - second) ** 2))
        pictures = "pictures equal" if mse == 0 else f"PSNR {10 * np.log10(255**2 / mse):.1f} dB"
        return f"latents differ by {gap:.2g}, {pictures}"

    def free(self) -> None:
        """Let the model go."""
        self.pipe = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def build(folder: Path, rehearse: bool, pipeline: bool = True) -> Setup:
    """The full model on the GPU, or the tiny one on the CPU; `pipeline=False` makes none."""
    size = 64 if rehearse else 1024
    spec = ModelSpec(
        name="flux_random", path="black-forest-labs/FLUX.1-dev", height=size, width=size,
        steps=4 if rehearse else 20, guidance=3.5, dtype="float32" if rehearse else "bfloat16",
        max_sequence_length=16 if rehearse else 512,
    )  # fmt: skip
    if not pipeline:
        return Setup(None, spec, [], folder, rehearse)
    if rehearse:
        from tiny_pipeline import make_pipeline

        pipe = make_pipeline()
        pipe.text_encoder = pipe.text_encoder_2 = None
        widths = (64, 64)
    else:
        pipe, widths = full_pipeline(), (4096, 768)
    generator = torch.Generator().manual_seed(0)
    dtype = spec.torch_dtype
    embeddings = [
        Embedding(
            torch.randn(spec.max_sequence_length, widths[0], generator=generator).to(dtype) * 0.2,
            torch.randn(widths[1], generator=generator).to(dtype),
        )
        for _ in range(4)
    ]
    return Setup(pipe, spec, embeddings, folder, rehearse)


def full_pipeline() -> Any:
    """FluxPipeline without text encoders, 11.9 B random bfloat16 weights, equal in every process."""
    from diffusers import FluxPipeline

    parts = published("black-forest-labs/FLUX.1-dev").parts
    scheduler, vae, transformer = (
        make_component(parts[name], "full", torch.bfloat16, torch.device("cuda"), seed)
        for seed, name in enumerate(("scheduler", "vae", "transformer"))
    )
    pipe = FluxPipeline(scheduler, vae, None, None, None, None, transformer)
    pipe.set_progress_bar_config(disable=True)
    return pipe
