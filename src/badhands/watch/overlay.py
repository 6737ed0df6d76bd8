"""P(bad) over a picture: one colour scale for all steps, images and probes, its bar, and the step written on it."""

from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from badhands.figures.palette import INK, P_BAD_CMAP, P_BAD_RANGE, PAPER
from badhands.watch.frame import Frame

OPACITY = 0.62
"""Of the colour over the picture."""
LARGE = 384
"""Least longer side of a single overlay in px; smaller pictures are enlarged by a whole factor."""
BAR = 64
"""Width of the colour bar with its numbers, px."""


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib brings it along: it has a sigma."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def colours(p_bad: np.ndarray) -> np.ndarray:
    """P(bad) of any shape -> uint8[..., 3] on the fixed scale."""
    low, high = P_BAD_RANGE
    return np.asarray(P_BAD_CMAP((np.asarray(p_bad, np.float64) - low) / (high - low), bytes=True))[..., :3]


def tint(picture: Image.Image, p_bad: np.ndarray, hand: np.ndarray) -> Image.Image:
    """The picture with its hand tokens grey, coloured and outlined.

    Args:
        p_bad: float[h, w]; hand: bool[h, w]: tokens that are coloured; the others stay as they are.
    """
    h, w = hand.shape
    size = picture.size
    colour = Image.fromarray(colours(p_bad)).resize(size, Image.Resampling.NEAREST)
    mask = Image.fromarray((hand * np.uint8(255 * OPACITY)).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    hands = Image.fromarray((hand * np.uint8(255)).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    # Grey under the colour: skin and vermillion mixed would read as another probability.
    base = Image.composite(picture.convert("L").convert("RGB"), picture.convert("RGB"), hands)
    tinted = Image.composite(colour, base, mask)
    draw = ImageDraw.Draw(tinted)
    dx, dy = size[0] / w, size[1] / h
    line = max(1, round(min(dx, dy) / 12))
    padded = np.pad(hand, 1)
    for row, column in zip(*np.nonzero(padded[:, 1:] != padded[:, :-1]), strict=True):
        draw.line([(column * dx, (row - 1) * dy), (column * dx, row * dy)], fill=INK, width=line)
    for row, column in zip(*np.nonzero(padded[1:] != padded[:-1]), strict=True):
        draw.line([((column - 1) * dx, row * dy), (column * dx, row * dy)], fill=INK, width=line)
    return tinted


def enlarged(picture: Image.Image, least: int) -> Image.Image:
    """By a whole factor, so that a token stays a square."""
    factor = max(1, -(-least // max(picture.size)))
    return picture.convert("RGB").resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)


def told(score: float) -> str:
    """An image score in words."""
    return f"score {score:+.2g}" if np.isfinite(score) else "no hand found"


def overlay(
    frame: Frame, block: str, picture: Image.Image | None, grid: tuple[int, int], member: int = 0
) -> Image.Image:
    """One step of one block: picture, P(bad) on hand tokens, bar; step, timestep, sigma, block and image score on it.

    Args:
        picture: the predicted clean image; None draws on grey.
    """
    i = frame.place(member)
    base = picture or Image.new("RGB", (grid[1] * 4, grid[0] * 4), "#808080")
    large = enlarged(base, LARGE)
    tinted = tint(large, frame.p_bad[block][i].reshape(grid), frame.hand[block][i].reshape(grid))
    head = 48
    page = Image.new("RGB", (tinted.width + BAR + 12, tinted.height + head), PAPER)
    page.paste(tinted, (0, head))
    draw = ImageDraw.Draw(page)
    when = f"step {frame.step + 1}/{frame.num_steps} · timestep {frame.timestep} · σ {frame.sigma:.3f}"
    draw.text((4, 3), when, fill=INK, font=font(15))
    draw.text((4, 25), f"{block} · {told(float(frame.score[block][i]))} (good is positive)", fill=INK, font=font(14))
    page.paste(colour_bar(tinted.height, BAR), (tinted.width + 12, head))
    return page


def colour_bar(height: int, width: int) -> Image.Image:
    """The fixed scale from 0 (below) to 1, named."""
    bar = Image.new("RGB", (width, height), PAPER)
    top, bottom = 26, height - 10
    ramp = colours(np.linspace(1, 0, max(bottom - top, 2)))[:, None].repeat(18, 1)
    bar.paste(Image.fromarray(ramp), (0, top))
    draw = ImageDraw.Draw(bar)
    draw.rectangle((0, top, 18, bottom), outline=INK)
    draw.text((0, 4), "P(bad)", fill=INK, font=font(12))
    for value in (0.0, 0.5, 1.0):
        y = bottom - value * (bottom - top)
        draw.text((23, y - 8), f"{value:g}", fill=INK, font=font(12))
    return bar
