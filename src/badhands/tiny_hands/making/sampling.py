# The annotations of diffusers and transformers deny their own documented use, so these checks are off here.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalSubscript=false, reportOperatorIssue=false
"""Hands drawn many at once, from captions or from noised renders, by a transformer that is being trained or is done."""

from itertools import pairwise

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from torch import Tensor

from badhands.tiny_hands.attributes import VOCABULARY, every_caption
from badhands.tiny_hands.making.autoencoder import decode_tokens
from badhands.tiny_hands.making.pipeline import LATENT_CHANNELS, SHIFT, STEPS, TEXT_TOKENS

GUIDANCE = 3.5


def caption_index(codes: Tensor) -> Tensor:
    """int64 [n]: where in `every_caption()` the caption of attribute codes [n, 7] stands."""
    index = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
    for i, words in enumerate(VOCABULARY.values()):
        index = index * len(words) + codes[:, i]
    return index


@torch.no_grad()
def embed_captions(pipe: FluxPipeline) -> tuple[Tensor, Tensor]:
    """Text embeddings of every caption and, last, of the empty one: [k, tokens, 64] and pooled [k, 64]."""
    captions = [*every_caption(), ""]
    parts = [
        pipe.encode_prompt(captions[i : i + 256], captions[i : i + 256], max_sequence_length=TEXT_TOKENS)[:2]
        for i in range(0, len(captions), 256)
    ]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def shifted(sigma: Tensor) -> Tensor:
    """The scheduler's dynamic shift at 256 tokens."""
    return SHIFT * sigma / (1 + (SHIFT - 1) * sigma)


class Text:
    """Embeddings of every caption on one device, and the places of tokens that go with them."""

    def __init__(self, pipe: FluxPipeline, device: torch.device | str) -> None:
        self.prompts, self.pooled = (part.float().to(device) for part in embed_captions(pipe))
        ids = torch.zeros(16, 16, 3)
        ids[..., 1] += torch.arange(16)[:, None]
        ids[..., 2] += torch.arange(16)[None]
        self.image_ids = ids.reshape(256, 3).to(device)
        self.text_ids = torch.zeros(TEXT_TOKENS, 3, device=device)

    @property
    def empty(self) -> int:
        """Index of the empty caption."""
        return len(self.prompts) - 1

    def velocity(
        self, transformer: FluxTransformer2DModel, x: Tensor, sigma: Tensor, guidance: Tensor, which: Tensor
    ) -> Tensor:
        """float [n, 256, 16] of x [n, 256, 16] at sigma [n] in 0..1, for captions `which` int64 [n]."""
        with torch.autocast(x.device.type, torch.bfloat16):
            out = transformer(
                hidden_states=x,
                timestep=sigma,
                guidance=guidance,
                pooled_projections=self.pooled[which],
                encoder_hidden_states=self.prompts[which],
                txt_ids=self.text_ids,
                img_ids=self.image_ids,
                return_dict=False,
            )[0]
        return out.float()


@torch.no_grad()
def draw(
    transformer: FluxTransformer2DModel,
    vae: AutoencoderKL,
    text: Text,
    which: Tensor,
    g: torch.Generator,
    start: Tensor | None = None,
    step: int = 0,
) -> Tensor:
    """Images float [n, 3, 64, 64] in 0..1 of captions `which` int64 [n], by Euler's method.

    Args:
        start: packed latents [n, 256, 16] that are noised to the sigma of `step` and finished (SDEdit, Meng et al.
            2022, arXiv:2108.01073); None draws from noise.
    """
    n, device = len(which), which.device
    raw = torch.linspace(1, 1 / STEPS, STEPS)
    sigmas = torch.cat([shifted(raw), torch.zeros(1)])[step:].tolist()
    x = torch.randn(n, 256, 4 * LATENT_CHANNELS, generator=g, device=g.device).to(device)
    if start is not None:
        x = (1 - sigmas[0]) * start + sigmas[0] * x
    guidance = torch.full((n,), GUIDANCE, device=device)
    for now, after in pairwise(sigmas):
        sigma = torch.full((n,), now, device=device)
        x = x + (after - now) * text.velocity(transformer, x, sigma, guidance, which)
    return decode_tokens(vae, x)
