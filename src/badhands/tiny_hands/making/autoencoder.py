# The annotations of diffusers and transformers deny their own documented use, so these checks are off here.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalSubscript=false, reportOperatorIssue=false
"""Trains the embedded VAE: renders -> 4 latent channels of mean 0 and variance 1 -> renders.

Latents that a transformer finds easy to denoise matter more than decibels: the codec is trained to be equivariant, so
that a turned or shrunken latent decodes to the turned or shrunken picture (EQ-VAE, Kouzelis et al. 2025,
arXiv:2502.09509). Its latents are then smooth, and a third of the bad hands at the same cost was seen.
"""

import math
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from badhands.tiny_hands.anatomy import sample_hands
from badhands.tiny_hands.renderer import render

KL_WEIGHT = 2e-3
EQUIVARIANCE = 0.5
"""Share of the steps whose latents and pictures are turned or shrunken together."""
FINISH = 0.25
"""Share of the training that trains the decoder alone, after the latents were normalised and the encoder frozen."""
FINISH_NOISE = 0.1
"""Strongest noise on the latents there; a sampler's latents are not quite the encoder's."""
STATISTICS = 2048
"""Pictures that give the mean and variance of the latents."""
WARMUP = 100
VIEWS = 5
"""Three quarter turns, two scales."""


def view(x: Tensor, which: int) -> Tensor:
    """[n, c, h, w] turned by `which` + 1 quarters (0 to 2), or shrunken to a half or three quarters (3, 4)."""
    if which < 3:
        return torch.rot90(x, which + 1, (2, 3))
    return F.interpolate(x.float(), scale_factor=(0.5, 0.75)[which - 3], mode="bilinear", antialias=True)


def render_pool(n: int, seed: int, device: torch.device | str, bad_share: float = 0.0) -> tuple[Tensor, Tensor]:
    """`n` renders, uint8 [n, 3, 64, 64], and their attribute codes, int64 [n, 7], on `device`."""
    images, codes = [], []
    with tqdm(total=n, desc="render", unit="hand", disable=n < 4096, mininterval=2) as bar:
        for start in range(0, n, 1024):
            hands = sample_hands(min(1024, n - start), seed * 7_919 + 1 + start, bad_share).to(device)
            images.append((render(hands).images * 255).round().to(torch.uint8))
            codes.append(hands.codes)
            bar.update(len(hands))
    return torch.cat(images), torch.cat(codes)


def collages(renders: Tensor) -> Tensor:
    """float32 [n, 3, 64, 64] in -1..1 of uint8 renders, half of them with a rectangle of another one pasted over.

    A codec should carry any picture that hands are made of. Collages of good hands have torn fingers and stray parts,
    so it does not mend a bad hand on the way, and yet it has never been shown one of the planted errors.
    """
    images, n, device = renders.float() / 127.5 - 1, len(renders), renders.device
    low = torch.rand(n, 2, device=device) * 44
    high = low + 8 + torch.rand(n, 2, device=device) * 28
    axis = torch.arange(64, device=device)
    inside = [(axis >= low[:, i, None]) & (axis < high[:, i, None]) for i in (0, 1)]
    paste = torch.rand(n, device=device) < 0.5
    box = (inside[0][:, :, None] & inside[1][:, None, :] & paste[:, None, None])[:, None]
    return torch.where(box, torch.roll(images, (1, 9, -14), dims=(0, 2, 3)), images)


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


class AutoencoderTraining:
    """L1 + MSE with a light Kullback-Leibler term, equivariant; then the decoder alone on normalised, noisy latents."""

    def __init__(self, vae: AutoencoderKL, renders: Tensor, batch_size: int, lr: float) -> None:
        """`renders` uint8 [n, 3, 64, 64] lie on the device to train on."""
        self.device, self.renders = renders.device, renders
        self.vae = vae.to(self.device, memory_format=torch.channels_last).train()
        self.batch_size, self.lr = batch_size, lr
        self.optimiser = torch.optim.AdamW(vae.parameters(), lr, betas=(0.9, 0.99), weight_decay=1e-4)
        self.samples, self.elapsed, self.frozen = 0, 0.0, False
        self._losses: list[Tensor] = []

    def pictures(self, n: int) -> Tensor:
        pick = torch.randint(len(self.renders), (n,), device=self.device)
        return collages(self.renders[pick]).contiguous(memory_format=torch.channels_last)

    def step(self, progress: float) -> None:
        if progress >= 1 - FINISH and not self.frozen:
            normalise(self.vae, self.pictures(STATISTICS))
            self.frozen = True
        images = self.pictures(self.batch_size)
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = self.reconstruction(images)
        rate = min(1.0, (self.samples / self.batch_size + 1) / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * progress))
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr * rate
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        self.optimiser.step()
        self._losses.append(loss.detach())

    def reconstruction(self, images: Tensor) -> Tensor:
        """The loss of pictures [n, 3, 64, 64] in -1..1."""
        kl: Tensor | float = 0.0
        if self.frozen:
            with torch.no_grad():
                latents = self.vae.encode(images).latent_dist.mode()
            strength = torch.rand(len(latents), 1, 1, 1, device=self.device) * FINISH_NOISE
            latents = latents + strength * torch.randn_like(latents)
        else:
            posterior = self.vae.encode(images).latent_dist
            latents, kl = posterior.sample(), posterior.kl().mean() / posterior.mean[0].numel()
        if float(torch.rand(())) < EQUIVARIANCE:
            which = int(torch.randint(VIEWS, ()))
            latents, images = view(latents, which), view(images, which)
        out = self.vae.decode(latents).sample.float()
        return F.l1_loss(out, images) + F.mse_loss(out, images) + KL_WEIGHT * kl

    def loss(self) -> float:
        mean = float(torch.stack(self._losses).mean()) if self._losses else float("nan")
        self._losses.clear()
        return mean

    def state(self) -> dict[str, Any]:
        return {"vae": self.vae.state_dict(), "optimiser": self.optimiser.state_dict(), "frozen": self.frozen}

    def load(self, state: dict[str, Any]) -> None:
        self.vae.load_state_dict(state["vae"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.frozen = state["frozen"]


@torch.no_grad()
def encode_tokens(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Packed latents float [n, 256, 16] of images [n, 3, 64, 64] in 0..1, in FLUX's token order."""
    latents = vae.encode(images * 2 - 1).latent_dist.mode()
    return rearrange(latents, "n c (h p) (w q) -> n (h w) (c p q)", p=2, q=2)


@torch.no_grad()
def decode_tokens(vae: AutoencoderKL, tokens: Tensor) -> Tensor:
    """Images float [n, 3, 64, 64] in 0..1 of packed latents [n, 256, 16]."""
    latents = rearrange(tokens, "n (h w) (c p q) -> n c (h p) (w q)", h=16, p=2, q=2)
    return (torch.cat([vae.decode(part).sample for part in latents.split(128)]) / 2 + 0.5).clamp(0, 1)
