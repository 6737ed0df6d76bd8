"""Stable Diffusion 3 and 3.5: two streams to the end, guidance in one call, unconditional half first."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from badhands.diffusion.families.base import BlockList, Call, Embedding, Family, negatives, stacked


class StableDiffusion3(Family):
    name = "Stable Diffusion 3"
    transformer = "SD3Transformer2DModel"
    pipelines = ("StableDiffusion3Pipeline",)
    double = BlockList("transformer_blocks", "num_layers", 1)
    guidance_batch = "uncond_first"
    quantized = ("transformer", "text_encoder_3")
    tiny_vae = "madebyollin/taesd3"

    def latent_channels(self, config: Mapping[str, Any]) -> int:
        return int(config["in_channels"]) * self.patch**2

    def encode(self, pipe: Any, prompt: str, longest: int) -> Embedding:
        embeds, _, pooled, _ = pipe.encode_prompt(
            prompt, None, None, do_classifier_free_guidance=False, max_sequence_length=longest
        )
        return Embedding(embeds[0].cpu(), pooled[0].cpu())

    def arguments(self, embeddings: Sequence[Embedding], guidance: float, device: torch.device) -> dict[str, Any]:
        given: dict[str, Any] = {"guidance_scale": guidance}
        for prefix, group in (("", embeddings), ("negative_", negatives(embeddings))):
            given[f"{prefix}prompt_embeds"] = stacked([e.prompt_embeds for e in group], device)
            given[f"{prefix}pooled_prompt_embeds"] = stacked([e.pooled_prompt_embeds for e in group], device)
        return given

    def look(self, pipe: Any, transformer: Any, args: tuple, kwargs: Mapping[str, Any]) -> Call:
        hidden = kwargs["hidden_states"]
        rows, columns = (side // self.patch for side in hidden.shape[-2:])
        return Call(hidden.shape[0], (rows, columns), hidden.device)
