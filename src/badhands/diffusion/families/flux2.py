"""FLUX.2: klein (base and distilled) and dev. One text encoder whose middle layers are read; a VAE with batch norm."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange

from badhands.diffusion.families.base import BlockList, Call, Embedding, Family, negatives, stacked


class Flux2(Family):
    name = "FLUX.2"
    transformer = "Flux2Transformer2DModel"
    pipelines = ("Flux2KleinPipeline", "Flux2Pipeline")
    double = BlockList("transformer_blocks", "num_layers", 1)
    single = BlockList("single_transformer_blocks", "num_single_layers", None, "text_image")

    def negative_of(self, pipe: Any) -> str | None:
        # dev takes the scale as an input; distilled klein ignores it.
        guided = type(pipe).__name__ == "Flux2KleinPipeline" and not pipe.config.is_distilled
        return "" if guided else None

    def encode(self, pipe: Any, prompt: str, longest: int) -> Embedding:
        embeds, _ = pipe.encode_prompt(prompt=prompt, max_sequence_length=longest)
        return Embedding(embeds[0].cpu())

    def arguments(self, embeddings: Sequence[Embedding], guidance: float, device: torch.device) -> dict[str, Any]:
        given: dict[str, Any] = {
            "prompt_embeds": stacked([e.prompt_embeds for e in embeddings], device),
            "guidance_scale": guidance,
        }
        if unwanted := negatives(embeddings):
            given["negative_prompt_embeds"] = stacked([e.prompt_embeds for e in unwanted], device)
        return given

    def look(self, pipe: Any, transformer: Any, args: tuple, kwargs: Mapping[str, Any]) -> Call:
        if kwargs.get("kv_cache_mode") is not None:
            raise ValueError(
                f"{type(pipe).__name__} keeps keys and values of reference images: its blocks see other tokens at the "
                "first step. Use Flux2KleinPipeline without images"
            )
        return super().look(pipe, transformer, args, kwargs)

    def denormalise(self, latents: torch.Tensor, vae: Any) -> torch.Tensor:
        # Mean and variance are per channel of a token, that is per latent channel and place in the 2 x 2 patch.
        mean = vae.bn.running_mean.view(1, -1, 1, 1).to(latents.device, latents.dtype)
        variance = vae.bn.running_var.view(1, -1, 1, 1)
        deviation = torch.sqrt(variance + vae.config.batch_norm_eps).to(latents.device, latents.dtype)
        tokens = rearrange(latents, "b c (h p) (w q) -> b (c p q) h w", p=self.patch, q=self.patch)
        tokens = tokens * deviation + mean
        return rearrange(tokens, "b (c p q) h w -> b c (h p) (w q)", p=self.patch, q=self.patch)
