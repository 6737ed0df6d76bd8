# The annotations of diffusers and transformers deny their own documented use, so these checks are off here.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalSubscript=false, reportOperatorIssue=false
"""Trains the embedded VAE: renders -> 8 latent channels of mean 0 and variance 1 -> renders."""

import lightning as L
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from badhands.tiny_hands.anatomy import sample_hands
from badhands.tiny_hands.renderer import render

KL_WEIGHT = 2e-3
FINISH = 0.25
"""Share of the steps that train the decoder alone, after the latents were normalised and the encoder frozen."""


def collages(n: int, seed: int, device: torch.device | str) -> Tensor:
    """float32 [n, 3, 64, 64] in -1..1: good hands, half of them with a rectangle of another hand pasted over.

    A codec should carry any picture that hands are made of. Collages of good hands have torn fingers and stray parts,
    so it does not mend a bad hand on the way, and yet it has never been shown one of the planted errors.
    """
    hands = sample_hands(n, seed)
    images = render(hands.to(device)).images
    g = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 2, generator=g) * 44
    high = low + 8 + torch.rand(n, 2, generator=g) * 28
    paste = torch.rand(n, generator=g) < 0.5
    axis = torch.arange(64)
    inside = [(axis >= low[:, i, None]) & (axis < high[:, i, None]) for i in (0, 1)]
    box = (inside[0][:, :, None] & inside[1][:, None, :] & paste[:, None, None])[:, None].to(device)
    other = torch.roll(images, (1, 9, -14), dims=(0, 2, 3))
    return torch.where(box, other, images) * 2 - 1


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal to noise ratio per image, dB, of float images [n, 3, H, W] in 0..1."""
    return -10 * torch.log10((a - b).square().mean((1, 2, 3)).clamp(min=1e-10))


@torch.no_grad()
def round_trip(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """float [n, 3, 64, 64] in 0..1, encoded (mode) and decoded."""
    device = next(vae.parameters()).device
    parts = [vae.decode(vae.encode(x * 2 - 1).latent_dist.mode()).sample for x in images.to(device).split(64)]
    return (torch.cat(parts).to(images.device) / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def normalise(vae: AutoencoderKL, images: Tensor) -> None:
    """Folds a scale per channel into the encoder's last and the decoder's first convolution, in place.

    `images` [n, 3, 64, 64] in -1..1 give the statistics. Afterwards the latents have mean 0 and standard deviation 1;
    decoding changes only at the border, where padding with zeros now means the channel's mean.
    """
    encoder, decoder = vae.encoder.conv_out, vae.decoder.conv_in
    latents = torch.cat([vae.encode(x).latent_dist.mode() for x in images.split(64)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    encoder.weight[:channels] /= std[:, None, None, None]
    encoder.bias[:channels] = (encoder.bias[:channels] - mean) / std
    encoder.bias[channels:] -= 2 * std.log()
    decoder.bias += (decoder.weight * mean[None, :, None, None]).sum((1, 2, 3))
    decoder.weight *= std[None, :, None, None]


class AutoencoderTraining(L.LightningModule):
    """L1 reconstruction with a light Kullback-Leibler term; then the decoder alone on normalised, noisy latents."""

    def __init__(self, vae: AutoencoderKL, steps: int, batch_size: int, lr: float, seed: int) -> None:
        super().__init__()
        self.vae = vae
        self.steps, self.batch_size, self.lr, self.seed = steps, batch_size, lr, seed
        self.register_buffer("frozen", torch.tensor(False))

    @property
    def joint_steps(self) -> int:
        return int(self.steps * (1 - FINISH))

    def training_step(self, _: Tensor, __: int) -> Tensor:
        step = self.global_step
        if step >= self.joint_steps and not self.frozen:
            with torch.autocast(self.device.type, enabled=False):
                normalise(self.vae, collages(2048, self.seed, self.device))
            self.frozen.fill_(True)
        images = collages(self.batch_size, self.seed * 1_000_003 + 10_000 + step, self.device)
        if self.frozen:
            with torch.no_grad():
                mode = self.vae.encode(images).latent_dist.mode()
            latents, kl = mode + 0.05 * torch.randn_like(mode), 0.0
        else:
            posterior = self.vae.encode(images).latent_dist
            latents, kl = posterior.sample(), posterior.kl().mean() / posterior.mean[0].numel()
        out = self.vae.decode(latents).sample
        l1, mse = F.l1_loss(out, images), F.mse_loss(out, images)
        self.log_dict({"vae/l1": l1, "vae/psnr": 10 * torch.log10(4 / mse.detach())}, prog_bar=True)
        return l1 + mse + KL_WEIGHT * kl

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(self.vae.parameters(), self.lr, betas=(0.9, 0.99), weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, self.steps, pct_start=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@torch.no_grad()
def encode_tokens(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Packed latents float [n, 256, 32] of images [n, 3, 64, 64] in 0..1, in FLUX's token order."""
    latents = vae.encode(images * 2 - 1).latent_dist.mode()
    return rearrange(latents, "n c (h p) (w q) -> n (h w) (c p q)", p=2, q=2)
