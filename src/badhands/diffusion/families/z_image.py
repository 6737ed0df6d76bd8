"""Z-Image and its Turbo: one sequence, image first; guidance in one call, conditional half first.

`single.i` is `layers.i`. The two `noise_refiner` blocks before the sequences meet never see the prompt: left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from badhands.diffusion.families.base import BlockList, Call, Embedding, Family, negatives


class ZImage(Family):
    name = "Z-Image"
    transformer = "ZImageTransformer2DModel"
    pipelines = ("ZImagePipeline",)
    single = BlockList("layers", "n_layers", None, "image_text")
    guidance_batch = "cond_first"
    pads_to_neighbours = True
    float32_latents = True
    tiny_vae = "madebyollin/taef1"  # its VAE is FLUX.1's

    def width(self, config: Mapping[str, Any]) -> int:
        return int(config["dim"])

    def latent_channels(self, config: Mapping[str, Any]) -> int:
        return int(config["in_channels"]) * self.patch**2

    def encode(self, pipe: Any, prompt: str, longest: int) -> Embedding:
        (embeds,), _ = pipe.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=longest)
        return Embedding(embeds.cpu())

    def arguments(self, embeddings: Sequence[Embedding], guidance: float, device: torch.device) -> dict[str, Any]:
        return {
            "prompt_embeds": [e.prompt_embeds.to(device) for e in embeddings],
            "negative_prompt_embeds": [e.prompt_embeds.to(device) for e in negatives(embeddings)],
            "guidance_scale": guidance,
        }

    def look(self, pipe: Any, transformer: Any, args: tuple, kwargs: Mapping[str, Any]) -> Call:
        images = args[0]
        if isinstance(images[0], list):
            raise ValueError(f"{type(pipe).__name__} was given reference images: draw from a prompt alone")
        truncation = getattr(pipe, "_cfg_truncation", None)
        if truncation is not None and truncation < 1 and pipe.do_classifier_free_guidance:
            raise ValueError(
                f"cfg_truncation={truncation} switches guidance off in the middle: steps before and after cannot be "
                "compared. Leave it at 1"
            )
        _, _, height, width = images[0].shape
        return Call(len(images), (height // self.patch, width // self.patch), images[0].device)

    def denormalise(self, latents: torch.Tensor, vae: Any) -> torch.Tensor:
        return super().denormalise(latents.to(vae.dtype), vae)  # in the order of the pipeline, for its very pixels
