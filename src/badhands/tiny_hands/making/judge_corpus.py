# The annotations of torch and diffusers deny their own documented use, so these checks are off here.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
"""What the judge learns from beside renders: pictures through a VAE, redrawn, drawn by models, and judged by eye."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from badhands.tiny_hands.anatomy import sample_hands
from badhands.tiny_hands.judge import FOLDER, Judge
from badhands.tiny_hands.making.judge_batches import Batch, RoundTrip, cat, make_batch, truths
from badhands.tiny_hands.making.judge_settings import JudgeTraining
from badhands.tiny_hands.making.malformations import weather
from badhands.tiny_hands.making.redrawn import Redrawer
from badhands.tiny_hands.renderer import SIZE, render, to_uint8


def vae_round_trip(folder: str, device: str, noise: float = 0.25) -> RoundTrip:
    """float [n, 3, 64, 64] -> the same through encoder and decoder, with up to `noise` (of unit latents) added between.

    Raises:
        ValueError: there is no VAE in `folder`.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"no VAE in {folder}: give the folder that holds its config.json")
    vae = AutoencoderKL.from_pretrained(folder).to(device).eval()
    scale = vae.config.scaling_factor

    @torch.no_grad()
    def round_trip(images: Tensor) -> Tensor:
        parts = []
        for chunk in images.split(128):
            with torch.autocast(chunk.device.type, torch.bfloat16, enabled=chunk.device.type == "cuda"):
                latent = vae.encode(chunk * 2 - 1).latent_dist.mode()
                # Squared, so that most latents stay nearly clean.
                amount = torch.rand(len(chunk), 1, 1, 1, device=chunk.device).square() * noise
                parts.append(vae.decode(latent + torch.randn_like(latent) * amount / scale).sample.float())
        return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)

    return round_trip


class Labelled:
    """Generated images judged by eye, turned and mirrored at random: neither changes a verdict."""

    def __init__(self, file: str, device: str) -> None:
        data = np.load(file)
        self.images = torch.from_numpy(data["images"]).to(device).permute(0, 3, 1, 2).float() / 255
        self.verdict = torch.from_numpy(data["verdict"].astype(np.int64)).to(device)

    def draw(self, n: int, g: torch.Generator) -> Batch:
        # Good and bad equally often, whatever their numbers.
        by_class = torch.bincount(self.verdict, minlength=3).float()
        weight = 1 / by_class.clamp(min=1)[self.verdict]
        pick = torch.multinomial(weight * (self.verdict < 2) + 1e-6, n, replacement=True, generator=g)
        images, verdict = self.images[pick], self.verdict[pick]
        parts = [torch.rot90(part, k, (2, 3)) for k, part in enumerate(images.chunk(4))]
        images = torch.cat([part.flip(3) if int(torch.randint(2, (1,))) else part for part in parts])
        soft, _ = weather(images, torch.zeros(n, SIZE, SIZE, device=images.device).bool(), g, 0.4)
        images = torch.where((torch.rand(n, 1, 1, 1, generator=g, device=g.device) < 0.5), soft, images)
        empty = torch.zeros(n, SIZE, SIZE, device=images.device)
        return truths(
            images,
            empty,
            mask_weight=empty,
            good=(verdict == 1).float(),
            good_weight=(verdict < 2).float() * 1.5,
            hand=(verdict < 2).float(),
        )


@torch.no_grad()
def build_corpus(config: JudgeTraining, round_trip: RoundTrip | None) -> Batch:
    """`config.corpus` pictures in large chunks, with redrawn ones among them; images as uint8, truths as float16."""
    size = min(4096, config.corpus)
    chunks = []
    models = [Redrawer(folder, config.device) for folder in (config.strong, config.weak) if folder]
    redrawers = models[:1] + [Redrawer(folder, config.device) for folder in config.redraw.split(",") if folder]
    before = Judge.load(config.start or FOLDER)
    before.net.to(config.device)
    g = torch.Generator(config.device).manual_seed(config.seed)
    for i in range(-(-config.corpus // size)):
        seed = config.seed * 10_000_000 + i
        chunks.append(_packed(make_batch(size, seed, config.device, round_trip)))
        share = size // (2 * max(1, len(redrawers)))
        chunks += [_packed(redrawn_batch(model, share, seed + k, g)) for k, model in enumerate(redrawers)]
        if models:
            chunks += [_packed(drawn_batch(model, before, size // 8, seed, g, model is models[0])) for model in models]
    return cat(chunks)


def redrawn_batch(model: Redrawer, n: int, seed: int, g: torch.Generator) -> Batch:
    """Hands redrawn from little noise keep their verdict; the more noise, the less a planted error can be relied on."""
    made = []
    kinds = ((15, 0.3, 1), (13, 0.3, 1), (12, 0.3, 1), (11, 0.3, 0.5), (9, 0.0, 0))
    for part, (step, share, bad_weight) in enumerate(kinds):
        hands = sample_hands(n // len(kinds), 50_000_000 + 7 * seed + part, share).to(model.device)
        good = hands.is_good.float()
        made.append(
            truths(
                model.redraw(hands, step, g),
                render(hands).masks.float(),
                good=good,
                good_weight=torch.where(hands.is_good, 1.0, float(bad_weight)),
                wrong_weight=good,
                fingers=hands.digits,
                fingers_weight=good,
            )
        )
    return cat(made)


def drawn_batch(model: Redrawer, before: Judge, n: int, seed: int, g: torch.Generator, good: bool) -> Batch:
    """Hands drawn from noise by a model whose hands are nearly all `good`, or nearly all bad.

    Those of which the judge `before` is sure of the contrary teach nothing; those it abstains on teach most.
    """
    hands = sample_hands(n, 60_000_000 + 11 * seed + good).to(model.device)
    images = model.redraw(hands, 0, g)
    said = [v.verdict for v in before.judge(to_uint8(images).cpu().numpy())]
    known = torch.tensor([word not in ("bad" if good else "good", "no_hand") for word in said], device=images.device)
    empty, verdict = torch.zeros_like(images[:, 0]), torch.full((n,), float(good), device=images.device)
    five = torch.full((n,), 5, device=images.device)
    return truths(
        images,
        empty,
        mask_weight=empty,
        good=verdict,
        good_weight=known.float(),
        wrong_weight=known * verdict,
        fingers=five,
        fingers_weight=known * verdict,
    )


def _packed(batch: Batch) -> Batch:
    images = (batch.images.clamp(0, 1) * 255).round().to(torch.uint8)
    maps = {name: getattr(batch, name).half() for name in ("mask", "mask_weight", "wrong")}
    return replace(batch, images=images, **maps)


def turned(bank: Batch, n: int, step: int) -> Batch:
    """`n` random pictures of the bank, all turned and mirrored alike, with a little grain."""
    g = torch.Generator().manual_seed(step)
    pick = torch.randint(len(bank), (n,), generator=g).to(bank.images.device)
    quarter, mirror = int(torch.randint(4, (1,), generator=g)), bool(torch.randint(2, (1,), generator=g))

    def turn(x: Tensor) -> Tensor:
        x = torch.rot90(x, quarter, (-2, -1))
        return x.flip(-1) if mirror else x

    chosen = Batch(**{f.name: getattr(bank, f.name)[pick] for f in fields(Batch)})
    maps = {name: turn(getattr(chosen, name).float()) for name in ("mask", "mask_weight", "wrong")}
    images = turn(chosen.images).float() / 255
    images = images + torch.randn_like(images) * 0.015 * torch.rand(n, 1, 1, 1, device=images.device)
    return replace(chosen, images=images.clamp(0, 1), **maps)
