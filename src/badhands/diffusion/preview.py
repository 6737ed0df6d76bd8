"""The picture so far: predicted clean latent, and latents decoded to pixels."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from badhands.diffusion.families import family_of_pipe

TOGETHER_PX = 2**18
"""Pixels of previews that are decoded together: small pictures decode quicker in company, large ones take memory."""


def predicted_x0(x_t: torch.Tensor, velocity: torch.Tensor, sigma: float) -> torch.Tensor:
    """x0 = x_t - sigma * velocity, in float32: the straight line from noise to picture, followed to its end.

    Args:
        x_t, velocity: packed latents [B, n, c] of one step, any dtype.
        sigma: of that step, 1 = pure noise.
    """
    return x_t.float() - sigma * velocity.float()


def unpack(pipe: Any, packed: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Packed latents [B, h*w, c] of a height x width px picture to latent pixels [B, C, H, W], still scaled."""
    family = family_of_pipe(pipe)
    patch = family.latent_pixel(pipe) * family.patch
    return family.unpack(packed, (height // patch, width // patch))


def small_enough(height: int, width: int) -> int:
    """How many pictures of this size are decoded together where the last bits do not matter: one from 512 px on."""
    return max(1, TOGETHER_PX // (height * width))


@torch.no_grad()
def decode(
    pipe: Any, packed: torch.Tensor, height: int, width: int, *, scale: int = 1, vae: Any = None, at_once: int = 1
) -> list[Image.Image]:
    """Packed latents [B, n, c] to B pictures of height x width px.

    One at a time, unless told otherwise: the VAE's result depends on the batch size in its last bits, and its memory
    grows with it.

    Args:
        scale: averages `scale` x `scale` latent pixels first, so the picture is that much smaller and cheaper.
        vae: another decoder for the same latents (`load_tiny_vae`).
        at_once: pictures that are decoded together: quicker for small ones, where the last bits do not matter.
    """
    family, vae = family_of_pipe(pipe), vae or pipe.vae
    latents = family.denormalise(unpack(pipe, packed, height, width), vae)
    if scale > 1:
        latents = torch.nn.functional.avg_pool2d(latents, scale)
    latents = latents.to(dtype=vae.dtype, device=pipe._execution_device)
    images: list[Image.Image] = []
    for latent in latents.split(at_once):
        images += pipe.image_processor.postprocess(family.pixels(vae, latent), output_type="pil")
    return images


def load_tiny_vae(pipe: Any, which: str) -> Any:
    """An AutoencoderTiny that decodes this pipeline's latents: quick, and blurred beside the full decoder.

    Args:
        which: `taef` for the one of the pipeline's family, or a local folder or repo id of another.

    Raises:
        ValueError: the family has none, it cannot be had, or it is for other latents.
    """
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    family = family_of_pipe(pipe)
    if family.tiny_vae is None:
        raise ValueError(
            f"watch.preview={which}: there is no AutoencoderTiny for {family.name}; use watch.preview=full, with "
            "watch.preview_scale=2 or 4 for speed"
        )
    path = family.tiny_vae if which == "taef" else str(Path(which).expanduser())
    try:
        tiny = AutoencoderTiny.from_pretrained(path, dtype=pipe.vae.dtype)
    except (OSError, ValueError, RuntimeError) as error:
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise ValueError(f"watch.preview={which}: {path} cannot be loaded ({first}): give a folder of it") from error
    config: Any = tiny.config
    scale = 2 ** (len(config.num_decoder_blocks) - 1)
    own = (pipe.vae.config.latent_channels, family.latent_pixel(pipe))
    if (config.latent_channels, scale) != own:
        raise ValueError(
            f"watch.preview={which}: {path} decodes {config.latent_channels} channels to {scale} times their "
            f"size, this model has {own[0]} and {own[1]}"
        )
    return tiny.to(pipe._execution_device).eval()
