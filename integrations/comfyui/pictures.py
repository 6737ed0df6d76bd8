"""Readings as ComfyUI pictures: IMAGE is float32[B, H, W, 3] in 0..1, MASK float32[B, H, W]."""

import torch

from .recorder import Reading

GOOD, BAD = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)
"""The project's blue and vermillion: P(bad) 0 and 1, white at one half, on one fixed scale for all steps and images."""
GREY = 0.5
OPACITY = 0.62


def _large(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """[B, h, w] -> [B, height, width], a token staying a rectangle."""
    return torch.nn.functional.interpolate(maps.float()[:, None], size=(height, width), mode="nearest-exact")[:, 0]


def colours(p_bad: torch.Tensor) -> torch.Tensor:
    """[...] in 0..1 -> [..., 3] in 0..1, blue through white to vermillion."""
    good, bad = (torch.tensor(c, dtype=torch.float32) / 255 for c in (GOOD, BAD))
    side = (2 * p_bad.float().clamp(0, 1) - 1)[..., None]
    return torch.where(side < 0, 1 + side * (1 - good), 1 - side * (1 - bad))


def heatmap(reading: Reading, height: int, width: int) -> torch.Tensor:
    """P(bad) on hand tokens, grey elsewhere."""
    hand = _large(reading.hand, height, width)[..., None]
    return colours(_large(reading.p_bad, height, width)) * hand + GREY * (1 - hand)


def with_heatmap(image: torch.Tensor, reading: Reading) -> torch.Tensor:
    """The heatmap over a picture, which is grey under the colour so that skin does not change it."""
    height, width = image.shape[1:3]
    hand = _large(reading.hand, height, width)[..., None]
    grey = (image * torch.tensor([0.299, 0.587, 0.114])).sum(-1, keepdim=True)
    tinted = OPACITY * colours(_large(reading.p_bad, height, width)) + (1 - OPACITY) * grey
    return tinted * hand + image * (1 - hand)


def bad_mask(reading: Reading, height: int, width: int, threshold: float) -> torch.Tensor:
    """1 on hand tokens whose P(bad) reaches the threshold: what an inpainting should draw again."""
    return _large(reading.hand & (reading.p_bad >= threshold), height, width)
