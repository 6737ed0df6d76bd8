"""FLUX.1 dev and schnell: text and image in two streams, then in one; guidance is a number the model was taught."""

from collections.abc import Sequence
from typing import Any

import torch

from badhands.diffusion.families.base import BlockList, Embedding, Family, stacked


class Flux(Family):
    name = "FLUX.1"
    transformer = "FluxTransformer2DModel"
    pipelines = ("FluxPipeline",)
    # diffusers splits the joint sequence of a single block again, so both kinds put out (text, image).
    double = BlockList("transformer_blocks", "num_layers", 1)
    single = BlockList("single_transformer_blocks", "num_single_layers", 1)
    negative = None
    quantized = ("transformer", "text_encoder_2")
    tiny_vae = "madebyollin/taef1"

    def encode(self, pipe: Any, prompt: str, longest: int) -> Embedding:
        embeds, pooled, _ = pipe.encode_prompt(
            prompt=prompt, prompt_2=None, num_images_per_prompt=1, max_sequence_length=longest
        )
        return Embedding(embeds[0].cpu(), pooled[0].cpu())

    def arguments(self, embeddings: Sequence[Embedding], guidance: float, device: torch.device) -> dict[str, Any]:
        return {
            "prompt_embeds": stacked([e.prompt_embeds for e in embeddings], device),
            "pooled_prompt_embeds": stacked([e.pooled_prompt_embeds for e in embeddings], device),
            "guidance_scale": guidance,
        }
