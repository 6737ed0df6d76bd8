"""Qwen-Image: two streams to the end, guidance in a second call, a VAE that was made for video."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from badhands.diffusion.families.base import BlockList, Call, Embedding, Family, negatives, stacked


class QwenImage(Family):
    name = "Qwen-Image"
    transformer = "QwenImageTransformer2DModel"
    pipelines = ("QwenImagePipeline",)
    double = BlockList("transformer_blocks", "num_layers", 1)
    negative = " "  # the model's authors: an empty text would leave no token
    longest_text = 1024
    pads_to_neighbours = True

    def halvings(self, vae: Mapping[str, Any]) -> int:
        return len(vae["temperal_downsample"])  # diffusers' spelling

    def encode(self, pipe: Any, prompt: str, longest: int) -> Embedding:
        embeds, _ = pipe.encode_prompt(prompt, max_sequence_length=longest)
        return Embedding(embeds[0].cpu())  # one prompt has no padding, so no mask

    def arguments(self, embeddings: Sequence[Embedding], guidance: float, device: torch.device) -> dict[str, Any]:
        given = {
            "true_cfg_scale": guidance,
            "max_sequence_length": self.longest_text,  # they were cut when they were encoded
            **_texts(embeddings, device, ""),
        }
        if guidance > 1:
            given |= _texts(negatives(embeddings), device, "negative_")
        return given

    def look(self, pipe: Any, transformer: Any, args: tuple, kwargs: Mapping[str, Any]) -> Call:
        hidden, shapes = kwargs["hidden_states"], kwargs["img_shapes"]
        if len(shapes[0]) != 1:
            raise ValueError(f"{type(pipe).__name__} was given reference images: draw from a prompt alone")
        return Call(hidden.shape[0], tuple(shapes[0][0][1:]), hidden.device)

    def denormalise(self, latents: torch.Tensor, vae: Any) -> torch.Tensor:
        mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1).to(latents.device, latents.dtype)
        scale = 1.0 / torch.tensor(vae.config.latents_std).view(1, -1, 1, 1).to(latents.device, latents.dtype)
        return latents / scale + mean

    def pixels(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        return vae.decode(latents[:, :, None], return_dict=False)[0][:, :, 0]  # a film of one frame


def _texts(embeddings: Sequence[Embedding], device: torch.device, prefix: str) -> dict[str, torch.Tensor | None]:
    """Embeddings of a batch and their mask, filled up to the longest."""
    longest = max(len(e.prompt_embeds) for e in embeddings)
    padded = [torch.nn.functional.pad(e.prompt_embeds, (0, 0, 0, longest - len(e.prompt_embeds))) for e in embeddings]
    masks = [torch.arange(longest) < len(e.prompt_embeds) for e in embeddings]
    return {
        f"{prefix}prompt_embeds": stacked(padded, device),
        f"{prefix}prompt_embeds_mask": stacked([mask.long() for mask in masks], device),
    }
