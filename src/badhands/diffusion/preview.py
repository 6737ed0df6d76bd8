"""The picture so far: predicted clean latent, and latents decoded to pixels."""

from typing import Any

import torch
from einops import rearrange
from PIL import Image


def predicted_x0(x_t: torch.Tensor, velocity: torch.Tensor, sigma: float) -> torch.Tensor:
    """x0 = x_t - sigma * velocity, in float32: the straight line from noise to picture, followed to its end.

    Args:
        x_t, velocity: packed latents [B, n, c] of one step, any dtype.
        sigma: of that step, 1 = pure noise.
    """
    return x_t.float() - sigma * velocity.float()


def unpack(pipe: Any, packed: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Packed latents [B, h*w, C*4] to the VAE's latents [B, C, 2h, 2w], still scaled."""
    patch = pipe.vae_scale_factor * 2
    return rearrange(packed, "b (h w) (c p q) -> b c (h p) (w q)", h=height // patch, w=width // patch, p=2, q=2)


@torch.no_grad()
def decode(pipe: Any, packed: torch.Tensor, height: int, width: int) -> list[Image.Image]:
    """Packed latents [B, n, c] to B pictures of height x width px.

    One at a time: the VAE's result depends on the batch size in its last bits, and its memory grows with it.
    """
    vae = pipe.vae
    latents = unpack(pipe, packed, height, width) / vae.config.scaling_factor + vae.config.shift_factor
    latents = latents.to(dtype=vae.dtype, device=pipe._execution_device)
    images: list[Image.Image] = []
    for latent in latents.split(1):
        pixels = vae.decode(latent, return_dict=False)[0]
        images += pipe.image_processor.postprocess(pixels, output_type="pil")
    return images
