"""Chroma: FLUX.1's blocks without its embedded guidance; padding is masked, guidance comes from a second call."""

from collections.abc import Sequence
from typing import Any

import torch

from badhands.diffusion.families.base import BlockList, Embedding, Family, negatives, stacked


class Chroma(Family):
    name = "Chroma"
    transformer = "ChromaTransformer2DModel"
    pipelines = ("ChromaPipeline",)
    double = BlockList("transformer_blocks", "num_layers", 1)
    single = BlockList("single_transformer_blocks", "num_single_layers", None, "text_image")
    tiny_vae = "madebyollin/taef1"

    def encode(self, pipe: Any, prompt: str, longest: int) -> Embedding:
        embeds, _, mask, *_ = pipe.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=longest)
        return Embedding(embeds[0].cpu(), mask=mask[0].cpu())

    def arguments(self, embeddings: Sequence[Embedding], guidance: float, device: torch.device) -> dict[str, Any]:
        given: dict[str, Any] = {"guidance_scale": guidance}
        for prefix, group in (("", embeddings), ("negative_", negatives(embeddings))):
            given[f"{prefix}prompt_embeds"] = stacked([e.prompt_embeds for e in group], device)
            given[f"{prefix}prompt_attention_mask"] = stacked([e.mask for e in group], device)
        return given
