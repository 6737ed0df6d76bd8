"""Renders noised part of the way and finished by an embedded model: its own hand-writing, on hands of which we know.

SDEdit (Meng et al. 2022, arXiv:2108.01073). From little noise a sound hand comes back sound, with the model's own soft
edges; from much noise a weak model brings it back malformed. The change it made decides which label it gets.
"""

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from badhands.tiny_hands.anatomy import Hands
from badhands.tiny_hands.renderer import render

STEPS = 20


class Redrawer:
    """An embedded pipeline that finishes noised renders.

    Raises:
        ValueError: there is no pipeline in `folder`.
    """

    def __init__(self, folder: str | Path, device: str) -> None:
        from diffusers.pipelines.flux.pipeline_flux import FluxPipeline

        from badhands.tiny_hands.flow import embed_captions

        if not (Path(folder) / "model_index.json").is_file():
            raise ValueError(f"no pipeline in {folder}: give the folder that holds its model_index.json")
        self.device = device
        self.pipe = FluxPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self.prompts, self.pooled = (part.to(device) for part in embed_captions(self.pipe))
        self.pipe.to(device)
        ids = torch.zeros(16, 16, 3)
        ids[..., 1] += torch.arange(16)[:, None]
        ids[..., 2] += torch.arange(16)[None]
        self.image_ids = ids.reshape(256, 3).to(device)
        self.text_ids = torch.zeros(self.prompts.shape[1], 3, device=device)

    @torch.no_grad()
    def redraw(self, hands: Hands, step: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """Noises renders to the sigma of `step` (of 20) and finishes them.

        Returns:
            float [n, 3, 64, 64]: the redrawn pictures, and the renders through the VAE alone.
        """
        from badhands.tiny_hands.autoencoder import encode_tokens
        from badhands.tiny_hands.flow import SHIFT, caption_index

        raw = torch.linspace(1, 1 / STEPS, STEPS)
        sigmas = torch.cat([SHIFT * raw / (1 + (SHIFT - 1) * raw), torch.zeros(1)])[step:].tolist()
        x0 = encode_tokens(self.pipe.vae, render(hands).images)
        noise = torch.randn(x0.shape, generator=g, device=g.device)
        x = (1 - sigmas[0]) * x0 + sigmas[0] * noise
        text = caption_index(hands.codes)
        cuda = torch.device(self.device).type == "cuda"
        for now, after in pairwise(sigmas):
            with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=cuda):
                velocity = self.pipe.transformer(
                    hidden_states=x,
                    timestep=torch.full((len(x),), now, device=x.device),
                    guidance=torch.full((len(x),), 3.5, device=x.device),
                    pooled_projections=self.pooled[text],
                    encoder_hidden_states=self.prompts[text],
                    txt_ids=self.text_ids,
                    img_ids=self.image_ids,
                    return_dict=False,
                )[0]
            x = x + (after - now) * velocity.float()
        return self._decode(x), self._decode(x0)

    def _decode(self, tokens: Tensor) -> Tensor:
        n = len(tokens)
        latents = tokens.view(n, 16, 16, 8, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(n, 8, 32, 32)
        parts = [self.pipe.vae.decode(part).sample for part in latents.split(128)]
        return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)
